"""What lies in a tomogram: how particles are turned, and what surrounds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from faml.errors import ConfigurationError
from faml.transforms.rotations import random_rotations

__all__ = ["ORIENTATIONS", "Neighbour", "draw_neighbours", "draw_rotation", "extent_voxels"]

ORIENTATIONS = ("uniform", "about_x", "about_y", "about_z", "cone")
"""Uniform on SO(3); uniform turns about one axis (Y is the tilt axis); or the particle's own Z
within a cone about the beam, turned about itself at random: preferred orientation, as on an
interface."""
_TRIES = 2000
_REACH = 1.25
"""Boxes from the tilt axis at which an image of two boxes still keeps its far side out of one."""
_MASS_WITHIN = 0.98
"""Share of a density's squared grey values within its extent."""


@dataclass(frozen=True)
class Neighbour:
    """Something beside a particle.

    Attributes
    ----------
    density : int
        Which.
    rotation : (3, 3) float64
    translation : (3,) float64
        x, y, z in voxels from the middle of the box.
    """

    density: int
    rotation: npt.NDArray[np.float64]
    translation: npt.NDArray[np.float64]


def draw_rotation(kind: str, rng: np.random.Generator, cone_deg: float) -> npt.NDArray[np.float64]:
    """One of the `ORIENTATIONS`, (3, 3); ``cone_deg`` is the cone's half-angle."""
    if kind == "uniform":
        return random_rotations(1, rng).as_matrix()[0]
    if kind == "cone":
        # Uniform on the cap: the cosine is.
        beta = np.arccos(rng.uniform(np.cos(np.deg2rad(cone_deg)), 1.0))
        alpha, gamma = rng.uniform(0.0, 2.0 * np.pi, 2)
        return Rotation.from_euler("ZYZ", [alpha, beta, gamma]).as_matrix()
    return Rotation.from_euler(kind[-1].upper(), rng.uniform(0.0, 2.0 * np.pi)).as_matrix()


def extent_voxels(density: npt.NDArray[np.floating]) -> float:
    """Radius about the middle of the box that holds a density, but for faint rims."""
    n = density.shape[0]
    axis = np.arange(n) - n // 2
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).ravel()
    order = np.argsort(radius, kind="stable")
    mass = np.cumsum(np.square(density, dtype=np.float64).ravel()[order])
    return float(radius[order][np.searchsorted(mass, _MASS_WITHIN * mass[-1])])


def draw_neighbours(
    number: int,
    own: int,
    place: npt.NDArray[np.float64],
    radii: Sequence[float],
    box: int,
    rng: np.random.Generator,
    tilt_axis: str = "y",
) -> list[Neighbour]:
    """Randomly turned densities that touch neither the particle nor each other.

    Parameters
    ----------
    number : int
    own : int
        Density of the particle.
    place : (3,) float64
        The particle's translation in voxels.
    radii : sequence of float
        Of all densities, in voxels (`extent_voxels`).
    box : int
        Centres lie within a box of twice this edge, and not so far from the tilt axis that images
        of twice the box do not hold them.

    Raises
    ------
    ConfigurationError
        They do not fit.
    """
    taken = [(np.asarray(place, dtype=np.float64), radii[own])]
    found: list[Neighbour] = []
    for _ in range(number):
        which = int(rng.integers(len(radii)))
        for _ in range(_TRIES):
            centre = rng.uniform(-box, box, 3)
            if (
                np.hypot(centre[1 if tilt_axis == "x" else 0], centre[2])
                > _REACH * box - radii[which]
            ):
                continue  # on some image it would come in again at the other side
            if all(np.linalg.norm(centre - c) >= r + radii[which] for c, r in taken):
                break
        else:
            raise ConfigurationError(
                f"expected room for {number} neighbours within {2 * box} voxels, found room for "
                f"{len(found)}; ask for fewer or give a larger box"
            )
        taken.append((centre, radii[which]))
        found.append(Neighbour(which, draw_rotation("uniform", rng, 0.0), centre))
    return found
