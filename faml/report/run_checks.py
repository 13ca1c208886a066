"""What a report asks of a run's files before it shows them: numbers, as many as there must be."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from faml.errors import CheckpointError, InputDataError
from faml.io.checkpoint import StoredRun
from faml.io.history import IterationRecord

__all__ = ["check_classes", "check_history", "check_state"]


def check_state(stored: StoredRun, path: Path) -> None:
    """Raise CheckpointError unless the last iteration is one of the run's particles, all finite."""
    state, count = stored.state, len(stored.names)
    found, classes = state.assignments, state.model.classes
    for name in ("classes", "rotations", "probabilities", "effective_poses", "log_evidences"):
        values = getattr(found, name)
        if len(values) != count:
            raise CheckpointError(
                f"{path}: expected {name} of {count} particles in iteration {state.iteration}, "
                f"found {len(values)}; restore it from a copy"
            )
        _finite(values, name, state.iteration, path)
    _finite(state.model.volumes, "averages", state.iteration, path)
    if not ((found.classes >= 0) & (found.classes < classes)).all():
        raise CheckpointError(
            f"{path}: expected classes 0 to {classes - 1} in iteration {state.iteration}, found "
            f"{found.classes.min()} to {found.classes.max()}; restore it from a copy"
        )


def check_history(history: Iterable[IterationRecord], path: Path) -> None:
    """Raise CheckpointError unless every number of every iteration is one."""
    for record in history:
        for name in ("log_likelihood", "class_fractions", "effective_poses", "median_angle_deg",
                     "median_shift_voxels", "fsc"):  # fmt: skip
            values = getattr(record, name)
            if values is not None:
                _finite(values, name, record.iteration, path)
        if record.align_shell < 1:
            raise CheckpointError(
                f"{path}: expected a shell of 1 or more in iteration {record.iteration}, found "
                f"{record.align_shell}; restore it from a copy"
            )


def check_classes(
    numbers: npt.NDArray[np.float64], class_count: int, path: Path
) -> npt.NDArray[np.int64]:
    """Zero-based classes (M,) from rlnClassNumber; raises InputDataError for one there is not."""
    wrong = np.flatnonzero((numbers < 1) | (numbers > class_count) | (numbers % 1 != 0))
    if wrong.size:
        raise InputDataError(
            f"{path}: expected rlnClassNumber from 1 to {class_count}, found "
            f"{numbers[wrong[0]]:g} in row {wrong[0] + 1}; restore the file or remove it"
        )
    return numbers.astype(np.int64) - 1


def _finite(values: npt.ArrayLike, name: str, iteration: int, path: Path) -> None:
    bad = np.count_nonzero(~np.isfinite(values))
    if bad:
        raise CheckpointError(
            f"{path}: expected numbers as {name} of iteration {iteration}, found {bad} that are "
            "none; restore it from a copy"
        )
