"""A simulated data set on disk: particles, weights, hidden truth, and how it was made."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tomli_w

from faml.errors import ConfigurationError, InputDataError, OutputError
from faml.io.atomic import write_text_atomic
from faml.io.checkpoint import software_versions
from faml.io.mrc import read_volume, write_volume
from faml.metrics.resample import crop_fourier, pad_fourier
from faml.simulate.density import density_from_model
from faml.simulate.particles import SimulatedParticles, simulate_particles, write_particles
from faml.simulate.settings import Simulation

__all__ = ["MANIFEST_NAME", "model_density", "new_directory", "simulate_dataset"]

MANIFEST_NAME = "simulation.toml"
_MAPS = (".mrc", ".map")
_SAME_VOXEL = 1e-3
"""Relative difference of voxel sizes that headers round away."""
_WHOLE_VOXELS = 0.02


def model_density(
    path: Path, box: int, voxel_size_angstrom: float, resolution_angstrom: float | None
) -> npt.NDArray[np.float32]:
    """Density of a PDB or mmCIF file, or a map in the middle of a box, on voxels of the box.

    Parameters
    ----------
    path : Path
    box : int
    voxel_size_angstrom : float
    resolution_angstrom : float or None
        Of atomic models; None is two voxels.

    Returns
    -------
    (n, n, n) float32

    Raises
    ------
    ConfigurationError, InputDataError
        As `density_from_model`; a map whose edge is no whole number of the box's voxels, or that
        is larger than the box.
    """
    if not 0.0 < voxel_size_angstrom < np.inf:
        raise ConfigurationError(
            f"expected a voxel size above 0 Angstrom, found {voxel_size_angstrom:g}"
        )
    if path.suffix.lower() not in _MAPS:
        return density_from_model(path, box, voxel_size_angstrom, resolution_angstrom)
    if resolution_angstrom is not None:
        raise ConfigurationError(
            f"{path}: --resolution is for atomic models; a map has the one it has, leave it out"
        )
    volume = read_volume(path)
    found = volume.header.voxel_size_angstrom
    values = volume.values
    if len(set(values.shape)) != 1:
        raise InputDataError(f"{path}: expected a cubic map, found {values.shape}; pad or crop it")
    edge = values.shape[0]
    if found is not None and abs(found / voxel_size_angstrom - 1.0) > _SAME_VOXEL:
        wanted = edge * found / voxel_size_angstrom
        edge = round(wanted)
        if abs(wanted - edge) > _WHOLE_VOXELS:
            raise ConfigurationError(
                f"{path}: the map's edge, {values.shape[0]} voxels of {found:g} Angstrom, is no "
                f"whole number of voxels of {voxel_size_angstrom:g} Angstrom; give --voxel-size "
                f"{found:g} or rescale the map"
            )
        resized = pad_fourier if edge > values.shape[0] else crop_fourier
        values = resized(values, edge).astype(np.float32)
    if edge > box:
        raise ConfigurationError(
            f"{path}: the map needs a box of at least {edge} voxels, found --box {box}"
        )
    padded = np.zeros((box,) * 3, dtype=np.float32)
    first = box // 2 - edge // 2
    padded[(slice(first, first + edge),) * 3] = values - np.median(values)
    return padded


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A directory to write to, which becomes ``path`` at the end; on any error nothing is left.

    Raises
    ------
    OutputError
        Something lies there, or it cannot be written to. Found before the block is entered.
    """
    partial = path.parent / f".{path.name}-{os.getpid()}.tmp"
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise OutputError(
                f"{path}: exists and is not an empty directory; results could overwrite what lies "
                "there, choose another"
            )
        partial.mkdir(parents=True)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be created ({error.strerror}); choose another directory"
        ) from error
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def simulate_dataset(
    simulation: Simulation, output: Path, *, base: Path = Path()
) -> SimulatedParticles:
    """Simulate particles and write them with their truth and manifest.

    Parameters
    ----------
    simulation : Simulation
    output : Path
        A new directory.
    base : Path
        Models are relative to this one.

    Raises
    ------
    FamlError
        One of its subclasses, for settings, models or a directory that cannot be used; nothing is
        left of what was begun.
    """
    models = [base / model for model in simulation.models]
    box, size = simulation.box, simulation.voxel_size_angstrom
    with new_directory(output) as folder:
        series = simulation.tilt_series
        sources = _checksums(models)
        densities = [
            model_density(path, box, size, simulation.resolution_angstrom) for path in models
        ]
        simulated = simulate_particles(
            densities,
            simulation.counts_of_models,
            snr=simulation.snr,
            tilt_range_deg=simulation.tilt_range_deg,
            tilt_axis=simulation.tilt_axis,
            max_shift_voxels=simulation.max_shift_voxels,
            seed=simulation.seed,
            voxel_size_angstrom=size,
            rotations=simulation.orientations,
            cone_deg=simulation.cone_deg,
            neighbours=simulation.neighbours,
            tilt_series=series,
            dark=simulation.dark,
        )
        _write(simulated, densities, sources, folder, simulation)
    return simulated


def _checksums(models: Sequence[Path]) -> list[dict[str, str]]:
    """Name and SHA-256 of each file; raises InputDataError for one that cannot be read."""
    try:
        return [
            {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            for path in models
        ]
    except OSError as error:
        raise InputDataError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _write(
    simulated: SimulatedParticles,
    densities: Sequence[npt.NDArray[np.float32]],
    sources: list[dict[str, str]],
    directory: Path,
    simulation: Simulation,
) -> None:
    """Particles with their truth in columns of its own, the densities, and the manifest."""
    write_particles(simulated, directory, secret=True)
    (directory / "truth").mkdir(exist_ok=True)
    for k, density in enumerate(densities):
        write_volume(
            directory / "truth" / f"class_{k + 1:03d}.mrc",
            density,
            simulated.particles.voxel_size_angstrom,
        )
    manifest = {
        "versions": software_versions() | _gemmi(),
        "models": sources,
        # What was settled for what was left open is of interest, too.
        "settings": simulation.model_dump(mode="json", exclude_none=True, exclude={"models"})
        | _settled(simulation),
    }
    write_text_atomic(directory / MANIFEST_NAME, tomli_w.dumps(manifest))


def _settled(simulation: Simulation) -> dict[str, Any]:
    """Values that were left open, of a cone and of a tilt series."""
    settled: dict[str, Any] = {}
    if simulation.orientations == "cone":
        settled["cone_angle_deg"] = simulation.cone_deg
    series = simulation.tilt_series
    if series is not None:
        settled |= asdict(series.imagings[0]) | {
            "tilt_step_deg": series.step_deg,
            "defocus_um": list(simulation.defocus_um),
        }
    return settled


def _gemmi() -> dict[str, str]:
    """Version of what reads atomic models, if it is there."""
    try:
        return {"gemmi": version("gemmi")}
    except PackageNotFoundError:
        return {}
