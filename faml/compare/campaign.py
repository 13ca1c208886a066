"""Carrying out an experiment: what is missing is run, as many at a time as fit the machine."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from threadpoolctl import threadpool_limits

from faml.compare.experiment import Task
from faml.compare.work import carry_out, make_data
from faml.config import build_config
from faml.errors import FamlError, OutputError
from faml.interrupts import ended_like_ctrl_c
from faml.io.atomic import write_text_atomic
from faml.io.inspect import estimate_memory_bytes, number_of_groups
from faml.io.lock import only_one

__all__ = ["Failure", "jobs_that_fit", "missing", "results", "run_tasks"]

_ROWS, _WORK = "rows", "work"
_SHARE_OF_MEMORY = 0.8
_PATIENCE_SECONDS = 0.2

OnDone = Callable[[Task, "dict[str, Any] | Failure"], None]


@dataclass(frozen=True)
class Failure:
    """A run that came to nothing; it is tried again next time."""

    message: str
    exit_code: int


def results(tasks: Sequence[Task], directory: Path) -> list[tuple[Task, dict[str, Any]]]:
    """What has been found so far of ``tasks``, in their order.

    Raises
    ------
    OutputError
        A result is not of our making.
    """
    found = []
    for task in tasks:
        path = _row(directory, task)
        if not path.exists():
            continue
        try:
            found.append((task, json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError) as error:
            raise OutputError(
                f"{path}: expected the result of a run, cannot read it ({error}); remove it and "
                "give the same command again"
            ) from error
    return found


def missing(tasks: Sequence[Task], directory: Path) -> list[Task]:
    """Those of ``tasks`` that have no result yet."""
    return [task for task in tasks if not _row(directory, task).exists()]


def jobs_that_fit(tasks: Sequence[Task], cores: int) -> int:
    """How many runs the cores and the memory hold at a time; at least one."""
    if not tasks:
        return 1
    largest = max(_memory_bytes(task) for task in tasks)
    free = _SHARE_OF_MEMORY * psutil.virtual_memory().available
    return max(1, min(cores // max(task.threads for task in tasks), int(free // largest)))


def _memory_bytes(task: Task) -> int:
    simulation, method = task.data.simulation, task.method
    count = sum(simulation.counts_of_models)
    config = build_config(preset=method.preset, search=method.search, em=method.em)
    return estimate_memory_bytes(
        box=simulation.box,
        classes=len(simulation.models),
        threads=task.threads,
        count=count,
        groups=number_of_groups(config, count),
    )


def run_tasks(
    tasks: Sequence[Task], directory: Path, *, jobs: int, on_done: OnDone
) -> list[Failure]:
    """Run what is missing of ``tasks``; each result is kept as soon as it is there.

    Particles are made when the first run on them comes, and removed after the last.

    Parameters
    ----------
    tasks : sequence of Task
    directory : Path
    jobs : int
        Runs at a time, each in a process of its own. Results do not depend on it.
    on_done : callable
        Called after every run.

    Returns
    -------
    list of Failure

    Raises
    ------
    OutputError
        The directory or a result cannot be written, or another command is at work in it.
    KeyboardInterrupt
        After Ctrl-C or SIGTERM; finished runs are kept.
    """
    with _held(directory), ended_like_ctrl_c():
        campaign = _Campaign(missing(tasks, directory), directory, jobs, on_done)
        campaign.carry_out()
        shutil.rmtree(directory / _WORK, ignore_errors=True)
    return campaign.failures


class _Campaign:
    """Runs that are waiting, and those under way."""

    def __init__(self, tasks: Sequence[Task], directory: Path, jobs: int, on_done: OnDone) -> None:
        self.failures: list[Failure] = []
        self._directory, self._jobs, self._on_done = directory, jobs, on_done
        self._work = directory / _WORK
        self._waiting: dict[Path, list[Task]] = {}
        for task in tasks:
            self._waiting.setdefault(self._work / f"data-{task.data.key}", []).append(task)
        self._making: dict[Future[None], Path] = {}
        self._running: dict[Future[dict[str, Any]], tuple[Path, Task]] = {}
        self._open: dict[Path, int] = {}
        # A fresh process each: peak memory is the run's own.
        self._pool = ProcessPoolExecutor(
            jobs,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin_worker,
            max_tasks_per_child=1,
        )

    def carry_out(self) -> None:
        """Until all have ended."""
        try:
            to_make = deque(self._waiting)
            while to_make or self._making or self._running:
                while to_make and len(self._making) + len(self._running) < self._jobs:
                    data = to_make.popleft()
                    made = self._pool.submit(make_data, self._waiting[data][0], data)
                    self._making[made] = data
                under_way: list[Future[Any]] = [*self._making, *self._running]
                done, _ = wait(under_way, return_when=FIRST_COMPLETED)
                for future in done:
                    if future in self._making:
                        self._made(self._making.pop(future), future)
                    else:
                        self._ran(*self._running.pop(future), future)
        except BaseException:
            _end(self._pool, [*self._making, *self._running])
            raise
        self._pool.shutdown()

    def _made(self, data: Path, future: Future[None]) -> None:
        tasks = self._waiting.pop(data)
        outcome = _outcome(future)
        if isinstance(outcome, Failure):
            for task in tasks:
                self._ended(task, outcome)
            return
        self._open[data] = len(tasks)
        for task in tasks:
            run = self._pool.submit(carry_out, task, data, self._work / task.key)
            self._running[run] = (data, task)

    def _ran(self, data: Path, task: Task, future: Future[dict[str, Any]]) -> None:
        self._ended(task, _outcome(future))
        self._open[data] -= 1
        if self._open[data] == 0:
            shutil.rmtree(data, ignore_errors=True)

    def _ended(self, task: Task, outcome: dict[str, Any] | Failure) -> None:
        if isinstance(outcome, Failure):
            self.failures.append(outcome)
        else:
            text = json.dumps(outcome, indent=1) + "\n"
            write_text_atomic(_row(self._directory, task), text)
        self._on_done(task, outcome)


@contextmanager
def _held(directory: Path) -> Iterator[None]:
    """Two commands in one directory would remove each other's particles."""
    try:
        for name in (_ROWS, _WORK):
            (directory / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{directory}: cannot be written to ({error.strerror}); choose another with --output"
        ) from error
    with only_one(directory / _WORK):
        yield


def _begin_worker() -> None:
    """Ctrl-C is the main process' business, which then ends the others, RELION with them."""
    threadpool_limits(limits=1)  # of BLAS: runs are what is parallel
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)


def _leave(number: int, frame: object) -> None:
    del frame
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
    raise SystemExit(128 + number)


def _outcome(future: Future[Any]) -> Any:
    """What a run returned, or how it failed. One that fails keeps no other from its end."""
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, FamlError):
        return Failure(str(error), error.exit_code)
    if isinstance(error, BrokenProcessPool):
        raise OutputError(
            "a run's process has ended without a word, perhaps for want of memory; what is done is "
            "kept, give the same command again with --jobs 1"
        ) from error
    if not isinstance(error, Exception):
        raise error
    return Failure(f"unexpected {type(error).__name__}: {error}", FamlError.exit_code)


def _end(pool: ProcessPoolExecutor, futures: Sequence[Future[Any]]) -> None:
    """Stop at once; whoever gives the command again starts what was running anew."""
    for future in futures:
        future.cancel()
    while not all(future.done() for future in futures):
        # One more may have been handed to a worker, and begin when another ends.
        for process in list((pool._processes or {}).values()):
            process.terminate()
        wait(futures, timeout=_PATIENCE_SECONDS)
    pool.shutdown(cancel_futures=True)


def _row(directory: Path, task: Task) -> Path:
    return directory / _ROWS / f"{task.key}.json"
