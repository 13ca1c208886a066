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
    real = _turned(cube.real, 2.0 * grid.points, rotations[1:], odd=False)
    imag = _turned(cube.imag, 2.0 * grid.points, rotations[1:], odd=True)
    for a, b in zip(real, imag, strict=True):
        total += a + 1j * b
    return total / len(rotations)


def symmetrise_operator(
    operator: NormalOperator, rotations: npt.NDArray[np.float64], grid: FourierGrid
) -> NormalOperator:
    """Mean over the rotations of a normal operator; parameters as `symmetrise_components`."""
    total = operator.weights.astype(np.float64)
    cube = half_cube(operator.spectrum, grid.padded_reach)
    for turned in _turned(cube, grid.weight_points, rotations[1:], odd=False):
        total += turned
    return NormalOperator(total / len(rotations), grid)


def _turned(
    cube: npt.NDArray[np.floating],
    points: npt.NDArray[np.floating],
    rotations: npt.NDArray[np.float64],
    *,
    odd: bool,
) -> Iterator[npt.NDArray[np.float64]]:
    """Samples of a centred half-cube at points (P, 3), turned by each of the rotations.

    The function is even under k -> -k, or odd.
    """
    q = cube.shape[2] - 1
    margin = min(_MARGIN, q)
    sign = -1.0 if odd else 1.0
    beyond = sign * cube[::-1, ::-1, margin:0:-1]
    splines = scipy.ndimage.spline_filter(
        np.concatenate([beyond, cube], axis=2).astype(np.float64), order=3, mode="mirror"
    )
    for rotation in rotations:
        turned = points.astype(np.float64) @ rotation
        flip = turned[:, 0] < 0
        turned[flip] *= -1.0
        places = turned[:, ::-1].T + np.array([q, q, margin])[:, None]
        samples = scipy.ndimage.map_coordinates(
            splines, places, order=3, mode="mirror", prefilter=False
        )
        if odd:
            samples[flip] *= -1.0
        yield samples
