"""What is known about the particles of a pack."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from faml.io.grey_values import GreyValues
from faml.io.packs.ranges import StoredArrays
from faml.io.packs.readers import PackedVolumes, PackedWeights
from faml.io.packs.texts import Paths, Texts
from faml.io.star import RelionStar
from faml.io.wedge_files import WeightSource
from faml.particles import ParticlePoses

__all__ = ["Pack"]


@dataclass(frozen=True)
class Pack:
    """A pack, or some of its particles.

    Attributes
    ----------
    path : Path
    box : int
    voxel_size_angstrom : float
    arrays : StoredArrays
        All volumes.
    rows : (N,) int64
        Which of them the particles are.
    names : Texts
    paths : Paths
        The files that were packed.
    mean, deviation : (N,) float32 or None
    weights : PackedWeights
        All of the pack.
    weight_source : WeightSource
    weight_index : (N,) int64
    weight_power : (M,) float64
    weight_paths : Paths
        None, or one for each of the M weights.
    premultiplied : (N,) bool
    poses : ParticlePoses or None
    tomograms : (N,) int64 or None
    grey : tuple of GreyValues
        For particles of different radius.
    star : RelionStar or None
        The whole input table, read when asked for.
    input_format : str
        What was packed, in words.
    header_sizes : tuple of (float, int)
        Voxel sizes of the headers, 0 for none, with how many of the first 1000 say so.
    modes : tuple of int
    warnings, weight_warnings, pose_warnings : tuple of str
    """

    path: Path
    box: int
    voxel_size_angstrom: float
    arrays: StoredArrays
    rows: npt.NDArray[np.int64]
    names: Texts
    paths: Paths
    mean: npt.NDArray[np.float32] | None
    deviation: npt.NDArray[np.float32] | None
    weights: PackedWeights
    weight_source: WeightSource
    weight_index: npt.NDArray[np.int64]
    weight_power: npt.NDArray[np.float64]
    weight_paths: Paths
    premultiplied: npt.NDArray[np.bool_]
    poses: ParticlePoses | None
    tomograms: npt.NDArray[np.int64] | None
    grey: tuple[GreyValues, ...]
    star: RelionStar | None
    input_format: str
    header_sizes: tuple[tuple[float, int], ...]
    modes: tuple[int, ...]
    warnings: tuple[str, ...]
    weight_warnings: tuple[str, ...]
    pose_warnings: tuple[str, ...]

    @property
    def volumes(self) -> PackedVolumes:
        """Reader of the particles' volumes."""
        return PackedVolumes(self.arrays, self.rows, self.names, self.mean, self.deviation)

    def take(self, rows: npt.NDArray[np.int64]) -> Pack:
        """The particles at ``rows``, in that order; weights and table stay whole."""
        if np.array_equal(rows, np.arange(len(self.rows))):
            return self
        poses = self.poses
        if poses is not None:
            poses = ParticlePoses(poses.rotations[rows], poses.translations[rows])
        return replace(
            self,
            rows=self.rows[rows],
            names=self.names.take(rows),
            paths=self.paths.take(rows),
            mean=None if self.mean is None else self.mean[rows],
            deviation=None if self.deviation is None else self.deviation[rows],
            weight_index=self.weight_index[rows],
            premultiplied=self.premultiplied[rows],
            poses=poses,
            tomograms=None if self.tomograms is None else self.tomograms[rows],
            grey=tuple(grey.take(rows) for grey in self.grey),
        )

    def grey_values(self, radius_voxels: float) -> GreyValues | None:
        """Statistics for particles of a radius, if the pack has them."""
        return next((each for each in self.grey if each.radius_voxels == radius_voxels), None)

    def used_weights(self) -> tuple[PackedWeights, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The weights that the particles have, which one each has, and where they are in the pack.

        Numbered as those of the loose files are, so that runs on a subset do not differ.
        """
        used, first, index = np.unique(self.weight_index, return_index=True, return_inverse=True)
        order = np.arange(len(used)) if self.weight_source == "tilt angles" else np.argsort(first)
        rank = np.argsort(order)
        which = used[order]
        wedges = self.weights.wedges
        chosen = replace(
            self.weights,
            which=which,
            wedges=None if wedges is None else tuple(wedges[i] for i in which),
        )
        return chosen, rank[index].astype(np.int64), which
