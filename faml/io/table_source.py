"""Particles of a run from tables of other programs: as if they came in a RELION STAR file.

A Dynamo table, a motive list of AV3 or STOPGAP is read into the hub (`faml.io.formats`) and turned
into the tables of a RELION 3.1 STAR file in memory. All that follows (poses, tomograms, positions,
output) knows one kind of table, and what only the other program understands goes through a run
under its name.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from faml.config import DataConfig
from faml.errors import ConfigurationError, InputDataError
from faml.io.formats import ParticleTable, Wedge, read_table
from faml.io.formats.dynamo import WEDGE_COLUMNS
from faml.io.formats.images import find_particle_files, particle_files
from faml.io.formats.registry import FORMATS, columns_of_hub
from faml.io.formats.relion_write import relion_blocks
from faml.io.formats.wedge_lists import read_wedge_list, with_wedge_list
from faml.io.mrc import read_header
from faml.io.star import RelionStar

__all__ = ["TableSource", "check_table_options", "open_table", "star_wedges"]

_VERSION = 30001
_FLAVOUR = "relion3.1"


@dataclass(frozen=True)
class TableSource:
    """N particles of a table.

    Attributes
    ----------
    star : RelionStar
        The table in RELION's terms; its path is that of the table.
    paths : tuple of N Path
        Absolute.
    wedges : tuple of N Wedge, or None
    warnings : tuple of str
    """

    star: RelionStar
    paths: tuple[Path, ...]
    wedges: tuple[Wedge, ...] | None
    warnings: tuple[str, ...]


def open_table(path: Path, config: DataConfig) -> TableSource:
    """Read a table, find its particle files and its wedges.

    Raises
    ------
    ConfigurationError, InputDataError
        A malformed table, files that are missing, a particle listed twice, or no voxel size.
    """
    table = read_table(path)
    if config.particles_folder is not None:
        paths = particle_files(table, config.particles_folder)
    else:
        paths = find_particle_files(table, required=True) or ()
    paths = tuple(item.absolute() for item in paths)
    number, times = Counter(table.numbers.tolist()).most_common(1)[0]
    if times > 1:
        raise InputDataError(
            f"{path}: particle {number} is listed {times} times; every particle must be one file "
            "of its own: remove duplicates"
        )
    table = _with_wedges(table, config)
    size = config.voxel_size_angstrom if table.voxel_size_angstrom is None else None
    if table.voxel_size_angstrom is None and size is None:
        size = _header_voxel_size(paths[0])
    table = replace(
        table,
        images=tuple(str(item) for item in paths),
        voxel_size_angstrom=table.voxel_size_angstrom or size,
        box=read_header(paths[0]).shape[0],
    )
    blocks, _ = relion_blocks(table, _FLAVOUR, columns_of_hub(table.format))
    star = RelionStar(path, _VERSION, blocks, "particles")
    return TableSource(star, paths, table.wedges, (*table.notes, *_full_coverage(table, config)))


def star_wedges(star: RelionStar, config: DataConfig) -> tuple[Wedge, ...] | None:
    """Tilt ranges of a STAR file's particles: of a wedge list, or carried from a Dynamo table.

    Raises
    ------
    InputDataError
        Tomograms that the list does not know, or malformed values.
    """
    carried = f"dynamo_{WEDGE_COLUMNS[0]}" in star.particles
    if config.wedge_list is None and not carried:
        return None
    table = read_table(star.path, config.voxel_size_angstrom)
    return _with_wedges(table, config).wedges


def _with_wedges(table: ParticleTable, config: DataConfig) -> ParticleTable:
    if config.wedge_list is None:
        return table
    path = Path(config.wedge_list)
    return with_wedge_list(table, read_wedge_list(path), path)


def _header_voxel_size(path: Path) -> float:
    size = read_header(path).voxel_size_angstrom
    if size is None or abs(size - 1.0) < 1e-6:  # what programs write that do not know it
        raise InputDataError(
            f"no voxel size: neither the table nor the header of {path} gives one; give "
            "--voxel-size in angstrom"
        )
    return size


def _full_coverage(table: ParticleTable, config: DataConfig) -> tuple[str, ...]:
    """Tables are often written without tilts, which says that there is no missing wedge."""
    wedges = table.wedges or ()
    widths = [tilts.high_deg - tilts.low_deg for wedge in wedges for tilts in wedge]
    full = bool(wedges) and all(wedges) and min(widths) >= 180.0
    if not full or config.tilt_range_deg is not None:
        return ()
    return (
        f"{table.path} says that no particle has a missing wedge (ftype 0): give --tilt-range or "
        "--wedge-list if they have",
    )


def check_table_options(config: DataConfig, *, table: bool, star: bool) -> None:
    """Refuse options that belong to other inputs.

    Raises
    ------
    ConfigurationError
        ``--particles`` without a table that needs it, ``--wedge-list`` without tomograms.
    """
    if config.particles_folder is not None and not table:
        raise ConfigurationError(
            "--particles belongs to tables that know particles by number "
            f"({FORMATS['dynamo']}, {FORMATS['av3']}, {FORMATS['stopgap']}); leave it out"
        )
    if config.wedge_list is not None and not (table or star):
        raise ConfigurationError(
            "--wedge-list is by tomogram, which files alone do not tell; give --tilt-range, or a "
            "table"
        )
