"""Time of `faml demo`: cold, with an empty kernel cache, and warm.

    python bench/demo.py [--json FILE]

Wall seconds of the whole command, and to its first iteration, in fresh processes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import record
from rich.console import Console
from rich.table import Table

TARGETS = {"cold": (None, 60.0), "warm": (5.0, None)}
"""Seconds to the first iteration and in all."""


def measure(what: str, cache: Path, work: Path) -> dict[str, Any]:
    """One demo in a process of its own."""
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "faml", "demo", "-o", str(work / what)],
        env=os.environ | {"FAML_CACHE_DIR": str(cache), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    first = None
    for line in process.stdout:
        if first is None and line.startswith("iteration   1"):
            first = time.monotonic() - started
    assert process.wait() == 0
    assert first is not None
    return {
        "what": what,
        "first_iteration_s": round(first, 1),
        "first_iteration_target_s": TARGETS[what][0],
        "whole_s": round(time.monotonic() - started, 1),
        "whole_target_s": TARGETS[what][1],
    }


def main() -> None:
    """Cold, then warm."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        rows = [measure(what, work / "cache", work) for what in ("cold", "warm")]
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*("" if v is None else str(v) for v in row.values()))
    Console().print(table)
    record.write(options.json, rows, "python bench/demo.py")


if __name__ == "__main__":
    main()
