"""What every bench writes: its rows, and what they were measured with."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("faml", "numpy", "scipy", "numba", "pyshtools")


def write(path: Path | None, rows: list[dict[str, Any]], command: str) -> None:
    """Rows as JSON beside versions, cores and the command; nothing without a path."""
    if path is None:
        return
    report = {
        "command": command,
        "versions": {"python": platform.python_version()} | {p: version(p) for p in PACKAGES},
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "rows": rows,
    }
    path.write_text(json.dumps(report, indent=1) + "\n")
