"""Central slices of a reference and their adjoint (method.md sections 1, 2 and 5).

A spectrum is a centred half-cube ``[kz + q, ky + q, kx]`` (`faml.conventions`). With ``scale`` 2 it
is the spectrum of the twofold padded volume, whose grid is twice as fine. A *point list* holds
the half-space components used at the current resolution, as integer (kx, ky, kz) float32 rows.
"""

from __future__ import annotations

import math

import numpy as np

from faml.kernels._jit import kernel

__all__ = [
    "gather_weights",
    "phase_factors",
    "pose_terms",
    "refine_shift",
    "rotate_weight",
    "shell_residual",
    "shift_derivatives",
    "slice_spectrum",
    "turn_back",
]


@kernel
def slice_spectrum(spectrum, points, rotation, scale, out):
    """Trilinear samples ``A(R^T k)`` at every point of the list.

    Parameters
    ----------
    spectrum : (2q + 1, 2q + 1, q + 1) complex64
        Centred half-cube; needs ``q >= scale * |k| + 1`` for every point.
    points : (J, 3) float32
        kx, ky, kz.
    rotation : (3, 3) float64
        Active rotation R of the pose.
    scale : float
        Grid points of `spectrum` per unit of k (2 for the padded spectrum).
    out : (J,) complex64
        Overwritten.
    """
    q = spectrum.shape[2] - 1
    r = (rotation * scale).astype(np.float32)
    for j in range(points.shape[0]):
        px, py, pz = points[j, 0], points[j, 1], points[j, 2]
        x = r[0, 0] * px + r[1, 0] * py + r[2, 0] * pz
        y = r[0, 1] * px + r[1, 1] * py + r[2, 1] * pz
        z = r[0, 2] * px + r[1, 2] * py + r[2, 2] * pz
        sign = np.float32(1.0)
        if x < 0:
            x, y, z = -x, -y, -z
            sign = np.float32(-1.0)
        y += np.float32(q)
        z += np.float32(q)
        ix, iy, iz = int(x), int(y), int(z)
        fx, fy, fz = x - ix, y - iy, z - iz
        gx = np.float32(1.0) - fx
        gy = np.float32(1.0) - fy
        a = gx * spectrum[iz, iy, ix] + fx * spectrum[iz, iy, ix + 1]
        b = gx * spectrum[iz, iy + 1, ix] + fx * spectrum[iz, iy + 1, ix + 1]
        c = gx * spectrum[iz + 1, iy, ix] + fx * spectrum[iz + 1, iy, ix + 1]
        d = gx * spectrum[iz + 1, iy + 1, ix] + fx * spectrum[iz + 1, iy + 1, ix + 1]
        low = gy * a + fy * b
        high = gy * c + fy * d
        value = (np.float32(1.0) - fz) * low + fz * high
        out[j] = complex(value.real, sign * value.imag)


@kernel
def turn_back(values, points, weights, rotation, scale, accumulator):
    """Add ``weights * values`` to the half-cube at ``R^T k``: the adjoint of `slice_spectrum`.

    The accumulator collects each component in the half-space it falls into; the plane kx = 0
    holds half of its Hermitian sum, which `transforms.fourier.half_cube_adjoint` completes.

    Parameters
    ----------
    values : (J,) complex64
        Data terms, already shifted back.
    points : (J, 3) float32
    weights : (J,) float32
        Multiplicity of the component times anything else that scales it.
    rotation : (3, 3) float64
        R of the pose.
    scale : float
    accumulator : (2q + 1, 2q + 1, q + 1) complex64
        Added to.
    """
    q = accumulator.shape[2] - 1
    r = (rotation * scale).astype(np.float32)
    one = np.float32(1.0)
    for j in range(points.shape[0]):
        px, py, pz = points[j, 0], points[j, 1], points[j, 2]
        x = r[0, 0] * px + r[1, 0] * py + r[2, 0] * pz
        y = r[0, 1] * px + r[1, 1] * py + r[2, 1] * pz
        z = r[0, 2] * px + r[1, 2] * py + r[2, 2] * pz
        value = weights[j] * values[j]
        if x < 0:
            x, y, z = -x, -y, -z
            value = value.conjugate()
        y += np.float32(q)
        z += np.float32(q)
        ix, iy, iz = int(x), int(y), int(z)
        fx, fy, fz = x - ix, y - iy, z - iz
        gx, gy, gz = one - fx, one - fy, one - fz
        accumulator[iz, iy, ix] += (gz * gy * gx) * value
        accumulator[iz, iy, ix + 1] += (gz * gy * fx) * value
        accumulator[iz, iy + 1, ix] += (gz * fy * gx) * value
        accumulator[iz, iy + 1, ix + 1] += (gz * fy * fx) * value
        accumulator[iz + 1, iy, ix] += (fz * gy * gx) * value
        accumulator[iz + 1, iy, ix + 1] += (fz * gy * fx) * value
        accumulator[iz + 1, iy + 1, ix] += (fz * fy * gx) * value
        accumulator[iz + 1, iy + 1, ix + 1] += (fz * fy * fx) * value


@kernel
def rotate_weight(weight, points, rotation, factor, out):
    """Add ``factor * W(R k)`` to ``out``: the weight turned back into the reference's frame.

    Gathered rather than scattered, so that it stays smooth and positive (see ARCHITECTURE.md).

    Parameters
    ----------
    weight : (2q + 1, 2q + 1, q + 1) float32
        Centred half-cube, Friedel symmetric; needs ``q >= |k| + 1``.
    points : (J, 3) float32
    rotation : (3, 3) float64
        R of the pose.
    factor : float
    out : (J,) float64
        Added to.
    """
    q = weight.shape[2] - 1
    r = rotation.astype(np.float32)
    one = np.float32(1.0)
    for j in range(points.shape[0]):
        px, py, pz = points[j, 0], points[j, 1], points[j, 2]
        x = r[0, 0] * px + r[0, 1] * py + r[0, 2] * pz
        y = r[1, 0] * px + r[1, 1] * py + r[1, 2] * pz
        z = r[2, 0] * px + r[2, 1] * py + r[2, 2] * pz
        if x < 0:
            x, y, z = -x, -y, -z
        y += np.float32(q)
        z += np.float32(q)
        ix, iy, iz = int(x), int(y), int(z)
        fx, fy, fz = x - ix, y - iy, z - iz
        gx, gy = one - fx, one - fy
        low = gy * (gx * weight[iz, iy, ix] + fx * weight[iz, iy, ix + 1]) + fy * (
            gx * weight[iz, iy + 1, ix] + fx * weight[iz, iy + 1, ix + 1]
        )
        high = gy * (gx * weight[iz + 1, iy, ix] + fx * weight[iz + 1, iy, ix + 1]) + fy * (
            gx * weight[iz + 1, iy + 1, ix] + fx * weight[iz + 1, iy + 1, ix + 1]
        )
        out[j] += factor * ((one - fz) * low + fz * high)


@kernel
def phase_factors(points, translation, box, out):
    """Shift factors ``exp(-2 pi i k.t / n)`` (method.md section 1).

    Parameters
    ----------
    points : (J, 3) float32
        Integer kx, ky, kz.
    translation : (3,) float64
        x, y, z in voxels.
    box : int
        Edge n of the box in voxels.
    out : (J,) complex64
        Overwritten.
    """
    top = 0
    for j in range(points.shape[0]):
        for a in range(3):
            top = max(top, int(abs(points[j, a])))
    # One table per axis: three products per point instead of a sine and a cosine.
    table = np.empty((3, 2 * top + 1), np.complex64)
    for a in range(3):
        step = -2.0 * math.pi * translation[a] / box
        for k in range(-top, top + 1):
            table[a, k + top] = complex(math.cos(step * k), math.sin(step * k))
    for j in range(points.shape[0]):
        out[j] = (
            table[0, int(points[j, 0]) + top]
            * table[1, int(points[j, 1]) + top]
            * table[2, int(points[j, 2]) + top]
        )


@kernel
def pose_terms(sliced, data, weight, multiplicity, precision):
    """Cross and energy terms of the squared residual of one pose (method.md section 2).

    Parameters
    ----------
    sliced : (J,) complex64
        ``(R_phi A)_j``, shifted.
    data : (J,) complex64
        y.
    weight : (J,) float32
        W.
    multiplicity : (J,) float32
        1 or 2: how many components of the full sphere the half-space point stands for.
    precision : (J,) float32
        ``1 / sigma_r^2``.

    Returns
    -------
    cross, energy : float64
        ``sum Re(conj(RA) y) / sigma^2`` and ``sum W |RA|^2 / sigma^2`` over the full sphere.
    """
    cross = 0.0
    energy = 0.0
    for j in range(sliced.shape[0]):
        s = sliced[j]
        factor = multiplicity[j] * precision[j]
        cross += factor * (s.real * data[j].real + s.imag * data[j].imag)
        energy += factor * weight[j] * (s.real * s.real + s.imag * s.imag)
    return cross, energy


@kernel
def shell_residual(sliced, data, weight, multiplicity, shells, factor, out):
    """Add ``factor * sum_{j in shell} |y - W RA|^2 / W`` per shell to ``out``.

    Parameters
    ----------
    sliced, data : (J,) complex64
    weight, multiplicity : (J,) float32
    shells : (J,) int32
        Shell index of each point.
    factor : float
        Posterior weight of the pose.
    out : (S,) float64
        Added to.
    """
    for j in range(sliced.shape[0]):
        w = weight[j]
        if w > 0:
            real = data[j].real - w * sliced[j].real
            imag = data[j].imag - w * sliced[j].imag
            out[shells[j]] += factor * multiplicity[j] * (real * real + imag * imag) / w


@kernel
def shift_derivatives(product, points, box, translation, gradient, hessian):
    """Correlation at a shift, with its derivatives.

    ``c(t) = sum_j Re(g_j exp(2 pi i k_j.t / n))`` for ``g = multiplicity y conj(R A) / sigma^2``.

    Parameters
    ----------
    product : (J,) complex64
        g.
    points : (J, 3) float32
        kx, ky, kz.
    box : int
        Edge n in voxels.
    translation : (3,) float64
        x, y, z in voxels.
    gradient : (3,) float64
        Overwritten, per voxel.
    hessian : (3, 3) float64
        Overwritten, per voxel^2.

    Returns
    -------
    float64
        c(t).
    """
    phases = np.empty(product.shape[0], np.complex64)
    phase_factors(points, -translation, box, phases)
    gradient[:] = 0.0
    hessian[:] = 0.0
    total = 0.0
    factor = 2.0 * math.pi / box
    for j in range(product.shape[0]):
        value = product[j] * phases[j]
        real, imag = float(value.real), float(value.imag)
        total += real
        for a in range(3):
            ka = factor * points[j, a]
            gradient[a] -= ka * imag
            for b in range(a + 1):
                hessian[a, b] -= ka * factor * points[j, b] * real
    for a in range(3):
        for b in range(a):
            hessian[b, a] = hessian[a, b]
    return total


@kernel
def refine_shift(product, points, box, radius_voxels, steps, translation):
    """Newton steps on the correlation from a grid maximum; kept only while it rises.

    Parameters
    ----------
    product, points, box
        As in `shift_derivatives`.
    radius_voxels : float
        Largest |t|.
    steps : int
        At most so many.
    translation : (3,) float64
        Start, x, y, z in voxels; overwritten.

    Returns
    -------
    float64
        Correlation at the result.
    """
    gradient = np.empty(3)
    hessian = np.empty((3, 3))
    trial = np.empty(3)
    here = shift_derivatives(product, points, box, translation, gradient, hessian)
    for _ in range(steps):
        # A maximum needs a negative definite Hessian; elsewhere Newton would climb to a saddle.
        a, b, c = hessian[0, 0], hessian[0, 1], hessian[0, 2]
        d, e, f = hessian[1, 1], hessian[1, 2], hessian[2, 2]
        minor = a * d - b * b
        determinant = a * (d * f - e * e) - b * (b * f - c * e) + c * (b * e - c * d)
        if not (a < 0.0 and minor > 0.0 and determinant < 0.0):
            break
        gx, gy, gz = gradient[0], gradient[1], gradient[2]
        trial[0] = (d * f - e * e) * gx + (c * e - b * f) * gy + (b * e - c * d) * gz
        trial[1] = (c * e - b * f) * gx + (a * f - c * c) * gy + (b * c - a * e) * gz
        trial[2] = (b * e - c * d) * gx + (b * c - a * e) * gy + (a * d - b * b) * gz
        length = 0.0
        for i in range(3):
            trial[i] = translation[i] - trial[i] / determinant
            length += trial[i] * trial[i]
        if length > radius_voxels * radius_voxels:
            break
        there = shift_derivatives(product, points, box, trial, gradient, hessian)
        if not there > here:
            break
        here = there
        translation[:] = trial
    return here


@kernel
def gather_weights(weight, indices, out):
    """``out[j] = weight.flat[indices[j]]`` for real (or complex) arrays of the half spectrum."""
    flat = weight.reshape(-1)
    for j in range(indices.shape[0]):
        out[j] = flat[indices[j]]
