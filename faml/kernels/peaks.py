"""Peaks of a score on the SO(3) grid."""

from __future__ import annotations

import math

import numpy as np

from faml.kernels._jit import kernel

__all__ = ["local_maxima", "refine_peaks", "suppress_near", "vertex"]


@kernel
def _wrap(shape, g, a, b):
    """Flat index of (gamma, alpha, beta) indices that may lie one step outside the grid.

    Beyond a pole, ``R(alpha, -beta, gamma) = R(alpha + pi, beta, gamma + pi)``.
    """
    gammas, alphas, betas = shape
    if b < 0 or b >= betas:
        b = -1 - b if b < 0 else 2 * betas - 1 - b
        g += gammas // 2
        a += alphas // 2
    return ((g % gammas) * alphas + a % alphas) * betas + b


@kernel
def _neighbour(score, g, a, b):
    """Score at indices that may lie one step outside the grid."""
    return score.reshape(-1)[_wrap(score.shape, g, a, b)]


@kernel
def local_maxima(score, found):
    """Grid points not lower than any of their 26 neighbours.

    Parameters
    ----------
    score : (G, G, B) float32
        ``[gamma, alpha, beta]``, periodic in gamma and alpha, with even G, and mirrored at the
        poles.
    found : (M,) int64
        Filled with flat indices, in index order; a plateau counts once, by its first point.

    Returns
    -------
    int
        How many there are; may exceed M, of which only the first M are stored.
    """
    gammas, alphas, betas = score.shape
    # A halo of copies turns the periodic neighbourhood into plain indexing.
    halo = np.empty((gammas + 2, alphas + 2, betas + 2), np.float32)
    for g in range(gammas + 2):
        for a in range(alphas + 2):
            row = score[(g - 1) % gammas, (a - 1) % alphas]
            for b in range(betas):
                halo[g, a, b + 1] = row[b]
            halo[g, a, 0] = _neighbour(score, g - 1, a - 1, -1)
            halo[g, a, betas + 1] = _neighbour(score, g - 1, a - 1, betas)
    count = 0
    for g in range(1, gammas + 1):
        for a in range(1, alphas + 1):
            for b in range(1, betas + 1):
                value = halo[g, a, b]
                if (
                    value >= halo[g, a, b - 1]
                    and value >= halo[g, a, b + 1]
                    and value > -np.inf
                    and _is_highest(halo, score.shape, g, a, b)
                ):
                    if count < found.shape[0]:
                        found[count] = ((g - 1) * alphas + a - 1) * betas + b - 1
                    count += 1
    return count


@kernel
def _is_highest(halo, shape, g, a, b):
    """Not lower than the 26 neighbours; equal ones must have a larger flat index.

    Ties do occur: correlating a function with itself gives R and its inverse the same score, and
    near the identity these two are neighbours across the pole.
    """
    value = halo[g, a, b]
    here = _wrap(shape, g - 1, a - 1, b - 1)
    for dg in range(-1, 2):
        for da in range(-1, 2):
            for db in range(-1, 2):
                other = halo[g + dg, a + da, b + db]
                if other > value:
                    return False
                if other == value and _wrap(shape, g - 1 + dg, a - 1 + da, b - 1 + db) < here:
                    return False
    return True


@kernel
def vertex(left, middle, right):
    """Offset of the vertex of the parabola through three equidistant values, at most half."""
    curvature = left - 2.0 * middle + right
    if not curvature < 0.0:
        return 0.0
    return min(0.5, max(-0.5, 0.5 * (left - right) / curvature))


@kernel
def refine_peaks(score, peaks, steps):
    """Places of local maxima below grid spacing, by a parabola along each angle.

    Parameters
    ----------
    score : (G, G, B) float32
    peaks : (M,) int64
        Flat indices.
    steps : (M, 3) float64
        Fractional indices [gamma, alpha, beta], each within 1/2 of the maximum. Overwritten.
    """
    _, alphas, betas = score.shape
    for i in range(peaks.shape[0]):
        b = peaks[i] % betas
        a = peaks[i] // betas % alphas
        g = peaks[i] // (betas * alphas)
        middle = float(score[g, a, b])
        steps[i, 0] = g + vertex(
            float(_neighbour(score, g - 1, a, b)), middle, float(_neighbour(score, g + 1, a, b))
        )
        steps[i, 1] = a + vertex(
            float(_neighbour(score, g, a - 1, b)), middle, float(_neighbour(score, g, a + 1, b))
        )
        steps[i, 2] = b + vertex(
            float(_neighbour(score, g, a, b - 1)), middle, float(_neighbour(score, g, a, b + 1))
        )


@kernel
def suppress_near(quaternions, separation_rad, limit, kept):
    """Greedy non-maximum suppression by rotation angle.

    Parameters
    ----------
    quaternions : (M, 4) float64
        Unit quaternions, best first.
    separation_rad : float
        Rotations closer than this to a kept one are dropped.
    limit : int
        At most so many are kept.
    kept : (limit,) int64
        Filled with indices into `quaternions`.

    Returns
    -------
    int
        How many were kept.
    """
    # angle < s  <=>  |q1.q2| > cos(s / 2)
    cosine = math.cos(0.5 * separation_rad)
    count = 0
    for i in range(quaternions.shape[0]):
        near = False
        for j in range(count):
            k = kept[j]
            dot = 0.0
            for c in range(4):
                dot += quaternions[i, c] * quaternions[k, c]
            if abs(dot) > cosine:
                near = True
                break
        if not near:
            kept[count] = i
            count += 1
            if count == limit:
                break
    return count
