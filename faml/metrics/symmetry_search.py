"""Which point groups a map has, and where their axes lie.

A map that has a group agrees with itself turned by each of its rotations. The search takes these
correlations from the map's SO(3) autocorrelation; what it proposes is refined and judged by
real-space splines (`faml.metrics.resample`), which share no code with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from faml.conventions import matrices_to_zyz, rotation_angle_deg
from faml.metrics.fsc import fourier_shell_correlation, pearson, resolution_at
from faml.metrics.orientations import sphere_points
from faml.metrics.resample import Resampler, crop_fourier, transform_volume
from faml.symmetry import PointGroup, point_group
from faml.transforms.fourier import (
    even_fast_length,
    fourier_grid,
    full_resolution_shell,
    padded_half_cube,
    spectrum_of,
)
from faml.transforms.harmonics import shell_transform
from faml.transforms.masks import automatic_mask
from faml.transforms.so3 import so3_correlation

__all__ = [
    "SymmetryFit",
    "controls",
    "find_symmetry",
    "in_standard_frame",
    "suggested",
    "symmetry_about",
]

_BANDWIDTH = 24
_DEFAULT_SHELL = 10
_AXES = 1500
_MAIN_AXES = 150
"""Directions of the main axis of a dihedral group that are turned about."""
_AZIMUTHS = 36
_ROTATIONS = 4000
_STARTS = 3
"""Distinct placements of a group's axes that are refined,"""
_NEARLY = 0.95
"""if they are so nearly as good as the best."""
_DISTINCT_DEG = 8.0
_JUDGED = 12
"""Rotations of a group that are judged; each of them is as good as any other."""
_STEP_RAD = 0.05
_STEP_VOXELS = 0.5
_HALF = 0.5
_FINE = 0.25
"""Of the particle's diameter: coarser agreement is that of outlines."""
_AS_FINE = 1.15
_PRIMES = (5, 7, 11, 13)


@dataclass(frozen=True)
class SymmetryFit:
    """How well a map has one point group.

    Attributes
    ----------
    group : PointGroup
    correlation : float
        Pearson coefficient of the map and its turned copies, mean over rotations of the group.
    weakest : float
        The smallest of them.
    resolution_angstrom : float
        To which the map and its turned copies agree (mean FSC 0.5).
    least_alike : (n // 2,) float64
        FSC of the map and the copy that is least like it. The right rotations of a group that is
        too large for it do not hide the wrong ones here.
    rotation : (3, 3) float64
        Turns the group's standard axes (`faml.symmetry`) onto those of the map.
    centre : (3,) float64
        x, y, z in voxels from voxel n // 2 of the point where the axes meet; of a cyclic group's
        axis the point nearest to it.
    """

    group: PointGroup
    correlation: float
    weakest: float
    resolution_angstrom: float
    least_alike: npt.NDArray[np.float64]
    rotation: npt.NDArray[np.float64]
    centre: npt.NDArray[np.float64]


def find_symmetry(
    volume: npt.NDArray[np.floating],
    groups: Sequence[PointGroup],
    voxel_size_angstrom: float,
    *,
    max_shell: int | None = None,
) -> tuple[SymmetryFit, ...]:
    """Best placement of every group's axes in a map.

    Parameters
    ----------
    volume : (n, n, n) float
    groups : sequence of PointGroup
        None of them trivial.
    voxel_size_angstrom : float
    max_shell : int, optional
        Last Fourier shell of the search; default 10, or what the box holds.

    Returns
    -------
    tuple of SymmetryFit
        In the order of ``groups``.

    Raises
    ------
    ValueError
        The map is no cube, holds NaN or Inf, or is constant, or a group is C1.
    """
    n = volume.shape[0]
    if volume.ndim != 3 or len(set(volume.shape)) != 1:
        raise ValueError(f"expected a cubic map (n, n, n), found shape {volume.shape}")
    if not np.isfinite(volume).all():
        raise ValueError("the map holds NaN or Inf")
    if not np.ptp(volume) > 0:
        raise ValueError("the map is constant: it holds no structure")
    if any(group.order == 1 for group in groups):
        raise ValueError("every map has C1: expected other groups")
    shell = min(_DEFAULT_SHELL if max_shell is None else max_shell, full_resolution_shell(n))
    centre = _centre_of_mass(volume)
    centred = transform_volume(volume, np.eye(3), -centre)
    proposals = _Proposals(centred, max(2, shell))
    edge = min(n, even_fast_length(max(12, 3 * shell)))
    coarse = crop_fourier(centred, edge)
    fine = Resampler(volume)
    found = []
    for group in groups:
        best, moved = _refined(coarse, group, proposals.of(group))
        place = centre + moved * n / edge
        if group.name.startswith("C"):
            axis = best[:, 2]
            place = place - (place @ axis) * axis
        found.append(_judged(volume, fine, group, best, place, voxel_size_angstrom))
    return tuple(found)


def symmetry_about(
    volume: npt.NDArray[np.floating], groups: Sequence[PointGroup], voxel_size_angstrom: float
) -> tuple[SymmetryFit, ...]:
    """How well a map has each group about its standard axes, through voxel n // 2."""
    fine, turn, centre = Resampler(volume), np.eye(3), np.zeros(3)
    return tuple(
        _judged(volume, fine, group, turn, centre, voxel_size_angstrom) for group in groups
    )


def controls(group: PointGroup) -> tuple[PointGroup, ...]:
    """Two groups that say how far a map agrees with turned copies of itself by its outline alone.

    They are of prime orders that do not divide the group's, so that it contains neither. A map may
    have one of them all the same, but hardly both.
    """
    primes = [p for p in _PRIMES if group.order % p]
    return tuple(point_group(f"C{p}") for p in primes[:2])


def suggested(
    fits: Sequence[SymmetryFit], volume: npt.NDArray[np.floating], voxel_size_angstrom: float
) -> SymmetryFit | None:
    """The largest group that holds as far as any does, or None if none tells more than the outline.

    Parameters
    ----------
    fits : sequence of SymmetryFit
        Of the volume.
    volume : (n, n, n) float
    voxel_size_angstrom : float
    """
    outline = float(automatic_mask(np.asarray(volume, dtype=np.float32)).sum())
    diameter = 2.0 * (3.0 * outline / (4.0 * np.pi)) ** (1.0 / 3.0) * voxel_size_angstrom
    finest = min(fit.resolution_angstrom for fit in fits)
    if finest > _FINE * diameter:
        return None
    alike = [fit for fit in fits if fit.resolution_angstrom <= _AS_FINE * finest]
    return max(alike, key=lambda fit: fit.group.order)


def in_standard_frame(
    volume: npt.NDArray[np.floating], fit: SymmetryFit
) -> npt.NDArray[np.float32]:
    """The map with its axes where the group's standard ones are, meeting in voxel n // 2."""
    turn = fit.rotation.T
    return transform_volume(volume, turn, -turn @ fit.centre)


class _Proposals:
    """Where a group's axes may lie, from the autocorrelation of a map."""

    def __init__(self, volume: npt.NDArray[np.floating], shell: int) -> None:
        n = volume.shape[0]
        grid = fourier_grid(n, shell, shell)
        plan, self._so3 = shell_transform(_BANDWIDTH), so3_correlation(_BANDWIDTH)
        radii = np.arange(1, shell + 1, dtype=np.float32)
        spectrum = spectrum_of(volume.astype(np.float32))
        samples = plan.sample(padded_half_cube(spectrum, grid), radii, 2.0)
        harmonics = plan.analyse_hermitian(samples)
        scores = self._so3.correlate(harmonics, harmonics, radii**2, even=False)
        self._padded = _over_the_poles(scores)
        self._axes = _turns_of_z(sphere_points(_AXES))
        self._any = Rotation.random(_ROTATIONS, random_state=0).as_matrix()

    def of(self, group: PointGroup) -> list[npt.NDArray[np.float64]]:
        """Distinct rotations of the group's standard axes, best first."""
        turns = self._any
        if group.name.startswith(("C", "D")):
            turns = self._axes
        if group.name.startswith("D"):
            # The main axis first; the twofold ones then leave a turn about it to be found.
            main = [s for s in group.rotations if s[2, 2] > _HALF]
            order = np.argsort(-self._score(np.stack(main), turns), kind="stable")[:_MAIN_AXES]
            about = Rotation.from_euler(
                "Z", np.linspace(0.0, 2.0 * np.pi, _AZIMUTHS, endpoint=False)[:, None]
            ).as_matrix()
            turns = (turns[order][:, None] @ about).reshape(-1, 3, 3)
        scores = self._score(group.rotations, turns)
        kept: list[npt.NDArray[np.float64]] = []
        for i in np.argsort(-scores, kind="stable"):
            if kept and scores[i] < _NEARLY * scores.max():
                break
            if all(_apart(turns[i], other, group) > _DISTINCT_DEG for other in kept):
                kept.append(turns[i])
                if len(kept) == _STARTS:
                    break
        return kept

    def _score(
        self, rotations: npt.NDArray[np.float64], turns: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """Mean autocorrelation (T,) over rotations but the identity, for each turn of the axes."""
        total = np.zeros(len(turns))
        for rotation in rotations[1:]:
            total += self._at(turns @ rotation @ np.swapaxes(turns, 1, 2))
        return total / max(len(rotations) - 1, 1)

    def _at(self, rotations: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The autocorrelation between the grid points."""
        alpha, beta, gamma = matrices_to_zyz(rotations).T
        step = self._so3.spacing_rad
        # One row of the padded table lies before the first.
        places = np.stack([beta / np.pi * self._so3.colatitudes + 0.5, gamma / step, alpha / step])
        return map_coordinates(self._padded, places, order=1, mode="grid-wrap")


def _over_the_poles(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A function (beta, gamma, alpha) with the rows beyond its first and last.

    ``Rz(a) Ry(-b) Rz(g) = Rz(a + pi) Ry(b) Rz(g + pi)``.
    """
    half = scores.shape[1] // 2
    before, after = (np.roll(scores[row], (half, half), axis=(0, 1)) for row in (0, -1))
    return np.concatenate([before[None], scores, after[None]])


def _turns_of_z(axes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rotations (N, 3, 3) that take z to each axis."""
    angles = np.stack([np.arctan2(axes[:, 1], axes[:, 0]), np.arccos(axes[:, 2])], axis=1)
    return Rotation.from_euler("ZY", angles).as_matrix()


def _apart(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], group: PointGroup) -> float:
    """Degrees between two placements of a group's axes, up to what leaves them in place."""
    if group.name.startswith("C"):  # one axis, either way up
        return float(np.rad2deg(np.arccos(np.clip(abs(float(a[:, 2] @ b[:, 2])), 0.0, 1.0))))
    return float(rotation_angle_deg(a @ group.rotations, b).min())


def _generators(group: PointGroup) -> list[npt.NDArray[np.float64]]:
    """Few rotations that make up the group: the smallest turn about each kind of axis."""
    angles = rotation_angle_deg(group.rotations, np.eye(3))
    order = np.argsort(angles, kind="stable")[1:]
    first = group.rotations[order[0]]
    axis = Rotation.from_matrix(first).as_rotvec()
    others = [
        group.rotations[i]
        for i in order
        if np.linalg.norm(np.cross(Rotation.from_matrix(group.rotations[i]).as_rotvec(), axis))
        > 1e-3
    ]
    return [first, *others[:1]]


def _refined(
    volume: npt.NDArray[np.floating],
    group: PointGroup,
    starts: list[npt.NDArray[np.float64]],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Rotation (3, 3) of the axes and centre (3,) where turned copies agree best."""
    resampler = Resampler(volume)
    generators = _generators(group)

    def loss(x: npt.NDArray[np.float64], start: npt.NDArray[np.float64]) -> float:
        turn = Rotation.from_rotvec(x[:3]).as_matrix() @ start
        copies = [_copy(resampler, turn, s, x[3:]) for s in generators]
        return -float(np.mean([pearson(copy, volume) for copy in copies]))

    steps = np.diag([_STEP_RAD] * 3 + [_STEP_VOXELS] * 3)
    best, smallest = None, np.inf
    for start in starts:
        simplex = np.concatenate([np.zeros((1, 6)), steps])
        done = minimize(
            loss, np.zeros(6), args=(start,), method="Nelder-Mead",
            options={"initial_simplex": simplex, "xatol": 2e-3, "fatol": 1e-5, "maxfev": 150},
        )  # fmt: skip
        if done.fun < smallest:
            smallest = float(done.fun)
            best = Rotation.from_rotvec(done.x[:3]).as_matrix() @ start, done.x[3:]
    assert best is not None  # a group has at least one proposal
    return best


def _copy(
    resampler: Resampler,
    turn: npt.NDArray[np.float64],
    rotation: npt.NDArray[np.float64],
    centre: npt.NDArray[np.float64],
) -> npt.NDArray[np.float32]:
    """The map turned by one rotation of a group with turned axes that meet in ``centre``."""
    about = turn @ rotation @ turn.T
    return resampler.place(about, centre - about @ centre)


def _judged(
    volume: npt.NDArray[np.floating],
    resampler: Resampler,
    group: PointGroup,
    turn: npt.NDArray[np.float64],
    centre: npt.NDArray[np.float64],
    voxel_size_angstrom: float,
) -> SymmetryFit:
    rotations = group.rotations[1:]
    chosen = rotations[np.unique(np.linspace(0, len(rotations) - 1, _JUDGED).round().astype(int))]
    copies = [_copy(resampler, turn, s, centre) for s in chosen]
    scores = [pearson(copy, volume) for copy in copies]
    curves = [fourier_shell_correlation(copy, volume) for copy in copies]
    return SymmetryFit(
        group,
        float(np.mean(scores)),
        float(np.min(scores)),
        resolution_at(np.mean(curves, axis=0), _HALF, volume.shape[0], voxel_size_angstrom),
        min(curves, key=lambda curve: float(curve[1:].sum())),
        turn,
        centre,
    )


def _centre_of_mass(volume: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Of what stands out of the background, x, y, z in voxels from voxel n // 2."""
    n = volume.shape[0]
    dense = np.maximum(volume, 0.0) * automatic_mask(np.asarray(volume, dtype=np.float32))
    if not dense.sum() > 0:
        return np.zeros(3)
    places = np.indices(volume.shape)[::-1] - n // 2
    return (places * dense).sum(axis=(1, 2, 3)) / dense.sum()
