"""Dynamo tables: text, one row per particle, up to 42 columns and more.

Conventions, from Dynamo's manual and RELION's reader of Dynamo tables:

- Angles: tdrot, tilt, narot (columns 7 to 9) turn about the fixed axes z, x, z and map particle to
  reference; ours map reference to particle, ``R = (Rz(narot) Rx(tilt) Rz(tdrot))^T``.
- Shifts (4 to 6) are in voxels from the centre of the box to the structure: ``t``. The centre of a
  box of n voxels is pixel ``n / 2 + 1`` of Dynamo's count from 1 for even n and ``(n + 1) / 2`` for
  odd n: voxel ``n // 2`` counted from 0, in both cases.
- Coordinates (24 to 26) count from the outer corner of the first voxel, whose centre is 0.5: ours
  are lower by one half.
- Missing wedge: ftype (13) 0 is none, 1 a tilt about y (range in 14, 15), 2 one about x (16, 17), 4
  both. Of 3 and 5 to 7 nothing is read. The sign of tilts about x is taken to be that of
  `faml.conventions`.
- The tomogram (20) is a number; a table map beside the table (same name, suffix ``.doc``: number
  and name in each line) has the names.

All other columns are kept as the text that stood there, complex numbers too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from faml.errors import InputDataError
from faml.io.atomic import write_text_atomic
from faml.io.files import read_text
from faml.io.formats.columns import (
    numbers_or_nan,
    numeric,
    said,
    whole,
    with_numbers,
    with_rotations,
)
from faml.io.formats.losses import Written, base_columns, losses
from faml.io.formats.sidecar import read_names, write_names
from faml.io.formats.table import ParticleTable, TiltRange, Wedge, checked_wedge, tomogram_numbers
from faml.io.formats.zxz import matrices_to_zxz_deg, zxz_deg_to_matrices

__all__ = [
    "MAPPED",
    "NO_WEDGE",
    "WEDGE_COLUMNS",
    "is_dynamo",
    "read_dynamo",
    "read_wedges",
    "with_wedges",
    "write_dynamo",
]

_COLUMNS = (
    *(
        "tag",
        "aligned_value",
        "averaged_value",
        "dx",
        "dy",
        "dz",
        "tdrot",
        "tilt",
        "narot",
        "cc",
        "cc2",
    ),
    *("cpu", "ftype", "ymintilt", "ymaxtilt", "xmintilt", "xmaxtilt", "fs1", "fs2", "tomo"),
    *("reg", "class", "annotation", "x", "y", "z", "dshift", "daxis", "dnarot", "dcc", "otag"),
    *("npar", "undefined1", "ref", "sref", "apix", "def", "undefined2", "undefined3"),
    *("undefined4", "eig1", "eig2"),
)
_SHIFTS = ("dx", "dy", "dz")
_ANGLES = ("tdrot", "tilt", "narot")
_POSITION = ("x", "y", "z")
_FEWEST_COLUMNS = 9
_CORNER = 0.5
NO_WEDGE: Wedge = (TiltRange(-90.0, 90.0),)
"""What ftype 0 says: every component is observed."""
_HELD = (
    *("tomograms", "coordinates_voxels", "scores", "classes", "voxel_size_angstrom", "wedges"),
)

WEDGE_COLUMNS = ("ftype", "ymintilt", "ymaxtilt", "xmintilt", "xmaxtilt")

MAPPED = frozenset({*_SHIFTS, *_ANGLES, *_POSITION, "cc", "class"})
"""Columns that fields of the hub stand for completely."""


@dataclass(frozen=True)
class _Rows:
    """The table as text and where its rows stand."""

    path: Path
    frame: pd.DataFrame
    lines: tuple[int, ...]

    def place(self, row: int, column: str) -> str:
        """File, line and column in words."""
        number = list(self.frame.columns).index(column) + 1
        return f"{self.path}, line {self.lines[row]}, column {number} ({column})"


def is_dynamo(head: str) -> bool:
    """Whether text looks like a Dynamo table: numbers only, at least nine in a line."""
    first = next((line for line in head.splitlines() if line.strip()), "").split()
    if len(first) < _FEWEST_COLUMNS:
        return False
    try:
        [complex(value.replace("i", "j")) for value in first]
    except ValueError:
        return False
    return True


def read_dynamo(path: Path) -> ParticleTable:
    """Read a Dynamo table.

    Raises
    ------
    InputDataError
        Missing, not text, no rows, rows of different length, too few columns, or a value that is
        no number where one is needed, naming line and column.
    """
    rows = _read_rows(path)
    frame = rows.frame
    has = set(frame.columns)
    notes: list[str] = []
    coordinates = None
    if set(_POSITION) <= has:
        found = said(numeric(frame, _POSITION, rows.place))
        coordinates = None if found is None else found - _CORNER
    if "aligned_value" in has:
        left = int((numeric(frame, ["aligned_value"], rows.place) == 0).sum())
        if left:
            notes.append(
                f"{left} particles are marked as not to be aligned (column 2 is 0); they are read "
                "all the same"
            )
    wedges = None
    if set(WEDGE_COLUMNS) <= has:
        wedges, unread = read_wedges(frame, rows.place)
        notes += unread
    return ParticleTable(
        path=path,
        format="dynamo",
        numbers=whole(frame, "tag", rows.place),
        own=frame,
        rotations=_to_matrices(numeric(frame, _ANGLES, rows.place)),
        translations=numeric(frame, _SHIFTS, rows.place),
        coordinates_voxels=coordinates,
        tomograms=_tomograms(rows),
        classes=_classes(rows, notes),
        scores=said(numeric(frame, ["cc"], rows.place)[:, 0]) if "cc" in has else None,
        wedges=wedges,
        voxel_size_angstrom=_voxel_size(rows),
        notes=tuple(notes),
    )


def write_dynamo(path: Path, table: ParticleTable, mapped: frozenset[str]) -> Written:
    """Write a Dynamo table, and a table map where tomograms have names.

    ``table`` holds poses of the tomogram (`table.in_tomogram`) or of the boxes, coordinates from
    the first voxel. ``mapped`` are the columns of its source that its fields stand for.

    Raises
    ------
    OutputError
        A file cannot be written.
    """
    base = base_columns(table, "dynamo")
    frame = _fresh(len(table)) if base is None else base.copy()
    frame = _complete(frame, table)
    frame = with_numbers(frame, ["tag"], table.numbers)
    if table.translations is not None:
        frame = with_numbers(frame, _SHIFTS, table.translations)
    if table.rotations is not None:
        frame = with_rotations(frame, _ANGLES, table.rotations, _to_matrices, _to_angles)
    if table.coordinates_voxels is not None:
        frame = with_numbers(frame, _POSITION, table.coordinates_voxels + _CORNER)
    if table.scores is not None:
        frame = with_numbers(frame, ["cc"], table.scores)
    if table.classes is not None and table.format != "dynamo":
        frame = with_numbers(frame, ["class"], table.classes)
    if table.voxel_size_angstrom is not None:
        frame = with_numbers(frame, ["apix"], np.full(len(table), table.voxel_size_angstrom))
    frame = with_wedges(frame, table.wedges)
    files = [path]
    if table.tomograms is not None:
        numbers = tomogram_numbers(table, "dynamo")
        frame = with_numbers(frame, ["tomo"], numbers)
        files += write_names(path, "dynamo", numbers, table.tomograms)
    ordered = [name for name in _COLUMNS if name in frame]
    ordered += [name for name in frame.columns if name not in ordered]
    text = frame[ordered].to_csv(sep=" ", header=False, index=False, lineterminator="\n")
    write_text_atomic(path, text)
    notes = []
    if table.format != "dynamo" and not numbers_or_nan(frame, "ftype").any():
        notes.append(
            "ftype 0 is written, which to Dynamo means no missing wedge: give --wedge-list, or set "
            "columns 13 to 15"
        )
    if table.images is not None:
        notes.append(
            "Dynamo finds particles by their number: name the files particle_000001.mrc (or .em) "
            f"after column 1; row 1 is {table.images[0]}"
        )
    return Written(tuple(files), losses(table, "dynamo", _HELD, mapped), tuple(notes))


def _read_rows(path: Path) -> _Rows:
    text = read_text(
        path, "a Dynamo table; write a binary one (.tblb) as .tbl with Dynamo's dwrite"
    )
    rows: list[list[str]] = []
    lines: list[int] = []
    for number, line in enumerate(text.splitlines(), 1):
        values = line.split()
        if not values:
            continue
        if rows and len(values) != len(rows[0]):
            raise InputDataError(
                f"{path}, line {number}: expected {len(rows[0])} columns as in line {lines[0]}, "
                f"found {len(values)}; the file may be truncated"
            )
        rows.append(values)
        lines.append(number)
    if not rows:
        raise InputDataError(f"{path}: expected a Dynamo table, found no rows")
    width = len(rows[0])
    if width < _FEWEST_COLUMNS:
        raise InputDataError(
            f"{path}, line {lines[0]}: expected a Dynamo table of at least {_FEWEST_COLUMNS} "
            f"columns, found {width}"
        )
    names = [*_COLUMNS[:width], *(f"column{k}" for k in range(len(_COLUMNS) + 1, width + 1))]
    return _Rows(path, pd.DataFrame(rows, columns=names, dtype=object), tuple(lines))


def _to_matrices(angles_deg: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.swapaxes(zxz_deg_to_matrices(angles_deg), 1, 2)


def _to_angles(rotations: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return matrices_to_zxz_deg(np.swapaxes(rotations, 1, 2))


def _classes(rows: _Rows, notes: list[str]) -> npt.NDArray[np.int64] | None:
    """Column 22, or the reference of multireference alignment (34) where that is empty."""
    if "class" not in rows.frame:
        return None
    classes = whole(rows.frame, "class", rows.place)
    if classes.any() or "ref" not in rows.frame:
        return said(classes)
    references = whole(rows.frame, "ref", rows.place)
    if len(np.unique(references)) > 1:
        notes.append("classes are taken from column 34 (ref), since column 22 (class) is empty")
        return references
    return None


def _tomograms(rows: _Rows) -> tuple[str, ...] | None:
    if "tomo" not in rows.frame:
        return None
    numbers = whole(rows.frame, "tomo", rows.place)
    names = read_names(rows.path, "dynamo")
    return tuple(names.get(int(number), str(int(number))) for number in numbers)


def _voxel_size(rows: _Rows) -> float | None:
    """Column 36, if all particles have the same above zero."""
    if "apix" not in rows.frame:
        return None
    sizes = numeric(rows.frame, ["apix"], rows.place)[:, 0]
    if not (sizes > 0).all():
        return None
    smallest, largest = int(np.argmin(sizes)), int(np.argmax(sizes))
    if sizes[largest] - sizes[smallest] > 0.01 * sizes[largest]:
        raise InputDataError(
            f"{rows.place(largest, 'apix')}: expected one voxel size, found {sizes[largest]:g} A "
            f"here and {sizes[smallest]:g} A in line {rows.lines[smallest]}; split the table"
        )
    return float(sizes[0])


def read_wedges(
    frame: pd.DataFrame, place: Callable[[int, str], str]
) -> tuple[tuple[Wedge, ...], tuple[str, ...]]:
    """Wedges of columns 13 to 17, one a particle, and notes on those that are not read.

    Raises
    ------
    InputDataError
        No numbers, or a tilt range that is none; ``place`` names row and column.
    """
    values = numeric(frame, WEDGE_COLUMNS, place)
    known: dict[tuple[float, ...], Wedge] = {}
    unread: Counter[int] = Counter()
    wedges = []
    for row, found in enumerate(map(tuple, values)):
        if found not in known:
            known[found] = checked_wedge(_wedge(*found), partial(place, row, "ftype"))
        wedges.append(known[found])
        if not known[found]:
            unread[int(found[0])] += 1
    reasons = {ftype: "without tilts" if ftype in {1, 2, 4} else "not read" for ftype in unread}
    return tuple(wedges), tuple(
        f"{count} particles have ftype {ftype} (column 13), {reasons[ftype]}: their missing wedge "
        "is unknown"
        for ftype, count in unread.items()
    )


def _wedge(ftype: float, y_low: float, y_high: float, x_low: float, x_high: float) -> Wedge:
    if ftype == 0:
        return NO_WEDGE
    ranges = []
    if ftype in {1, 4} and (y_low or y_high):
        ranges.append(TiltRange(y_low, y_high, "y"))
    if ftype in {2, 4} and (x_low or x_high):
        ranges.append(TiltRange(x_low, x_high, "x"))
    return tuple(ranges)


def with_wedges(frame: pd.DataFrame, wedges: tuple[Wedge, ...] | None) -> pd.DataFrame:
    """Wedges put into columns 13 to 17; particles of unknown wedge keep what they have."""
    if wedges is None:
        return frame
    old = np.zeros((len(frame), len(WEDGE_COLUMNS)))
    if set(WEDGE_COLUMNS) <= set(frame.columns):
        old = np.stack([numbers_or_nan(frame, name) for name in WEDGE_COLUMNS], axis=1)
        old = np.nan_to_num(old)
    values = old.copy()
    for row, wedge in enumerate(wedges):
        if wedge and _wedge(*old[row]) != wedge:
            values[row] = _wedge_columns(wedge)
    return with_numbers(frame, WEDGE_COLUMNS, values)


def _wedge_columns(wedge: Wedge) -> tuple[float, ...]:
    if wedge == NO_WEDGE:
        return (0.0, 0.0, 0.0, 0.0, 0.0)
    about = {tilts.axis: (tilts.low_deg, tilts.high_deg) for tilts in wedge}
    ftype = 4.0 if len(about) == 2 else 1.0 if "y" in about else 2.0
    return (ftype, *about.get("y", (0.0, 0.0)), *about.get("x", (0.0, 0.0)))


def _fresh(count: int) -> pd.DataFrame:
    """A table in which every particle is to be aligned and averaged."""
    frame = pd.DataFrame("0", index=range(count), columns=list(_COLUMNS), dtype=object)
    frame["aligned_value"] = frame["averaged_value"] = "1"
    return frame


def _complete(frame: pd.DataFrame, table: ParticleTable) -> pd.DataFrame:
    """A short or carried table with every column that is going to be filled."""
    needed = len(_COLUMNS)
    if table.format == "dynamo":
        # What the file lacked stays away, except where something is to be said there.
        needed = len(frame.columns)
        if table.voxel_size_angstrom is not None and "apix" not in frame:
            needed = max(needed, _COLUMNS.index("apix") + 1)
        if table.wedges is not None and "xmaxtilt" not in frame:
            needed = max(needed, _COLUMNS.index("xmaxtilt") + 1)
    missing = [name for name in _COLUMNS[:needed] if name not in frame]
    return pd.concat([frame.reset_index(drop=True), _fresh(len(frame))[missing]], axis=1)
