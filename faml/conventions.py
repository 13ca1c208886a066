"""Conventions of the whole package, on one page.

Volumes
    float32 arrays ``[z, y, x]``, cubic, edge ``n``; the rotation centre is voxel ``n // 2`` on
    every axis.
Spectra
    ``rfftn`` half-spectra ``[kz, ky, kx >= 0]`` of the *centred* volume (``ifftshift`` first),
    complex64, unitary ("ortho") normalisation, so that Parseval holds and a noise variance per
    voxel is the same number per Fourier component. The Fourier radius ``r`` ("shell") is in units
    of 1/n cycles per voxel; Nyquist is ``n / 2``.
Centred half-cubes
    Inside the kernels a spectrum is kept as ``[kz + q, ky + q, kx]`` with ``-q <= kz, ky <= q``
    and ``0 <= kx <= q``: no wrap-around, any ``q``. `transforms.fourier` converts.
Poses
    ``(R, t)``: ``R`` an active rotation matrix acting on (x, y, z) column vectors, ``t`` =
    (x, y, z) in voxels. ``(R_phi A)(x) = A(R^T (x - t))``: rotate the reference, then shift it.
    In Fourier space ``(R_phi A)(k) = exp(-2 pi i k.t / n) A(R^T k)``.
Euler angles
    ZYZ, ``R = Rz(alpha) Ry(beta) Rz(gamma)``, active, radians. They live at the edges only (files,
    the command line, the SO(3) grid); inside, rotations are matrices or quaternions (x, y, z, w).
Missing wedge
    Single-axis tilt about Y, beam along Z, tilt range (min, max) in degrees: a component is
    observed when ``atan2(kz, kx)`` folded to (-90, 90] lies inside the range; ``kx = kz = 0`` is
    always observed. A tilt axis on X is the same turned about Z: ``atan2(-kz, ky)``. An image
    tilted by a thus lies along ``(cos a, 0, sin a)``: it is the projection of the specimen turned
    by the right-handed ``Ry(a)``, which is what RELION 5 makes of the angles in IMOD's .tlt files
    (rlnTomoYTilt). They have our sign as long as tomograms keep the specimen's hand (``trimvol
    -rx``, not ``-yz``); mirrored along Z they have the opposite one, which `faml inspect` shows.
RELION
    ``R = Rotation.from_euler("ZYZ", [rot, tilt, psi]).inv()`` and
    ``t = -rlnOrigin{X,Y,Z}Angst / pixel size``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

__all__ = [
    "ComplexArray",
    "FloatArray",
    "IntArray",
    "matrices_to_relion_angles_deg",
    "matrices_to_zyz",
    "relion_angles_deg_to_matrices",
    "relion_origins_to_translations",
    "rotation_angle_deg",
    "translations_to_relion_origins",
]

FloatArray = npt.NDArray[np.floating]
ComplexArray = npt.NDArray[np.complexfloating]
IntArray = npt.NDArray[np.integer]


def relion_angles_deg_to_matrices(angles_deg: FloatArray) -> npt.NDArray[np.float64]:
    """Poses' matrices from RELION's rot, tilt, psi.

    RELION's own matrix maps particle to reference; ours maps reference to particle.

    Parameters
    ----------
    angles_deg : (N, 3) float
        rlnAngleRot, rlnAngleTilt, rlnAnglePsi in degrees.

    Returns
    -------
    (N, 3, 3) float64
    """
    angles = np.asarray(angles_deg, dtype=np.float64).reshape(-1, 3)
    return Rotation.from_euler("ZYZ", angles, degrees=True).inv().as_matrix()


def matrices_to_relion_angles_deg(matrices: FloatArray) -> npt.NDArray[np.float64]:
    """RELION's rot, tilt, psi in degrees, (N, 3), of active matrices (N, 3, 3).

    At tilt 0 and 180 only a combination of rot and psi is defined: psi is then 0.
    """
    m = np.asarray(matrices, dtype=np.float64).reshape(-1, 3, 3)
    return np.rad2deg(matrices_to_zyz(np.swapaxes(m, 1, 2)))


def matrices_to_zyz(matrices: FloatArray) -> npt.NDArray[np.float64]:
    """Angles alpha, beta, gamma in radians, (N, 3), with ``R = Rz(alpha) Ry(beta) Rz(gamma)``.

    At beta 0 and pi only a combination of alpha and gamma is defined: gamma is then 0.
    """
    m = np.asarray(matrices, dtype=np.float64).reshape(-1, 3, 3)
    # Read off the elements; scipy warns at the poles instead.
    sine = np.hypot(m[:, 0, 2], m[:, 1, 2])
    beta = np.arctan2(sine, m[:, 2, 2])
    pole = sine < 1e-9
    alpha = np.where(pole, np.arctan2(-m[:, 0, 1], m[:, 1, 1]), np.arctan2(m[:, 1, 2], m[:, 0, 2]))
    gamma = np.where(pole, 0.0, np.arctan2(m[:, 2, 1], -m[:, 2, 0]))
    return np.stack([alpha, beta, gamma], axis=1)


def relion_origins_to_translations(
    origins_angstrom: FloatArray, voxel_size_angstrom: float
) -> npt.NDArray[np.float64]:
    """Translations (N, 3) in voxels from rlnOrigin{X,Y,Z}Angst.

    RELION's origins shift the observation onto the reference: the opposite sign of ours.
    """
    return -np.asarray(origins_angstrom, dtype=np.float64).reshape(-1, 3) / voxel_size_angstrom


def translations_to_relion_origins(
    translations_voxels: FloatArray, voxel_size_angstrom: float
) -> npt.NDArray[np.float64]:
    """Inverse of `relion_origins_to_translations`."""
    return -np.asarray(translations_voxels, dtype=np.float64).reshape(-1, 3) * voxel_size_angstrom


def rotation_angle_deg(a: FloatArray, b: FloatArray) -> npt.NDArray[np.float64]:
    """Angle in degrees of ``a^T b`` for matrices (..., 3, 3).

    Computed from the Frobenius norm, ``||a - b||_F^2 = 8 sin^2(angle / 2)``, which stays accurate
    for small angles where the trace does not.
    """
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    norm = np.sqrt((difference**2).sum(axis=(-2, -1)))
    return np.rad2deg(2.0 * np.arcsin(np.clip(norm / np.sqrt(8.0), 0.0, 1.0)))
