"""Groups of particles: which averages each is aligned to, and how they come out of the sums.

Particles are summed group by group. Without folds and half-sets there is one group. A *fold* is
aligned to the average of all other folds, a *half* to its own average only; with both, each half
has folds of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import scipy.fft

from faml.em.folds import split_into_folds, with_averages_of
from faml.em.halves import Agreement, assignments_in_frame, in_frame
from faml.em.maximization import MStep
from faml.em.state import Assignments
from faml.em.statistics import Statistics, total_of
from faml.model import Model

__all__ = ["Estimates", "Groups"]

Solve = Callable[..., MStep]
"""`maximise` with everything but sums, old model and ``fixed_noise``."""


@dataclass(frozen=True)
class Estimates:
    """What an M-step leaves.

    Attributes
    ----------
    step : MStep
        Of all particles.
    halves : tuple of Model
        Of each half; empty without half-sets.
    plain : tuple of (K, n, n, n) float32
        The halves' averages without mask and prior. What a prior has shrunk to nothing agrees
        through what leaks into it from strong shells, not through what the data say.
    references : tuple of Model
        What each fold is aligned to next; empty without folds.
    """

    step: MStep
    halves: tuple[Model, ...] = ()
    plain: tuple[npt.NDArray[np.float32], ...] = ()
    references: tuple[Model, ...] = ()


class Groups:
    """The split of N particles into groups.

    Parameters
    ----------
    count : int
    halves : sequence of (M,) int64
        Particles of each half, or all of them as one.
    folds, seed : int
    blind : bool
        The start knows nothing of the poses.
    """

    def __init__(
        self,
        count: int,
        halves: tuple[npt.NDArray[np.int64], ...],
        folds: int,
        seed: int,
        *,
        blind: bool,
    ) -> None:
        self.halves = halves
        members: list[npt.NDArray[np.int64]] = []
        self._parts: list[range] = []
        for half in halves:
            parts = split_into_folds(len(half), folds, seed, blind=blind)
            self._parts.append(range(len(members), len(members) + len(parts)))
            members += [half[part] for part in parts]
        self.members = tuple(members)
        """Particles of each group."""
        # Which half each group is part of, and which group each particle.
        self.half_of = tuple(half for half, parts in enumerate(self._parts) for _ in parts)
        self.group_of = np.empty(count, dtype=np.int64)
        for group, chosen in enumerate(self.members):
            self.group_of[chosen] = group

    def __len__(self) -> int:
        return len(self.members)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Particles of each group."""
        return tuple(map(len, self.members))

    def solve(
        self,
        sums: tuple[Statistics, ...],
        solve: Solve,
        model: Model,
        halves: tuple[Model, ...],
        references: tuple[Model, ...],
        threads: int,
        *,
        solve_plain: Solve,
        last: bool,
    ) -> Estimates:
        """New models from the sums of every group and the models before.

        ``model``, ``halves`` and ``references`` are those of the last state; where the last two
        are empty, the first stands for them. ``solve_plain`` makes the maps that halves are
        compared by. After the ``last`` M-step nothing is aligned, so those are all that is made,
        from the sums of each half.
        """
        total = total_of(sums)
        with scipy.fft.set_workers(threads):  # lines of one transform: same result
            step = solve(total, model)
            if len(self) == 1:
                return Estimates(step)
            totals: tuple[Statistics, ...] = (total,)
            own: tuple[Model, ...] = (step.model,)
            found: tuple[Model, ...] = ()
            plain: tuple[npt.NDArray[np.float32], ...] = ()
            if len(self.halves) > 1:
                totals = sums
                if not last:
                    totals = tuple(total_of(tuple(sums[g] for g in parts)) for parts in self._parts)
                pairs = list(zip(totals, halves or (model,) * len(totals), strict=True))
                unfiltered = tuple(solve_plain(part, old).model for part, old in pairs)
                plain = tuple(half.volumes for half in unfiltered)
                own = unfiltered if last else tuple(solve(part, old).model for part, old in pairs)
                found = own
        if len(self.halves) == len(self) or last:
            return Estimates(step, found, plain)
        olds = references or (model,) * len(self)

        def hold_out(half: int, group: int) -> Model:
            # Made when its turn comes: all at once would double the memory.
            others = totals[half].minus(sums[group])
            fixed = own[half].noise_variance
            return with_averages_of(own[half], solve(others, olds[group], fixed_noise=fixed).model)

        folds = [(half, group) for group, half in enumerate(self.half_of)]
        with ThreadPoolExecutor(max_workers=threads) as pool:
            held_out = tuple(pool.map(hold_out, *zip(*folds, strict=True)))
        return Estimates(step, found, plain, held_out)

    def in_one_frame(
        self, found: Estimates, assignments: Assignments, agreed: Agreement
    ) -> tuple[Estimates, Assignments]:
        """The second half's models and assignments in the first's frame and order of classes."""
        if not agreed.moved:
            return found, assignments
        first, second = found.halves
        folds = len(found.references) // 2
        turned = tuple(in_frame(model, agreed) for model in found.references[folds:])
        return (
            replace(
                found,
                halves=(first, in_frame(second, agreed)),
                references=(*found.references[:folds], *turned),
            ),
            assignments_in_frame(assignments, self.halves[1], agreed),
        )
