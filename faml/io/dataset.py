"""From inputs to a particle set: everything is checked here, before a run starts.

Particles are looked at one by one and none is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from faml.config import DataConfig
from faml.errors import ConfigurationError
from faml.io.boxes import Boxes, FileVolumes, look_at_boxes
from faml.io.grey_values import (
    DEFAULT_RADIUS,
    GreyValues,
    contrast_warning,
    extreme_warning,
    measure_grey_values,
)
from faml.io.input_poses import input_poses
from faml.io.normalisation import Normalisation, decide_normalisation
from faml.io.packs.content import Pack
from faml.io.packs.texts import Paths, encoded
from faml.io.particle_source import Source, list_source
from faml.io.particle_weights import (
    ParticleWeights,
    WeightSource,
    check_tilt_range,
    open_weights,
)
from faml.io.star import RelionStar, compacted
from faml.particles import ParticlePoses, ParticleSet
from faml.transforms.fourier import BALL_RADIUS

__all__ = [
    "Dataset",
    "FileVolumes",
    "Listing",
    "WeightSource",
    "list_particles",
    "open_particles",
    "radius_voxels",
    "survey_particles",
]

_SUBSET_STREAM = 0x5B5E7
"""Keeps the draw of a subset apart from every other use of the run's seed."""
_SMALLEST_DIAMETER_VOXELS = 4


@dataclass(frozen=True)
class Dataset:
    """Particles ready for a run and what is known about where they come from.

    Attributes
    ----------
    particles : ParticleSet
        In the order of the input, also with a subset.
    paths : sequence of N Path
        The files of the particles; of a pack those that were packed.
    star : RelionStar or None
        The whole input table; that of another program in RELION's terms.
    rows : (N,) int64
        Which input particle (row of the STAR file, file of the list) each one is.
    available : int
        Particles in the input before drawing a subset.
    modes : tuple of int
        MRC modes that occur.
    weight_source : {"volumes", "tilt range", "tilt angles", "tilt images", "missing"}
        `missing` only from `survey_particles`.
    header_sizes : tuple of (float, int)
        Voxel sizes of the headers, 0 for none, with how many of the first 1000 say so.
    weight_paths : tuple of M Path
        Weight volume of each distinct weight; empty unless ``weight_source`` is `volumes`.
    premultiplied : (N,) bool
    grey : GreyValues
    normalisation : Normalisation
    warnings : tuple of str
    pack : Pack or None
        Where the particles are from one.
    """

    particles: ParticleSet
    paths: Sequence[Path]
    star: RelionStar | None
    rows: npt.NDArray[np.int64]
    available: int
    modes: tuple[int, ...]
    header_sizes: tuple[tuple[float, int], ...]
    weight_source: WeightSource
    weight_paths: tuple[Path, ...]
    premultiplied: npt.NDArray[np.bool_]
    grey: GreyValues
    normalisation: Normalisation
    warnings: tuple[str, ...]
    pack: Pack | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of the input."""
        if self.pack is not None:
            return (self.pack.path,)
        table = () if self.star is None else (self.star.path,)
        return (*table, *self.paths, *self.weight_paths)


@dataclass(frozen=True)
class Listing:
    """N particles as they are, before a run chooses how their grey values are read.

    Attributes
    ----------
    source : Source
    rows : (N,) int64
    available : int
    boxes : Boxes
    weights : ParticleWeights
    poses : ParticlePoses or None
    tomograms : (N,) int64 or None
    pose_warnings, subset_warnings : tuple of str
    """

    source: Source
    rows: npt.NDArray[np.int64]
    available: int
    boxes: Boxes
    weights: ParticleWeights
    poses: ParticlePoses | None
    tomograms: npt.NDArray[np.int64] | None
    pose_warnings: tuple[str, ...]
    subset_warnings: tuple[str, ...]


def open_particles(config: DataConfig, seed: int, memory_gb: float | None = None) -> Dataset:
    """Open the particles of a run: list, check, measure and normalise them.

    Parameters
    ----------
    config : DataConfig
    seed : int
        Draws the subset.
    memory_gb : float, optional
        Bounds what is kept in memory of particles and weights.

    Returns
    -------
    Dataset

    Raises
    ------
    ConfigurationError
        No input, inputs that do not go together, or a particle larger than its box.
    InputDataError
        Any file or particle that is missing, unreadable or inconsistent, naming it and the remedy.
    """
    dataset = _open(config, seed, weights_required=True)
    if memory_gb is None:
        return dataset
    return replace(dataset, particles=dataset.particles.within(1e9 * memory_gb))


def survey_particles(config: DataConfig, seed: int = 0) -> Dataset:
    """As `open_particles`, but a missing tilt range is reported instead of refused.

    Every component then counts as observed and ``weight_source`` is `missing`.
    """
    return _open(config, seed, weights_required=False)


def list_particles(config: DataConfig, seed: int, *, weights_required: bool = True) -> Listing:
    """Everything that `open_particles` finds without looking at a volume; raises as that."""
    check_tilt_range(config)
    everything = list_source(config)
    if config.tomograms is not None and everything.stacks is None:
        raise ConfigurationError(
            "--tomograms belongs to particles that are stacks of tilt images (RELION 5's "
            "rlnTomoSubTomosAre2DStacks 1); leave it out"
        )
    rows, subset_warnings = _draw_subset(len(everything.names), config.subset, seed)
    source = everything.take(rows)
    if source.pack is None and source.stacks is None:  # readers keep them for a whole run
        source = replace(source, paths=Paths(encoded(map(str, source.paths))))
    boxes = look_at_boxes(config, source)
    weights = open_weights(config, source, boxes.box, required=weights_required)
    pack = source.pack
    if pack is not None and pack.voxel_size_angstrom == boxes.voxel_size_angstrom:
        poses, pose_warnings = pack.poses, pack.pose_warnings
    else:
        poses, pose_warnings = input_poses(source.star, rows, boxes.voxel_size_angstrom)
    return Listing(
        source=source,
        rows=rows,
        available=len(everything.names),
        boxes=boxes,
        weights=weights,
        poses=poses,
        tomograms=_tomograms(source, rows),
        pose_warnings=pose_warnings,
        subset_warnings=subset_warnings,
    )


def _open(config: DataConfig, seed: int, *, weights_required: bool) -> Dataset:
    found = list_particles(config, seed, weights_required=weights_required)
    source, boxes, weights = found.source, found.boxes, found.weights
    radius = radius_voxels(config, boxes.box, boxes.voxel_size_angstrom)
    grey = None if source.pack is None else source.pack.grey_values(radius)
    if grey is None:
        grey = measure_grey_values(boxes.volumes.read, source.names, boxes.box, radius)
    normalisation, grey_warnings = decide_normalisation(
        grey, config.normalise, weights.power, invert=config.invert, names=source.names
    )
    # A survey has nothing to measure at poses that say nothing.
    poses = None if found.pose_warnings and not weights_required else found.poses
    judged = (contrast_warning(grey, invert=config.invert), extreme_warning(grey, source.names))
    particles = ParticleSet(
        names=source.names,
        box=boxes.box,
        voxel_size_angstrom=boxes.voxel_size_angstrom,
        volumes=boxes.volumes,
        weights=weights.reader,
        weight_index=weights.index,
        offset=normalisation.offset,
        scale=normalisation.scale,
        poses=poses,
        source_index=np.arange(len(found.rows), dtype=np.int64),
        tomograms=found.tomograms,
    )
    return Dataset(
        particles=particles,
        paths=source.paths,
        star=None if source.star is None else compacted(source.star),
        rows=found.rows,
        available=found.available,
        modes=boxes.modes,
        header_sizes=boxes.header_sizes,
        pack=source.pack,
        weight_source=weights.source,
        weight_paths=weights.paths,
        premultiplied=source.premultiplied,
        grey=grey,
        normalisation=normalisation,
        warnings=(
            *source.warnings,
            *found.subset_warnings,
            *boxes.warnings,
            *_extent_warnings(config, boxes.box, boxes.voxel_size_angstrom),
            *weights.warnings,
            *found.pose_warnings,
            *grey_warnings,
            *(warning for warning in judged if warning),
        ),
    )


def _tomograms(source: Source, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
    """Number of each particle's tomogram, where the table names them."""
    star = source.star
    if source.pack is not None:
        packed = source.pack.tomograms
        return None if packed is None else np.unique(packed, return_inverse=True)[1]
    for column in ("rlnTomoName", "rlnMicrographName") if star is not None else ():
        assert star is not None
        if column in star.particles:
            names = star.particles[column].astype(str).to_numpy()[rows]
            return np.unique(names, return_inverse=True)[1].astype(np.int64)
    return None


def _draw_subset(
    available: int, wanted: int | None, seed: int
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    everything = np.arange(available, dtype=np.int64)
    if wanted is None or wanted == available:
        return everything, ()
    if wanted > available:
        return everything, (f"a subset of {wanted} was asked for; all {available} are used",)
    rng = np.random.default_rng(np.random.SeedSequence([seed, _SUBSET_STREAM]))
    return np.sort(rng.choice(everything, size=wanted, replace=False)), ()


def radius_voxels(config: DataConfig, box: int, voxel_size_angstrom: float) -> float:
    """Radius of the particles, by which background is told from inside.

    Raises
    ------
    ConfigurationError
        A diameter of no voxels, or larger than the box.
    """
    diameter = config.particle_diameter_angstrom
    if diameter is None:
        return DEFAULT_RADIUS * box
    if diameter < _SMALLEST_DIAMETER_VOXELS * voxel_size_angstrom:
        raise ConfigurationError(
            f"expected a particle diameter of at least {_SMALLEST_DIAMETER_VOXELS} voxels "
            f"({_SMALLEST_DIAMETER_VOXELS * voxel_size_angstrom:g} Angstrom), found {diameter:g} "
            "Angstrom; correct --particle-diameter"
        )
    if diameter > box * voxel_size_angstrom:
        raise ConfigurationError(
            f"the particle diameter of {diameter:g} A exceeds the box of {box} x "
            f"{voxel_size_angstrom:g} = {box * voxel_size_angstrom:g} A; it is given in angstrom"
        )
    return 0.5 * diameter / voxel_size_angstrom


def _extent_warnings(config: DataConfig, box: int, voxel_size_angstrom: float) -> tuple[str, ...]:
    """Averages are confined to the ball that the box holds (`transforms.fourier`)."""
    diameter = config.particle_diameter_angstrom
    ball = 2.0 * BALL_RADIUS * box * voxel_size_angstrom
    if diameter is None or diameter <= ball:
        return ()
    return (
        f"the particle diameter of {diameter:g} A exceeds {ball:.0f} A, the part of the box that "
        "averages keep; extract the particles in larger boxes",
    )
