"""`faml demo`: from nothing to a picture of GroEL."""

from __future__ import annotations

import time
from itertools import chain, count
from pathlib import Path

import numpy as np

from faml import api
from faml.cli.display import RunDisplay
from faml.config import build_config
from faml.errors import OutputError
from faml.metrics.align import align_volume
from faml.metrics.fsc import fourier_shell_correlation, pearson, resolution_at
from faml.report.slices import write_class_slices
from faml.simulate.density import demo_density
from faml.simulate.particles import simulate_particles, write_particles

__all__ = ["free_directory", "run_demo"]

_COUNT = 60
_SNR = 0.05
_SHIFT_VOXELS = 3.0
_TILT_DEG = (-60.0, 60.0)
_DIAMETER_ANGSTROM = 180.0


def free_directory(path: Path) -> Path:
    """The path, or with the first number from 2 on that makes it a new one."""
    candidates = chain([path], (path.with_name(f"{path.name}-{i}") for i in count(2)))
    return next(candidate for candidate in candidates if not candidate.exists())


def run_demo(output: Path, threads: int, seed: int, *, quiet: bool) -> None:
    """Simulate, run, compare.

    Raises
    ------
    OutputError
        If the directory already holds a demo.
    """
    if (output / "run").exists():
        raise OutputError(
            f"{output}: already holds a demo; remove it or choose another directory with -o"
        )
    began = time.monotonic()
    density, voxel_size = demo_density()
    with RunDisplay(quiet=quiet) as display:
        say = display.console.print
        say(
            f"{_COUNT} simulated GroEL particles (PDB 1OEL): {density.shape[0]}^3 voxels of "
            f"{voxel_size:g} Å, signal-to-noise ratio {_SNR:g}, tilts ±60 degrees, shifts to "
            f"±{_SHIFT_VOXELS:g} voxels",
            soft_wrap=True,
        )
        simulated = simulate_particles(
            [density],
            [_COUNT],
            snr=_SNR,
            tilt_range_deg=_TILT_DEG,
            max_shift_voxels=_SHIFT_VOXELS,
            seed=seed,
            voxel_size_angstrom=voxel_size,
        )
        star = write_particles(simulated, output / "particles")
        result = api.run(
            star,
            output / "run",
            threads=threads,
            data={"particle_diameter_angstrom": _DIAMETER_ANGSTROM},
            # Coarser candidates than by default: a demo should not keep one waiting.
            search={"max_shift_voxels": 6.0, "search_shell": 6},
            em={"seed": seed, "iterations": 12},
            progress=display.progress,
            on_state=display.state,
        )
        say("comparing with the truth ...")
        oracle_config = build_config(
            data={"particle_diameter_angstrom": _DIAMETER_ANGSTROM},
            em={"start": "poses", "iterations": 0},
            threads=threads,
        )
        oracle = next(api.iterate(simulated.particles, oracle_config)).model.volumes[0]
        found = align_volume(result.state.model.volumes[0], density, max_shift_voxels=3.0)
        picture = result.directory / "truth.png"
        write_class_slices(
            picture,
            np.stack([density, found.volume, oracle]),
            voxel_size,
            title="GroEL: truth, faml from random orientations, average at the true poses",
            labels=["truth", f"faml, r = {found.correlation:.2f}", "true poses"],
        )
        for name, volume in (("faml from nothing", found.volume), ("true poses", oracle)):
            fsc = fourier_shell_correlation(volume, density)
            resolution = resolution_at(fsc, 0.5, density.shape[0], voxel_size)
            say(
                f"{name:18s}  r {pearson(volume, density):.3f}  FSC 0.5 at {resolution:.1f} Å",
                soft_wrap=True,
            )
        say(f"picture: {picture}\nall results: {result.directory}", soft_wrap=True)
        say(f"{time.monotonic() - began:.0f} s in all")
