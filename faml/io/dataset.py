"""From inputs to a particle set: everything is checked here, before a run starts.

Particles are looked at one by one and none is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from faml.config import DataConfig
from faml.errors import ConfigurationError, InputDataError
from faml.io.formats.relion import SUBTOMOGRAM_COLUMNS
from faml.io.grey_values import (
    DEFAULT_RADIUS,
    GreyValues,
    Normalisation,
    contrast_warning,
    decide_normalisation,
    measure_grey_values,
)
from faml.io.mrc import MrcHeader, read_header, read_volume
from faml.io.particle_source import list_source
from faml.io.particle_weights import WeightSource, check_tilt_range, open_weights
from faml.io.star import (
    RelionStar,
    numbers,
    star_pixel_size,
    star_poses,
)
from faml.particles import ParticlePoses, ParticleSet
from faml.transforms.fourier import BALL_RADIUS

__all__ = ["Dataset", "FileVolumes", "WeightSource", "open_particles", "survey_particles"]

_SUBSET_STREAM = 0x5B5E7
"""Keeps the draw of a subset apart from every other use of the run's seed."""
_SMALLEST_DIAMETER_VOXELS = 4
_VOXEL_TOLERANCE = 0.01


@dataclass(frozen=True)
class FileVolumes:
    """Reads particle volumes from MRC and EM files (`particles.VolumeReader`).

    Attributes
    ----------
    paths : tuple of N Path
    """

    paths: tuple[Path, ...]

    def read(self, index: int) -> npt.NDArray[np.float32]:
        """Volume ``index``, ``(n, n, n)`` float32; raises InputDataError if it cannot be read."""
        return read_volume(self.paths[index]).values


@dataclass(frozen=True)
class Dataset:
    """Particles ready for a run and what is known about where they come from.

    Attributes
    ----------
    particles : ParticleSet
        In the order of the input, also with a subset.
    paths : tuple of N Path
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
    weight_paths : tuple of M Path
        Weight volume of each distinct weight; empty unless ``weight_source`` is `volumes`.
    premultiplied : (N,) bool
    grey : GreyValues
    normalisation : Normalisation
    warnings : tuple of str
    """

    particles: ParticleSet
    paths: tuple[Path, ...]
    star: RelionStar | None
    rows: npt.NDArray[np.int64]
    available: int
    modes: tuple[int, ...]
    weight_source: WeightSource
    weight_paths: tuple[Path, ...]
    premultiplied: npt.NDArray[np.bool_]
    grey: GreyValues
    normalisation: Normalisation
    warnings: tuple[str, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of the input."""
        table = () if self.star is None else (self.star.path,)
        return (*table, *self.paths, *self.weight_paths)


def open_particles(config: DataConfig, seed: int) -> Dataset:
    """Open the particles of a run: list, check, measure and normalise them.

    Parameters
    ----------
    config : DataConfig
    seed : int
        Draws the subset.

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
    return _open(config, seed, weights_required=True)


def survey_particles(config: DataConfig, seed: int = 0) -> Dataset:
    """As `open_particles`, but a missing tilt range is reported instead of refused.

    Every component then counts as observed and ``weight_source`` is `missing`.
    """
    return _open(config, seed, weights_required=False)


def _open(config: DataConfig, seed: int, *, weights_required: bool) -> Dataset:
    check_tilt_range(config)
    everything = list_source(config)
    if config.tomograms is not None and everything.stacks is None:
        raise ConfigurationError(
            "--tomograms belongs to particles that are stacks of tilt images (RELION 5's "
            "rlnTomoSubTomosAre2DStacks 1); leave it out"
        )
    rows, subset_warnings = _draw_subset(len(everything.names), config.subset, seed)
    source = everything.take(rows)
    stacks = source.stacks
    headers = [
        read_header(path) if stacks is None else stacks.header(row)
        for row, path in enumerate(source.paths)
    ]
    box = _common_box(source.names, headers)
    voxel_size, voxel_warnings = _voxel_size(config, source.star, headers)
    weights = open_weights(config, source, box, required=weights_required)
    volumes = FileVolumes(source.paths) if stacks is None else stacks
    grey = measure_grey_values(
        volumes.read, source.names, box, _radius_voxels(config, box, voxel_size)
    )
    normalisation, grey_warnings = decide_normalisation(
        grey, config.normalise, weights.power, invert=config.invert, names=source.names
    )
    poses, pose_warnings = _poses(source.star, rows, voxel_size)
    if pose_warnings and not weights_required:
        poses = None  # a survey has nothing to measure at them
    contrast = contrast_warning(grey, invert=config.invert)
    particles = ParticleSet(
        names=source.names,
        box=box,
        voxel_size_angstrom=voxel_size,
        volumes=volumes,
        weights=weights.reader,
        weight_index=weights.index,
        offset=normalisation.offset,
        scale=normalisation.scale,
        poses=poses,
        source_index=np.arange(len(rows), dtype=np.int64),
        tomograms=_tomograms(source.star, rows),
    )
    return Dataset(
        particles=particles,
        paths=source.paths,
        star=source.star,
        rows=rows,
        available=len(everything.names),
        modes=tuple(sorted({header.mode for header in headers})),
        weight_source=weights.source,
        weight_paths=weights.paths,
        premultiplied=source.premultiplied,
        grey=grey,
        normalisation=normalisation,
        warnings=(
            *source.warnings,
            *subset_warnings,
            *_header_warnings(headers),
            *voxel_warnings,
            *_extent_warnings(config, box, voxel_size),
            *weights.warnings,
            *pose_warnings,
            *grey_warnings,
            *([contrast] if contrast else []),
        ),
    )


def _tomograms(
    star: RelionStar | None, rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64] | None:
    """Number of each particle's tomogram, where the table names them."""
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


def _common_box(names: Sequence[str], headers: Sequence[MrcHeader]) -> int:
    first = headers[0].shape
    for name, header in zip(names, headers, strict=True):
        if len(set(header.shape)) != 1:
            raise InputDataError(
                f"particle {name}: expected a cubic box, found (z, y, x) = {header.shape} voxels; "
                "extract the particles again in cubic boxes"
            )
        if header.shape != first:
            raise InputDataError(
                f"particle {name}: expected a box of {first} voxels like {names[0]}, found "
                f"{header.shape}; extract all particles with one box size or leave it out"
            )
    return first[0]


def _voxel_size(
    config: DataConfig, star: RelionStar | None, headers: Sequence[MrcHeader]
) -> tuple[float, tuple[str, ...]]:
    """Option, else STAR, else headers; what disagrees by more than 1 % is an error."""
    # Programs that do not know the voxel size write 0 or 1.
    known = [h for h in headers if h.voxel_size_angstrom and not _same(h.voxel_size_angstrom, 1.0)]
    given = config.voxel_size_angstrom
    from_star = star_pixel_size(star) if star is not None else None
    from_header = known[0].voxel_size_angstrom if known else None
    if given is not None:
        other = [size for size in (from_star, from_header) if size and not _same(size, given)]
        return given, tuple(
            f"--voxel-size {given:g} A replaces {size:g} A of the input files" for size in other[:1]
        )
    for header in known[1:]:
        if not _same(header.voxel_size_angstrom or 0.0, from_header or 0.0):
            raise InputDataError(
                f"conflicting voxel sizes: {known[0].path} has {from_header:g} A, {header.path} "
                f"has {header.voxel_size_angstrom:g} A; use particles of one voxel size, or pass "
                "--voxel-size if the headers are wrong"
            )
    if star is not None and from_star is not None:
        if from_header is not None and not _same(from_star, from_header):
            raise InputDataError(
                f"conflicting voxel sizes: {star.path} says {from_star:g} A, the header of "
                f"{known[0].path} {from_header:g} A; pass --voxel-size with the right one"
            )
        return from_star, ()
    if from_header is None:
        raise InputDataError(
            f"no voxel size: the header of {headers[0].path} has "
            f"{headers[0].voxel_size_angstrom or 0:g} A, which means unknown; give --voxel-size "
            "in angstrom"
        )
    return from_header, ()


def _same(a: float, b: float) -> bool:
    return abs(a - b) <= _VOXEL_TOLERANCE * max(abs(a), abs(b))


def _radius_voxels(config: DataConfig, box: int, voxel_size_angstrom: float) -> float:
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


def _poses(
    star: RelionStar | None, rows: npt.NDArray[np.int64], voxel_size_angstrom: float
) -> tuple[ParticlePoses | None, tuple[str, ...]]:
    """Poses of the boxes, and a warning where they say nothing."""
    if star is None:
        return None, ()
    # The origins were written with the file's own pixel size, even where it is overridden.
    poses = star_poses(star, star_pixel_size(star) or voxel_size_angstrom)
    if poses is None:
        return None, ()
    chosen = ParticlePoses(poses.rotations[rows], poses.translations[rows])
    if _say_nothing(star, poses):
        return chosen, (
            f"{star.path}: all angles and shifts are 0, which says nothing unless the boxes are "
            "aligned already",
        )
    return chosen, ()


def _say_nothing(star: RelionStar, poses: ParticlePoses) -> bool:
    """Whether all poses are zero, as programs write that know none.

    Boxes with rlnTomoSubtomogram angles are turned by their poses already: zero is one.
    """
    turned = any(
        numbers(star, star.particles, column).any()
        for column in SUBTOMOGRAM_COLUMNS
        if column in star.particles
    )
    return poses.are_zero and not turned


def _header_warnings(headers: Sequence[MrcHeader]) -> list[str]:
    """Each irregularity once, with how many files have it and the first of them."""
    first: dict[str, Path] = {}
    times: Counter[str] = Counter()
    for header in headers:
        for note in header.notes:
            first.setdefault(note, header.path)
            times[note] += 1
    return [f"{note}: {times[note]} files, first {first[note]}" for note in first]
