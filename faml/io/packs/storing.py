"""Arrays and columns of a pack on their way into its file."""

from __future__ import annotations

import io
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from faml.io.packs.ranges import checksum

__all__ = ["ArrayWriter", "Sink", "write_column"]

_CHUNK_BYTES = 1 << 18


class Sink(io.FileIO):
    """A file that takes what it has no room for, and says so when asked.

    HDF5 that could not write what it holds cannot close a file either, and ends the process when
    that ends.
    """

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all; or, after a failure, nothing."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while len(rest) and self.failure is None:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.failure = error
        return size

    def check(self) -> None:
        """Raise OSError if something could not be written."""
        if self.failure is not None:
            raise self.failure


class ArrayWriter:
    """Writes arrays of one shape, whole ones to a chunk, with their checksums."""

    def __init__(
        self, group: h5py.Group, name: str, count: int, shape: tuple[int, ...], dtype: str
    ) -> None:
        self._dtype = np.dtype(dtype).newbyteorder("<")
        size = int(np.prod(shape)) * self._dtype.itemsize
        each = min(max(1, _CHUNK_BYTES // size), count)
        self._dataset = group.create_dataset(
            name, (count, *shape), self._dtype, chunks=(each, *shape), fletcher32=True
        )
        self._group, self._name = group, name
        self._waiting = np.zeros((each, *shape), self._dtype)
        self._sums = np.zeros(count, dtype="<u4")
        self._done = 0

    def add(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Write the next array; returns it as it is stored."""
        each = len(self._waiting)
        stored = self._waiting[self._done % each]
        stored[...] = values
        self._sums[self._done] = checksum(stored)
        self._done += 1
        if self._done % each == 0 or self._done == len(self._sums):
            first = (self._done - 1) // each * each
            self._dataset[first : self._done] = self._waiting[: self._done - first]
        if self._done == len(self._sums):
            write_column(self._group, f"{self._name}_crc32", self._sums)
        return stored


def write_column(group: h5py.Group, name: str, values: npt.NDArray[Any]) -> None:
    """An array that is read whole: compressed, with a checksum."""
    if values.dtype.kind == "S":
        values = values.astype(h5py.string_dtype("utf-8", values.dtype.itemsize))
    group.create_dataset(name, data=values, chunks=True, compression="gzip", fletcher32=True)
