"""Workers of one thread that note what each item has taken."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from faml.clock import StageClock
from faml.em.blocks import Block
from faml.em.statistics import Statistics
from faml.em.workers import Plan
from faml.particles import ParticleSet

__all__ = ["Metered", "MeteredWorkers"]

T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S")


@dataclass(frozen=True)
class Metered:
    """CPU seconds of an item.

    Attributes
    ----------
    summed : bool
        Sums were made, and not something before them.
    particles : int
    seconds : float
    """

    summed: bool
    particles: int
    seconds: float


class MeteredWorkers:
    """The calling thread (`em.workers.Workers`); tables are made before time is taken."""

    def __init__(self) -> None:
        self._items: list[Metered] = []
        self.chunks: list[Statistics] = []
        """Sums of the last pass."""

    def begin(self, plan: Plan[S], particles: ParticleSet, clock: StageClock) -> MeteredTasks[S]:
        """See `em.workers.Workers`."""
        _prepared(plan, particles, StageClock())
        self.chunks.clear()
        return MeteredTasks(_prepared(plan, particles, clock), self._items, self.chunks)

    def take_whole_blocks(self, blocks: int) -> bool:
        """Never: chunks say more."""
        del blocks
        return False

    def taken(self) -> list[Metered]:
        """Items since this was last asked."""
        items = self._items.copy()
        self._items.clear()
        return items


def _prepared(plan: Plan[S], particles: ParticleSet, clock: StageClock) -> S:
    shared = plan.begin(particles, clock)
    prepare = getattr(shared, "prepare", None)
    if prepare is not None:
        prepare()
    return shared


@dataclass(frozen=True)
class MeteredTasks(Generic[S]):
    """Tasks of one plan (`em.workers.Tasks`)."""

    shared: S
    items: list[Metered]
    chunks: list[Statistics]

    def map(self, task: Callable[[S, T], R], items: Iterable[T]) -> Iterator[R]:
        """See `em.workers.Tasks`."""
        for item in items:
            begin = time.thread_time()
            result: Any = task(self.shared, item)
            spent = time.thread_time() - begin
            members: Any = item.members if isinstance(item, Block) else item
            summed = isinstance(result, tuple) and isinstance(result[0], Statistics)
            if summed:
                self.chunks.append(result[0])
            self.items.append(Metered(summed, len(members), spent))
            yield result
