"""`faml convert`: tables, volumes and wedge lists from one format to another."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from faml.errors import ConfigurationError, InputDataError, OutputError
from faml.io.em import write_em
from faml.io.formats.images import find_particle_files, named_files, particle_files
from faml.io.formats.registry import (
    FORMATS,
    NUMBERED,
    detect_format,
    format_for_name,
    planned_files,
    read_table,
    write_table,
)
from faml.io.formats.relion import FLAVOURS
from faml.io.formats.sidecar import names_path
from faml.io.formats.table import (
    ParticleTable,
    Wedge,
    numbered_tomograms,
    rescaled,
    tomogram_numbers,
    with_voxel_size,
)
from faml.io.formats.wedge_lists import (
    check_wedge_list,
    read_wedge_list,
    with_wedge_list,
    write_wedge_list,
)
from faml.io.formats.weight_tilts import with_weight_tilts
from faml.io.mrc import read_header, read_volume, write_volume
from faml.io.star_text import read_blocks

__all__ = ["Conversion", "Converted", "convert", "parsed_rescale"]

_SIZE_COLUMNS = ("rlnTomoSizeX", "rlnTomoSizeY", "rlnTomoSizeZ")


@dataclass(frozen=True)
class Conversion:
    """What is to be converted, and how.

    Attributes
    ----------
    source, destination : Path
    target : str or None
        A key of `FORMATS`; None: by the destination's name.
    particles : Path or None
        Folder of the particle files.
    rescale : str or None
        A factor, or a voxel size with the unit (``5.4A``).
    voxel_size_angstrom : float or None
        Of the particles, before rescaling.
    tomogram_size : (float, float, float) or None
        x, y, z in voxels of the particles, before rescaling.
    tomograms, wedge_list, wedge_list_out : Path or None
    box_poses : bool
        See `write_table`.
    force : bool
        Replace files that exist, but never what is read.
    """

    source: Path
    destination: Path
    target: str | None = None
    particles: Path | None = None
    rescale: str | None = None
    voxel_size_angstrom: float | None = None
    tomogram_size: tuple[float, float, float] | None = None
    tomograms: Path | None = None
    wedge_list: Path | None = None
    wedge_list_out: Path | None = None
    box_poses: bool = False
    force: bool = False


@dataclass(frozen=True)
class Converted:
    """What was converted into what.

    Attributes
    ----------
    source, target : str
        In words.
    count : int
        Particles, tomograms of a wedge list, or 1 volume.
    files : tuple of Path
    lost, notes : tuple of str
        As `losses.Written`, with the notes of reading before those of writing.
    """

    source: str
    target: str
    count: int
    files: tuple[Path, ...]
    lost: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


def convert(wanted: Conversion) -> Converted:
    """Convert one file.

    Raises
    ------
    ConfigurationError
        Settings that do not fit the file, or something needed that is not known.
    InputDataError
        A file that is missing or malformed.
    OutputError
        The destination exists (without ``force``), is an input, or cannot be written.
    """
    if wanted.destination.name in {"", ".."}:
        raise OutputError(f"{wanted.destination}: expected the name of a file to write")
    kind = detect_format(wanted.source)
    if kind == "volume":
        return _convert_volume(wanted)
    if kind == "wedge list":
        return _convert_wedge_list(wanted)
    table = read_table(wanted.source, wanted.voxel_size_angstrom)
    target = wanted.target or format_for_name(wanted.destination, table.format)
    if target == "relion":
        target = table.format if table.format in FLAVOURS else "relion3.1"
    if target not in FORMATS:
        raise ConfigurationError(
            f"--to {target}: unknown format; expected one of relion, {', '.join(FORMATS)}"
        )
    source = FORMATS[table.format]
    if wanted.voxel_size_angstrom is not None:
        table = with_voxel_size(table, wanted.voxel_size_angstrom)
    if wanted.wedge_list is not None:
        table = with_wedge_list(table, read_wedge_list(wanted.wedge_list), wanted.wedge_list)
    if target == "dynamo":
        table = with_weight_tilts(table)
    table = _with_files(table, wanted, target)
    sizes = _tomogram_sizes(table, wanted)
    table, sizes, notes = _rescaled(table, sizes, wanted)
    table = _with_box(table, wanted)
    wedges = _wedges_out(table, wanted, target)
    _refuse_overwriting(wanted, planned_files(wanted.destination, table, target), table)
    written = write_table(wanted.destination, table, target, sizes, box_poses=wanted.box_poses)
    if wanted.wedge_list_out is not None:
        more = write_wedge_list(wanted.wedge_list_out, wedges, table.voxel_size_angstrom)
        files = (*written.files, wanted.wedge_list_out)
        written = replace(written, files=files, notes=(*written.notes, *more))
    return Converted(
        source=source,
        target=FORMATS[target],
        count=len(table),
        files=written.files,
        lost=written.lost,
        notes=(*table.notes, *notes, *written.notes, *_unreadable(table, target)),
    )


def parsed_rescale(text: str, voxel_size_angstrom: float | None) -> float:
    """Factor of ``2`` or of ``5.4A`` (a voxel size to come to).

    Raises
    ------
    ConfigurationError
        No number above zero, or a voxel size where that of the particles is not known.
    """
    match = re.fullmatch(r"\s*([0-9.eE+-]+)\s*(A|Å|Angstrom)?\s*", text)
    try:
        number = float(match.group(1)) if match else 0.0
    except ValueError:
        number = 0.0
    if match is None or not 0.0 < number < np.inf:
        raise ConfigurationError(
            f"--rescale {text}: expected a factor such as 2, or a voxel size such as 5.4A"
        )
    if match.group(2) is None:
        return number
    if voxel_size_angstrom is None:
        raise ConfigurationError(
            f"--rescale {text}: the voxel size of the particles is not known; give --voxel-size"
        )
    return voxel_size_angstrom / number


def _rescaled(
    table: ParticleTable, sizes: npt.NDArray[np.float64] | None, wanted: Conversion
) -> tuple[ParticleTable, npt.NDArray[np.float64] | None, tuple[str, ...]]:
    if wanted.rescale is None:
        return table, sizes, ()
    factor = parsed_rescale(wanted.rescale, table.voxel_size_angstrom)
    table = rescaled(table, factor)
    size = table.voxel_size_angstrom
    at = "" if size is None else f" ({size:.4g} A)"
    notes = [
        f"shifts and coordinates are for boxes of {factor:g} times as many voxels{at}: extract the "
        "particles anew"
    ]
    if table.images is not None and wanted.particles is None:
        notes.append(
            "names of particle files and weight volumes are still those of the boxes before "
            "rescaling: put in the new ones (--particles FOLDER)"
        )
    elif table.weight_images is not None:
        notes.append(
            "names of weight volumes are still those of the boxes before rescaling: put in the new "
            "ones"
        )
    return table, None if sizes is None else sizes * factor, tuple(notes)


def _with_files(table: ParticleTable, wanted: Conversion, target: str) -> ParticleTable:
    """The table with the names of the particle files, where the target has room for them."""
    if target not in FLAVOURS:
        return table
    if table.images is None:
        if wanted.particles is not None:
            files: tuple[Path, ...] | None = particle_files(table, wanted.particles)
        else:
            files = find_particle_files(table)
        if files is None:
            return table
        note = f"particle files are those in {files[0].parent}"
        names = tuple(os.path.abspath(path) for path in files)
        return replace(table, images=names, notes=(*table.notes, note))
    if wanted.particles is None:
        return table
    named = named_files(wanted.particles.expanduser(), table.images)
    missing = [path.name for path in named if not os.path.isfile(path)]
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise InputDataError(
            f"{wanted.particles}: expected the files of {len(named)} particles, {len(missing)} of "
            f"them not found: {shown}"
        )
    return replace(table, images=tuple(os.path.abspath(path) for path in named))


def _with_box(table: ParticleTable, wanted: Conversion) -> ParticleTable:
    """The table with the edge of the boxes, where a particle file is there to tell."""
    if not table.images:
        return table
    here = wanted.source.absolute().parent
    for base in (here, *here.parents, Path.cwd()):
        path = base / table.images[0]
        if os.path.isfile(path) and path.suffix.lower() in {".mrc", ".em"}:
            edge = read_header(path).shape[0]
            factor = 1.0 if wanted.particles is not None else table.box_factor
            return replace(table, box=round(edge * factor))
    return table


def _tomogram_sizes(table: ParticleTable, wanted: Conversion) -> npt.NDArray[np.float64] | None:
    """Sizes of the tomograms in voxels of the particles, (3,) or (N, 3)."""
    if wanted.tomograms is None:
        if wanted.tomogram_size is None:
            return None
        sizes = np.array(wanted.tomogram_size, dtype=np.float64)
        if not ((sizes > 0) & np.isfinite(sizes)).all():
            raise ConfigurationError("--tomogram-size: expected three sizes above zero in voxels")
        return sizes
    known = _sizes_angstrom(wanted.tomograms)
    if table.tomograms is None or table.voxel_size_angstrom is None:
        raise ConfigurationError(
            f"--tomograms: {table.path} names no tomograms or no voxel size; give --tomogram-size "
            "X Y Z instead, or --voxel-size"
        )
    missing = sorted(set(table.tomograms) - set(known))
    if missing:
        raise InputDataError(
            f"{wanted.tomograms}: expected the tomograms of {table.path}, {len(missing)} of them "
            f"not found: {', '.join(missing[:3])}"
        )
    sizes = np.array([known[name] for name in table.tomograms], dtype=np.float64)
    return sizes / table.voxel_size_angstrom


def _sizes_angstrom(path: Path) -> dict[str, tuple[float, ...]]:
    """Sizes in Angstrom by tomogram, of RELION's tomograms.star."""
    needed = ("rlnTomoName", "rlnTomoTiltSeriesPixelSize", *_SIZE_COLUMNS)
    for block in read_blocks(path).blocks.values():
        table = pd.DataFrame([block]) if isinstance(block, dict) else block
        if not set(needed) <= set(table.columns):
            continue
        numbers = table[list(needed[1:])].apply(pd.to_numeric, errors="coerce").to_numpy(float)
        if not (np.isfinite(numbers) & (numbers > 0)).all():
            raise InputDataError(f"{path}: expected sizes and pixel sizes above zero")
        names = table["rlnTomoName"].astype(str)
        return {
            name: tuple(size * row[0] for size in row[1:])
            for name, row in zip(names, numbers, strict=True)
        }
    raise InputDataError(
        f"{path}: expected RELION's tomograms.star with {', '.join(needed)}, found no such table; "
        "give --tomogram-size X Y Z instead"
    )


def _refuse_overwriting(
    wanted: Conversion, files: tuple[Path, ...], table: ParticleTable | None = None
) -> None:
    """Inputs are never written to, other files only with ``force``, none twice."""
    inputs = [wanted.source, wanted.wedge_list, wanted.tomograms]
    if table is not None and table.format in NUMBERED:
        inputs.append(names_path(wanted.source, table.format))
    read = {os.path.realpath(path) for path in inputs if path is not None}
    if wanted.wedge_list_out is not None:
        files = (*files, wanted.wedge_list_out)
    written: set[str] = set()
    for path in files:
        real = os.path.realpath(path)
        if real in read or (os.path.lexists(path) and _is_image(path, wanted, table)):
            raise OutputError(
                f"{path}: is an input, which is never written to; choose another name"
            )
        if real in written:
            raise OutputError(f"{path}: two files of this name are to be written; choose another")
        if os.path.lexists(path) and not wanted.force:
            raise OutputError(f"{path}: exists already; choose another name or give --force")
        written.add(real)


def _is_image(path: Path, wanted: Conversion, table: ParticleTable | None) -> bool:
    """Whether a file is a particle or weight volume of the table."""
    names = () if table is None else (*(table.images or ()), *(table.weight_images or ()))
    here = wanted.source.absolute().parent
    files = (
        base / name
        for name in set(names)
        if Path(name).name == path.name
        for base in (here, *here.parents, Path.cwd())
    )
    return any(os.path.realpath(file) == os.path.realpath(path) for file in files)


def _wedges_out(table: ParticleTable, wanted: Conversion, target: str) -> dict[int, Wedge]:
    """Wedges for ``--wedge-list-out``, by the numbers that tomograms have in what is written."""
    if wanted.wedge_list_out is None:
        return {}
    if table.wedges is None or not all(table.wedges):
        raise ConfigurationError(
            f"--wedge-list-out: the tilts of {table.path} are not all known; leave it out"
        )
    known: dict[int, Wedge] = {}
    by_target = target in NUMBERED and table.tomograms is not None
    numbers = tomogram_numbers(table, target) if by_target else numbered_tomograms(table)
    for number, wedge in zip(numbers.tolist(), table.wedges, strict=True):
        if known.setdefault(number, wedge) != wedge:
            raise ConfigurationError(
                f"--wedge-list-out: particles of tomogram {number} of {table.path} have different "
                "tilts, which a list by tomogram cannot hold; leave it out"
            )
    check_wedge_list(wanted.wedge_list_out, known)
    return known


def _unreadable(table: ParticleTable, target: str) -> tuple[str, ...]:
    names = table.images or ()
    if target in FLAVOURS and any(name.lower().endswith(".em") for name in names):
        return (
            "RELION and Warp read no .em files: convert the particles too (faml convert A.em A.mrc "
            "--voxel-size SIZE); faml reads them",
        )
    return ()


def _convert_volume(wanted: Conversion) -> Converted:
    suffix = wanted.destination.suffix.lower()
    if suffix not in {".mrc", ".em"}:
        raise ConfigurationError(
            f"{wanted.destination}: a volume is written as .mrc or .em; choose such a name"
        )
    volume = read_volume(wanted.source)
    size = wanted.voxel_size_angstrom or volume.header.voxel_size_angstrom
    _refuse_overwriting(wanted, (wanted.destination,))
    lost: tuple[str, ...] = ()
    if suffix == ".em":
        write_em(wanted.destination, volume.values)
        lost = () if size is None else (f"voxel size {size:g} A",)
    else:
        if size is None:
            raise ConfigurationError(
                f"{wanted.source}: the voxel size is not known; give --voxel-size in Angstrom"
            )
        write_volume(wanted.destination, volume.values, size)
    return Converted(
        f"{wanted.source.suffix.lstrip('.').upper()} volume",
        f"{suffix.lstrip('.').upper()} volume",
        1,
        (wanted.destination,),
        lost,
    )


def _convert_wedge_list(wanted: Conversion) -> Converted:
    wedges = read_wedge_list(wanted.source)
    _refuse_overwriting(wanted, (wanted.destination,))
    notes = write_wedge_list(wanted.destination, wedges, wanted.voxel_size_angstrom)
    star = wanted.destination.suffix.lower() == ".star"
    target = "STOPGAP wedge list" if star else "EM wedge list"
    lost: tuple[str, ...] = ()
    if wanted.source.suffix.lower() == ".star" and not star:
        lost = ("single tilts, doses and defoci: smallest and largest tilt are kept",)
    return Converted("wedge list", target, len(wedges), (wanted.destination,), lost, notes)
