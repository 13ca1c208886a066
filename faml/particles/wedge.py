"""Fourier weights of particles: missing wedges and CTF volumes, on one grid.

All weights are ``(n, n, n // 2 + 1)`` float32 on the ``rfftn`` half-spectrum grid
(`faml.conventions`), non-negative and Friedel symmetric.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from faml.conventions import FloatArray
from faml.errors import InputDataError

__all__ = [
    "WEIGHT_FLOOR",
    "full_cube",
    "tilt_angles_weight",
    "wedge_weight",
    "weight_from_volume",
]

WEIGHT_FLOOR = 1e-3
"""Relative floor of W below which the noise no longer scales with W; y and W are zeroed there."""


def wedge_weight(
    n: int, tilt_range_deg: tuple[float, float], tilt_axis: str = "y"
) -> npt.NDArray[np.float32]:
    """Binary weight of a single-axis tilt.

    Parameters
    ----------
    n : int
        Box edge in voxels.
    tilt_range_deg : (float, float)
        Smallest and largest tilt in degrees.
    tilt_axis : {"y", "x"}
        An image tilted by a lies along ``(cos a, 0, sin a)`` of (x, y, z) with the axis on Y; with
        the axis on X the whole is turned about Z, and it lies along ``(0, cos a, -sin a)``.

    Returns
    -------
    (n, n, n // 2 + 1) float32
        1 where the component is observed, else 0.
    """
    low, high = tilt_range_deg
    kz, along = _across_axis(n, tilt_axis)
    angle = np.rad2deg(np.arctan2(kz, along))
    # A plane has two ends.
    angle = np.where(angle <= -90.0, angle + 180.0, np.where(angle > 90.0, angle - 180.0, angle))
    observed = (angle >= low - 1e-9) & (angle <= high + 1e-9) | ((kz == 0) & (along == 0))
    weight = np.broadcast_to(observed, (n, n, n // 2 + 1)).astype(np.float32)
    return _friedel_symmetric(weight)


def tilt_angles_weight(
    n: int, tilt_angles_deg: Sequence[float], tilt_axis: str = "y"
) -> npt.NDArray[np.float32]:
    """Sum of the central slices of single tilts, each a slab of one Fourier voxel.

    An image counts ``max(0, 1 - d)`` for a component at a distance of d Fourier voxels from its
    plane, as trilinear insertion has it on average. The weight falls with the distance from the
    axis, where slices crowd, and has gaps between slices where these lie apart.

    Parameters
    ----------
    n : int
        Box edge in voxels.
    tilt_angles_deg : sequence of T float
        In any order; an angle given twice counts twice.
    tilt_axis : {"y", "x"}
        As in `wedge_weight`.

    Returns
    -------
    (n, n, n // 2 + 1) float32
        From 0 to T; zero below `WEIGHT_FLOOR` of the maximum.
    """
    kz, along = _across_axis(n, tilt_axis)
    weight = np.zeros(np.broadcast_shapes(kz.shape, along.shape))
    for angle in np.deg2rad(np.asarray(tilt_angles_deg, dtype=np.float64)):
        weight += np.maximum(1.0 - np.abs(np.cos(angle) * kz - np.sin(angle) * along), 0.0)
    weight[weight < WEIGHT_FLOOR * weight.max()] = 0.0
    return _friedel_symmetric(np.broadcast_to(weight, (n, n, n // 2 + 1)).astype(np.float32))


def weight_from_volume(
    volume: FloatArray, n: int, *, premultiplied: bool, name: str = "weight volume"
) -> npt.NDArray[np.float32]:
    """Weight W from a CTF or wedge volume as programs write it.

    Parameters
    ----------
    volume : float array
        A full cube ``(n, n, n)`` with DC at voxel n // 2, or an FFTW half
        ``(n, n, n // 2 + 1)`` with DC at 0.
    n : int
        Box edge of the particles in voxels.
    premultiplied : bool
        True if the particles are already multiplied by the CTF: the volume is W itself
        (sum of CTF^2). Otherwise it is an amplitude C and W = C^2.
    name : str
        Named in errors.

    Returns
    -------
    (n, n, n // 2 + 1) float32
        Zero below `WEIGHT_FLOOR` of the maximum.

    Raises
    ------
    InputDataError
        Wrong shape, NaN or Inf, negative W, or nothing observed.
    """
    half = half_weight_volume(volume, n, name)
    weight = half if premultiplied else half**2
    weight = _friedel_symmetric(weight.astype(np.float32))
    if premultiplied and weight.min() < -WEIGHT_FLOOR * weight.max():
        raise InputDataError(
            f"{name}: expected weights >= 0 for CTF-premultiplied particles, found "
            f"{weight.min():g}; the volume may be a CTF amplitude (set "
            "rlnCtfDataAreCtfPremultiplied to 0)"
        )
    if not weight.max() > 0:
        raise InputDataError(
            f"{name}: the weight volume is zero everywhere, so no Fourier component is observed; "
            "give the right file or --tilt-range"
        )
    weight[weight < WEIGHT_FLOOR * weight.max()] = 0.0
    return weight


def full_cube(weight: FloatArray) -> npt.NDArray[np.float32]:
    """A half-spectrum weight as RELION's full cube with DC at voxel n // 2.

    Parameters
    ----------
    weight : (n, n, n // 2 + 1) float
        Friedel symmetric.

    Returns
    -------
    (n, n, n) float32
    """
    n = weight.shape[0]
    mirror = -np.arange(n) % n
    negative = weight[mirror][:, mirror][:, :, 1 : (n + 1) // 2][:, :, ::-1]
    full = np.concatenate([weight, negative], axis=2)
    return np.fft.fftshift(full).astype(np.float32)


def half_weight_volume(volume: FloatArray, n: int, name: str) -> npt.NDArray[np.float32]:
    """The volume on the half-spectrum grid, ``(n, n, n // 2 + 1)``, signs kept.

    Raises
    ------
    InputDataError
        Wrong shape, NaN or Inf.
    """
    if not np.isfinite(volume).all():
        raise InputDataError(f"{name}: the weight volume holds NaN or Inf; recompute it")
    if volume.shape == (n, n, n):
        return np.fft.ifftshift(volume)[:, :, : n // 2 + 1].astype(np.float32)
    if volume.shape == (n, n, n // 2 + 1):
        return np.asarray(volume, dtype=np.float32)
    raise InputDataError(
        f"{name}: expected a weight volume of shape {(n, n, n)} (full cube) or "
        f"{(n, n, n // 2 + 1)} (FFTW half) for particles of box {n}, found {volume.shape}"
    )


def _across_axis(n: int, tilt_axis: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Coordinates of components across the axis: along the beam, and along an untilted image."""
    frequencies = np.fft.fftfreq(n, 1.0 / n).astype(np.float64)
    kz = frequencies[:, None, None]
    if tilt_axis == "x":
        return -kz, frequencies[None, :, None]
    return kz, np.arange(n // 2 + 1, dtype=np.float64)[None, None, :]


def _friedel_symmetric(weight: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Average of ``k`` and ``-k`` on the self-conjugate planes kx = 0 and (even n) kx = n/2."""
    out = weight.copy()
    n = weight.shape[0]
    mirror = -np.arange(n) % n
    planes = [0] + ([n // 2] if n % 2 == 0 else [])
    for kx in planes:
        plane = weight[:, :, kx]
        out[:, :, kx] = 0.5 * (plane + plane[mirror][:, mirror])
    return out
