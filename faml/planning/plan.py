"""Predictions for numbers of particles and of workers."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import psutil

from faml.costs.iteration import NETWORK_BYTES_PER_S, IterationCost
from faml.costs.job import Job
from faml.costs.laws import Constants
from faml.costs.run import RunCost

__all__ = ["COUNTS", "Plan", "Prediction", "make_plan", "plan_to_json"]

SCHEMA_VERSION = 1
"""Grows when a key changes its name or meaning; new keys leave it."""
COUNTS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
_USUAL, _SHORT = 25, 15
"""Iterations assumed of a run, and of a quick one; simulated ones took 15 to 25."""


@dataclass(frozen=True)
class Prediction:
    """What N particles take with W workers.

    Attributes
    ----------
    job : Job
    constants : Constants
    workers : int
    memory_bytes : int
        Of this machine.
    """

    job: Job
    constants: Constants
    workers: int
    memory_bytes: int

    def _run(self, iterations: int, shell: int) -> RunCost:
        most = self.job.config.em.iterations
        return RunCost(self.job, self.constants, self.workers, min(iterations, most), shell)

    @cached_property
    def short(self) -> RunCost:
        """A run that stops early, half way (in octaves) to the finest resolution."""
        job = self.job
        return self._run(_SHORT, round((job.first_shell * job.last_shell) ** 0.5))

    @cached_property
    def usual(self) -> RunCost:
        """A run that comes to the finest resolution."""
        return self._run(_USUAL, self.job.last_shell)

    @cached_property
    def long(self) -> RunCost:
        """A run that ends because it has had all its iterations."""
        return self._run(self.job.config.em.iterations, self.job.last_shell)

    @cached_property
    def first(self) -> IterationCost:
        """The first iteration."""
        return self.usual.iteration(1)

    @cached_property
    def finest(self) -> IterationCost:
        """An iteration of all particles at the finest resolution that the usual run comes to."""
        return self.usual.iteration(max(1, self.usual.iterations))

    @property
    def seconds_range(self) -> tuple[float, float]:
        """Of a run: the short one and the long one, less and more than measured."""
        spread = self.constants.spread
        least = (1.0 - min(spread, 0.9)) * (0.5 if self.constants.busy else 1.0)
        return self.short.seconds * least, self.long.seconds * (1.0 + spread)

    @property
    def volumes_bytes(self) -> int:
        """Of all particles on disk."""
        return int(self.job.count * (self.constants.volume_bytes + self.constants.weight_bytes))

    @property
    def cached(self) -> bool:
        """Whether the system can keep all of them, so that they are read from disk once."""
        return self.volumes_bytes + self.usual.memory_bytes < self.memory_bytes

    @property
    def disk_read_bytes(self) -> int:
        """In the usual run."""
        return self.volumes_bytes if self.cached else self.usual.read_bytes


@dataclass(frozen=True)
class Plan:
    """All predictions for one data set.

    Attributes
    ----------
    constants : Constants
    predictions : tuple of Prediction
        By number of particles, then of workers.
    memory_bytes : int
        Of this machine.
    """

    constants: Constants
    predictions: tuple[Prediction, ...]
    memory_bytes: int


def make_plan(
    job: Job, constants: Constants, counts: Sequence[int], workers: Sequence[int]
) -> Plan:
    """Predictions for all numbers of particles and workers.

    Parameters
    ----------
    job : Job
        Its number of particles does not matter.
    constants : Constants
    counts, workers : sequence of int
    """
    memory = psutil.virtual_memory().total
    rows = tuple(
        Prediction(Job(job.config, job.box, job.radius_voxels, count), constants, each, memory)
        for count in sorted(set(counts))
        for each in sorted(set(workers))
    )
    return Plan(constants, rows, memory)


def plan_to_json(plan: Plan, hints: Sequence[str]) -> str:
    """A plan with its constants and what it assumes, as one JSON object."""
    some = plan.predictions[0]
    content = {
        "schema_version": SCHEMA_VERSION,
        "machine": f"{platform.machine()}, {psutil.cpu_count()} cores",
        "memory_bytes": plan.memory_bytes,
        "assumed": {
            "iterations": some.usual.iterations,
            "iterations_short": some.short.iterations,
            "iterations_long": some.long.iterations,
            "first_shell": some.job.first_shell,
            "last_shell": some.usual.top_shell,
            "last_shell_short": some.short.top_shell,
            "network_bytes_per_s": NETWORK_BYTES_PER_S,
            "threads": some.job.config.threads,
        },
        "constants": asdict(plan.constants),
        "predictions": [_as_dictionary(each) for each in plan.predictions],
        "hints": list(hints),
    }
    return json.dumps(content, indent=1, allow_nan=False)


def _as_dictionary(row: Prediction) -> dict[str, Any]:
    usual = row.usual
    return {
        "particles": row.job.count,
        "workers": row.workers,
        "box": row.job.box,
        "classes": row.job.classes,
        "groups": row.job.groups,
        "first_iteration": asdict(row.first),
        "finest_iteration": asdict(row.finest),
        "run_s": usual.seconds,
        "run_s_range": list(row.seconds_range),
        "run_cpu_s": usual.cpu_s,
        "memory_bytes": usual.memory_bytes,
        "worker_memory_bytes": usual.worker_bytes,
        "network_bytes_per_s_needed": row.finest.network_needed,
        "volumes_bytes": row.volumes_bytes,
        "disk_read_bytes": row.disk_read_bytes,
        "disk_written_bytes": usual.written_bytes,
        "checkpoint_bytes": usual.checkpoint_bytes,
    }
