"""The one place where functions are compiled, and where their flags are set.

Compiled code is cached on disk between runs. Numba notices an edit only in the file a function
stands in, so a cached caller would keep a callee's old code. The cache therefore lives in a folder
named after a digest of *all* kernel sources (and the flags): any edit gives a new, empty folder.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

__all__ = ["kernel", "kernel_cache_directory"]

# Associativity and contraction let sums vectorise. `nnan` and `ninf` stay off: NaN checks and
# -inf log-probabilities must keep their meaning.
_FASTMATH = {"reassoc", "nsz", "contract", "arcp"}
_FLAGS: dict[str, Any] = {"nogil": True, "fastmath": _FASTMATH, "error_model": "numpy"}


def _cache_root() -> Path:
    """FAML_CACHE_DIR, else the platform's cache folder (platformdirs' rule for Linux and macOS)."""
    override = os.environ.get("FAML_CACHE_DIR")
    if override:
        return Path(override)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "faml"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "faml"


def kernel_cache_directory() -> Path:
    """Folder of the compiled kernels of exactly these sources."""
    digest = hashlib.sha256(repr(sorted(_FLAGS["fastmath"])).encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode())
        digest.update(source.read_bytes())
    return _cache_root() / f"kernels-{digest.hexdigest()[:16]}"


_NUMBA: Any = numba.config
_DIRECTORY = str(kernel_cache_directory())


def _writable(directory: str) -> bool:
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(directory, os.W_OK)


_CACHE = _writable(_DIRECTORY)


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile ``function`` on first use; the result releases the GIL and is cached on disk."""
    previous = _NUMBA.CACHE_DIR
    # Numba reads the folder when the dispatcher is made; other packages keep their own.
    _NUMBA.CACHE_DIR = _DIRECTORY if _CACHE else previous
    try:
        compiled: Callable[..., Any] = numba.njit(cache=_CACHE, **_FLAGS)(function)
    finally:
        _NUMBA.CACHE_DIR = previous
    return compiled
