"""Arrays of one shape in a file, each read by its range of bytes and held against its checksum.

HDF5 says where the chunks lie; after that its library is not needed. A read is one system call,
which takes no lock, so threads do not wait for each other, and there is no handle that a process
could not pass on: the file is opened where and when it is first read.
"""

from __future__ import annotations

import os
import weakref
import zlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from faml.errors import InputDataError

__all__ = ["DamagedError", "RangeFile", "StoredArrays", "checksum"]


class DamagedError(Exception):
    """An array is not what was written; whoever knows its name says so."""


def checksum(values: npt.NDArray[Any]) -> int:
    """CRC-32 of the bytes of a contiguous array."""
    return zlib.crc32(values.reshape(-1).view(np.uint8).data)


class RangeFile:
    """A file that is read by ranges of bytes, from threads and processes.

    Parameters
    ----------
    path : Path
    stamp : (int, int)
        Size and time of change in nanoseconds; another file of this name is refused.
    """

    def __init__(self, path: Path, stamp: tuple[int, int]) -> None:
        self.path = path
        self.stamp = stamp
        self._opened: dict[str, int] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return RangeFile, (self.path, self.stamp)

    def read(self, offset: int, count: int) -> bytes:
        """So many bytes from ``offset``; raises InputDataError where they cannot be read."""
        try:
            # One that was opened before a fork still serves: pread has no position to share.
            return os.pread(self._descriptor(), count, offset)
        except OSError as error:
            raise InputDataError(f"{self.path}: cannot be read ({error.strerror})") from error

    def _descriptor(self) -> int:
        known = self._opened.get("descriptor")
        if known is not None:
            return known
        mine = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        status = os.fstat(mine)
        if (status.st_size, status.st_mtime_ns) != self.stamp:
            os.close(mine)
            raise InputDataError(
                f"{self.path}: changed since it was opened; start again with the file that is to "
                "be read"
            )
        kept = self._opened.setdefault("descriptor", mine)
        if kept == mine:
            weakref.finalize(self, os.close, mine)
        else:  # another thread was faster
            os.close(mine)
        return kept


@dataclass(frozen=True)
class StoredArrays:
    """N arrays of one shape, whole ones to a chunk, which are as they were written.

    Attributes
    ----------
    file : RangeFile
    shape : tuple of int
        Of each array.
    dtype : str
        As in the file, with byte order.
    offsets : (C,) int64
        Where in the file each chunk begins.
    per_chunk : int
        Arrays in a chunk.
    checksums : (N,) uint32
    """

    file: RangeFile
    shape: tuple[int, ...]
    dtype: str
    offsets: npt.NDArray[np.int64]
    per_chunk: int
    checksums: npt.NDArray[np.uint32]

    def __post_init__(self) -> None:
        object.__setattr__(self, "_checked", np.zeros(len(self), dtype=np.bool_))

    def __len__(self) -> int:
        return len(self.checksums)

    def __reduce__(self) -> tuple[Any, ...]:
        # What one process has checked, another has not.
        return StoredArrays, tuple(getattr(self, each.name) for each in fields(self))

    def read(self, index: int) -> npt.NDArray[Any]:
        """Array ``index``, read-only, held against its checksum when this process first reads it.

        Raises
        ------
        DamagedError
            Checksum or length are wrong.
        InputDataError
            The file cannot be read or is another one by now.
        """
        size = int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize
        chunk, place = divmod(int(index), self.per_chunk)
        raw = self.file.read(int(self.offsets[chunk]) + place * size, size)
        if len(raw) != size:
            raise DamagedError
        checked: npt.NDArray[np.bool_] = self._checked  # type: ignore[attr-defined]
        if not checked[index]:
            if zlib.crc32(raw) != self.checksums[index]:
                raise DamagedError
            checked[index] = True
        return np.frombuffer(raw, dtype=self.dtype).reshape(self.shape)

    @classmethod
    def of_dataset(cls, group: h5py.Group, name: str, file: RangeFile) -> StoredArrays:
        """Where the arrays of an HDF5 data set lie; their checksums are in ``NAME_crc32``.

        Raises
        ------
        ValueError
            They were not written by `faml.io.packs`: compressed, split, not in chunks, or not all
            in the file.
        """
        dataset = group[name]
        chunks, size = dataset.chunks, file.stamp[0]
        whole = chunks is not None and chunks[1:] == dataset.shape[1:]
        filters = dataset.id.get_create_plist()
        plain = {filters.get_filter(i)[0] for i in range(filters.get_nfilters())} <= {
            h5py.h5z.FILTER_FLETCHER32
        }
        if not whole or not plain:
            raise ValueError(f"{dataset.name} is not in chunks of whole arrays without compression")
        if dataset.nbytes > size:
            raise ValueError(f"{dataset.name} is larger than the file")
        count, each = len(dataset), chunks[0]
        offsets = np.full(-(-count // each), -1, dtype=np.int64)

        def note(stored: Any) -> None:
            offsets[stored.chunk_offset[0] // each] = stored.byte_offset

        dataset.id.chunk_iter(note)
        last = size - each * (dataset.nbytes // max(count, 1))
        if (offsets < 0).any() or (offsets > last).any():
            raise ValueError(f"{dataset.name} lacks some of its chunks")
        sums = read_column(group, f"{name}_crc32", np.uint32, (count,))
        return cls(file, dataset.shape[1:], dataset.dtype.str, offsets, each, sums)


def read_column(
    group: h5py.Group, name: str, dtype: npt.DTypeLike, shape: tuple[int, ...]
) -> npt.NDArray[Any]:
    """A data set that is read whole; raises ValueError, before that, if it is of another shape."""
    dataset = group[name]
    if dataset.shape != shape:
        raise ValueError(f"{dataset.name} has the shape {dataset.shape} and not {shape}")
    if dataset.dtype.kind not in "biufS" or dataset.dtype.itemsize > np.dtype(dtype).itemsize:
        raise ValueError(f"{dataset.name} is of type {dataset.dtype}")
    values: npt.NDArray[Any] = np.asarray(dataset[()])
    return values.astype(dtype, copy=False)
