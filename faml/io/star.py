"""RELION particle STAR files (3.0, 3.1, 4, 5), read and kept untouched.

Every value is kept as the text that stood in the file: a tomogram named "01" stays "01", and
columns and tables that faml does not know are written back as they were.

Pseudo-subtomograms of RELION 4 and 5 are extracted in the frame of the subtomogram: the full
orientation in the tomogram is ``A_subtomogram A_particle``, but the box that is aligned here
already lies in the subtomogram's frame, so its pose is ``A_particle`` alone (rlnAngleRot, Tilt,
Psi). rlnTomoSubtomogramRot, Tilt and Psi are neither applied nor changed.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from faml.conventions import relion_angles_deg_to_matrices, relion_origins_to_translations
from faml.errors import InputDataError, OutputError
from faml.io.files import check_regular
from faml.io.star_text import (
    LARGEST_NUMBER,
    Block,
    LazyBlocks,
    StarText,
    blocks_of_text,
    line_of_row,
    read_blocks,
    star_text,
    write_star,
)
from faml.particles import ParticlePoses

__all__ = [
    "ANGLE_COLUMNS",
    "ORIGIN_COLUMNS",
    "PIXEL_ORIGIN_COLUMNS",
    "Block",
    "RelionStar",
    "check_pixel_sizes",
    "compacted",
    "numbers",
    "per_particle",
    "read_star",
    "resolve_images",
    "star_pixel_size",
    "star_poses",
    "star_premultiplied",
    "star_text",
    "write_star",
]

ANGLE_COLUMNS = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
ORIGIN_COLUMNS = ("rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst")
PIXEL_ORIGIN_COLUMNS = ("rlnOriginX", "rlnOriginY", "rlnOriginZ")
"""RELION 3.0 and earlier, in pixels."""

_PIXEL_TOLERANCE = 0.01
_PIXEL_RANGE = (1e-3, 1e6)
_EXTRACT_3D = (
    "extract the particles again as 3-D subtomograms: in RELION 5 set 'Write output as 2D stacks?' "
    "to No (relion_tomo_subtomo without --stack2d), in WarpTools use ts_export_particles --3d"
)


@dataclass(frozen=True)
class RelionStar:
    """A particle STAR file.

    Attributes
    ----------
    path : Path
    version : int
        RELION's format version from the file's comment, 30001 if there is none.
    blocks : mapping of str to DataFrame or dict
        Every data block in order; all values are text.
    particles_block : str
        Name of the block with one row per particle.
    """

    path: Path
    version: int
    blocks: Mapping[str, Block]
    particles_block: str

    @property
    def directory(self) -> Path:
        """Where the file lies."""
        return self.path.absolute().parent

    @property
    def particles(self) -> pd.DataFrame:
        """One row per particle, text."""
        return self.blocks[self.particles_block]

    @property
    def optics(self) -> pd.DataFrame | None:
        """One row per optics group, text; None before RELION 3.1."""
        block = self.blocks.get("optics")
        return pd.DataFrame([block]) if isinstance(block, dict) else block

    @property
    def holds_tilt_stacks(self) -> bool:
        """Whether each particle is a stack of 2-D tilt images (`faml.io.stacks`)."""
        return (
            any(_are_2d_stacks(block) for block in self.blocks.values())
            and "rlnTomoVisibleFrames" in self.particles
            and not self.particles["rlnImageName"].astype(str).str.contains("@").any()
        )

    def __len__(self) -> int:
        return len(self.particles)


def read_star(path: str | Path) -> RelionStar:
    """Read a particle STAR file and refuse what is neither 3-D subtomograms nor tilt stacks.

    Raises
    ------
    InputDataError
        Missing or malformed file, no particles, needed columns absent, or 2-D images.
    """
    found = read_blocks(path)
    star = RelionStar(
        path=found.path,
        version=found.version,
        blocks=found.blocks,
        particles_block=_find_particles(found),
    )
    _refuse_2d(star)
    return star


def compacted(star: RelionStar) -> RelionStar:
    """The same table as compressed text, of which values are made when they are asked for.

    As values, each takes some 60 bytes; a run needs them at its beginning and its end.
    """
    if isinstance(star.blocks, LazyBlocks):
        star.blocks.forget()
        return star
    try:
        text = star_text(star.blocks, star.version)
    except OutputError:  # of another program, with names that STAR files cannot hold
        return star
    stored, path = zlib.compress(text.encode("utf-8", "surrogatepass"), 1), star.path

    def load() -> dict[str, Block]:
        return blocks_of_text(path, zlib.decompress(stored).decode("utf-8", "surrogatepass"))

    return replace(star, blocks=LazyBlocks(load))


def star_pixel_size(star: RelionStar) -> float | None:
    """Voxel size in angstrom that all particles share, or None if the file does not say.

    rlnImagePixelSize of the optics groups in use; before RELION 3.1 rlnPixelSize, or
    rlnDetectorPixelSize (micrometres) over rlnMagnification.

    Raises
    ------
    InputDataError
        The groups in use disagree by more than 1 %, or a value is not a positive number.
    """
    particles = star.particles
    sizes: npt.NDArray[np.float64] | None = None
    if star.optics is not None and "rlnImagePixelSize" in star.optics:
        sizes = per_particle(star, "rlnImagePixelSize")
    elif "rlnImagePixelSize" in particles or "rlnPixelSize" in particles:
        name = "rlnImagePixelSize" if "rlnImagePixelSize" in particles else "rlnPixelSize"
        sizes = numbers(star, particles, name)
    elif {"rlnDetectorPixelSize", "rlnMagnification"} <= set(particles.columns):
        micrometres = numbers(star, particles, "rlnDetectorPixelSize")
        with np.errstate(all="ignore"):  # what comes of no magnification is refused below
            sizes = 1e4 * micrometres / numbers(star, particles, "rlnMagnification")
    if sizes is None:
        return None
    check_pixel_sizes(star.path, sizes)
    smallest, largest = int(np.argmin(sizes)), int(np.argmax(sizes))
    if sizes[largest] - sizes[smallest] > _PIXEL_TOLERANCE * sizes[largest]:
        # Lists of positions name no files.
        names = particles.get("rlnImageName", particles.index.to_series() + 1)
        raise InputDataError(
            f"{star.path}: the particles have different pixel sizes, {sizes[smallest]:g} A "
            f"({names.iloc[smallest]}) and {sizes[largest]:g} A ({names.iloc[largest]}); extract "
            "them at one pixel size or run each optics group by itself"
        )
    return float(sizes[0])


def check_pixel_sizes(path: Path, sizes: npt.NDArray[np.float64]) -> None:
    """Raise InputDataError for pixel sizes (N,) in Angstrom that no microscope has."""
    least, most = _PIXEL_RANGE
    wrong = sizes[~((sizes >= least) & (sizes <= most))]
    if wrong.size:
        raise InputDataError(
            f"{path}: expected a pixel size above zero in Angstrom, found {wrong[0]:g}"
        )


def star_poses(star: RelionStar, voxel_size_angstrom: float) -> ParticlePoses | None:
    """Poses of the boxes, method.md section 1; None if the file has no angles.

    Absent origins are zero. rlnTomoSubtomogram angles are not applied (module docstring).

    Parameters
    ----------
    star : RelionStar
    voxel_size_angstrom : float
        The one by which the origins were written.

    Raises
    ------
    InputDataError
        Only some of the angles or origins are there, or a value is not a number.
    """
    particles = star.particles
    angles = _columns(star, ANGLE_COLUMNS)
    if angles is None:
        return None
    rotations = relion_angles_deg_to_matrices(angles)
    origins = _columns(star, ORIGIN_COLUMNS)
    if origins is not None:
        translations = relion_origins_to_translations(origins, voxel_size_angstrom)
    else:
        pixels = _columns(star, PIXEL_ORIGIN_COLUMNS)
        translations = np.zeros((len(particles), 3)) if pixels is None else -pixels
    return ParticlePoses(rotations, translations)


def star_premultiplied(star: RelionStar) -> npt.NDArray[np.bool_]:
    """(N,) bool: whether each particle is multiplied by its CTF already."""
    name = "rlnCtfDataAreCtfPremultiplied"
    if star.optics is not None and name in star.optics:
        return per_particle(star, name) > 0
    if name in star.particles:
        return numbers(star, star.particles, name) > 0
    return np.zeros(len(star), dtype=np.bool_)


def numbers(star: RelionStar, table: pd.DataFrame, column: str) -> npt.NDArray[np.float64]:
    """A column as numbers; raises InputDataError naming the column and row that is not one."""
    numeric = pd.to_numeric(table[column], errors="coerce")
    values: npt.NDArray[np.float64] = numeric.to_numpy(dtype=np.float64)
    bad = np.flatnonzero(~(np.abs(values) <= LARGEST_NUMBER))
    if bad.size:
        row = int(bad[0])
        block = star.particles_block if table is star.particles else "optics"
        raise InputDataError(
            f"{star.path}: expected numbers in column {column}, found "
            f"{table[column].iloc[row]!r} in row {row + 1}{_line(star.path, block, row)}"
        )
    return values


def _line(path: Path, block: str, row: int) -> str:
    line = line_of_row(path, block, row)
    return "" if line is None else f" (line {line})"


def _find_particles(found: StarText) -> str:
    path, blocks = found.path, found.blocks
    for name, block in blocks.items():
        if isinstance(block, dict) and "rlnTomoParticlesFile" in block:
            raise InputDataError(
                f"{path}: expected a particle STAR file, found an optimisation set; give its "
                f"particles file instead: {block['rlnTomoParticlesFile']}"
            )
        if isinstance(block, pd.DataFrame) and (name == "particles" or "rlnImageName" in block):
            if "rlnImageName" not in block:
                break
            if len(block) == 0:
                raise InputDataError(f"{path}: the table of particles has no rows")
            return name
    if any("rlnAngleRot" in block or "rlnCoordinateX" in block for block in blocks.values()):
        raise InputDataError(
            f"{path}: the table of particles names no files (column rlnImageName); name the "
            f"particle files: faml convert {path} NEW.star --particles FOLDER"
        )
    tables = ", ".join(f"data_{name}" for name in blocks) or "none"
    raise InputDataError(
        f"{path}: expected a table data_particles with column rlnImageName (one 3-D subtomogram "
        f"per row), found tables: {tables}; give the particles.star written by subtomogram "
        "extraction"
    )


def _refuse_2d(star: RelionStar) -> None:
    if star.holds_tilt_stacks:
        return
    reason = None
    names = star.particles["rlnImageName"].astype(str)
    single = names.str.contains("@")
    stacked = names[single | names.str.lower().str.endswith(".mrcs")]
    if star.optics is not None and "rlnImageDimensionality" in star.optics:
        for group, value in zip(
            star.optics.get("rlnOpticsGroup", star.optics.index),
            star.optics["rlnImageDimensionality"],
            strict=True,
        ):
            if _is_number(value, 2):
                reason = f"rlnImageDimensionality is 2 in optics group {group}"
    if len(stacked):
        reason = f"rlnImageName is an image in a stack, {stacked.iloc[0]}"
    if any(_are_2d_stacks(block) for block in star.blocks.values()) and not single.any():
        reason = "rlnTomoSubTomosAre2DStacks is 1 but rlnTomoVisibleFrames is missing"
    if reason:
        raise InputDataError(
            f"{star.path}: expected 3-D subtomograms, found 2-D images ({reason}); {_EXTRACT_3D}"
        )


def _are_2d_stacks(block: Block) -> bool:
    """What a block of single values, or a table of one row, says."""
    value = block.get("rlnTomoSubTomosAre2DStacks")
    if isinstance(value, pd.Series):
        value = value.iloc[0] if len(value) == 1 else None
    return _is_number(value, 1)


def _is_number(value: object, number: int) -> bool:
    try:
        return float(str(value)) == number
    except ValueError:
        return False


def per_particle(star: RelionStar, column: str) -> npt.NDArray[np.float64]:
    """A column of the optics table for every particle."""
    optics, particles = star.optics, star.particles
    if optics is None:  # guarded by the callers
        raise InputDataError(f"{star.path}: expected a table data_optics")
    values = numbers(star, optics, column)
    if "rlnOpticsGroup" not in particles or "rlnOpticsGroup" not in optics:
        if len(optics) == 1:
            return np.repeat(values, len(particles))
        raise InputDataError(
            f"{star.path}: column rlnOpticsGroup is missing, so the particles cannot be matched "
            f"to {len(optics)} optics groups"
        )
    groups = dict(zip(optics["rlnOpticsGroup"], values, strict=True))
    unknown = sorted(set(particles["rlnOpticsGroup"]) - set(groups))
    if unknown:
        raise InputDataError(
            f"{star.path}: the particles name optics group {unknown[0]}, which data_optics lacks"
        )
    return np.array([groups[group] for group in particles["rlnOpticsGroup"]], dtype=np.float64)


def _columns(star: RelionStar, names: tuple[str, ...]) -> npt.NDArray[np.float64] | None:
    """(N, 3) of three columns, None if all are absent."""
    missing = [name for name in names if name not in star.particles]
    if len(missing) == len(names):
        return None
    if missing:
        raise InputDataError(
            f"{star.path}: column {missing[0]} is missing while "
            f"{next(n for n in names if n not in missing)} is there; give all of "
            f"{', '.join(names)} or none"
        )
    return np.stack([numbers(star, star.particles, name) for name in names], axis=1)


def resolve_images(star: RelionStar, column: str) -> tuple[Path, ...]:
    """Absolute paths of a column of file names.

    RELION writes paths relative to its project directory, which is the STAR file's directory or
    one of its parents; the current directory is tried last.

    Raises
    ------
    InputDataError
        Naming the first files that are nowhere, and how many there are.
    """
    parents = [star.directory, *star.directory.parents]
    current = Path.cwd()
    bases = parents if current in parents else [*parents, current]
    known: dict[str, Path] = {}
    missing: dict[str, None] = {}
    for name in star.particles[column].astype(str):
        if name in known or name in missing:
            continue
        for index, base in enumerate(bases):
            candidate = base / name  # an absolute name replaces the base
            if os.path.isfile(candidate):  # no, too, if its name is too long
                known[name] = Path(os.path.normpath(candidate))
                # The others most likely lie under the same base.
                bases.insert(0, bases.pop(index))
                break
        else:
            missing[name] = None
            for base in bases:
                if os.path.exists(base / name) and not os.path.isdir(base / name):
                    check_regular(base / name)  # a pipe, a device: which, this says
    if missing:
        shown = ", ".join(list(missing)[:3])
        raise InputDataError(
            f"{star.path}: expected files named in column {column}, {len(missing)} of them not "
            f"found: {shown}"
            f"{', ...' if len(missing) > 3 else ''}; they are looked for relative to the STAR "
            "file's directory, its parents and the current directory"
        )
    return tuple(known[name] for name in star.particles[column].astype(str))
