"""Truth of simulated particles, and what a run has found of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from faml.conventions import (
    relion_angles_deg_to_matrices,
    relion_origins_to_translations,
    rotation_angle_deg,
)
from faml.errors import InputDataError
from faml.io.mrc import read_volume
from faml.io.star import ANGLE_COLUMNS, ORIGIN_COLUMNS, RelionStar, numbers, star_poses
from faml.particles import ParticlePoses

__all__ = ["Found", "Truth", "read_maps", "read_results", "read_truth", "true_column"]

_SAME_DEG = 0.01
"""Files keep six digits."""


def true_column(column: str) -> str:
    """Where the truth is kept that a RELION column would give away: famlTrueAngleRot, ..."""
    return "famlTrue" + column.removeprefix("rln")


@dataclass(frozen=True)
class Truth:
    """Of all simulated particles, by the name of their file.

    Attributes
    ----------
    index : dict of str to int
    poses : ParticlePoses
    labels : (N,) int64
        Zero-based.
    """

    index: dict[str, int]
    poses: ParticlePoses
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Found:
    """Of the particles of a run, beside their truth.

    Attributes
    ----------
    poses, true_poses : ParticlePoses
    classes, labels : (M,) int64
        Zero-based.
    """

    poses: ParticlePoses
    true_poses: ParticlePoses
    classes: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]


def read_maps(paths: Sequence[Path], where: Path) -> tuple[list[npt.NDArray[np.float32]], float]:
    """Maps of one shape and their voxel size in Angstrom.

    Raises
    ------
    InputDataError
        There is none, one has no voxel size, or they differ.
    """
    if not paths:
        raise InputDataError(f"{where}: expected maps class_001.mrc ..., found none")
    volumes = [read_volume(path) for path in paths]
    sizes = [volume.header.voxel_size_angstrom for volume in volumes]
    shapes = {volume.values.shape for volume in volumes}
    if None in sizes or len(shapes) > 1 or len(set(sizes)) > 1:
        raise InputDataError(
            f"{where}: expected maps of one shape and voxel size, found shapes {sorted(shapes)} "
            f"and voxel sizes {sorted(set(map(str, sizes)))}"
        )
    return [volume.values for volume in volumes], float(sizes[0] or 0.0)


def read_truth(star: RelionStar, voxel_size_angstrom: float) -> Truth:
    """The truth that `simulate.particles.write_particles` has hidden in columns of its own.

    Raises
    ------
    InputDataError
        A column is missing.
    """
    columns = [true_column(name) for name in (*ANGLE_COLUMNS, *ORIGIN_COLUMNS, "rlnClassNumber")]
    missing = [name for name in columns if name not in star.particles]
    if missing:
        raise InputDataError(
            f"{star.path}: expected the truth in {', '.join(columns)}, found no "
            f"{', '.join(missing)}; give a directory that faml simulate has written"
        )
    values = np.stack([numbers(star, star.particles, name) for name in columns], axis=1)
    poses = ParticlePoses(
        relion_angles_deg_to_matrices(values[:, :3]),
        relion_origins_to_translations(values[:, 3:6], voxel_size_angstrom),
    )
    names = [Path(str(name)).name for name in star.particles["rlnImageName"]]
    if len(set(names)) < len(names):
        raise InputDataError(f"{star.path}: expected a name of its own for each particle's file")
    return Truth(
        {name: i for i, name in enumerate(names)}, poses, values[:, 6].astype(np.int64) - 1
    )


def read_results(star: RelionStar, voxel_size_angstrom: float, truth: Truth) -> Found:
    """What a run's ``particles.star`` says, in the order of its particles.

    Raises
    ------
    InputDataError
        It has no poses or classes, or a particle is not among the simulated ones.
    """
    poses = star_poses(star, voxel_size_angstrom)
    if poses is None or "rlnClassNumber" not in star.particles:
        raise InputDataError(f"{star.path}: expected poses and classes of a run, found none")
    names = [Path(str(name)).name for name in star.particles["rlnImageName"]]
    unknown = [name for name in names if name not in truth.index]
    if unknown:
        raise InputDataError(
            f"{star.path}: expected particles of the simulation, found {unknown[0]} and "
            f"{len(unknown) - 1} others that are not; give the directory they were simulated in"
        )
    if len(set(names)) < len(names):
        raise InputDataError(
            f"{star.path}: expected a name of its own for each particle's file, found some twice; "
            "evaluate runs on one simulation"
        )
    rows = np.array([truth.index[name] for name in names])
    column = true_column(ANGLE_COLUMNS[0])
    if column in star.particles:
        # Every simulation calls its particles alike; what the run was given tells them apart.
        said = relion_angles_deg_to_matrices(
            np.stack(
                [numbers(star, star.particles, true_column(name)) for name in ANGLE_COLUMNS], axis=1
            )
        )
        if rotation_angle_deg(said, truth.poses.rotations[rows]).max() > _SAME_DEG:
            raise InputDataError(
                f"{star.path}: the particles have another truth than those of the simulation; give "
                "the directory they were simulated in"
            )
    return Found(
        poses=poses,
        true_poses=ParticlePoses(truth.poses.rotations[rows], truth.poses.translations[rows]),
        classes=numbers(star, star.particles, "rlnClassNumber").astype(np.int64) - 1,
        labels=truth.labels[rows],
    )
