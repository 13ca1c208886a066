"""Memory of a run on many particles: they are read, not hoarded.

    python bench/memory.py [--count 2000] [--box 64] [--iterations 1] [--json FILE]

Writes the particles to a temporary folder (about 1 MB each at 64^3), runs `faml run` on them with
two threads and reports the largest resident memory of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mrcfile
import numpy as np
import record
from scipy.spatial.transform import Rotation

from faml.particles import wedge_weight
from faml.transforms.fourier import spectrum_of, volume_of

VOXEL_ANGSTROM = 6.0
TARGET_MB = 1000.0


def write_particles(folder: Path, count: int, box: int) -> None:
    """Noisy, wedge-limited blobs in random orientations."""
    rng = np.random.default_rng(0)
    centres = rng.uniform(-0.2 * box, 0.2 * box, (12, 3))
    z, y, x = np.indices((box, box, box)) - box // 2
    weight = wedge_weight(box, (-60.0, 60.0))
    distinct = []
    for turn in Rotation.random(20, rng=rng).as_matrix():
        volume = np.zeros((box, box, box))
        for cx, cy, cz in centres @ turn.T:
            volume += np.exp(-((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) / (0.004 * box**2))
        distinct.append(volume)
    for i in range(count):
        dirty = distinct[i % len(distinct)] + rng.normal(size=(box, box, box))
        spectrum = spectrum_of(dirty.astype(np.float32)) * weight
        with mrcfile.new(folder / f"particle_{i:05d}.mrc") as file:
            file.set_data(volume_of(spectrum.astype(np.complex64), box))
            file.voxel_size = VOXEL_ANGSTROM


def main() -> None:
    """One run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--iterations", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        particles = Path(work) / "particles"
        particles.mkdir()
        write_particles(particles, options.count, options.box)
        started = time.monotonic()
        process = subprocess.run(
            [
                sys.executable, "-m", "faml", "run", particles, "-o", Path(work) / "run",
                "--tilt-range", "-60", "60", "--iterations", str(options.iterations),
                "--threads", "2", "--quiet",
            ],
            check=True, env=os.environ | {"COLUMNS": "100"},
        )  # fmt: skip
        assert process.returncode == 0
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    row = {
        "particles": options.count,
        "box": options.box,
        "threads": 2,
        "iterations": options.iterations,
        "peak_resident_mb": round(usage.ru_maxrss / 1024.0),
        "target_mb": TARGET_MB,
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "wall_s": round(time.monotonic() - started, 1),
    }
    print(json.dumps(row, indent=1))
    record.write(options.json, [row], "python bench/memory.py")


if __name__ == "__main__":
    main()
