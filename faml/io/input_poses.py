"""Poses that an input gives, and whether they say anything."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from faml.io.formats.relion import SUBTOMOGRAM_COLUMNS
from faml.io.star import RelionStar, numbers, star_pixel_size, star_poses
from faml.particles import ParticlePoses

__all__ = ["input_poses"]


def input_poses(
    star: RelionStar | None, rows: npt.NDArray[np.int64], voxel_size_angstrom: float
) -> tuple[ParticlePoses | None, tuple[str, ...]]:
    """Poses of the boxes, and a warning where they say nothing."""
    if star is None:
        return None, ()
    # The origins were written with the file's own pixel size, even where it is overridden.
    poses = star_poses(star, star_pixel_size(star) or voxel_size_angstrom)
    if poses is None:
        return None, ()
    chosen = ParticlePoses(poses.rotations[rows], poses.translations[rows])
    if _say_nothing(star, poses):
        return chosen, (
            f"{star.path}: all angles and shifts are 0, which says nothing unless the boxes are "
            "aligned already",
        )
    return chosen, ()


def _say_nothing(star: RelionStar, poses: ParticlePoses) -> bool:
    """Whether all poses are zero, as programs write that know none.

    Boxes with rlnTomoSubtomogram angles are turned by their poses already: zero is one.
    """
    turned = any(
        numbers(star, star.particles, column).any()
        for column in SUBTOMOGRAM_COLUMNS
        if column in star.particles
    )
    return poses.are_zero and not turned
