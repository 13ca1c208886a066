"""The exhaustive search: exactness in nats, cost, and where the time goes.

    python bench/exhaustive.py [--relion] [--json FILE]

- Quadrature: difference between the log joint of the correlation (band limit L, integer shells)
  and the Cartesian sum of Eq. 15 at poses of the grid, up to a constant, which is no one's.
- Cost: CPU seconds per particle, iteration and class of the whole E-step, and the growth of
  resident memory by one worker.
- Breakdown of one iteration by strategy (the paper's Fig. 10).
- `--relion`: `relion_refine` on two particles of 32^3, on the same grid, and as people run it.

BLAS runs on one thread. The data are a phantom of 12 blobs at SNR 0.1, tilt range -50 to 65.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import resource
import shutil
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import record
from rich.console import Console
from rich.table import Table
from speed import phantom
from threadpoolctl import threadpool_limits

from faml.config import build_config
from faml.em.expectation import accumulate, posterior
from faml.em.loop import EmRun
from faml.em.statistics import Statistics
from faml.io.mrc import write_volume
from faml.particles.view import Particle, ParticleViews, Pose
from faml.references import PADDING, References
from faml.simulate.particles import SimulatedParticles, simulate_particles, write_particles
from faml.strategies.exhaustive import Exhaustive
from faml.strategies.phased import PhasedSearch
from faml.strategies.pose_grid import PoseGrid
from faml.transforms.fourier import fourier_grid

Row = dict[str, Any]
TILT = (-50.0, 65.0)
VOXEL_ANGSTROM = 12.0


def simulated(n: int, count: int, snr: float = 0.1) -> SimulatedParticles:
    """Particles of the phantom."""
    return simulate_particles(
        [phantom(n)], [count], snr=snr, tilt_range_deg=TILT, max_shift_voxels=2.0, seed=1,
        voxel_size_angstrom=VOXEL_ANGSTROM,
    )  # fmt: skip


class Problem:
    """The average at the true poses, and particles at one resolution."""

    def __init__(
        self, n: int, shell: int, bandwidth: int, count: int = 4, snr: float = 0.1, **search: Any
    ) -> None:
        self.simulated = simulated(n, count, snr)
        config = build_config(
            em={"start": "poses", "iterations": 0},
            search={"strategy": "exhaustive", "max_bandwidth": 64} | search,
        )
        run = EmRun(self.simulated.particles, config)
        (state,) = run.states()
        self.grid = fourier_grid(n, shell, shell)
        self.references = References(state.model, self.grid, bandwidth)
        # The radius that asks for this band limit.
        radius = (bandwidth - 1) * n / (2.0 * np.pi * shell)
        self.context = replace(run._context, radius_voxels=radius, last_shell=shell)
        self.views = ParticleViews(self.simulated.particles, self.grid)

    def particle(self, index: int) -> Particle:
        """One particle, without a previous pose."""
        return self.views.particle(index, Pose(0, np.eye(3), np.zeros(3)))


def quadrature_rows(n: int = 32, shell: int = 12, snr: float = 0.003) -> list[Row]:
    """Difference between quadrature and Cartesian sum at 400 poses near the best, in nats."""
    rows = []
    for bandwidth, per_shell in ((16, 1), (24, 1), (32, 1), (48, 1), (24, 2), (48, 2), (48, 4)):
        problem = Problem(n, shell, bandwidth, snr=snr, max_shift_voxels=3.0)
        references, particle = problem.references, problem.particle(0)
        grid = PoseGrid(shell, bandwidth, 4 * ((2 * bandwidth + 4) // 4), 1.5, 0.0)
        cells = PhasedSearch(references, grid).best_poses(particle, 400).cells
        turns, shifts = grid.matrices(cells[:, :3], 0), grid.shifts(cells[:, 3:], 0)
        squared = references.squared_residuals(
            particle, np.zeros(len(cells), dtype=np.int64), turns, shifts
        )
        exact = 0.5 * (references.data_power(particle) - squared)
        cross, energy = by_quadrature(references, particle, grid, per_shell)
        place = tuple((cells[:, :3] // np.array([1, 2, 2])).T)
        error = (cross - 0.5 * energy)[place] - exact
        rows.append(
            {
                "what": f"{n}^3, r_max {shell}, SNR {snr:g}, L = {bandwidth}, "
                f"{per_shell} radii per shell",
                "nats_rms": round(float(error.std()), 2),
                "span_nats": round(float(np.ptp(exact)), 1),
                "after_rescoring_nats": rescored_error(problem, particle),
            }
        )
    return rows


def by_quadrature(
    references: References, particle: Particle, grid: PoseGrid, per_shell: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cross term and energy at zero shift of all rotations, with some radii in each shell."""
    shells = np.repeat(np.arange(1, grid.shells + 1), per_shell)
    radii = (shells - 0.5 + (np.tile(np.arange(per_shell), grid.shells) + 0.5) / per_shell).astype(
        np.float32
    )
    weights = (radii**2 / per_shell * references.shell_precision[shells]).astype(np.float32)
    sphere, plan = grid.sphere, grid.rotations
    average = sphere.sample(references.padded[0], radii, PADDING)
    cross = plan.correlate(
        sphere.analyse_hermitian(sphere.sample(particle.padded, radii, PADDING)),
        sphere.analyse_hermitian(average),
        weights,
        even=False,
    )
    weight = sphere.sample(particle.weight.cube.astype(np.complex64), radii, 1.0).real
    energy = plan.correlate(
        sphere.analyse_even(np.ascontiguousarray(weight)),
        sphere.analyse_even(np.abs(average) ** 2),
        weights,
        even=True,
    )
    return cross, energy


def rescored_error(problem: Problem, particle: Particle) -> float:
    """Largest difference of the support's residuals to Eq. 15, half of it in nats."""
    support = Exhaustive(problem.context).support(
        particle, problem.references, np.random.default_rng(0)
    )
    again = problem.references.squared_residuals(
        particle, support.classes, support.rotations, support.translations
    )
    assert support.squared_residuals is not None
    return round(0.5 * float(np.abs(support.squared_residuals - again).max()), 5)


def cost_row(
    n: int, shell: int, bandwidth: int, step_deg: float, radius: float, target: float, **more: Any
) -> Row:
    """CPU seconds per particle of the E-step, and memory of a worker."""
    problem = Problem(
        n, shell, bandwidth, max_shift_voxels=radius, angular_step_deg=step_deg,
        shift_step_voxels=1.0, search_shell=shell, **more,
    )  # fmt: skip
    strategy = Exhaustive(problem.context)
    strategy.prepare(problem.references)
    sums = Statistics.zeros(1, problem.grid, total=False)
    rng = np.random.default_rng(0)

    def one(index: int) -> float:
        particle = problem.particle(index)
        support = strategy.support(particle, problem.references, rng)
        log_posterior, _ = posterior(particle, problem.references, support)
        accumulate(particle, problem.references, support, log_posterior, sums)
        return support.mass

    masses = [one(0)]  # compiles
    before = status_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the largest memory so far
    masses.append(one(1))
    growth = status_mb("VmHWM") - before
    started = time.process_time()
    masses += [one(2), one(3)]
    seconds = (time.process_time() - started) / 2
    grid = strategy._grid(problem.references)
    return {
        "what": f"exhaustive E-step, {n}^3, r_max {shell}, L = {grid.bandwidth}, "
        f"{len(grid.lattice)} shifts",
        "poses": int(np.prod(grid.shape)) * len(grid.lattice),
        "cpu_s": round(seconds, 3),
        "target_s": target,
        "floor_of_ffts_s": round(fft_seconds(grid), 3),
        "estimated_s": round(grid.seconds(1), 3),
        "worker_mb": round(max(growth, 0.0) + grid.megabytes),
        "target_mb": 300,
        "mass_kept": round(float(np.mean(masses)), 3),
    }


def fft_seconds(grid: PoseGrid) -> float:
    """CPU time of the inverse FFTs of all shifts alone."""
    spectrum = grid.rotations.spectrum()
    spectrum[:] = 1.0
    grid.rotations.transform(spectrum)
    started = time.process_time()
    for _ in range(20):
        grid.rotations.transform(spectrum)
    return (time.process_time() - started) / 20 * len(grid.lattice)


def status_mb(name: str) -> float:
    """An entry of this process' memory status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return float(line.split()[1]) / 1024.0
    raise ValueError(name)


PARTS = {
    "read and transform": ("view.py", "particle"),
    "shells of shifted spectra": ("harmonics.py", "analyse_shifted"),
    "SO(3): sums over l": ("so3.py", "fill"),
    "SO(3): FFT": ("so3.py", "transform"),
    "keep the best of the grid": ("phased.py", "keep_best"),
    "best shift of the grid": ("phased.py", "raise_best"),
    "amplitudes on shells": ("harmonics.py", "analyse_even"),
    "peaks": ("so3.py", "peaks"),
    "residuals of chosen poses": ("references.py", "grid_residuals"),
    "search of shifts": ("proposals.py", "search_translations"),
    "Voronoi weights": ("faml.py", "log_volumes"),
    "sums": ("expectation.py", "accumulate"),
    "M-step": ("loop.py", "_maximise"),
}


def breakdown_rows(n: int = 64, shell: int = 12, count: int = 12) -> list[Row]:
    """Share of each part of one iteration, by strategy."""
    particles = simulated(n, count).particles
    rows = []
    for name, search in (
        ("exhaustive", {"strategy": "exhaustive"}),
        ("faml, phase", {"strategy": "faml", "proposal": "phase"}),
        ("faml, amplitude", {"strategy": "faml", "proposal": "amplitude"}),
        ("fa, phase", {"strategy": "fa", "proposal": "phase"}),
    ):
        config = build_config(
            em={"first_shell": shell, "max_shell": shell, "iterations": 2, "start": "poses"},
            search=search | {"max_shift_voxels": 6.0},
        )
        states = EmRun(particles, config).states()
        next(states), next(states)
        profile = cProfile.Profile(time.process_time)
        profile.enable()
        next(states)
        profile.disable()
        stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
        whole = max(entry[3] for entry in stats.values())
        row: Row = {"strategy": name, "cpu_ms_per_particle": round(1e3 * whole / count, 1)}
        rest = 1.0
        for part, (file, function) in PARTS.items():
            seconds = sum(
                entry[3]
                for (path, _, called), entry in stats.items()
                if Path(path).name == file and called == function
            )
            row[part] = f"{100 * seconds / whole:.0f} %" if seconds else ""
            rest -= seconds / whole
        row["rest"] = f"{100 * rest:.0f} %"
        rows.append(row)
    return rows


def relion_rows() -> list[Row]:
    """`relion_refine` and faml on the same two particles, in CPU seconds per particle."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        star = write_particles(simulated(32, 2), folder / "particles")
        write_volume(folder / "reference.mrc", phantom(32), VOXEL_ANGSTROM)
        for what, options, steps in (
            ("7.5 degrees, no oversampling, +-5, step 1", (3, 0, 1.0), (7.5, 1.0)),
            ("as people run it: order 2, oversampling 1, step 2", (2, 1, 2.0), (None, None)),
        ):
            theirs = relion_seconds(folder, star, *options)
            problem = Problem(
                32, 8, 17, count=2, max_shift_voxels=5.0, angular_step_deg=steps[0],
                shift_step_voxels=steps[1], oversampling=0 if steps[0] else 3,
            )  # fmt: skip
            strategy = Exhaustive(problem.context)
            rng = np.random.default_rng(0)
            strategy.support(problem.particle(0), problem.references, rng)
            started = time.process_time()
            for _ in range(5):
                strategy.support(problem.particle(1), problem.references, rng)
            ours = (time.process_time() - started) / 5
            rows.append(
                {
                    "what": f"32^3, r_max 8: {what}",
                    "relion_cpu_s": round(theirs, 1),
                    "faml_cpu_s": round(ours, 3),
                    "ratio": round(theirs / ours),
                    "expected": 300 if steps[0] else 20,
                }
            )
    return rows


def relion_seconds(folder: Path, star: Path, order: int, oversampling: int, step: float) -> float:
    """CPU seconds per particle of one iteration at a 48 Angstrom reference."""
    command = [
        *("relion_refine", "--i", str(star), "--ref", str(folder / "reference.mrc"), "--ctf"),
        *("--o", str(folder / "run"), "--iter", "1", "--K", "1", "--pad", "2", "--norm"),
        *("--tau2_fudge", "4", "--particle_diameter", "300", "--dont_check_norm", "--j", "1"),
        *("--ini_high", "48", "--healpix_order", str(order), "--offset_range", "5"),
        *("--oversampling", str(oversampling), "--offset_step", str(step)),
    ]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, cwd=star.parent)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 2


def show(rows: list[Row], console: Console) -> None:
    """Rows of one kind as a table."""
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    console.print(table)


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--relion", action="store_true", help="also run relion_refine")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    options = parser.parse_args()
    if options.relion and shutil.which("relion_refine") is None:
        parser.error("relion_refine is not on PATH; leave out --relion")
    console = Console(width=200)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    every: list[Row] = []
    with threadpool_limits(limits=1):
        for rows in (
            [
                cost_row(32, 12, 24, 7.2, 4.0, 0.4),
                cost_row(64, 20, 32, 5.0, 5.0, 3.0),
            ],
            quadrature_rows(),
            breakdown_rows(),
            relion_rows() if options.relion else [],
        ):
            if rows:
                show(rows, console)
                every += rows
                record.write(options.json, every, "python bench/exhaustive.py --relion")


if __name__ == "__main__":
    main()
