"""Pictures of an experiment: quality against what was varied, FSC, time, confusion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from faml.errors import OutputError

__all__ = ["draw_confusion", "draw_fsc", "draw_quality", "draw_time"]

_WIDTH, _HEIGHT = 4.2, 3.4
_JITTER = 0.08


def draw_quality(path: Path, table: pd.DataFrame, swept: Sequence[str]) -> None:
    """Correlation of every run with the truth: against what varies, or method by method.

    Parameters
    ----------
    path : Path
    table : DataFrame
        `compare.table.tidy`.
    swept : sequence of str
        Columns that take several values; the first is the axis, others are drawn apart.

    Raises
    ------
    OutputError
        As all of this module: the picture cannot be written.
    """
    known = table.dropna(subset=["r"]) if "r" in table else table.iloc[:0]
    structures = sorted(known["structure"].unique()) if len(known) else []
    axis, others = (swept[0], list(swept[1:])) if swept else (None, [])
    parts = [part for _, part in known.groupby(others, sort=False)] if others else [known]
    figure, axes = _figure(len(parts), max(1, len(structures)))
    for row, part in enumerate(parts):
        for column, structure in enumerate(structures):
            ax = axes[row, column]
            mine = part[part["structure"] == structure]
            if axis is None:
                _by_method(ax, mine)
            else:
                _against(ax, mine, axis)
            names = [f"{name} {mine[name].iloc[0]}" for name in others if len(mine)]
            ax.set_title(", ".join([f"structure {structure}", *names]), fontsize=9)
            ax.set_ylabel("r to the truth")
    _save(figure, path)


def draw_fsc(
    path: Path,
    curves: Sequence[tuple[str, int, npt.NDArray[np.float64]]],
    extent: float,
    title: str = "",
) -> None:
    """Mean FSC to the truth.

    Parameters
    ----------
    path : Path
    curves : sequence of (str, int, (n // 2,) float64)
        Method, structure and mean over runs.
    extent : float
        Edge of the box in Angstrom.
    title : str
        What data they are of.
    """
    structures = sorted({structure for _, structure, _ in curves})
    figure, axes = _figure(1, max(1, len(structures)))
    for ax, structure in zip(axes[0], structures, strict=False):
        for name, of, curve in curves:
            if of == structure:
                ax.plot(np.arange(1, len(curve)), curve[1:], label=name, linewidth=1.2)
        for threshold in (0.5, 0.143):
            ax.axhline(threshold, color="0.7", linewidth=0.7, linestyle=":")
        ax.set_ylim(-0.1, 1.02)
        ax.set_title(f"structure {structure}", fontsize=9)
        ax.set_xlabel(f"shell (of 1/{extent:.0f} Å)")
        ax.set_ylabel("FSC to the truth")
        ax.legend(fontsize=7)
    if title:
        figure.suptitle(title, fontsize=9)
    _save(figure, path)


def draw_time(path: Path, table: pd.DataFrame) -> None:
    """CPU seconds of each stage per particle and pass, method by method (and case by case)."""
    stages = [name for name in table if str(name).startswith("stage_")]
    runs = table[table["structure"].fillna(1) == 1] if "structure" in table else table
    runs = runs[runs["kind"] == "faml"]
    figure, axes = _figure(1, 1)
    ax = axes[0, 0]
    if stages and len(runs):
        passes = runs["n"] * (runs["iterations"] + 1)
        shares = runs[stages].fillna(0.0).div(passes, axis=0)
        shares.insert(0, "what", (runs["method"] + " " + runs["case"].fillna("")).str.strip())
        means = shares.groupby("what", sort=False).mean()
        left = np.zeros(len(means))
        for stage in means.mean().sort_values(ascending=False).index:
            name = str(stage).removeprefix("stage_")
            ax.barh(means.index, means[stage], left=left, label=name, height=0.6)
            left += means[stage].to_numpy()
        ax.invert_yaxis()
        ax.legend(fontsize=7)
    ax.set_xlabel("CPU s per particle and iteration")
    ax.tick_params(axis="y", labelsize=7)
    _save(figure, path)


def draw_confusion(path: Path, counts: Sequence[tuple[str, npt.NDArray[np.int64]]]) -> None:
    """Particles of each structure in each class, summed over runs.

    Parameters
    ----------
    path : Path
    counts : sequence of (str, (structures, classes) int64)
        Method and its confusion matrix, classes in the order of their structures.
    """
    figure, axes = _figure(1, max(1, len(counts)))
    for ax, (name, matrix) in zip(axes[0], counts, strict=False):
        ax.imshow(matrix, cmap="Blues", vmin=0)
        for row, column in np.ndindex(matrix.shape):
            dark = matrix[row, column] > 0.5 * matrix.max()
            ax.text(
                column, row, str(matrix[row, column]), ha="center", va="center",
                color="white" if dark else "black",
            )  # fmt: skip
        ax.set_title(name, fontsize=9)
        ax.set_xlabel("class")
        ax.set_ylabel("structure")
        ax.set_xticks(range(matrix.shape[1]), [str(k + 1) for k in range(matrix.shape[1])])
        ax.set_yticks(range(matrix.shape[0]), [str(k + 1) for k in range(matrix.shape[0])])
    _save(figure, path)


def _by_method(ax: Axes, table: pd.DataFrame) -> None:
    names = list(dict.fromkeys(table["method"]))
    for place, name in enumerate(names):
        values = table.loc[table["method"] == name, "r"].to_numpy(dtype=float)
        spread = _JITTER * (np.arange(len(values)) - (len(values) - 1) / 2)
        ax.plot(place + spread, values, "o", markersize=4)
        ax.hlines(values.mean(), place - 0.25, place + 0.25, color="0.3", linewidth=1.2)
    ax.set_xticks(range(len(names)), names, rotation=25, ha="right", fontsize=8)


def _against(ax: Axes, table: pd.DataFrame, axis: str) -> None:
    text = not pd.api.types.is_numeric_dtype(table[axis])
    values = list(dict.fromkeys(table[axis]))
    places: dict[Any, float] = {v: float(i) if text else float(v) for i, v in enumerate(values)}
    for name, mine in table.groupby("method", sort=False):
        x = mine[axis].map(places)
        means = mine.groupby(x)["r"].mean()
        (line,) = ax.plot(means.index, means.to_numpy(), linewidth=1.2, label=str(name))
        ax.plot(x, mine["r"], "o", markersize=3, color=line.get_color())
    if text:
        ax.set_xticks(list(places.values()), [str(v) for v in values], fontsize=8)
    elif min(places.values()) > 0 and max(places.values()) > 3 * min(places.values()):
        ax.set_xscale("log")
    ax.set_xlabel(axis.replace("_", " "))
    ax.legend(fontsize=7)


def _figure(rows: int, columns: int) -> tuple[Figure, npt.NDArray[Any]]:
    figure = Figure(figsize=(_WIDTH * columns, _HEIGHT * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _save(figure: Figure, path: Path) -> None:
    try:
        # Without a date the same numbers make the same file.
        figure.savefig(path, dpi=110, metadata={"Software": None})
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
