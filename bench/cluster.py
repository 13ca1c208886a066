"""Threads of one process against Dask workers: the same bits, at what cost, and under fire.

    python bench/cluster.py [--count 96] [--workers 1 2 4] [--kill-every 20] [--json FILE]

Particles of 64^3 voxels in a file each, two classes, one iteration of `faml` after the start. CPU
seconds are those of all processes, after a warm-up that loads compiled code and tables in each: the
machine may be busy with other things. In the last row a worker is killed (SIGKILL) every so many
seconds.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import record
from memory import write_particles
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from faml.cluster import connected
from faml.config import DataConfig, build_config
from faml.em.loop import EmRun
from faml.em.state import State
from faml.em.workers import Workers
from faml.io.dataset import open_particles
from faml.particles import ParticleSet

BOX, TILTS = 64, (-60.0, 60.0)
SETTINGS: dict[str, Any] = {
    "search": {"max_shift_voxels": 6.0},
    "em": {"classes": 2, "iterations": 1, "seed": 1},
}


def cpu_seconds(processes: list[psutil.Process]) -> float:
    """User and system time of processes that are there."""
    total = 0.0
    for process in processes:
        times = process.cpu_times()
        total += times.user + times.system
    return total


def workers_of(parent: psutil.Process) -> list[psutil.Process]:
    """Processes of Dask workers; not those that only watch over children."""
    found = [p for p in parent.children(recursive=True) if p.memory_info().rss > 60e6]
    return sorted(found, key=lambda p: p.pid)


@contextmanager
def under_fire(every_s: float | None) -> Iterator[list[int]]:
    """Kill a worker every so many seconds while the block runs."""
    killed: list[int] = []
    over = threading.Event()

    def shoot() -> None:
        rng = random.Random(1)
        while not over.wait(every_s):
            targets = workers_of(psutil.Process())
            if targets:
                target = rng.choice(targets)
                os.kill(target.pid, signal.SIGKILL)
                killed.append(target.pid)

    thread = threading.Thread(target=shoot)
    if every_s is not None:
        thread.start()
    try:
        yield killed
    finally:
        over.set()
        if every_s is not None:
            thread.join()


def same(a: list[State], b: list[State]) -> bool:
    """Whether models and assignments of all iterations are equal bit by bit."""
    if len(a) != len(b):
        return False
    pairs: list[tuple[Any, Any]] = [(x.model, y.model) for x, y in zip(a, b, strict=True)]
    pairs += [(x.assignments, y.assignments) for x, y in zip(a, b, strict=True)]
    return all(
        np.array_equal(getattr(x, field.name), getattr(y, field.name))
        for x, y in pairs
        for field in fields(x)
    )


def warm_up(particles: ParticleSet, workers: Workers | None) -> None:
    """Load compiled code and tables in every process."""
    em = SETTINGS["em"] | {"chunk_size": 1}
    some = particles.subset(np.arange(min(16, len(particles))))
    for _ in EmRun(some, build_config(**SETTINGS | {"em": em}), workers=workers).states():
        pass


def measure(folder: Path, cluster: str | None, kill_every_s: float | None) -> tuple[Any, Any]:
    """The states of a run, and what it took."""
    data = DataConfig(inputs=(str(folder),), tilt_range_deg=TILTS, voxel_size_angstrom=6.0)
    particles = open_particles(data, 0).particles
    begin = time.monotonic()
    with connected(cluster) as workers, threadpool_limits(limits=1):
        connecting = time.monotonic() - begin
        everyone = [psutil.Process(), *(workers_of(psutil.Process()) if cluster else [])]
        before = cpu_seconds(everyone)
        warm_up(particles, workers)
        run = EmRun(particles, build_config(**SETTINGS), workers=workers)
        begin, spent = time.monotonic(), cpu_seconds(everyone)
        with under_fire(kill_every_s) as killed:
            states = list(run.states())
        wall = time.monotonic() - begin
        # Of those that were killed nobody knows what they had spent.
        cpu = None if kill_every_s else cpu_seconds(everyone) - spent
    return states, {
        "workers": cluster or "1 thread",
        "cpu_s": cpu,
        "wall_s": wall,
        "connecting_s": connecting,
        "warm_up_cpu_s": spent - before,
        "killed": len(killed),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=96)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--kill-every", type=float, default=20.0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "particles"
        folder.mkdir()
        write_particles(folder, arguments.count, BOX)
        plain, row = measure(folder, None, None)
        rows.append(row | {"same": True})
        per_particle = row["cpu_s"] / arguments.count
        for number in arguments.workers:
            states, row = measure(folder, f"local:{number}", None)
            overhead = row["cpu_s"] / rows[0]["cpu_s"] - 1.0
            rows.append(row | {"same": same(plain, states), "overhead": overhead})
        if arguments.kill_every > 0:
            states, row = measure(folder, "local:2", arguments.kill_every)
            rows.append(row | {"same": same(plain, states)})
    table = Table(
        "workers",
        "CPU s",
        "overhead",
        "wall s",
        "connecting s",
        "warm-up CPU s",
        "killed",
        "same bits",
    )
    for row in rows:
        row |= {"count": arguments.count, "box": BOX, "cpu_s_per_particle": per_particle}
        table.add_row(
            row["workers"],
            "" if row["cpu_s"] is None else f"{row['cpu_s']:.1f}",
            f"{row['overhead']:.1%}" if "overhead" in row else "",
            f"{row['wall_s']:.1f}", f"{row['connecting_s']:.1f}",
            f"{row['warm_up_cpu_s']:.1f}", str(row["killed"]),
            "yes" if row["same"] else "NO",
        )  # fmt: skip
    Console().print(table)
    Console().print(f"{per_particle:.3f} CPU s per particle, all stages, in the plain run")
    record.write(arguments.json, rows, "python bench/cluster.py")


if __name__ == "__main__":
    main()
