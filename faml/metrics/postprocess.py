"""From two half-maps to the final map: resolution, sharpening, local resolution."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.ndimage

from faml.metrics.fsc import FSC_THRESHOLD, CorrectedFsc, corrected_fsc, resolution_at
from faml.transforms.fourier import shell_indices, sum_over_shells

__all__ = ["Postprocessed", "guinier_b_factor", "local_resolution", "postprocess"]

_GUINIER_FROM_ANGSTROM = 15.0
"""Coarser than this the envelope of a structure has no common slope."""
_FEWEST_GUINIER_SHELLS = 4
_LOCAL_THRESHOLD = 0.5
_LOCAL_WAVES = 1.5
_LOCAL_BAND = 1.0
"""Half width of the bands of local resolution, in shells."""


@dataclass(frozen=True)
class Postprocessed:
    """What follows from two half-maps.

    Attributes
    ----------
    fsc : CorrectedFsc
    resolution_angstrom : float
        Where the corrected FSC falls below 0.143; infinity if it starts below.
    b_factor : float
        In Angstrom^2, negative sharpens; 0 where none was given or could be measured.
    b_factor_reason : str
    volume : (n, n, n) float32
        Mean of the halves, weighted by ``sqrt(2 F / (1 + F))`` and sharpened.
    """

    fsc: CorrectedFsc
    resolution_angstrom: float
    b_factor: float
    b_factor_reason: str
    volume: npt.NDArray[np.float32]


def postprocess(
    half1: npt.NDArray[np.floating],
    half2: npt.NDArray[np.floating],
    mask: npt.NDArray[np.floating],
    voxel_size_angstrom: float,
    *,
    b_factor: float | None = None,
) -> Postprocessed:
    """Corrected FSC, weighting and sharpening.

    Parameters
    ----------
    half1, half2 : (n, n, n) float
        Unmasked and unfiltered, in one frame.
    mask : (n, n, n) float
        Soft.
    voxel_size_angstrom : float
    b_factor : float, optional
        Angstrom^2; None measures it where the resolution allows.
    """
    n = half1.shape[0]
    curves = corrected_fsc(half1, half2, mask)
    resolution = resolution_at(curves.corrected, FSC_THRESHOLD, n, voxel_size_angstrom)
    shells = shell_indices(n)
    # Cut where the halves stop agreeing: beyond there is nothing to be weighted.
    agreed = np.cumprod(curves.corrected >= FSC_THRESHOLD)
    agreed[0] = 1.0
    weight = np.sqrt(2.0 * curves.corrected.clip(0.0) / (1.0 + curves.corrected.clip(0.0))) * agreed
    weight[0] = 1.0
    weights = np.append(weight, np.zeros(max(0, int(shells.max()) + 1 - len(weight))))[shells]
    spectrum = scipy.fft.rfftn(0.5 * (half1 + half2)) * weights
    reason = "given"
    if b_factor is None:
        b_factor, reason = guinier_b_factor(spectrum, n, voxel_size_angstrom, resolution)
    radius = shells / (n * voxel_size_angstrom)
    spectrum *= np.exp(-0.25 * b_factor * radius**2)
    volume = scipy.fft.irfftn(spectrum, s=(n, n, n)).astype(np.float32)
    return Postprocessed(curves, resolution, b_factor, reason, volume)


def guinier_b_factor(
    spectrum: npt.NDArray[np.complexfloating],
    n: int,
    voxel_size_angstrom: float,
    resolution_angstrom: float,
) -> tuple[float, str]:
    """B-factor that flattens the Guinier plot from 15 Angstrom to the resolution, and why.

    Parameters
    ----------
    spectrum : (n, n, n // 2 + 1) complex
        Of the weighted map.

    Returns
    -------
    b_factor : float
        Angstrom^2; 0 where there are too few shells beyond 15 Angstrom to fit a line to.
    reason : str
    """
    extent = n * voxel_size_angstrom
    first = math.ceil(extent / _GUINIER_FROM_ANGSTROM)
    last = min(math.floor(extent / resolution_angstrom), (n - 1) // 2)
    if last - first + 1 < _FEWEST_GUINIER_SHELLS:
        return 0.0, (
            f"not sharpened: {max(0, last - first + 1)} shells between 15 Angstrom and the "
            f"resolution, {_FEWEST_GUINIER_SHELLS} are needed to measure a B-factor"
        )
    power = sum_over_shells(shell_indices(n), np.abs(spectrum) ** 2, last + 1)
    count = sum_over_shells(shell_indices(n), np.ones(spectrum.shape), last + 1)
    used = np.arange(first, last + 1)
    amplitude = np.sqrt(power[used] / count[used])
    slope = np.polyfit((used / extent) ** 2, np.log(np.maximum(amplitude, 1e-30)), 1)[0]
    return min(0.0, 4.0 * float(slope)), "measured by a Guinier plot"


def local_resolution(
    half1: npt.NDArray[np.floating],
    half2: npt.NDArray[np.floating],
    voxel_size_angstrom: float,
    *,
    window_angstrom: float | None = None,
) -> npt.NDArray[np.float32]:
    """Local resolution in Angstrom, (n, n, n): where the local FSC falls below 0.5.

    Both maps are filtered to one shell after the other; their correlation under a window around
    each voxel is the local FSC (Cardone et al. 2013). Its tails would let strong detail speak for
    weak surroundings, so the window has none: along each axis it is a triangle.

    Parameters
    ----------
    half1, half2 : (n, n, n) float
        Unmasked and unfiltered, in one frame.
    voxel_size_angstrom : float
    window_angstrom : float, optional
        Full width at half maximum of the window. None takes 1.5 times the shell's wave length: a
        narrower one holds too few independent values.

    Returns
    -------
    (n, n, n) float32
        The first shell's resolution, infinity being of no use in a picture, where the curve
        starts below.
    """
    n = half1.shape[0]
    spectra = [scipy.fft.rfftn(np.asarray(half, dtype=np.float32)) for half in (half1, half2)]
    k = scipy.fft.fftfreq(n, 1.0 / n)
    kx = np.arange(n // 2 + 1)
    radius = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + kx[None, None, :] ** 2)
    extent = n * voxel_size_angstrom
    reached = np.ones((n, n, n))
    going = np.ones((n, n, n), dtype=bool)
    before = np.ones((n, n, n), dtype=np.float32)
    for shell in range(2, n // 2):
        band = np.clip(1.0 - np.abs(radius - shell) / (2.0 * _LOCAL_BAND), 0.0, 1.0)
        a, b = (scipy.fft.irfftn(spectrum * band, s=(n, n, n)) for spectrum in spectra)
        width = _LOCAL_WAVES * extent / shell if window_angstrom is None else window_angstrom
        edge = max(3, round(width / voxel_size_angstrom))
        cross, aa, bb = (_windowed(product, edge) for product in (a * b, a * a, b * b))
        norm = np.sqrt(np.maximum(aa, 0.0) * np.maximum(bb, 0.0))
        local = np.divide(cross, norm, out=np.zeros_like(cross), where=norm > 0)
        stops = going & (local < _LOCAL_THRESHOLD)
        fall = np.maximum(before - local, 1e-6)
        reached[stops] = shell - 1 + ((before - _LOCAL_THRESHOLD) / fall)[stops].clip(0.0, 1.0)
        going &= ~stops
        before = local
        if not going.any():
            break
    reached[going] = n // 2 - 1
    return (extent / reached).astype(np.float32)


def _windowed(values: npt.NDArray[np.floating], edge: int) -> npt.NDArray[np.floating]:
    """Mean under a triangle of full width at half maximum ``edge``, along each axis."""
    once = scipy.ndimage.uniform_filter(values, edge, mode="wrap")
    return scipy.ndimage.uniform_filter(once, edge, mode="wrap", origin=0 if edge % 2 else -1)
