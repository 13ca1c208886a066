"""Every iteration of a run's checkpoint, as numbers; works while the run goes on.

`io.checkpoint` replaces ``run.h5`` whole, so what is read here is always complete.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from faml.errors import CheckpointError

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
        with h5py.File(path, "r") as file:
            last = int(file.attrs["last_iteration"])
            groups = {int(name): group for name, group in file["iterations"].items()}
            return tuple(_record(groups[number]) for number in sorted(groups) if number <= last)
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path}: expected the iterations of a faml run, found something else ({error}); "
            "restore it from a copy"
        ) from error


def _record(group: h5py.Group) -> IterationRecord:
    fractions = np.asarray(group["model/class_fractions"][()], dtype=np.float64)
    classes = np.asarray(group["assignments/classes"][()], dtype=np.int64)
    moved = {
        name: float(group.attrs[f"change_{name}"]) if f"change_{name}" in group.attrs else None
        for name in ("median_angle_deg", "median_shift_voxels", "class_share")
    }
    return IterationRecord(
        iteration=int(group.attrs["iteration"]),
        log_likelihood=float(group.attrs["log_likelihood"]),
        align_shell=int(group.attrs["align_shell"]),
        class_fractions=fractions,
        class_counts=np.bincount(classes, minlength=len(fractions)),
        effective_poses=float(np.mean(group["assignments/effective_poses"][()])),
        median_angle_deg=moved["median_angle_deg"],
        median_shift_voxels=moved["median_shift_voxels"],
        class_share=moved["class_share"],
        fsc=group["fsc"][()] if "fsc" in group else None,
        empty_classes=tuple(int(k) for k in group["empty_classes"][()]),
    )
