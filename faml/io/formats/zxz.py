"""ZXZ Euler angles as Dynamo, AV3 and STOPGAP use them: about fixed axes, in degrees."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from faml.conventions import matrices_to_zyz

__all__ = ["matrices_to_zxz_deg", "zxz_deg_to_matrices"]


def zxz_deg_to_matrices(angles_deg: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """``Rz(third) Rx(second) Rz(first)``, active, (N, 3, 3), of angles (N, 3) in degrees."""
    return Rotation.from_euler("zxz", angles_deg, degrees=True).as_matrix()


def matrices_to_zxz_deg(matrices: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Inverse of `zxz_deg_to_matrices`, (N, 3), the second angle from 0 to 180.

    Where that is 0 or 180 only a combination of the others is defined: the first is then -90.
    """
    # Rx(b) = Rz(-90) Ry(b) Rz(90)
    alpha, beta, gamma = np.rad2deg(matrices_to_zyz(matrices)).T
    angles = np.stack([gamma - 90.0, beta, alpha + 90.0], axis=1)
    angles[:, [0, 2]] = (angles[:, [0, 2]] + 180.0) % 360.0 - 180.0
    return angles
