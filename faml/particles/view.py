"""A particle at the current resolution: what a strategy and the E-step see of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from faml.particles.kept import LastKept
from faml.particles.particle_set import ParticleSet
from faml.transforms.fourier import (
    FourierGrid,
    half_cube,
    padded_half_cube,
    padded_weight,
    sum_over_shells,
)

__all__ = ["Particle", "ParticleViews", "Pose", "WeightView"]


@dataclass(frozen=True)
class Pose:
    """A class and pose of one particle.

    Attributes
    ----------
    class_index : int
        Zero-based.
    rotation : (3, 3) float64
    translation : (3,) float64
        x, y, z in voxels.
    """

    class_index: int
    rotation: npt.NDArray[np.float64]
    translation: npt.NDArray[np.float64]


@dataclass(frozen=True)
class WeightView:
    """A distinct weight W on the points of a grid and as a half-cube.

    Attributes
    ----------
    index : int
        Which distinct weight of the particle set.
    values : (J,) float32
    cube : (2q + 1, 2q + 1, q + 1) float32
        q = ``grid.weight_reach``.
    padded : (2q + 1, 2q + 1, q + 1) float32
        q = ``grid.padded_reach``; see `padded_weight`.
    observed : (S,) float64
        Components of the full sphere with W > 0 per shell.
    """

    index: int
    values: npt.NDArray[np.float32]
    cube: npt.NDArray[np.float32]
    padded: npt.NDArray[np.float32]
    observed: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Particle:
    """Particle(y, W) at one resolution.

    Attributes
    ----------
    index : int
        Position in the particle set.
    name : str
    grid : FourierGrid
    data : (J,) complex64
        y at the points of the grid.
    weight : WeightView
    classes : tuple of int
        Classes to search, zero-based.
    previous : Pose
        Best pose of the last iteration (or the start's).
    input_pose : Pose or None
        As the input file has it.
    """

    index: int
    name: str
    grid: FourierGrid
    data: npt.NDArray[np.complex64]
    weight: WeightView
    classes: tuple[int, ...]
    previous: Pose
    input_pose: Pose | None

    def of_class(self, class_index: int) -> Particle:
        """The same particle, to be searched in one class."""
        return replace(
            self,
            classes=(class_index,),
            previous=replace(self.previous, class_index=class_index),
        )

    @cached_property
    def padded(self) -> npt.NDArray[np.complex64]:
        """Padded spectrum of y as a half-cube, for shell sampling."""
        return padded_half_cube(self.grid.put(self.data), self.grid)


class ParticleViews:
    """Makes `Particle` objects of one set at one resolution; keeps recently used weights."""

    def __init__(self, particles: ParticleSet, grid: FourierGrid) -> None:
        self._particles = particles
        self._grid = grid
        self._weights: LastKept[WeightView] = LastKept(particles.weights_kept)

    def weight(self, index: int) -> WeightView:
        """The distinct weight ``index``."""
        return self._weights.get(index, lambda: self._make_weight(index))

    def _make_weight(self, index: int) -> WeightView:
        grid = self._grid
        weight = self._particles.weight(index)
        values = weight.reshape(-1)[grid.indices]
        observed = sum_over_shells(
            grid.shells, np.where(values > 0, grid.multiplicity, 0.0), grid.sum_shell + 1
        )
        cube = half_cube(weight, grid.weight_reach).astype(np.float32)
        return WeightView(index, values, cube, padded_weight(values, grid), observed)

    def particle(self, index: int, previous: Pose, classes: Iterable[int] = (0,)) -> Particle:
        """Read one particle, to be searched in ``classes``, and reduce it to the grid."""
        poses = self._particles.poses
        return Particle(
            index=index,
            name=self._particles.names[index],
            grid=self._grid,
            data=self._grid.take(self._particles.data_term(index)),
            weight=self.weight(int(self._particles.weight_index[index])),
            classes=tuple(classes),
            previous=previous,
            input_pose=(
                None
                if poses is None
                else Pose(previous.class_index, poses.rotations[index], poses.translations[index])
            ),
        )
