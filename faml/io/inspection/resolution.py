"""What resolution the particles allow, as far as that can be said before a run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from faml.io.dataset import Dataset
from faml.io.inspection.measured_wedge import sample_size
from faml.metrics.snr import SignalToNoise, measure_snr
from faml.particles import ParticlePoses, ParticleSet
from faml.transforms.fourier import half_multiplicity, shell_indices, sum_over_shells

__all__ = ["Reachable", "estimate_resolution"]

_PARTICLES = 40
_FEWEST = 6
_SEEN = 1.0 / 3.0
"""Signal-to-noise ratio of an average whose half-maps agree by FSC 0.143."""
_DEVIATIONS = 2.0
_SAME_POSE = 1e-3
_NOISE_FREE = 3.0


@dataclass(frozen=True)
class Reachable:
    """Bounds of the resolution.

    Attributes
    ----------
    nyquist_angstrom : float
        Two voxels: no map is finer.
    first_angstrom : float
        At which a run begins, a sixth of the particle's diameter.
    signal_angstrom : float or None
        To which all particles together would raise the signal that the given poses show to FSC
        0.143; None where there are no poses to tell, or no signal is seen.
    snr : float or None
        Variance of signal over noise in the particles, at the given poses.
    particles : int
        Whose pairs were compared; 0 if none.
    basis : str
        For people.
    """

    nyquist_angstrom: float
    first_angstrom: float
    signal_angstrom: float | None
    snr: float | None
    particles: int
    basis: str


def estimate_resolution(dataset: Dataset) -> Reachable:
    """Bounds from box and voxel size, and from the signal at the poses where there are any.

    The average of N particles has N W times the signal-to-noise ratio of one component, and its
    half-maps agree by FSC 0.143 where that is 1/3. Shells whose ratio is not beyond twice its
    error in the sample end the range, so more may be there. Poses fitted to these particles have
    aligned their noise, too, and then less is there.
    """
    particles = dataset.particles
    size = particles.voxel_size_angstrom
    nyquist, extent = 2.0 * size, particles.box * size
    first = max(2.0 * dataset.grey.radius_voxels * size / 6.0, nyquist)
    poses = particles.poses
    if poses is None or _all_alike(poses.rotations):
        basis = "voxel size only: without poses the signal in the particles is unknown"
        return Reachable(nyquist, first, None, None, 0, basis)
    sample = _sample(particles)
    if len(sample) < _FEWEST:
        basis = f"voxel size only: expected {_FEWEST} particles or more to measure signal"
        return Reachable(nyquist, first, None, None, 0, basis)
    chosen = particles.subset(sample)
    found = measure_snr(
        chosen, ParticlePoses(poses.rotations[sample], poses.translations[sample]),
        [np.arange(len(sample))],
    )  # fmt: skip
    if found.of_particles > _NOISE_FREE:
        basis = f"voxel size: {len(sample)} particles are nearly free of noise at the given poses"
        return Reachable(nyquist, first, nyquist, found.of_particles, len(sample), basis)
    shell = _last_shell(found, len(sample), len(particles), _weight_per_shell(chosen))
    if shell == 0:
        basis = (
            f"voxel size only: {len(sample)} particles show no signal in common at the given poses"
        )
        return Reachable(nyquist, first, None, max(found.of_particles, 0.0), len(sample), basis)
    basis = (
        f"signal of {len(sample)} particles at the given poses; too good if these were fitted to "
        "the same noise, too coarse where finer signal needs more particles to be seen"
    )
    resolution = max(extent / shell, nyquist)
    return Reachable(nyquist, first, resolution, found.of_particles, len(sample), basis)


def _sample(particles: ParticleSet) -> npt.NDArray[np.int64]:
    size = min(sample_size(len(particles), particles.box), _PARTICLES)
    return np.unique(np.linspace(0, len(particles) - 1, size).round().astype(np.int64))


def _all_alike(rotations: npt.NDArray[np.float64]) -> bool:
    return bool(np.abs(rotations - rotations[0]).max() < _SAME_POSE)


def _weight_per_shell(particles: ParticleSet) -> npt.NDArray[np.float64]:
    """Mean of W on each shell, averaged over distinct weights."""
    n = particles.box
    shells = shell_indices(n)
    multiplicity = np.broadcast_to(half_multiplicity(n), shells.shape)
    used = np.unique(particles.weight_index)
    mean = np.mean([particles.weight(int(which)) for which in used], axis=0)
    count = n // 2 + 1
    total = sum_over_shells(shells, multiplicity * mean, count)
    return total / sum_over_shells(shells, multiplicity, count)


def _last_shell(
    found: SignalToNoise, sampled: int, count: int, weights: npt.NDArray[np.float64]
) -> int:
    """Last shell, without a gap, that the average of ``count`` particles would resolve."""
    # Of one component as it is in a particle, whatever the scale of W.
    ratio = found.per_shell * weights
    for shell in range(1, len(ratio)):
        # Half of about 4 pi r^2 components are independent.
        error = np.sqrt(2.0) / (sampled * np.sqrt(2.0 * np.pi * shell**2))
        if not (ratio[shell] > _DEVIATIONS * error and ratio[shell] * count >= _SEEN):
            return shell - 1
    return len(ratio) - 1
