"""EM files (TOM toolbox, AV3, Dynamo, STOPGAP): volumes, motive lists and wedge lists.

A header of 512 bytes, of which the first 16 say all that is needed: machine code (3 and 5 are
big-endian, 6 is little-endian, others vary), two bytes unused, the type of the values, and the
extents x, y, z as 32-bit integers. x runs fastest, so that an array is ``[z, y, x]`` as in MRC. The
header has no voxel size that programs agree on. The centre of a box of n voxels is voxel n // 2
counted from 0 (``floor(n / 2) + 1`` counted from 1), for odd and even n, as in MRC.

Read here and not by the package emfile, which knows no byte order and does not see that a file is
truncated.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from faml.conventions import FloatArray
from faml.errors import InputDataError, OutputError
from faml.io.atomic import atomic_path
from faml.io.files import check_memory, open_regular, read_values

__all__ = ["EM_HEADER_BYTES", "EmHeader", "is_em", "read_em", "read_em_header", "write_em"]

EM_HEADER_BYTES = 512
_DTYPES = {1: "i1", 2: "i2", 4: "i4", 5: "f4", 9: "f8"}
_BIG_ENDIAN_MACHINES = {3, 5}
_LITTLE_ENDIAN_PC = 6
_FLOAT32 = 5
_LARGEST_EDGE = 1 << 24


@dataclass(frozen=True)
class EmHeader:
    """What the header says, after checks.

    Attributes
    ----------
    path : Path
    shape : (int, int, int)
        z, y, x.
    dtype : str
        numpy type code with byte order.
    """

    path: Path
    shape: tuple[int, int, int]
    dtype: str


def is_em(path: str | Path) -> bool:
    """Whether a file has an EM header that fits its size."""
    try:
        read_em_header(path)
    except InputDataError:
        return False
    return True


def read_em_header(path: str | Path) -> EmHeader:
    """Read and check a header without touching the data.

    Raises
    ------
    InputDataError
        Missing, empty, truncated, complex values, or no EM file.
    """
    path = Path(path)
    try:
        with open_regular(path) as stream:
            raw = stream.read(EM_HEADER_BYTES)
            size = os.fstat(stream.fileno()).st_size
    except OSError as error:
        raise InputDataError(f"{path}: cannot be read ({error.strerror})") from error
    if len(raw) < EM_HEADER_BYTES:
        raise InputDataError(
            f"{path}: not an EM file or truncated: expected a header of {EM_HEADER_BYTES} bytes, "
            f"found {size} bytes in all; copy or extract it again"
        )
    return _interpreted(path, raw, size)


def _interpreted(path: Path, raw: bytes, size: int) -> EmHeader:
    """The header in the byte order in which it fits the size of the file."""
    machine, code = raw[0], raw[3]
    declared = ">" if machine in _BIG_ENDIAN_MACHINES else "<"
    if machine > _LITTLE_ENDIAN_PC:
        raise InputDataError(f"{path}: not an EM file, or its header is damaged")
    if code not in _DTYPES:
        raise InputDataError(
            f"{path}: expected an EM file of type 1, 2, 4, 5 or 9 (real values), found type "
            f"{code}; convert it to type 5 (float32)"
        )
    for order in (declared, "<" if declared == ">" else ">"):
        x, y, z = struct.unpack(f"{order}3i", raw[4:16])
        dtype = np.dtype(order + _DTYPES[code])
        plausible = all(1 <= edge <= _LARGEST_EDGE for edge in (x, y, z))
        if plausible and size == EM_HEADER_BYTES + x * y * z * dtype.itemsize:
            return EmHeader(path, (z, y, x), dtype.str)
    x, y, z = struct.unpack(f"{declared}3i", raw[4:16])
    raise InputDataError(
        f"{path}: the header says {x} x {y} x {z} values of type {code}, which does not fit a file "
        f"of {size} bytes; it is truncated or no EM file: copy or extract it again"
    )


def read_em(path: str | Path) -> npt.NDArray[np.float64]:
    """All values, ``[z, y, x]`` float64.

    Raises
    ------
    InputDataError
        As `read_em_header`.
    """
    header = read_em_header(path)
    count = math.prod(header.shape)
    check_memory(header.path, 8 * count)
    try:
        with open_regular(header.path) as stream:
            stream.seek(EM_HEADER_BYTES)
            values = read_values(stream, header.dtype, count)
    except OSError as error:
        raise InputDataError(f"{header.path}: cannot be read ({error.strerror})") from error
    if values.size != count:
        raise InputDataError(f"{header.path}: the file became shorter while it was read")
    with np.errstate(invalid="ignore"):  # signalling NaN, which whoever wants numbers refuses
        return values.reshape(header.shape).astype(np.float64)


def write_em(path: str | Path, values: FloatArray) -> None:
    """Write ``[z, y, x]`` values as float32, little-endian, atomically.

    Raises
    ------
    OutputError
        Not 3-D, not finite or beyond float32, or the file cannot be written.
    """
    path = Path(path)
    beyond = ~(np.abs(values) <= np.finfo(np.float32).max)
    if values.ndim != 3 or beyond.any():
        raise OutputError(
            f"{path}: expected a finite 3-D array of 32-bit numbers to write, found shape "
            f"{values.shape} with {int(np.count_nonzero(beyond))} values that are NaN, Inf or "
            "too large"
        )
    z, y, x = values.shape
    header = struct.pack("<4b3i", _LITTLE_ENDIAN_PC, 0, 0, _FLOAT32, x, y, z)
    data = np.ascontiguousarray(values, dtype="<f4").tobytes()
    with atomic_path(path) as temporary:
        temporary.write_bytes(header.ljust(EM_HEADER_BYTES, b"\0") + data)
