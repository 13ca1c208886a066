"""One tidy table of an experiment: a row for each structure of each run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from faml.compare.experiment import Task, in_words
from faml.io.atomic import atomic_path, write_text_atomic

__all__ = ["tidy", "write_tables"]

_OF_RUN = ("misclassified", "adjusted_rand_index")


def tidy(found: Sequence[tuple[Task, dict[str, Any]]]) -> pd.DataFrame:
    """Results as a table; runs that left no maps have one row without measures.

    Columns are the settings, the cost (``stage_...`` in CPU seconds), and the measures of
    `evaluation.evaluate_files` but for curves.
    """
    rows = []
    for task, result in found:
        cost = dict(result["cost"])
        stages = {f"stage_{name}": seconds for name, seconds in cost.pop("stages", {}).items()}
        common = _settings(task) | result["made_with"] | cost | stages
        common |= {name: result.get(name) for name in _OF_RUN}
        rows += [
            common | {name: v for name, v in each.items() if name != "fsc"}
            for each in result.get("classes", [{}])
        ]
    return pd.DataFrame(rows)


def write_tables(found: Sequence[tuple[Task, dict[str, Any]]], directory: Path) -> pd.DataFrame:
    """Write ``table.csv`` and ``table.h5``, which has the FSC curves, too; the table.

    Raises
    ------
    OutputError
        A file cannot be written.
    """
    table = tidy(found)
    write_text_atomic(directory / "table.csv", table.to_csv(index=False, lineterminator="\n"))
    curves = [each.get("fsc", []) for _, r in found for each in r.get("classes", [{}])]
    shells = max(map(len, curves), default=0)
    fsc = np.full((len(curves), shells), np.nan)
    for i, curve in enumerate(curves):
        fsc[i, : len(curve)] = curve
    with atomic_path(directory / "table.h5") as temporary, h5py.File(temporary, "w") as file:
        group = file.create_group("table")
        for name in table:
            column = table[name]
            if pd.api.types.is_numeric_dtype(column):
                group.create_dataset(name, data=column.to_numpy())
            else:
                text = ["" if pd.isna(v) else str(v) for v in column]
                group.create_dataset(name, data=text, dtype=h5py.string_dtype())
        data = file.create_dataset("fsc", data=fsc)
        data.attrs["rows"] = "one per row of the table, one column per shell"
    return table


def _settings(task: Task) -> dict[str, Any]:
    """What was run on what; of the task, since results are kept however an experiment varies it."""
    simulation = task.data.simulation
    return {
        "experiment": task.experiment,
        "method": task.name,
        "kind": task.method.kind,
        "case": task.data.case,
        "seed": simulation.seed,
        "box": simulation.box,
        "voxel_size_angstrom": simulation.voxel_size_angstrom,
        "n": sum(simulation.counts_of_models),
        "tilt_range_deg": in_words(simulation.tilt_range_deg),
        "snr": simulation.snr,
        "threads": task.threads,
    } | {
        name: value if isinstance(value, int | float | str) else in_words(value)
        for name, value in task.data.swept.items()
    }
