"""Peaks of score fields: on the SO(3) grid and over translations."""

from __future__ import annotations

import math

import numpy as np

from faml.kernels._jit import kernel

__all__ = ["local_maxima", "refine_peak", "shift_peak", "suppress_near"]


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
def _vertex(left, middle, right):
    """Offset of the vertex of the parabola through three equidistant values, at most half."""
    curvature = left - 2.0 * middle + right
    if not curvature < 0.0:
        return 0.0
    return min(0.5, max(-0.5, 0.5 * (left - right) / curvature))


@kernel
def refine_peak(score, g, a, b, out):
    """Sub-grid offsets (gamma, alpha, beta) of a local maximum, in grid steps, each within 1/2."""
    middle = float(score[g, a, b])
    out[0] = _vertex(
        float(_neighbour(score, g - 1, a, b)), middle, float(_neighbour(score, g + 1, a, b))
    )
    out[1] = _vertex(
        float(_neighbour(score, g, a - 1, b)), middle, float(_neighbour(score, g, a + 1, b))
    )
    out[2] = _vertex(
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


@kernel
def shift_peak(correlation, step, radius_voxels, out):
    """Best translation within a radius, refined below the sampling by a parabola per axis.

    Parameters
    ----------
    correlation : (m, m, m) float32
        ``[z, y, x]`` correlation against translation, periodic, zero shift at index 0.
    step : float
        Voxels of the original box per grid step.
    radius_voxels : float
        Largest |t|.
    out : (3,) float64
        x, y, z in voxels, |out| <= radius_voxels. Overwritten.

    Returns
    -------
    float64
        Correlation at the best grid point.
    """
    m = correlation.shape[0]
    reach = min(int(radius_voxels / step + 1e-6), (m - 1) // 2)
    limit = (radius_voxels / step) ** 2 + 1e-6
    best = -np.inf
    bz, by, bx = 0, 0, 0
    for dz in range(-reach, reach + 1):
        for dy in range(-reach, reach + 1):
            for dx in range(-reach, reach + 1):
                if dz * dz + dy * dy + dx * dx <= limit:
                    value = correlation[dz % m, dy % m, dx % m]
                    if value > best:
                        best = value
                        bz, by, bx = dz, dy, dx
    middle = float(correlation[bz % m, by % m, bx % m])
    out[0] = bx + _vertex(
        float(correlation[bz % m, by % m, (bx - 1) % m]),
        middle,
        float(correlation[bz % m, by % m, (bx + 1) % m]),
    )
    out[1] = by + _vertex(
        float(correlation[bz % m, (by - 1) % m, bx % m]),
        middle,
        float(correlation[bz % m, (by + 1) % m, bx % m]),
    )
    out[2] = bz + _vertex(
        float(correlation[(bz - 1) % m, by % m, bx % m]),
        middle,
        float(correlation[(bz + 1) % m, by % m, bx % m]),
    )
    length = 0.0
    for c in range(3):
        out[c] *= step
        length += out[c] * out[c]
    if length > radius_voxels * radius_voxels:
        shrink = radius_voxels / math.sqrt(length)
        for c in range(3):
            out[c] *= shrink
    return best
