"""RELION's and Warp's particle STAR files, written from the hub (conventions: `formats.relion`).

A file of the same flavour keeps all its columns and tables; text is replaced only where it says
something else. Columns of other programs' tables are carried under a prefix.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from faml.conventions import matrices_to_relion_angles_deg, relion_angles_deg_to_matrices
from faml.io.formats.columns import with_columns, with_numbers, with_rotations
from faml.io.formats.dynamo import NO_WEDGE, with_wedges
from faml.io.formats.losses import Written, listed, unread_columns
from faml.io.formats.relion import (
    CENTRED_COLUMNS,
    COORDINATE_COLUMNS,
    FLAVOURS,
    SUBTOMOGRAM_COLUMNS,
)
from faml.io.formats.relion_optics import optics_columns, with_optics, with_pixel_size
from faml.io.formats.table import CoordinateOrigin, ParticleTable, Wedge, with_origin
from faml.io.star import ANGLE_COLUMNS, ORIGIN_COLUMNS, PIXEL_ORIGIN_COLUMNS
from faml.io.star_text import Block, write_star

__all__ = ["MAPPED", "relion_blocks", "write_relion"]

_VERSIONS = {"relion3.0": 30000, "relion3.1": 30001, "relion4": 40001, "relion5": 50001}
_WITHOUT_OPTICS = ("relion3.0", "warp")
_TOMOGRAM_COLUMNS = ("rlnTomoName", "rlnMicrographName")
_TOMO_FLAVOURS = ("relion4", "relion5")

_SIZE = "rlnImagePixelSize"
_KEPT = {"rlnOpticsGroup", "rlnMaxValueProbDistribution", "rlnAutopickFigureOfMerit"}
"""Columns that all flavours have alike."""

MAPPED = frozenset(
    {
        *("rlnImageName", "rlnCtfImage", "rlnClassNumber", "rlnRandomSubset", "rlnOpticsGroup"),
        *("rlnMagnification", "rlnDetectorPixelSize", "rlnPixelSize", "rlnImagePixelSize"),
        *("rlnMaxValueProbDistribution", "rlnAutopickFigureOfMerit", "rlnTomoTiltSeriesPixelSize"),
        *("rlnCtfDataAreCtfPremultiplied",),
        *_TOMOGRAM_COLUMNS,
        *COORDINATE_COLUMNS,
        *CENTRED_COLUMNS,
        *SUBTOMOGRAM_COLUMNS,
        *ANGLE_COLUMNS,
        *ORIGIN_COLUMNS,
        *PIXEL_ORIGIN_COLUMNS,
    }
)
"""Columns that fields of the hub stand for completely."""


def write_relion(
    path: Path,
    table: ParticleTable,
    flavour: str,
    mapped: frozenset[str],
    tomogram_sizes_voxels: npt.NDArray[np.float64] | None = None,
) -> Written:
    """Write a particle STAR file.

    Parameters
    ----------
    path : Path
    table : ParticleTable
        With poses of the boxes, except for Warp, which extracts anew.
    flavour : str
        One of `relion.FLAVOURS`.
    mapped : frozenset of str
        Columns of the source that the table's fields stand for.
    tomogram_sizes_voxels : (3,) or (N, 3) float64, or None
        For coordinates that count from elsewhere.

    Raises
    ------
    ConfigurationError
        A voxel size or the tomogram's size is needed and not known.
    OutputError
        The file cannot be written.
    """
    blocks, notes = relion_blocks(table, flavour, mapped, tomogram_sizes_voxels)
    version = (
        table.star.version
        if table.format == flavour and table.star
        else _VERSIONS.get(flavour, 30000)
    )
    write_star(path, blocks, version)
    lost = []
    if table.star is not None and table.format != flavour:
        if "rlnMicrographName" in unread_columns(table):  # rlnTomoName names the tomograms
            lost.append("columns: rlnMicrographName")
        kept = {*blocks, table.star.particles_block, "optics"}
        gone = [f"data_{name}" for name in table.star.blocks if name not in kept]
        lost += [listed("tables", gone)] if gone else []
        if table.star.optics is not None:
            kept = {column for block in blocks.values() for column in block} | {_SIZE}
            columns = [name for name in table.star.optics if name not in kept]
            lost += [listed("optics columns", columns)] if columns else []
    if table.images is None:
        notes = (
            *notes,
            "no particle files are known, so that rlnImageName is left out; give --particles "
            "FOLDER, or extract the particles at the coordinates",
        )
    untold = _without_wedge(table)
    if untold:
        notes = (
            *notes,
            f"{untold} particles have ftype 0 (column 13), which is often written where tilts are "
            "not known: in the STAR file their missing wedge is unknown; faml run takes "
            "--tilt-range MIN MAX or --wedge-list FILE",
        )
    return Written((path,), tuple(lost), notes)


def relion_blocks(
    table: ParticleTable,
    flavour: str,
    mapped: frozenset[str],
    tomogram_sizes_voxels: npt.NDArray[np.float64] | None = None,
) -> tuple[dict[str, Block], tuple[str, ...]]:
    """Data blocks of a STAR file, and what its user has to know; raises as `write_relion`."""
    same = table.format == flavour
    if not same:
        origin: CoordinateOrigin = "centre" if flavour == "relion5" else "first voxel"
        table = with_origin(table, origin, tomogram_sizes_voxels)
    frame = _particles(table, flavour, mapped)
    if flavour in _WITHOUT_OPTICS:
        if same and table.star is not None:
            return {**table.star.blocks, _name(table): with_pixel_size(frame, table)}, ()
        frame, notes = optics_columns(frame, table)
        return {"": frame}, notes
    frame, blocks, notes = with_optics(frame, table, flavour)
    name = _name(table) if same else "particles"
    blocks[name] = frame
    return blocks, notes


def _name(table: ParticleTable) -> str:
    return table.star.particles_block if table.star is not None else "particles"


def _particles(table: ParticleTable, flavour: str, mapped: frozenset[str]) -> pd.DataFrame:
    """The table of particles, without what belongs to optics groups."""
    same = table.format == flavour
    frame = pd.DataFrame(index=range(len(table)))
    if table.format in FLAVOURS:
        unwanted = frozenset() if same else MAPPED - _KEPT
        if table.halves is None:
            unwanted -= {"rlnRandomSubset"}
        frame = table.own.reset_index(drop=True)
        frame = frame.drop(columns=[name for name in frame if name in unwanted])
    for column, texts in (("rlnImageName", table.images), ("rlnCtfImage", table.weight_images)):
        if texts is not None:
            frame = with_columns(frame, [column], [texts])
    frame = _with_tomograms(frame, table, flavour)
    frame = _with_positions(frame, table, flavour)
    frame = _with_poses(frame, table, flavour)
    if table.classes is not None:
        frame = with_numbers(frame, ["rlnClassNumber"], table.classes)
    if table.halves is not None:
        frame = with_numbers(frame, ["rlnRandomSubset"], table.halves)
    if table.scores is not None and table.format not in FLAVOURS:
        frame = with_numbers(frame, ["rlnAutopickFigureOfMerit"], table.scores)
    return _with_foreign(frame, table, mapped)


def _with_tomograms(frame: pd.DataFrame, table: ParticleTable, flavour: str) -> pd.DataFrame:
    if table.tomograms is None:
        return frame
    names = list(table.tomograms)
    if flavour == "warp" and table.format != "warp":
        names = [name if name.endswith(".tomostar") else f"{name}.tomostar" for name in names]
    tomo = flavour in _TOMO_FLAVOURS
    columns = [name for name in _TOMOGRAM_COLUMNS if name in frame][:1]
    frame = with_columns(frame, columns or [_TOMOGRAM_COLUMNS[0 if tomo else 1]], [names])
    if tomo and "rlnTomoParticleName" not in frame and table.format != flavour:
        labels = [f"{name}/{number}" for name, number in zip(names, table.numbers, strict=True)]
        frame = with_columns(frame, ["rlnTomoParticleName"], [labels])
    return frame


def _with_positions(frame: pd.DataFrame, table: ParticleTable, flavour: str) -> pd.DataFrame:
    where = table.coordinates_voxels
    if where is None:
        return frame
    size = table.voxel_size_angstrom
    if table.coordinate_origin == "centre":
        return with_numbers(frame, CENTRED_COLUMNS, where * (size or 1.0))
    series = table.tilt_series_pixel_angstrom
    if flavour in _TOMO_FLAVOURS and series is not None and size is not None:
        where = where * (size / series)[:, None]
    return with_numbers(frame, COORDINATE_COLUMNS, where)


def _with_poses(frame: pd.DataFrame, table: ParticleTable, flavour: str) -> pd.DataFrame:
    if table.rotations is not None:
        frame = with_rotations(
            frame,
            ANGLE_COLUMNS,
            table.rotations,
            relion_angles_deg_to_matrices,
            matrices_to_relion_angles_deg,
        )
    if table.frames is not None:
        frame = with_rotations(
            frame,
            SUBTOMOGRAM_COLUMNS,
            table.frames,
            relion_angles_deg_to_matrices,
            matrices_to_relion_angles_deg,
        )
    shifts = table.translations
    if shifts is None:
        return frame
    in_voxels = flavour in _WITHOUT_OPTICS
    if table.format == flavour:
        present = set(frame.columns)
        if not present & {*ORIGIN_COLUMNS, *PIXEL_ORIGIN_COLUMNS} and not shifts.any():
            return frame
        in_voxels = not set(ORIGIN_COLUMNS) & present and bool(set(PIXEL_ORIGIN_COLUMNS) & present)
    if in_voxels:
        return with_numbers(frame, PIXEL_ORIGIN_COLUMNS, -shifts)
    return with_numbers(frame, ORIGIN_COLUMNS, -shifts * (table.voxel_size_angstrom or 1.0))


def _with_foreign(
    frame: pd.DataFrame, table: ParticleTable, mapped: frozenset[str]
) -> pd.DataFrame:
    """The columns that only another program understands, under its name."""
    foreign = {name: columns.reset_index(drop=True) for name, columns in table.foreign.items()}
    if table.format not in FLAVOURS:
        own = table.own.reset_index(drop=True)
        foreign[table.format] = own.drop(columns=[name for name in own if name in mapped])
    if _to_carry(table.wedges) and table.weight_images is None:
        carried = foreign.get("dynamo", pd.DataFrame(index=range(len(table))))
        foreign["dynamo"] = with_wedges(carried, table.wedges)
    parts = [columns.add_prefix(f"{name}_") for name, columns in foreign.items()]
    return pd.concat([frame, *parts], axis=1)


def _without_wedge(table: ParticleTable) -> int:
    """How many particles of a Dynamo table say that they have none."""
    if table.format != "dynamo":
        return 0
    return sum(wedge == NO_WEDGE for wedge in table.wedges or ())


def _to_carry(wedges: tuple[Wedge, ...] | None) -> bool:
    return wedges is not None and any(wedges)
