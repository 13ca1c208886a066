"""Fourier shell correlation and what is read off it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from faml.transforms.fourier import shell_indices, sum_over_shells

__all__ = ["fourier_shell_correlation", "pearson", "resolution_at"]


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
    if a.shape != b.shape:
        raise ValueError(f"expected arrays of one shape, found {a.shape} and {b.shape}")
    x = (a.ravel() if mask is None else a[mask]).astype(np.float64)
    y = (b.ravel() if mask is None else b[mask]).astype(np.float64)
    if x.size == 0:
        raise ValueError("expected at least one voxel to correlate, found an empty mask")
    x -= x.mean()
    y -= y.mean()
    norm = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / norm if norm > 0 else 0.0
