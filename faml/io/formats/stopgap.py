"""STOPGAP's motive lists: STAR files with a table ``stopgap_motivelist``.

Angles, shifts, centre and coordinates are those of AV3 (`formats.motl`); half-sets are A and B, and
``subtomo_num`` is the number of the particle. STOPGAP extracts boxes at the integer part of the
coordinates.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from faml.errors import InputDataError
from faml.io.formats.columns import numeric, said, whole, with_columns, with_numbers, with_rotations
from faml.io.formats.losses import Written, base_columns, losses
from faml.io.formats.motl import FIRST_VOXEL
from faml.io.formats.sidecar import read_names, write_names
from faml.io.formats.table import ParticleTable, tomogram_numbers
from faml.io.formats.zxz import matrices_to_zxz_deg, zxz_deg_to_matrices
from faml.io.star_text import line_of_row, read_blocks, write_star

__all__ = ["BLOCK", "MAPPED", "read_stopgap", "write_stopgap"]

BLOCK = "stopgap_motivelist"
_COLUMNS = (
    *("motl_idx", "tomo_num", "object", "subtomo_num", "halfset", "orig_x", "orig_y", "orig_z"),
    *("score", "x_shift", "y_shift", "z_shift", "phi", "psi", "the", "class"),
)
_POSITION = ("orig_x", "orig_y", "orig_z")
_SHIFTS = ("x_shift", "y_shift", "z_shift")
_ANGLES = ("phi", "the", "psi")
_NEEDED = ("tomo_num", "subtomo_num", *_POSITION, *_SHIFTS, *_ANGLES)
_HALVES = {"a": 1, "b": 2}
_HELD = ("tomograms", "coordinates_voxels", "scores", "classes", "halves")
_VERSION = 30001

MAPPED = frozenset({*_POSITION, *_SHIFTS, *_ANGLES, "score", "class", "halfset"})
"""Columns that fields of the hub stand for completely."""


def read_stopgap(path: Path) -> ParticleTable:
    """Read a STOPGAP motive list.

    Raises
    ------
    InputDataError
        No such table in the file, a column missing, or a value that is no number where one is
        needed, naming line and column.
    """
    block = read_blocks(path).blocks.get(BLOCK)
    if isinstance(block, dict):  # a single particle written without loop_
        block = pd.DataFrame([block], dtype=object)
    if block is None or not len(block):
        raise InputDataError(f"{path}: expected a table data_{BLOCK} with rows, found none")
    missing = [name for name in _NEEDED if name not in block]
    if missing:
        raise InputDataError(
            f"{path}: data_{BLOCK} lacks {', '.join(missing)}; give a motive list as STOPGAP writes"
        )
    frame = block.reset_index(drop=True)

    def place(row: int, column: str) -> str:
        line = line_of_row(path, BLOCK, row)
        where = f"row {row + 1}" if line is None else f"line {line}"
        return f"{path}, {where}, column {column}"

    names = read_names(path, "stopgap")
    tomograms = whole(frame, "tomo_num", place)
    where = said(numeric(frame, _POSITION, place))
    return ParticleTable(
        path=path,
        format="stopgap",
        numbers=whole(frame, "subtomo_num", place),
        own=frame,
        rotations=zxz_deg_to_matrices(numeric(frame, _ANGLES, place)),
        translations=numeric(frame, _SHIFTS, place),
        coordinates_voxels=None if where is None else where - FIRST_VOXEL,
        tomograms=tuple(names.get(int(number), str(int(number))) for number in tomograms),
        classes=whole(frame, "class", place) if "class" in frame else None,
        scores=said(numeric(frame, ["score"], place)[:, 0]) if "score" in frame else None,
        halves=_halves(frame),
    )


def write_stopgap(path: Path, table: ParticleTable, mapped: frozenset[str]) -> Written:
    """Write a STOPGAP motive list, and the names of tomograms beside it where they have some.

    ``table`` and ``mapped`` are as for `dynamo.write_dynamo`.

    Raises
    ------
    OutputError
        A file cannot be written.
    """
    base = base_columns(table, "stopgap")
    frame = _fresh(len(table))
    if base is not None:
        kept = base.reset_index(drop=True)
        order = list(kept.columns) if table.format == "stopgap" else list(_COLUMNS)
        frame = pd.concat([kept, frame.drop(columns=[c for c in kept if c in frame])], axis=1)
        frame = frame[order]
    frame = with_numbers(frame, ["subtomo_num"], table.numbers)
    if table.translations is not None:
        frame = with_numbers(frame, _SHIFTS, table.translations)
    if table.rotations is not None:
        frame = with_rotations(
            frame, _ANGLES, table.rotations, zxz_deg_to_matrices, matrices_to_zxz_deg
        )
    if table.coordinates_voxels is not None:
        frame = with_numbers(frame, _POSITION, table.coordinates_voxels + FIRST_VOXEL)
    if table.scores is not None:
        frame = with_numbers(frame, ["score"], table.scores)
    if table.classes is not None:
        frame = with_numbers(frame, ["class"], table.classes)
    if table.halves is not None and table.format != "stopgap":
        frame = with_columns(frame, ["halfset"], [["AB"[half - 1] for half in table.halves]])
    files: list[Path] = []
    if table.tomograms is not None:
        numbers = tomogram_numbers(table, "stopgap")
        frame = with_numbers(frame, ["tomo_num"], numbers)
        files = write_names(path, "stopgap", numbers, table.tomograms)
    write_star(path, {BLOCK: frame}, _VERSION)
    return Written((path, *files), losses(table, "stopgap", _HELD, mapped), _notes(table))


def _notes(table: ParticleTable) -> tuple[str, ...]:
    notes = []
    if table.images is not None:
        notes.append(
            "STOPGAP finds particles by their number: name the files subtomo_1.mrc ... after "
            f"subtomo_num; the first is {table.images[0]}"
        )
    where = table.coordinates_voxels
    if where is not None and not np.allclose(where, np.round(where), atol=1e-6):
        notes.append(
            "coordinates are no integers: STOPGAP extracts at their integer part, so that shifts "
            "of boxes it extracts anew are off by the rest"
        )
    return tuple(notes)


def _halves(frame: pd.DataFrame) -> np.ndarray | None:
    """Half-sets 1 and 2 for A and B, if every particle has one of them."""
    if "halfset" not in frame:
        return None
    halves = [_HALVES.get(str(text).strip().lower(), 0) for text in frame["halfset"]]
    return np.array(halves, dtype=np.int64) if all(halves) and len(set(halves)) == 2 else None


def _fresh(count: int) -> pd.DataFrame:
    frame = pd.DataFrame("0", index=range(count), columns=list(_COLUMNS), dtype=object)
    frame["motl_idx"] = [str(index + 1) for index in range(count)]
    frame["object"] = frame["class"] = "1"
    frame["halfset"] = "A"  # what STOPGAP's own converters write where there are none
    return frame
