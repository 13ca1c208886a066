"""What each strategy holds of the experts' poses on 40 real ribosomes.

    python bench/ribosome.py DATA/real_ribosome [--diameter ANGSTROM] [--json FILE]

Started from the average at the experts' poses, and from random orientations; share of particles
within 20 degrees of the expert pose after 1 and 5 iterations (for random starts after removal of
one global rotation). Every particle sees its own noise in the reference here: with one common
reference these shares flatter.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from faml.config import build_config
from faml.conventions import rotation_angle_deg
from faml.em.loop import EmRun
from faml.em.state import State
from faml.io.dataset import open_particles
from faml.io.mrc import read_volume
from faml.metrics.align import align_volume
from faml.metrics.fsc import fourier_shell_correlation

WITHIN_DEG = 20.0


def angles_to_experts(state: State, experts: np.ndarray, *, free: bool) -> np.ndarray:
    """Angles (N,) to the experts' rotations; ``free`` first removes the best global rotation."""
    found = state.assignments.rotations
    if not free:
        return rotation_angle_deg(found, experts)
    # R_found G = R_expert: every particle proposes a G, the one most agree on is taken.
    proposals = np.swapaxes(found, 1, 2) @ experts
    shares = [rotation_angle_deg(found @ proposal, experts) for proposal in proposals]
    return min(shares, key=lambda angles: (-(angles < WITHIN_DEG).sum(), np.median(angles)))


def follow(strategy: str, start: str, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One run; shares at iterations 1 and 5 and the FSC of the last average."""
    config = build_config(
        data={
            "inputs": (str(options.data / "particles.star"),),
            "particle_diameter_angstrom": options.diameter,
        },
        search={"strategy": strategy},
        em={"start": start, "iterations": 5, "seed": seed},
        threads=os.cpu_count(),
    )
    particles = open_particles(config.data, seed).particles
    reference = read_volume(options.data / "relion_map.mrc").values
    run = EmRun(particles, config)
    row: dict[str, Any] = {"strategy": strategy, "start": start, "seed": seed}
    for state in run.states():
        if state.iteration in (1, 5):
            angles = angles_to_experts(state, particles.poses.rotations, free=start == "random")
            row[f"share_{state.iteration}"] = float((angles < WITHIN_DEG).mean())
            row[f"median_deg_{state.iteration}"] = float(np.median(angles))
    volume = run.finish(state).model.volumes[0]
    if start == "random":
        volume = align_volume(volume, reference, max_shift_voxels=4, max_shell=8).volume
    fsc = fourier_shell_correlation(volume, reference)
    row["fsc_1_8"] = [round(float(v), 2) for v in fsc[1:9]]
    return row


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--diameter", type=float, default=None)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [
        follow(strategy, start, options, seed)
        for start, seeds in (("poses", (0,)), ("random", (0, 1, 2)))
        for seed in seeds
        for strategy in ("fa", "faml")
    ]
    table = Table(
        "start", "seed", "strategy", "share 1", "median 1", "share 5", "median 5", "FSC 1-8"
    )
    for row in rows:
        table.add_row(
            row["start"],
            str(row["seed"]),
            row["strategy"],
            *(
                text
                for i in (1, 5)
                for text in (
                    f"{100 * row.get(f'share_{i}', float('nan')):.0f} %",
                    f"{row.get(f'median_deg_{i}', float('nan')):.0f}",
                )
            ),
            " ".join(f"{v:.2f}" for v in row["fsc_1_8"]),
        )
    Console(width=120).print(table)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
