"""Averages over a point group of what the M-step sums up.

For a symmetric structure every particle is as good at all equivalent poses. Summing it there is the
same as turning the sums, once per iteration and class.

Trilinear samples will not do here: they are right on average over all directions only, and many
rotations of point groups take grid points to grid points. Cubic splines interpolate these exactly.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.ndimage

from faml.transforms.fourier import FourierGrid, NormalOperator, half_cube

__all__ = ["symmetrise_components", "symmetrise_operator"]

_MARGIN = 12
"""Planes beyond kx = 0 for the splines' filter, whose memory falls by 0.27 per plane."""


def symmetrise_components(
    values: npt.NDArray[np.complexfloating],
    rotations: npt.NDArray[np.float64],
    grid: FourierGrid,
) -> npt.NDArray[np.complex128]:
    """Mean over the rotations of a volume given by its components.

    Parameters
    ----------
    values : (J,) complex
        At the points of the grid; what lies beyond the ball of `NormalOperator.confine` is not
        turned well.
    rotations : (G, 3, 3) float64
        A group, the identity first.
    grid : FourierGrid

    Returns
    -------
    (J,) complex128
    """
    total = values.astype(np.complex128)
    edge = grid.work_edge
    big = np.zeros((2 * edge,) * 3, dtype=np.float32)
    inner = slice(edge - edge // 2, 2 * edge - edge // 2)
    big[inner, inner, inner] = grid.cropped_volume(values)
    padded = scipy.fft.rfftn(scipy.fft.ifftshift(big))
    cube = half_cube(padded, grid.padded_reach)
    for turned in _turned(cube, 2.0 * grid.points, rotations[1:]):
        total += turned
    return total / len(rotations)


def symmetrise_operator(
    operator: NormalOperator, rotations: npt.NDArray[np.float64], grid: FourierGrid
) -> NormalOperator:
    """Mean over the rotations of a normal operator; parameters as `symmetrise_components`."""
    total = operator.weights.astype(np.float64)
    cube = half_cube(operator.spectrum, grid.padded_reach)
    for turned in _turned(cube, grid.weight_points, rotations[1:]):
        total += turned.real
    return NormalOperator(total / len(rotations), grid)


def _turned(
    cube: npt.NDArray[np.inexact],
    points: npt.NDArray[np.floating],
    rotations: npt.NDArray[np.float64],
) -> Iterator[npt.NDArray[np.inexact]]:
    """Samples of a centred, Hermitian half-cube at points (P, 3), turned by each rotation."""
    q = cube.shape[2] - 1
    margin = min(_MARGIN, q)
    beyond = cube[::-1, ::-1, margin:0:-1].conj()
    kind = np.complex128 if np.iscomplexobj(cube) else np.float64
    splines = scipy.ndimage.spline_filter(
        np.concatenate([beyond, cube], axis=2).astype(kind), order=3, output=kind, mode="mirror"
    )
    for rotation in rotations:
        turned = points.astype(np.float64) @ rotation
        flip = turned[:, 0] < 0
        turned[flip] *= -1.0
        places = turned[:, ::-1].T + np.array([q, q, margin])[:, None]
        samples = scipy.ndimage.map_coordinates(
            splines, places, order=3, mode="mirror", prefilter=False
        )
        samples[flip] = samples[flip].conj()
        yield samples
