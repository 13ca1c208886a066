"""Peaks of a score on the SO(3) grid."""

from __future__ import annotations

import math

import numpy as np

from faml.kernels._jit import kernel

__all__ = ["local_maxima", "refine_peaks", "suppress_near", "vertex"]


@kernel
def _wrap(shape, b, g, a):
    """Flat index of (beta, gamma, alpha) indices that may lie one step outside the grid.

    Beyond a pole, ``R(alpha, -beta, gamma) = R(alpha + pi, beta, gamma + pi)``.
    """
    betas, gammas, alphas = shape
    if b < 0 or b >= betas:
        b = -1 - b if b < 0 else 2 * betas - 1 - b
        g += gammas // 2
        a += alphas // 2
    return (b * gammas + g % gammas) * alphas + a % alphas


@kernel
def _neighbour(score, b, g, a):
    """Score at indices that may lie one step outside the grid."""
    return score.reshape(-1)[_wrap(score.shape, b, g, a)]


@kernel
def local_maxima(score, found):
    """Grid points not lower than any of their 26 neighbours.

    Parameters
    ----------
    score : (B, G, G) float32
        ``[beta, gamma, alpha]``, periodic in gamma and alpha, with even G, and mirrored at the
        poles.
    found : (M,) int64
        Filled with flat indices, in index order; a plateau counts once, by its first point.

    Returns
    -------
    int
        How many there are; may exceed M, of which only the first M are stored.
    """
    betas, gammas, alphas = score.shape
    # A halo of copies turns the periodic neighbourhood into plain indexing.
    halo = np.empty((betas + 2, gammas + 2, alphas + 2), np.float32)
    flat = score.reshape(-1)
    for b in range(betas + 2):
        for g in range(gammas + 2):
            row = halo[b, g]
            first = _wrap(score.shape, b - 1, g - 1, 0)
            start = first // alphas * alphas
            offset = first - start
            for a in range(alphas):
                row[a + 1] = flat[start + (a + offset) % alphas]
            row[0] = row[alphas]
            row[alphas + 1] = row[1]
    count = 0
    for b in range(1, betas + 1):
        for g in range(1, gammas + 1):
            for a in range(1, alphas + 1):
                value = halo[b, g, a]
                if (
                    value >= halo[b, g, a - 1]
                    and value >= halo[b, g, a + 1]
                    and value > -np.inf
                    and _is_highest(halo, score.shape, b, g, a)
                ):
                    if count < found.shape[0]:
                        found[count] = ((b - 1) * gammas + g - 1) * alphas + a - 1
                    count += 1
    return count


@kernel
def _is_highest(halo, shape, b, g, a):
    """Not lower than the 26 neighbours; equal ones must have a larger flat index.

    Ties do occur: correlating a function with itself gives R and its inverse the same score, and
    near the identity these two are neighbours across the pole.
    """
    value = halo[b, g, a]
    here = _wrap(shape, b - 1, g - 1, a - 1)
    for db in range(-1, 2):
        for dg in range(-1, 2):
            for da in range(-1, 2):
                other = halo[b + db, g + dg, a + da]
                if other > value:
                    return False
                if other == value and _wrap(shape, b - 1 + db, g - 1 + dg, a - 1 + da) < here:
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
    score : (B, G, G) float32
    peaks : (M,) int64
        Flat indices.
    steps : (M, 3) float64
        Fractional indices [beta, gamma, alpha], each within 1/2 of the maximum. Overwritten.
    """
    _, gammas, alphas = score.shape
    for i in range(peaks.shape[0]):
        a = peaks[i] % alphas
        g = peaks[i] // alphas % gammas
        b = peaks[i] // (alphas * gammas)
        middle = float(score[b, g, a])
        steps[i, 0] = b + vertex(
            float(_neighbour(score, b - 1, g, a)), middle, float(_neighbour(score, b + 1, g, a))
        )
        steps[i, 1] = g + vertex(
            float(_neighbour(score, b, g - 1, a)), middle, float(_neighbour(score, b, g + 1, a))
        )
        steps[i, 2] = a + vertex(
            float(_neighbour(score, b, g, a - 1)), middle, float(_neighbour(score, b, g, a + 1))
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
