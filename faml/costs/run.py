"""Time, memory, traffic and disk of a whole run on some workers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from faml.costs.iteration import IterationCost, cost_of_iteration
from faml.costs.job import Job
from faml.costs.laws import Constants
from faml.costs.sizes import (
    IN_FLIGHT,
    items_of_pass,
    memory_of_worker,
    resident_bytes,
    sums_bytes,
)
from faml.em.blocks import block_size
from faml.transforms.fourier import full_resolution_shell

__all__ = ["RunCost"]


@dataclass(frozen=True)
class RunCost:
    """A whole run: resolution grows by a shell in each iteration, up to some shell.

    Attributes
    ----------
    job : Job
    constants : Constants
    workers, iterations, top_shell : int
    """

    job: Job
    constants: Constants
    workers: int
    iterations: int
    top_shell: int

    def shell(self, iteration: int) -> int:
        """Last shell of the alignment in an iteration, from 1."""
        return min(self.job.first_shell + iteration - 1, self.top_shell)

    def iteration(self, number: int) -> IterationCost:
        """One iteration."""
        return cost_of_iteration(self.job, self.constants, self.workers, self.shell(number), number)

    @cached_property
    def parts(self) -> tuple[IterationCost, ...]:
        """All iterations, and the pass after the last one."""
        shell = self.shell(max(1, self.iterations))
        last = cost_of_iteration(
            self.job, self.constants, self.workers, shell, self.iterations + 1, last=True
        )
        return (*(self.iteration(i) for i in range(1, self.iterations + 1)), last)

    @property
    def start(self) -> IterationCost:
        """The start as an iteration: its M-step is that of one, its visits are quicker."""
        return cost_of_iteration(self.job, self.constants, self.workers, self.job.first_shell, 0)

    @property
    def _alone_s(self) -> float:
        """CPU seconds of the process in charge before the first iteration."""
        opening = 0.0 if self.constants.grey_known else self.job.count * self.constants.opening_s
        return opening + self.start.serial_s

    @property
    def cpu_s(self) -> float:
        """Of all processes, without the start of the program, the last pictures and the report."""
        ordered, held_out = self.job.solves
        average_s = self.constants.averages.at(self.job.sum_shell(self.job.first_shell))
        begun = self.job.count * self.constants.start_s + (ordered + held_out) * average_s
        return begun + self._alone_s + sum(part.cpu_s for part in self.parts)

    @property
    def seconds(self) -> float:
        """Wall time, without the same."""
        begun = self.job.count * self.constants.start_s / self.workers + self.start.averages_s
        return begun + self._alone_s + sum(part.seconds for part in self.parts)

    @property
    def passes(self) -> int:
        """How often every particle is read at least, to begin: grey values, power, first sums."""
        return 2 if self.constants.grey_known else 3

    @property
    def read_bytes(self) -> int:
        """Of particles, if nothing stays in memory."""
        each = self.constants.volume_bytes + self.constants.weight_bytes
        return int(self.passes * self.job.count * each) + sum(p.read_bytes for p in self.parts)

    @property
    def checkpoint_bytes(self) -> int:
        """Size of run.h5 at the end."""
        shell = self.shell(max(1, self.iterations))
        return self.job.saved_bytes(self.iterations, shell, self.constants.name_bytes)

    @property
    def written_bytes(self) -> int:
        """Of checkpoints: each is written as a whole, beside the one before."""
        return self.start.written_bytes + sum(part.written_bytes for part in self.parts)

    @cached_property
    def memory_bytes(self) -> int:
        """Of the process in charge: books of all particles, sums, and those that are waiting."""
        job, constants = self.job, self.constants
        resident = resident_bytes(
            box=job.box,
            classes=job.classes,
            groups=job.groups,
            count=job.count,
            threads=job.config.threads,
            base=constants.base_bytes,
            per_particle=constants.dataset_bytes,
            visits_here=self.workers == 1,
        )
        totals = sums_bytes(job.classes, full_resolution_shell(job.box), total=True)
        if job.batched:  # decaying means of sums, and what they stand for
            resident += 2 * job.groups * totals
        if self.workers == 1:
            return resident
        chunk = job.config.em.chunk_size
        items, whole = items_of_pass(
            job.count, job.groups, chunk, block_size(job.count, chunk), self.workers
        )
        waiting = min(items, IN_FLIGHT * self.workers)
        return resident + waiting * sums_bytes(
            job.classes, full_resolution_shell(job.box), total=whole
        )

    @cached_property
    def worker_bytes(self) -> int:
        """Of each worker, a process of one thread."""
        job, constants = self.job, self.constants
        return memory_of_worker(
            box=job.box,
            classes=job.classes,
            groups=job.groups,
            count=job.count,
            sum_shell=full_resolution_shell(job.box),
            base=constants.base_bytes,
            sent=constants.sent_bytes,
        )
