"""RELION's and Warp's particle STAR files, read into the hub.

Conventions, from RELION's sources (``ParticleSet``) and `faml.conventions`:

- rlnAngleRot, Tilt, Psi map the box to the reference, rlnOrigin shifts the box onto it.
- rlnTomoSubtomogramRot, Tilt, Psi turn the axes of the box into those of the tomogram: there the
  structure has the orientation ``A_subtomogram A_particle`` and lies at ``coordinate -
  A_subtomogram origin``.
- rlnCoordinate counts voxels from the centre of the first one: of the unbinned tilt series
  (rlnTomoTiltSeriesPixelSize) in RELION 4 and 5, else of the particles.
- rlnCenteredCoordinate (RELION 5) is in Angstrom from the centre of the tomogram, ``size / 2``.
- The centre of a box of n voxels is voxel n // 2, for odd and even n.

Flavours: RELION 3.0 (one table, origins in voxels, pixel size as magnification), Warp (the same
with ``.tomostar`` names), RELION 3.1 (optics table, origins in Angstrom), RELION 4 (tilt-series
pixel size, rlnTomoName) and RELION 5 (centred coordinates).

A STAR file made of another program's table carries that table's columns under a prefix, such as
``dynamo_cc2``. ``dynamo_ftype`` 0, which to Dynamo is no missing wedge, says nothing here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from faml.conventions import relion_angles_deg_to_matrices
from faml.errors import InputDataError
from faml.io.formats.columns import numbers_or_nan, whole
from faml.io.formats.dynamo import WEDGE_COLUMNS, read_wedges
from faml.io.formats.table import CoordinateOrigin, ParticleTable, Wedge
from faml.io.star import (
    ANGLE_COLUMNS,
    ORIGIN_COLUMNS,
    RelionStar,
    check_pixel_sizes,
    numbers,
    per_particle,
    star_pixel_size,
    star_poses,
    star_premultiplied,
)
from faml.io.star_text import StarText, line_of_row, read_blocks

__all__ = [
    "CENTRED_COLUMNS",
    "COORDINATE_COLUMNS",
    "FLAVOURS",
    "FOREIGN",
    "SUBTOMOGRAM_COLUMNS",
    "read_relion",
    "relion_flavour",
    "relion_table",
]

FLAVOURS = ("relion3.0", "relion3.1", "relion4", "relion5", "warp")
FOREIGN = ("dynamo", "av3", "stopgap")
"""Formats whose columns STAR files carry."""
COORDINATE_COLUMNS = ("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ")
CENTRED_COLUMNS = (
    *("rlnCenteredCoordinateXAngst", "rlnCenteredCoordinateYAngst", "rlnCenteredCoordinateZAngst"),
)
SUBTOMOGRAM_COLUMNS = (
    *("rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi"),
)
_PARTICLE_LABELS = ("rlnImageName", COORDINATE_COLUMNS[0], CENTRED_COLUMNS[0], ANGLE_COLUMNS[0])
_TILT_SERIES_PIXEL = "rlnTomoTiltSeriesPixelSize"
_NUMBER_COLUMNS = {"dynamo": "tag", "av3": "number", "stopgap": "subtomo_num"}


def read_relion(path: Path, voxel_size_angstrom: float | None = None) -> ParticleTable:
    """Read a particle STAR file of RELION or Warp.

    File names are not needed: coordinates and angles are enough.

    Parameters
    ----------
    path : Path
    voxel_size_angstrom : float or None
        For files that do not say it.

    Raises
    ------
    InputDataError
        Malformed file, no table of particles, columns that are only partly there, a value that is
        no number, or origins in Angstrom without a voxel size.
    """
    return relion_table(read_blocks(path), voxel_size_angstrom)


def relion_table(found: StarText, voxel_size_angstrom: float | None = None) -> ParticleTable:
    """The particles of STAR blocks that are in memory already; raises as `read_relion`."""
    path, star = found.path, _particle_star(found)
    frame = star.particles.reset_index(drop=True)
    series = _tilt_series_pixel(star)
    size = star_pixel_size(star) or voxel_size_angstrom
    if size is None and series is not None:
        size = float(series[0])  # lists of positions belong to no binning
    if size is None and set(ORIGIN_COLUMNS) & set(frame.columns):
        raise InputDataError(
            f"{path}: origins are in Angstrom and no pixel size is given (rlnImagePixelSize of "
            "data_optics); give --voxel-size"
        )
    poses = star_poses(star, size or 1.0)
    coordinates, origin = _coordinates(star, size, series)
    foreign = _foreign(frame)
    wedges, notes = _wedges(path, star, foreign)
    return ParticleTable(
        path=path,
        format=relion_flavour(star),
        numbers=_numbers(path, frame, foreign),
        own=frame.drop(columns=[name for name in frame if _source_of(name)]),
        foreign=foreign,
        images=_texts(frame, "rlnImageName"),
        weight_images=_texts(frame, "rlnCtfImage"),
        premultiplied=star_premultiplied(star),
        rotations=None if poses is None else poses.rotations,
        translations=None if poses is None else poses.translations,
        frames=_frames(star),
        coordinates_voxels=coordinates,
        coordinate_origin=origin,
        tomograms=_texts(frame, "rlnTomoName") or _texts(frame, "rlnMicrographName"),
        classes=_whole(star, "rlnClassNumber"),
        scores=_scores(star),
        halves=_halves(star),
        wedges=wedges,
        voxel_size_angstrom=size,
        tilt_series_pixel_angstrom=series,
        star=star,
        notes=(*notes, *_repeated(frame)),
    )


def relion_flavour(star: RelionStar) -> str:
    """Which of `FLAVOURS` a file is."""
    columns = set(star.particles.columns)
    for name in ("rlnTomoName", "rlnMicrographName"):
        if name in columns and star.optics is None:
            names = star.particles[name].astype(str)
            if names.str.endswith(".tomostar").any():
                return "warp"
    if set(CENTRED_COLUMNS) & columns or "rlnTomoSubTomosAre2DStacks" in _single(star, "general"):
        return "relion5"
    if star.optics is not None and _TILT_SERIES_PIXEL in star.optics:
        return "relion4"
    if "rlnTomoName" in columns:
        return "relion4"
    return "relion3.0" if star.optics is None else "relion3.1"


def _single(star: RelionStar, name: str) -> dict[str, str]:
    block = star.blocks.get(name)
    return block if isinstance(block, dict) else {}


def _particle_star(found: StarText) -> RelionStar:
    """The file with the table that has one row per particle."""
    for name, block in found.blocks.items():
        table = block
        if name == "particles" and isinstance(table, dict):  # one particle written without loop_
            table = pd.DataFrame([table], dtype=object)
        if not isinstance(table, pd.DataFrame):
            continue
        if not any(label in table for label in _PARTICLE_LABELS):
            continue
        if not len(table):
            raise InputDataError(f"{found.path}: the table of particles has no rows")
        blocks = {**found.blocks, name: table}
        return RelionStar(found.path, found.version, blocks, name)
    tables = ", ".join(f"data_{name}" for name in found.blocks) or "none"
    raise InputDataError(
        f"{found.path}: expected a table of particles (rlnImageName, coordinates or angles), found "
        f"tables: {tables}"
    )


def _tilt_series_pixel(star: RelionStar) -> npt.NDArray[np.float64] | None:
    if star.optics is not None and _TILT_SERIES_PIXEL in star.optics:
        sizes = per_particle(star, _TILT_SERIES_PIXEL)
    elif _TILT_SERIES_PIXEL in star.particles:
        sizes = numbers(star, star.particles, _TILT_SERIES_PIXEL)
    else:
        return None
    check_pixel_sizes(star.path, sizes)
    return sizes


def _coordinates(
    star: RelionStar, size: float | None, series: npt.NDArray[np.float64] | None
) -> tuple[npt.NDArray[np.float64] | None, CoordinateOrigin]:
    """Coordinates in voxels of the particles and where they count from."""
    if _has(star, CENTRED_COLUMNS):
        if size is None:
            raise InputDataError(
                f"{star.path}: coordinates are in Angstrom and no pixel size is given; give "
                "--voxel-size"
            )
        return _vectors(star, CENTRED_COLUMNS) / size, "centre"
    if not _has(star, COORDINATE_COLUMNS):
        return None, "first voxel"
    pixels = _vectors(star, COORDINATE_COLUMNS)
    if series is not None and size is not None:
        pixels = pixels * (series / size)[:, None]
    return pixels, "first voxel"


def _frames(star: RelionStar) -> npt.NDArray[np.float64] | None:
    if not _has(star, SUBTOMOGRAM_COLUMNS):
        return None
    return relion_angles_deg_to_matrices(_vectors(star, SUBTOMOGRAM_COLUMNS))


def _has(star: RelionStar, names: tuple[str, ...]) -> bool:
    """Whether the columns are there; refuses some without the others, which would get lost."""
    missing = [name for name in names if name not in star.particles]
    if missing and len(missing) < len(names):
        raise InputDataError(
            f"{star.path}: column {missing[0]} is missing while others of {', '.join(names)} are "
            "there; give all or none"
        )
    return not missing


def _vectors(star: RelionStar, names: tuple[str, ...]) -> npt.NDArray[np.float64]:
    return np.stack([numbers(star, star.particles, name) for name in names], axis=1)


def _texts(frame: pd.DataFrame, column: str) -> tuple[str, ...] | None:
    return tuple(frame[column].astype(str)) if column in frame else None


def _whole(star: RelionStar, column: str) -> npt.NDArray[np.int64] | None:
    if column not in star.particles:
        return None
    return whole(star.particles, column, _Place(star.path, "", star.particles_block))


def _halves(star: RelionStar) -> npt.NDArray[np.int64] | None:
    """Half-sets, if every particle is in the first or the second."""
    halves = _whole(star, "rlnRandomSubset")
    return halves if halves is not None and set(halves.tolist()) <= {1, 2} else None


def _repeated(frame: pd.DataFrame) -> tuple[str, ...]:
    if "rlnImageName" not in frame:
        return ()
    again = frame["rlnImageName"][frame["rlnImageName"].duplicated()]
    if not len(again):
        return ()
    return (f"{len(again)} particle files are listed again, the first is {again.iloc[0]}",)


def _scores(star: RelionStar) -> npt.NDArray[np.float64] | None:
    for column in ("rlnMaxValueProbDistribution", "rlnAutopickFigureOfMerit"):
        if column in star.particles:
            return numbers(star, star.particles, column)
    return None


def _source_of(column: str) -> str | None:
    return next((name for name in FOREIGN if column.startswith(f"{name}_")), None)


def _foreign(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Columns of other programs' tables, without their prefix."""
    found: dict[str, pd.DataFrame] = {}
    for name in FOREIGN:
        columns = {c: c.removeprefix(f"{name}_") for c in frame if c.startswith(f"{name}_")}
        if columns:
            found[name] = frame[list(columns)].rename(columns=columns)
    return found


def _numbers(
    path: Path, frame: pd.DataFrame, foreign: dict[str, pd.DataFrame]
) -> npt.NDArray[np.int64]:
    """Particle numbers of the table that the file was made of, else 1 to N."""
    for source, column in _NUMBER_COLUMNS.items():
        if source in foreign and column in foreign[source]:
            return whole(foreign[source], column, _Place(path, source))
    return np.arange(1, len(frame) + 1, dtype=np.int64)


def _wedges(
    path: Path, star: RelionStar, foreign: dict[str, pd.DataFrame]
) -> tuple[tuple[Wedge, ...] | None, tuple[str, ...]]:
    """Tilt ranges of carried columns, where the file names no weight volumes."""
    carried = foreign.get("dynamo")
    if carried is None or "rlnCtfImage" in star.particles:
        return None, ()
    if not set(WEDGE_COLUMNS) <= set(carried.columns):
        return None, ()
    wedges, notes = read_wedges(carried, _Place(path, "dynamo", star.particles_block))
    # Dynamo's tables are often made without tilts; in a STAR file 0 is as good as nothing.
    untold = numbers_or_nan(carried, WEDGE_COLUMNS[0]) == 0
    return tuple(
        () if unknown else wedge for wedge, unknown in zip(wedges, untold, strict=True)
    ), notes


class _Place:
    """Names row and column, where a carried column has its program as a prefix."""

    def __init__(self, path: Path, source: str, block: str = "particles") -> None:
        self._path, self._prefix, self._block = path, f"{source}_" if source else "", block

    def __call__(self, row: int, column: str) -> str:
        line = line_of_row(self._path, self._block, row)
        where = f"row {row + 1}" if line is None else f"line {line}"
        return f"{self._path}, {where}, column {self._prefix}{column}"
