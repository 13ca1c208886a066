"""Maps as a browser gets them: cropped, resampled, in 8 bits, with a level to begin with."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.fft

from faml.transforms.fourier import grid_distances, raised_cosine
from faml.transforms.masks import otsu_threshold

__all__ = ["SurfaceMap", "surface_map"]

_SMALLEST_CROP = 8
_FINER = 2
"""Small boxes are interpolated up to so many times, for smooth surfaces."""
_LEAST_SHARE, _MOST_SHARE = 0.002, 0.25
"""Share of the ball that a surface may enclose at first."""


@dataclass(frozen=True)
class SurfaceMap:
    """A class average of m^3 voxels for an isosurface.

    Attributes
    ----------
    edge : int
        m.
    voxel_size_angstrom : float
        Of the m^3 voxels.
    low, high : float
        Grey values that 0 and 255 stand for; what lies outside is clipped.
    level : float
        Grey value to begin with.
    data : str
        Base64 of m^3 bytes, ``[z, y, x]``.
    """

    edge: int
    voxel_size_angstrom: float
    low: float
    high: float
    level: float
    data: str


def surface_map(
    volume: npt.NDArray[np.float32],
    voxel_size_angstrom: float,
    *,
    diameter_angstrom: float | None,
    largest_edge: int,
) -> SurfaceMap | None:
    """Prepare one average; None for one without any structure (constant).

    Parameters
    ----------
    volume : (n, n, n) float32
    voxel_size_angstrom : float
    diameter_angstrom : float or None
        Of the particle, where it is known: what lies beyond is cropped.
    largest_edge : int
        Voxels along each edge at most.
    """
    if not np.ptp(volume) > 0:
        return None
    n = volume.shape[-1]
    crop = n
    if diameter_angstrom is not None:
        crop = int(np.ceil(1.25 * diameter_angstrom / voxel_size_angstrom)) + 4
        crop = min(n, max(crop + crop % 2, _SMALLEST_CROP))
    start = n // 2 - crop // 2
    cut = volume[(slice(start, start + crop),) * 3].astype(np.float64)
    edge = min(largest_edge, _FINER * crop)
    fine = _resampled(cut, edge)
    distance = grid_distances((np.arange(edge) - edge // 2).astype(np.float64))
    ball = distance < 0.5 * edge - 1.0
    inside = fine[ball]
    solvent = float(np.median(inside))
    # Beyond the ball the average is no datum, and a surface must close.
    fine = solvent + (fine - solvent) * raised_cosine(distance, 0.5 * edge - 2.0, 0.5 * edge - 0.5)
    high = float(fine.max())
    low = solvent - 0.25 * (high - solvent)
    if not high > low:
        return None
    bytes_ = np.clip(np.rint(255.0 * (fine - low) / (high - low)), 0, 255).astype(np.uint8)
    return SurfaceMap(
        edge=edge,
        voxel_size_angstrom=voxel_size_angstrom * crop / edge,
        low=low,
        high=high,
        level=_first_level(inside),
        data=base64.b64encode(bytes_.tobytes()).decode("ascii"),
    )


def _resampled(volume: npt.NDArray[np.float64], edge: int) -> npt.NDArray[np.float64]:
    """The same function on edge^3 voxels, voxel edge // 2 in its centre, through its spectrum."""
    n = volume.shape[-1]
    spectrum = scipy.fft.fftshift(scipy.fft.fftn(scipy.fft.ifftshift(volume)))
    if edge < n:
        first = n // 2 - edge // 2
        spectrum = spectrum[(slice(first, first + edge),) * 3]
    elif edge > n:
        before = edge // 2 - n // 2
        spectrum = np.pad(spectrum, [(before, edge - n - before)] * 3)
    values = scipy.fft.fftshift(scipy.fft.ifftn(scipy.fft.ifftshift(spectrum))).real
    return np.asarray(values * (edge / n) ** 3)


def _first_level(values: npt.NDArray[np.float64]) -> float:
    """Otsu's threshold, so far as it encloses neither next to nothing nor everything."""
    least, most = np.quantile(values, [1.0 - _MOST_SHARE, 1.0 - _LEAST_SHARE])
    if not np.ptp(values) > 0:
        return float(values[0])
    return float(np.clip(otsu_threshold(values), least, most))
