"""Euler angles times shifts: the grid of poses that a phased search visits, and what it costs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from faml.errors import ConfigurationError
from faml.references import band_limit
from faml.strategies.base import SearchContext
from faml.transforms.fourier import even_fast_length
from faml.transforms.harmonics import ShellTransform, shell_transform
from faml.transforms.rotations import to_quaternions
from faml.transforms.so3 import SO3Correlation, so3_correlation

__all__ = ["PoseGrid", "check_affordable", "pose_grid"]

_DETAILS = 6.0
"""The correlation resolves this part of the particle's diameter."""
_SHIFT_SAMPLING = 3.0
"""Shift steps per wave length of the correlation's last shell. Four give the same, at twice the
time: two are the sampling theorem's, and cells that matter are halved."""
_BODY_CENTRED_STEP = math.sqrt(0.6)
"""Half the edge of a body-centred cell in steps of the cubic lattice with the same covering
radius: sqrt(3) / 2 steps against sqrt(5) / 4 edges."""
_FEWEST_SHELLS = 4
_CORNERS = np.indices((2, 2, 2)).reshape(3, 8).T
_NEIGHBOURS = np.stack(np.meshgrid(*3 * [(-1, 0, 1)], indexing="ij"), axis=-1).reshape(-1, 3)
_MOST_SECONDS = 60.0
_MOST_MEGABYTES = 2000.0


@dataclass(frozen=True)
class PoseGrid:
    """Euler angles times a cubic lattice of shifts within a sphere, and its halvings.

    A cell is six integers ``[beta, gamma, alpha, x, y, z]`` and a level. At level 0 they are the
    points that the correlation visits; a cell of one level is the union of 64 of the next. beta
    counts cells from the pole; the others count half steps, so that cells are centred on odd
    numbers from level 1 on, on even ones at level 0.

    Attributes
    ----------
    shells : int
        Last Fourier shell of the correlation.
    bandwidth : int
        Band limit L.
    period : int
        Steps G of a full turn at level 0.
    shift_step_voxels : float
    max_shift_voxels : float
    body_centred : bool
        Of the lattice of shifts only points whose coordinates are all even or all odd are there.
    scout : PoseGrid or None
        The same shifts with half of the shells and fewer rotations, which rules shifts out.
    """

    shells: int
    bandwidth: int
    period: int
    shift_step_voxels: float
    max_shift_voxels: float
    body_centred: bool = False
    scout: PoseGrid | None = None

    @property
    def rotations(self) -> SO3Correlation:
        """Plan of the correlation."""
        return so3_correlation(self.bandwidth, self.period)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rotations of level 0, ``[beta, gamma, alpha]``."""
        return (self.period // 2, self.period, self.period)

    @cached_property
    def lattice(self) -> npt.NDArray[np.int64]:
        """Shifts of level 0 in steps, x, y, z, the shortest first, (T, 3) int64."""
        # Few points of a coarser lattice lie near the rim, whose shifts need them.
        margin = 0.5 if self.body_centred else 0.0
        radius = self.max_shift_voxels / self.shift_step_voxels + margin + 1e-9
        reach = int(radius)
        axis = np.arange(-reach, reach + 1)
        points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
        if self.body_centred:
            points = points[((points - points[:, :1]) % 2 == 0).all(axis=1)]
        square = (points**2).sum(axis=1)
        order = np.argsort(square, kind="stable")
        return points[order[square[order] <= radius**2]]

    @property
    def translations(self) -> npt.NDArray[np.float64]:
        """Shifts of level 0 in voxels, (T, 3) float64."""
        return self.lattice.astype(np.float64) * self.shift_step_voxels

    @cached_property
    def quaternions(self) -> npt.NDArray[np.float32]:
        """Rotations of level 0 as quaternions, (B, G, G, 4) float32."""
        cells = np.indices(self.shape).reshape(3, -1).T * np.array([1, 2, 2])
        return to_quaternions(self.matrices(cells, 0)).reshape(*self.shape, 4).astype(np.float32)

    @property
    def sphere(self) -> ShellTransform:
        """Spherical harmonic plan."""
        return shell_transform(self.bandwidth)

    def prepare(self) -> None:
        """Make the plans, whose tables may be missing on disk."""
        self.rotations, self.sphere  # noqa: B018
        if self.scout is not None:
            self.scout.prepare()

    def log_volumes(self, cells: npt.NDArray[np.int64], level: int) -> npt.NDArray[np.float64]:
        """Log of Haar measure times voxel^3 of cells of a level, (M,) float64.

        Of cells (M, 6) only the first column, beta, matters. As no point of a grid lies on a pole
        there are no caps to be added.
        """
        count = (self.period // 2) << level
        edges = np.cos(np.pi * np.arange(count + 1) / count)
        areas = (edges[:-1] - edges[1:]) / (2.0 * (self.period << level) ** 2)
        step = self.shift_step_voxels / 2**level
        volumes: npt.NDArray[np.float64] = np.log(areas[cells[:, 0]]) + 3.0 * math.log(step)
        return volumes

    def matrices(self, cells: npt.NDArray[np.int64], level: int) -> npt.NDArray[np.float64]:
        """Rotations at the centres of cells (M, 3) ``[beta, gamma, alpha]``, (M, 3, 3)."""
        spacing = np.pi / (self.period << level)
        angles = np.stack(
            [
                cells[:, 2] * spacing,
                (cells[:, 0] + 0.5) * np.pi / ((self.period // 2) << level),
                cells[:, 1] * spacing,
            ],
            axis=1,
        )
        return Rotation.from_euler("ZYZ", angles).as_matrix().reshape(-1, 3, 3)

    def shifts(self, cells: npt.NDArray[np.int64], level: int) -> npt.NDArray[np.float64]:
        """Shifts at the centres of cells (M, 3), x, y, z in voxels."""
        shifts: npt.NDArray[np.float64] = cells * (self.shift_step_voxels / 2 ** (level + 1))
        return shifts

    def cells(self, points: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Cells (M, 6) of points of the correlations, given as ``shift * B * G * G + index``."""
        shift, index = np.divmod(points, math.prod(self.shape))
        beta, gamma, alpha = np.unravel_index(index, self.shape)
        angles = np.stack([beta, 2 * gamma, 2 * alpha], axis=1)
        return np.concatenate([angles, 2 * self.lattice[shift]], axis=1)

    def halved(
        self, cells: npt.NDArray[np.int64], level: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The parts of cells (P, 6) of a level: eight rotations times up to eight shifts.

        Shifts beyond the radius are left out; a cell on the rim that has no other is kept as one
        part at its centre.

        Returns
        -------
        parts : (M, 6) int64
            Of the next level.
        parents : (M,) int64
            Row of the cell that each is part of.
        """
        turns = 2 * cells[:, None, :3] + _CORNERS * np.array([1, 2, 2]) - np.array([0, 1, 1])
        turns = self._wrapped(turns.reshape(-1, 3), level + 1).reshape(-1, 8, 1, 3)
        moves = 2 * cells[:, None, 3:] + 2 * _CORNERS - 1
        lengths = np.linalg.norm(self.shifts(moves, level + 1), axis=-1)
        inside = lengths <= self.max_shift_voxels + 1e-9
        lost = ~inside.any(axis=1)
        moves[lost, 0] = 2 * cells[lost, 3:]
        inside[lost, 0] = True
        shape = (len(cells), 8, 8, 3)
        pairs = np.concatenate(
            [np.broadcast_to(turns, shape), np.broadcast_to(moves[:, None], shape)], axis=-1
        )
        kept = np.broadcast_to(inside[:, None], shape[:3])
        return pairs[kept], np.nonzero(kept)[0]

    def near_rotations(self, cell: npt.NDArray[np.int64], level: int) -> npt.NDArray[np.int64]:
        """A cell ``[beta, gamma, alpha]`` (3,) and its neighbours along all axes, (M, 3)."""
        around = cell + _NEIGHBOURS * np.array([1, 2, 2])
        return np.unique(self._wrapped(around, level), axis=0)

    def near_shifts(self, cell: npt.NDArray[np.int64], level: int) -> npt.NDArray[np.int64]:
        """A shift cell (3,) and its neighbours within the radius, (M, 3)."""
        around = cell + 2 * _NEIGHBOURS
        lengths = np.linalg.norm(self.shifts(around, level), axis=1)
        inside = (lengths <= self.max_shift_voxels + 1e-9) | (around == cell).all(axis=1)
        return around[inside]

    def _wrapped(self, cells: npt.NDArray[np.int64], level: int) -> npt.NDArray[np.int64]:
        """Cells ``[beta, gamma, alpha]`` (M, 3), which may lie beyond a pole, by their own names.

        ``R(alpha, -beta, gamma) = R(alpha + pi, beta, gamma + pi)``.
        """
        betas, turn = (self.period // 2) << level, 2 * (self.period << level)
        beta = cells[:, 0]
        beyond = (beta < 0) | (beta >= betas)
        beta = np.where(beta < 0, -1 - beta, np.where(beta >= betas, 2 * betas - 1 - beta, beta))
        angles = (cells[:, 1:] + np.where(beyond, turn // 2, 0)[:, None]) % turn
        return np.column_stack([beta, angles])

    @property
    def lattice_size(self) -> float:
        """About how many shifts there are; the lattice itself may be too large to be made."""
        ratio = self.max_shift_voxels / self.shift_step_voxels
        share = 0.25 if self.body_centred else 1.0
        return math.ceil(share * 4.0 / 3.0 * math.pi * ratio**3) + 1

    def seconds(self, classes: int) -> float:
        """CPU time of one particle's correlations if no shift is ruled out, an estimate.

        The constants are from bench/exhaustive.py.
        """
        degrees = self.bandwidth**3 / 3.0
        betas = self.shape[0]
        points = math.prod(self.shape)
        one = 1e-9 * (1.1 * degrees * self.shells + 0.9 * degrees * betas + 4.5 * points)
        return one * self.lattice_size * classes

    @property
    def megabytes(self) -> float:
        """Estimate of the memory of one worker thread, with the tables that all threads share."""
        top, (betas, period, _) = self.bandwidth + 1, self.shape
        table = 4.0 * betas * top * (top + 1) * (2 * top + 1) / 6.0
        grids = 8.0 * betas * period * top + 3 * 4.0 * betas * period**2
        return 1e-6 * (table + grids + 16.0 * top**3 + 24.0 * self.lattice_size)


def pose_grid(context: SearchContext, align_shell: int, *, body_centred: bool = False) -> PoseGrid:
    """The grid of level 0 at a resolution, as far as the configuration does not fix it.

    Parameters
    ----------
    context : SearchContext
    align_shell : int
        Last Fourier shell of the E-step.
    body_centred : bool
        Let the shifts be a body-centred lattice, unless the configuration gives their step. No
        shift is further from it than from the cubic one, with about half as many points; but its
        cells cannot be halved.
    """
    config = context.config
    shells = config.search_shell
    if shells is None:
        resolving = math.ceil(_DETAILS * context.box / (2.0 * context.radius_voxels))
        shells = max(resolving, _FEWEST_SHELLS)
    shells = min(shells, align_shell)
    wanted = band_limit(context.box, shells, context.radius_voxels, config.max_bandwidth)
    period = even_fast_length(2 * wanted + 1)
    if config.angular_step_deg is not None:
        # Coarser than the band limit asks for, the grid holds fewer degrees; finer, it is padded.
        period = 2 * math.ceil(180.0 / config.angular_step_deg - 1e-9)
    step = config.shift_step_voxels
    body_centred = body_centred and step is None
    if step is None:
        step = context.box / (_SHIFT_SAMPLING * shells)
        if body_centred:
            step *= _BODY_CENTRED_STEP
    bandwidth = min(wanted, (period - 1) // 2)
    grid = PoseGrid(shells, bandwidth, period, step, context.max_shift_voxels, body_centred)
    return replace(grid, scout=_scout(context, grid))


def _scout(context: SearchContext, grid: PoseGrid) -> PoseGrid | None:
    """A grid with half of the shells; None where these are too few to say anything."""
    shells = math.ceil(grid.shells / 2)
    if shells < _FEWEST_SHELLS:
        return None
    widest = context.config.max_bandwidth
    bandwidth = band_limit(context.box, shells, context.radius_voxels, widest)
    bandwidth = min(bandwidth, grid.bandwidth)
    return replace(
        grid, shells=shells, bandwidth=bandwidth, period=even_fast_length(2 * bandwidth + 1)
    )


def check_affordable(context: SearchContext, *, body_centred: bool = False) -> None:
    """Refuse a grid that would take too long or too much memory at the last resolution.

    Raises
    ------
    ConfigurationError
        With the estimate, and the nearest steps that can be afforded.
    """
    grid = pose_grid(context, context.last_shell, body_centred=body_centred)
    if _affordable(grid, context.classes):
        return
    ways = ["a smaller --max-shift"]
    for i in range(1, 99):
        wider = replace(grid, shift_step_voxels=1.05**i * grid.shift_step_voxels)
        if _affordable(wider, context.classes):
            ways.insert(0, f"--shift-step {_rounded_up(wider.shift_step_voxels)}")
            break
    for period in range(grid.period - 2, 8, -2):
        coarser = replace(grid, period=period, bandwidth=min(grid.bandwidth, period // 2 - 1))
        if _affordable(coarser, context.classes):
            ways.insert(0, f"--angular-step {_rounded_up(360.0 / period)}")
            break
    raise ConfigurationError(
        f"the grid of {math.prod(grid.shape):,} rotations (step {360.0 / grid.period:.3g} degrees) "
        f"and {grid.lattice_size:,} shifts (step {grid.shift_step_voxels:.3g} voxels) needs up to "
        f"{grid.seconds(context.classes):,.0f} CPU seconds per particle and iteration and "
        f"{grid.megabytes:,.0f} MB per thread, expected at most {_MOST_SECONDS:.0f} s and "
        f"{_MOST_MEGABYTES:.0f} MB; give {' or '.join(ways)}"
    )


def _affordable(grid: PoseGrid, classes: int) -> bool:
    return grid.seconds(classes) <= _MOST_SECONDS and grid.megabytes <= _MOST_MEGABYTES


def _rounded_up(step: float) -> str:
    """Three digits, upwards: a step that fits still does when it is typed in."""
    digits = 2 - math.floor(math.log10(step))
    return f"{math.ceil(step * 10**digits - 1e-9) / 10**digits:.3g}"
