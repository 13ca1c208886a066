"""Poses below grid spacing: a last local refinement, the same for every strategy."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from faml.conventions import rotation_angle_deg
from faml.kernels.refinement import refine_pose
from faml.particles.view import Particle
from faml.references import PADDING, References
from faml.strategies.base import PoseSupport

__all__ = ["refine_support"]

_LEAST_MASS = 0.03
"""Poses that hold less of the posterior are left where they are."""
_MOST_POSES = 5
_STEPS = 6


def refine_support(
    particle: Particle,
    references: References,
    support: PoseSupport,
    log_posterior: npt.NDArray[np.float64],
    max_shift_voxels: float,
    local_angle_deg: float | None = None,
) -> PoseSupport:
    """Move the poses that carry weight to the maximum of the likelihood nearby.

    Each goes no further than one grid spacing of the rotational search, and is never worse than it
    was. Classes and cell volumes stay.

    Parameters
    ----------
    particle : Particle
    references : References
    support : PoseSupport
        M poses.
    log_posterior : (M,) float64
        Normalised.
    max_shift_voxels : float
        Largest |t|.
    local_angle_deg : float, optional
        A rotation that leaves this angle of the particle's input pose is discarded.

    Returns
    -------
    PoseSupport
        With squared residuals.
    """
    grid, count = references.grid, references.grid.align_count
    rotations, translations = support.rotations.copy(), support.translations.copy()
    squared = (
        references.squared_residuals(particle, support.classes, rotations, translations)
        if support.squared_residuals is None
        else support.squared_residuals.copy()
    )
    factor = grid.multiplicity[:count] * references.precision
    centre = (particle.input_pose or particle.previous).rotation
    for i in _weighty(log_posterior):
        k = int(support.classes[i])
        rotation, translation = rotations[i].copy(), translations[i].copy()
        gain = refine_pose(
            references.padded[k],
            grid.points[:count],
            PADDING,
            grid.box,
            particle.data[:count],
            particle.weight.values[:count],
            factor,
            1.0 / references.model.shift_variance,
            min(references.rotation_plan.spacing_rad, 0.5 * math.pi),
            max_shift_voxels,
            _STEPS,
            rotation,
            translation,
        )
        if not gain > 0.0:
            continue
        if local_angle_deg is not None and rotation_angle_deg(rotation, centre) > local_angle_deg:
            continue
        # Judged by the residual that the posterior uses, whose rounding differs.
        before, after = _objectives(
            particle,
            references,
            k,
            np.stack([rotations[i], rotation]),
            np.stack([translations[i], translation]),
        )
        if after[0] < before[0]:
            rotations[i], translations[i], squared[i] = rotation, translation, after[1]
    return replace(
        support, rotations=rotations, translations=translations, squared_residuals=squared
    )


def _weighty(log_posterior: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The most probable pose, whatever its share, and others that hold one."""
    order = np.argsort(-log_posterior, kind="stable")[:_MOST_POSES]
    least = min(math.log(_LEAST_MASS), float(log_posterior[order[0]]))
    chosen: npt.NDArray[np.int64] = order[log_posterior[order] >= least]
    return chosen


def _objectives(
    particle: Particle,
    references: References,
    class_index: int,
    rotations: npt.NDArray[np.float64],
    translations: npt.NDArray[np.float64],
) -> list[tuple[float, float]]:
    """Objective and d2 of each pose."""
    classes = np.full(len(rotations), class_index, dtype=np.int64)
    squared = references.squared_residuals(particle, classes, rotations, translations)
    prior = np.square(translations).sum(axis=1) / references.model.shift_variance
    return list(zip((0.5 * (squared + prior)).tolist(), squared.tolist(), strict=True))
