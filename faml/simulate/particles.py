"""Simulated particles: rotated, shifted, noisy, with a missing wedge, and their truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from faml.conventions import matrices_to_relion_angles_deg, translations_to_relion_origins
from faml.errors import ConfigurationError, InputDataError, OutputError
from faml.io.mrc import write_volume
from faml.io.star import ANGLE_COLUMNS, ORIGIN_COLUMNS, write_star
from faml.io.truth import true_column
from faml.metrics.resample import Resampler
from faml.particles import ParticlePoses, ParticleSet, full_cube, wedge_weight
from faml.simulate.specimen import (
    ORIENTATIONS,
    Neighbour,
    draw_neighbours,
    draw_rotation,
    extent_voxels,
)
from faml.simulate.tilt_series import (
    Imaging,
    SliceSampler,
    TiltGeometry,
    TiltSeries,
    tilt_angles_deg,
)
from faml.transforms.fourier import spectrum_of, volume_of

__all__ = ["SimulatedParticles", "check_settings", "simulate_particles", "write_particles"]

_NEIGHBOUR_STREAM = 0x4E45  # tells the neighbours' random stream from the particle's


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
    weights : (T, n, n, n // 2 + 1) float32
        Of each tomogram.
    snr : float
        As asked for; see `simulate_particles`.
    imaging : Imaging or None
        Of the first tomogram. The weights are sums of CTF^2 then, and the data are multiplied by
        the CTF; None behind a plain wedge.
    """

    particles: ParticleSet
    volumes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    snr: float
    imaging: Imaging | None = None

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
    tilt_axis: str = "y",
    max_shift_voxels: float,
    seed: int,
    voxel_size_angstrom: float,
    rotations: str = "uniform",
    cone_deg: float = 30.0,
    neighbours: int = 0,
    tilt_series: TiltSeries | None = None,
    dark: bool = False,
) -> SimulatedParticles:
    """Particles of one or several densities, in white noise or through a tilt series.

    In white noise the density is rotated and shifted by real-space splines (no code shared with the
    kernels), white noise of variance one is added, and the wedge is applied to both: ``y = W X``.
    Through a tilt series it is projected, imaged and put back (`simulate.tilt_series`; Zhao et al.
    2018, section 3.1), which scatters the noise of each image.

    Parameters
    ----------
    densities : sequence of (n, n, n) float32
        Of one box, with nothing near its faces.
    counts : sequence of int
        Particles per density.
    snr : float
        Variance of the density within the box over that of the noise, *before* the wedge, which
        takes away more noise than signal; through a tilt series of the subtomogram as it is.
        Infinity gives particles without noise,
        scaled to variance one.
    tilt_range_deg : (float, float)
    tilt_axis : {"y", "x"}
    max_shift_voxels : float
        Shifts are uniform in the cube of half this edge around zero.
    seed : int
        Particle i draws from ``SeedSequence([seed, i])``: its pose and noise depend on neither the
        number of particles nor the SNR.
    voxel_size_angstrom : float
    rotations : str
        One of `specimen.ORIENTATIONS`. With turns about Y, the tilt axis, no direction of the
        structure along Y is ever seen from elsewhere.
    cone_deg : float
        Half-angle of the cone.
    neighbours : int
        So many other particles around each, none of which touch.
    tilt_series : TiltSeries, optional
        Particles are dealt out to its tomograms in turn.
    dark : bool
        Density is negative, as microscopes show it.

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
    n = _check_densities(densities, counts)
    check_settings(
        box=n,
        counts=counts,
        snr=snr,
        tilt_range_deg=tilt_range_deg,
        max_shift_voxels=max_shift_voxels,
        voxel_size_angstrom=voxel_size_angstrom,
        rotations=rotations,
        cone_deg=cone_deg,
        neighbours=neighbours,
        seed=seed,
    )
    standard = [np.asarray(d, dtype=np.float64) / np.std(d, dtype=np.float64) for d in densities]
    route: _WhiteNoise | _Recorded
    if tilt_series is None:
        route = _WhiteNoise(standard, wedge_weight(n, tilt_range_deg, tilt_axis), snr)
    else:
        angles = tilt_angles_deg(tilt_range_deg, tilt_series.step_deg)
        geometries = [
            TiltGeometry(n, voxel_size_angstrom, angles, imaging, tilt_axis)
            for imaging in tilt_series.imagings
        ]
        route = _Recorded(standard, geometries, snr)
    radii = [extent_voxels(density) for density in standard]
    labels = np.repeat(np.arange(len(densities)), counts)
    count = len(labels)
    tomograms = np.arange(count) % len(route.weights)
    turns, shifts = np.empty((count, 3, 3)), np.empty((count, 3))
    stack = np.empty((count, n, n, n), dtype=np.float32)
    for i, label in enumerate(labels):
        rng = np.random.default_rng(np.random.SeedSequence([seed, i]))
        turns[i] = draw_rotation(rotations, rng, cone_deg)
        shifts[i] = rng.uniform(-max_shift_voxels, max_shift_voxels, 3)
        around = np.random.default_rng(np.random.SeedSequence([seed, i, _NEIGHBOUR_STREAM]))
        others = draw_neighbours(neighbours, int(label), shifts[i], radii, n, around, tilt_axis)
        placed = [Neighbour(int(label), turns[i], shifts[i]), *others]
        stack[i] = route.particle(placed, int(tomograms[i]), rng)
    if dark:
        stack *= -1.0
    particles = replace(
        ParticleSet.from_arrays(
            stack,
            route.weights,
            weight_index=tomograms,
            voxel_size_angstrom=voxel_size_angstrom,
            poses=ParticlePoses(turns, shifts),
        ),
        tomograms=tomograms if len(route.weights) > 1 else None,
    )
    imaging = None if tilt_series is None else tilt_series.imagings[0]
    return SimulatedParticles(particles, stack, labels, route.weights, snr, imaging)


class _WhiteNoise:
    """Particles in white noise, behind a wedge."""

    def __init__(
        self,
        densities: Sequence[npt.NDArray[np.float64]],
        weight: npt.NDArray[np.float32],
        snr: float,
    ) -> None:
        self.weights = weight[None]
        scale, self._noise = (1.0, 0.0) if np.isinf(snr) else (float(np.sqrt(snr)), 1.0)
        self._resamplers = [Resampler(density * scale) for density in densities]

    def particle(
        self, placed: Sequence[Neighbour], tomogram: int, rng: np.random.Generator
    ) -> npt.NDArray[np.float32]:
        own, *others = placed
        noisy = self._resamplers[own.density].place(own.rotation, own.translation)
        for other in others:
            noisy += self._resamplers[other.density].place(other.rotation, other.translation)
        noisy += self._noise * rng.normal(size=noisy.shape).astype(np.float32)
        return volume_of(spectrum_of(noisy) * self.weights[tomogram], noisy.shape[0])


class _Recorded:
    """Particles through tilt series, one of each tomogram."""

    def __init__(
        self,
        densities: Sequence[npt.NDArray[np.float64]],
        geometries: Sequence[TiltGeometry],
        snr: float,
    ) -> None:
        self._geometries = geometries
        self._samplers = [SliceSampler(density) for density in densities]
        self._noisy = not np.isinf(snr)
        # Noise has variance one, as without tilt series.
        self._scales = [
            1.0 / each.noise_level(snr, self._samplers) if self._noisy else 1.0
            for each in geometries
        ]
        self.weights = np.stack([each.weight for each in geometries])

    def particle(
        self, placed: Sequence[Neighbour], tomogram: int, rng: np.random.Generator
    ) -> npt.NDArray[np.float32]:
        geometry = self._geometries[tomogram]
        slices = [
            geometry.slices(self._samplers[p.density], p.rotation, p.translation) for p in placed
        ]
        images = self._scales[tomogram] * geometry.transfers * np.sum(slices, axis=0)
        if self._noisy:
            images = images + geometry.noise(rng)
        return geometry.reconstruct(images)


def check_settings(
    *,
    box: int,
    counts: Sequence[int],
    snr: float,
    tilt_range_deg: tuple[float, float],
    max_shift_voxels: float,
    voxel_size_angstrom: float,
    rotations: str,
    cone_deg: float,
    neighbours: int,
    seed: int,
) -> None:
    """Raise ConfigurationError for a parameter of `simulate_particles` that is out of range."""
    low, high = tilt_range_deg
    for right, expected, found in (
        (snr > 0, "a signal-to-noise ratio above 0", f"{snr:g}"),
        (
            -90.0 <= low < high <= 90.0,
            "a tilt range -90 <= min < max <= 90 degrees",
            f"{low:g} to {high:g}",
        ),
        (
            0.0 <= max_shift_voxels < box / 2,
            f"a largest shift of 0 voxels or more and below half the box ({box / 2:g})",
            f"{max_shift_voxels:g}",
        ),
        (
            0.0 < voxel_size_angstrom < np.inf,
            "a voxel size above 0 Angstrom",
            f"{voxel_size_angstrom:g}",
        ),
        (
            min(counts, default=0) >= 0 and sum(counts) > 0,
            "counts of 0 particles or more, and at least one particle in all",
            f"{list(counts)}",
        ),
        (rotations in ORIENTATIONS, f"orientations {', '.join(ORIENTATIONS)}", repr(rotations)),
        (0.0 < cone_deg <= 180.0, "a cone of more than 0 and at most 180 degrees", f"{cone_deg:g}"),
        (neighbours >= 0, "0 neighbours or more", f"{neighbours}"),
        (seed >= 0, "a seed of 0 or more", f"{seed}"),
    ):
        if not right:
            raise ConfigurationError(f"expected {expected}, found {found}")


def _check_densities(densities: Sequence[npt.NDArray[np.float32]], counts: Sequence[int]) -> int:
    """Edge of the box."""
    if len(densities) != len(counts):
        raise ConfigurationError(
            f"expected one count of particles per density, found {len(densities)} densities and "
            f"counts {list(counts)}"
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


def write_particles(
    simulated: SimulatedParticles, directory: str | Path, *, secret: bool = False
) -> Path:
    """Write MRC files, weight volumes and a RELION 3.1 ``particles.star`` with the true poses.

    Parameters
    ----------
    simulated : SimulatedParticles
    directory : path
        Created if need be. Names in the STAR file are relative to it.
    secret : bool
        The truth is in columns of its own (famlTrue...), so that no program begins from it.

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
    for name, weight in zip(_weight_names(simulated), simulated.weights, strict=True):
        write_volume(folder / name, full_cube(weight), size)
    path = folder / "particles.star"
    blocks = {"optics": _optics(simulated), "particles": _table(simulated, images, secret=secret)}
    write_star(path, blocks, 30001)
    return path


def _optics(simulated: SimulatedParticles) -> pd.DataFrame:
    imaging = simulated.imaging or Imaging()
    return pd.DataFrame(
        {
            "rlnOpticsGroup": ["1"],
            "rlnOpticsGroupName": ["simulated"],
            "rlnImagePixelSize": [f"{simulated.particles.voxel_size_angstrom:.6f}"],
            "rlnImageSize": [str(simulated.particles.box)],
            "rlnImageDimensionality": ["3"],
            # RELION asks for these; the CTF is in the weights.
            "rlnVoltage": [f"{imaging.voltage_kv:g}"],
            "rlnSphericalAberration": [f"{imaging.spherical_aberration_mm:g}"],
            "rlnAmplitudeContrast": [f"{imaging.amplitude_contrast:g}"],
            "rlnCtfDataAreCtfPremultiplied": [str(int(simulated.imaging is not None))],
        }
    )


def _weight_names(simulated: SimulatedParticles) -> list[str]:
    if len(simulated.weights) == 1:
        return ["wedge.mrc"]
    return [f"weight_{i + 1:03d}.mrc" for i in range(len(simulated.weights))]


def _table(simulated: SimulatedParticles, images: list[str], *, secret: bool) -> pd.DataFrame:
    """The particles table with the true poses."""
    size = simulated.particles.voxel_size_angstrom
    angles = matrices_to_relion_angles_deg(simulated.rotations)
    origins = translations_to_relion_origins(simulated.translations, size)
    table = pd.DataFrame({"rlnImageName": images})
    weights, tomograms = _weight_names(simulated), simulated.particles.weight_index
    table["rlnCtfImage"] = [weights[i] for i in tomograms]
    table["rlnMicrographName"] = [
        "simulated" if len(weights) == 1 else f"tomogram_{i + 1:03d}" for i in tomograms
    ]
    table["rlnOpticsGroup"] = "1"
    for columns, values in ((ANGLE_COLUMNS, angles), (ORIGIN_COLUMNS, origins)):
        for column, each in zip(columns, values.T, strict=True):
            name = true_column(column) if secret else column
            table[name] = [f"{v:.6f}" for v in each]
    name = true_column("rlnClassNumber") if secret else "rlnClassNumber"
    table[name] = [str(label + 1) for label in simulated.labels]
    return table
