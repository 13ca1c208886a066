"""The model before there is any structure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from faml.clock import StageClock
from faml.config import RunConfig
from faml.conventions import FloatArray
from faml.em.expectation import shell_power
from faml.em.workers import Workers, chunks_of
from faml.model import ZETA2_FLOOR, Model
from faml.particles import ParticleSet
from faml.particles.view import ParticleViews, Pose
from faml.transforms.fourier import fourier_grid, full_resolution_shell

__all__ = ["blank_model"]

_IDENTITY = Pose(0, np.eye(3), np.zeros(3))


@dataclass(frozen=True)
class PowerPlan:
    """Measures the power of particles (`workers.Plan`)."""

    def begin(self, particles: ParticleSet, clock: StageClock) -> PowerSums:
        """See `workers.Plan`."""
        return PowerSums(particles, clock)


class PowerSums:
    """Power of particles per shell."""

    def __init__(self, particles: ParticleSet, clock: StageClock) -> None:
        full = full_resolution_shell(particles.box)
        self._views = ParticleViews(particles, fourier_grid(particles.box, full, full))
        self._shells = full + 1
        self._clock = clock

    def of(self, chunk: npt.NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
        """Sums of ``|y|^2 / W`` and of the components behind them per shell, (S,) float64 each."""
        part, seen = np.zeros(self._shells), np.zeros(self._shells)
        with self._clock.stage("reading"):
            for index in chunk.tolist():
                particle = self._views.particle(index, _IDENTITY)
                part += shell_power(particle)
                seen += particle.weight.observed
        return part, seen


def blank_model(
    particles: ParticleSet,
    config: RunConfig,
    max_shift_voxels: float,
    workers: Workers,
    clock: StageClock,
) -> Model:
    """Averages of nothing: the data's own power is the noise.

    Parameters
    ----------
    particles : ParticleSet
    config : RunConfig
    max_shift_voxels : float
        Its ball has the variance of the shift prior.
    workers : Workers
    clock : StageClock
    """
    em, box = config.em, particles.box
    chunks = chunks_of(np.arange(len(particles)), em.chunk_size)
    shells = full_resolution_shell(box) + 1
    power, observed = np.zeros(shells), np.zeros(shells)
    for part, seen in workers.begin(PowerPlan(), particles, clock).map(PowerSums.of, chunks):
        power += part
        observed += seen
    noise = power / np.maximum(observed, 1.0)
    unseen = observed == 0
    noise[unseen] = noise[~unseen].mean()
    noise = np.maximum(noise, 1e-30)
    noise[0] = noise[1]
    if em.noise == "scalar":
        noise[:] = power[1:].sum() / observed[1:].sum()
    return Model(
        volumes=np.zeros((em.classes, box, box, box), dtype=np.float32),
        class_fractions=np.full(em.classes, 1.0 / em.classes),
        noise_variance=noise,
        signal_power=np.zeros((em.classes, shells)),
        shift_variance=max(max_shift_voxels**2 / 5.0, ZETA2_FLOOR),
    )
