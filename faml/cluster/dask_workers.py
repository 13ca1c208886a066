"""Tasks on Dask workers, results in order.

Dask decides who does what, and does again what died with a worker. What is added here: results in
the order of the items, a bounded number of them in flight, tasks that a slow machine holds up sent
out once more, and an end to waiting.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from statistics import median
from typing import Any, Generic, TypeVar

from distributed import Client, Future, KilledWorker
from distributed.client import ClosedClientError
from distributed.comm import CommClosedError

from faml.clock import StageClock
from faml.cluster.remote import Done, Parcel, keep, processor, work
from faml.em.workers import Plan
from faml.errors import ClusterError
from faml.particles import ParticleSet

__all__ = ["DaskTasks", "DaskWorkers"]

T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S")

_LOG = logging.getLogger("faml")
_IN_FLIGHT = 4
"""Tasks per worker thread that are sent, at work, or waiting for their turn to be added."""
_BLOCKS_PER_WORKER = 4
_LOOK_S = 1.0
_FETCH_S = 30.0
_SLOW = 3.0
"""Times the median time of tasks after which one is sent to a second worker."""
_SLOW_S = 10.0
_GO_ON = "see that it runs and can be reached"
_DEATHS = 5
"""Times that a task may be lost with whoever had it, beyond what Dask allows."""


@dataclass
class _Sent(Generic[T]):
    """An item on its way."""

    item: T
    since: float
    futures: list[Future] = field(default_factory=list)
    lost: int = 0
    done: Done | None = None


class DaskWorkers:
    """Workers of a Dask cluster (`em.workers.Workers`).

    Parameters
    ----------
    client : distributed.Client
    patience_s : float
        How long to wait while there is no worker.
    """

    def __init__(self, client: Client, patience_s: float) -> None:
        self.client = client
        self.patience_s = patience_s
        self._known: tuple[ParticleSet, Future] | None = None
        self._processors = {processor()}

    def take_whole_blocks(self, blocks: int) -> bool:
        """See `em.workers.Workers`."""
        with _reaching_the_scheduler(self.client):
            return blocks >= _BLOCKS_PER_WORKER * self.width()

    def begin(self, plan: Plan[S], particles: ParticleSet, clock: StageClock) -> DaskTasks[S]:
        """See `em.workers.Workers`."""
        with _reaching_the_scheduler(self.client):
            if self._known is None or self._known[0] is not particles:
                self._known = particles, self._shared(particles)
            return DaskTasks(self, self._shared(plan), self._known[1], clock)

    def seen(self, kind: str) -> None:
        """Warn of the first result from a kind of processor that is another than this one."""
        if kind not in self._processors:
            self._processors.add(kind)
            _LOG.warning(
                "machines differ (%s): compiled for each, sums may differ in their last digits, "
                "and a run is the same bit by bit only on machines of one kind",
                ", ".join(sorted(self._processors)),
            )

    def width(self) -> int:
        """Threads of all workers there are now."""
        return sum(self.client.nthreads().values())

    def _shared(self, value: Any) -> Future:
        """A value that tasks refer to, held by workers; if all that have it die, it is sent again.

        Unlike data that are scattered, the result of a task can be made anew.
        """
        parcel = Parcel(uuid.uuid4().hex, value)
        return self.client.submit(keep, parcel, key=f"faml-shared-{parcel.key}", pure=False)


class DaskTasks(Generic[S]):
    """Tasks of one plan on Dask workers (`em.workers.Tasks`)."""

    def __init__(
        self, workers: DaskWorkers, plan: Future, particles: Future, clock: StageClock
    ) -> None:
        self._workers = workers
        self._plan = plan
        self._particles = particles
        self._clock = clock

    def map(self, task: Callable[[S, T], R], items: Iterable[T]) -> Iterator[R]:
        """See `em.workers.Tasks`.

        Raises
        ------
        ClusterError
            The scheduler is lost, workers keep dying with the same particles, or there has been no
            worker for too long.
        """
        with _reaching_the_scheduler(self._workers.client):
            for done in self._in_order(task, iter(items)):
                self._clock.add(done.seconds)
                self._workers.seen(done.processor)
                yield done.result

    def _in_order(self, task: Callable[[S, T], R], items: Iterator[T]) -> Iterator[Done]:
        workers = self._workers
        flight = _Flight[T](workers.client, task, self._plan, self._particles)
        waiting: deque[_Sent[T]] = deque()
        window = _IN_FLIGHT * max(1, workers.width())
        workers_seen = looked = time.monotonic()
        try:
            while True:
                while len(waiting) < window and (item := next(items, None)) is not None:
                    waiting.append(flight.send(item))
                if not waiting:
                    return
                if (done := waiting[0].done) is not None:
                    waiting.popleft()
                    yield done
                    continue
                flight.wait(_LOOK_S)
                now = time.monotonic()
                if now - looked < _LOOK_S:
                    continue
                looked = now
                _check_connection(workers.client)
                if width := workers.width():
                    window, workers_seen = _IN_FLIGHT * width, now
                    flight.hurry(waiting, now)
                elif now - workers_seen > workers.patience_s:
                    raise ClusterError(
                        f"there has been no worker for {now - workers_seen:.0f} s; start some"
                    )
        finally:
            flight.cancel(waiting)


@contextmanager
def _reaching_the_scheduler(client: Client) -> Iterator[None]:
    try:
        _check_connection(client)
        yield
    except (ClosedClientError, CommClosedError, OSError, TimeoutError) as error:
        raise ClusterError(f"the scheduler is lost ({error}); {_GO_ON}") from error


def _check_connection(client: Client) -> None:
    """Raise ClusterError where nothing more will be heard from the scheduler."""
    if client.status in ("closing", "closed"):
        raise ClusterError(f"the scheduler is lost; {_GO_ON}")


class _Flight(Generic[T]):
    """Tasks of one plan between being sent and being done."""

    def __init__(
        self, client: Client, task: Callable[..., Any], plan: Future, particles: Future
    ) -> None:
        self._client = client
        self._shared = task, plan, particles
        self._arrived: SimpleQueue[tuple[_Sent[T], Future]] = SimpleQueue()
        self._times: deque[float] = deque(maxlen=101)

    def send(self, item: T) -> _Sent[T]:
        sent = _Sent(item, time.monotonic())
        self._submit(sent)
        return sent

    def _submit(self, sent: _Sent[T], **where: Any) -> None:
        future = self._client.submit(
            work, *self._shared, sent.item, key=f"faml-{uuid.uuid4().hex}", pure=False, **where
        )
        sent.futures.append(future)
        future.add_done_callback(lambda ended: self._arrived.put((sent, ended)))

    def wait(self, seconds: float) -> None:
        """Take in one task that has ended, if one does within a time."""
        try:
            sent, future = self._arrived.get(timeout=seconds)
        except Empty:
            return
        if sent.done is not None or future not in sent.futures:
            return  # somebody else was faster
        try:
            sent.done = future.result(timeout=_FETCH_S)
        except TimeoutError:
            # Whoever had it is gone: it is made again, and nobody waits for that here.
            self._arrived.put((sent, future))
            return
        except KilledWorker as error:
            self._again(sent, future, error)
            return
        except CancelledError as error:  # the scheduler remembers nothing, or is another
            raise ClusterError(
                f"the connection to the scheduler was lost ({error}); {_GO_ON}"
            ) from error
        except (ImportError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "deserializ" not in str(error):
                raise
            raise ClusterError(
                f"a worker or the scheduler cannot read what it is sent ({error}); install the "
                "same faml everywhere, also where the scheduler runs"
            ) from error
        self._times.append(time.monotonic() - sent.since)
        self._drop(sent)

    def _again(self, sent: _Sent[T], future: Future, error: Exception) -> None:
        """Send a task once more that was lost with its workers or the scheduler's memory of it."""
        sent.futures.remove(future)
        sent.lost += 1
        if sent.lost > _DEATHS:
            raise ClusterError(
                f"workers died {sent.lost} times over the same particles ({error}); they may need "
                "more memory: see their logs, or start fewer per machine"
            ) from error
        _check_connection(self._client)
        _LOG.warning("a task was lost with its worker and is done again (%s)", error)
        if not sent.futures:
            sent.since = time.monotonic()
            self._submit(sent)

    def hurry(self, waiting: Iterable[_Sent[T]], now: float) -> None:
        """Send what takes much longer than usual to a second worker, if any has nothing to do."""
        late = [
            sent
            for sent in waiting
            if sent.done is None
            and len(sent.futures) == 1
            and self._times
            and now - sent.since > max(_SLOW_S, _SLOW * median(self._times))
        ]
        if not late:
            return
        idle = [worker for worker, tasks in self._client.processing().items() if not tasks]
        for sent, worker in zip(late, idle, strict=False):
            _LOG.info("a task that has taken %.0f s is sent to a second worker", now - sent.since)
            self._submit(sent, workers=[worker], allow_other_workers=True)

    def cancel(self, waiting: Iterable[_Sent[T]]) -> None:
        """Forget what is still at work."""
        for sent in waiting:
            self._drop(sent)

    def _drop(self, sent: _Sent[T]) -> None:
        # Dask cancels tasks whose futures nobody holds.
        futures, sent.futures = sent.futures, []
        for future in futures:
            future.release()
