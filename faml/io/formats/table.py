"""The hub of all table formats: what a particle table says, in one convention.

Each format is read into a `ParticleTable` and written from one, so that n formats need n readers
and n writers. Angles, signs, units and origins of the formats live in their own modules only.

Conventions of the hub
    ``R`` maps reference to particle and ``t`` is in voxels of the box (`faml.conventions`). The box
    centre is voxel ``n // 2`` counted from 0 in every format, odd and even. Coordinates are those
    of the box centre in voxels of the particles, and count from the centre of the tomogram's first
    voxel, which is (0, 0, 0). The structure itself lies at ``coordinates + frame t``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from faml.errors import ConfigurationError, InputDataError
from faml.io.star import RelionStar

__all__ = [
    "CoordinateOrigin",
    "ParticleTable",
    "TiltRange",
    "Wedge",
    "checked_wedge",
    "in_tomogram",
    "numbered_tomograms",
    "rescaled",
    "tomogram_numbers",
    "with_origin",
    "with_voxel_size",
]

_TOMOGRAM_COLUMNS = {"dynamo": "tomo", "av3": "tomogram", "stopgap": "tomo_num"}

CoordinateOrigin = Literal["first voxel", "centre"]


class TiltRange(NamedTuple):
    """Tilts of one axis.

    Attributes
    ----------
    low_deg, high_deg : float
        Smallest and largest tilt; ``high_deg`` may exceed 90 (a range that crosses it).
    axis : {"y", "x"}
    """

    low_deg: float
    high_deg: float
    axis: str = "y"


Wedge: TypeAlias = tuple[TiltRange, ...]
"""What of Fourier space one particle observes: the union of its ranges; empty if unknown."""


@dataclass(frozen=True)
class ParticleTable:
    """What a table says about N particles.

    Attributes
    ----------
    path : Path
    format : str
        Name of the format it was read from (`faml.io.formats.FORMATS`).
    numbers : (N,) int64
        Particle numbers: Dynamo's tag, row 4 of a motive list; else 1 to N.
    own : DataFrame
        Every column of the file as text, untouched.
    foreign : dict of str to DataFrame
        Columns of other formats that a STAR file carries along, by format.
    images, weight_images : tuple of N str, or None
        File names as they stand in the table.
    premultiplied : (N,) bool
        Whether the particles are multiplied by their CTF.
    rotations : (N, 3, 3) float64 or None
        Active rotations R, reference to box.
    translations : (N, 3) float64 or None
        x, y, z in voxels.
    frames : (N, 3, 3) float64 or None
        Active rotations from the axes of the box to those of the tomogram; None: they are the same.
    coordinates_voxels : (N, 3) float64 or None
        Box centres in the tomogram, x, y, z.
    coordinate_origin : {"first voxel", "centre"}
        Where coordinates count from; RELION 5's count from the centre.
    tomograms : tuple of N str, or None
    classes, halves : (N,) int64 or None
        As the programs count them, from 1.
    scores : (N,) float64 or None
    wedges : tuple of N Wedge, or None
    voxel_size_angstrom : float or None
        None where the format does not say.
    tilt_series_pixel_angstrom : (N,) float64 or None
        RELION 4 and 5: unbinned pixel size.
    box : int or None
        Edge of the boxes in voxels, where RELION's optics table is to be made.
    box_factor : float
        How many times as many voxels the edges of the boxes have as those of the file.
    star : RelionStar or None
        The file itself, of RELION and Warp.
    notes : tuple of str
        What a reader should know.
    """

    path: Path
    format: str
    numbers: npt.NDArray[np.int64]
    own: pd.DataFrame
    foreign: dict[str, pd.DataFrame] = field(default_factory=dict)
    images: tuple[str, ...] | None = None
    weight_images: tuple[str, ...] | None = None
    premultiplied: npt.NDArray[np.bool_] | None = None
    rotations: npt.NDArray[np.float64] | None = None
    translations: npt.NDArray[np.float64] | None = None
    frames: npt.NDArray[np.float64] | None = None
    coordinates_voxels: npt.NDArray[np.float64] | None = None
    coordinate_origin: CoordinateOrigin = "first voxel"
    tomograms: tuple[str, ...] | None = None
    classes: npt.NDArray[np.int64] | None = None
    scores: npt.NDArray[np.float64] | None = None
    halves: npt.NDArray[np.int64] | None = None
    wedges: tuple[Wedge, ...] | None = None
    voxel_size_angstrom: float | None = None
    tilt_series_pixel_angstrom: npt.NDArray[np.float64] | None = None
    box: int | None = None
    box_factor: float = 1.0
    star: RelionStar | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.numbers)


def with_voxel_size(table: ParticleTable, voxel_size_angstrom: float) -> ParticleTable:
    """The table with a voxel size that replaces what it says; numbers in voxels stay.

    Raises
    ------
    ConfigurationError
        Not above zero.
    """
    if not 0 < voxel_size_angstrom < np.inf:
        raise ConfigurationError(
            f"expected a voxel size above zero in Angstrom, found {voxel_size_angstrom:g}"
        )
    return replace(table, voxel_size_angstrom=float(voxel_size_angstrom))


def with_origin(
    table: ParticleTable,
    origin: CoordinateOrigin,
    tomogram_sizes_voxels: npt.NDArray[np.float64] | None,
) -> ParticleTable:
    """The table with coordinates that count from the first voxel or from the centre.

    RELION's centre is ``size / 2``, which for even sizes is the centre of voxel ``size // 2``.

    Parameters
    ----------
    table : ParticleTable
    origin : {"first voxel", "centre"}
    tomogram_sizes_voxels : (3,) or (N, 3) float64, or None
        x, y, z in voxels of the particles.

    Raises
    ------
    ConfigurationError
        The tomogram's size is needed and not given.
    """
    if table.coordinates_voxels is None or table.coordinate_origin == origin:
        return table
    if tomogram_sizes_voxels is None:
        raise ConfigurationError(
            f"{table.path}: coordinates from the {table.coordinate_origin} of the tomogram are to "
            f"count from its {origin}, which takes its size; give --tomograms FILE (RELION's "
            "tomograms.star) or --tomogram-size X Y Z"
        )
    centre = np.asarray(tomogram_sizes_voxels, dtype=np.float64) / 2
    sign = 1.0 if origin == "first voxel" else -1.0
    return replace(
        table,
        coordinates_voxels=table.coordinates_voxels + sign * centre,
        coordinate_origin=origin,
    )


def rescaled(table: ParticleTable, factor: float) -> ParticleTable:
    """The table for boxes with ``factor`` times as many voxels along each edge.

    Translations and coordinates are multiplied by the factor and the voxel size is divided by it.
    Positions scale about the centre of the first voxel, as cropping in Fourier space does; binning
    by averaging moves them by up to half a voxel of the larger tomogram.

    Raises
    ------
    ConfigurationError
        Not above zero.
    """
    if not factor > 0:
        raise ConfigurationError(f"expected a factor above zero to rescale by, found {factor:g}")

    def scaled(values: npt.NDArray[np.float64] | None) -> npt.NDArray[np.float64] | None:
        return None if values is None else values * factor

    size = table.voxel_size_angstrom
    return replace(
        table,
        translations=scaled(table.translations),
        coordinates_voxels=scaled(table.coordinates_voxels),
        voxel_size_angstrom=None if size is None else size / factor,
        box_factor=table.box_factor * factor,
    )


def in_tomogram(table: ParticleTable) -> ParticleTable:
    """Poses in the axes of the tomogram instead of the box: ``frame R`` and ``frame t``."""
    if table.frames is None:
        return table
    rotations, translations = table.rotations, table.translations
    if rotations is None:
        rotations = np.broadcast_to(np.eye(3), table.frames.shape)
    if translations is not None:
        translations = np.einsum("nij,nj->ni", table.frames, translations)
    return replace(
        table, rotations=table.frames @ rotations, translations=translations, frames=None
    )


def checked_wedge(wedge: Wedge, where: str | Callable[[], str]) -> Wedge:
    """The wedge, if its ranges are ones.

    Raises
    ------
    InputDataError
        A range that is reversed, empty, wider than 180 degrees or beyond a full turn; ``where``
        says of what, or is asked to.
    """
    for low, high, _ in wedge:
        if not (-180.0 <= low < high <= 180.0 and high - low <= 180.0):
            place = where if isinstance(where, str) else where()
            raise InputDataError(
                f"{place}: expected a tilt range of up to 180 degrees with the smaller angle "
                f"first, found {low:g} to {high:g}; correct it"
            )
    return wedge


def tomogram_numbers(table: ParticleTable, target: str) -> npt.NDArray[np.int64]:
    """Numbers of a table's tomograms in a format that has no names, (N,) int64.

    Numbers that the target's own columns, the table or those it carries have stay, if they are
    one for each name. Names that are numbers keep them; else tomograms are counted from 1 in
    alphabetical order.
    """
    names = table.tomograms or ("0",) * len(table)
    frames = {**table.foreign, table.format: table.own}
    for source in sorted(frames, key=lambda source: (source != target, source != table.format)):
        column = _TOMOGRAM_COLUMNS.get(source)
        if column is None or column not in frames[source]:
            continue
        values = pd.to_numeric(frames[source][column], errors="coerce").to_numpy(dtype=np.float64)
        pairs = set(zip(values, names, strict=True))
        if np.isfinite(values).all() and len(pairs) == len(set(names)) == len(set(values)):
            return values.astype(np.int64)
    distinct = sorted(set(names))
    numbered = all(re.fullmatch(r"\d{1,15}", name) for name in distinct)
    if numbered and len(set(map(int, distinct))) == len(distinct):
        return np.array([int(name) for name in names], dtype=np.int64)
    counted = {name: index for index, name in enumerate(distinct, 1)}
    return np.array([counted[name] for name in names], dtype=np.int64)


def numbered_tomograms(table: ParticleTable) -> npt.NDArray[np.int64]:
    """Numbers of a table's tomograms as lists of wedges know them, (N,) int64.

    The table's own or carried numbers, else names that are numbers, else the last digits in each
    name.

    Raises
    ------
    InputDataError
        No tomograms, a name without digits, or two names with the same.
    """
    for source, frame in ((table.format, table.own), *table.foreign.items()):
        column = _TOMOGRAM_COLUMNS.get(source)
        if column is not None and column in frame:
            values = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=np.float64)
            if np.isfinite(values).all():
                return values.astype(np.int64)
    if table.tomograms is None:
        raise InputDataError(f"{table.path}: the table names no tomograms; give --tilt-range")
    numbers: dict[str, int] = {}
    taken: set[int] = set()
    for name in dict.fromkeys(table.tomograms):
        digits = re.findall(r"\d+", Path(name).stem)
        number = int(digits[-1]) if digits and len(digits[-1]) <= 15 else None
        if number is None or number in taken:
            raise InputDataError(
                f"{table.path}: tomogram {name} has no number of its own in its name, by which a "
                "wedge list could know it; give --tilt-range"
            )
        numbers[name] = number
        taken.add(number)
    return np.array([numbers[name] for name in table.tomograms], dtype=np.int64)
