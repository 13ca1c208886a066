"""A simulated data set on disk: particles, weights, hidden truth, and how it was made."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from faml.simulate.density import density_from_model
from faml.simulate.particles import SimulatedParticles, write_particles

__all__ = ["MANIFEST_NAME", "checksums", "model_density", "new_directory", "write_dataset"]

MANIFEST_NAME = "simulation.toml"
_MAPS = (".mrc", ".map")
_SAME_VOXEL = 1e-3
"""Relative difference of voxel sizes that headers round away."""


def model_density(
    path: Path, box: int, voxel_size_angstrom: float, resolution_angstrom: float | None
) -> npt.NDArray[np.float32]:
    """Density of a PDB or mmCIF file, or a map in the middle of a box.

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
        As `density_from_model`; a map of another voxel size, or larger than the box.
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
    if found is not None and abs(found / voxel_size_angstrom - 1.0) > _SAME_VOXEL:
        raise ConfigurationError(
            f"{path}: expected voxels of {voxel_size_angstrom:g} Angstrom, found {found:g}; give "
            f"--voxel-size {found:g} or rescale the map"
        )
    values = volume.values
    edge = values.shape[0]
    if len(set(values.shape)) != 1:
        raise InputDataError(f"{path}: expected a cubic map, found {values.shape}; pad or crop it")
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


def checksums(models: Sequence[Path]) -> list[dict[str, str]]:
    """Name and SHA-256 of each file; raises InputDataError for one that cannot be read."""
    try:
        return [
            {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            for path in models
        ]
    except OSError as error:
        raise InputDataError(f"{error.filename}: cannot be read ({error.strerror})") from error


def write_dataset(
    simulated: SimulatedParticles,
    densities: Sequence[npt.NDArray[np.float32]],
    models: Sequence[Mapping[str, str]],
    directory: Path,
    settings: Mapping[str, Any],
) -> None:
    """Write particles with their truth in columns of its own, the densities, and the manifest.

    Parameters
    ----------
    simulated : SimulatedParticles
    densities : sequence of (n, n, n) float32
        Written as ``truth/class_001.mrc`` ...
    models : sequence of mapping
        What they were made of (`checksums`).
    directory : Path
        An empty one (`new_directory`).
    settings : mapping
        How it was made; None values are left out.

    Raises
    ------
    OutputError
        A file cannot be written.
    """
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
        "models": [dict(model) for model in models],
        "settings": {name: value for name, value in settings.items() if value is not None},
    }
    write_text_atomic(directory / MANIFEST_NAME, tomli_w.dumps(manifest))


def _gemmi() -> dict[str, str]:
    """Version of what reads atomic models, if it is there."""
    try:
        return {"gemmi": version("gemmi")}
    except PackageNotFoundError:
        return {}
