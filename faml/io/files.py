"""Files that an input names, opened with care: regular files only, text of a bounded size.

A table may name any path. What is no regular file (a pipe, a device, a socket) could be read for
ever or wait for ever, so it is refused before a byte of it is read.
"""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from faml.errors import InputDataError

__all__ = ["check_memory", "check_regular", "open_regular", "read_head", "read_text", "read_values"]

_MUCH = 1 << 30
_LARGEST_TEXT = 1 << 32
"""Bytes; a table of ten million particles has fewer."""
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def check_regular(path: str | Path) -> None:
    """Refuse what is not a regular file (or a link to one), without opening it.

    Raises
    ------
    InputDataError
        Missing, out of reach, or a folder, pipe, device or socket.
    """
    try:
        _refuse_others(path, os.stat(path).st_mode)
    except (OSError, ValueError) as error:
        raise _refusal(path, error) from error


def check_memory(path: str | Path, count: int) -> None:
    """Refuse to read more than the machine has memory for.

    A file with holes takes no room on the disk, whatever its size.

    Parameters
    ----------
    path : path
    count : int
        Bytes that are needed.

    Raises
    ------
    InputDataError
    """
    if count > _MUCH and count > psutil.virtual_memory().total:
        raise InputDataError(
            f"{path}: expected a file that fits into memory, found {count / 1e9:.3g} GB of values; "
            "check that it is a single particle or map"
        )


def open_regular(path: str | Path) -> BufferedReader:
    """A regular file, opened to be read.

    Raises
    ------
    InputDataError
        As `check_regular`, or it may not be read.
    """
    check_regular(path)
    try:
        # What was put in its place meanwhile must not make us wait.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _refusal(path, error) from error
    stream = os.fdopen(descriptor, "rb")
    try:
        _refuse_others(path, os.fstat(descriptor).st_mode)
    except InputDataError:
        stream.close()
        raise
    return stream


def read_head(path: str | Path, count: int) -> bytes:
    """The first ``count`` bytes, or all if there are fewer; raises as `open_regular`."""
    try:
        with open_regular(path) as stream:
            return stream.read(min(count, os.fstat(stream.fileno()).st_size))
    except OSError as error:
        raise _refusal(path, error) from error


def read_values(stream: BufferedReader, dtype: str, count: int) -> npt.NDArray[Any]:
    """So many values from where a stream is, fewer where it ends before.

    What `numpy.fromfile` makes of an error of the disk is an end.

    Raises
    ------
    OSError
        They cannot be read.
    """
    values = np.empty(count, dtype=dtype)
    found = stream.readinto(values.view(np.uint8).data)
    whole: npt.NDArray[Any] = values[: found // values.itemsize]
    return whole


def read_text(path: str | Path, wanted: str) -> str:
    """The text of a UTF-8 file, without its byte order mark.

    Parameters
    ----------
    path : path
    wanted : str
        What the file should be, and what to do if it is no text; ends the message.

    Raises
    ------
    InputDataError
        As `open_regular`; larger than 4 GiB; or no UTF-8.
    """
    try:
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > _LARGEST_TEXT:
                raise InputDataError(
                    f"{path}: expected {wanted}; found {size} bytes, more than text has"
                )
            # No more than that: files of the system say 0 and may not end.
            text = stream.read(size).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputDataError(f"{path}: binary data, not text; expected {wanted}") from error
    except OSError as error:
        raise _refusal(path, error) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _refuse_others(path: str | Path, mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    kind = next((words for test, words in _KINDS if test(mode)), "something else")
    raise InputDataError(f"{path}: cannot be read: expected a file, found {kind}; correct the path")


def _refusal(path: str | Path, error: Exception) -> InputDataError:
    if isinstance(error, FileNotFoundError):
        return InputDataError(f"{path}: the file does not exist; check the path")
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return InputDataError(f"{str(path)!r}: cannot be read ({reason}); check the path")
