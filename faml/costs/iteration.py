"""Time, traffic and disk of one iteration on some workers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from faml.costs.job import Job
from faml.costs.laws import Constants
from faml.costs.sizes import assignment_bytes, items_of_pass, model_bytes, sums_bytes
from faml.em.blocks import block_size
from faml.em.schedule import classes_balanced
from faml.transforms.fourier import full_resolution_shell

__all__ = ["NETWORK_BYTES_PER_S", "IterationCost", "cost_of_iteration"]

NETWORK_BYTES_PER_S = 1.25e9
"""Of the link of the process in charge: 10 Gbit/s."""
_BALANCE_SAMPLE = 96  # `em.passes`


@dataclass(frozen=True)
class IterationCost:
    """One iteration with W workers.

    Attributes
    ----------
    shell, iteration, workers, visited : int
    items : int
        Parts in which particles are handed out.
    whole_blocks : bool
        These are blocks, and not chunks of them.
    cpu_s : float
        Of all processes.
    search_s : float
        Wall time of visiting particles, were there no network.
    network_s, adding_s : float
        What the process in charge needs to receive all sums, and to add them.
    references_s : float
        Of each worker.
    averages_s : float
        M-steps.
    serial_s : float
        What else the process in charge does: its books, the checkpoint.
    seconds : float
        Wall time of all.
    network_in_bytes, network_out_bytes : int
        What the process in charge receives and sends.
    read_bytes, written_bytes : int
        Of particles; of the checkpoint.
    """

    shell: int
    iteration: int
    workers: int
    visited: int
    items: int
    whole_blocks: bool
    cpu_s: float
    search_s: float
    network_s: float
    adding_s: float
    references_s: float
    averages_s: float
    serial_s: float
    seconds: float
    network_in_bytes: int
    network_out_bytes: int
    read_bytes: int
    written_bytes: int

    @property
    def pass_s(self) -> float:
        """Wall time until all sums are there."""
        return max(self.references_s + self.search_s, self.network_s, self.adding_s)

    @property
    def network_needed(self) -> float:
        """Bytes per second that keep all workers at work."""
        return self.network_in_bytes / (self.references_s + self.search_s)


def cost_of_iteration(
    job: Job, constants: Constants, workers: int, shell: int, iteration: int, *, last: bool = False
) -> IterationCost:
    """Cost of one iteration.

    Parameters
    ----------
    job : Job
    constants : Constants
    workers : int
        Of one thread each.
    shell : int
        Last shell of the alignment.
    iteration : int
        From 1.
    last : bool
        The pass after the last iteration, which is not saved.
    """
    k, box, config = job.classes, job.box, job.config
    full = full_resolution_shell(box)
    visited = job.count if last else job.visited(iteration)
    sampled = _BALANCE_SAMPLE if not last and classes_balanced(iteration, config.em) else 0
    sum_shell = full if last else job.sum_shell(shell)
    chunk = config.em.chunk_size
    items, whole = items_of_pass(visited, job.groups, chunk, block_size(visited, chunk), workers)
    visit_s = constants.visit.at(shell) * (constants.last_visit if last else 1.0)
    # Whoever has the last item keeps all others waiting.
    search_s = visit_s * (visited / items) * math.ceil(items / workers)
    search_s += visit_s * sampled / min(workers, max(1, sampled // chunk))
    references_s = constants.references.at(shell) * job.groups
    found = assignment_bytes(k)
    received = items * sums_bytes(k, sum_shell, total=whole) + visited * found
    sent = job.groups * model_bytes(box, k) + visited * (found + 8)
    ordered, held_out = (1 + job.halves, 0) if last else job.solves
    average_s = constants.averages.at(sum_shell)
    averages_s = average_s * (ordered + held_out / min(config.threads, max(1, held_out)))
    written = 0 if last else job.saved_bytes(iteration, shell, constants.name_bytes)
    before = job.saved_bytes(iteration - 1, shell, constants.name_bytes) if written else 0
    serial_s = job.count * constants.bookkeeping_s + constants.iteration_s
    serial_s += before * constants.copying_s + (written - before) * constants.writing_s
    adding_s = received * constants.adding_s
    cpu_s = (
        visit_s * (visited + sampled) + references_s * workers + adding_s + serial_s
        + average_s * (ordered + held_out)
    )  # fmt: skip
    network_s = received / NETWORK_BYTES_PER_S
    return IterationCost(
        shell=shell,
        iteration=iteration,
        workers=workers,
        visited=visited,
        items=items,
        whole_blocks=whole,
        cpu_s=cpu_s,
        search_s=search_s,
        network_s=network_s,
        adding_s=adding_s,
        references_s=references_s,
        averages_s=averages_s,
        serial_s=serial_s,
        seconds=max(references_s + search_s, network_s, adding_s) + averages_s + serial_s,
        network_in_bytes=received,
        network_out_bytes=sent,
        read_bytes=int(visited * (constants.volume_bytes + constants.weight_bytes)),
        written_bytes=written,
    )
