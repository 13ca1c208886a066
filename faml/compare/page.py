"""The results page: every experiment's table, pictures, and what the paper reports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from os.path import relpath
from pathlib import Path
from typing import Any

import pandas as pd

from faml.compare.experiment import Experiment

__all__ = ["results_page", "section_of", "summary", "varied"]

_MEASURES: tuple[tuple[str, str, str, int], ...] = (
    ("r", "mean", "r mean", 3),
    ("r", "min", "r worst", 3),
    ("r_of_box", "mean", "r of box", 3),
    ("symmetry_r", "mean", "r of symmetry", 3),
    ("resolution_fsc_0.5_angstrom", "mean", "Å at FSC 0.5", 1),
    ("median_error_deg", "mean", "median error, degrees", 1),
    ("share_within_20_deg", "mean", "within 20 degrees", 2),
    ("f1", "mean", "F1 mean", 3),
    ("f1", "min", "F1 worst", 3),
    ("misclassified", "mean", "misclassified", 1),
    ("adjusted_rand_index", "mean", "adjusted Rand", 3),
    ("iterations", "mean", "iterations", 1),
    ("s_per_iteration", "mean", "s per iteration", 1),
    ("wall_s", "mean", "s in all", 0),
    ("cpu_s_per_particle_iteration", "mean", "CPU s per particle and iteration", 4),
    ("cpu_s", "mean", "CPU s in all", 0),
    ("memory_mb", "max", "peak memory, MB", 0),
)
"""Column of the table, how runs are summed up, what it is called, decimals."""
_ONE_CLASS = ("f1", "misclassified", "adjusted_rand_index")
"""Measures that say nothing of a single class."""


def varied(experiment: Experiment) -> list[str]:
    """Columns of the table in which its data sets differ."""
    return (["case"] if len(experiment.cases) > 1 else []) + list(experiment.sweep)


def summary(table: pd.DataFrame, swept: Sequence[str], wanted: int) -> pd.DataFrame:
    """The table with seeds summed up.

    Parameters
    ----------
    table : DataFrame
        `table.tidy`.
    swept : sequence of str
        Columns of several values (`varied`).
    wanted : int
        Seeds; where fewer have run, ``seeds`` says so.

    Returns
    -------
    DataFrame
        Text, a row for each method, data set and structure.
    """
    structures = table["structure"].nunique() if "structure" in table else 1
    by = [name for name in swept if table[name].astype(str).nunique() > 1]
    by += ["method"] + (["structure"] if structures > 1 else [])
    rows = []
    for values, runs in table.groupby(by, sort=False, dropna=False):
        measured = runs["r"].notna() if "r" in runs else runs["seed"].isna()
        seeds = runs.loc[measured, "seed"].nunique()
        row = dict(zip(by, map(_text, values), strict=True))
        row["seeds"] = f"{seeds}" if seeds == wanted else f"{seeds} of {wanted}"
        for column, how, name, decimals in _MEASURES:
            if column in runs and not (structures == 1 and column in _ONE_CLASS):
                value = pd.to_numeric(runs[column], errors="coerce").agg(how)
                row[name] = "" if pd.isna(value) else f"{value:.{decimals}f}"
        odd = runs["status"].astype(str)
        odd = odd[odd.str.startswith(("failed", "stopped after"))]
        row["remarks"] = "; ".join(
            f"{len(same)} run{'s' if len(same) > 1 else ''} {status}"
            for status, same in odd.groupby(odd)
        )
        rows.append(row)
    shown = pd.DataFrame(rows)
    return shown.loc[:, [bool((shown[name] != "").any()) for name in shown]]


def section_of(
    experiment: Experiment, table: pd.DataFrame, pictures: Sequence[Path], page: Path, command: str
) -> str:
    """One experiment as Markdown.

    Parameters
    ----------
    experiment : Experiment
    table : DataFrame
        `table.tidy`.
    pictures : sequence of Path
    page : Path
        Where the page will lie; pictures are relative to it.
    command : str
        That makes the table.
    """
    title = experiment.title
    if experiment.section:
        title += f" (paper, {experiment.section})"
    lines = [f"## {title}", ""]
    if experiment.about:
        lines += [experiment.about.strip(), ""]
    lines += [f"`{command}`", ""]
    if len(table):
        lines += [*_markdown(summary(table, varied(experiment), len(experiment.seeds))), ""]
    else:
        lines += ["Not run yet.", ""]
    if experiment.paper:
        lines += ["The paper reports:", ""]
        lines += [*_markdown(pd.DataFrame(list(experiment.paper)).fillna("").map(_text)), ""]
    lines += [f"![{path.stem}]({relpath(path, page.parent)})" for path in pictures]
    if len(table):
        made = [f"faml {version}" for version in _distinct(table, "faml_version")]
        made += [f"RELION {version}" for version in _distinct(table, "relion_version")]
        seeds = ", ".join(_distinct(table, "seed"))
        threads = f"{experiment.threads} thread{'s' if experiment.threads > 1 else ''} a run"
        machines = "; ".join(_distinct(table, "machine"))
        lines += ["", f"{', '.join(made)}; seeds {seeds}; {threads}; {machines}.", ""]
    return "\n".join(lines)


def results_page(sections: Sequence[str], command: str) -> str:
    """The whole page.

    Parameters
    ----------
    sections : sequence of str
        `section_of` each experiment.
    command : str
        That writes it.
    """
    head = (
        "# Results\n\n"
        f"Written by `{command}`; no number is typed by hand. `r` is Pearson's correlation with "
        "the true density within its outline, after rigid alignment, `r of box` over the whole "
        "box; the oracle is the average at the true poses and classes. `r of symmetry` is the "
        "mean correlation of an average with itself turned by the structure's symmetry. Poses "
        "are compared after one global motion and up to that symmetry. Times are of a machine "
        "that other work shares: compare them within a table.\n"
    )
    return "\n".join([head, *sections]).rstrip() + "\n"


def _markdown(table: pd.DataFrame) -> list[str]:
    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    cells = ([str(cell).replace("|", "\\|") for cell in row] for row in table.to_numpy())
    return lines + ["| " + " | ".join(row) + " |" for row in cells]


def _distinct(table: pd.DataFrame, name: str) -> list[str]:
    values = table[name].dropna() if name in table else []
    return [_text(value) for value in sorted(set(values))]


def _text(value: Any) -> str:
    if isinstance(value, float) and math.isnan(value):
        return ""
    return f"{value:g}" if isinstance(value, int | float) else str(value)
