"""From averages without symmetry to a frame in which a symmetry may be imposed.

Imposed on random orientations, a symmetry fixes where its axes lie before there is a structure
that could have them, and a run may end with the axes of the structure elsewhere. A run from nothing
therefore begins without, and is turned when its averages show where their axes are.
"""

from __future__ import annotations

import logging
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
_NOTHING = SymmetrySeen(0.0, 0.0, -1.0, 0.0)


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
    for k, volume in enumerate(volumes):
        if not np.ptp(volume) > 0:
            seen.append(_NOTHING)  # an empty class has no axes
            continue
        groups = [symmetry, *controls(symmetry)]
        fit, *others = find_symmetry(
            volume, groups, voxel_size_angstrom, max_shell=state.align_shell
        )
        seen.append(_seen(fit, others, state.ssnr[k], state.align_shell))
        _LOG.info(
            "iteration %d: class %d has %s from now on; before, its FSC with its least alike "
            "turned copy was %.2f on average (by chance %.2f, its noise allows %.2f), correlation "
            "%.2f",
            state.iteration,
            k + 1,
            symmetry.name,
            seen[-1].agreement,
            seen[-1].chance,
            seen[-1].expected,
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
    align_shell: int,
) -> tuple[SymmetrySeen, ...]:
    """What averages (K, n, n, n) made without a symmetry have of it where its axes should be.

    ``ssnr``, (K, S), is theirs.
    """
    groups = [symmetry, *controls(symmetry)]
    found = []
    for volume, signal in zip(volumes, ssnr, strict=True):
        if np.ptp(volume) > 0:
            fit, *others = symmetry_about(volume, groups, voxel_size_angstrom)
            found.append(_seen(fit, others, signal, align_shell))
        else:
            found.append(_NOTHING)
    return tuple(found)


def _seen(
    fit: SymmetryFit,
    others: Sequence[SymmetryFit],
    ssnr: npt.NDArray[np.float64],
    align_shell: int,
) -> SymmetrySeen:
    used = slice(1, align_shell + 1)
    return SymmetrySeen(
        fit.correlation,
        float(fit.least_alike[used].mean()),
        min(float(other.least_alike[used].mean()) for other in others),
        float((ssnr[used] / (1.0 + ssnr[used])).mean()),
    )
