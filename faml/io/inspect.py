"""What `faml inspect` reports before a run: data, conventions, memory and time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from faml.config import RunConfig
from faml.em.folds import folds_of
from faml.io.dataset import Dataset, WeightSource, survey_particles
from faml.io.wedge_files import estimate_tilt_range_deg, observed_fraction

__all__ = [
    "Cost",
    "Inspection",
    "estimate_memory_bytes",
    "estimate_seconds_per_iteration",
    "inspect_dataset",
    "number_of_groups",
]

REFERENCE_SHELL = 12
REFERENCE_CANDIDATES = 50
SECONDS_PER_PARTICLE = 0.06
"""Measured: one particle, one class, one iteration at r_max 12 with 50 candidates, one thread.

At r_max 31 it is about 1.0 s: the work grows with the number of components, r_max cubed."""
THREAD_EFFICIENCY = 0.9
"""Two threads run at least 1.8 times as fast as one."""
BASE_BYTES = 450 * 2**20
"""Interpreter, libraries, compiled kernels and tables."""

CONVENTIONS = (
    "volumes [z, y, x], rotation centre at voxel n // 2, density positive",
    "single tilt axis Y, beam along Z; component observed where atan2(kz, kx) is in the tilt range",
    "RELION angles (rot, tilt, psi) and origins, in and out; a pose maps the reference onto the "
    "particle",
    "poses are those of the boxes: rlnTomoSubtomogram angles are kept and not applied",
)


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


@dataclass(frozen=True)
class Inspection:
    """Everything `faml inspect` shows.

    Attributes
    ----------
    count, available : int
        Particles used and in the input (they differ with a subset).
    box : int
        Voxels.
    voxel_size_angstrom : float
    modes : tuple of int
        MRC modes.
    value_range : (float, float)
        Smallest and largest grey value of all particles.
    background_mean, background_std : (float, float, float)
        Smallest, median and largest over the particles.
    contrast : float
        Median of (inside - background mean) / background deviation, with --invert applied.
    particle_radius_voxels : float
    weight_source : {"volumes", "tilt range", "missing"}
    distinct_weights : int
    observed_fraction : float or None
        Share of Fourier space inside the Nyquist sphere that is observed (first weight).
    tilt_range_deg : (float, float) or None
        As given, or estimated from the first weight volume.
    tilt_range_origin : {"given", "estimated", "unknown"}
    tilt_axis : {"y", "x"}
    premultiplied : bool
        Any particle is CTF-premultiplied.
    has_poses : bool
    normalisation : str
    conventions : tuple of str
    memory_bytes : int
        Estimated resident memory of a run.
    costs : tuple of Cost
        At a low and at the largest resolution.
    warnings : tuple of str
    """

    count: int
    available: int
    box: int
    voxel_size_angstrom: float
    modes: tuple[int, ...]
    value_range: tuple[float, float]
    background_mean: tuple[float, float, float]
    background_std: tuple[float, float, float]
    contrast: float
    particle_radius_voxels: float
    weight_source: WeightSource
    distinct_weights: int
    observed_fraction: float | None
    tilt_range_deg: tuple[float, float] | None
    tilt_range_origin: Literal["given", "estimated", "unknown"]
    tilt_axis: Literal["y", "x"]
    premultiplied: bool
    has_poses: bool
    normalisation: str
    conventions: tuple[str, ...]
    memory_bytes: int
    costs: tuple[Cost, ...]
    warnings: tuple[str, ...]


def inspect_dataset(config: RunConfig) -> Inspection:
    """Look at the particles of a configuration without running anything.

    A missing tilt range is reported, not refused; every other fault of the input is an error as
    in `open_particles`.

    Raises
    ------
    ConfigurationError, InputDataError
        As `open_particles`.
    """
    data = survey_particles(config.data, config.em.seed)
    particles, grey = data.particles, data.grey
    sign = -1.0 if config.data.invert else 1.0
    deviation = np.where(grey.background_std > 0, grey.background_std, 1.0)
    fraction, tilt_range, origin = _wedge(config, data)
    warnings = list(data.warnings)
    if data.weight_source == "missing":
        warnings.append("the missing wedge is unknown: a run needs --tilt-range MIN MAX")
    top = min(config.em.max_shell or particles.box, max(particles.box // 2 - 1, 1))
    shells = sorted({min(REFERENCE_SHELL, top), top})
    return Inspection(
        count=len(particles),
        available=data.available,
        box=particles.box,
        voxel_size_angstrom=particles.voxel_size_angstrom,
        modes=data.modes,
        value_range=(float(grey.minimum.min()), float(grey.maximum.max())),
        background_mean=_summary(grey.background_mean),
        background_std=_summary(grey.background_std),
        contrast=float(
            np.median(sign * (grey.inside_mean - grey.background_mean) / deviation),
        ),
        particle_radius_voxels=grey.radius_voxels,
        weight_source=data.weight_source,
        distinct_weights=int(particles.weight_index.max()) + 1,
        observed_fraction=fraction,
        tilt_range_deg=tilt_range,
        tilt_range_origin=origin,
        # Of a volume it is estimated about Y.
        tilt_axis=config.data.tilt_axis if data.weight_source == "tilt range" else "y",
        premultiplied=bool(data.premultiplied.any()),
        has_poses=particles.poses is not None,
        normalisation=f"{data.normalisation.applied}: {data.normalisation.reason}",
        conventions=CONVENTIONS,
        memory_bytes=estimate_memory_bytes(
            box=particles.box,
            classes=config.em.classes,
            threads=config.threads,
            count=len(particles),
            groups=number_of_groups(config, len(particles)),
        ),
        costs=tuple(_cost(config, data, shell) for shell in shells),
        warnings=tuple(warnings),
    )


def estimate_seconds_per_iteration(
    *, count: int, classes: int, candidates: int, shell: int, threads: int
) -> float:
    """Wall time of one iteration: `SECONDS_PER_PARTICLE` scaled by r_max^3, candidates, threads."""
    particle = SECONDS_PER_PARTICLE * (shell / REFERENCE_SHELL) ** 3
    speed_up = 1.0 if threads == 1 else threads * THREAD_EFFICIENCY
    return count * classes * particle * (candidates / REFERENCE_CANDIDATES) / speed_up


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


def _cost(config: RunConfig, data: Dataset, shell: int) -> Cost:
    particles = data.particles
    seconds = estimate_seconds_per_iteration(
        count=len(particles),
        classes=config.em.classes,
        candidates=config.search.max_candidates,
        shell=shell,
        threads=config.threads,
    )
    return Cost(shell, particles.box * particles.voxel_size_angstrom / shell, seconds)


def _wedge(
    config: RunConfig, data: Dataset
) -> tuple[float | None, tuple[float, float] | None, Literal["given", "estimated", "unknown"]]:
    """Observed fraction, tilt range and where the latter comes from."""
    if data.weight_source == "missing":
        return None, None, "unknown"
    weight = data.particles.weight(0)
    fraction = observed_fraction(weight)
    if data.weight_source == "tilt range":
        return fraction, config.data.tilt_range_deg, "given"
    estimate = estimate_tilt_range_deg(weight)
    return fraction, estimate, "unknown" if estimate is None else "estimated"


def _summary(values: np.ndarray) -> tuple[float, float, float]:
    return float(values.min()), float(np.median(values)), float(values.max())
