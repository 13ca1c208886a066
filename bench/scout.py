"""What half of the shells rule out: shifts left, mass lost with the others, CPU time saved.

    python bench/scout.py MODELS [--ribosomes FOLDER] [--json FILE]

MODELS is a folder with ``groel_6A.mrc``, ``groel_12A.mrc``, ``groel_groes_12A.mrc`` and
``ribosome70s_6A.mrc`` (experiments/models). In the first and third iteration from random starts
every particle's log posterior is summed over all shifts and over those that were left.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import record
from scipy.special import logsumexp
from threadpoolctl import threadpool_limits

from faml.config import build_config
from faml.em.loop import EmRun
from faml.io.dataset import open_particles
from faml.particles.view import Particle
from faml.references import References
from faml.simulate.dataset import simulate_dataset
from faml.simulate.settings import build_simulation
from faml.strategies.phased import PhasedSearch
from faml.strategies.pose_grid import PoseGrid
from faml.strategies.proposals import PhaseProposal

ITERATIONS = (1, 3)
CASES: dict[str, dict[str, Any]] = {
    "GroEL, 64^3, SNR 0.003": {"models": ["groel_6A.mrc"], "box": 64, "snr": 0.003},
    "70S, 64^3, SNR 0.001": {"models": ["ribosome70s_6A.mrc"], "box": 64, "snr": 0.001},
    "GroEL and GroEL/GroES, 32^3, SNR 0.02": {
        "models": ["groel_12A.mrc", "groel_groes_12A.mrc"], "box": 32, "snr": 0.02,
    },
}  # fmt: skip


@dataclass
class Seen:
    """What one iteration showed, particle by particle."""

    left: list[float] = field(default_factory=list)
    lost: list[float] = field(default_factory=list)
    seconds: list[tuple[float, float]] = field(default_factory=list)
    grid: PoseGrid | None = None


def look(seen: Seen, particle: Particle, references: References, grid: PoseGrid) -> None:
    """Compare one particle's search with the one that looks at every shift."""
    seen.grid = grid
    search = PhasedSearch(references, grid)
    whole = PhasedSearch(references, replace(grid, scout=None))
    times = []
    for each in (search, whole):
        each.scores(particle)  # tables
        started = time.process_time()
        each.scores(particle)
        times.append(time.process_time() - started)
    seen.seconds.append((times[0], times[1]))
    prior = search._shift_priors(particle)
    left = search._promising(particle, prior, None)
    everything = {k: np.ones_like(chosen) for k, chosen in left.items()}
    mass = {k: np.full(len(chosen), -np.inf) for k, chosen in left.items()}
    for k, shift, correlation in whole._correlations(particle, everything):
        joint = correlation.astype(np.float64) + prior[k][shift] - 0.5 * whole._energy(k, particle)
        mass[k][shift] = logsumexp(joint)
    for k, chosen in left.items():
        seen.left.append(float(chosen.mean()))
        seen.lost.append(float(logsumexp(mass[k]) - logsumexp(mass[k][chosen])))


def rows_of(name: str, star: Path, subset: int, **data: Any) -> Iterator[dict[str, Any]]:
    """A row per iteration looked at."""
    config = build_config(
        data={"inputs": (str(star),), "subset": subset, **data},
        search={"max_shift_voxels": 6.0},
        em={"iterations": max(ITERATIONS), "seed": 1},
    )
    run = EmRun(open_particles(config.data, 1).particles, config)
    seen: Seen | None = None
    plain = PhaseProposal._peaks

    def watched(self: PhaseProposal, particle: Particle, references: References) -> Any:
        if seen is not None:
            look(seen, particle, references, self._grid(references))
        return plain(self, particle, references)

    PhaseProposal._peaks = watched  # type: ignore[method-assign]
    try:
        states = run.states(None)
        next(states)
        for iteration in range(1, max(ITERATIONS) + 1):
            seen = Seen() if iteration in ITERATIONS else None
            next(states)
            if seen is not None and seen.grid is not None:
                pruned, whole = np.mean(seen.seconds, axis=0)
                yield {
                    "what": name,
                    "iteration": iteration,
                    "particles": len(seen.seconds),
                    "shifts": len(seen.grid.lattice),
                    "share_left": round(float(np.mean(seen.left)), 3),
                    "nats_lost_median": float(f"{np.median(seen.lost):.1e}"),
                    "nats_lost_most": float(f"{max(seen.lost):.1e}"),
                    "cpu_s": round(float(pruned), 4),
                    "cpu_s_all_shifts": round(float(whole), 4),
                }
    finally:
        PhaseProposal._peaks = plain  # type: ignore[method-assign]


def main() -> None:
    """All cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path)
    parser.add_argument("--ribosomes", type=Path)
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch, threadpool_limits(1):
        for number, (name, case) in enumerate(CASES.items()):
            simulation = build_simulation(
                models=case["models"],
                counts=[options.count],
                box=case["box"],
                voxel_size_angstrom=384.0 / case["box"],
                snr=case["snr"],
                tilt_range_deg=(-60.0, 60.0),
                max_shift_voxels=3.0,
                seed=1,
            )
            folder = Path(scratch) / str(number)
            simulate_dataset(simulation, folder, base=options.models)
            for row in rows_of(name, folder / "particles.star", options.count):
                print(row, flush=True)
                rows.append(row)
        if options.ribosomes:
            star = options.ribosomes / "particles.star"
            for row in rows_of("real ribosomes, 32^3", star, 20, particle_diameter_angstrom=260.0):
                print(row, flush=True)
                rows.append(row)
    record.write(options.json, rows, "bench/scout.py MODELS --ribosomes FOLDER")


if __name__ == "__main__":
    main()
