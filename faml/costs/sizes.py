"""Bytes of what a run holds, sends and writes, from the sizes of particles, classes and shells."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from faml.em.start import fixed_assignments
from faml.model import Model
from faml.transforms.fourier import full_resolution_shell

__all__ = [
    "BLOCKS_PER_WORKER",
    "IN_FLIGHT",
    "assignment_bytes",
    "items_of_pass",
    "memory_of_worker",
    "model_bytes",
    "references_bytes",
    "resident_bytes",
    "saved_last_bytes",
    "saved_once_bytes",
    "saved_running_bytes",
    "saved_state_bytes",
    "sums_bytes",
]

IN_FLIGHT = 4
"""Items of each worker that are sent, at work, or waiting to be added (`cluster.dask_workers`)."""
BLOCKS_PER_WORKER = 4
"""So many make workers take whole blocks; fewer, chunks (`cluster.dask_workers`)."""
_WEIGHTS_KEPT = 16
_MOST_SUMS = 3
"""Of a thread: at work, finished, and the block they are added to."""
_ASSIGNMENTS_HELD = 5
"""Those of the state, of blocks, of their results, and twice the new ones while they are sorted."""
_HDF5_PER_OBJECT = 830
"""What HDF5 writes for a dataset beside its values."""
_HDF5_STATE_OBJECTS = len(fields(Model)) + 14
_TEXT_BYTES = 32
"""A text's place in HDF5 (16), and its number and length in the heap (16)."""


def sums_bytes(classes: int, sum_shell: int, *, total: bool) -> int:
    """Of `Statistics` to a shell, in double precision or in that of a chunk."""
    reach = 2 * sum_shell + 2
    numerator = classes * (2 * reach + 1) ** 2 * (reach + 1) * (16 if total else 8)
    shells = 3 * 8 * (sum_shell + 1)
    return numerator + 8 * classes * _points_within(reach) + 8 * classes + shells


def _points_within(reach: int) -> int:
    """Grid points of the half-space kx >= 0 nearer to the origin than ``reach``."""
    square = np.arange(-reach, reach + 1, dtype=np.int64) ** 2
    left = reach**2 - square[:, None] - square
    # kx^2 < left for kx from 0: as many as the largest such kx, and one.
    return int((np.sqrt(left[left > 0] - 1).astype(np.int64) + 1).sum())


def assignment_bytes(classes: int) -> int:
    """Of `Assignments`, for each particle."""
    one = np.zeros(1, dtype=np.int64)
    made = fixed_assignments(one, np.zeros((1, 3, 3)), np.zeros((1, 3)), classes)
    return sum(getattr(made, field.name).nbytes for field in fields(made))


def model_bytes(box: int, classes: int) -> int:
    """Of a `Model`."""
    shells = full_resolution_shell(box) + 1
    return classes * (4 * box**3 + 8 + 8 * shells) + 8 * shells + 8


def references_bytes(box: int, classes: int, sum_shell: int) -> int:
    """Of a model as particles are aligned to it: padded spectra, and about as much in tables."""
    reach = 2 * sum_shell + 2
    padded = 8 * (2 * reach + 1) ** 2 * (reach + 1)
    return model_bytes(box, classes) + classes * (padded + 24 * box**3)


def items_of_pass(
    visited: int, groups: int, chunk_size: int, block: int, workers: int
) -> tuple[int, bool]:
    """Parts in which particles are handed out to workers, and whether these are whole blocks."""

    def parts(size: int) -> int:
        smaller, larger = divmod(visited, groups)  # groups differ in size by one
        return larger * -(-(smaller + 1) // size) + (groups - larger) * -(-smaller // size)

    if parts(block) >= BLOCKS_PER_WORKER * workers:
        return parts(block), True
    return parts(chunk_size), False


def resident_bytes(
    *,
    box: int,
    classes: int,
    groups: int,
    count: int,
    threads: int,
    base: float,
    per_particle: float,
    visits_here: bool = True,
) -> int:
    """Resident memory of the process in charge, at full resolution; an upper estimate.

    Groups of particles have a model and totals each, and of several, as many are solved at once as
    there are threads, each from a sum of its own on a twofold padded box (130 bytes per voxel).
    Where its threads visit particles, each holds a volume, its spectrum and a padded spectrum (40),
    and a few sums; up to 16 weights are kept (18).

    Parameters
    ----------
    box, classes, groups, count, threads : int
    base : float
        Interpreter, libraries, kernels and tables.
    per_particle : float
        Bytes that the data set holds of each.
    visits_here : bool
        Not, where workers do.
    """
    voxels, full = box**3, full_resolution_shell(box)
    totals = sums_bytes(classes, full, total=True)
    solved = min(threads, groups)
    shared = groups * (totals + references_bytes(box, classes, full))
    shared += solved * (130 * voxels + (totals if groups > 1 else 0))
    if visits_here:
        partial = _MOST_SUMS * sums_bytes(classes, full, total=False)
        shared += threads * (40 * voxels + partial) + 18 * _WEIGHTS_KEPT * voxels
    held = per_particle + _ASSIGNMENTS_HELD * assignment_bytes(classes)
    return int(base + shared + held * count)


def memory_of_worker(
    *, box: int, classes: int, groups: int, count: int, sum_shell: int, base: float, sent: float
) -> int:
    """Resident memory of a worker of one thread: it knows all particles and all references.

    Those of the pass before are dropped when the next but one begins.
    """
    references = 2 * groups * references_bytes(box, classes, sum_shell)
    partial = sums_bytes(classes, sum_shell, total=True) + sums_bytes(
        classes, sum_shell, total=False
    )
    return int(base + references + 2 * partial + (40 + 18 * _WEIGHTS_KEPT) * box**3 + sent * count)


def saved_state_bytes(box: int, classes: int, count: int, *, halves: bool) -> tuple[int, int]:
    """What a checkpoint keeps of an iteration: bytes of its values, and of all.

    Symmetries that were imposed are left out: a few numbers, once.
    """
    shells = full_resolution_shell(box) + 1
    values = model_bytes(box, classes) + count * assignment_bytes(classes) + 8 * classes * shells
    if halves:
        values += 8 * classes * (box // 2)
    return values, values + _HDF5_PER_OBJECT * _HDF5_STATE_OBJECTS


def saved_last_bytes(box: int, classes: int, folds: int, halves: int) -> int:
    """What a checkpoint keeps of the last iteration only: models of folds and halves."""
    shells = full_resolution_shell(box) + 1
    fold = classes * (4 * box**3 + 8 * shells)
    return folds * fold + halves * model_bytes(box, classes)


def saved_running_bytes(classes: int, sum_shell: int) -> int:
    """What a checkpoint keeps of batches, for each group: sums, and what they weigh per shell."""
    return sums_bytes(classes, sum_shell, total=True) + 24 + 16 * (sum_shell + 1)


def saved_once_bytes(count: int, name_bytes: float) -> int:
    """What a checkpoint keeps of the particles: names and six grey values of each."""
    return int(count * (_TEXT_BYTES + name_bytes + 48))
