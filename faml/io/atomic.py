"""Files appear whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from faml.errors import OutputError

__all__ = ["atomic_path", "write_text_atomic"]


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
            f"{path}: could not be written ({error.strerror or error}); free some space or choose "
            "another output directory"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text_atomic(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically; raises OutputError if it cannot be written."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
