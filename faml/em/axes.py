"""From averages without symmetry to a frame in which a symmetry may be imposed.

Imposed on random orientations, a symmetry fixes where its axes lie before there is a structure
that could have them, and a run may end with the axes of the structure elsewhere. A run from nothing
therefore begins without, and is turned when its averages show where their axes are.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from faml.config import EmConfig
from faml.em.halves import assignments_in_frame, in_frame, unmoved
from faml.em.schedule import BLIND_STARTS
from faml.em.state import State
from faml.metrics.symmetry_search import find_symmetry
from faml.symmetry import PointGroup, point_group

__all__ = ["iterations_without_symmetry", "onto_axes"]


def iterations_without_symmetry(config: EmConfig) -> int:
    """How many iterations a run begins with before it imposes its symmetry."""
    if point_group(config.symmetry).order == 1 or config.start not in BLIND_STARTS:
        return 0
    return config.exploration if config.symmetry_after is None else config.symmetry_after


def onto_axes(state: State, symmetry: PointGroup) -> State:
    """The state with every average, and the poses on it, turned onto the group's standard axes.

    Each class has a frame of its own. Half-sets are in one frame before.
    """
    volumes = state.model.volumes
    moved = unmoved(len(volumes))
    for k, volume in enumerate(volumes):
        if not np.ptp(volume) > 0:
            continue  # an empty class has no axes
        (fit,) = find_symmetry(volume, [symmetry], 1.0, max_shell=state.align_shell)
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
