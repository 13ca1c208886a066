"""Simulated particles: rotated, shifted, noisy, with a missing wedge, and their truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.spatial.transform import Rotation

from faml.conventions import matrices_to_relion_angles_deg, translations_to_relion_origins
from faml.errors import ConfigurationError
from faml.io.mrc import write_volume
from faml.io.star import write_star
from faml.io.wedge_files import full_cube
from faml.metrics.align import transform_volume
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
    """

    particles: ParticleSet
    volumes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float32]

    @property
    def poses(self) -> ParticlePoses:
        """True poses."""
        if self.particles.poses is None:
            raise ConfigurationError("simulated particles always have poses; found none")
        return self.particles.poses


def simulate_particles(
    densities: list[npt.NDArray[np.float32]],
    counts: list[int],
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
    white noise is added, and the wedge is applied to both.

    Parameters
    ----------
    densities : list of (n, n, n) float32
    counts : list of int
        Particles per density.
    snr : float
        Variance of the density over that of the noise within the box, before the wedge.
    tilt_range_deg : (float, float)
    max_shift_voxels : float
        Shifts are uniform in the cube of half this edge around zero.
    seed : int
        Each particle has its own stream of it.
    voxel_size_angstrom : float
    rotations : {"uniform", "about_y"}

    Raises
    ------
    ConfigurationError
        If the SNR is not positive or the densities differ in shape.
    """
    if not snr > 0:
        raise ConfigurationError(f"expected a signal-to-noise ratio above 0, found {snr:g}")
    if len({d.shape for d in densities}) != 1:
        raise ConfigurationError(
            f"expected densities of one box, found {sorted({d.shape for d in densities})}"
        )
    n = densities[0].shape[0]
    weight = wedge_weight(n, tilt_range_deg)
    labels = np.repeat(np.arange(len(densities)), counts)
    turns, shifts, volumes = [], [], []
    for i, label in enumerate(labels):
        rng = np.random.default_rng(np.random.SeedSequence([seed, i]))
        if rotations == "about_y":
            turn = Rotation.from_euler("Y", rng.uniform(0.0, 2.0 * np.pi)).as_matrix()
        else:
            turn = random_rotations(1, rng).as_matrix()[0]
        shift = rng.uniform(-max_shift_voxels, max_shift_voxels, 3)
        density = densities[label]
        signal = transform_volume(density, turn, shift) * np.float32(np.sqrt(snr) / density.std())
        noisy = signal + rng.normal(size=signal.shape).astype(np.float32)
        volumes.append(volume_of(spectrum_of(noisy) * weight, n))
        turns.append(turn)
        shifts.append(shift)
    stack = np.stack(volumes).astype(np.float32)
    particles = ParticleSet.from_arrays(
        stack,
        weight[None],
        voxel_size_angstrom=voxel_size_angstrom,
        poses=ParticlePoses(np.stack(turns), np.stack(shifts)),
    )
    return SimulatedParticles(particles, stack, labels, weight)


def write_particles(simulated: SimulatedParticles, directory: str | Path) -> Path:
    """Write MRC files, ``wedge.mrc`` and a RELION 3.1 ``particles.star`` with the true poses.

    Returns
    -------
    Path
        Of the STAR file.
    """
    folder = Path(directory)
    (folder / "subtomograms").mkdir(parents=True, exist_ok=True)
    size = simulated.particles.voxel_size_angstrom
    images = []
    for name, volume in zip(simulated.particles.names, simulated.volumes, strict=True):
        images.append(f"subtomograms/{name}.mrc")
        write_volume(folder / images[-1], volume, size)
    write_volume(folder / "wedge.mrc", full_cube(simulated.weight), size)
    angles = matrices_to_relion_angles_deg(simulated.poses.rotations)
    origins = translations_to_relion_origins(simulated.poses.translations, size)
    table = pd.DataFrame({"rlnImageName": images})
    table["rlnCtfImage"] = "wedge.mrc"
    table["rlnMicrographName"] = "simulated"
    table["rlnOpticsGroup"] = "1"
    columns = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
    for column, values in zip(columns, angles.T, strict=True):
        table[column] = [f"{v:.6f}" for v in values]
    for axis, values in zip("XYZ", origins.T, strict=True):
        table[f"rlnOrigin{axis}Angst"] = [f"{v:.6f}" for v in values]
    table["rlnClassNumber"] = [str(label + 1) for label in simulated.labels]
    optics = pd.DataFrame(
        {
            "rlnOpticsGroup": ["1"],
            "rlnOpticsGroupName": ["simulated"],
            "rlnImagePixelSize": [f"{size:g}"],
            "rlnImageSize": [str(simulated.particles.box)],
            "rlnImageDimensionality": ["3"],
            "rlnVoltage": ["300"],
            "rlnSphericalAberration": ["2.7"],
            "rlnAmplitudeContrast": ["0.1"],
        }
    )
    path = folder / "particles.star"
    write_star(path, {"optics": optics, "particles": table}, 30001)
    return path
