"""From averages without symmetry to a frame in which a symmetry may be imposed.

Imposed on random orientations, a symmetry fixes where its axes lie before there is a structure
that could have them, and a run may end with the axes of the structure elsewhere. A run from nothing
therefore begins without, and is turned when its averages show where their axes are.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from faml.config import BLIND_STARTS, EmConfig
from faml.em.halves import assignments_in_frame, in_frame, unmoved
from faml.em.state import State
from faml.metrics.symmetry_search import find_symmetry
from faml.symmetry import PointGroup, point_group

__all__ = ["iterations_without_symmetry", "onto_axes"]

_LOG = logging.getLogger(__name__)


def iterations_without_symmetry(config: EmConfig) -> int:
    """How many iterations a run begins with before it imposes its symmetry."""
    if point_group(config.symmetry).order == 1 or config.start not in BLIND_STARTS:
        return 0
    return config.exploration if config.symmetry_after is None else config.symmetry_after


def onto_axes(state: State, symmetry: PointGroup, voxel_size_angstrom: float = 1.0) -> State:
    """The state with every average, and the poses on it, turned onto the group's standard axes.

    Each class has a frame of its own. Half-sets are in one frame before. How well the averages
    have the group is logged, with a warning if they do not have it at all.
    """
    volumes = state.model.volumes
    moved = unmoved(len(volumes))
    for k, volume in enumerate(volumes):
        if not np.ptp(volume) > 0:
            continue  # an empty class has no axes
        (fit,) = find_symmetry(volume, [symmetry], voxel_size_angstrom, max_shell=state.align_shell)
        _LOG.log(
            logging.INFO if np.isfinite(fit.resolution_angstrom) else logging.WARNING,
            "iteration %d: class %d has %s from now on; before, it agreed with its turned copies "
            "to %.1f Angstrom (FSC 0.5), correlation %.2f",
            state.iteration,
            k + 1,
            symmetry.name,
            fit.resolution_angstrom,
            fit.correlation,
        )
        moved.rotations[k] = fit.rotation.T
        moved.translations[k] = -fit.rotation.T @ fit.centre
    everyone = np.arange(len(state.assignments))
    return replace(
        state,
        model=in_frame(state.model, moved),
        fold_models=tuple(in_frame(model, moved) for model in state.fold_models),
        half_models=tuple(in_frame(model, moved) for model in state.half_models),
        assignments=assignments_in_frame(state.assignments, everyone, moved),
        symmetry=symmetry.name,
    )
