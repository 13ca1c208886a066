"""Who does the work of a pass: threads of this process, or whoever can begin its plan elsewhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from faml.clock import StageClock
from faml.particles import ParticleSet

__all__ = ["Plan", "Tasks", "Threads", "Workers", "chunks_of", "in_order"]

T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)


class Plan(Protocol[S_co]):
    """What is to be done with particles, as data: it can be sent to another process."""

    def begin(self, particles: ParticleSet, clock: StageClock) -> S_co:
        """What tasks need and share in one process; made where they run.

        An object with a method ``prepare()`` has it called once from the main thread, where all
        tasks run in this process.
        """
        ...


class Tasks(Protocol[S_co]):
    """A plan that was begun, wherever its tasks run."""

    def map(self, task: Callable[[S_co, T], R], items: Iterable[T]) -> Iterator[R]:
        """Results of ``task(shared, item)`` in the order of ``items``.

        ``shared`` is what the plan has begun. ``task`` is a function of a module or a class, so
        that other processes know it by name.
        """
        ...


class Workers(Protocol):
    """Who visits particles. Results never depend on who they are and how many."""

    def begin(self, plan: Plan[S], particles: ParticleSet, clock: StageClock) -> Tasks[S]:
        """Begin a plan with particles; the clock is told where the time of all workers goes."""
        ...

    def take_whole_blocks(self, blocks: int) -> bool:
        """Whether so many blocks of particles are enough to keep everyone at work."""
        ...


class Threads:
    """Threads of this process.

    Parameters
    ----------
    count : int
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def begin(self, plan: Plan[S], particles: ParticleSet, clock: StageClock) -> ThreadTasks[S]:
        """See `Workers`."""
        shared = plan.begin(particles, clock)
        # Tables are made here: pyshtools must not be called from worker threads.
        prepare = getattr(shared, "prepare", None)
        if prepare is not None:
            prepare()
        return ThreadTasks(shared, self.count)

    def take_whole_blocks(self, blocks: int) -> bool:
        """Never: chunks cost nothing to hand out here, and show progress."""
        del blocks
        return False


@dataclass(frozen=True)
class ThreadTasks(Generic[S]):
    """Tasks of one plan in threads of this process."""

    shared: S
    threads: int

    def map(self, task: Callable[[S, T], R], items: Iterable[T]) -> Iterator[R]:
        """See `Tasks`."""
        return in_order(partial(task, self.shared), items, self.threads)


def chunks_of(members: npt.NDArray[np.int64], size: int) -> list[npt.NDArray[np.int64]]:
    """Particles in work items of fixed size, so that sums do not depend on who does which."""
    return [members[i : i + size] for i in range(0, len(members), size)]


def in_order(work: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """Results of ``work`` in the order of ``items``, at most two per thread in flight."""
    if threads == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(max_workers=threads) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
