"""Batches with decaying sums against all particles in every iteration: likelihood for visits.

    python bench/batches.py [--count 5000] [--batch 400] [--seeds 1] [--json FILE]

GroEL of 32^3 voxels of 12 Angstrom, signal-to-noise ratio 0.02, tilt range +-60 degrees, from
random orientations. A visit is one particle in one E-step that searches; the start and the last
pass, which are the same for both, are left out. Likelihoods are of particles held out, at one
resolution.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import record
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from faml.config import build_config
from faml.em.batches import batch_of
from faml.em.loop import EmRun
from faml.em.state import State
from faml.io.mrc import read_volume
from faml.metrics.align import align_volume
from faml.particles import ParticleSet
from faml.simulate.particles import simulate_particles

MODEL = Path(__file__).parent.parent / "experiments" / "models" / "groel_12A.mrc"
SNR, TILT_DEG, VOXEL_ANGSTROM = 0.02, 60.0, 12.0


def run(
    particles: ParticleSet, truth: np.ndarray, batch: int | None, seed: int, threads: int
) -> tuple[dict[str, Any], EmRun, State]:
    """One run to its end."""
    config = build_config(
        search={"max_shift_voxels": 3.5},
        em={"seed": seed, "iterations": 40, "batch": batch},
        threads=threads,
    )
    em = EmRun(particles, config)
    visits, begin = 0, time.process_time()
    for state in em.states():
        if state.iteration:
            groups = batch_of(em._groups.members, state.iteration, seed, config.em)
            visits += sum(map(len, groups))
    spent = time.process_time() - begin
    final = em.finish(state)
    aligned = align_volume(final.model.volumes[0], truth, max_shift_voxels=3.0)
    row = {
        "count": len(particles),
        "batch": batch,
        "seed": seed,
        "iterations": state.iteration,
        "visits": visits,
        "cpu_s": spent,
        "align_shell": state.align_shell,
        "r": float(aligned.correlation),
    }
    return row, em, state


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--batch", type=int, nargs="*", default=[400])
    parser.add_argument("--seeds", type=int, nargs="*", default=[1])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    truth = read_volume(MODEL).values
    rows = []
    for seed in options.seeds:
        particles = simulate_particles(
            [truth], [options.count], snr=SNR, tilt_range_deg=(-TILT_DEG, TILT_DEG),
            max_shift_voxels=2.0, seed=seed, voxel_size_angstrom=VOXEL_ANGSTROM,
        ).particles  # fmt: skip
        with threadpool_limits(limits=1):
            done = [
                run(particles, truth, batch, seed, options.threads)
                for batch in (None, *options.batch)
            ]
            shell = min(state.align_shell for _, _, state in done)
            for row, em, state in done:
                found = em.held_out_log_likelihood(state, shell)
                row["log_likelihood_per_particle"] = found / options.count
                row["likelihood_shell"] = shell
                rows.append(row)
                print(row, flush=True)
    table = Table("N", "batch", "seed", "iterations", "visits", "CPU s", "nats per particle", "r")
    for row in rows:
        table.add_row(
            str(row["count"]), str(row["batch"] or "all"), str(row["seed"]),
            str(row["iterations"]), str(row["visits"]), f"{row['cpu_s']:.0f}",
            f"{row['log_likelihood_per_particle']:.2f}", f"{row['r']:.3f}",
        )  # fmt: skip
    Console().print(table)
    record.write(options.json, rows, "python bench/batches.py")


if __name__ == "__main__":
    main()
