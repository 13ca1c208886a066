"""Trilinear interpolation in a half-cube, shared by everything that reads one between grid points.

A half-cube is read as a flat float32 array: two floats a component in a complex one. Indices are
unsigned, which spares the test for negative ones that Python's indexing asks for.
"""

from __future__ import annotations

import numpy as np

from faml.kernels._jit import kernel

__all__ = ["cell", "trilinear", "trilinear_gradient"]


@kernel
def cell(x, y, z, reach, stride):
    """Corner of the cell that holds a point, and the point's place in it.

    Parameters
    ----------
    x, y, z : float32
        Grid steps from the origin; ``0 <= x < reach`` and ``|y|, |z| < reach``.
    reach : int
        Q of the half-cube ``(2q + 1, 2q + 1, q + 1)``.
    stride : int
        Floats per component: 2 for a complex half-cube, 1 for a real one.

    Returns
    -------
    corner : uint64
        Flat index of the cell's lowest corner.
    fx, fy, fz : float32
        Fractions of a step beyond it.
    """
    y += np.float32(reach)
    z += np.float32(reach)
    ix, iy, iz = np.uint32(x), np.uint32(y), np.uint32(z)
    fx, fy, fz = x - np.float32(ix), y - np.float32(iy), z - np.float32(iz)
    plane, row = np.uint64(2 * reach + 1), np.uint64(reach + 1)
    corner = ((np.uint64(iz) * plane + np.uint64(iy)) * row + np.uint64(ix)) * np.uint64(stride)
    return corner, fx, fy, fz


@kernel
def trilinear(flat, corner, fx, fy, fz, reach, stride):
    """Value at a point of a cell.

    Parameters
    ----------
    flat : (F,) float32
        The half-cube's memory, from the part that is wanted on (real or imaginary).
    corner, fx, fy, fz
        From `cell`.
    reach, stride : int
        As there.

    Returns
    -------
    float32
    """
    step = np.uint64(stride)
    row = np.uint64((reach + 1) * stride)
    plane = np.uint64((2 * reach + 1) * (reach + 1) * stride)
    a, b = corner, corner + row
    c, d = corner + plane, corner + plane + row
    one = np.float32(1.0)
    gx, gy, gz = one - fx, one - fy, one - fz
    low = gy * (gx * flat[a] + fx * flat[a + step]) + fy * (gx * flat[b] + fx * flat[b + step])
    high = gy * (gx * flat[c] + fx * flat[c + step]) + fy * (gx * flat[d] + fx * flat[d + step])
    return gz * low + fz * high


@kernel
def trilinear_gradient(flat, corner, fx, fy, fz, reach, stride):
    """Value at a point of a cell and its derivatives within the cell.

    Parameters
    ----------
    flat, corner, fx, fy, fz, reach, stride
        As in `trilinear`.

    Returns
    -------
    value, dx, dy, dz : float32
        Derivatives per grid step.
    """
    step = np.uint64(stride)
    row = np.uint64((reach + 1) * stride)
    plane = np.uint64((2 * reach + 1) * (reach + 1) * stride)
    a, b = corner, corner + row
    c, d = corner + plane, corner + plane + row
    one = np.float32(1.0)
    gy, gz = one - fy, one - fz
    a0, b0, c0, d0 = flat[a], flat[b], flat[c], flat[d]
    ax, bx, cx, dx = (
        flat[a + step] - a0,
        flat[b + step] - b0,
        flat[c + step] - c0,
        flat[d + step] - d0,
    )
    a0 += fx * ax
    b0 += fx * bx
    c0 += fx * cx
    d0 += fx * dx
    low, high = gy * a0 + fy * b0, gy * c0 + fy * d0
    return (
        gz * low + fz * high,
        gz * (gy * ax + fy * bx) + fz * (gy * cx + fy * dx),
        gz * (b0 - a0) + fz * (d0 - c0),
        high - low,
    )
