"""What a run would take: memory and time."""

from __future__ import annotations

from dataclasses import dataclass

from faml.config import RunConfig
from faml.em.folds import folds_of

__all__ = [
    "Cost",
    "estimate_memory_bytes",
    "estimate_seconds_per_iteration",
    "number_of_groups",
]

REFERENCE_SHELL = 12
REFERENCE_CANDIDATES = 50
SECONDS_PER_PARTICLE = 0.07
"""Measured in CPU seconds, 32^3 and 64^3 alike: one particle, one class, one iteration at r_max 12
with 50 candidates. 0.05 where low shells rule out most shifts, 0.09 where a CTF leaves them weak;
twice that on a busy machine."""
SECONDS_PER_GROUP = 0.2
"""Of one class of each fold, whatever the number of particles: references and M-step, at r_max 12.
Busy 0.3 to 0.4."""
PARTICLE_EXPONENT = 2.5
"""Of r_max: 0.025 s at r_max 6 (busy), 1.0 s at 31 (idle). Global searches stop growing at a sixth
of the diameter, and the rest has r_max^3 components."""
GROUP_EXPONENT = 1.0
THREAD_EFFICIENCY = 0.9
"""Two threads run at least 1.8 times as fast as one."""
BASE_BYTES = 450 * 2**20
"""Interpreter, libraries, compiled kernels and tables."""


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
    *, count: int, classes: int, candidates: int, shell: int, threads: int, groups: int = 1
) -> float:
    """Wall time of one iteration at r_max ``shell``, on a machine with nothing else to do.

    Parameters
    ----------
    count, classes, candidates : int
        Particles, classes, candidate poses of each.
    shell : int
    threads : int
    groups : int
        Folds in all halves (`number_of_groups`).
    """
    scale = shell / REFERENCE_SHELL
    particle = SECONDS_PER_PARTICLE * scale**PARTICLE_EXPONENT
    particle *= candidates / REFERENCE_CANDIDATES
    group = SECONDS_PER_GROUP * scale**GROUP_EXPONENT
    speed_up = 1.0 if threads == 1 else threads * THREAD_EFFICIENCY
    return classes * (count * particle + groups * group) / speed_up


def number_of_groups(config: RunConfig, count: int) -> int:
    """Groups of particles with averages of their own: folds in all halves."""
    halves = 2 if config.em.half_sets else 1
    return halves * folds_of(config.em.folds, count // halves)


def estimate_memory_bytes(
    *, box: int, classes: int, threads: int, count: int, groups: int = 1
) -> int:
    """Resident memory of a run at full resolution, an upper estimate.

    In bytes per voxel: each worker holds a volume, its spectrum and a twofold padded spectrum (40),
    and up to three sums of turned-back y (32) and W (17) per class; the model holds average, padded
    spectrum and denominators (60), and totals (81) per class; the M-step works on a twofold padded
    box (130); up to 16 weights are kept (18 each). Groups of particles have a model and totals
    each, and of several, as many are solved at once as there are threads, each from a sum of its
    own. 1 kB per particle for names, poses and statistics.
    """
    voxels = box**3
    per_worker = voxels * (40 + 3 * 49 * classes)
    solved = min(threads, groups)
    shared = voxels * (
        141 * classes * groups + (130 + 81 * classes * (groups > 1)) * solved + 16 * 18
    )
    return BASE_BYTES + threads * per_worker + shared + 1024 * count
