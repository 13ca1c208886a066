"""What of Fourier space a finished or unfinished run has observed, from its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from faml.errors import InputDataError
from faml.io.checkpoint import StoredRun
from faml.io.particle_source import Source, list_source
from faml.io.particle_weights import open_weights
from faml.io.star import RelionStar, resolve_images, star_premultiplied
from faml.io.wedge_files import TiltRangeWeight, VolumeWeights
from faml.metrics.orientations import Coverage, fourier_coverage
from faml.particles import MemoryReader, ParticleSet, WeightReader
from faml.symmetry import point_group

__all__ = ["RunInput", "class_coverages", "has_weights", "run_input"]

_MOST_PARTICLES = 1000
_MOST_BYTES = 1e9
"""Of weight volumes that are read per class; more would not change the picture."""


@dataclass(frozen=True)
class RunInput:
    """What a run was given, of the N particles that it has.

    Attributes
    ----------
    source : Source
        Of these particles, in their order; its table is whole.
    rows : (N,) int64
        Row of each in the table.
    """

    source: Source
    rows: npt.NDArray[np.int64]


def run_input(stored: StoredRun) -> RunInput:
    """List the input of a run again.

    Raises
    ------
    ConfigurationError, InputDataError
        It is gone, damaged, or holds other particles by now.
    """
    source = list_source(stored.config.data)
    of = {name: row for row, name in enumerate(source.names)}
    missing = [name for name in stored.names if name not in of]
    if missing:
        raise InputDataError(f"expected particle {missing[0]} of the run, found none of that name")
    rows = np.array([of[name] for name in stored.names], dtype=np.int64)
    return RunInput(source.take(rows), rows)


def has_weights(star: RelionStar) -> bool:
    """Whether a run's ``particles.star`` names all weights, so that the input is not needed."""
    return "rlnCtfImage" in star.particles and not star.holds_tilt_stacks


def class_coverages(
    stored: StoredRun,
    classes: npt.NDArray[np.int64],
    rotations: npt.NDArray[np.float64],
    star: RelionStar | None,
    given: RunInput | None,
) -> tuple[Coverage | None, ...]:
    """Coverage of each class; None for one without particles, or where no weights are known.

    Parameters
    ----------
    stored : StoredRun
    classes : (M,) int64
    rotations : (M, 3, 3) float64
    star : RelionStar or None
        ``particles.star`` of the run, with the M particles, once it is written.
    given : RunInput or None
        Asked where that does not name all weights.

    Raises
    ------
    InputDataError
        Weight volumes are gone or damaged.
    """
    empty = (None,) * stored.state.model.classes
    found = _weights(stored, len(classes), star, given)
    if found is None:
        return empty
    reader, index = found
    particles = _without_volumes(stored, reader, index)
    bytes_each = 2.0 * stored.box**3
    most = int(np.clip(_MOST_BYTES / bytes_each, 30, _MOST_PARTICLES))
    symmetry = point_group(stored.state.symmetry)
    coverages: list[Coverage | None] = []
    for k in range(len(empty)):
        members = np.nonzero(classes == k)[0].astype(np.int64)
        if len(members) > most:
            members = members[np.linspace(0, len(members) - 1, most).astype(np.int64)]
        coverages.append(
            fourier_coverage(particles, rotations, members, stored.state.align_shell, symmetry)
            if len(members)
            else None
        )
    return tuple(coverages)


def _without_volumes(
    stored: StoredRun, reader: WeightReader, index: npt.NDArray[np.int64]
) -> ParticleSet:
    """Particles whose weights alone can be asked for."""
    count = len(index)
    return ParticleSet(
        names=tuple(str(i) for i in range(count)),
        box=stored.box,
        voxel_size_angstrom=stored.voxel_size_angstrom,
        volumes=MemoryReader(np.zeros((0, 0, 0, 0), dtype=np.float32)),
        weights=reader,
        weight_index=index,
        offset=np.zeros(count, dtype=np.float32),
        scale=np.ones(count, dtype=np.float32),
        poses=None,
        source_index=np.arange(count, dtype=np.int64),
    )


def _weights(
    stored: StoredRun, count: int, star: RelionStar | None, given: RunInput | None
) -> tuple[WeightReader, npt.NDArray[np.int64]] | None:
    """Reader of distinct weights, and which one each of ``count`` particles has."""
    data, box = stored.config.data, stored.box
    if star is not None and has_weights(star):
        return _volumes(resolve_images(star, "rlnCtfImage"), star_premultiplied(star), box)
    if given is None:
        if data.tilt_range_deg is None:
            return None
        wedge = TiltRangeWeight(box, data.tilt_range_deg, data.tilt_axis)
        return wedge, np.zeros(count, dtype=np.int64)
    if len(given.source.names) != count:  # duplicates were left out
        return None
    return _weights_of_input(stored, given.source)


def _weights_of_input(
    stored: StoredRun, source: Source
) -> tuple[WeightReader, npt.NDArray[np.int64]] | None:
    if source.stacks is not None:
        return source.stacks.weights, np.arange(len(source.names), dtype=np.int64)
    if source.weight_paths is not None:
        return _volumes(source.weight_paths, source.premultiplied, stored.box)
    found = open_weights(stored.config.data, source, stored.box, required=False)
    return None if found.source == "missing" else (found.reader, found.index)


def _volumes(
    paths: Sequence[Path], premultiplied: npt.NDArray[np.bool_], box: int
) -> tuple[VolumeWeights, npt.NDArray[np.int64]]:
    """Each file once; a run has read and checked them all when it began."""
    number: dict[tuple[Path, bool], int] = {}
    index = [
        number.setdefault((path, bool(flag)), len(number))
        for path, flag in zip(paths, premultiplied, strict=True)
    ]
    reader = VolumeWeights(
        tuple(path for path, _ in number), tuple(flag for _, flag in number), box
    )
    return reader, np.array(index, dtype=np.int64)
