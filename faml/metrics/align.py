"""Rigid alignment of one map to another: global search, then local refinement.

The search is the project's own SO(3) correlation with phases, once per trial shift. What it
proposes is refined and judged by real-space cubic splines (`faml.metrics.resample`), which share
no code with it: an error in the kernels can make an alignment fail but never flatter it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from faml.conventions import rotation_angle_deg
from faml.metrics.fsc import pearson
from faml.metrics.resample import Resampler, crop_fourier, transform_volume
from faml.transforms.fourier import (
    even_fast_length,
    fourier_grid,
    full_resolution_shell,
    padded_half_cube,
    spectrum_of,
)
from faml.transforms.harmonics import shell_transform
from faml.transforms.so3 import so3_correlation

__all__ = ["Alignment", "align_volume", "transform_volume"]

_BANDWIDTH = 20
_DEFAULT_SHELL = 8
_PEAKS = 4  # kept of every trial shift
_TRIED = 12  # distinct candidates refined at low resolution
_REFINED = 3  # of which refined with everything
_DISTINCT_DEG = 12.0
_DISTINCT_VOXELS = 3.0
_COARSE_STEPS = 8
_FINE_STEPS = 12
_STEP_DEG = 0.01  # a smaller step ends the refinement
_STEP_VOXELS = 0.002
_LARGEST_STEP_RAD = 0.2  # beyond it a linear model of a rotation says nothing


@dataclass(frozen=True)
class _Pose:
    """Puts the reference onto the moving map (the inverse of what is reported)."""

    rotation: npt.NDArray[np.float64]
    translation: npt.NDArray[np.float64]  # x, y, z in voxels of the grid in use
    score: float

    def scaled(self, factor: float) -> _Pose:
        return _Pose(self.rotation, self.translation * factor, self.score)


@dataclass(frozen=True)
class Alignment:
    """How a moving map lies on a reference.

    Attributes
    ----------
    rotation : (3, 3) float64
    translation : (3,) float64
        x, y, z in voxels: the moving map, rotated then shifted, lies on the reference.
    correlation : float
        Pearson coefficient over the whole box at that pose, between the *moving* map as it is and
        the reference brought onto it. The other way round, interpolation would smooth the moving
        map's noise and cut the corners of its box, and so flatter it (0.92 for a true 0.89).
    volume : (n, n, n) float32
        The moving map transformed onto the reference.
    """

    rotation: npt.NDArray[np.float64]
    translation: npt.NDArray[np.float64]
    correlation: float
    volume: npt.NDArray[np.float32]


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
        The reference should be the cleaner one, with nothing in the corners of its box.
    max_shift_voxels : float
        Largest shift tried per axis in the search; the refinement may go a little beyond.
    max_shell : int, optional
        Last Fourier shell of the search, which is refined with all shells; default a quarter of
        the box, at most 8. Lower it where ``moving`` is not resolved that far.

    Returns
    -------
    Alignment

    Raises
    ------
    ValueError
        If the shapes differ or are not cubic, a map holds NaN or Inf, or one is constant.
    """
    _check(moving, reference)
    n = moving.shape[0]
    shell = _DEFAULT_SHELL if max_shell is None else max_shell
    if max_shell is None:
        shell = max(3, min(shell, n // 4))
    shell = max(1, min(shell, full_resolution_shell(n)))
    trials = _search(moving, reference, shell, max_shift_voxels)

    # First at low resolution, whose peak is broad and whose box is small, then with everything.
    edge = min(n, even_fast_length(max(12, 3 * shell)))
    small = crop_fourier(moving, edge)
    resampler = Resampler(crop_fourier(reference, edge))
    coarse = [
        _refine(small, resampler, trial.scaled(edge / n), _COARSE_STEPS).scaled(n / edge)
        for trial in trials
    ]
    coarse.sort(key=lambda pose: -pose.score)
    resampler = Resampler(reference)
    best = max(
        (_refine(moving, resampler, pose, _FINE_STEPS) for pose in _distinct(coarse, _REFINED)),
        key=lambda pose: pose.score,
    )
    rotation = best.rotation.T
    translation = -rotation @ best.translation
    placed = transform_volume(moving, rotation, translation)
    return Alignment(rotation, translation, best.score, placed)


def _check(moving: npt.NDArray[np.floating], reference: npt.NDArray[np.floating]) -> None:
    shapes = moving.shape, reference.shape
    if shapes[0] != shapes[1] or moving.ndim != 3 or len(set(moving.shape)) != 1:
        raise ValueError(f"expected two cubes of one size, found {shapes[0]} and {shapes[1]}")
    for name, volume in (("moving", moving), ("reference", reference)):
        if not np.isfinite(volume).all():
            raise ValueError(f"the {name} map holds NaN or Inf")
        if not np.ptp(volume) > 0:
            raise ValueError(f"the {name} map is constant: it holds no signal to align")


def _search(
    moving: npt.NDArray[np.floating],
    reference: npt.NDArray[np.floating],
    shell: int,
    max_shift_voxels: float,
) -> list[_Pose]:
    """Distinct best poses of a grid of shifts and all rotations, best first."""
    n = moving.shape[0]
    grid = fourier_grid(n, shell, shell)
    plan, so3 = shell_transform(_BANDWIDTH), so3_correlation(_BANDWIDTH)
    radii = np.arange(1, shell + 1, dtype=np.float32)
    spectrum = grid.take(spectrum_of(moving.astype(np.float32)))

    def harmonics(values: npt.NDArray[np.complex64]) -> npt.NDArray[np.complex64]:
        return plan.analyse_hermitian(plan.sample(padded_half_cube(values, grid), radii, 2.0))

    fixed = harmonics(spectrum_of(reference.astype(np.float32)))
    # A quarter of the shortest wave: twice that off, the peak would have vanished.
    step = max(1.0, n / (4.0 * shell))
    reach = np.floor(max_shift_voxels / step)
    steps = np.arange(-reach, reach + 1) * step
    points = grid.points.astype(np.float64)
    trials = []
    for shift in np.stack(np.meshgrid(*[steps] * 3), axis=-1).reshape(-1, 3):
        # ``shift`` moves the moving map; the pose sought moves the reference the other way.
        moved = spectrum * np.exp(-2j * np.pi / n * (points @ shift))
        score = so3.correlate(harmonics(grid.put(moved)), fixed, radii**2, even=False)
        found, values = so3.peaks(score, _PEAKS, np.deg2rad(_DISTINCT_DEG))
        trials += [
            _Pose(rotation.as_matrix(), -shift, float(value))
            for rotation, value in zip(found, values, strict=True)
        ]
    trials.sort(key=lambda pose: -pose.score)
    return _distinct(trials, _TRIED)


def _distinct(poses: Iterable[_Pose], count: int) -> list[_Pose]:
    """First ``count`` poses that differ: the best one's neighbours lead to the same place."""
    kept: list[_Pose] = []
    for pose in poses:
        if all(
            rotation_angle_deg(pose.rotation, other.rotation) > _DISTINCT_DEG
            or np.linalg.norm(pose.translation - other.translation) > _DISTINCT_VOXELS
            for other in kept
        ):
            kept.append(pose)
            if len(kept) == count:
                break
    return kept


def _refine(
    target: npt.NDArray[np.floating], resampler: Resampler, start: _Pose, steps: int
) -> _Pose:
    """Gauss-Newton ascent of the correlation of ``target`` with the placed reference.

    With T the placed reference, a turn ``exp(w)`` about its centre and a shift d change it by
    ``-(w . (u x grad T) + d . grad T)``, u counted from that centre. A step that does not raise
    the correlation is halved; the score never falls.
    """
    n = target.shape[0]
    values = np.asarray(target, dtype=np.float64).ravel()
    positions = np.indices((n, n, n))[::-1].reshape(3, -1) - float(n // 2)
    placed = resampler.place(start.rotation, start.translation)
    best = _Pose(start.rotation, start.translation, pearson(placed, target))
    for _ in range(steps):
        turn, shift = _newton_step(values, placed, positions - best.translation[:, None])
        turn *= min(1.0, _LARGEST_STEP_RAD / max(float(np.linalg.norm(turn)), 1e-12))
        improved = False
        for _ in range(4):
            rotation = Rotation.from_rotvec(turn).as_matrix() @ best.rotation
            translation = best.translation + shift
            trial = resampler.place(rotation, translation)
            score = pearson(trial, target)
            if score > best.score:
                best, placed, improved = _Pose(rotation, translation, score), trial, True
                break
            turn, shift = 0.5 * turn, 0.5 * shift
        small = np.rad2deg(np.linalg.norm(turn)) < _STEP_DEG
        if not improved or (small and np.linalg.norm(shift) < _STEP_VOXELS):
            break
    return best


def _newton_step(
    values: npt.NDArray[np.float64],
    placed: npt.NDArray[np.float32],
    positions: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Turn (rad) and shift (voxels), (3,) each, from ``values ~ a T + b + a J (turn, shift)``."""
    by_axis = [np.gradient(placed.astype(np.float64), axis=axis) for axis in (2, 1, 0)]
    gradient = np.stack(by_axis).reshape(3, -1)
    design = np.empty((8, values.size))
    design[0] = placed.ravel()
    design[1] = 1.0
    design[2:5] = -np.cross(positions, gradient, axis=0)
    design[5:8] = -gradient
    normal = design @ design.T
    # Scaled to a unit diagonal: a turn moves far voxels more than a shift does.
    scale = 1.0 / np.sqrt(np.maximum(np.diag(normal), np.finfo(np.float64).tiny))
    damped = normal * scale[:, None] * scale + 1e-6 * np.eye(8)
    found = scale * np.linalg.solve(damped, scale * (design @ values))
    if not abs(found[0]) > 0:
        return np.zeros(3), np.zeros(3)
    return found[2:5] / found[0], found[5:8] / found[0]
