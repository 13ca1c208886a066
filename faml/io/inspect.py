"""What `faml inspect` reports before a run: data, conventions, memory and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from faml.config import RunConfig
from faml.io.dataset import Dataset, WeightSource, survey_particles
from faml.io.formats import FORMATS, TiltRange, detect_format
from faml.io.formats.relion import relion_flavour
from faml.io.grey_values import Contrast, judge_contrast
from faml.io.inspection.cost import (
    REFERENCE_SHELL,
    Cost,
    estimate_memory_bytes,
    estimate_seconds_per_iteration,
    number_of_groups,
)
from faml.io.inspection.identity import ClosePairs, close_particles, identical_volumes
from faml.io.inspection.measured_wedge import MeasuredWedge, WedgeGauge
from faml.io.inspection.resolution import Reachable, estimate_resolution
from faml.io.inspection.tomograms import (
    Tomogram,
    describe_tomograms,
    survey_wedges,
    tomogram_wedge_warnings,
)
from faml.io.inspection.voxel_sizes import VoxelSizes, survey_voxel_sizes
from faml.io.inspection.wedge_check import wedge_warnings
from faml.io.packs.readers import PackedWeights
from faml.io.particle_weights import how_to_give_wedge
from faml.io.star import RelionStar
from faml.io.tilt_angles import read_tilt_angles
from faml.io.tilt_ranges import TiltRangeWeights
from faml.io.wedge_files import estimate_tilt_range_deg, observed_fraction

__all__ = [
    "Cost",
    "Inspection",
    "described_format",
    "estimate_memory_bytes",
    "estimate_seconds_per_iteration",
    "inspect_dataset",
    "number_of_groups",
]

_WEIGHTS_READ = 16

CONVENTIONS = (
    "volumes [z, y, x], rotation centre at voxel n // 2, density positive",
    "single tilt axis Y (or X), beam along Z; component observed where atan2(kz, kx), about X "
    "atan2(-kz, ky), is in the tilt range",
    "RELION angles (rot, tilt, psi) and origins, in and out; a pose maps the reference onto the "
    "particle",
    "poses are those of the boxes: rlnTomoSubtomogram angles are kept and not applied",
)


@dataclass(frozen=True)
class Inspection:
    """Everything `faml inspect` shows.

    Attributes
    ----------
    input_format : str
        What the input is, in words.
    count, available : int
        Particles used and in the input (they differ with a subset).
    box : int
        Voxels.
    voxel_size_angstrom : float
        The one used.
    voxel_sizes : VoxelSizes
        What each source says.
    modes : tuple of int
        MRC modes.
    value_range : (float, float)
        Smallest and largest grey value of all particles.
    background_mean, background_std : (float, float, float)
        Smallest, median and largest over the particles.
    contrast : Contrast
        Bright or dark, with --invert applied.
    particle_radius_voxels : float
    weight_source : {"volumes", "tilt range", "tilt angles", "tilt images", "missing"}
    distinct_weights : int
    observed_fraction : float or None
        Share of Fourier space inside the Nyquist sphere that is observed (first weight).
    tilt_range_deg : (float, float) or None
        As given, or estimated from the first weight volume.
    tilt_range_origin : {"given", "estimated", "unknown"}
    tilt_axis : {"y", "x"}
    measured_wedge : MeasuredWedge
        What the particles themselves show, from a sample of them.
    tomograms : tuple of Tomogram
        Empty where the input names none.
    identical : tuple of tuples of str
        Names of particles with the same volume.
    close : ClosePairs or None
        None where there are no coordinates.
    premultiplied : bool
        Any particle is CTF-premultiplied.
    has_poses : bool
    normalisation : str
    conventions : tuple of str
    memory_bytes : int
        Estimated resident memory of a run.
    costs : tuple of Cost
        At a low and at the largest resolution.
    resolution : Reachable
    warnings : tuple of str
    """

    input_format: str
    count: int
    available: int
    box: int
    voxel_size_angstrom: float
    voxel_sizes: VoxelSizes
    modes: tuple[int, ...]
    value_range: tuple[float, float]
    background_mean: tuple[float, float, float]
    background_std: tuple[float, float, float]
    contrast: Contrast
    particle_radius_voxels: float
    weight_source: WeightSource
    distinct_weights: int
    observed_fraction: float | None
    tilt_range_deg: tuple[float, float] | None
    tilt_range_origin: Literal["given", "estimated", "unknown"]
    tilt_axis: Literal["y", "x"]
    measured_wedge: MeasuredWedge
    tomograms: tuple[Tomogram, ...]
    identical: tuple[tuple[str, ...], ...]
    close: ClosePairs | None
    premultiplied: bool
    has_poses: bool
    normalisation: str
    conventions: tuple[str, ...]
    memory_bytes: int
    costs: tuple[Cost, ...]
    resolution: Reachable
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
    particles, grey, invert = data.particles, data.grey, config.data.invert
    gauge = WedgeGauge(particles.box)
    survey, declared = survey_wedges(data, gauge), _declared(config, data, gauge)
    fraction, tilt_range, origin = _wedge(config, data, declared)
    sizes = survey_voxel_sizes(data, config.data.voxel_size_angstrom)
    identical = identical_volumes(data)
    close = close_particles(data, grey.radius_voxels * particles.voxel_size_angstrom)
    warnings = list(data.warnings)
    if declared is None:
        warnings.append(f"the missing wedge is unknown: for a run, {how_to_give_wedge(data.star)}")
    wedges_wrong = wedge_warnings(survey.all, declared, data.weight_source)
    if not wedges_wrong and declared is not None:
        wedges_wrong = tomogram_wedge_warnings(data, survey, gauge)
    warnings += wedges_wrong
    warnings += sizes.warnings(particles.voxel_size_angstrom)
    warnings += _identity_warnings(identical, close)
    top = min(config.em.max_shell or particles.box, max(particles.box // 2 - 1, 1))
    return Inspection(
        input_format=_input_format(data),
        count=len(particles),
        available=data.available,
        box=particles.box,
        voxel_size_angstrom=particles.voxel_size_angstrom,
        voxel_sizes=sizes,
        modes=data.modes,
        value_range=(float(grey.minimum.min()), float(grey.maximum.max())),
        background_mean=_summary(grey.background_mean),
        background_std=_summary(grey.background_std),
        contrast=judge_contrast(grey, invert=invert),
        particle_radius_voxels=grey.radius_voxels,
        weight_source=data.weight_source,
        distinct_weights=int(particles.weight_index.max()) + 1,
        observed_fraction=fraction,
        tilt_range_deg=tilt_range,
        tilt_range_origin=origin,
        tilt_axis=_axis(config, data, declared),
        measured_wedge=survey.all,
        tomograms=describe_tomograms(data, survey, invert=invert),
        identical=identical,
        close=close,
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
        costs=tuple(
            _cost(config, data, shell) for shell in sorted({min(REFERENCE_SHELL, top), top})
        ),
        resolution=estimate_resolution(data),
        warnings=tuple(warnings),
    )


def described_format(star: RelionStar | None, paths: Sequence[Path], source: WeightSource) -> str:
    """What an input of loose files is, in words."""
    if star is None:
        suffixes = sorted({path.suffix.lower() for path in paths})
        return f"loose volumes ({', '.join(suffixes)})"
    kind = detect_format(star.path)
    described = FORMATS[relion_flavour(star) if kind == "relion" else kind]
    return f"{described}; 2-D tilt images" if source == "tilt images" else described


def _input_format(data: Dataset) -> str:
    if data.pack is not None:
        values = "half precision" if data.pack.mean is not None else "single precision"
        return f"particle pack in {values}, of: {data.pack.input_format}"
    return described_format(data.star, data.paths, data.weight_source)


def _cost(config: RunConfig, data: Dataset, shell: int) -> Cost:
    particles = data.particles
    seconds = estimate_seconds_per_iteration(
        config,
        box=particles.box,
        radius_voxels=data.grey.radius_voxels,
        count=len(particles),
        shell=shell,
    )
    return Cost(shell, particles.box * particles.voxel_size_angstrom / shell, seconds)


def _declared(config: RunConfig, data: Dataset, gauge: WedgeGauge) -> MeasuredWedge | None:
    """The wedge of the weights, seen as that of the particles is; None where there are none."""
    if data.weight_source == "missing":
        return None
    particles = data.particles
    which, counts = np.unique(particles.weight_index, return_counts=True)
    common = np.argsort(-counts, kind="stable")[:_WEIGHTS_READ]
    mean = np.average(
        [particles.weight(int(which[each])) for each in common], axis=0, weights=counts[common]
    )
    seen = gauge.of_weight(mean)
    given = config.data.tilt_range_deg
    if data.weight_source == "tilt range" and given is not None:
        axis_deg = 0.0 if config.data.tilt_axis == "y" else 90.0
        seen = replace(
            seen, told=True, tilt_range_deg=given, tilt_axis=config.data.tilt_axis,
            axis_deg=axis_deg,
        )  # fmt: skip
    return seen


def _wedge(
    config: RunConfig, data: Dataset, declared: MeasuredWedge | None
) -> tuple[float | None, tuple[float, float] | None, Literal["given", "estimated", "unknown"]]:
    """Observed fraction, tilt range and where the latter comes from."""
    if declared is None:
        return None, None, "unknown"
    weight = data.particles.weight(0)
    fraction = observed_fraction(weight)
    if data.weight_source == "tilt range" and config.data.tilt_range_deg is not None:
        return fraction, config.data.tilt_range_deg, "given"
    tabled = _tabled(data)
    if tabled is not None:
        return fraction, (tabled.low_deg, tabled.high_deg), "given"
    if data.weight_source == "tilt angles" and config.data.tilt_angles_file is not None:
        angles = read_tilt_angles(config.data.tilt_angles_file)
        return fraction, (min(angles), max(angles)), "given"
    estimate = estimate_tilt_range_deg(weight)
    if declared.told and declared.tilt_axis == "x":
        estimate = declared.tilt_range_deg
    return fraction, estimate, "unknown" if estimate is None else "estimated"


def _tabled(data: Dataset) -> TiltRange | None:
    """The first tilt range of a table or wedge list, where it is one about one axis."""
    reader = data.particles.weights
    if data.weight_source != "tilt range" or not isinstance(
        reader, TiltRangeWeights | PackedWeights
    ):
        return None
    first = reader.wedges[0] if reader.wedges else ()
    return first[0] if len(first) == 1 else None


def _axis(config: RunConfig, data: Dataset, declared: MeasuredWedge | None) -> Literal["y", "x"]:
    tabled = _tabled(data)
    if tabled is not None:
        return "x" if tabled.axis == "x" else "y"
    given = config.data.tilt_range_deg or config.data.tilt_angles_file
    if data.weight_source in {"tilt range", "tilt angles"} and given:
        return config.data.tilt_axis
    return "x" if declared is not None and declared.tilt_axis == "x" else "y"


def _identity_warnings(
    identical: tuple[tuple[str, ...], ...], close: ClosePairs | None
) -> list[str]:
    warnings = []
    if identical:
        first = identical[0]
        warnings.append(
            f"{sum(len(names) - 1 for names in identical)} particles are copies of others, first "
            f"{first[1]} of {first[0]}; remove them, or half-sets will share them"
        )
    if close is not None and close.first is not None:
        one, other = close.first
        warnings.append(
            f"{close.particles} particles lie closer than {close.distance_angstrom:.0f} A to "
            f"another of their tomogram, the closest are {one} and {other} "
            f"({close.nearest_angstrom:.0f} A); remove duplicates, or give faml run "
            f"--min-distance {close.distance_angstrom:.0f}"
        )
    return warnings


def _summary(values: np.ndarray) -> tuple[float, float, float]:
    return float(values.min()), float(np.median(values)), float(values.max())
