"""Reference-free averaging and classification of cryo-ET subtomograms (FAML).

`run`, `resume` and `iterate` are the public entry points; the rest of the package is described in
ARCHITECTURE.md.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faml.api import RunResult, iterate, resume, run

__version__ = "0.1.0"
__all__ = ["RunResult", "__version__", "iterate", "resume", "run"]

# Without a handler of its own, a library's warnings and stack traces land on standard error.
logging.getLogger("faml").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    # Numba and scipy take a second to import; `faml --help` must not.
    if name in ("RunResult", "iterate", "resume", "run"):
        return getattr(import_module("faml.api"), name)
    raise AttributeError(f"module 'faml' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
