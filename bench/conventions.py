"""Angles in, angles out: the noise-free fixture that RELION reads correctly.

    python bench/conventions.py DATA/conventions [--json FILE]

`faml run --start reference.mrc` must find every pose within 4 degrees and 0.5 voxel, and the
average at the poses it writes must have an FSC of at least 0.95 to shell 13 with the reference.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import record
from rich.console import Console
from rich.table import Table

from faml.config import DataConfig
from faml.conventions import rotation_angle_deg
from faml.io.dataset import open_particles
from faml.io.mrc import read_volume
from faml.metrics.fsc import fourier_shell_correlation

LAST_SHELL = 13


def faml(*arguments: object) -> None:
    """The command line, as a user calls it."""
    subprocess.run([sys.executable, "-m", "faml", *map(str, arguments)], check=True)


def poses(star: Path) -> tuple[np.ndarray, np.ndarray]:
    """Rotations and translations of a STAR file."""
    found = open_particles(DataConfig(inputs=(str(star),)), 0).particles.poses
    assert found is not None
    return found.rotations, found.translations


def measure(strategy: str, data: Path, work: Path) -> dict[str, Any]:
    """Errors of the poses written, and FSC of the average at them."""
    reference = data / "reference.mrc"
    first, second = work / f"{strategy}-found", work / f"{strategy}-average"
    stars = data / "particles.star"
    faml("run", stars, "-o", first, "--start", reference, "--strategy", strategy, "--quiet")
    faml("run", first / "particles.star", "-o", second, "--start", "poses", "--iterations", 0,
         "--quiet")  # fmt: skip
    turns, moves = poses(first / "particles.star")
    true_turns, true_moves = poses(stars)
    average = read_volume(second / "class_001.mrc").values
    fsc = fourier_shell_correlation(average, read_volume(reference).values)
    return {
        "strategy": strategy,
        "largest_angle_deg": round(float(rotation_angle_deg(turns, true_turns).max()), 2),
        "largest_shift_error_voxels": round(
            float(np.linalg.norm(moves - true_moves, axis=1).max()), 3
        ),
        "smallest_fsc_to_shell_13": round(float(fsc[1 : LAST_SHELL + 1].min()), 4),
    }


def main() -> None:
    """Both strategies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(s, options.data.resolve(), Path(folder)) for s in ("fa", "faml")]
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=120).print(table)
    record.write(options.json, rows, "python bench/conventions.py DATA/conventions")


if __name__ == "__main__":
    main()
