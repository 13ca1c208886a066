"""From averages without symmetry to a frame in which a symmetry may be imposed.

Imposed on random orientations, a symmetry fixes where its axes lie before there is a structure
that could have them, and a run may end with the axes of the structure elsewhere. A run from nothing
therefore begins without, and is turned when its averages show where their axes are.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from faml.config import BLIND_STARTS, EmConfig
from faml.em.halves import assignments_in_frame, in_frame, unmoved
from faml.em.state import State, SymmetrySeen
from faml.metrics.symmetry_search import (
    SymmetryFit,
    controls,
    find_symmetry,
    symmetry_about,
)
from faml.symmetry import PointGroup, point_group

__all__ = ["iterations_without_symmetry", "onto_axes", "seen_about_standard_axes"]

_LOG = logging.getLogger(__name__)
_NOTHING = SymmetrySeen(0.0, math.inf, math.inf, math.inf)


def iterations_without_symmetry(config: EmConfig) -> int:
    """How many iterations a run begins with before it imposes its symmetry."""
    if point_group(config.symmetry).order == 1 or config.start not in BLIND_STARTS:
        return 0
    return config.exploration if config.symmetry_after is None else config.symmetry_after


def onto_axes(state: State, symmetry: PointGroup, voxel_size_angstrom: float = 1.0) -> State:
    """The state with every average, and the poses on it, turned onto the group's standard axes.

    Each class has a frame of its own. Half-sets are in one frame before. How well the averages
    have the group is logged and kept.
    """
    volumes = state.model.volumes
    moved = unmoved(len(volumes))
    seen = []
    extent = volumes.shape[-1] * voxel_size_angstrom
    for k, volume in enumerate(volumes):
        if not np.ptp(volume) > 0:
            seen.append(_NOTHING)  # an empty class has no axes
            continue
        groups = [symmetry, *controls(symmetry)]
        fit, *others = find_symmetry(
            volume, groups, voxel_size_angstrom, max_shell=state.align_shell
        )
        seen.append(_seen(fit, others, extent / _detailed_to(state.ssnr[k])))
        _LOG.info(
            "iteration %d: class %d has %s from now on; before, it agreed with its turned copies "
            "to %.1f Angstrom (FSC 0.5; by chance %.1f, its signal reaches %.1f), correlation %.2f",
            state.iteration,
            k + 1,
            symmetry.name,
            seen[-1].resolution_angstrom,
            seen[-1].chance_angstrom,
            seen[-1].detail_angstrom,
            seen[-1].correlation,
        )
        moved.rotations[k] = fit.rotation.T
        moved.translations[k] = -fit.rotation.T @ fit.centre
    everyone = np.arange(len(state.assignments))
    return replace(
        state.going_on(),
        model=in_frame(state.model, moved),
        fold_models=tuple(in_frame(model, moved) for model in state.fold_models),
        half_models=tuple(in_frame(model, moved) for model in state.half_models),
        assignments=assignments_in_frame(state.assignments, everyone, moved),
        symmetry=symmetry.name,
        symmetry_seen=tuple(seen),
    )


def seen_about_standard_axes(
    volumes: npt.NDArray[np.floating],
    ssnr: npt.NDArray[np.float64],
    symmetry: PointGroup,
    voxel_size_angstrom: float,
) -> tuple[SymmetrySeen, ...]:
    """What averages (K, n, n, n) made without a symmetry have of it where its axes should be.

    ``ssnr``, (K, S), is theirs.
    """
    groups = [symmetry, *controls(symmetry)]
    found = []
    extent = volumes.shape[-1] * voxel_size_angstrom
    for volume, signal in zip(volumes, ssnr, strict=True):
        if np.ptp(volume) > 0:
            fit, *others = symmetry_about(volume, groups, voxel_size_angstrom)
            found.append(_seen(fit, others, extent / _detailed_to(signal)))
        else:
            found.append(_NOTHING)
    return tuple(found)


def _detailed_to(ssnr: npt.NDArray[np.float64]) -> int:
    """Last shell up to which signal exceeds noise, at least the first."""
    return max(1, int(np.cumprod(ssnr[1:] > 1.0).sum()))


def _seen(fit: SymmetryFit, others: Sequence[SymmetryFit], detail: float) -> SymmetrySeen:
    chance = max(other.coarsest_angstrom for other in others)
    return SymmetrySeen(fit.correlation, fit.coarsest_angstrom, chance, detail)
