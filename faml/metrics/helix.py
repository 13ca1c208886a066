"""Rise and twist of a helical map whose axis is Z."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.fft
from scipy.ndimage import map_coordinates, maximum_filter, spline_filter

__all__ = ["HelicalFit", "find_helix"]

_ANGLES = 360
_OVERLAP = 0.4
"""Of the box: with less of the map on top of itself, a correlation is chance."""
_KEPT = 5


@dataclass(frozen=True)
class HelicalFit:
    """A screw that takes a map onto itself.

    Attributes
    ----------
    rise_angstrom : float
        Along +z.
    twist_deg : float
        About z, right-handed, -180 to 180.
    correlation : float
        Pearson coefficient of the map and its moved copy where they overlap.
    """

    rise_angstrom: float
    twist_deg: float
    correlation: float


def find_helix(
    volume: npt.NDArray[np.floating],
    voxel_size_angstrom: float,
    radius_voxels: float,
    *,
    least_rise_angstrom: float | None = None,
) -> tuple[HelicalFit, ...]:
    """Screws about Z that take a map onto itself, best first, at most five.

    All rises to 0.6 of the box and all twists are tried at once: the correlation is a convolution
    along z and the angle about it.

    Parameters
    ----------
    volume : (n, n, n) float
        Its axis is Z through voxel n // 2.
    voxel_size_angstrom : float
    radius_voxels : float
        Of the cylinder that is looked at.
    least_rise_angstrom : float, optional
        Default two voxels: every map is like itself moved by less.

    Raises
    ------
    ValueError
        A map that is no cube or constant, a radius outside the box, or a least rise below one
        voxel.
    """
    n = volume.shape[0]
    if volume.ndim != 3 or len(set(volume.shape)) != 1:
        raise ValueError(f"expected a cubic map (n, n, n), found shape {volume.shape}")
    if not np.ptp(volume) > 0:
        raise ValueError("the map is constant: it holds no structure")
    if not 1.0 <= radius_voxels <= n // 2 - 1:
        raise ValueError(f"expected a radius of 1 to {n // 2 - 1} voxels, found {radius_voxels:g}")
    least = 2.0 if least_rise_angstrom is None else least_rise_angstrom / voxel_size_angstrom
    if not least >= 1.0:
        raise ValueError(f"expected a least rise of one voxel or more, found {least:g}")
    radii = np.arange(1.0, radius_voxels + 0.5)
    cylinder = _cylinder(volume, radii)
    # Every voxel of the cylinder counts alike, so a ring of radius r counts r times.
    weight = radii[:, None, None]
    size = scipy.fft.next_fast_len(2 * n)

    def correlate(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> np.ndarray:
        """``sum_x w a(x) b(x moved)``, (rise, twist), rises 0 to n - 1."""
        first = scipy.fft.rfftn(a, s=(size, _ANGLES), axes=(1, 2))
        second = scipy.fft.rfftn(b, s=(size, _ANGLES), axes=(1, 2))
        spectrum = (weight * first.conj() * second).sum(axis=0)
        return scipy.fft.irfftn(spectrum, s=(size, _ANGLES))[:n]

    ones = np.ones_like(cylinder)
    # Means and variances of what overlaps, not of the whole: ends come and go.
    count = correlate(ones, ones)
    lower, upper = correlate(cylinder, ones) / count, correlate(ones, cylinder) / count
    cross = correlate(cylinder, cylinder) / count - lower * upper
    lower_square = correlate(cylinder**2, ones) / count - lower**2
    upper_square = correlate(ones, cylinder**2) / count - upper**2
    scores = cross / np.sqrt(np.maximum(lower_square * upper_square, 1e-30))
    last = int((1.0 - _OVERLAP) * n)
    peak = scores == maximum_filter(scores, size=(3, 9), mode=("nearest", "wrap"))
    rises, twists = np.nonzero(peak)
    inside = (rises >= least) & (rises <= last)
    rises, twists = rises[inside], twists[inside]
    best = np.argsort(-scores[rises, twists], kind="stable")[:_KEPT]
    return tuple(_between(scores, int(rises[i]), int(twists[i]), voxel_size_angstrom) for i in best)


def _cylinder(
    volume: npt.NDArray[np.floating], radii: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Values (radius, z, angle) about the axis, by cubic splines."""
    n = volume.shape[0]
    angles = 2.0 * np.pi * np.arange(_ANGLES) / _ANGLES
    r, z, phi = np.meshgrid(radii, np.arange(n, dtype=float), angles, indexing="ij")
    places = np.stack([z, n // 2 + r * np.sin(phi), n // 2 + r * np.cos(phi)])
    spline = spline_filter(np.asarray(volume, dtype=np.float64), 3)
    return map_coordinates(spline, places, order=3, prefilter=False)


def _between(
    scores: npt.NDArray[np.float64], rise: int, twist: int, voxel_size_angstrom: float
) -> HelicalFit:
    """A peak below the spacing of the grid, by parabolas along both axes."""

    def offset(low: float, middle: float, high: float) -> float:
        curvature = low - 2.0 * middle + high
        return 0.5 * (low - high) / curvature if curvature < 0 else 0.0

    row, column = scores[:, twist], scores[rise]
    up = offset(row[rise - 1], row[rise], row[rise + 1])
    turn = offset(column[twist - 1], column[twist], column[(twist + 1) % _ANGLES])
    degrees = (twist + turn) * 360.0 / _ANGLES
    return HelicalFit(
        float((rise + up) * voxel_size_angstrom),
        float((degrees + 180.0) % 360.0 - 180.0),
        float(scores[rise, twist]),
    )
