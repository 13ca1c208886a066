"""The model before there is any structure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from faml.config import RunConfig
from faml.conventions import FloatArray
from faml.em.expectation import shell_power
from faml.em.passes import chunks_of, in_order
from faml.model import ZETA2_FLOOR, Model
from faml.particles import ParticleSet
from faml.particles.view import ParticleViews, Pose
from faml.transforms.fourier import fourier_grid, full_resolution_shell

__all__ = ["blank_model"]

_IDENTITY = Pose(0, np.eye(3), np.zeros(3))


def blank_model(particles: ParticleSet, config: RunConfig, max_shift_voxels: float) -> Model:
    """Averages of nothing: the data's own power is the noise.

    Parameters
    ----------
    particles : ParticleSet
    config : RunConfig
    max_shift_voxels : float
        Its ball has the variance of the shift prior.
    """
    em, box = config.em, particles.box
    full = full_resolution_shell(box)
    shells = full + 1
    power, observed = np.zeros(shells), np.zeros(shells)
    views = ParticleViews(particles, fourier_grid(box, full, full))

    def work(chunk: npt.NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
        part, seen = np.zeros(shells), np.zeros(shells)
        for i in chunk:
            particle = views.particle(int(i), _IDENTITY)
            part += shell_power(particle)
            seen += particle.weight.observed
        return part, seen

    chunks = chunks_of(np.arange(len(particles)), em.chunk_size)
    for part, seen in in_order(work, chunks, config.threads):
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
