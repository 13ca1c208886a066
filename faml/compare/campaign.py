"""Carrying out an experiment: what is missing is run, as many at a time as fit the machine."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from faml.compare.experiment import Task
from faml.compare.work import carry_out, make_data
from faml.errors import FamlError, OutputError
from faml.io.atomic import write_text_atomic
from faml.io.inspect import estimate_memory_bytes

__all__ = ["Failure", "jobs_that_fit", "missing", "results", "run_tasks"]

_ROWS, _WORK = "rows", "work"
_SHARE_OF_MEMORY = 0.8
_FOLDS = 5
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


def jobs_that_fit(tasks: Sequence[Task], threads: int, cores: int) -> int:
    """How many runs of so many threads the cores and the memory hold; at least one."""
    largest = max(
        (
            estimate_memory_bytes(
                box=task.data.simulation.box,
                classes=len(task.data.simulation.models),
                threads=threads,
                count=sum(task.data.simulation.counts_of_models),
                groups=int(task.method.em.get("folds", _FOLDS)),
            )
            for task in tasks
        ),
        default=1,
    )
    free = _SHARE_OF_MEMORY * _available_bytes()
    return max(1, min(cores // threads, int(free // largest)))


def _available_bytes() -> float:
    """Memory that is free; half of all where the system does not say."""
    page = os.sysconf("SC_PAGE_SIZE")
    if "SC_AVPHYS_PAGES" in os.sysconf_names:
        return float(page * os.sysconf("SC_AVPHYS_PAGES"))
    return 0.5 * page * os.sysconf("SC_PHYS_PAGES")


def run_tasks(
    tasks: Sequence[Task], directory: Path, *, jobs: int, threads: int, on_done: OnDone
) -> list[Failure]:
    """Run what is missing of ``tasks``; each result is kept as soon as it is there.

    Parameters
    ----------
    tasks : sequence of Task
        Those on one data set next to each other. Particles are made when their first run comes
        and removed after their last.
    directory : Path
    jobs, threads : int
        Runs at a time, each in a process of its own, and threads of each. Results do not depend
        on them.
    on_done : callable
        Called after every run.

    Returns
    -------
    list of Failure

    Raises
    ------
    OutputError
        A result cannot be written.
    KeyboardInterrupt
        After Ctrl-C; finished runs are kept.
    """
    work = directory / _WORK
    todo = [replace(task, threads=threads) for task in missing(tasks, directory)]
    groups = deque(
        (work / f"data-{key}", list(members))
        for key, members in groupby(todo, key=lambda task: task.data.key)
    )
    failures: list[Failure] = []
    # A fresh process each: peak memory is the run's own.
    pool = ProcessPoolExecutor(
        jobs,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin_worker,
        max_tasks_per_child=1,
    )
    making: dict[Future[None], tuple[Path, list[Task]]] = {}
    running: dict[Future[dict[str, Any]], tuple[Path, Task]] = {}
    open_runs: dict[Path, int] = {}

    def ended(task: Task, outcome: dict[str, Any] | Failure) -> None:
        if isinstance(outcome, Failure):
            failures.append(outcome)
        else:
            text = json.dumps(outcome, indent=1) + "\n"
            _row(directory, task).parent.mkdir(parents=True, exist_ok=True)
            write_text_atomic(_row(directory, task), text)
        on_done(task, outcome)

    try:
        while groups or making or running:
            while groups and len(making) + len(running) < jobs:
                data, members = groups.popleft()
                making[pool.submit(make_data, members[0], data)] = (data, members)
            waiting: list[Future[Any]] = [*making, *running]
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                if future in making:
                    made = making.pop(future)
                    data, members = made
                    outcome = _outcome(future)
                    if isinstance(outcome, Failure):
                        for task in members:
                            ended(task, outcome)
                        continue
                    open_runs[data] = len(members)
                    for task in members:
                        scratch = work / task.key
                        running[pool.submit(carry_out, task, data, scratch)] = (data, task)
                else:
                    data, task = running.pop(future)
                    ended(task, _outcome(future))
                    open_runs[data] -= 1
                    if open_runs[data] == 0:
                        shutil.rmtree(data, ignore_errors=True)
    except BaseException:
        _end(pool, [*making, *running])
        raise
    pool.shutdown()
    shutil.rmtree(work, ignore_errors=True)
    return failures


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
    """What a run returned, or how it failed."""
    try:
        return future.result()
    except FamlError as error:
        return Failure(str(error), error.exit_code)
    except BrokenProcessPool as error:
        raise OutputError(
            "a run's process has ended without a word, perhaps for want of memory; what is done is "
            "kept, give the same command again with --jobs 1"
        ) from error


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
