"""What follows from a plan, in plain words."""

from __future__ import annotations

import math

from faml.costs.iteration import NETWORK_BYTES_PER_S, cost_of_iteration
from faml.costs.job import Job
from faml.costs.run import RunCost
from faml.costs.sizes import BLOCKS_PER_WORKER, items_of_pass
from faml.em.blocks import block_size
from faml.planning.plan import Plan, Prediction

__all__ = ["hints_of", "in_bytes", "in_time"]

_MANY_FILES = 20_000
_BATCHED = 10_000
_BATCH = 1_000
"""Particles of each class."""
_LARGE_CHECKPOINT = 2e10
_HALF = 0.5
_LITTLE = 1.5
"""Times the time: less is not worth the workers."""


def in_bytes(size: float) -> str:
    """A number of bytes with a unit."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{_short(size / factor)} {unit}"
    return f"{_short(size / 1e3)} kB"


def in_time(seconds: float) -> str:
    """A time with a unit."""
    for unit, factor in (("years", 3.156e7), ("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * factor:
            return f"{_short(seconds / factor)} {unit}"
    return f"{_short(seconds)} s"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def hints_of(plan: Plan) -> tuple[str, ...]:
    """What limits a run, and what to do about it."""
    rows = plan.predictions
    most = rows[-1]
    found = [
        _busy(plan),
        _workers_fed(most),
        _whole_blocks(rows),
        _alone(rows),
        _memory(plan),
        _disk(rows),
        _files(most),
        _batches(most),
        _checkpoint(most),
    ]
    return tuple(hint for hint in found if hint)


def _busy(plan: Plan) -> str:
    if not plan.constants.busy:
        return ""
    return (
        "this machine has more to do than it has cores: with nothing else to do it may take half "
        "the CPU time"
    )


def _workers_fed(row: Prediction) -> str:
    """How many workers one process can be sent sums by."""
    if row.workers == 1:
        return ""
    cost = row.finest
    each = cost.network_in_bytes / (cost.visited * row.constants.visit.at(cost.shell))
    of_link, of_sums = NETWORK_BYTES_PER_S / each, 1.0 / (each * row.constants.adding_s)
    largest = _two_digits(min(of_link, of_sums))
    if of_link <= of_sums:
        held = "its network link (10 Gbit/s assumed; a tenth of that at 1 Gbit/s)"
    else:
        held = "adding them"
    more = "; those asked for are more" if row.workers > largest else ""
    return (
        f"each worker sends {in_bytes(each)}/s of sums at shell {cost.shell}: from about "
        f"{largest:,} workers on, {held} holds up the process in charge{more}"
    )


def _whole_blocks(rows: tuple[Prediction, ...]) -> str:
    """Where so many workers are given small parts that their sums take most of the time."""
    for row in rows:
        cost, job = row.finest, row.job
        if cost.whole_blocks or max(cost.network_s, cost.adding_s) < cost.search_s:
            continue
        chunk = job.config.em.chunk_size
        block = block_size(cost.visited, chunk)
        most = items_of_pass(cost.visited, job.groups, chunk, block, 1)[0] // BLOCKS_PER_WORKER
        if most < 1:
            continue
        fewer = cost_of_iteration(job, row.constants, most, cost.shell, cost.iteration)
        if fewer.seconds > _LITTLE * cost.seconds:
            continue
        return (
            f"{job.count:,} particles on more than {most:,} workers: sums of {chunk} particles "
            f"are sent instead of {block}, {in_bytes(cost.network_in_bytes)} an iteration instead "
            f"of {in_bytes(fewer.network_in_bytes)}; {most:,} workers take "
            f"{in_time(fewer.seconds)}, {row.workers:,} take {in_time(cost.seconds)}"
        )
    return ""


def _two_digits(value: float) -> int:
    digits = max(0, int(math.log10(max(value, 1.0))) - 1)
    return max(1, int(value / 10**digits) * 10**digits)


def _alone(rows: tuple[Prediction, ...]) -> str:
    """Where workers wait for others, or for the M-step."""
    for row in rows:
        cost = row.finest
        if row.workers > 1 and row.workers > cost.items:
            return (
                f"{row.job.count:,} particles are {cost.items:,} parts: more workers than that "
                "have nothing to do"
            )
    for row in rows:
        cost = row.finest
        waited = cost.references_s + cost.averages_s + cost.serial_s
        if row.workers > 1 and waited > _HALF * cost.seconds:
            useful = _two_digits(cost.search_s * row.workers / waited)
            return (
                f"{row.job.count:,} particles on {row.workers:,} workers: more than half of an "
                f"iteration is not shared (references, M-step, books); about {useful:,} do"
            )
    return ""


def _memory(plan: Plan) -> str:
    for row in plan.predictions:
        if row.usual.memory_bytes > plan.memory_bytes:
            return (
                f"{row.job.count:,} particles with {row.workers:,} workers need "
                f"{in_bytes(row.usual.memory_bytes)} in the process in charge, more than the "
                f"{in_bytes(plan.memory_bytes)} of this machine; start it on a larger one"
            )
    return ""


def _disk(rows: tuple[Prediction, ...]) -> str:
    large = [row for row in rows if not row.cached]
    if not large:
        return ""
    row = [each for each in large if each.job.count == large[0].job.count][-1]
    rate = row.finest.read_bytes / row.finest.pass_s
    return (
        f"from {row.job.count:,} particles on, {in_bytes(row.volumes_bytes)} do not stay in the "
        f"memory of one machine like this and are read in every pass, at {in_bytes(rate)}/s with "
        f"{row.workers:,} workers; a fast disk, --memory, or more machines help"
    )


def _files(row: Prediction) -> str:
    if row.constants.packed or row.job.count < _MANY_FILES:
        return ""
    return (
        f"{row.job.count:,} loose files are opened in every pass; one pack is read faster: see "
        "faml pack"
    )


def _batches(row: Prediction) -> str:
    job, usual = row.job, row.usual
    em = job.config.em
    if em.batch is not None or job.count < _BATCHED or not job.explored:
        return ""
    batch = _BATCH * job.classes
    changed = job.config.model_copy(update={"em": em.model_copy(update={"batch": batch})})
    other = Job(changed, job.box, job.radius_voxels, job.count)
    batched = RunCost(other, row.constants, row.workers, usual.iterations, usual.top_shell)
    if batched.cpu_s > 0.9 * usual.cpu_s:
        return ""
    return (
        f"--batch {batch} leaves {in_time(batched.seconds)} of {in_time(usual.seconds)} for "
        f"{job.count:,} particles on {row.workers:,} workers: first iterations need not visit all"
    )


def _checkpoint(row: Prediction) -> str:
    usual = row.usual
    if usual.checkpoint_bytes < _LARGE_CHECKPOINT:
        return ""
    return (
        f"run.h5 keeps every iteration of {row.job.count:,} particles and grows to "
        f"{in_bytes(usual.checkpoint_bytes)}; as it is written anew each time, "
        f"{in_bytes(usual.written_bytes)} are written in all, and twice its size must be free"
    )
