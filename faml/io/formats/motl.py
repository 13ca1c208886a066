"""Motive lists of AV3, TOM and novaSTA: an EM file of 20 rows, one column per particle.

Conventions, from AV3's and STOPGAP's sources:

- Angles phi (row 17), theta (19), psi (18) turn about the fixed axes z, x, z and map reference to
  particle: ``R = Rz(psi) Rx(theta) Rz(phi)``.
- Shifts (11 to 13) are those after rotation, in voxels from the centre of the box to the structure:
  ``t``. The centre of a box of n voxels is ``floor(n / 2) + 1`` counted from 1: voxel ``n // 2``
  counted from 0, for odd and even n.
- Coordinates (8 to 10) are voxels counted from 1: ours are lower by one.
- Row 1 is the score, 4 the number of the particle, 5 that of the tomogram, 20 the class. Row 7 is
  the half-set, 1 or 2, where both occur, as STOPGAP writes it.
- Values are 32-bit: numbers of particles up to 16 777 216 are exact.

Names of tomograms are kept in a text file beside the list (`formats.sidecar`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from faml.errors import InputDataError, OutputError
from faml.io.em import read_em, write_em
from faml.io.formats.columns import numeric, said, whole, with_numbers, with_rotations
from faml.io.formats.losses import Written, base_columns, losses
from faml.io.formats.sidecar import read_names, write_names
from faml.io.formats.table import ParticleTable, tomogram_numbers
from faml.io.formats.zxz import matrices_to_zxz_deg, zxz_deg_to_matrices

__all__ = ["MAPPED", "ROWS", "read_motl", "write_motl"]

ROWS = 20
FIRST_VOXEL = 1.0
"""Coordinate of the centre of the first voxel."""

_COLUMNS = (
    *("score", "row2", "row3", "number", "tomogram", "object", "row7", "x", "y", "z"),
    *("dx", "dy", "dz", "row14", "row15", "row16", "phi", "psi", "theta", "class"),
)
_POSITION = ("x", "y", "z")
_SHIFTS = ("dx", "dy", "dz")
_ANGLES = ("phi", "theta", "psi")
_HALF = "row7"
_LARGEST_NUMBER = 1 << 24
_HELD = ("tomograms", "coordinates_voxels", "scores", "classes", "halves")

MAPPED = frozenset({*_POSITION, *_SHIFTS, *_ANGLES, "score", "class"})
"""Rows that fields of the hub stand for completely."""


def read_motl(path: Path) -> ParticleTable:
    """Read a motive list.

    Raises
    ------
    InputDataError
        No EM file of 20 rows, or a value that is not finite or not whole where it has to be,
        naming row and column.
    """
    values = read_em(path)
    if values.shape[2] != ROWS:
        z, y, x = values.shape
        raise InputDataError(
            f"{path}: expected a motive list of {ROWS} rows, found an EM file of {x} x {y} x {z} "
            "values"
        )
    values = values.reshape(-1, ROWS)
    frame = pd.DataFrame(
        [[f"{value:.9g}" for value in row] for row in values], columns=_COLUMNS, dtype=object
    )

    def place(row: int, column: str) -> str:
        return f"{path}, row {_COLUMNS.index(column) + 1} ({column}), column {row + 1}"

    names = read_names(path, "av3")
    tomograms = whole(frame, "tomogram", place)
    half = numeric(frame, [_HALF], place)[:, 0]
    where = said(numeric(frame, _POSITION, place))
    return ParticleTable(
        path=path,
        format="av3",
        numbers=whole(frame, "number", place),
        own=frame,
        rotations=zxz_deg_to_matrices(numeric(frame, _ANGLES, place)),
        translations=numeric(frame, _SHIFTS, place),
        coordinates_voxels=None if where is None else where - FIRST_VOXEL,
        tomograms=tuple(names.get(int(number), str(int(number))) for number in tomograms),
        classes=said(whole(frame, "class", place)),
        scores=said(numeric(frame, ["score"], place)[:, 0]),
        halves=half.astype(np.int64) if set(half) == {1.0, 2.0} else None,
    )


def write_motl(path: Path, table: ParticleTable, mapped: frozenset[str]) -> Written:
    """Write a motive list, and the names of tomograms beside it where they have some.

    ``table`` and ``mapped`` are as for `dynamo.write_dynamo`.

    Raises
    ------
    InputDataError
        A carried value is no number.
    OutputError
        Numbers that 32-bit values cannot hold, or a file that cannot be written.
    """
    base = base_columns(table, "av3")
    frame = pd.DataFrame("0", index=range(len(table)), columns=list(_COLUMNS), dtype=object)
    if base is not None:
        for column in (name for name in _COLUMNS if name in base):
            frame[column] = base[column].to_numpy(dtype=object)
    frame, files = _filled(path, frame, table, base)
    # Rows that a STAR file carries may hold anything by now.
    values = numeric(
        frame, _COLUMNS, lambda row, column: f"{table.path}, particle {row + 1}, av3_{column}"
    )
    largest = np.abs(values[:, _COLUMNS.index("number")]).max(initial=0.0)
    if largest > _LARGEST_NUMBER:
        raise OutputError(
            f"{path}: a motive list holds numbers of particles up to {_LARGEST_NUMBER}, found "
            f"{largest:.0f}; write another format or renumber"
        )
    write_em(path, values[None])
    notes = []
    if table.images is not None:
        notes.append(
            "AV3 finds particles by their number: name the files NAME_1.em, NAME_2.em ... after "
            f"row 4; the first is {table.images[0]}"
        )
    return Written((path, *files), losses(table, "av3", _HELD, mapped), tuple(notes))


def _filled(
    path: Path, frame: pd.DataFrame, table: ParticleTable, base: pd.DataFrame | None
) -> tuple[pd.DataFrame, list[Path]]:
    """The rows with what the hub says, and the file of names if one was written."""
    frame = with_numbers(frame, ["number"], table.numbers)
    if table.translations is not None:
        frame = with_numbers(frame, _SHIFTS, table.translations)
    if table.rotations is not None:
        frame = with_rotations(
            frame, _ANGLES, table.rotations, zxz_deg_to_matrices, matrices_to_zxz_deg
        )
    if table.coordinates_voxels is not None:
        frame = with_numbers(frame, _POSITION, table.coordinates_voxels + FIRST_VOXEL)
    optional: tuple[tuple[str, npt.NDArray[np.float64] | npt.NDArray[np.int64] | None], ...] = (
        ("score", table.scores),
        ("class", table.classes),
        (_HALF, table.halves),
    )
    for column, values in optional:
        if values is not None:
            frame = with_numbers(frame, [column], values)
    if table.tomograms is None:
        return frame, []
    numbers = tomogram_numbers(table, "av3")
    files = write_names(path, "av3", numbers, table.tomograms)
    return with_numbers(frame, ["tomogram"], numbers), files
