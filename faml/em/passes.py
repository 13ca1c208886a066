"""One pass over the particles: blocks go out to workers, sums and assignments come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from faml.clock import StageClock
from faml.em.balance import balanced_log_fractions
from faml.em.blocks import Block, BlockSums, blocks_of
from faml.em.search import PassPlan, Search
from faml.em.state import Assignments
from faml.em.statistics import Statistics, total_of
from faml.em.workers import Tasks, Workers
from faml.particles import ParticleSet

__all__ = ["Pass", "Progress", "run_pass"]

Progress = Callable[[int, int], None]
"""Called with (particles done, particles in all) during a pass."""

_BALANCE_SAMPLE = 96
"""Particles that decide the class fractions of balanced iterations."""
_BALANCE_STREAM = 0xBA1A  # tells the sample's random stream from the particles'


@dataclass(frozen=True)
class Pass:
    """What a pass over the particles returns.

    Attributes
    ----------
    sums : tuple of Statistics
        Of each group, after the last pass of each half.
    assignments : Assignments
        Of all particles; those that were not visited keep what they had.
    visited : (M,) int64
        In order.
    """

    sums: tuple[Statistics, ...]
    assignments: Assignments
    visited: npt.NDArray[np.int64]

    @property
    def total(self) -> Statistics:
        """Sums of all particles."""
        return total_of(self.sums)


def run_pass(
    plan: PassPlan,
    particles: ParticleSet,
    groups: tuple[npt.NDArray[np.int64], ...],
    before: Assignments,
    workers: Workers,
    *,
    chunk_size: int,
    sum_of: Sequence[int],
    clock: StageClock,
    progress: Progress | None = None,
) -> Pass:
    """Posteriors and sums of the particles of all groups.

    Parameters
    ----------
    plan : PassPlan
    particles : ParticleSet
    groups : tuple of (M,) int64
        Particles of each that are visited.
    before : Assignments
        Of all particles, from the iteration before.
    workers : Workers
    chunk_size : int
        Particles of a chunk.
    sum_of : sequence of int
        Which sum each group is part of.
    clock : StageClock
    progress : Progress, optional
    """
    visited = np.sort(np.concatenate(groups))
    tasks = workers.begin(plan, particles, clock)
    fractions = None
    if plan.balanced:
        fractions = _balanced(plan, tasks, groups, visited, before, chunk_size)
    blocks = blocks_of(groups, chunk_size, before, fractions)
    whole = workers.take_whole_blocks(len(blocks))

    def items() -> Iterator[Block]:
        for block in blocks:
            yield from (block,) if whole else block.parts()

    classes = plan.models[0].classes
    sums = BlockSums(tuple(Statistics.zeros(classes, plan.grid, total=True) for _ in set(sum_of)))
    found: list[Assignments] = []
    members: list[npt.NDArray[np.int64]] = []
    done = 0
    results = tasks.map(Search.visit, items())
    for block, (part, assignments) in zip(items(), results, strict=True):
        sums.add(block, part, sum_of[block.group])
        found.append(assignments)
        members.append(block.members)
        done += len(assignments)
        if progress is not None:
            progress(done, len(visited))
    assignments = Assignments.assembled(found, np.concatenate(members))
    if len(visited) < len(before):
        assignments = before.updated(visited, assignments)
    return Pass(sums.totals, assignments, visited)


def _balanced(
    plan: PassPlan,
    tasks: Tasks[Search],
    groups: tuple[npt.NDArray[np.int64], ...],
    visited: npt.NDArray[np.int64],
    before: Assignments,
    chunk_size: int,
) -> npt.NDArray[np.float64]:
    """Log class fractions under which no class starves in a sample of the particles, (K,)."""
    seeds = np.random.SeedSequence([plan.seed, plan.iteration, _BALANCE_STREAM])
    order = np.random.default_rng(seeds).permutation(len(visited))
    sample = visited[np.sort(order[:_BALANCE_SAMPLE])]
    chosen = tuple(members[np.isin(members, sample)] for members in groups)
    parts = [part for block in blocks_of(chosen, chunk_size, before) for part in block.parts()]
    rows = np.concatenate(list(tasks.map(Search.evidence, parts)))
    evidence = rows[np.argsort(np.concatenate([part.members for part in parts]))]
    with np.errstate(divide="ignore"):
        return balanced_log_fractions(evidence, np.log(plan.models[0].class_fractions))
