"""Which formats there are, which one a file is, and how it is read and written."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from faml.errors import ConfigurationError, InputDataError
from faml.io.em import is_em, read_em_header
from faml.io.files import read_head
from faml.io.formats import dynamo, motl, relion_write, stopgap, wedge_lists
from faml.io.formats.dynamo import is_dynamo, read_dynamo, write_dynamo
from faml.io.formats.losses import Written
from faml.io.formats.motl import ROWS, read_motl, write_motl
from faml.io.formats.relion import FLAVOURS, read_relion, relion_table
from faml.io.formats.relion_write import write_relion
from faml.io.formats.sidecar import names_path
from faml.io.formats.stopgap import read_stopgap, write_stopgap
from faml.io.formats.table import ParticleTable, in_tomogram, with_origin

__all__ = [
    "FORMATS",
    "HDF5_SIGNATURE",
    "NUMBERED",
    "columns_of_hub",
    "detect_format",
    "format_for_name",
    "planned_files",
    "read_table",
    "write_table",
]

FORMATS = {
    "relion3.0": "RELION 3.0 STAR, one table",
    "relion3.1": "RELION 3.1 STAR, with optics groups",
    "relion4": "RELION 4 STAR, coordinates in unbinned pixels",
    "relion5": "RELION 5 STAR, coordinates in Angstrom from the tomogram's centre",
    "warp": "Warp, M and WarpTools STAR",
    "dynamo": "Dynamo table (.tbl)",
    "av3": "motive list of AV3, TOM and novaSTA (.em)",
    "stopgap": "STOPGAP motive list (.star)",
}
NUMBERED = ("dynamo", "av3", "stopgap")
"""Formats that know particles and tomograms by number."""
_BY_SUFFIX = {".star": "relion3.1", ".tbl": "dynamo", ".em": "av3"}
_MAPPED = {
    "dynamo": dynamo.MAPPED,
    "av3": motl.MAPPED,
    "stopgap": stopgap.MAPPED,
    **dict.fromkeys(FLAVOURS, relion_write.MAPPED),
}
_EM_LISTS = {ROWS: "av3", wedge_lists.LIST_ROWS: "wedge list"}
_HEAD_BYTES = 1 << 16
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def detect_format(path: str | Path) -> str:
    """What a file is, by content.

    Returns
    -------
    str
        ``relion`` (any flavour), ``dynamo``, ``av3``, ``stopgap``, ``wedge list``, ``volume`` or
        ``pack`` (any HDF5 file).

    Raises
    ------
    InputDataError
        Missing, or none of them.
    """
    path = Path(path)
    head = read_head(path, _HEAD_BYTES)
    if head.startswith(HDF5_SIGNATURE):
        return "pack"
    if head[208:211] == b"MAP":
        return "volume"
    if path.suffix.lower() == ".em" or is_em(path):
        z, _, x = read_em_header(path).shape
        return _EM_LISTS.get(x, "volume") if z == 1 else "volume"
    if path.suffix.lower() == ".tbl":
        return "dynamo"  # whose reader says what is wrong, and where
    found = _of_text(head.decode("utf-8", errors="ignore"))
    if found is None and path.suffix.lower() in {".mrc", ".map", ".rec"}:
        return "volume"
    if found is None:
        raise InputDataError(
            f"{path}: expected a particle table (STAR file of RELION, Warp or STOPGAP, Dynamo "
            "table, motive list), found none of them"
        )
    return found


def _of_text(text: str) -> str | None:
    if f"data_{stopgap.BLOCK}" in text:
        return "stopgap"
    if f"data_{wedge_lists.BLOCK}" in text:
        return "wedge list"
    if "data_" in text and "_rln" in text:
        return "relion"
    return "dynamo" if is_dynamo(text) else None


def format_for_name(path: Path, source: str) -> str:
    """The format that a name asks for: that of the source where the suffix allows it.

    Raises
    ------
    ConfigurationError
        A suffix that no format has.
    """
    suffix = path.suffix.lower()
    if suffix == ".star" and (source in FLAVOURS or source == "stopgap"):
        return source
    if suffix not in _BY_SUFFIX:
        raise ConfigurationError(
            f"{path}: expected a name that ends with {', '.join(sorted(_BY_SUFFIX))}; or say the "
            f"format with --to ({', '.join(FORMATS)})"
        )
    return _BY_SUFFIX[suffix]


def read_table(path: str | Path, voxel_size_angstrom: float | None = None) -> ParticleTable:
    """Read a particle table of any format, by content.

    Parameters
    ----------
    path : path
    voxel_size_angstrom : float or None
        For files that do not say it.

    Raises
    ------
    InputDataError
        No particle table, or a malformed one, naming the place.
    """
    path = Path(path).expanduser()
    found = detect_format(path)
    if found == "dynamo":
        return read_dynamo(path)
    if found == "av3":
        return read_motl(path)
    if found == "stopgap":
        return read_stopgap(path)
    if found == "relion":
        return read_relion(path, voxel_size_angstrom)
    if found == "pack":
        from faml.io.packs.reading import table_of_pack  # which knows the formats, too

        return relion_table(table_of_pack(path), voxel_size_angstrom)
    raise InputDataError(f"{path}: expected a particle table, found a {found}")


def columns_of_hub(source: str) -> frozenset[str]:
    """Columns of a format that fields of the hub stand for completely."""
    return _MAPPED[source]


def planned_files(path: Path, table: ParticleTable, target: str) -> tuple[Path, ...]:
    """Files that `write_table` would write."""
    names = table.tomograms
    named = names is not None and not all(name.isdecimal() for name in names)
    beside = names_path(path, target)
    if target in NUMBERED and (named or (names is not None and os.path.lexists(beside))):
        return path, beside
    return (path,)


def write_table(
    path: str | Path,
    table: ParticleTable,
    target: str,
    tomogram_sizes_voxels: npt.NDArray[np.float64] | None = None,
    *,
    box_poses: bool = False,
) -> Written:
    """Write a table in a format.

    Formats without axes of the boxes (all but RELION's) get poses in the tomogram.

    Parameters
    ----------
    path : path
        Replaced if it exists.
    table : ParticleTable
    target : str
        A key of `FORMATS`.
    tomogram_sizes_voxels : (3,) or (N, 3) float64, or None
        x, y, z in voxels of the particles, where coordinates have to count from elsewhere.
    box_poses : bool
        Poses of the boxes as they are on disk, in every format.

    Raises
    ------
    ConfigurationError
        Unknown format, or a size that is needed and not known.
    OutputError
        A file cannot be written.
    """
    path = Path(path)
    if target not in FORMATS:
        raise ConfigurationError(f"unknown format {target!r}; expected one of {', '.join(FORMATS)}")
    mapped = _MAPPED[table.format]
    if (target in NUMBERED or target == "warp") and not box_poses:
        table = in_tomogram(table)
    if target in FLAVOURS:
        return write_relion(path, table, target, mapped, tomogram_sizes_voxels)
    table = with_origin(table, "first voxel", tomogram_sizes_voxels)
    writer = {"dynamo": write_dynamo, "av3": write_motl, "stopgap": write_stopgap}[target]
    return writer(path, table, mapped)
