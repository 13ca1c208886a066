"""MRC volumes in and out; EM volumes in (`faml.io.em`).

Headers are interpreted here instead of by ``mrcfile.open``: its permissive mode reports by Python
warnings, whose machinery is not safe in the worker threads that read particles, and its strict
mode refuses files that many programs write. What is tolerated is said in `MrcHeader.notes`.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import numpy.typing as npt
from mrcfile.dtypes import HEADER_DTYPE

from faml.conventions import FloatArray
from faml.errors import InputDataError, OutputError
from faml.io.atomic import atomic_path
from faml.io.em import EM_HEADER_BYTES, read_em_header
from faml.io.files import check_memory, open_regular, read_values

__all__ = ["MrcHeader", "MrcVolume", "read_header", "read_volume", "write_volume"]

_DTYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_REFUSED_MODES = {3: "complex 16-bit", 4: "complex 32-bit", 101: "packed 4-bit"}
_EM_MODES = {"b": 0, "h": 1}
"""Modes of EM files' types; all others are read as mode 2."""
_STACK_SUFFIXES = {".mrcs", ".st"}
_HEADER_BYTES = 1024
_LARGEST_EDGE = 32768
_IMOD_STAMP = 1146047817
_VOLUME_STACK_GROUPS = range(401, 631)
"""Space groups by which MRC2014 marks a stack of volumes."""


@dataclass(frozen=True)
class MrcHeader:
    """What the header of a 3-D MRC volume says, after checks.

    Attributes
    ----------
    path : Path
    shape : (int, int, int)
        z, y, x.
    mode : int
        0, 1, 2, 6 or 12.
    voxel_size_angstrom : float or None
        None where the header gives none (zero, negative, or different along the axes). Many
        programs write 1.0 for "unknown"; that is left to the caller.
    dtype : str
        numpy type code of the file's values, with byte order.
    data_offset : int
        Bytes before the first voxel.
    axes : (int, int, int)
        Which of x = 1, y = 2, z = 3 the file's columns, rows and sections run along.
    notes : tuple of str
        Irregularities that were tolerated.
    """

    path: Path
    shape: tuple[int, int, int]
    mode: int
    voxel_size_angstrom: float | None
    dtype: str
    data_offset: int
    axes: tuple[int, int, int]
    notes: tuple[str, ...]

    @property
    def data_bytes(self) -> int:
        """Size of the data block."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class MrcVolume:
    """A volume and its header.

    Attributes
    ----------
    values : (z, y, x) float32
        C-ordered.
    header : MrcHeader
    """

    values: npt.NDArray[np.float32]
    header: MrcHeader


def read_header(path: str | Path, *, stack: bool = False) -> MrcHeader:
    """Read and check a header without touching the data.

    Parameters
    ----------
    path : str or Path
    stack : bool
        Expect a stack of images, of which there may be one, and not a volume.

    Raises
    ------
    InputDataError
        Missing, empty, truncated, neither MRC nor (by suffix) EM, complex, 2-D, or a stack.
    """
    path = Path(path)
    if path.suffix.lower() == ".em":
        return _em_header(path)
    raw, size = _header_bytes(path)
    if path.suffix.lower() in _STACK_SUFFIXES and not stack:
        raise InputDataError(
            f"{path}: expected one 3-D volume per file, found a stack of images "
            f"({path.suffix}); extract the particles as 3-D subtomograms (.mrc)"
        )
    record, order, notes = _interpret(raw, size, path)
    dtype, mode_notes = _data_type(record, order, path)
    header = MrcHeader(
        path=path,
        shape=_shape(record, path, stack=stack),
        mode=int(record["mode"]),
        voxel_size_angstrom=_voxel_size(record),
        dtype=dtype,
        data_offset=_HEADER_BYTES + int(record["nsymbt"]),
        axes=_axes(record, path),
        notes=(*notes, *mode_notes),
    )
    return _check_size(header, size)


def read_volume(path: str | Path, *, stack: bool = False) -> MrcVolume:
    """Read a 3-D volume of mode 0, 1, 2, 6 or 12 as float32 ``[z, y, x]``.

    Files whose columns, rows and sections are not x, y, z are transposed.

    Raises
    ------
    InputDataError
        As `read_header`, and for NaN or Inf.
    """
    header = read_header(path, stack=stack)
    count = math.prod(header.shape)
    check_memory(header.path, 4 * count)
    try:
        with open_regular(header.path) as stream:
            stream.seek(header.data_offset)
            raw = read_values(stream, header.dtype, count)
    except OSError as error:
        raise InputDataError(f"{header.path}: cannot be read ({error.strerror})") from error
    if raw.size != count:
        raise InputDataError(f"{header.path}: the file became shorter while it was read")
    order = _file_order(header.axes)
    stored = raw.reshape(tuple(header.shape[axis] for axis in order))
    with np.errstate(all="ignore"):  # beyond float32, or signalling NaN: no numbers either
        values = np.ascontiguousarray(stored.transpose(np.argsort(order)), dtype=np.float32)
    if not np.isfinite(values).all():
        raise InputDataError(
            f"{header.path}: found NaN or Inf in the volume; remove it or extract it again"
        )
    return MrcVolume(values, header)


def write_volume(path: str | Path, values: FloatArray, voxel_size_angstrom: float) -> None:
    """Write a volume as mode 2 (float32) with its voxel size, atomically.

    Parameters
    ----------
    path : str or Path
        Replaced if it exists.
    values : (z, y, x) float
    voxel_size_angstrom : float

    Raises
    ------
    OutputError
        Not 3-D, not finite, or the file cannot be written.
    """
    path = Path(path)
    if values.ndim != 3 or not np.isfinite(values).all():
        raise OutputError(
            f"{path}: expected a finite 3-D volume to write, found shape {values.shape} with "
            f"{int(np.count_nonzero(~np.isfinite(values)))} values that are NaN or Inf"
        )
    data = np.ascontiguousarray(values, dtype=np.float32)
    with atomic_path(path) as temporary, mrcfile.new(temporary, overwrite=True) as file:
        file.set_data(data)
        file.set_volume()
        file.voxel_size = float(voxel_size_angstrom)
        # mrcfile puts the time into the label; equal runs should give equal files.
        file.header.label[:] = b""
        file.header.label[0] = b"faml"
        file.header.nlabl = 1


def _em_header(path: Path) -> MrcHeader:
    """Header of an EM volume in the terms of MRC; EM files do not say a voxel size."""
    found = read_em_header(path)
    if found.shape[0] == 1:
        raise InputDataError(
            f"{path}: expected a 3-D volume, found an EM file of {found.shape[2]} x "
            f"{found.shape[1]} values (an image, a motive list or a wedge list)"
        )
    return MrcHeader(
        path=path,
        shape=found.shape,
        mode=_EM_MODES.get(np.dtype(found.dtype).char, 2),
        voxel_size_angstrom=None,
        dtype=found.dtype,
        data_offset=EM_HEADER_BYTES,
        axes=(1, 2, 3),
        notes=(),
    )


def _header_bytes(path: Path) -> tuple[bytes, int]:
    """First 1024 bytes and the size of the file."""
    try:
        with open_regular(path) as stream:
            raw = stream.read(_HEADER_BYTES)
            size = os.fstat(stream.fileno()).st_size
    except OSError as error:
        raise InputDataError(f"{path}: cannot be read ({error.strerror})") from error
    if size == 0:
        raise InputDataError(f"{path}: the file is empty (0 bytes); copy or extract it again")
    if len(raw) < _HEADER_BYTES:
        raise InputDataError(
            f"{path}: not an MRC file or truncated: expected a header of {_HEADER_BYTES} bytes, "
            f"found {size} bytes in all; copy or extract it again"
        )
    return raw, size


def _interpret(raw: bytes, size: int, path: Path) -> tuple[Any, str, list[str]]:
    """Header record in the byte order that makes sense, and what had to be tolerated."""
    record = np.frombuffer(raw, dtype=HEADER_DTYPE)[0]
    stamp = bytes(record["machst"])[:1]
    stamped = {b"\x44": "<", b"\x11": ">"}.get(stamp)
    marked = bytes(record["map"])[:3] == b"MAP"
    notes = []
    for order in (stamped or "<", ">" if (stamped or "<") == "<" else "<"):
        candidate = np.frombuffer(raw, dtype=HEADER_DTYPE.newbyteorder(order))[0]
        if _plausible(candidate) and (marked or _size_fits(candidate, size)):
            if stamped is None:
                notes.append("the header has no byte order stamp")
            elif order != stamped:
                notes.append("the byte order stamp of the header is wrong")
            if not marked:
                notes.append("the header lacks the MAP identifier")
            return candidate, order, notes
    raise InputDataError(
        f"{path}: not an MRC file, or its header is damaged; expected a 3-D MRC volume of mode "
        "0, 1, 2, 6 or 12"
    )


def _plausible(record: Any) -> bool:
    edges = [int(record[name]) for name in ("nx", "ny", "nz")]
    return (
        all(1 <= edge <= _LARGEST_EDGE for edge in edges)
        and 0 <= int(record["mode"]) <= 127
        and int(record["nsymbt"]) >= 0
    )


def _size_fits(record: Any, size: int) -> bool:
    """Whether the file is exactly as long as the header says: what tells MRC without a mark."""
    code = _DTYPES.get(int(record["mode"]))
    if code is None:
        return False
    voxels = int(record["nx"]) * int(record["ny"]) * int(record["nz"])
    return size == _HEADER_BYTES + int(record["nsymbt"]) + voxels * np.dtype(code).itemsize


def _data_type(record: Any, order: str, path: Path) -> tuple[str, list[str]]:
    """Type code of the values; mode 0 is signed except where a program says otherwise."""
    mode = int(record["mode"])
    if mode not in _DTYPES:
        kind = _REFUSED_MODES.get(mode, "unknown")
        raise InputDataError(
            f"{path}: expected real values of mode 0, 1, 2, 6 or 12, found mode {mode} ({kind}); "
            "convert the file to mode 2 (float32)"
        )
    if mode != 0:
        return order + _DTYPES[mode], []
    # IMOD before version 4.2.23 wrote mode 0 unsigned; it leaves a stamp and a flag for "signed".
    extra = np.frombuffer(bytes(record["extra2"])[40:48], dtype=order + "i4")
    if extra[0] == _IMOD_STAMP and not extra[1] & 1:
        return "u1", ["mode 0 read as unsigned bytes (IMOD header)"]
    if record["dmax"] > 127 and record["dmin"] >= 0:
        return "u1", ["mode 0 read as unsigned bytes (the header's maximum exceeds 127)"]
    return "i1", []


def _axes(record: Any, path: Path) -> tuple[int, int, int]:
    axes = (int(record["mapc"]), int(record["mapr"]), int(record["maps"]))
    if axes == (0, 0, 0):  # never filled in by older programs
        return (1, 2, 3)
    if sorted(axes) != [1, 2, 3]:
        raise InputDataError(
            f"{path}: expected the header's axis order mapc, mapr, maps to be a permutation of "
            f"1, 2, 3, found {axes}; correct the header"
        )
    return axes


def _file_order(axes: tuple[int, int, int]) -> tuple[int, int, int]:
    """Which of (z, y, x) = (0, 1, 2) the file's sections, rows and columns are."""
    columns, rows, sections = axes
    return 3 - sections, 3 - rows, 3 - columns


def _shape(record: Any, path: Path, *, stack: bool) -> tuple[int, int, int]:
    stored = (int(record["nz"]), int(record["ny"]), int(record["nx"]))
    if stored[0] == 1 and not stack:
        raise InputDataError(
            f"{path}: expected a 3-D volume, found a 2-D image of {stored[2]} x {stored[1]}; "
            "extract the particles as 3-D subtomograms"
        )
    if int(record["ispg"]) in _VOLUME_STACK_GROUPS and 0 < int(record["mz"]) < stored[0]:
        raise InputDataError(
            f"{path}: expected one 3-D volume, found a stack of {stored[0] // int(record['mz'])} "
            "volumes (4-D); split it into one file per particle"
        )
    order = _file_order(_axes(record, path))
    z, y, x = (stored[order.index(axis)] for axis in range(3))
    return z, y, x


def _voxel_size(record: Any) -> float | None:
    """Edge of a voxel from cell size over sampling, where the axes agree within 1 %."""
    sizes = []
    for axis in "xyz":
        sampling, length = int(record[f"m{axis}"]), float(record["cella"][axis])
        # Image stacks and some volumes carry mz = 1, which says nothing about z.
        if axis == "z" and sampling != int(record["nz"]):
            continue
        sizes.append(length / sampling if sampling > 0 else 0.0)
    if not all(np.isfinite(size) and size > 0 for size in sizes):
        return None
    return sizes[0] if max(sizes) - min(sizes) <= 0.01 * max(sizes) else None


def _check_size(header: MrcHeader, size: int) -> MrcHeader:
    expected = header.data_offset + header.data_bytes
    if size < expected:
        raise InputDataError(
            f"{header.path}: truncated: expected {expected} bytes for {header.shape} voxels of "
            f"mode {header.mode}, found {size}; copy or extract it again"
        )
    if size == expected:
        return header
    note = f"the file is {size - expected} bytes longer than its header says"
    return replace(header, notes=(*header.notes, note))
