"""The boxes of a run's particles: their size, voxel size, and who reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from faml.config import DataConfig
from faml.errors import InputDataError
from faml.io.mrc import MrcHeader, read_header, read_volume
from faml.io.packs.content import Pack
from faml.io.particle_source import Source
from faml.io.star import RelionStar, star_pixel_size
from faml.particles import VolumeReader

__all__ = ["Boxes", "FileVolumes", "look_at_boxes"]

_HEADERS = 1000
_VOXEL_TOLERANCE = 0.01


@dataclass(frozen=True)
class Boxes:
    """What is common to the boxes of N particles.

    Attributes
    ----------
    box : int
        Edge n in voxels.
    voxel_size_angstrom : float
    volumes : VolumeReader
    modes : tuple of int
        MRC modes that occur.
    header_sizes : tuple of (float, int)
        Voxel sizes of the headers, 0 for none, with how many of the first 1000 say so.
    warnings : tuple of str
    """

    box: int
    voxel_size_angstrom: float
    volumes: VolumeReader
    modes: tuple[int, ...]
    header_sizes: tuple[tuple[float, int], ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class FileVolumes:
    """Reads particle volumes from MRC and EM files (`particles.VolumeReader`).

    Attributes
    ----------
    paths : sequence of N Path
    """

    paths: Sequence[Path]

    def read(self, index: int) -> npt.NDArray[np.float32]:
        """Volume ``index``, ``(n, n, n)`` float32; raises InputDataError if it cannot be read."""
        return read_volume(self.paths[index]).values


def look_at_boxes(config: DataConfig, source: Source) -> Boxes:
    """Read the headers of all particles; of a pack what it says of them.

    Raises
    ------
    InputDataError
        Files that cannot be read or do not go together, or no voxel size.
    """
    if source.pack is not None:
        return _packed_boxes(config, source.pack)
    stacks = source.stacks
    headers = [
        read_header(path) if stacks is None else stacks.header(row)
        for row, path in enumerate(source.paths)
    ]
    box = _common_box(source.names, headers)
    voxel_size, warnings = _voxel_size(config, source.star, headers)
    sizes: Counter[float] = Counter()
    for header in headers[:_HEADERS] if stacks is None else ():
        sizes[round(float(header.voxel_size_angstrom or 0.0), 4)] += 1
    return Boxes(
        box=box,
        voxel_size_angstrom=voxel_size,
        volumes=FileVolumes(source.paths) if stacks is None else stacks,
        modes=tuple(sorted({header.mode for header in headers})),
        header_sizes=tuple(sorted(sizes.items())),
        warnings=(*_header_warnings(headers), *warnings),
    )


def _packed_boxes(config: DataConfig, pack: Pack) -> Boxes:
    given, size = config.voxel_size_angstrom, pack.voxel_size_angstrom
    warnings: tuple[str, ...] = ()
    if given is not None and not _same(given, size):
        warnings = (f"--voxel-size {given:g} A replaces {size:g} A of the pack",)
    return Boxes(
        box=pack.box,
        voxel_size_angstrom=given or size,
        volumes=pack.volumes,
        modes=pack.modes,
        header_sizes=pack.header_sizes,
        warnings=warnings,
    )


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


def _header_warnings(headers: Sequence[MrcHeader]) -> list[str]:
    """Each irregularity once, with how many files have it and the first of them."""
    first: dict[str, Path] = {}
    times: Counter[str] = Counter()
    for header in headers:
        for note in header.notes:
            first.setdefault(note, header.path)
            times[note] += 1
    return [f"{note}: {times[note]} files, first {first[note]}" for note in first]
