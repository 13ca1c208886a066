"""Quality on simulated white-noise particles: r to the true density, beside the oracle.

    python bench/quality.py MODELS [--case NAME ...] [--seeds 1 2 3] [--json FILE] [--diameter]

MODELS is a folder with groel_1oel.cif.gz, ribosome70s_4v5d.cif.gz and groel_groes_1aon.pdb.gz.
Tilt range +-60 degrees unless a case says otherwise, shifts to +-3 voxels per axis, densities
low-passed to two voxels; the signal-to-noise ratio is variance of the density over variance of the
noise within the box. r is Pearson's coefficient over the box after rigid alignment; the oracle is
the average at the true poses and classes by the same M-step.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import record
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from faml.config import build_config
from faml.em.expectation import log_normaliser, shell_power
from faml.em.loop import EmRun
from faml.em.state import State
from faml.em.trials import Trials
from faml.metrics.align import align_volume
from faml.metrics.fsc import pearson
from faml.metrics.labels import f1_scores, misclassified, pose_errors_deg
from faml.particles.view import ParticleViews, Pose
from faml.references import References
from faml.simulate.density import density_from_model
from faml.simulate.particles import SimulatedParticles, simulate_particles
from faml.transforms.fourier import fourier_grid

FILES = {
    "groel": "groel_1oel.cif.gz",
    "70s": "ribosome70s_4v5d.cif.gz",
    "groes": "groel_groes_1aon.pdb.gz",
}


@dataclass(frozen=True)
class Case:
    """One simulated data set."""

    models: tuple[str, ...]
    box: int
    voxel_angstrom: float
    counts: tuple[int, ...]
    snr: float
    strategies: tuple[str, ...]
    targets: dict[str, float]
    tilt_deg: float = 60.0
    rotations: Literal["uniform", "about_y"] = "uniform"


SEARCHES: dict[str, dict[str, Any]] = {
    "exhaustive": {"strategy": "exhaustive"},
    "faml": {"strategy": "faml", "proposal": "phase"},
    "faml-amplitude": {"strategy": "faml", "proposal": "amplitude"},
    "fa": {"strategy": "fa", "proposal": "phase"},
    "fa-amplitude": {"strategy": "fa", "proposal": "amplitude"},
}
"""What a strategy is called here, and its settings."""
ALL = ("exhaustive", "faml", "faml-amplitude", "fa")
CASES = {
    "70s-0.1": Case(("70s",), 32, 12.0, (40,), 0.1, ALL, {"fa": 0.92, "faml": 0.94}),
    "70s-0.01": Case(("70s",), 32, 12.0, (40,), 0.01, ALL, {}),
    "70s-0.003": Case(("70s",), 32, 12.0, (40,), 0.003, ALL, {}),
    "70s-0.001": Case(("70s",), 32, 12.0, (40,), 0.001, ALL, {}),
    "groel-0.01": Case(("groel",), 64, 6.0, (100,), 0.01, ALL, {"faml": 0.90}),
    "groel-0.003": Case(("groel",), 64, 6.0, (100,), 0.003, ALL, {"faml": 0.82}),
    "groel-0.001": Case(("groel",), 64, 6.0, (100,), 0.001, ALL, {}),
    "groel+70s-0.01": Case(("groel", "70s"), 64, 6.0, (100, 100), 0.01, ("faml",), {}),
    "groel-y-0.01": Case(
        ("groel",), 64, 6.0, (50,), 0.01, ALL, {"faml": 0.80}, tilt_deg=40.0, rotations="about_y"
    ),
    "groel-groes-0.02": Case(
        ("groel", "groes"), 32, 12.0, (200, 200), 0.02, ("faml",), {}, tilt_deg=65.0
    ),
    "groel-groes-5to1": Case(
        ("groel", "groes"), 32, 12.0, (200, 40), 0.02, ("faml",), {}, tilt_deg=65.0
    ),
}


def simulate(case: Case, models: Path, seed: int) -> tuple[list[np.ndarray], SimulatedParticles]:
    """Densities and particles of a case."""
    densities = [density(models / FILES[m], case.box, case.voxel_angstrom) for m in case.models]
    simulated = simulate_particles(
        densities,
        list(case.counts),
        snr=case.snr,
        tilt_range_deg=(-case.tilt_deg, case.tilt_deg),
        max_shift_voxels=3.0,
        seed=seed,
        voxel_size_angstrom=case.voxel_angstrom,
        rotations=case.rotations,
    )
    return densities, simulated


@cache
def density(path: Path, box: int, voxel_angstrom: float) -> np.ndarray:
    """Density of a model; computed once."""
    return density_from_model(path, box, voxel_angstrom)


def oracle(simulated: SimulatedParticles, densities: list[np.ndarray], threads: int) -> list[float]:
    """r of the averages at the true poses and classes."""
    out = []
    for label, truth in enumerate(densities):
        members = simulated.particles.subset(np.nonzero(simulated.labels == label)[0])
        config = build_config(em={"start": "poses", "iterations": 0}, threads=threads)
        state = next(iter(EmRun(members, config).states()))
        out.append(pearson(state.model.volumes[0], truth))
    return out


def run_case(
    name: str, strategy: str, seed: int, models: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """One run, from random orientations unless a start is given."""
    case, diameter, threads = CASES[name], options.diameter, options.threads
    densities, simulated = simulate(case, models, seed)
    em = {"folds": options.folds, "sharpness": options.sharpness}
    config = build_config(
        data={"particle_diameter_angstrom": diameter},
        search=SEARCHES[strategy] | {"max_shift_voxels": 6.0},
        em={name: value for name, value in em.items() if value is not None}
        | {
            "classes": len(densities),
            "seed": seed,
            "iterations": options.iterations,
            "start": "random" if options.start == "random" else "truth.mrc",
            "starts": options.starts,
            "symmetry": options.symmetry,
            "similarity": options.similarity if len(densities) > 1 else 0.0,
        },
        threads=threads,
    )
    # The true density as the reference: what is left of it is what the particles can hold.
    reference = densities[0] if options.start == "truth" else None
    run = EmRun(simulated.particles, config, reference=reference)
    started = time.process_time()
    first = None
    if options.starts > 1:
        trials = Trials(run)
        first = trials.continued(trials.best().best.state)
    *_, state = (first, *run.states(first))
    assert state is not None
    final = run.finish(state)
    seconds = time.process_time() - started
    averages = final.model.volumes
    held_out = None
    if run.folds > 1 and options.likelihood_shell:
        held_out = gain_over_noise(run, state, options.likelihood_shell)
    scores = np.array(
        [[align_volume(a, t, max_shift_voxels=3).correlation for t in densities] for a in averages]
    )
    matched = scores.max(axis=0)
    assigned = final.assignments
    errors = pose_errors_deg(assigned.rotations, simulated.poses.rotations)
    return {
        "case": name,
        "strategy": strategy,
        "start": options.start,
        "starts": options.starts,
        "folds": run.folds,
        "sharpness": config.em.sharpness,
        "symmetry": options.symmetry,
        "similarity": options.similarity,
        "symmetry_agreement": [round(s.agreement, 2) for s in final.symmetry_seen],
        "by_chance": [round(s.chance, 2) for s in final.symmetry_seen],
        "symmetry_evident": [s.evident for s in final.symmetry_seen],
        "seed": seed,
        "r": [round(float(v), 3) for v in matched],
        "oracle": [round(v, 3) for v in oracle(simulated, densities, threads)],
        "held_out_gain_nats": held_out,
        "target": case.targets.get(strategy),
        "misclassified": (
            misclassified(simulated.labels, assigned.classes) if len(densities) > 1 else None
        ),
        "f1": [round(v, 3) for v in f1_scores(simulated.labels, assigned.classes)]
        if len(densities) > 1
        else None,
        # GroEL's poses are defined up to its symmetry only.
        "within_20_deg": round(float((errors < 20).mean()), 2) if case.models == ("70s",) else None,
        "iterations": state.iteration,
        "align_shell": state.align_shell,
        "cpu_s_per_particle_iteration": round(
            seconds / len(simulated.labels) / (state.iteration + 1), 4
        ),
        "diameter_angstrom": diameter,
    }


def gain_over_noise(run: EmRun, state: State, shell: int) -> float:
    """Cross-validated log-likelihood per particle above that of noise alone, in nats.

    The log-likelihood itself holds the normalisers of all components, beside which what a
    structure adds is small.
    """
    particles = run.particles
    grid = fourier_grid(particles.box, shell, shell)
    views = ParticleViews(particles, grid)
    shown = [views.particle(i, Pose(0, np.eye(3), np.zeros(3))) for i in range(len(particles))]
    power = np.sum([shell_power(particle) for particle in shown], axis=0)
    observed = np.sum([particle.weight.observed for particle in shown], axis=0)
    variance = state.model.noise_variance.copy()
    variance[1 : shell + 1] = power[1:] / observed[1:]
    blank = replace(
        state.model, volumes=np.zeros_like(state.model.volumes), noise_variance=variance
    )
    references = References(blank, grid, 4)
    noise_alone = sum(log_normaliser(particle, references) for particle in shown)
    noise_alone -= 0.5 * observed[1:].sum()
    found = run.held_out_log_likelihood(state, shell)
    return round(float(found - noise_alone) / len(particles), 3)


def show(rows: list[dict[str, Any]]) -> None:
    """The rows as a table."""
    names = (
        *(
            "case",
            "strategy",
            "start",
            "starts",
            "folds",
            "sharpness",
            "symmetry",
            "seed",
            "r",
            "oracle",
            "target",
            "misclassified",
            "f1",
        ),
        *("iterations", "align_shell", "cpu_s_per_particle_iteration"),
    )
    table = Table(*names)
    for row in rows:
        table.add_row(*("" if row[n] is None else str(row[n]) for n in names))
    Console(width=140).print(table)


def main() -> None:
    """Run the cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path)
    parser.add_argument("--case", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--seeds", nargs="*", type=int, default=[1, 2, 3])
    parser.add_argument("--strategy", nargs="*", default=None, choices=list(SEARCHES))
    parser.add_argument("--diameter", type=float, help="particle diameter in Angstrom (mask)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--start", choices=["random", "truth"], default="random")
    parser.add_argument("--folds", type=int, help="default: as in faml run")
    parser.add_argument("--sharpness", type=float, help="default: as in faml run")
    parser.add_argument("--starts", type=int, default=1, help="random starts tried")
    parser.add_argument("--symmetry", default="C1")
    parser.add_argument("--iterations", type=int, default=40, help="at most")
    parser.add_argument(
        "--likelihood-shell", type=int, help="with folds: likelihood of held-out particles to here"
    )
    parser.add_argument("--similarity", type=float, default=0.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    # As in `faml run`: more BLAS threads than asked for would only wait for each other.
    threadpool_limits(limits=1)
    for name in options.case:
        for strategy in options.strategy or CASES[name].strategies:
            for seed in options.seeds:
                rows.append(run_case(name, strategy, seed, options.models, options))
                print(json.dumps(rows[-1]), flush=True)
                # Written after every run: hours of work should not hang on the last one.
                record.write(options.json, rows, "python bench/quality.py MODELS")
    show(rows)


if __name__ == "__main__":
    main()
