"""Models and weights that the tests of the EM loop and of the M-step share."""

from __future__ import annotations

import numpy as np
from phantoms import blobs

from faml.model import Model
from faml.particles import wedge_weight
from faml.particles.view import ParticleViews, Pose
from faml.transforms.fourier import full_resolution_shell, spectrum_of


def soft_weight(n):
    """CTF^2-like weight: rings, times an asymmetric wedge."""
    k = np.fft.fftfreq(n, 1 / n)
    radius = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + np.arange(n // 2 + 1) ** 2)
    rings = 0.15 + 3.0 * np.cos(0.25 * radius) ** 2
    return (rings * wedge_weight(n, (-50, 70))).astype(np.float32)


def true_model(particles, noise, classes=1, seeds=(0,)):
    n = particles.box
    shells = full_resolution_shell(n) + 1
    return Model(
        volumes=np.stack([blobs(n, seed=s) for s in seeds][:classes]),
        class_fractions=np.full(classes, 1.0 / classes),
        noise_variance=np.full(shells, noise**2),
        signal_power=np.ones((classes, shells)),
        shift_variance=1.0,
    )


def particle_at(particles, grid, index=0):
    poses = particles.poses
    pose = Pose(0, poses.rotations[index], poses.translations[index])
    return ParticleViews(particles, grid).particle(index, pose)


def log_prior_of_averages(model, grid):
    """``-1/2 sum |A|^2 / tau^2`` over the components of the E-step and all classes."""
    value = 0.0
    inner = slice(0, grid.align_count)
    for k in range(model.classes):
        average = grid.take(spectrum_of(model.volumes[k])).astype(np.complex128)
        prior = model.signal_power[k][grid.shells]
        value -= 0.5 * float((grid.multiplicity * np.abs(average) ** 2 / prior)[inner].sum())
    return value
