"""What a run leaves behind: class averages, a RELION STAR file and the wedge it needs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from faml.conventions import (
    FloatArray,
    matrices_to_relion_angles_deg,
    translations_to_relion_origins,
)
from faml.errors import OutputError
from faml.io.dataset import Dataset
from faml.io.mrc import write_volume
from faml.io.star import (
    ANGLE_COLUMNS,
    ORIGIN_COLUMNS,
    PIXEL_ORIGIN_COLUMNS,
    Block,
    write_star,
)
from faml.particles import full_cube

__all__ = [
    "CHECKPOINT_NAME",
    "ParticleResults",
    "class_path",
    "prepare_output_directory",
    "refuse_links",
    "start_path",
    "stored_starts",
    "write_class_averages",
    "write_particles",
]

CHECKPOINT_NAME = "run.h5"
_STAR_NAME = "particles.star"
_DUPLICATES_NAME = "duplicates.star"
_WEDGE_NAME = "wedge.mrc"
_VERSION = 30001
_ASSUMED_OPTICS = {
    "rlnVoltage": "300.000000",
    "rlnSphericalAberration": "2.700000",
    "rlnAmplitudeContrast": "0.100000",
}


@dataclass(frozen=True)
class ParticleResults:
    """What was found for N particles, in the order of the data set.

    Attributes
    ----------
    classes : (N,) int
        Zero-based; files count from one.
    rotations : (N, 3, 3) float
    translations : (N, 3) float
        x, y, z in voxels.
    probabilities : (N,) float
        Posterior mass of the best pose.
    log_likelihoods : (N,) float
    log_evidences : (N,) float
        What the structure explains of each, in nats (famlLogEvidence).
    outliers : (N,) bool
        famlOutlier.
    duplicates : (N,) bool
        Left out of ``particles.star`` and listed in ``duplicates.star``.
    halves : (N,) int or None
        Half-set, 0 or 1; RELION's rlnRandomSubset counts from one.
    """

    classes: npt.NDArray[np.integer]
    rotations: FloatArray
    translations: FloatArray
    probabilities: FloatArray
    log_likelihoods: FloatArray
    log_evidences: FloatArray
    outliers: npt.NDArray[np.bool_]
    duplicates: npt.NDArray[np.bool_]
    halves: npt.NDArray[np.integer] | None = None


def prepare_output_directory(path: str | Path, inputs: Iterable[Path] = ()) -> Path:
    """Create the directory of a new run, or accept an existing one without a run in it.

    Parameters
    ----------
    path : path
    inputs : iterable of Path
        Files that must not lie there, since results could overwrite them.

    Raises
    ------
    OutputError
        It holds a run (``run.h5``) or files of the input, is no directory, or cannot be written to.
    """
    directory = Path(path)
    place = directory.resolve()
    for file in inputs:
        if file.resolve().parent == place:
            raise OutputError(
                f"{directory} holds the input ({file.name}), which results could overwrite; choose "
                "another output directory"
            )
    left = [directory / CHECKPOINT_NAME, *stored_starts(directory)]
    for file in left:
        if file.exists():
            raise OutputError(
                f"{directory} holds another run ({file.relative_to(directory)}); continue it with "
                f"`faml resume {directory}` or choose another output directory"
            )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # os.access lies on network file systems and for root: try it.
        probe = directory / f".faml-{os.getpid()}.tmp"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"{directory}: cannot be used as output directory ({error.strerror}); choose one you "
            "can write to"
        ) from error
    return directory


def refuse_links(*paths: Path) -> None:
    """Refuse to write through what leads out of a run's directory.

    A directory that comes from elsewhere may hold links under the names of results. Files that are
    replaced as a whole (`io.atomic`) replace a link; this is for folders and the log, which stay.

    Raises
    ------
    OutputError
        One of the paths is a link, or neither a file nor a folder.
    """
    for path in paths:
        if path.is_symlink() or (path.exists() and not (path.is_file() or path.is_dir())):
            raise OutputError(
                f"{path}: expected a file or folder of faml, found a link or a special file, which "
                "is not written to; remove it"
            )


def start_path(directory: Path, number: int) -> Path:
    """Checkpoint of one of several starts, from 1: ``starts/start_01.h5``."""
    return directory / "starts" / f"start_{number:02d}.h5"


def stored_starts(directory: Path) -> tuple[Path, ...]:
    """Checkpoints of the starts that a run has begun."""
    return tuple(sorted((directory / "starts").glob("start_*.h5")))


def class_path(directory: Path, class_index: int) -> Path:
    """File of a class, zero-based index: ``class_001.mrc`` for class 0."""
    return directory / f"class_{class_index + 1:03d}.mrc"


def write_class_averages(
    directory: Path, volumes: FloatArray, voxel_size_angstrom: float
) -> tuple[Path, ...]:
    """Write ``class_001.mrc`` ... from (K, n, n, n) averages; raises OutputError."""
    paths = tuple(class_path(directory, index) for index in range(len(volumes)))
    for path, volume in zip(paths, volumes, strict=True):
        write_volume(path, volume, voxel_size_angstrom)
    return paths


def write_particles(directory: Path, dataset: Dataset, results: ParticleResults) -> Path:
    """Write ``particles.star`` (and ``wedge.mrc`` where the input has no weight volumes).

    Columns, other tables and the order of the input are kept; class, angles, origins, posterior
    probability, log-likelihood, evidence and whether it is an outlier are overwritten in place or
    added. Duplicates, if any, are in ``duplicates.star`` instead. File names become absolute,
    so that both RELION (which resolves them against where it is started) and faml find them.

    Returns
    -------
    Path
        The STAR file.

    Raises
    ------
    OutputError
        Results for another number of particles, or a file cannot be written.
    """
    if len(results.classes) != len(dataset.particles):
        raise OutputError(
            f"expected results for {len(dataset.particles)} particles, found {len(results.classes)}"
        )
    comment = "Written by faml."
    if dataset.star is None:
        blocks, particles_block, version = _new_blocks(dataset), "particles", _VERSION
        comment += (
            "\nAssumed, since MRC files do not say: voltage 300 kV, spherical aberration 2.7 mm, "
            "amplitude contrast 0.1."
        )
    else:
        blocks = dict(dataset.star.blocks)
        particles_block, version = dataset.star.particles_block, dataset.star.version
        blocks[particles_block] = dataset.star.particles.iloc[dataset.rows].copy()
        if "optics" in blocks and dataset.star.optics is not None:
            blocks["optics"] = _with_voxel_size(dataset.star.optics, dataset)
    table = blocks[particles_block]
    if not isinstance(table, pd.DataFrame):  # read_star and _new_blocks make tables
        raise OutputError(f"data_{particles_block} is not a table")
    table = _with_images(table, directory, dataset)
    in_pixels = "optics" not in blocks and set(PIXEL_ORIGIN_COLUMNS) & set(table.columns)
    table = _with_results(
        table, results, dataset.particles.voxel_size_angstrom, in_pixels=bool(in_pixels)
    )
    (directory / _DUPLICATES_NAME).unlink(missing_ok=True)  # of an earlier end of the same run
    if results.duplicates.any():
        left_out = blocks | {particles_block: table[results.duplicates]}
        write_star(directory / _DUPLICATES_NAME, left_out, version, comment)
    blocks[particles_block] = table[~results.duplicates]
    path = directory / _STAR_NAME
    write_star(path, blocks, version, comment)
    return path


def _new_blocks(dataset: Dataset) -> dict[str, Block]:
    """RELION 3.1 tables for particles that came without a STAR file."""
    count = len(dataset.particles)
    optics = {
        "rlnOpticsGroup": "1",
        "rlnOpticsGroupName": "opticsGroup1",
        "rlnImagePixelSize": f"{dataset.particles.voxel_size_angstrom:.6f}",
        "rlnImageSize": str(dataset.particles.box),
        "rlnImageDimensionality": "3",
        **_ASSUMED_OPTICS,
        "rlnCtfDataAreCtfPremultiplied": "0",
    }
    particles = {
        "rlnImageName": [str(path) for path in dataset.paths],
        "rlnMicrographName": [path.parent.name or "unknown" for path in dataset.paths],
        "rlnOpticsGroup": ["1"] * count,
    }
    return {
        "optics": pd.DataFrame([optics], dtype=object),
        "particles": pd.DataFrame(particles, dtype=object),
    }


def _with_voxel_size(optics: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    """The optics table, with --voxel-size in it where that replaced the file's."""
    voxel_size = dataset.particles.voxel_size_angstrom
    sizes = pd.to_numeric(optics.get("rlnImagePixelSize"), errors="coerce")
    if sizes is None or np.isclose(sizes.iloc[0], voxel_size, rtol=1e-6):
        return optics
    changed = optics.copy()
    used = changed.index
    if dataset.star is not None and "rlnOpticsGroup" in changed:
        groups = set(dataset.star.particles.get("rlnOpticsGroup", changed["rlnOpticsGroup"]))
        used = changed.index[changed["rlnOpticsGroup"].isin(groups)]
    changed.loc[used, "rlnImagePixelSize"] = f"{voxel_size:.6f}"
    return changed


def _with_images(table: pd.DataFrame, directory: Path, dataset: Dataset) -> pd.DataFrame:
    """Absolute image and weight names; a wedge volume is written where there was none."""
    table = table.copy()
    table["rlnImageName"] = [os.path.abspath(path) for path in dataset.paths]
    if dataset.weight_source == "volumes":
        index = dataset.particles.weight_index
        table["rlnCtfImage"] = [os.path.abspath(dataset.weight_paths[i]) for i in index]
        return table
    if dataset.weight_source == "tilt images":
        return table
    names = _write_wedges(directory, dataset)
    if "rlnCtfImage" in table:
        table["rlnCtfImage"] = names
    else:
        table.insert(table.columns.get_loc("rlnImageName") + 1, "rlnCtfImage", names)
    return table


def _write_wedges(directory: Path, dataset: Dataset) -> list[str]:
    """The wedge of each particle as a volume, one file for each distinct one; their names."""
    particles = dataset.particles
    used = np.unique(particles.weight_index)
    paths = {
        int(which): directory / (_WEDGE_NAME if len(used) == 1 else f"wedge_{number:03d}.mrc")
        for number, which in enumerate(used, 1)
    }
    for which, path in paths.items():
        weight = particles.weight(which)
        if dataset.weight_source == "tilt angles" and not dataset.premultiplied.any():
            # Amplitudes of a tomogram are those of the structure, which only a mask leaves alone.
            weight = (weight > 0).astype(np.float32)
        write_volume(path, full_cube(weight), particles.voxel_size_angstrom)
    return [os.path.abspath(paths[int(which)]) for which in particles.weight_index]


def _with_results(
    table: pd.DataFrame,
    results: ParticleResults,
    voxel_size_angstrom: float,
    *,
    in_pixels: bool,
) -> pd.DataFrame:
    """The table with class, pose, probability and log-likelihood."""
    table = table.copy()
    angles = matrices_to_relion_angles_deg(results.rotations)
    scale = 1.0 if in_pixels else voxel_size_angstrom
    origins = translations_to_relion_origins(results.translations, scale)
    table["rlnClassNumber"] = [str(int(index) + 1) for index in results.classes]
    for column, values in (
        *zip(ANGLE_COLUMNS, angles.T, strict=True),
        *zip(PIXEL_ORIGIN_COLUMNS if in_pixels else ORIGIN_COLUMNS, origins.T, strict=True),
        ("rlnMaxValueProbDistribution", results.probabilities),
        ("rlnLogLikeliContribution", results.log_likelihoods),
        ("famlLogEvidence", results.log_evidences),
    ):
        table[column] = _formatted(values)
    table["famlOutlier"] = [str(int(outlier)) for outlier in results.outliers]
    if results.halves is not None:
        table["rlnRandomSubset"] = [str(int(half) + 1) for half in results.halves]
    return table


def _formatted(values: FloatArray) -> list[str]:
    # Adding zero turns -0.000000 into 0.000000.
    return [f"{value:.6f}" for value in np.round(np.asarray(values, dtype=np.float64), 6) + 0.0]
