"""Exhaustive maximum likelihood: the whole pose space, coarse to fine (method.md section 6)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation
from scipy.special import logsumexp

from faml.particles.view import Particle
from faml.references import References
from faml.strategies.base import PoseSupport, SearchContext
from faml.strategies.phased import BestPoses, PhasedSearch
from faml.strategies.pose_grid import PoseGrid, check_affordable, pose_grid
from faml.transforms.rotations import to_quaternions

__all__ = ["Exhaustive"]

_BROAD = 64
"""A posterior of more poses than this is not sharper than the grid: rescored where it is."""
_PARENTS = 24
"""Cells that are halved together, at most."""
_MOST_STEPS = 12
"""Steps uphill on one level."""
_EFFECTIVE_POSES = 12.0
"""Cells are halved until so many share the posterior."""


@dataclass(frozen=True)
class _Cells:
    """Cells of one level with what the Cartesian residual says of them.

    Attributes
    ----------
    level : int
    classes : (M,) int64
    cells : (M, 6) int64
    squared_residuals : (M,) float64
    log_joint : (M,) float64
    """

    level: int
    classes: npt.NDArray[np.int64]
    cells: npt.NDArray[np.int64]
    squared_residuals: npt.NDArray[np.float64]
    log_joint: npt.NDArray[np.float64]

    def best(self, count: int) -> _Cells:
        """The ``count`` most probable cells, those first."""
        negative = -self.log_joint
        order = np.arange(len(negative))
        if count < len(negative):
            order = np.sort(np.argpartition(negative, count)[:count])
        order = order[np.argsort(negative[order], kind="stable")]
        return _Cells(
            self.level,
            self.classes[order],
            self.cells[order],
            self.squared_residuals[order],
            self.log_joint[order],
        )


class Exhaustive:
    """The posterior over an Euler grid times a lattice of shifts times all classes.

    1. The phased search over the whole grid finds the most probable cells at low resolution, up to
       `SearchConfig.max_poses`.
    2. They are rescored with the residual of Eq. 15 at the current resolution.
    3. Where the posterior is sharper than the grid, the cells that matter are halved along all six
       axes, again and again. The sharper the averages, the fewer there are.
    """

    def __init__(self, context: SearchContext) -> None:
        self._context = context
        self._config = context.config
        check_affordable(context)

    def prepare(self, references: References) -> None:
        """See `Strategy`."""
        self._grid(references).prepare()

    def support(
        self, particle: Particle, references: References, rng: np.random.Generator
    ) -> PoseSupport:
        """See `Strategy`."""
        config = self._config
        grid = self._grid(references)
        inside, unit = self._unit(references, grid)
        if config.local_angle_deg is not None:
            inside = self._inside(particle, grid.quaternions)
        found = PhasedSearch(references, grid).best_poses(particle, config.max_poses, inside)
        if len(found) == 0:
            return PoseSupport.single(particle.previous, fallback=True)
        needed, covered = self._needed(found)
        if needed > _BROAD or config.oversampling == 0:
            first = _at_points(found, needed)
            cells = self._evaluated(particle, references, grid, 0, first.classes, first.cells)
        else:
            covered = 1.0  # whatever the search over the whole grid says, its neighbours decide
            first = _at_points(found, min(len(found), max(needed, _PARENTS)))
            cells = self._halved(particle, references, grid, first)
        while cells.level < config.oversampling and _effective(cells) < _EFFECTIVE_POSES:
            cells = self._halved(particle, references, grid, cells.best(_PARENTS))
        return self._support(cells, grid, covered, unit)

    def _grid(self, references: References) -> PoseGrid:
        return references.shared(
            "exhaustive",
            lambda: pose_grid(self._context, references.grid.align_shell),
        )

    def _unit(
        self, references: References, grid: PoseGrid
    ) -> tuple[npt.NDArray[np.bool_] | None, float]:
        """Which rotations of level 0 lie in the asymmetric unit, (B, G, G), and their share of all.

        A grid that the group does not take to itself holds a little more or less than 1 / G.
        """
        symmetry = self._context.symmetry
        if symmetry.order == 1 or self._config.local_angle_deg is not None:
            return None, 1.0

        def make() -> tuple[npt.NDArray[np.bool_], float]:
            matrices = Rotation.from_quat(grid.quaternions.reshape(-1, 4)).as_matrix()
            inside = symmetry.in_unit(matrices).reshape(grid.shape)
            volumes = np.exp(grid.log_volumes(np.arange(grid.shape[0])[:, None], 0))
            share = (volumes * inside.mean(axis=(1, 2))).sum() / volumes.sum()
            return inside, float(share)

        return references.shared("asymmetric unit", make)

    def _inside(
        self, particle: Particle, quaternions: npt.NDArray[np.floating]
    ) -> npt.NDArray[np.bool_]:
        """Which rotations ``(..., 4)`` a local search considers: at least the nearest one."""
        angle = self._config.local_angle_deg
        assert angle is not None
        centre = to_quaternions((particle.input_pose or particle.previous).rotation[None])[0]
        closeness = np.abs(quaternions @ centre)
        least = min(math.cos(0.5 * math.radians(angle)), float(closeness.max()))
        inside: npt.NDArray[np.bool_] = closeness >= least
        return inside

    def _needed(self, found: BestPoses) -> tuple[int, float]:
        """How many poses hold the mass that is asked for, and how much of it they hold."""
        mass = np.cumsum(np.exp(found.log_joint - found.log_total))
        needed = int(np.searchsorted(mass, self._config.posterior_mass)) + 1
        needed = min(needed, len(found))
        return needed, min(1.0, float(mass[needed - 1]))

    def _halved(
        self, particle: Particle, references: References, grid: PoseGrid, parents: _Cells
    ) -> _Cells:
        """The next level of some cells, and what lies uphill of them."""
        cells, parent = grid.halved(parents.cells, parents.level)
        found = self._evaluated(
            particle, references, grid, parents.level + 1, parents.classes[parent], cells
        )
        return self._climbed(particle, references, grid, found)

    def _climbed(
        self, particle: Particle, references: References, grid: PoseGrid, cells: _Cells
    ) -> _Cells:
        """With the neighbours of the best cell, until it is better than all of them.

        Cells that were chosen at low resolution need not hold the maximum at a higher one.
        """
        for _ in range(_MOST_STEPS):
            best = int(np.argmax(cells.log_joint))
            near = _combinations(
                grid.near_rotations(cells.cells[best, :3], cells.level),
                grid.near_shifts(cells.cells[best, 3:], cells.level),
            )
            classes = np.full(len(near), cells.classes[best], dtype=np.int64)
            around = self._evaluated(particle, references, grid, cells.level, classes, near)
            highest = cells.log_joint[best]
            cells = _joined([cells, around])
            if not cells.log_joint.max() > highest:
                break
        return cells

    def _evaluated(
        self,
        particle: Particle,
        references: References,
        grid: PoseGrid,
        level: int,
        classes: npt.NDArray[np.int64],
        cells: npt.NDArray[np.int64],
    ) -> _Cells:
        """Cells (M, 6) of a level, less those outside a local search, and their residuals."""
        turns, turn = np.unique(cells[:, :3], axis=0, return_inverse=True)
        moves, move = np.unique(cells[:, 3:], axis=0, return_inverse=True)
        matrices, shifts = grid.matrices(turns, level), grid.shifts(moves, level)
        if self._config.local_angle_deg is not None:
            inside = self._inside(particle, to_quaternions(matrices))[turn]
            classes, cells, turn, move = (values[inside] for values in (classes, cells, turn, move))
        poses = np.column_stack([turn, move])
        squared = np.empty(len(cells))
        for k in np.unique(classes):
            (members,) = np.nonzero(classes == k)
            squared[members] = references.grid_residuals(
                particle, int(k), matrices, shifts, poses[members]
            )
        log_joint = (
            references.log_prior(classes, shifts[move])
            - 0.5 * squared
            + grid.log_volumes(cells, level)
        )
        return _Cells(level, classes, cells, squared, log_joint)

    def _support(self, cells: _Cells, grid: PoseGrid, covered: float, unit: float) -> PoseSupport:
        """The cells that hold the mass, standing for all of it and for all equivalents.

        ``covered`` is the share of the posterior that was looked at, ``unit`` that of rotations.
        """
        best = cells.best(self._config.max_poses)
        log_total = float(logsumexp(cells.log_joint))
        mass = np.cumsum(np.exp(best.log_joint - log_total))
        number = min(int(np.searchsorted(mass, self._config.posterior_mass)) + 1, len(mass))
        kept = best.best(number)
        share = covered * min(1.0, float(mass[number - 1]))
        return PoseSupport(
            classes=kept.classes,
            rotations=grid.matrices(kept.cells[:, :3], kept.level),
            translations=grid.shifts(kept.cells[:, 3:], kept.level),
            log_volumes=grid.log_volumes(kept.cells, kept.level) - math.log(share * unit),
            squared_residuals=kept.squared_residuals,
            mass=share,
        )


def _combinations(
    turns: npt.NDArray[np.int64], moves: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """All pairs of rotations (M, 3) and shifts (T, 3), (M T, 6)."""
    return np.concatenate(
        [np.repeat(turns, len(moves), axis=0), np.tile(moves, (len(turns), 1))], axis=1
    )


def _joined(parts: list[_Cells]) -> _Cells:
    """Cells of one level, each once."""
    classes = np.concatenate([part.classes for part in parts])
    cells = np.concatenate([part.cells for part in parts])
    # One number per cell: sorting rows takes ten times as long.
    low = cells.min(axis=0)
    names = np.ravel_multi_index(tuple((cells - low).T), tuple(cells.max(axis=0) - low + 1))
    _, first = np.unique(names + classes * (names.max() + 1), return_index=True)
    return _Cells(
        parts[0].level,
        classes[first],
        cells[first],
        np.concatenate([part.squared_residuals for part in parts])[first],
        np.concatenate([part.log_joint for part in parts])[first],
    )


def _at_points(found: BestPoses, count: int) -> _Cells:
    """The best cells of the search over the whole grid."""
    return _Cells(
        0,
        found.classes[:count],
        found.cells[:count],
        np.full(count, np.nan),
        found.log_joint[:count],
    )


def _effective(cells: _Cells) -> float:
    """Effective number of cells that share the posterior, ``1 / sum P^2``."""
    return math.exp(
        2.0 * float(logsumexp(cells.log_joint)) - float(logsumexp(2.0 * cells.log_joint))
    )
