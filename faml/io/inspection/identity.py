"""Particles that are there twice: identical volumes, and neighbours closer than a distance."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from faml.io.dataset import Dataset
from faml.io.positions import particle_positions

__all__ = ["ClosePairs", "close_particles", "identical_volumes"]


@dataclass(frozen=True)
class ClosePairs:
    """Particles of one tomogram that lie close together.

    Attributes
    ----------
    distance_angstrom : float
        Closer than this.
    particles : int
        That have another one so close.
    nearest_angstrom : float
        Smallest distance of all.
    first : (str, str) or None
        Names of the closest two.
    """

    distance_angstrom: float
    particles: int
    nearest_angstrom: float
    first: tuple[str, str] | None


def identical_volumes(dataset: Dataset) -> tuple[tuple[str, ...], ...]:
    """Names of particles whose volumes are the same, value by value.

    Only volumes with the same statistics are read again, and compared by a hash of their values.
    """
    grey, particles = dataset.grey, dataset.particles
    alike: dict[tuple[float, ...], list[int]] = defaultdict(list)
    table = np.stack([grey.background_mean, grey.background_std, grey.inside_mean,
                      grey.inside_std, grey.minimum, grey.maximum], axis=1)  # fmt: skip
    for index, row in enumerate(table):
        alike[tuple(map(float, row))].append(index)
    groups: dict[bytes, list[str]] = defaultdict(list)
    for members in alike.values():
        for index in members if len(members) > 1 else ():
            values = particles.volumes.read(int(particles.source_index[index]))
            digest = hashlib.blake2b(np.ascontiguousarray(values).tobytes()).digest()
            groups[digest].append(particles.names[index])
    return tuple(tuple(names) for names in groups.values() if len(names) > 1)


def close_particles(dataset: Dataset, distance_angstrom: float) -> ClosePairs | None:
    """Particles that have another one of their tomogram closer than a distance.

    Returns
    -------
    ClosePairs or None
        None where the input has no coordinates or no tomograms.

    Raises
    ------
    InputDataError
        A coordinate is not a number.
    """
    particles, star = dataset.particles, dataset.star
    known = set() if star is None else set(star.particles.columns)
    if particles.tomograms is None or not (
        {"rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ"} <= known
        or {f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ"} <= known
    ):
        return None
    shifts = np.zeros((len(particles), 3))
    if particles.poses is not None:
        shifts = particles.poses.translations
    positions = particle_positions(dataset, shifts)
    nearest = np.full(len(particles), np.inf)
    partner = np.full(len(particles), -1)
    for tomogram in np.unique(particles.tomograms):
        members = np.flatnonzero(particles.tomograms == tomogram)
        if len(members) > 1:
            nearest[members], partner[members] = _nearest(positions[members], members)
    close = nearest < distance_angstrom
    closest = int(np.argmin(nearest))
    pair = None
    if close.any():
        pair = (particles.names[closest], particles.names[partner[closest]])
    return ClosePairs(distance_angstrom, int(close.sum()), float(nearest[closest]), pair)


def _nearest(
    positions: npt.NDArray[np.float64], members: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
    """Distance to, and index of, the nearest other one."""
    distances, which = cKDTree(positions).query(positions, k=2)
    # Of two at one place either may be found first.
    itself = which[:, 0] == np.arange(len(members))
    return distances[:, 1], members[np.where(itself, which[:, 1], which[:, 0])]
