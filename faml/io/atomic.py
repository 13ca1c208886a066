"""Files appear whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from faml.errors import OutputError

__all__ = ["atomic_path", "remedy", "remove_unfinished", "write_text_atomic"]

_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path in the directory of ``path``; rename it to ``path`` at the end.

    An existing file is replaced. If the body raises, the temporary file is removed and ``path``
    is left as it was.

    Raises
    ------
    OutputError
        If writing or renaming fails (disk full, no permission).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        # The data must be on disk before the name points to it, or a power cut leaves zeros.
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(
            f"{path}: could not be written ({error.strerror or error}); {remedy(path, error)}"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def remedy(path: Path, error: BaseException) -> str:
    """What to do about a file that cannot be written.

    Parameters
    ----------
    path : Path
    error : exception
        What the system, or a library of files, said.
    """
    if not path.parent.is_dir():
        return f"{path.parent} is gone, put it back or start again in another directory"
    if getattr(error, "errno", None) in _FORBIDDEN:
        return "make it writable or choose another output directory"
    return "free some space or choose another output directory"


def write_text_atomic(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically; raises OutputError if it cannot be written."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove_unfinished(directory: Path, process: int) -> None:
    """Remove what a killed process has left of files that it was writing.

    Parameters
    ----------
    directory : Path
        Looked through with its subfolders, not theirs.
    process : int
        Its id; it must have ended.
    """
    name = f".*.{process}.????????.tmp"
    for path in (*directory.glob(name), *directory.glob(f"*/{name}")):
        with suppress(OSError):
            path.unlink()
