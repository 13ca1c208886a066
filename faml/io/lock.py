"""One process at a time in a directory of results."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from faml.errors import OutputError
from faml.io.atomic import remove_unfinished

__all__ = ["LOCK_NAME", "only_one"]

LOCK_NAME = ".lock"
_LOG = logging.getLogger("faml")
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
"""What file systems answer that cannot lock."""
_WAITS_S = (0.02, 0.1)
"""`faml watch` takes the lock for an instant to see whether a run holds it."""
_HELD = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES}


@contextmanager
def only_one(directory: Path) -> Iterator[None]:
    """Hold ``directory`` against other processes of faml, on this machine or another.

    The lock is the system's, so it ends with the process, however that ends; the file stays. What
    the last holder, if it was killed, has left of files it was writing is removed. Where the file
    system cannot lock, the log says so and nothing is held.

    Raises
    ------
    OutputError
        Another process holds it (named, with its machine), or the file cannot be written.
    """
    path = directory / LOCK_NAME
    try:
        # What a link leads to is not ours to be written over.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(path, flags, 0o644)
    except OSError as error:
        raise OutputError(
            f"{directory}: cannot be written to ({LOCK_NAME}: {error.strerror}); make it writable "
            "or choose another output directory"
        ) from error
    try:
        _hold(descriptor, directory)
        yield
    finally:
        # Closing alone would leave it to a child that was forked meanwhile.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _hold(descriptor: int, directory: Path) -> None:
    try:
        _try(descriptor)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            _LOG.warning(
                "%s: the file system cannot lock (%s); see that no second faml works in it",
                directory, error.strerror,
            )  # fmt: skip
            return
        if error.errno not in _HELD:
            raise OutputError(
                f"{directory}: cannot be locked ({error.strerror}); try again, or choose another "
                "output directory"
            ) from error
        raise OutputError(
            f"{directory}: another faml ({_holder(descriptor)}) is at work there; wait for it, or "
            "choose another output directory"
        ) from error
    last = re.match(r"process (\d+) on ", _holder(descriptor))
    if last:
        remove_unfinished(directory, int(last[1]))
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}".encode(), 0)
    except OSError as error:
        raise OutputError(
            f"{directory}: cannot be written to ({error.strerror}); free some space or choose "
            "another output directory"
        ) from error


def _try(descriptor: int) -> None:
    for wait in _WAITS_S:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _HELD:
                raise
            time.sleep(wait)
        else:
            return
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _holder(descriptor: int) -> str:
    return os.pread(descriptor, 200, 0).decode(errors="replace") or "unknown process"
