"""From what the user typed to a list of files."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from faml.errors import ConfigurationError, InputDataError

__all__ = ["InputFiles", "resolve_inputs"]

_SUSPICIOUS = re.compile(r"(wedge|weight|ctf|mask|reference|average)", re.IGNORECASE)


@dataclass(frozen=True)
class InputFiles:
    """Either one STAR file or a list of MRC files.

    Attributes
    ----------
    star : Path or None
    volumes : tuple of Path
        As the user wrote them, folders and globs expanded in natural order; empty with a STAR.
    warnings : tuple of str
    """

    star: Path | None
    volumes: tuple[Path, ...]
    warnings: tuple[str, ...] = ()


def resolve_inputs(inputs: Sequence[str]) -> InputFiles:
    """Expand MRC files, folders and globs, or take exactly one STAR file.

    A folder stands for every ``*.mrc`` directly in it; nothing is guessed from names, but names
    that look like weights or references are warned about.

    Raises
    ------
    ConfigurationError
        No input, or a STAR file mixed with other inputs.
    InputDataError
        Nothing there, or a file given twice.
    """
    if not inputs:
        raise ConfigurationError(
            "no input; give MRC files, a folder, a quoted glob or one RELION particles.star"
        )
    files: list[Path] = []
    warnings: list[str] = []
    for text in inputs:
        found, notes = _expand(text)
        files += found
        warnings += notes
    stars = [path for path in files if path.suffix.lower() == ".star"]
    if stars and len(files) > 1:
        raise ConfigurationError(
            f"expected one STAR file or MRC files, found {stars[0]} together with "
            f"{len(files) - 1} other inputs; join STAR files with relion_star_handler --combine"
        )
    if stars:
        return InputFiles(stars[0], ())
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
        files = _natural(child for child in path.iterdir() if child.suffix.lower() == ".mrc")
        files = [child for child in files if not child.name.startswith(".")]
        stars = _natural(path.glob("*.star"))
        if not files:
            hint = f"; did you mean {stars[0]}?" if stars else ""
            raise InputDataError(
                f"{text}: expected a folder of MRC files, found no *.mrc in it{hint}"
            )
        notes = []
        if stars:
            notes.append(
                f"{text} also holds {stars[0].name}, which is ignored; give the STAR file itself "
                "to use its poses and weight volumes"
            )
        return files, notes
    if path.exists():
        return [path], []
    if glob.has_magic(text):
        matches = _natural(map(Path, glob.glob(str(path), recursive=True)))
        matches = [match for match in matches if match.is_file()]
        if not matches:
            raise InputDataError(f"{text}: no file matches; check the pattern and quote it")
        return matches, []
    raise InputDataError(f"{text}: the file or folder does not exist; check the path")


def _natural(paths: Iterable[Path]) -> list[Path]:
    """Sorted so that particle_2 comes before particle_10."""
    return sorted(
        paths,
        key=lambda path: [
            (0, int(part), "") if part.isdigit() else (1, 0, part)
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
