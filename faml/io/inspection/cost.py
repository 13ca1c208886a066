"""What a run would take on a usual machine; `faml plan` measures this one."""

from __future__ import annotations

from dataclasses import dataclass

from faml.config import RunConfig
from faml.costs.iteration import cost_of_iteration
from faml.costs.job import Job, number_of_groups
from faml.costs.laws import usual_constants
from faml.costs.sizes import resident_bytes

__all__ = [
    "REFERENCE_SHELL",
    "Cost",
    "estimate_memory_bytes",
    "estimate_seconds_per_iteration",
    "number_of_groups",
]

REFERENCE_SHELL = 12
THREAD_EFFICIENCY = 0.9
"""Two threads run at least 1.8 times as fast as one."""


@dataclass(frozen=True)
class Cost:
    """Estimated cost of one iteration at a resolution.

    Attributes
    ----------
    shell : int
        Fourier radius r_max.
    resolution_angstrom : float
    seconds : float
        For all particles with the threads of the configuration.
    """

    shell: int
    resolution_angstrom: float
    seconds: float


def estimate_seconds_per_iteration(
    config: RunConfig, *, box: int, radius_voxels: float, count: int, shell: int
) -> float:
    """Wall time of an iteration of all particles at r_max ``shell``, with nothing else to do.

    Parameters
    ----------
    config : RunConfig
        Its threads visit the particles.
    box : int
    radius_voxels : float
    count : int
        Particles.
    shell : int
    """
    em = config.em
    constants = usual_constants(em.classes, config.search.max_candidates, box)
    settled = em.exploration + em.balance + 1
    whole = config.model_copy(update={"em": em.model_copy(update={"batch": None})})
    job = Job(whole, box, radius_voxels, count)
    cost = cost_of_iteration(job, constants, config.threads, shell, settled)
    efficiency = 1.0 if config.threads == 1 else THREAD_EFFICIENCY
    return cost.seconds / efficiency


def estimate_memory_bytes(
    *, box: int, classes: int, threads: int, count: int, groups: int = 1
) -> int:
    """Resident memory of a run at full resolution, an upper estimate.

    Parameters
    ----------
    box, classes, threads, count : int
    groups : int
        Folds in all halves (`number_of_groups`).
    """
    constants = usual_constants(classes, 1, box)
    return resident_bytes(
        box=box,
        classes=classes,
        groups=groups,
        count=count,
        threads=threads,
        base=constants.base_bytes,
        per_particle=constants.dataset_bytes,
    )
