"""Voronoi cells of candidate poses by Monte-Carlo counting (paper Eq. 4-6; method.md section 4)."""

from __future__ import annotations

import numpy as np

from faml.kernels._jit import kernel

__all__ = ["voronoi_counts"]


@kernel
def voronoi_counts(sample_quaternions, sample_shifts, quaternions, shifts, shift_weight, counts):
    """How many samples lie nearest to each candidate.

    The metric is ``||I - R1^T R2||_F^2 + a ||t1 - t2||^2`` with
    ``||I - R1^T R2||_F^2 = 8 (1 - (q1.q2)^2)`` (Huynh 2009). Ties go to the earlier candidate.

    Parameters
    ----------
    sample_quaternions : (4, M) float32
        One row per component.
    sample_shifts : (3, M) float32
        Voxels.
    quaternions : (C, 4) float32
    shifts : (C, 3) float32
        Voxels.
    shift_weight : float
        a.
    counts : (C,) int64
        Overwritten.
    """
    samples = sample_quaternions.shape[1]
    nearest = np.zeros(samples, np.int32)
    shortest = np.full(samples, np.float32(np.inf), np.float32)
    a = np.float32(shift_weight)
    eight = np.float32(8.0)
    one = np.float32(1.0)
    counts[:] = 0
    for c in range(quaternions.shape[0]):
        q0, q1, q2, q3 = (
            quaternions[c, 0],
            quaternions[c, 1],
            quaternions[c, 2],
            quaternions[c, 3],
        )
        x, y, z = shifts[c, 0], shifts[c, 1], shifts[c, 2]
        for s in range(samples):
            dot = (
                q0 * sample_quaternions[0, s]
                + q1 * sample_quaternions[1, s]
                + q2 * sample_quaternions[2, s]
                + q3 * sample_quaternions[3, s]
            )
            dx = x - sample_shifts[0, s]
            dy = y - sample_shifts[1, s]
            dz = z - sample_shifts[2, s]
            distance = eight * (one - dot * dot) + a * (dx * dx + dy * dy + dz * dz)
            if distance < shortest[s]:
                shortest[s] = distance
                nearest[s] = c
    for s in range(samples):
        counts[nearest[s]] += 1
