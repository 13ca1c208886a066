"""Rotations: random draws, quaternions, neighbourhoods."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

__all__ = ["random_rotations", "rotations_within", "to_quaternions"]


def random_rotations(
    count: int, rng: np.random.Generator, measure: Literal["haar", "euler"] = "haar"
) -> Rotation:
    """Random rotations.

    Parameters
    ----------
    count : int
    rng : numpy Generator
    measure : {"haar", "euler"}
        Uniform on SO(3), or independent uniform Euler angles as in the paper, which crowd the
        poles (method.md section 4).
    """
    if measure == "euler":
        angles = rng.random((count, 3)) * np.array([2.0 * np.pi, np.pi, 2.0 * np.pi])
        return Rotation.from_euler("ZYZ", angles)
    return Rotation.from_quat(rng.normal(size=(count, 4)))


def rotations_within(
    centre: Rotation, angle_rad: float, count: int, rng: np.random.Generator
) -> Rotation:
    """Rotations uniform (Haar) in the ball of a rotation angle around ``centre``.

    The angle omega of a Haar rotation has density 1 - cos(omega); it is drawn by inverting its
    integral ``omega - sin(omega)`` on a table.
    """
    omega = np.linspace(0.0, angle_rad, 2049)
    integral = omega - np.sin(omega)
    drawn = np.interp(rng.random(count) * integral[-1], integral, omega)
    axes = rng.normal(size=(count, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    return centre * Rotation.from_rotvec(axes * drawn[:, None])


def to_quaternions(matrices: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Unit quaternions (N, 4), (x, y, z, w), of matrices (N, 3, 3)."""
    return Rotation.from_matrix(matrices).as_quat()
