"""What each strategy holds of the experts' poses on 40 real ribosomes.

    python bench/ribosome.py DATA/real_ribosome [--start random] [--json FILE]

Started from the average at the experts' poses, and from random orientations; share of particles
within 20 degrees of the expert pose after 1 and 4 iterations (for random starts after removal of
one global rotation). The first rows are the average at the experts' poses themselves: as faml
makes it, and as the plain quotient of turned-back data and weights, whose FSC with the map of the
full refinement is known from an independent program.

With one common reference every particle sees its own noise in it, so the shares of runs that
begin at the poses flatter. With folds they are honest: each of eight parts is aligned to the
average of the others, by a search over all poses that knows nothing of the previous ones
(``keep_previous`` 0). As the shares of 40 particles have a standard error of 8 %, they are given
for several masks and splits.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import record
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from faml.config import build_config
from faml.conventions import rotation_angle_deg
from faml.em.expectation import accumulate
from faml.em.loop import EmRun
from faml.em.state import State
from faml.em.statistics import Statistics
from faml.em.trials import Trials
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


@dataclass(frozen=True)
class Run:
    """What one row of the table is about."""

    strategy: str
    start: str = "poses"
    proposal: str = "phase"
    folds: int = 1
    keep_previous: int = 0
    seed: int = 0
    diameter: float = 300.0
    starts: int = 1
    mask: str = "sphere"


RUNS = (
    *(
        Run(strategy, proposal=proposal, folds=8, diameter=diameter, seed=seed)
        for diameter, seed in ((300.0, 0), (270.0, 0), (330.0, 0), (300.0, 1))
        for strategy, proposal in (
            ("exhaustive", "phase"), ("faml", "phase"), ("fa", "phase"), ("faml", "amplitude"),
        )
    ),
    *(
        Run(strategy, proposal=proposal)
        for strategy, proposal in (
            ("exhaustive", "phase"), ("faml", "phase"), ("faml", "amplitude"),
        )
    ),
    *(
        Run(strategy, start="random", folds=8, keep_previous=9, seed=seed)
        for seed in (0, 1)
        for strategy in ("exhaustive", "faml")
    ),
    *(
        Run(strategy, folds=8, seed=seed, mask=mask)
        for strategy in ("faml", "exhaustive")
        for mask in ("none", "sphere", "auto")
        for seed in (2, 3)
    ),
    *(
        Run("faml", start="random", folds=8, keep_previous=9, starts=8, seed=seed, mask=mask)
        for seed, mask in ((0, "sphere"), (1, "sphere"), (0, "auto"))
    ),
)  # fmt: skip
LAST = 4


def follow(job: Run, data: Path) -> dict[str, Any]:
    """One run; shares at iterations 1 and 4, CPU time, and the FSC of the last average."""
    config = build_config(
        data={
            "inputs": (str(data / "particles.star"),),
            "particle_diameter_angstrom": job.diameter,
        },
        search={
            "strategy": job.strategy,
            "proposal": job.proposal,
            "keep_previous": job.keep_previous,
        },
        em={
            "start": job.start,
            "folds": job.folds,
            "iterations": LAST if job.start == "poses" else 25,
            "seed": job.seed,
            "starts": job.starts,
            "mask": "ones.mrc" if job.mask == "none" else job.mask,
            "max_shell": 10,
        },
    )
    particles = open_particles(config.data, job.seed).particles
    assert particles.poses is not None
    reference = read_volume(data / "relion_map.mrc").values
    everywhere = np.ones((particles.box,) * 3, dtype=np.float32)
    run = EmRun(particles, config, mask=everywhere if job.mask == "none" else None)
    row: dict[str, Any] = asdict(job)
    started, spent = time.process_time(), 0.0
    first = None
    if job.starts > 1:
        trials = Trials(run)
        ranking = trials.best()
        first = trials.continued(ranking.best.state)
        row["behind_best_nats"] = [
            round((ranking.best.log_likelihood - each.log_likelihood) / len(particles), 2)
            for each in ranking.starts
        ]
        row["like_the_best"] = [round(each.correlation, 2) for each in ranking.starts]
        experts = particles.poses.rotations
        shares = [angles_to_experts(e.state, experts, free=True) for e in ranking.starts]
        row["share_of_each"] = [round(float((a < WITHIN_DEG).mean()), 3) for a in shares]
    for state in run.states(first):
        spent = time.process_time() - started
        if state.iteration in (1, LAST):
            angles = angles_to_experts(state, particles.poses.rotations, free=job.start == "random")
            row[f"share_{state.iteration}"] = float((angles < WITHIN_DEG).mean())
            row[f"median_deg_{state.iteration}"] = float(np.median(angles))
    row["iterations"] = state.iteration
    row["cpu_s_per_particle_iteration"] = round(spent / len(particles) / (state.iteration + 1), 3)
    row["log_likelihood"] = round(state.log_likelihood)
    volume = run.finish(state).model.volumes[0]
    if job.start == "random":
        volume = align_volume(volume, reference, max_shift_voxels=4, max_shell=8).volume
        angles = angles_to_experts(state, particles.poses.rotations, free=True)
        row["share_last"] = float((angles < WITHIN_DEG).mean())
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
    parser.add_argument("--start", choices=["poses", "random"], help="these rows only")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = at_expert_poses(options)
    with threadpool_limits(limits=1):
        for job in (job for job in RUNS if options.start in (None, job.start)):
            rows.append(follow(job, options.data))
            print(json.dumps(rows[-1]), flush=True)
            record.write(options.json, rows, "python bench/ribosome.py DATA/real_ribosome")
    shown = ("start", "strategy", "proposal", "folds", "keep_previous", "seed", "diameter")
    shares = ("share_1", "share_4", "share_last")
    table = Table(*shown, *shares, "CPU s", "FSC 1-8")
    for row in rows:
        table.add_row(
            *(str(row.get(name, "")) for name in shown),
            *(percent(row.get(name)) for name in shares),
            str(row.get("cpu_s_per_particle_iteration", "")),
            " ".join(f"{v:.2f}" for v in row["fsc_1_8"]),
        )
    Console(width=170).print(table)
    print(f"known FSC of the quotient: {' '.join(f'{v:.2f}' for v in KNOWN_FSC)}")


if __name__ == "__main__":
    main()
