"""Rigid alignment of one map to another: global search, then local refinement.

The search is the project's own SO(3) correlation with phases, once per trial shift; the refinement
maximises the correlation of real-space cubic-spline interpolation, which shares no code with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import affine_transform
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from faml.metrics.fsc import pearson
from faml.transforms.fourier import (
    fourier_grid,
    full_resolution_shell,
    padded_half_cube,
    spectrum_of,
    volume_of,
)
from faml.transforms.harmonics import shell_transform
from faml.transforms.so3 import so3_correlation

__all__ = ["Alignment", "align_volume", "transform_volume"]

_BANDWIDTH = 20
_REFINED = 3  # best trial poses that are refined


@dataclass(frozen=True)
class Alignment:
    """How a moving map lies on a reference.

    Attributes
    ----------
    rotation : (3, 3) float64
    translation : (3,) float64
        x, y, z in voxels: the moving map, rotated then shifted, lies on the reference.
    correlation : float
        Pearson coefficient over the whole box at that pose.
    volume : (n, n, n) float32
        The moving map transformed onto the reference.
    """

    rotation: npt.NDArray[np.float64]
    translation: npt.NDArray[np.float64]
    correlation: float
    volume: npt.NDArray[np.float32]


def transform_volume(
    volume: npt.NDArray[np.floating],
    rotation: npt.NDArray[np.float64],
    translation: npt.NDArray[np.float64],
    *,
    upsample: int = 2,
) -> npt.NDArray[np.float32]:
    """``(R_phi A)(x) = A(R^T (x - t))`` by cubic splines on a Fourier-upsampled volume.

    Parameters
    ----------
    volume : (n, n, n) float
    rotation : (3, 3) float64
    translation : (3,) float64
        x, y, z in voxels.
    upsample : int
        Splines lose little on data this much oversampled.
    """
    n = volume.shape[0]
    fine = _upsampled(volume, upsample)
    flip = np.eye(3)[::-1]  # (x, y, z) vectors to [z, y, x] indices
    turn = flip @ rotation.T @ flip
    shift = np.asarray(translation, dtype=np.float64)[::-1]
    centre = np.full(3, n // 2)
    offset = upsample * (n // 2) - upsample * turn @ (centre + shift)
    moved = affine_transform(fine, upsample * turn, offset, output_shape=(n, n, n), order=3)
    return moved.astype(np.float32)


def _upsampled(volume: npt.NDArray[np.floating], factor: int) -> npt.NDArray[np.float64]:
    """Fourier interpolation that keeps voxel n // 2 at voxel factor * (n // 2)."""
    n = volume.shape[0]
    if factor == 1:
        return np.asarray(volume, dtype=np.float64)
    big = factor * n
    spectrum = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(volume)))
    padded = np.zeros((big,) * 3, dtype=np.complex128)
    start = big // 2 - n // 2
    padded[start : start + n, start : start + n, start : start + n] = spectrum
    fine = np.fft.ifftn(np.fft.ifftshift(padded)).real * factor**3
    centred = np.fft.fftshift(fine)
    # fftshift puts the origin at big // 2; for odd n that is not factor * (n // 2).
    return np.roll(centred, factor * (n // 2) - big // 2, axis=(0, 1, 2))


def align_volume(
    moving: npt.NDArray[np.floating],
    reference: npt.NDArray[np.floating],
    *,
    max_shift_voxels: float = 3.0,
    max_shell: int | None = None,
) -> Alignment:
    """Best rigid pose of ``moving`` on ``reference``.

    Parameters
    ----------
    moving, reference : (n, n, n) float
    max_shift_voxels : float
        Largest shift tried per axis in the search; the refinement may go a little beyond.
    max_shell : int, optional
        Last Fourier shell of the search; default a quarter of the box, at most 8.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if moving.shape != reference.shape:
        raise ValueError(f"expected one shape, found {moving.shape} and {reference.shape}")
    n = moving.shape[0]
    shell = min(max_shell or max(3, min(8, n // 4)), full_resolution_shell(n))
    best: Alignment | None = None
    smooth = _lowpassed(moving, shell + 2), _lowpassed(reference, shell + 2)
    for rotation, shift in _search(moving, reference, shell, max_shift_voxels):
        # First at low resolution, whose peak is broad, then with everything.
        pose = _refine(smooth[0], smooth[1], rotation, shift, upsample=1)
        pose = _refine(moving, reference, *pose, upsample=2)
        placed = transform_volume(moving, *pose)
        found = Alignment(*pose, pearson(placed, reference), placed)
        if best is None or found.correlation > best.correlation:
            best = found
    if best is None:
        raise ValueError("the maps hold no signal to align")
    return best


def _lowpassed(volume: npt.NDArray[np.floating], shell: int) -> npt.NDArray[np.float32]:
    n = volume.shape[0]
    grid = fourier_grid(
        n, min(shell, full_resolution_shell(n)), min(shell, full_resolution_shell(n))
    )
    return volume_of(grid.put(grid.take(spectrum_of(volume.astype(np.float32)))), n)


def _search(
    moving: npt.NDArray[np.floating],
    reference: npt.NDArray[np.floating],
    shell: int,
    max_shift_voxels: float,
) -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """The best few (rotation, translation) of a grid of shifts and all rotations."""
    n = moving.shape[0]
    grid = fourier_grid(n, shell, shell)
    plan, so3 = shell_transform(_BANDWIDTH), so3_correlation(_BANDWIDTH)
    radii = np.arange(1, shell + 1, dtype=np.float32)
    spectrum = spectrum_of(reference.astype(np.float32))

    def harmonics(values: npt.NDArray[np.complex64]) -> npt.NDArray[np.complex64]:
        return plan.analyse_hermitian(plan.sample(padded_half_cube(values, grid), radii, 2.0))

    fixed = harmonics(spectrum_of(moving.astype(np.float32)))
    step = max(1.0, n / (4.0 * shell))
    steps = np.arange(-np.floor(max_shift_voxels / step), np.floor(max_shift_voxels / step) + 1)
    trials = []
    points = grid.points.astype(np.float64)
    for shift in np.stack(np.meshgrid(*[steps * step] * 3), axis=-1).reshape(-1, 3):
        # Shifting the reference back by t leaves the pure rotation to be found.
        back = np.exp(2j * np.pi / n * (points @ shift))
        turned = harmonics(grid.put(grid.take(spectrum) * back))
        score = so3.correlate(turned, fixed, radii**2, even=False)
        rotations, values = so3.peaks(score, _REFINED, 0.5)
        trials += [(float(v), r.as_matrix(), shift) for r, v in zip(rotations, values, strict=True)]
    trials.sort(key=lambda trial: -trial[0])
    return [(rotation, shift) for _, rotation, shift in trials[:_REFINED]]


def _refine(
    moving: npt.NDArray[np.floating],
    reference: npt.NDArray[np.floating],
    rotation: npt.NDArray[np.float64],
    translation: npt.NDArray[np.float64],
    *,
    upsample: int,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    fine = _upsampled(moving, upsample)
    n = moving.shape[0]
    flip = np.eye(3)[::-1]

    def pose(p: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], ...]:
        # A tenth of a radian weighs as much as a voxel.
        return rotation @ Rotation.from_rotvec(0.1 * p[:3]).as_matrix(), translation + p[3:]

    def loss(p: npt.NDArray[np.float64]) -> float:
        turn, shift = pose(p)
        matrix = flip @ turn.T @ flip
        offset = upsample * (n // 2 - matrix @ (n // 2 + shift[::-1]))
        placed = affine_transform(fine, upsample * matrix, offset, output_shape=(n, n, n), order=1)
        return -pearson(placed, reference)

    found = minimize(
        loss, np.zeros(6), method="Powell", options={"maxiter": 4, "xtol": 0.02, "ftol": 1e-4}
    )
    turn, shift = pose(found.x)
    return turn, shift
