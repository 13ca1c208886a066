"""Local refinement of a pose on the likelihood (method.md section 2): Levenberg-Marquardt.

The objective of a pose (R, t) is ``d2 / 2 + |t|^2 / (2 zeta^2)``, weighted nonlinear least squares
in six parameters: a rotation vector w in the particle's frame, ``R -> exp([w]) R``, in radians,
and t in voxels.
"""

from __future__ import annotations

import math

import numpy as np

from faml.kernels._jit import kernel
from faml.kernels.interpolation import cell, trilinear_gradient
from faml.kernels.residuals import phase_factors

__all__ = ["pose_derivatives", "refine_pose"]

_FIRST_DAMPING = 1e-3
_LESS_DAMPING = 0.1
_MORE_DAMPING = 10.0
_LEAST_GAIN = 1e-4
"""Steps that promise less, in units of log-likelihood, are not taken."""
_FLOOR = 1e-6
"""Of a diagonal element, as a share of the largest of its three."""


@kernel
def pose_derivatives(
    spectrum,
    points,
    rotation,
    translation,
    scale,
    box,
    data,
    weight,
    factor,
    shift_precision,
    gradient,
    normal,
):
    """Objective of a pose, its gradient and its Gauss-Newton matrix.

    Parameters
    ----------
    spectrum : (2q + 1, 2q + 1, q + 1) complex64
        Padded spectrum of the reference, see `slice_spectrum`.
    points : (J, 3) float32
        kx, ky, kz.
    rotation : (3, 3) float64
        R.
    translation : (3,) float64
        x, y, z in voxels.
    scale : float
        Grid points of `spectrum` per unit of k.
    box : int
        Edge n in voxels.
    data : (J,) complex64
        y.
    weight : (J,) float32
        W.
    factor : (J,) float32
        Multiplicity over sigma^2.
    shift_precision : float
        ``1 / zeta^2`` per voxel^2.
    gradient : (6,) float64
        Overwritten: by wx, wy, wz (per radian) and x, y, z (per voxel).
    normal : (6, 6) float64
        Overwritten: Gauss-Newton matrix in the same order and units.

    Returns
    -------
    objective, energy : float64
        ``d2 / 2 + |t|^2 / (2 zeta^2)`` without the constant ``|y|^2`` term of d2, and
        ``sum W |R A|^2 / sigma^2``, which vanishes with the reference.
    """
    q = spectrum.shape[2] - 1
    real = spectrum.view(np.float32).reshape(-1)
    imag = real[1:]
    r = (rotation * scale).astype(np.float32)
    per_voxel = np.float32(2.0 * math.pi / box)
    back = np.empty(points.shape[0], np.complex64)
    phase_factors(points, -translation, box, back)
    # Rows of the Jacobian: real parts, then imaginary ones.
    row = np.empty(12, np.float32)
    gradient[:] = 0.0
    normal[:] = 0.0
    cross, energy = 0.0, 0.0
    for j in range(points.shape[0]):
        px, py, pz = points[j, 0], points[j, 1], points[j, 2]
        x = r[0, 0] * px + r[1, 0] * py + r[2, 0] * pz
        y = r[0, 1] * px + r[1, 1] * py + r[2, 1] * pz
        z = r[0, 2] * px + r[1, 2] * py + r[2, 2] * pz
        sign = np.float32(1.0)
        if x < 0:
            x, y, z = -x, -y, -z
            sign = np.float32(-1.0)
        corner, fx, fy, fz = cell(x, y, z, q, 2)
        # The interpolant's own derivatives: exact for this objective, one pass over the cell where
        # central differences take six more slices, and measured to end at poses as good.
        a, ax, ay, az = trilinear_gradient(real, corner, fx, fy, fz, q, 2)
        b, bx, by, bz = trilinear_gradient(imag, corner, fx, fy, fz, q, 2)
        # By Friedel symmetry the real part is even and the imaginary one odd.
        ax, ay, az, b = sign * ax, sign * ay, sign * az, sign * b
        for i in range(2):
            if i == 1:
                ax, ay, az = bx, by, bz
            gx = r[0, 0] * ax + r[0, 1] * ay + r[0, 2] * az
            gy = r[1, 0] * ax + r[1, 1] * ay + r[1, 2] * az
            gz = r[2, 0] * ax + r[2, 1] * ay + r[2, 2] * az
            row[6 * i] = pz * gy - py * gz
            row[6 * i + 1] = px * gz - pz * gx
            row[6 * i + 2] = py * gx - px * gy
        for c in range(3):
            turn = per_voxel * points[j, c]
            row[3 + c] = turn * b
            row[9 + c] = -turn * a
        value = data[j] * back[j]
        u, v = value.real, value.imag
        f, w = factor[j], weight[j]
        cross += f * (a * u + b * v)
        energy += f * w * (a * a + b * b)
        u = f * (u - w * a)
        v = f * (v - w * b)
        f *= w
        for i in range(6):
            p, s = row[i], row[6 + i]
            gradient[i] -= p * u + s * v
            p *= f
            s *= f
            for k in range(i + 1):
                normal[i, k] += p * row[k] + s * row[6 + k]
    prior = 0.0
    for c in range(3):
        prior += translation[c] * translation[c]
        gradient[3 + c] += shift_precision * translation[c]
        normal[3 + c, 3 + c] += shift_precision
    for i in range(6):
        for k in range(i):
            normal[k, i] = normal[i, k]
    return 0.5 * energy - cross + 0.5 * shift_precision * prior, energy


@kernel
def _damped_step(gradient, normal, damping, factor, step):
    """Solve ``(H + damping D) step = -gradient`` by Cholesky, D the diagonal with a floor.

    Returns
    -------
    float64
        The decrease that the quadratic model promises; negative where there is no step.
    """
    for i in range(6):
        block = 3 * (i // 3)
        largest = max(normal[block, block], normal[block + 1, block + 1])
        largest = max(largest, normal[block + 2, block + 2])
        for k in range(i + 1):
            total = normal[i, k]
            if i == k:
                total += damping * max(total, _FLOOR * largest)
            for m in range(k):
                total -= factor[i, m] * factor[k, m]
            if i > k:
                factor[i, k] = total / factor[k, k]
            elif total > 0.0:
                factor[i, i] = math.sqrt(total)
            else:
                return -1.0
    for i in range(6):
        total = -gradient[i]
        for m in range(i):
            total -= factor[i, m] * step[m]
        step[i] = total / factor[i, i]
    for i in range(5, -1, -1):
        total = step[i]
        for m in range(i + 1, 6):
            total -= factor[m, i] * step[m]
        step[i] = total / factor[i, i]
    promised = 0.0
    for i in range(6):
        promised -= gradient[i] * step[i]
        for k in range(6):
            promised -= 0.5 * step[i] * normal[i, k] * step[k]
    return promised


@kernel
def _turn(vector, out):
    """Rotation matrix ``exp([vector])``, (3, 3), of a rotation vector in radians."""
    angle = math.sqrt(vector[0] ** 2 + vector[1] ** 2 + vector[2] ** 2)
    sine, cosine = 1.0, 0.5  # of small angles, divided by the angle and its square
    if angle > 1e-8:
        sine = math.sin(angle) / angle
        cosine = 2.0 * (math.sin(0.5 * angle) / angle) ** 2
    c = 1.0 - cosine * angle * angle
    for i in range(3):
        for k in range(3):
            out[i, k] = cosine * vector[i] * vector[k]
        out[i, i] += c
    out[0, 1] -= sine * vector[2]
    out[0, 2] += sine * vector[1]
    out[1, 0] += sine * vector[2]
    out[1, 2] -= sine * vector[0]
    out[2, 0] -= sine * vector[1]
    out[2, 1] += sine * vector[0]


@kernel
def _turn_vector(turn, out):
    """Rotation vector in radians of a matrix (3, 3) of less than half a turn; returns its angle."""
    out[0] = 0.5 * (turn[2, 1] - turn[1, 2])
    out[1] = 0.5 * (turn[0, 2] - turn[2, 0])
    out[2] = 0.5 * (turn[1, 0] - turn[0, 1])
    sine = math.sqrt(out[0] ** 2 + out[1] ** 2 + out[2] ** 2)
    angle = math.atan2(sine, 0.5 * (turn[0, 0] + turn[1, 1] + turn[2, 2] - 1.0))
    if sine > 0.0:
        for i in range(3):
            out[i] *= angle / sine
    return angle


@kernel
def _product(left, right, out):
    for i in range(3):
        for k in range(3):
            out[i, k] = (
                left[i, 0] * right[0, k] + left[i, 1] * right[1, k] + left[i, 2] * right[2, k]
            )


@kernel
def refine_pose(
    spectrum,
    points,
    scale,
    box,
    data,
    weight,
    factor,
    shift_precision,
    trust_rad,
    radius_voxels,
    steps,
    rotation,
    translation,
):
    """Levenberg-Marquardt from a pose; only steps on which the objective falls are taken.

    What lies beyond the limits is drawn back to them, so that the other parameters go on.

    Parameters
    ----------
    spectrum, points, scale, box, data, weight, factor, shift_precision
        As in `pose_derivatives`.
    trust_rad : float
        Largest rotation from the start, below pi.
    radius_voxels : float
        Largest |t|.
    steps : int
        Steps tried, at most.
    rotation : (3, 3) float64
        Start; overwritten.
    translation : (3,) float64
        Start; overwritten.

    Returns
    -------
    float64
        How far the objective fell; 0 where the pose is left as it is.
    """
    gradient, new_gradient = np.empty(6), np.empty(6)
    normal, new_normal = np.empty((6, 6)), np.empty((6, 6))
    cholesky, step = np.empty((6, 6)), np.empty(6)
    here, trial, total = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3))
    start, shift, vector = rotation.copy(), np.empty(3), np.empty(3)
    _turn(np.zeros(3), here)  # turn from the start
    first, energy = pose_derivatives(
        spectrum, points, rotation, translation, scale, box, data, weight, factor,
        shift_precision, gradient, normal,
    )  # fmt: skip
    # Without a reference, the prior alone would move the pose.
    if not energy > 0.0:
        return 0.0
    lowest = first
    damping = _FIRST_DAMPING
    for _ in range(steps):
        promised = _damped_step(gradient, normal, damping, cholesky, step)
        if promised < 0.0:
            damping *= _MORE_DAMPING
            continue
        if not promised > _LEAST_GAIN:
            break
        _turn(step[:3], trial)
        _product(trial, here, total)
        angle = _turn_vector(total, vector)
        if angle > trust_rad:
            for c in range(3):
                vector[c] *= trust_rad / angle
            _turn(vector, total)
        _product(total, start, trial)
        length = 0.0
        for c in range(3):
            shift[c] = translation[c] + step[3 + c]
            length += shift[c] * shift[c]
        if length > radius_voxels * radius_voxels:
            for c in range(3):
                shift[c] *= radius_voxels / math.sqrt(length)
        objective, _energy = pose_derivatives(
            spectrum, points, trial, shift, scale, box, data, weight, factor, shift_precision,
            new_gradient, new_normal,
        )  # fmt: skip
        if objective < lowest:
            lowest = objective
            here[:] = total
            rotation[:] = trial
            translation[:] = shift
            gradient[:] = new_gradient
            normal[:] = new_normal
            damping *= _LESS_DAMPING
        else:
            damping *= _MORE_DAMPING
    return first - lowest
