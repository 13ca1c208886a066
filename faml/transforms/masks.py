"""Masks: soft spheres, and soft outlines of a map."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.ndimage

from faml.transforms.fourier import BALL_RADIUS, grid_distances, raised_cosine

__all__ = ["automatic_mask", "otsu_threshold", "soft_sphere"]

_BINS = 256
_SMALLEST_PART = 0.05
"""Pieces of an outline smaller than this share of the largest are noise."""


def soft_sphere(n: int, radius_voxels: float, edge_voxels: float) -> npt.NDArray[np.float32]:
    """1 inside a radius, a raised cosine over the edge, 0 outside; ``(n, n, n)`` float32."""
    distances = grid_distances((np.arange(n) - n // 2).astype(np.float64))
    return raised_cosine(distances, radius_voxels, radius_voxels + edge_voxels).astype(np.float32)


def otsu_threshold(values: npt.NDArray[np.floating]) -> float:
    """Threshold that separates two groups of grey values best (Otsu 1979).

    Parameters
    ----------
    values : float array
        Any shape.

    Raises
    ------
    ValueError
        If all values are the same, or one is not finite.
    """
    if not np.isfinite(values).all() or not np.ptp(values) > 0:
        raise ValueError("expected finite grey values that differ, found a constant or NaN")
    counts, edges = np.histogram(values, bins=_BINS)
    middles = 0.5 * (edges[:-1] + edges[1:])
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = counts.sum() - below
    total = np.cumsum(counts * middles)
    mean_below = total[:-1] / np.maximum(below, 1.0)
    mean_above = (total[-1] - total[:-1]) / np.maximum(above, 1.0)
    between = below * above * (mean_above - mean_below) ** 2
    return float(edges[1 + int(np.argmax(between))])


def automatic_mask(
    volume: npt.NDArray[np.floating], *, extend_voxels: float = 2.0, edge_voxels: float = 3.0
) -> npt.NDArray[np.float32]:
    """Soft outline of a map: thresholded, extended, with a raised-cosine edge.

    Parameters
    ----------
    volume : (n, n, n) float
        Filtered to its resolution: the outline of noise is noise.
    extend_voxels : float
        By how much the outline of the thresholded map is extended.
    edge_voxels : float

    Returns
    -------
    (n, n, n) float32
        0 to 1; 1 everywhere for a constant map, which has no outline.
    """
    if not np.ptp(volume) > 0:
        return np.ones(volume.shape, dtype=np.float32)
    n = volume.shape[0]
    ball = soft_sphere(n, BALL_RADIUS * n, 1.0) > 0.5
    inside = (volume > otsu_threshold(volume[ball])) & ball
    labels, count = scipy.ndimage.label(inside)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    kept = sizes >= _SMALLEST_PART * sizes.max()
    kept[0] = False
    distances = scipy.ndimage.distance_transform_edt(~kept[labels])
    soft = raised_cosine(distances, extend_voxels, extend_voxels + edge_voxels)
    return soft.astype(np.float32)
