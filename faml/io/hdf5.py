"""HDF5 files from strangers: what is read lies in the file itself and is what was asked for.

HDF5 can lead anywhere (external and soft links, virtual datasets, storage in other files) and can
declare petabytes in a kilobyte. Here every step from one object to the next is a hard link, every
dataset is plain numbers whose bytes are all in the file, and a shape is compared with what is
expected before anything is allocated.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from faml.io.files import open_regular

__all__ = ["HDF5_ERRORS", "StoredGroup", "open_stored"]

HDF5_ERRORS = (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError)
"""What h5py raises for damaged files, and `StoredGroup` (ValueError) for unexpected ones."""

_PIECE_BYTES = 1 << 24
_HEAP = b"GCOL\x01"
_SMALLEST_HEAP = 4096
_NAMES_AT_ONCE = 64
"""Text is read in pieces, since its length is known only afterwards."""
_WORDS = {"b": "truth values", "i": "whole numbers", "f": "numbers"}


@contextmanager
def open_stored(path: Path) -> Iterator[StoredGroup]:
    """The root of an HDF5 file, to be read.

    Raises
    ------
    InputDataError
        No regular file.
    ValueError, OSError
        No HDF5 file, or a damaged one.
    """
    with open_regular(path) as stream:
        _check_heaps(stream)
        size = os.fstat(stream.fileno()).st_size
    with h5py.File(path, "r") as file:
        yield StoredGroup(file, size)


def _check_heaps(stream: BufferedReader) -> None:
    """Raise ValueError for a damaged heap of texts, in which HDF5 (up to 2.0) would go on for ever.

    A heap begins with a mark, its version and its size, and is filled with objects: number, count
    of references, size, contents. Object 0 stands for the rest, which is free. Where a part of a
    file was lost, zeros are a rest of size 0, to which HDF5 adds nothing, again and again.
    """
    size = os.fstat(stream.fileno()).st_size
    start, before = 0, b""
    while piece := stream.read(_PIECE_BYTES):
        text = before + piece
        at = text.find(_HEAP)
        while at >= 0:
            if not _is_whole_heap(stream.fileno(), start - len(before) + at, size):
                raise ValueError(f"a heap of texts is damaged at byte {start - len(before) + at}")
            at = text.find(_HEAP, at + 1)
        start, before = start + len(piece), text[1 - len(_HEAP) :]


def _is_whole_heap(descriptor: int, at: int, file_bytes: int) -> bool:
    """Whether objects fill a heap; what is too small or too large is none, as HDF5 sees, too."""
    header = os.pread(descriptor, 16, at)
    size = int.from_bytes(header[8:], "little")
    if not _SMALLEST_HEAP <= size <= file_bytes - at:
        return True
    heap = os.pread(descriptor, size, at)
    where = len(header)
    while size - where >= 16:
        number, _, _, length = struct.unpack_from("<HHIQ", heap, where)
        if number == 0:
            return bool(length == size - where)
        where += 16 + (length + 7) // 8 * 8
    return where <= size


class StoredGroup:
    """A group whose members are read only if they are what is expected; else ValueError.

    Parameters
    ----------
    group : h5py.Group
    file_bytes : int
        Size of the file, which nothing in it exceeds.
    """

    def __init__(self, group: h5py.Group, file_bytes: int) -> None:
        self._group, self._file_bytes = group, file_bytes

    def __contains__(self, name: str) -> bool:
        return name in self._group

    def names(self) -> list[str]:
        """Of all members."""
        return list(self._group)

    def group(self, name: str) -> StoredGroup:
        """The member ``name``, a group; ``name`` may have several parts."""
        found = self._member(name)
        if not isinstance(found, h5py.Group):
            raise _unexpected(f"expected a group {name}, found something else")
        return StoredGroup(found, self._file_bytes)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the dataset ``name``, which is in the file as a whole."""
        return tuple(int(edge) for edge in self._dataset(name).shape)

    def array(
        self, name: str, shape: tuple[int | None, ...], dtype: npt.DTypeLike
    ) -> npt.NDArray[Any]:
        """The dataset ``name``.

        Parameters
        ----------
        name : str
        shape : tuple of (int or None)
            None fits any extent.
        dtype : dtype
            bool, a signed integer or a float; the file's may have another byte order or fewer bits.
        """
        dataset, wanted = self._dataset(name), np.dtype(dtype)
        found = dataset.dtype
        if found.kind != wanted.kind or found.itemsize > wanted.itemsize:
            raise _unexpected(f"expected {_WORDS[wanted.kind]} in {name}, found type {found}")
        fits = len(dataset.shape) == len(shape) and all(
            edge is None or edge == stored
            for edge, stored in zip(shape, dataset.shape, strict=True)
        )
        if not fits:
            edges = " x ".join("any" if edge is None else str(edge) for edge in shape) or "one"
            raise _unexpected(f"expected {edges} values in {name}, found shape {dataset.shape}")
        values = np.asarray(dataset[()])
        if wanted.kind == "b":
            return values.view(np.uint8) != 0  # other bytes than 0 and 1 are no truth values
        return values.astype(wanted, copy=False)

    def texts(self, name: str) -> tuple[str, ...]:
        """The dataset ``name`` of texts, (N,)."""
        dataset = self._dataset(name)
        if h5py.check_string_dtype(dataset.dtype) is None or len(dataset.shape) != 1:
            raise _unexpected(f"expected a list of texts in {name}, found {dataset.dtype}")
        found: list[str] = []
        length = 0
        for start in range(0, len(dataset), _NAMES_AT_ONCE):
            piece = [_text(value, name) for value in dataset[start : start + _NAMES_AT_ONCE]]
            length += sum(map(len, piece))
            if length > self._file_bytes:
                raise _unexpected(f"expected texts of the file's size at most in {name}")
            found += piece
        return tuple(found)

    def has_attribute(self, name: str) -> bool:
        """Whether there is an attribute ``name``."""
        return name in self._group.attrs

    def integer(self, name: str) -> int:
        """The attribute ``name``, a whole number."""
        return int(self._attribute(name, "iu"))

    def number(self, name: str) -> float:
        """The attribute ``name``, a number; need not be finite."""
        return float(self._attribute(name, "iuf"))

    def text(self, name: str) -> str:
        """The attribute ``name``, a text."""
        return _text(self._attribute(name, "OS"), name)

    def _attribute(self, name: str, kinds: str) -> Any:
        identity = self._group.attrs.get_id(name)
        if identity.shape != () or identity.dtype.kind not in kinds:
            raise _unexpected(
                f"expected one value as {name}, found {identity.dtype} of shape {identity.shape}"
            )
        if identity.get_storage_size() > self._file_bytes:
            raise _unexpected(f"expected {name} to be in the file, found more bytes than it has")
        return self._group.attrs[name]

    def _member(self, name: str) -> Any:
        found: Any = self._group
        for part in name.split("/"):
            if not isinstance(found, h5py.Group):
                raise _unexpected(f"expected {name}, found no such object")
            if found.id.links.get_info(part.encode()).type != h5py.h5l.TYPE_HARD:
                raise _unexpected(f"expected {name} in the file, found a link to elsewhere")
            found = found[part]
        return found

    def _dataset(self, name: str) -> h5py.Dataset:
        """The member ``name``, a dataset whose bytes are all in this file."""
        found = self._member(name)
        if not isinstance(found, h5py.Dataset) or found.shape is None:
            raise _unexpected(f"expected values in {name}, found something else")
        how = found.id.get_create_plist()
        if how.get_layout() == h5py.h5d.VIRTUAL or how.get_external_count():
            raise _unexpected(f"expected {name} in the file, found that it is stored elsewhere")
        if how.get_nfilters():
            raise _unexpected(f"expected {name} as faml writes it, found it compressed")
        size = math.prod(found.shape) * found.dtype.itemsize
        stored = found.id.get_storage_size()
        if size > min(stored, self._file_bytes):
            raise _unexpected(f"expected {size} bytes of {name} in the file, found {stored}")
        return found


def _text(value: object, name: str) -> str:
    try:
        # h5py gives what is no UTF-8 as lone surrogates.
        encoded = value.encode("utf-8") if isinstance(value, str) else value
        if isinstance(encoded, bytes):
            return encoded.decode("utf-8")
    except UnicodeError:
        pass
    raise _unexpected(f"expected text (UTF-8) as {name}, found something else")


def _unexpected(message: str) -> ValueError:
    return ValueError(message)
