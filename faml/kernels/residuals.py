"""Shift factors and the squared residual of a pose (method.md sections 1 and 2)."""

from __future__ import annotations

import math

import numpy as np

from faml.kernels._jit import kernel
from faml.kernels.slicing import slice_spectrum

__all__ = ["phase_factors", "pose_grid_terms", "pose_terms", "shell_residual"]

_BLOCK = 512
"""Terms that are summed in single precision before they are added in double."""


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
def pose_grid_terms(
    spectrum, points, rotations, scale, phases, whitened, weights, turns, moves, out
):
    """``sum W |RA|^2 / sigma^2 - 2 sum Re(conj(R_phi A) y) / sigma^2`` of many poses.

    Each rotation is sliced once, whatever the number of its shifts.

    Parameters
    ----------
    spectrum : (2q + 1, 2q + 1, q + 1) complex64
        Padded spectrum of the reference, see `slice_spectrum`.
    points : (J, 3) float32
        kx, ky, kz.
    rotations : (M, 3, 3) float64
    scale : float
    phases : (T, J) complex64
        Shift factors, see `phase_factors`.
    whitened : (J,) complex64
        ``multiplicity conj(y) / sigma^2``.
    weights : (J,) float32
        ``multiplicity W / sigma^2``.
    turns, moves : (P,) int64
        Rotation and shift of each pose; those of one rotation lie together.
    out : (P,) float64
        Overwritten.
    """
    count = points.shape[0]
    sliced = np.empty(count, np.complex64)
    energy = 0.0
    last = -1
    for i in range(turns.shape[0]):
        if turns[i] != last:
            last = turns[i]
            slice_spectrum(spectrum, points, rotations[last], scale, sliced)
            energy = 0.0
            for start in range(0, count, _BLOCK):
                part = np.float32(0.0)
                for j in range(start, min(start + _BLOCK, count)):
                    s = sliced[j]
                    part += weights[j] * (s.real * s.real + s.imag * s.imag)
                    sliced[j] = s * whitened[j]
                energy += part
        phase = phases[moves[i]]
        cross = 0.0
        for start in range(0, count, _BLOCK):
            part = np.float32(0.0)
            for j in range(start, min(start + _BLOCK, count)):
                part += sliced[j].real * phase[j].real - sliced[j].imag * phase[j].imag
            cross += part
        out[i] = energy - 2.0 * cross


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
