"""Which orientations a class consists of, and what of Fourier space they leave unobserved.

Missing wedges of particles that lie alike coincide: what none of them observed is no part of the
average, whatever its FSC.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from faml.particles import ParticleSet
from faml.symmetry import PointGroup

__all__ = ["Coverage", "fourier_coverage", "sphere_points", "viewing_directions"]

_DIRECTIONS = 1000
_RADII = 5
_MOST = 24_000
"""Particles times rotations of a group that are looked at; more would not change the picture."""
_UNOBSERVED = 0.05
"""Observed less than this share of the mean: noise rules there, and the prior leaves nothing."""


@dataclass(frozen=True)
class Coverage:
    """How evenly a class observes Fourier space, up to one shell.

    Attributes
    ----------
    directions : (D, 3) float64
        Evenly spread over the half-sphere z >= 0, in the frame of the average.
    observed : (S, D) float64
        Weight of all particles at S radii along each direction, relative to the mean at each.
    """

    directions: npt.NDArray[np.float64]
    observed: npt.NDArray[np.float64]

    @property
    def unobserved(self) -> float:
        """Share of directions that (almost) no particle has observed, at most of the radii.

        At a few radii the zeros of a CTF do that as well.
        """
        return float((np.median(self.observed, axis=0) < _UNOBSERVED).mean())


def sphere_points(count: int) -> npt.NDArray[np.float64]:
    """So many directions (count, 3), evenly over the half-sphere z >= 0 (Fibonacci spiral)."""
    steps = np.arange(count) + 0.5
    z = 1.0 - steps / count
    phi = np.pi * (1.0 + np.sqrt(5.0)) * steps
    radius = np.sqrt(1.0 - z**2)
    return np.stack([radius * np.cos(phi), radius * np.sin(phi), z], axis=1)


def viewing_directions(rotations: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The beam of untilted images in the frame of the average, (N, 3), of poses (N, 3, 3).

    RELION's rot and tilt are its azimuth and polar angle.
    """
    return rotations[:, 2, :]


def fourier_coverage(
    particles: ParticleSet,
    rotations: npt.NDArray[np.float64],
    members: npt.NDArray[np.int64],
    last_shell: int,
    symmetry: PointGroup,
) -> Coverage:
    """What the particles of a class observe, turned into the frame of their average.

    Parameters
    ----------
    particles : ParticleSet
    rotations : (N, 3, 3) float64
        Of all particles.
    members : (M,) int64
        Particles of the class; at least one.
    last_shell : int
        Radii from half of this one to it are looked at.
    symmetry : PointGroup

    Raises
    ------
    ValueError
        No members.
    """
    if len(members) == 0:
        raise ValueError("expected at least one particle, found none")
    directions = sphere_points(_DIRECTIONS)
    equivalent = directions @ np.swapaxes(symmetry.rotations, 1, 2)
    radii = np.linspace(0.5 * last_shell, last_shell, _RADII)
    most = max(1, _MOST // symmetry.order)
    if len(members) > most:
        members = members[np.linspace(0, len(members) - 1, most).astype(np.int64)]
    points = (radii[:, None, None, None] * equivalent).reshape(-1, 3)
    observed = np.zeros(len(points))
    index = particles.weight_index[members]
    for which in np.unique(index):
        weight = particles.weight(int(which))
        for turn in rotations[members[index == which]]:
            # A component k of the average is seen by a particle at R k.
            observed += _nearest(weight, points @ turn.T)
    summed = observed.reshape(_RADII, symmetry.order, _DIRECTIONS).sum(axis=1)
    mean = summed.mean(axis=1, keepdims=True)
    return Coverage(directions, summed / np.where(mean > 0, mean, 1.0))


def _nearest(
    weight: npt.NDArray[np.float32], points: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """Weight at the components nearest to points (P, 3), x, y, z in units of 1/n."""
    n = weight.shape[0]
    k = np.rint(points).astype(np.int64)
    k[k[:, 0] < 0] *= -1
    return weight[k[:, 2] % n, k[:, 1] % n, np.minimum(k[:, 0], weight.shape[2] - 1)]
