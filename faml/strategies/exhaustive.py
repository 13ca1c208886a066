"""Exhaustive maximum likelihood: the whole pose space, coarse to fine (method.md section 6)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from faml.particles.view import Particle
from faml.references import References
from faml.strategies.base import PoseSupport, SearchContext
from faml.strategies.phased import BestPoses, PhasedSearch, PoseGrid, check_affordable, pose_grid
from faml.transforms.rotations import to_quaternions

__all__ = ["Exhaustive"]

_SHIFT_SAMPLING = 4.0
"""Shift steps per wave length."""
_BROAD = 64
"""A posterior of more poses than this is not sharper than the grid: rescored where it is."""
_PARENTS = 48
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
        order = np.argsort(-self.log_joint, kind="stable")[:count]
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
        check_affordable(context, _SHIFT_SAMPLING)

    def prepare(self, references: References) -> None:
        """See `Strategy`."""
        self._grid(references).prepare()

    def support(
        self, particle: Particle, references: References, rng: np.random.Generator
    ) -> PoseSupport:
        """See `Strategy`."""
        config = self._config
        grid = self._grid(references)
        found = PhasedSearch(references, grid).best_poses(
            particle,
            config.max_poses,
            None if config.local_angle_deg is None else self._allowed(particle, grid.quaternions),
        )
        if len(found) == 0:
            return PoseSupport.single(particle.previous, fallback=True)
        needed, covered = self._needed(found)
        if needed > _BROAD or config.oversampling == 0:
            first = _at_points(found, needed)
            cells = self._rescored(particle, references, grid, first)
        else:
            covered = 1.0  # whatever the search over the whole grid says, its neighbours decide
            first = _at_points(found, min(len(found), max(needed, _PARENTS)))
            cells = self._halved(particle, references, grid, first)
        while cells.level < config.oversampling and _effective(cells) < _EFFECTIVE_POSES:
            cells = self._halved(particle, references, grid, cells.best(_PARENTS))
        return self._support(cells, grid, covered)

    def _grid(self, references: References) -> PoseGrid:
        return references.shared(
            "exhaustive",
            lambda: pose_grid(self._context, references.grid.align_shell, _SHIFT_SAMPLING),
        )

    def _allowed(
        self, particle: Particle, quaternions: npt.NDArray[np.floating]
    ) -> npt.NDArray[np.bool_] | None:
        """Which rotations ``(..., 4)`` a local search considers; None without one."""
        angle = self._config.local_angle_deg
        if angle is None:
            return None
        centre = to_quaternions((particle.input_pose or particle.previous).rotation[None])[0]
        closeness = np.abs(quaternions @ centre)
        # The nearest one always, for balls that are finer than the grid.
        least = min(math.cos(0.5 * math.radians(angle)), float(closeness.max()))
        inside: npt.NDArray[np.bool_] = closeness >= least
        return inside

    def _needed(self, found: BestPoses) -> tuple[int, float]:
        """How many poses hold the mass that is asked for, and how much of it they hold."""
        mass = np.cumsum(np.exp(found.log_joint - found.log_total))
        needed = int(np.searchsorted(mass, self._config.posterior_mass)) + 1
        needed = min(needed, len(found))
        return needed, min(1.0, float(mass[needed - 1]))

    def _rescored(
        self, particle: Particle, references: References, grid: PoseGrid, chosen: _Cells
    ) -> _Cells:
        """The same cells with their Cartesian residuals."""
        squared = np.empty(len(chosen.classes))
        for k in np.unique(chosen.classes):
            (members,) = np.nonzero(chosen.classes == k)
            cells = chosen.cells[members]
            turns, turn = np.unique(cells[:, :3], axis=0, return_inverse=True)
            moves, move = np.unique(cells[:, 3:], axis=0, return_inverse=True)
            matrix = references.squared_residual_matrix(
                particle, int(k), grid.matrices(turns, chosen.level),
                grid.shifts(moves, chosen.level),
            )  # fmt: skip
            squared[members] = matrix[turn.ravel(), move.ravel()]
        return _evaluated(references, grid, chosen.level, chosen.classes, chosen.cells, squared)

    def _halved(
        self, particle: Particle, references: References, grid: PoseGrid, parents: _Cells
    ) -> _Cells:
        """The next level of some cells, and of what lies uphill of them."""
        level = parents.level + 1
        found = []
        for k in np.unique(parents.classes):
            mine = parents.cells[parents.classes == k]
            turns = grid.halved_rotations(np.unique(mine[:, :3], axis=0), parents.level)
            moves = grid.halved_shifts(np.unique(mine[:, 3:], axis=0), parents.level)
            found.append(self._combined(particle, references, grid, int(k), level, turns, moves))
        return self._climbed(particle, references, grid, _joined(found))

    def _climbed(
        self, particle: Particle, references: References, grid: PoseGrid, cells: _Cells
    ) -> _Cells:
        """With the neighbours of the best cell, until it is better than all of them.

        Cells that were chosen at low resolution need not hold the maximum at a higher one.
        """
        for _ in range(_MOST_STEPS):
            best = int(np.argmax(cells.log_joint))
            around = self._combined(
                particle,
                references,
                grid,
                int(cells.classes[best]),
                cells.level,
                grid.near_rotations(cells.cells[best, :3], cells.level),
                grid.near_shifts(cells.cells[best, 3:], cells.level),
            )
            highest = cells.log_joint[best]
            cells = _joined([cells, around])
            if not cells.log_joint.max() > highest:
                break
        return cells

    def _combined(
        self,
        particle: Particle,
        references: References,
        grid: PoseGrid,
        class_index: int,
        level: int,
        turns: npt.NDArray[np.int64],
        moves: npt.NDArray[np.int64],
    ) -> _Cells:
        """All combinations of rotations (M, 3) and shifts (T, 3) of a level."""
        turns = self._local(particle, grid, turns, level)
        matrix = references.squared_residual_matrix(
            particle, class_index, grid.matrices(turns, level), grid.shifts(moves, level)
        )
        cells = np.concatenate(
            [np.repeat(turns, len(moves), axis=0), np.tile(moves, (len(turns), 1))], axis=1
        )
        classes = np.full(matrix.size, class_index, dtype=np.int64)
        return _evaluated(references, grid, level, classes, cells, matrix.ravel())

    def _local(
        self, particle: Particle, grid: PoseGrid, turns: npt.NDArray[np.int64], level: int
    ) -> npt.NDArray[np.int64]:
        """Those that a local search considers."""
        inside = self._allowed(particle, to_quaternions(grid.matrices(turns, level)))
        return turns if inside is None else turns[inside]

    def _support(self, cells: _Cells, grid: PoseGrid, covered: float) -> PoseSupport:
        """The cells that hold the mass, standing for all of it."""
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
            log_volumes=grid.log_volumes(kept.cells, kept.level) - math.log(share),
            squared_residuals=kept.squared_residuals,
            mass=share,
        )


def _joined(parts: list[_Cells]) -> _Cells:
    """Cells of one level, each once."""
    classes = np.concatenate([part.classes for part in parts])
    cells = np.concatenate([part.cells for part in parts])
    _, first = np.unique(np.column_stack([classes, cells]), axis=0, return_index=True)
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


def _evaluated(
    references: References,
    grid: PoseGrid,
    level: int,
    classes: npt.NDArray[np.int64],
    cells: npt.NDArray[np.int64],
    squared: npt.NDArray[np.float64],
) -> _Cells:
    shifts = grid.shifts(cells[:, 3:], level)
    log_joint = (
        references.log_prior(classes, shifts) - 0.5 * squared + grid.log_volumes(cells, level)
    )
    return _Cells(level, classes, cells, squared, log_joint)


def _effective(cells: _Cells) -> float:
    """Effective number of cells that share the posterior, ``1 / sum P^2``."""
    return math.exp(
        2.0 * float(logsumexp(cells.log_joint)) - float(logsumexp(2.0 * cells.log_joint))
    )
