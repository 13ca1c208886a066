"""Central slices of a reference and their adjoint (method.md sections 1, 2 and 5).

A spectrum is a centred half-cube ``[kz + q, ky + q, kx]`` (`faml.conventions`). With ``scale`` 2 it
is the spectrum of the twofold padded volume, whose grid is twice as fine. A *point list* holds
the half-space components used at the current resolution, as integer (kx, ky, kz) float32 rows.
"""

from __future__ import annotations

import numpy as np

from faml.kernels._jit import kernel
from faml.kernels.interpolation import cell, trilinear

__all__ = ["rotate_weight", "slice_spectrum", "turn_back"]


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
    real = spectrum.view(np.float32).reshape(-1)
    imag = real[1:]
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
        corner, fx, fy, fz = cell(x, y, z, q, 2)
        out[j] = complex(
            trilinear(real, corner, fx, fy, fz, q, 2),
            sign * trilinear(imag, corner, fx, fy, fz, q, 2),
        )


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
    flat = accumulator.reshape(-1)
    row, plane = np.uint64(q + 1), np.uint64((2 * q + 1) * (q + 1))
    step = np.uint64(1)
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
        a, fx, fy, fz = cell(x, y, z, q, 1)
        gx, gy, gz = one - fx, one - fy, one - fz
        for corner, weight in (
            (a, gz * gy),
            (a + row, gz * fy),
            (a + plane, fz * gy),
            (a + plane + row, fz * fy),
        ):
            flat[corner] += (weight * gx) * value
            flat[corner + step] += (weight * fx) * value


@kernel
def rotate_weight(weight, points, rotation, factor, out):
    """Add ``factor * W(R k)`` to ``out``: the weight turned back into the reference's frame.

    Gathered rather than scattered: scattering W would fold the repetitions of its point spread
    function into the box (see ARCHITECTURE.md).

    Parameters
    ----------
    weight : (2q + 1, 2q + 1, q + 1) float32
        Centred half-cube, Friedel symmetric; needs ``q > |k|``.
    points : (P, 3) float32
        In steps of the half-cube.
    rotation : (3, 3) float64
        R of the pose.
    factor : float
    out : (P,) float64
        Added to.
    """
    q = weight.shape[2] - 1
    flat = weight.reshape(-1)
    r = rotation.astype(np.float32)
    for j in range(points.shape[0]):
        px, py, pz = points[j, 0], points[j, 1], points[j, 2]
        x = r[0, 0] * px + r[0, 1] * py + r[0, 2] * pz
        y = r[1, 0] * px + r[1, 1] * py + r[1, 2] * pz
        z = r[2, 0] * px + r[2, 1] * py + r[2, 2] * pz
        if x < 0:
            x, y, z = -x, -y, -z
        corner, fx, fy, fz = cell(x, y, z, q, 1)
        out[j] += factor * trilinear(flat, corner, fx, fy, fz, q, 1)
