"""Which pictures an experiment's results make."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from faml.compare.experiment import Task
from faml.errors import OutputError
from faml.report.comparison import draw_confusion, draw_fsc, draw_quality, draw_time

__all__ = ["draw_pictures"]


def draw_pictures(
    found: Sequence[tuple[Task, dict[str, Any]]],
    table: pd.DataFrame,
    swept: Sequence[str],
    directory: Path,
) -> list[Path]:
    """Draw ``quality.png``, ``fsc.png``, ``time.png`` and ``confusion.png``; those there are.

    Parameters
    ----------
    found : sequence of (Task, dict)
        `campaign.results`.
    table : DataFrame
        `table.tidy` of them.
    swept : sequence of str
        Columns of several values (`page.varied`).
    directory : Path

    Raises
    ------
    OutputError
        One cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{directory}: cannot be created ({error.strerror})") from error
    paths = []
    if "r" in table and table["r"].notna().any():
        paths.append(directory / "quality.png")
        draw_quality(paths[-1], table, swept)
    curves, extent, title = _mean_curves(found)
    if curves:
        paths.append(directory / "fsc.png")
        draw_fsc(paths[-1], curves, extent, title)
    if any(str(name).startswith("stage_") for name in table):
        paths.append(directory / "time.png")
        draw_time(paths[-1], table)
    counts = _confusions(found)
    if counts:
        paths.append(directory / "confusion.png")
        draw_confusion(paths[-1], counts)
    return paths


def _mean_curves(
    found: Sequence[tuple[Task, dict[str, Any]]],
) -> tuple[list[tuple[str, int, npt.NDArray[np.float64]]], float, str]:
    """Of the first data set, method by method; the edge of its box in Angstrom, and what it is."""
    compared = [(task, result) for task, result in found if result.get("classes")]
    if not compared:
        return [], 1.0, ""
    first = compared[0][0].data
    curves: dict[tuple[str, int], list[list[float]]] = {}
    for task, result in compared:
        if (task.data.case, task.data.swept) == (first.case, first.swept):
            for each in result["classes"]:
                curves.setdefault((task.name, each["structure"]), []).append(each["fsc"])
    simulation = first.simulation
    return (
        [(name, structure, np.mean(each, axis=0)) for (name, structure), each in curves.items()],
        simulation.box * simulation.voxel_size_angstrom,
        first.label,
    )


def _confusions(
    found: Sequence[tuple[Task, dict[str, Any]]],
) -> list[tuple[str, npt.NDArray[np.int64]]]:
    """Method by method, classes in the order of the structures they stand for."""
    sums: dict[str, npt.NDArray[np.int64]] = {}
    for task, result in found:
        if task.method.kind == "oracle" or len(result.get("classes", ())) < 2:
            continue
        counts = np.array(result["confusion"], dtype=np.int64)
        order = [each["class"] - 1 for each in result["classes"] if each["class"] is not None]
        order += [k for k in range(counts.shape[1]) if k not in order]
        whole = np.zeros((len(result["classes"]), max(counts.shape[1], len(order))), dtype=np.int64)
        whole[: counts.shape[0], : counts.shape[1]] = counts
        whole = whole[:, order]
        old = sums.get(task.name)
        sums[task.name] = whole if old is None or old.shape != whole.shape else old + whole
    return list(sums.items())
