"""Signal-to-noise ratio: set in the simulator, measured from aligned pairs.

    python bench/snr.py [--count 60] [--json FILE]

GroEL in 64^3 voxels of 6 Angstrom, tilt range -60 to 50 degrees, shifts to +-3 voxels: in white
noise (before the wedge), and through tilt series of 3 degrees without and with CTF (of the
subtomogram as it is).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import record
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from faml.metrics.snr import measure_snr
from faml.simulate.dataset import model_density
from faml.simulate.particles import simulate_particles
from faml.simulate.tilt_series import Imaging, TiltSeries

MODEL = Path(__file__).parent.parent / "experiments" / "models" / "groel_6A.mrc"
ROUTES = {
    "white": None,
    "tilt series": TiltSeries(3.0),
    "tilt series with CTF": TiltSeries(3.0, (Imaging(defocus_um=3.0), Imaging(defocus_um=4.0))),
}


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    threadpool_limits(limits=1)
    density = model_density(MODEL, 64, 6.0, None)
    rows = []
    for route, series in ROUTES.items():
        for snr in (0.1, 0.03, 0.01, 0.003):
            made = simulate_particles(
                [density],
                [options.count],
                snr=snr,
                tilt_range_deg=(-60.0, 50.0),
                max_shift_voxels=3.0,
                seed=1,
                voxel_size_angstrom=6.0,
                tilt_series=series,
            )
            began = time.process_time()
            found = measure_snr(made.particles, made.poses, [np.arange(options.count)])
            value = found.of_particles if found.before_wedge is None else found.before_wedge
            rows.append(
                {
                    "route": route,
                    "particles": options.count,
                    "set": snr,
                    "measured": round(value, 6),
                    "ratio": round(value / snr, 3),
                    "cpu_s_per_particle": round((time.process_time() - began) / options.count, 3),
                }
            )
            record.write(options.json, rows, "python bench/snr.py")
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
