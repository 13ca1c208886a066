"""Wedge lists: which tilts each tomogram has.

Three kinds are read, told apart by content:

- EM files of three rows: number of the tomogram, smallest and largest tilt (AV3, novaSTA);
- STOPGAP's STAR files with a table ``stopgap_wedgelist``: one row per tilt (``tomo_num``,
  ``tilt_angle``), of which smallest and largest are used;
- text with the three numbers of the EM file in each line; what follows ``#`` is skipped.

Tilts are about y; an image tilted by a lies along ``(cos a, 0, sin a)`` in Fourier space, in AV3's
and STOPGAP's masks as in `faml.conventions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from faml.errors import InputDataError, OutputError
from faml.io.em import is_em, read_em, write_em
from faml.io.files import read_text
from faml.io.formats.columns import number_text, numeric, whole
from faml.io.formats.table import (
    ParticleTable,
    TiltRange,
    Wedge,
    checked_wedge,
    numbered_tomograms,
)
from faml.io.star_text import line_of_row, read_blocks, write_star

__all__ = [
    "BLOCK",
    "LIST_ROWS",
    "check_wedge_list",
    "read_wedge_list",
    "with_wedge_list",
    "write_wedge_list",
]

BLOCK = "stopgap_wedgelist"
LIST_ROWS = 3
TILT_STEP_DEG = 3.0
_VERSION = 30001


def read_wedge_list(path: str | Path) -> dict[int, Wedge]:
    """Tilt range by number of the tomogram.

    Raises
    ------
    InputDataError
        No list of a known kind, a value that is no number, a range that is none, or a tomogram
        listed twice with different ranges, naming the place.
    """
    path = Path(path).expanduser()
    if is_em(path):
        return _from_em(path)
    text = read_text(
        path, f"a wedge list (EM file of {LIST_ROWS} rows, STOPGAP's STAR file, or text)"
    )
    if text.startswith("data_") or "\ndata_" in text:
        return _from_star(path)
    return _from_text(path, text)


def with_wedge_list(table: ParticleTable, wedges: Mapping[int, Wedge], path: Path) -> ParticleTable:
    """The table with the tilt ranges of a list, which replace its own.

    Tomograms are matched by number; the only one of a table is that of a list of one.

    Raises
    ------
    InputDataError
        Tomograms that are not in the list, the first of them and how many.
    """
    if len(wedges) == 1 and len(set(table.tomograms or ())) == 1:
        return replace(table, wedges=tuple(wedges.values()) * len(table))
    numbers = numbered_tomograms(table)
    missing = sorted(set(numbers.tolist()) - set(wedges))
    if missing:
        shown = ", ".join(map(str, missing[:3])) + (", ..." if len(missing) > 3 else "")
        raise InputDataError(
            f"{path}: expected the tomograms of {table.path}, {len(missing)} of them are not "
            f"listed: {shown}; complete the list"
        )
    return replace(table, wedges=tuple(wedges[int(number)] for number in numbers))


def check_wedge_list(path: Path, wedges: Mapping[int, Wedge]) -> None:
    """Refuse wedges that a list cannot hold, before anything is written.

    Raises
    ------
    OutputError
        A wedge is not one range about y.
    """
    for number, wedge in sorted(wedges.items()):
        if len(wedge) != 1 or wedge[0].axis != "y":
            raise OutputError(
                f"{path}: expected one tilt range about y for tomogram {number}, which is all a "
                f"wedge list can hold, found {len(wedge)} ranges; leave out --wedge-list-out"
            )


def write_wedge_list(
    path: Path, wedges: Mapping[int, Wedge], voxel_size_angstrom: float | None = None
) -> tuple[str, ...]:
    """Write an EM list, or STOPGAP's STAR file if the name ends with ``.star``; returns notes.

    A STAR list names every tilt: where only ranges are known, tilts of `TILT_STEP_DEG` are written.

    Raises
    ------
    OutputError
        A wedge is not one range about y, or the file cannot be written.
    """
    check_wedge_list(path, wedges)
    rows = [
        (float(number), wedge[0].low_deg, wedge[0].high_deg)
        for number, wedge in sorted(wedges.items())
    ]
    values = np.array(rows, dtype=np.float64)
    if path.suffix.lower() != ".star":
        write_em(path, values[None])
        return ()
    write_star(path, {BLOCK: _tilts(values, voxel_size_angstrom)}, _VERSION)
    return (
        f"{path.name} lists tilts every {TILT_STEP_DEG:g} degrees, since only ranges are known: "
        "put in the real ones, doses and defoci before STOPGAP uses it",
    )


def _tilts(values: npt.NDArray[np.float64], voxel_size_angstrom: float | None) -> pd.DataFrame:
    rows = []
    for number, low, high in values:
        tilts = np.linspace(low, high, max(2, round((high - low) / TILT_STEP_DEG) + 1))
        rows += [(str(int(number)), number_text(tilt)) for tilt in tilts]
    frame = pd.DataFrame(rows, columns=["tomo_num", "tilt_angle"], dtype=object)
    if voxel_size_angstrom is not None:
        frame.insert(1, "pixelsize", number_text(voxel_size_angstrom))
    return frame


def _from_em(path: Path) -> dict[int, Wedge]:
    values = read_em(path)
    if values.shape[2] != LIST_ROWS:
        z, y, x = values.shape
        raise InputDataError(
            f"{path}: expected a wedge list of {LIST_ROWS} rows (tomogram, smallest and largest "
            f"tilt), found an EM file of {x} x {y} x {z} values"
        )
    rows = values.reshape(-1, LIST_ROWS)
    return _collected(rows, [f"{path}, column {index + 1}" for index in range(len(rows))])


def _from_text(path: Path, text: str) -> dict[int, Wedge]:
    rows, places = [], []
    for number, line in enumerate(text.splitlines(), 1):
        parts = line.split("#")[0].split()
        if not parts:
            continue
        place = f"{path}, line {number}"
        try:
            values = [float(part) for part in parts]
        except ValueError:
            values = []
        if len(values) != LIST_ROWS:
            raise InputDataError(
                f"{place}: expected three numbers (tomogram, smallest and largest tilt), found "
                f"{line.strip()[:60]!r}"
            )
        rows.append(values)
        places.append(place)
    if not rows:
        raise InputDataError(f"{path}: the wedge list is empty")
    return _collected(np.array(rows), places)


def _from_star(path: Path) -> dict[int, Wedge]:
    block = read_blocks(path).blocks.get(BLOCK)
    if not isinstance(block, pd.DataFrame) or not {"tomo_num", "tilt_angle"} <= set(block.columns):
        raise InputDataError(
            f"{path}: expected a table data_{BLOCK} with columns tomo_num and tilt_angle, found "
            "none"
        )

    def place(row: int, column: str) -> str:
        line = line_of_row(path, BLOCK, row)
        return f"{path}, {f'row {row + 1}' if line is None else f'line {line}'}, column {column}"

    numbers = whole(block, "tomo_num", place)
    tilts = numeric(block, ["tilt_angle"], place)[:, 0]
    distinct, which = np.unique(numbers, return_inverse=True)
    rows = np.tile([0.0, np.inf, -np.inf], (len(distinct), 1))
    rows[:, 0] = distinct
    np.minimum.at(rows[:, 1], which, tilts)
    np.maximum.at(rows[:, 2], which, tilts)
    return _collected(rows, [f"{path}, tomogram {number}" for number in distinct])


def _collected(rows: npt.NDArray[np.float64], places: list[str]) -> dict[int, Wedge]:
    found: dict[int, Wedge] = {}
    for (number, low, high), place in zip(rows, places, strict=True):
        if not np.isfinite((number, low, high)).all() or number != round(number):
            raise InputDataError(
                f"{place}: expected the number of a tomogram and two tilts, found {number:g}, "
                f"{low:g}, {high:g}"
            )
        wedge = checked_wedge((TiltRange(float(low), float(high)),), place)
        if found.setdefault(int(number), wedge) != wedge:
            raise InputDataError(
                f"{place}: tomogram {int(number)} is listed twice with different tilts; correct it"
            )
    return found
