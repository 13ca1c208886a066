"""From what the user typed to a list of files."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from faml.errors import ConfigurationError, InputDataError
from faml.io.em import is_em, read_em_header
from faml.io.files import read_head
from faml.io.formats import detect_format, read_table
from faml.io.packs.reading import is_hdf5

__all__ = ["InputFiles", "resolve_inputs"]

_VOLUME_SUFFIXES = {".mrc", ".map", ".rec", ".em"}
_HEAD_BYTES = 1024
_SUSPICIOUS = re.compile(r"(wedge|weight|ctf|mask|reference|average)", re.IGNORECASE)


@dataclass(frozen=True)
class InputFiles:
    """One table, one pack, or a list of volumes.

    Attributes
    ----------
    star : Path or None
        STAR file of RELION or Warp.
    volumes : tuple of Path
        As the user wrote them, folders and globs expanded in natural order; empty with a table.
    warnings : tuple of str
    table : Path or None
        Table of another program.
    pack : Path or None
        Particle pack, or another HDF5 file that was given as one.
    """

    star: Path | None
    volumes: tuple[Path, ...]
    warnings: tuple[str, ...] = ()
    table: Path | None = None
    pack: Path | None = None


def resolve_inputs(inputs: Sequence[str]) -> InputFiles:
    """Expand volumes, folders and globs, or take exactly one table or pack.

    A folder stands for every ``*.mrc`` directly in it, or every ``*.em`` if there are none; nothing
    is guessed from names, but names that look like weights or references are warned about.

    Raises
    ------
    ConfigurationError
        No input, or a table or pack mixed with other inputs.
    InputDataError
        Nothing there, a file given twice or of unknown kind, or a folder with a table of more
        particles than it holds.
    """
    if not inputs:
        raise ConfigurationError(
            "no input; give MRC or EM files, a folder, a quoted glob or one table (RELION's "
            "particles.star, a Dynamo table, a motive list)"
        )
    files: list[Path] = []
    warnings: list[str] = []
    for text in inputs:
        found, notes = _expand(text)
        files += found
        warnings += notes
    packs = [path for path in files if _may_be_pack(path, len(files)) and is_hdf5(path)]
    if packs and len(files) > 1:
        raise ConfigurationError(
            f"expected one particle pack or other inputs, found {packs[0]} with {len(files) - 1} "
            "other inputs; give one pack, or pack all particles together (faml pack)"
        )
    if packs:
        return InputFiles(None, (), pack=packs[0])
    tables = [path for path in files if _is_table(path)]
    if tables and len(files) > 1:
        raise ConfigurationError(
            f"expected one STAR file or MRC files, or one other table, found {tables[0]} with "
            f"{len(files) - 1} other inputs; join STAR files with relion_star_handler --combine"
        )
    if tables:
        if tables[0].suffix.lower() == ".star" and not _is_stopgap(tables[0]):
            return InputFiles(tables[0], ())
        return InputFiles(None, (), table=tables[0])
    _refuse_duplicates(files)
    suspicious = [path.name for path in files if _SUSPICIOUS.search(path.stem)]
    if suspicious and len(suspicious) < len(files):
        warnings.append(
            f"{len(suspicious)} of the files are taken as particles although their names look "
            f"like weights or references: {', '.join(suspicious[:3])}; leave them out if they are"
        )
    return InputFiles(None, tuple(files), tuple(warnings))


def _expand(text: str) -> tuple[list[Path], list[str]]:
    path = Path(text).expanduser()
    if path.is_dir():
        if (path / "run.h5").exists():
            raise InputDataError(
                f"{path}: expected particles, found results of faml; give its particles.star, or "
                "the folder of the particles"
            )
        return _folder(text, path)
    if path.exists():
        _refuse_unknown(path)
        return [path], []
    if glob.has_magic(text):
        matches = _natural(map(Path, glob.glob(str(path), recursive=True)))
        matches = [match for match in matches if match.is_file()]
        if not matches:
            raise InputDataError(f"{text}: no file matches; check the pattern and quote it")
        return matches, []
    raise InputDataError(f"{text}: the file or folder does not exist; check the path")


def _folder(text: str, path: Path) -> tuple[list[Path], list[str]]:
    """Volumes directly in a folder, and what else lies there."""
    children = _natural(child for child in path.iterdir() if not child.name.startswith("."))
    tables = [child for child in children if child.suffix.lower() in {".star", ".tbl"}]
    files = [child for child in children if child.suffix.lower() == ".mrc"]
    others = [child for child in children if child.suffix.lower() == ".em"]
    notes = []
    if files and others:
        notes.append(
            f"{text} also holds {len(others)} .em files, which are ignored; give a quoted glob to "
            "choose"
        )
    if not files:
        files = [child for child in others if not _is_table(child)]
    if not files:
        hint = f"; did you mean {tables[0]}?" if tables else ""
        raise InputDataError(
            f"{text}: expected a folder of MRC or EM files, found no *.em and no *.mrc in it{hint}"
        )
    _refuse_folder_of_table(text, tables, files)
    if tables:
        notes.append(
            f"{text} also holds {tables[0].name}, which is ignored; give the table itself to use "
            "its poses and missing wedges"
        )
    return files, notes


def _refuse_folder_of_table(text: str, tables: list[Path], volumes: list[Path]) -> None:
    """Refuse a folder whose table lists particles that lie elsewhere."""
    particles = [path for path in volumes if not _SUSPICIOUS.search(path.stem)]
    for table in tables:
        rows = _rows(table)
        if rows is None or (particles and len(particles) >= rows):
            continue
        raise InputDataError(
            f"{text}: holds {table.name} with {rows} particles, which are not the {len(volumes)} "
            f"volumes in it (the first is {volumes[0].name}); give {table}, or the volumes as a "
            "quoted glob"
        )


def _rows(table: Path) -> int | None:
    """Particles of a table; None of what is none, or cannot be read."""
    try:
        return len(read_table(table, 1.0))
    except InputDataError:
        return None


def _may_be_pack(path: Path, count: int) -> bool:
    """Whether to look into a file; of many volumes, by their names, none is opened for it."""
    return count == 1 or path.suffix.lower() not in {*_VOLUME_SUFFIXES, ".star", ".tbl"}


def _refuse_unknown(path: Path) -> None:
    """Refuse text that is no table; what is wrong with other files their readers say."""
    if path.suffix.lower() in _VOLUME_SUFFIXES or _is_table(path):
        return
    head = read_head(path, _HEAD_BYTES)
    if b"\0" in head or not head:  # no text: perhaps a volume without the usual marks
        return
    kind = f"unknown kind of file {path.suffix}" if path.suffix else "unknown kind of file"
    raise InputDataError(f"{path}: {kind}; expected .mrc, .em, .star, .tbl or .h5")


def _is_table(path: Path) -> bool:
    """Whether a file is a particle table: by suffix, and an EM file by its shape."""
    if path.suffix.lower() in {".star", ".tbl"}:
        return True
    return path.suffix.lower() == ".em" and is_em(path) and read_em_header(path).shape[0] == 1


def _is_stopgap(path: Path) -> bool:
    """Whether a STAR file is STOPGAP's; what is wrong with other files their readers say."""
    try:
        return detect_format(path) == "stopgap"
    except InputDataError:
        return False


def _natural(paths: Iterable[Path]) -> list[Path]:
    """Sorted so that particle_2 comes before particle_10."""
    return sorted(
        paths,
        key=lambda path: [
            (0, int(part), "") if part.isdecimal() else (1, 0, part)
            for part in re.split(r"(\d+)", str(path))
            if part
        ],
    )


def _refuse_duplicates(files: list[Path]) -> None:
    seen: dict[Path, Path] = {}
    for path in files:
        resolved = path.resolve()
        if resolved in seen:
            raise InputDataError(
                f"{path}: given twice (also as {seen[resolved]}); every particle must be one file "
                "of its own"
            )
        seen[resolved] = path
