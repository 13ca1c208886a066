"""Simulated particles: rotated, shifted, noisy, with a missing wedge, and their truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.spatial.transform import Rotation

from faml.conventions import matrices_to_relion_angles_deg, translations_to_relion_origins
from faml.errors import ConfigurationError, InputDataError, OutputError
from faml.io.mrc import write_volume
from faml.io.star import ANGLE_COLUMNS, ORIGIN_COLUMNS, write_star
from faml.io.wedge_files import full_cube
from faml.metrics.resample import Resampler
from faml.particles import ParticlePoses, ParticleSet, wedge_weight
from faml.transforms.fourier import spectrum_of, volume_of
from faml.transforms.rotations import random_rotations

__all__ = ["SimulatedParticles", "simulate_particles", "write_particles"]


@dataclass(frozen=True)
class SimulatedParticles:
    """Particles in memory with their truth.

    Attributes
    ----------
    particles : ParticleSet
        With the true poses as input poses.
    volumes : (N, n, n, n) float32
        What `particles` reads; noise of variance one (before the wedge).
    labels : (N,) int64
        Which density each particle shows.
    weight : (n, n, n // 2 + 1) float32
        The wedge, the same for all.
    snr : float
        As asked for; see `simulate_particles`.
    """

    particles: ParticleSet
    volumes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float32]
    snr: float

    @property
    def poses(self) -> ParticlePoses:
        """True poses."""
        if self.particles.poses is None:
            raise ConfigurationError("simulated particles always have poses; found none")
        return self.particles.poses

    @property
    def rotations(self) -> npt.NDArray[np.float64]:
        """True rotations, (N, 3, 3), reference to particle."""
        return self.poses.rotations

    @property
    def translations(self) -> npt.NDArray[np.float64]:
        """True translations, (N, 3), x, y, z in voxels."""
        return self.poses.translations


def simulate_particles(
    densities: Sequence[npt.NDArray[np.float32]],
    counts: Sequence[int],
    *,
    snr: float,
    tilt_range_deg: tuple[float, float],
    max_shift_voxels: float,
    seed: int,
    voxel_size_angstrom: float,
    rotations: Literal["uniform", "about_y"] = "uniform",
) -> SimulatedParticles:
    """White-noise particles of one or several densities.

    The density is rotated and shifted by real-space splines (no code shared with the kernels),
    white noise of variance one is added, and the wedge is applied to both: ``y = W X``.

    Parameters
    ----------
    densities : sequence of (n, n, n) float32
        Of one box, with nothing near its faces.
    counts : sequence of int
        Particles per density.
    snr : float
        Variance of the density within the box over that of the noise, *before* the wedge, which
        takes away more noise than signal. Infinity gives particles without noise, scaled to
        variance one.
    tilt_range_deg : (float, float)
    max_shift_voxels : float
        Shifts are uniform in the cube of half this edge around zero.
    seed : int
        Particle i draws from ``SeedSequence([seed, i])``: its pose and noise depend on neither the
        number of particles nor the SNR.
    voxel_size_angstrom : float
    rotations : {"uniform", "about_y"}
        Uniform on SO(3), or uniform turns about Y, the tilt axis: then no direction of the
        structure along Y is ever seen from elsewhere.

    Returns
    -------
    SimulatedParticles

    Raises
    ------
    ConfigurationError
        If a parameter is out of range.
    InputDataError
        If the densities differ in shape, are no cubes, hold NaN or Inf, or are constant.
    """
    _check_settings(snr, tilt_range_deg, max_shift_voxels, voxel_size_angstrom, rotations)
    n = _check_densities(densities, counts)
    weight = wedge_weight(n, tilt_range_deg)
    labels = np.repeat(np.arange(len(densities)), counts)
    count = len(labels)
    turns, shifts = np.empty((count, 3, 3)), np.empty((count, 3))
    stack = np.empty((count, n, n, n), dtype=np.float32)
    scale, noise = (1.0, 0.0) if np.isinf(snr) else (float(np.sqrt(snr)), 1.0)
    resampler: Resampler | None = None
    for i, label in enumerate(labels):
        if resampler is None or label != labels[i - 1]:
            density = np.asarray(densities[int(label)], dtype=np.float64)
            resampler = Resampler(density * (scale / density.std()))
        rng = np.random.default_rng(np.random.SeedSequence([seed, i]))
        if rotations == "about_y":
            turns[i] = Rotation.from_euler("Y", rng.uniform(0.0, 2.0 * np.pi)).as_matrix()
        else:
            turns[i] = random_rotations(1, rng).as_matrix()[0]
        shifts[i] = rng.uniform(-max_shift_voxels, max_shift_voxels, 3)
        noisy = resampler.place(turns[i], shifts[i])
        noisy += noise * rng.normal(size=noisy.shape).astype(np.float32)
        stack[i] = volume_of(spectrum_of(noisy) * weight, n)
    particles = ParticleSet.from_arrays(
        stack,
        weight[None],
        voxel_size_angstrom=voxel_size_angstrom,
        poses=ParticlePoses(turns, shifts),
    )
    return SimulatedParticles(particles, stack, labels, weight, snr)


def _check_settings(
    snr: float,
    tilt_range_deg: tuple[float, float],
    max_shift_voxels: float,
    voxel_size_angstrom: float,
    rotations: str,
) -> None:
    if not snr > 0:
        raise ConfigurationError(f"expected a signal-to-noise ratio above 0, found {snr:g}")
    low, high = tilt_range_deg
    if not -90.0 <= low < high <= 90.0:
        raise ConfigurationError(
            f"expected a tilt range -90 <= min < max <= 90 degrees, found {low:g} to {high:g}"
        )
    if not (np.isfinite(max_shift_voxels) and max_shift_voxels >= 0):
        raise ConfigurationError(
            f"expected a largest shift of 0 voxels or more, found {max_shift_voxels:g}"
        )
    if not voxel_size_angstrom > 0:
        raise ConfigurationError(
            f"expected a voxel size above 0 Angstrom, found {voxel_size_angstrom:g}"
        )
    if rotations not in {"uniform", "about_y"}:
        raise ConfigurationError(
            f"expected rotations to be 'uniform' or 'about_y', found {rotations!r}"
        )


def _check_densities(densities: Sequence[npt.NDArray[np.float32]], counts: Sequence[int]) -> int:
    """Edge of the box."""
    if len(densities) != len(counts) or min(counts, default=0) < 0 or sum(counts) == 0:
        raise ConfigurationError(
            "expected one count of particles per density, at least one particle in all, found "
            f"{len(densities)} densities and counts {list(counts)}"
        )
    shapes = sorted({d.shape for d in densities})
    if len(shapes) != 1 or len(shapes[0]) != 3 or len(set(shapes[0])) != 1:
        raise InputDataError(f"expected cubic densities of one box, found shapes {shapes}")
    for i, density in enumerate(densities):
        if not (np.isfinite(density).all() and np.ptp(density) > 0):
            raise InputDataError(
                f"density {i + 1}: expected finite grey values that vary, found a constant, NaN "
                "or Inf; give another map"
            )
    return int(shapes[0][0])


def write_particles(simulated: SimulatedParticles, directory: str | Path) -> Path:
    """Write MRC files, ``wedge.mrc`` and a RELION 3.1 ``particles.star`` with the true poses.

    Parameters
    ----------
    simulated : SimulatedParticles
    directory : path
        Created if need be. Names in the STAR file are relative to it.

    Returns
    -------
    Path
        Of the STAR file.

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    folder = Path(directory)
    try:
        (folder / "subtomograms").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot be created ({error.strerror}); choose another directory"
        ) from error
    size = simulated.particles.voxel_size_angstrom
    images = [f"subtomograms/{name}.mrc" for name in simulated.particles.names]
    for image, volume in zip(images, simulated.volumes, strict=True):
        write_volume(folder / image, volume, size)
    write_volume(folder / "wedge.mrc", full_cube(simulated.weight), size)
    path = folder / "particles.star"
    blocks = {"optics": _optics(simulated), "particles": _table(simulated, images)}
    write_star(path, blocks, 30001)
    return path


def _optics(simulated: SimulatedParticles) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "rlnOpticsGroup": ["1"],
            "rlnOpticsGroupName": ["simulated"],
            "rlnImagePixelSize": [f"{simulated.particles.voxel_size_angstrom:.6f}"],
            "rlnImageSize": [str(simulated.particles.box)],
            "rlnImageDimensionality": ["3"],
            # RELION asks for these; nothing here depends on them.
            "rlnVoltage": ["300"],
            "rlnSphericalAberration": ["2.7"],
            "rlnAmplitudeContrast": ["0.1"],
        }
    )


def _table(simulated: SimulatedParticles, images: list[str]) -> pd.DataFrame:
    """The particles table with the true poses."""
    size = simulated.particles.voxel_size_angstrom
    angles = matrices_to_relion_angles_deg(simulated.rotations)
    origins = translations_to_relion_origins(simulated.translations, size)
    table = pd.DataFrame({"rlnImageName": images})
    table["rlnCtfImage"] = "wedge.mrc"
    table["rlnMicrographName"] = "simulated"
    table["rlnOpticsGroup"] = "1"
    for column, values in zip(ANGLE_COLUMNS, angles.T, strict=True):
        table[column] = [f"{v:.6f}" for v in values]
    for column, values in zip(ORIGIN_COLUMNS, origins.T, strict=True):
        table[column] = [f"{v:.6f}" for v in values]
    table["rlnClassNumber"] = [str(label + 1) for label in simulated.labels]
    return table
