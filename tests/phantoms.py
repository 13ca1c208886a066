"""Asymmetric phantoms whose rotated and shifted forms are known analytically."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from faml.particles import ParticlePoses, ParticleSet
from faml.transforms.fourier import spectrum_of, volume_of


def blobs(
    n, rotation=None, translation=(0.0, 0.0, 0.0), seed=0, count=12, spread=0.16, sigma=0.055
):
    """Gaussian blobs, rotated about voxel n // 2 and then shifted; (n, n, n) float32.

    Centres lie in a cube of half edge ``spread * n``; ``sigma * n`` is the blobs' width in voxels.
    """
    rng = np.random.default_rng(seed)
    z, y, x = np.indices((n, n, n)) - n // 2
    turn = np.eye(3) if rotation is None else rotation
    volume = np.zeros((n, n, n))
    width = 2.0 * (sigma * n) ** 2
    for _ in range(count):
        centre = turn @ rng.uniform(-spread * n, spread * n, 3) + np.asarray(translation)
        height = rng.uniform(0.4, 1.6)
        volume += height * np.exp(
            -((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2) / width
        )
    return volume.astype(np.float32)


DETAILED = {"count": 14, "spread": 0.2, "sigma": 0.045}
"""Signal in all shells that tell orientations apart; for boxes of 24 and more."""


def rotations():
    """Haar-like rotations for hypothesis: any unit quaternion."""
    part = st.floats(-1.0, 1.0, allow_nan=False)
    return (
        st.tuples(part, part, part, part)
        .filter(lambda q: np.linalg.norm(q) > 0.1)
        .map(lambda q: Rotation.from_quat(q).as_matrix())
    )


def boxes():
    """Odd and even box edges."""
    return st.sampled_from([15, 16, 18, 21])


def simulated(
    n=20,
    count=8,
    noise=0.3,
    weight=None,
    seed=0,
    shifts=1.5,
    phantom_seeds=(0,),
    phantom=None,
    turns=None,
    symmetry=None,
):
    """Particles ``y = W (R A) + noise`` made in Fourier space, with their truth.

    Noise has variance ``sigma^2 W``; the set reads volumes whose spectra are y. ``phantom`` holds
    further arguments of `blobs`; rotations are random unless ``turns``, (count, 3, 3), are given.
    ``symmetry`` holds the rotations of a group that the phantom gets.
    """
    rng = np.random.default_rng(seed)
    half = np.ones((n, n, n // 2 + 1), np.float32) if weight is None else weight
    moves, volumes, labels = [], [], []
    if turns is None:
        turns = [Rotation.from_quat(rng.normal(size=4)).as_matrix() for _ in range(count)]
    for i in range(count):
        label = i % len(phantom_seeds)
        move = rng.uniform(-shifts, shifts, 3)
        copies = [np.eye(3)] if symmetry is None else symmetry
        given = {"seed": phantom_seeds[label]} | (phantom or {})
        clean = spectrum_of(sum(blobs(n, turns[i] @ copy, move, **given) for copy in copies))
        dirt = spectrum_of(rng.normal(scale=noise, size=(n, n, n)).astype(np.float32))
        volumes.append(volume_of((half * clean + np.sqrt(half) * dirt).astype(np.complex64), n))
        moves.append(move)
        labels.append(label)
    particles = ParticleSet.from_arrays(
        np.stack(volumes),
        half[None],
        voxel_size_angstrom=10.0,
        poses=ParticlePoses(np.stack(turns), np.stack(moves)),
    )
    return particles, np.array(labels)
