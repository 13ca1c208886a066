"""Every iteration of a run's checkpoint, as numbers; works while the run goes on.

`io.checkpoint` replaces ``run.h5`` whole, so what is read here is always complete.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from faml.errors import CheckpointError, InputDataError
from faml.io.checkpoint import read_config, read_sizes
from faml.io.hdf5 import HDF5_ERRORS, StoredGroup, open_stored
from faml.io.stored_state import (
    Sizes,
    iteration_name,
    read_classes,
    read_empty_classes,
    read_fsc,
    read_shell,
    stored_iterations,
)

__all__ = ["IterationRecord", "read_history"]


@dataclass(frozen=True)
class IterationRecord:
    """What one iteration found, without its volumes and poses.

    Attributes
    ----------
    iteration : int
    log_likelihood : float
        Comparable only between records with the same `align_shell`.
    align_shell : int
        Last Fourier shell the E-step used.
    class_fractions : (K,) float64
    class_counts : (K,) int64
        Particles whose most probable class each is.
    effective_poses : float
        Mean over particles of ``1 / sum P^2``.
    median_angle_deg, median_shift_voxels, class_share : float or None
        Movement since the iteration before; None for the start.
    fsc : (K, n // 2) float64 or None
        Of the half-sets' averages.
    empty_classes : tuple of int
    """

    iteration: int
    log_likelihood: float
    align_shell: int
    class_fractions: npt.NDArray[np.float64]
    class_counts: npt.NDArray[np.int64]
    effective_poses: float
    median_angle_deg: float | None
    median_shift_voxels: float | None
    class_share: float | None
    fsc: npt.NDArray[np.float64] | None
    empty_classes: tuple[int, ...]


def read_history(path: Path) -> tuple[IterationRecord, ...]:
    """Read all complete iterations, in order.

    Parameters
    ----------
    path : Path
        ``run.h5``, already accepted by `io.checkpoint.read_run`.

    Raises
    ------
    CheckpointError
        If the file cannot be read or lacks what an iteration has.
    """
    try:
        with open_stored(path) as root:
            last = root.integer("last_iteration")
            sizes = read_sizes(root, read_config(root))
            return tuple(
                _record(root.group(iteration_name(number)), number, sizes)
                for number in stored_iterations(root, last)
            )
    except (InputDataError, *HDF5_ERRORS) as error:
        raise CheckpointError(
            f"{path}: expected the iterations of a faml run, found something else ({error}); "
            "restore it from a copy"
        ) from error


def _record(group: StoredGroup, number: int, sizes: Sizes) -> IterationRecord:
    moved = {
        name: group.number(f"change_{name}") if group.has_attribute(f"change_{name}") else None
        for name in ("median_angle_deg", "median_shift_voxels", "class_share")
    }
    effective_poses = group.array("assignments/effective_poses", (sizes.count,), np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # who shows it asks whether it is finite
        mean = float(np.mean(effective_poses))
    return IterationRecord(
        iteration=number,
        log_likelihood=group.number("log_likelihood"),
        align_shell=read_shell(group, "align_shell", sizes),
        class_fractions=group.array("model/class_fractions", (sizes.classes,), np.float64),
        class_counts=np.bincount(read_classes(group, sizes), minlength=sizes.classes),
        effective_poses=mean,
        median_angle_deg=moved["median_angle_deg"],
        median_shift_voxels=moved["median_shift_voxels"],
        class_share=moved["class_share"],
        fsc=read_fsc(group, sizes),
        empty_classes=read_empty_classes(group, sizes),
    )
