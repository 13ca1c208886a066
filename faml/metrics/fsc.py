"""Fourier shell correlation and what is read off it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from faml.transforms.fourier import shell_indices, sum_over_shells
from faml.transforms.phases import random_phases

__all__ = [
    "FSC_THRESHOLD",
    "CorrectedFsc",
    "corrected_fsc",
    "correlation_about_zero",
    "fourier_shell_correlation",
    "pearson",
    "resolution_at",
    "ssnr_of_fsc",
]

FSC_THRESHOLD = 0.143
"""Of two independent halves: the average of both then correlates with the truth by 0.5
(Rosenthal & Henderson 2003)."""
_RANDOMISED_FROM = 0.8
"""Phases are randomised from the shell on where the unmasked FSC falls below this."""
_RANDOMISED_MARGIN = 2
"""Shells after that, to which the mask still carries what is not randomised."""
_MOST_RANDOM = 0.99  # a mask so tight that it makes noise agree leaves nothing to be corrected


def fourier_shell_correlation(
    a: npt.NDArray[np.floating],
    b: npt.NDArray[np.floating],
    mask: npt.NDArray[np.floating] | None = None,
) -> npt.NDArray[np.float64]:
    """Normalised correlation of two volumes per Fourier shell.

    Parameters
    ----------
    a, b : (n, n, n) float
        Volumes of one box.
    mask : (n, n, n) float, optional
        Multiplied onto both first.

    Returns
    -------
    (n // 2,) float64
        ``Re sum(a conj(b)) / sqrt(sum |a|^2 sum |b|^2)`` over the full sphere's components k with
        ``round(|k|)`` = s, for s = 0 ... n // 2 - 1; 0 where either volume has no power.

    Raises
    ------
    ValueError
        If the shapes differ or are not cubic.
    """
    if a.shape != b.shape or a.ndim != 3 or len(set(a.shape)) != 1:
        raise ValueError(f"expected two cubes of one size, found {a.shape} and {b.shape}")
    if mask is not None and mask.shape != a.shape:
        raise ValueError(f"expected a mask of shape {a.shape} like the volumes, found {mask.shape}")
    n = a.shape[0]
    factor = 1.0 if mask is None else mask
    left, right = np.fft.rfftn(a * factor), np.fft.rfftn(b * factor)
    shells = shell_indices(n)
    # rfftn holds every component off the planes kx = 0 and n/2 for two.
    kx = np.arange(n // 2 + 1)
    double = np.where((kx == 0) | (2 * kx == n), 1.0, 2.0)

    def per_shell(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        return sum_over_shells(shells, values * double, n // 2)

    cross = per_shell((left * right.conj()).real)
    norm = np.sqrt(per_shell(np.abs(left) ** 2) * per_shell(np.abs(right) ** 2))
    return np.divide(cross, norm, out=np.zeros_like(cross), where=norm > 0)


def ssnr_of_fsc(fsc: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """SSNR of the average of both halves from their FSC, ``2 F / (1 - F)``; 0 below F = 0."""
    bounded = np.clip(np.asarray(fsc, dtype=np.float64), 0.0, 1.0 - 1e-9)
    return np.asarray(2.0 * bounded / (1.0 - bounded))


@dataclass(frozen=True)
class CorrectedFsc:
    """Half-map FSC with and without a mask, and with the mask's own share taken out.

    All curves are (n // 2,) float64 from shell 0 on.

    Attributes
    ----------
    unmasked, masked : curves
    randomised : curve
        Of masked maps whose phases are random beyond `first_randomised`; 0 before.
    corrected : curve
        ``(masked - randomised) / (1 - randomised)`` from two shells after that one on.
    first_randomised : int
    """

    unmasked: npt.NDArray[np.float64]
    masked: npt.NDArray[np.float64]
    randomised: npt.NDArray[np.float64]
    corrected: npt.NDArray[np.float64]
    first_randomised: int


def first_randomised(fsc: npt.NDArray[np.floating]) -> int:
    """The first shell where an FSC falls below 0.8, or its length.

    From there on phases may be randomised without touching what halves agree in beyond doubt.
    """
    below = np.nonzero(fsc[1:] < _RANDOMISED_FROM)[0]
    return int(below[0]) + 1 if len(below) else len(fsc)


def corrected_fsc(
    a: npt.NDArray[np.floating],
    b: npt.NDArray[np.floating],
    mask: npt.NDArray[np.floating],
    *,
    seed: int = 0,
) -> CorrectedFsc:
    """Mask-corrected FSC by phase randomisation (Chen et al. 2013, Eq. 4).

    A mask convolves both maps with the same function, which makes their noise agree. How much is
    seen on maps that have no signal: phases are randomised from the shell on where the unmasked
    FSC falls below 0.8.

    Parameters
    ----------
    a, b : (n, n, n) float
        Unmasked half-maps in one frame.
    mask : (n, n, n) float
    seed : int
        Of the random phases.

    Raises
    ------
    ValueError
        If the shapes differ or are not cubic.
    """
    unmasked = fourier_shell_correlation(a, b)
    masked = fourier_shell_correlation(a, b, mask)
    first = first_randomised(unmasked)
    randomised = np.zeros_like(masked)
    corrected = masked.copy()
    start = first + _RANDOMISED_MARGIN
    if start < len(masked):
        rng = np.random.default_rng(seed)
        curve = fourier_shell_correlation(
            random_phases(a, first, rng), random_phases(b, first, rng), mask
        )
        randomised[first:] = curve[first:]
        noise = np.clip(curve[start:], 0.0, _MOST_RANDOM)
        corrected[start:] = (masked[start:] - noise) / (1.0 - noise)
    return CorrectedFsc(unmasked, masked, randomised, corrected, first)


def resolution_at(
    fsc: npt.NDArray[np.floating], threshold: float, box: int, voxel_size_angstrom: float
) -> float:
    """Resolution in Angstrom where the FSC first falls below a threshold.

    Parameters
    ----------
    fsc : (n // 2,) float
        From shell 0 on, as `fourier_shell_correlation` gives it; shell 0 is not looked at.
    threshold : float
        0.143 for independent half-maps, 0.5 against a known truth.
    box : int
        Edge n in voxels.
    voxel_size_angstrom : float

    Returns
    -------
    float
        Interpolated linearly in frequency between shells; the last shell's resolution if the
        curve never falls, infinity if it starts below.

    Raises
    ------
    ValueError
        If the curve has fewer than two shells or holds NaN.
    """
    if len(fsc) < 2 or np.isnan(fsc).any():
        raise ValueError(f"expected an FSC of at least 2 shells without NaN, found {fsc}")
    below = np.nonzero(np.asarray(fsc[1:]) < threshold)[0]
    extent = box * voxel_size_angstrom
    if len(below) == 0:
        return float(extent / (len(fsc) - 1))
    first = int(below[0]) + 1
    if first == 1:
        return float("inf")
    high, low = float(fsc[first - 1]), float(fsc[first])
    return float(extent / (first - 1 + (high - threshold) / (high - low)))


def correlation_about_zero(
    a: npt.NDArray[np.floating],
    b: npt.NDArray[np.floating],
    mask: npt.NDArray[np.bool_] | None = None,
) -> float:
    """Overlap over the root of both powers: a correlation coefficient whose means are zero.

    Parameters and errors as `pearson`.
    """
    return _overlap(*_voxels(a, b, mask))


def pearson(
    a: npt.NDArray[np.floating],
    b: npt.NDArray[np.floating],
    mask: npt.NDArray[np.bool_] | None = None,
) -> float:
    """Correlation coefficient about the means.

    Parameters
    ----------
    a, b : float array
        Of one shape.
    mask : bool array, optional
        Only its voxels count.

    Returns
    -------
    float
        0 where either is constant: nothing agrees with it.

    Raises
    ------
    ValueError
        If the shapes differ or the mask is empty.
    """
    x, y = _voxels(a, b, mask)
    return _overlap(x - x.mean(), y - y.mean())


def _voxels(
    a: npt.NDArray[np.floating],
    b: npt.NDArray[np.floating],
    mask: npt.NDArray[np.bool_] | None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """What of two arrays is to be correlated."""
    if a.shape != b.shape:
        raise ValueError(f"expected arrays of one shape, found {a.shape} and {b.shape}")
    x = (a.ravel() if mask is None else a[mask]).astype(np.float64)
    y = (b.ravel() if mask is None else b[mask]).astype(np.float64)
    if x.size == 0:
        raise ValueError("expected at least one voxel to correlate, found an empty mask")
    return x, y


def _overlap(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    norm = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / norm if norm > 0 else 0.0
