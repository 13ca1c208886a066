"""What each strategy holds of the experts' poses on 40 real ribosomes.

    python bench/ribosome.py DATA/real_ribosome [--diameter ANGSTROM] [--json FILE]

Started from the average at the experts' poses, and from random orientations; share of particles
within 20 degrees of the expert pose after 1 and 5 iterations (for random starts after removal of
one global rotation). The first rows are the average at the experts' poses themselves: as faml
makes it, and as the plain quotient of turned-back data and weights, whose FSC with the map of the
full refinement is known from an independent program.

Every particle sees its own noise in the reference here, so the shares of runs that begin at the
poses flatter; where previous poses are no candidates, the amplitude bound is on its own.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import record
from rich.console import Console
from rich.table import Table

from faml.config import build_config
from faml.conventions import rotation_angle_deg
from faml.em.expectation import accumulate
from faml.em.loop import EmRun
from faml.em.state import State
from faml.em.statistics import Statistics
from faml.io.dataset import open_particles
from faml.io.mrc import read_volume
from faml.metrics.align import align_volume
from faml.metrics.fsc import fourier_shell_correlation
from faml.model import Model
from faml.particles import ParticleSet
from faml.particles.view import ParticleViews, Pose
from faml.references import References
from faml.strategies.base import PoseSupport
from faml.transforms.fourier import (
    NormalOperator,
    fourier_grid,
    full_resolution_shell,
    half_cube_adjoint,
    volume_of,
)

WITHIN_DEG = 20.0
KNOWN_FSC = (0.98, 0.88, 0.77, 0.79, 0.70, 0.62, 0.56, 0.60)
"""Shells 1-8 of the average at the experts' poses, from an independent program."""


def angles_to_experts(state: State, experts: np.ndarray, *, free: bool) -> np.ndarray:
    """Angles (N,) to the experts' rotations; ``free`` first removes the best global rotation."""
    found = state.assignments.rotations
    if not free:
        return rotation_angle_deg(found, experts)
    # R_found G = R_expert: every particle proposes a G, the one most agree on is taken.
    proposals = np.swapaxes(found, 1, 2) @ experts
    shares = [rotation_angle_deg(found @ proposal, experts) for proposal in proposals]
    return min(shares, key=lambda angles: (-(angles < WITHIN_DEG).sum(), np.median(angles)))


def at_expert_poses(options: argparse.Namespace) -> list[dict[str, Any]]:
    """FSC of ``--start poses --iterations 0``, and of the plain quotient of the same sums."""
    config = build_config(
        data={"inputs": (str(options.data / "particles.star"),)},
        em={"start": "poses", "iterations": 0},
    )
    particles = open_particles(config.data, 0).particles
    (state,) = EmRun(particles, config).states()
    reference = read_volume(options.data / "relion_map.mrc").values
    rows = []
    for what, volume in (
        ("poses, 0 iterations", state.model.volumes[0]),
        ("  num / den of the same", plain_quotient(particles, state.model)),
    ):
        fsc = fourier_shell_correlation(volume, reference)[1:9]
        rows.append(
            {
                "start": what,
                "fsc_1_8": [round(float(v), 2) for v in fsc],
                "largest_difference_to_known": round(float(np.abs(fsc - KNOWN_FSC).max()), 3),
            }
        )
    return rows


def plain_quotient(particles: ParticleSet, model: Model) -> np.ndarray:
    """What the known FSC is of: turned-back data over turned-back weights, component by component.

    It knows nothing of the volume's extent, so neighbours of the particle stay in its box.
    """
    full = full_resolution_shell(particles.box)
    grid = fourier_grid(particles.box, full, full)
    references = References(model, grid, 4)
    views, sums = ParticleViews(particles, grid), Statistics.zeros(1, grid, total=True)
    poses = particles.poses
    assert poses is not None
    for i, (turn, move) in enumerate(zip(poses.rotations, poses.translations, strict=True)):
        pose = Pose(0, turn, move)
        support = PoseSupport.single(pose)
        accumulate(views.particle(i, pose), references, support, np.zeros(1), sums)
    numerator = half_cube_adjoint(sums.numerator[0], grid)
    weight = NormalOperator(sums.denominator[0], grid).diagonal
    floor = 1e-3 * weight.mean()
    return volume_of(grid.put(numerator / np.maximum(weight, floor)), particles.box)


def follow(
    strategy: str, start: str, options: argparse.Namespace, seed: int, *, keep: int | None = None
) -> dict[str, Any]:
    """One run; shares at iterations 1 and 5 and the FSC of the last average.

    With ``keep`` 0 previous poses are no candidates: the amplitude bound is on its own.
    """
    config = build_config(
        data={
            "inputs": (str(options.data / "particles.star"),),
            "particle_diameter_angstrom": options.diameter,
        },
        search={"strategy": strategy, "keep_previous": keep},
        em={"start": start, "iterations": 5, "seed": seed},
        threads=os.cpu_count(),
    )
    particles = open_particles(config.data, seed).particles
    assert particles.poses is not None
    reference = read_volume(options.data / "relion_map.mrc").values
    run = EmRun(particles, config)
    row: dict[str, Any] = {"strategy": strategy, "start": start, "seed": seed}
    row["keep_previous"] = config.search.keep_previous
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


def percent(share: float | None) -> str:
    """A share for the table."""
    return "" if share is None else f"{100 * share:.0f} %"


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--diameter", type=float, default=None)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = at_expert_poses(options)
    rows += [
        follow(strategy, start, options, seed, keep=keep)
        for start, seed, keep in (
            ("poses", 0, None),
            ("poses", 0, 0),
            ("random", 0, None),
            ("random", 1, None),
            ("random", 2, None),
        )
        for strategy in ("fa", "faml")
    ]
    table = Table(
        "start", "kept", "seed", "strategy", "share 1", "median 1", "share 5", "median 5", "FSC 1-8"
    )
    for row in rows:
        table.add_row(
            row["start"],
            str(row.get("keep_previous", "")),
            str(row.get("seed", "")),
            row.get("strategy", ""),
            *(
                text
                for i in (1, 5)
                for text in (
                    percent(row.get(f"share_{i}")),
                    "" if f"median_deg_{i}" not in row else f"{row[f'median_deg_{i}']:.0f}",
                )
            ),
            " ".join(f"{v:.2f}" for v in row["fsc_1_8"]),
        )
    Console(width=150).print(table)
    print(f"known FSC of the quotient: {' '.join(f'{v:.2f}' for v in KNOWN_FSC)}")
    record.write(
        options.json,
        rows,
        "python bench/ribosome.py DATA/real_ribosome"
        + (f" --diameter {options.diameter:g}" if options.diameter else ""),
    )


if __name__ == "__main__":
    main()
