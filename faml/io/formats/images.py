"""Particle files of tables that know particles by number only (Dynamo, AV3, STOPGAP).

``particle_000001.mrc``, ``subtomo_1.em``: what counts is the number at the end of the name.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from faml.errors import InputDataError
from faml.io.formats.table import ParticleTable

__all__ = ["find_particle_files", "named_files", "particle_files"]

_NAME = re.compile(r"^(?P<stem>.*?)_?(?P<number>\d+)\.(?P<suffix>em|mrc|rec)$", re.IGNORECASE)
_OTHERS = re.compile(
    r"(?<![a-z])(wedge|weight|ctf|[pf]*mask|reference|ref|average|motl)(?![a-z])", re.IGNORECASE
)


def particle_files(table: ParticleTable, folder: str | Path) -> tuple[Path, ...]:
    """The file of each particle in a folder.

    Raises
    ------
    InputDataError
        No such folder, files that are missing (the first of them, and how many), or several
        series of files that all would do.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise InputDataError(f"{folder}: the folder of particles does not exist; check --particles")
    series = _series(folder)
    if not series:
        raise InputDataError(
            f"{folder}: expected particle files with a number at the end of their names "
            "(particle_000001.em or .mrc), found none; give the right --particles FOLDER"
        )
    wanted = [int(number) for number in table.numbers]
    complete = {name: files for name, files in series.items() if set(wanted) <= set(files)}
    if len(complete) > 1:
        names = ", ".join(sorted(complete))
        raise InputDataError(
            f"{folder}: expected one series of files numbered as in {table.path}, found several "
            f"({names}); move all but the particles elsewhere"
        )
    if complete:
        (files,) = complete.values()
        return tuple(files[number] for number in wanted)
    name, files = max(series.items(), key=lambda item: len(set(wanted) & set(item[1])))
    missing = [number for number in wanted if number not in files]
    shown = ", ".join(map(str, missing[:3])) + (", ..." if len(missing) > 3 else "")
    raise InputDataError(
        f"{folder}: expected files of {len(wanted)} particles named as {name}, {len(missing)} of "
        f"them not found: numbers {shown}; complete the folder or give another --particles FOLDER"
    )


def find_particle_files(table: ParticleTable, *, required: bool = False) -> tuple[Path, ...] | None:
    """The particles' files beside the table or in a folder beside it; None if there are none.

    Raises
    ------
    InputDataError
        Several folders hold files with all the numbers; or none does, if that is ``required``.
    """
    here = table.path.absolute().parent
    wanted = {int(number) for number in table.numbers}
    children = sorted(child for child in here.iterdir() if child.is_dir())
    folders = [here, *(child for child in children if os.access(child, os.R_OK | os.X_OK))]
    found = [
        folder
        for folder in folders
        if any(wanted <= set(files) for files in _series(folder).values())
    ]
    if not found:
        if required:
            raise _nowhere(table, folders, wanted)
        return None
    if len(found) > 1 and found[0] != here:
        raise InputDataError(
            f"{table.path}: several folders hold files with the numbers of its particles "
            f"({', '.join(folder.name for folder in found[:3])}); choose one with --particles"
        )
    return particle_files(table, found[0])


def _nowhere(table: ParticleTable, folders: list[Path], wanted: set[int]) -> InputDataError:
    """What is missing in the folder that comes nearest to having the particles."""
    have = [
        (len(wanted & set(files)), folder, name, files)
        for folder in folders
        for name, files in _series(folder).items()
    ]
    count, folder, name, files = max(
        have, key=lambda each: each[0], default=(0, table.path.parent, "", {})
    )
    if not count:
        return InputDataError(
            f"{table.path}: expected the particles' files (particle_000001.mrc or .em) beside the "
            "table, found none that match its numbers; give --particles FOLDER"
        )
    missing = sorted(wanted - set(files))
    shown = ", ".join(map(str, missing[:3])) + (", ..." if len(missing) > 3 else "")
    return InputDataError(
        f"{table.path}: expected files of {len(wanted)} particles, {len(missing)} of them not "
        f"found as {name} in {folder}: numbers {shown}; complete the folder or give --particles "
        "FOLDER"
    )


def named_files(folder: Path, names: Sequence[str]) -> list[Path]:
    """Files of these names in a folder, with as many of their folders as it takes to differ.

    RELION counts particles anew in the folder of every tomogram. Whether the files are there is not
    looked at.

    Raises
    ------
    InputDataError
        Different names are the same in the folder.
    """
    parts = [[part for part in Path(name).parts if part not in {"/", ".."}] for name in names]
    for depth in range(1, max(map(len, parts), default=1) + 1):
        paths = [folder.joinpath(*each[-depth:]) for each in parts]
        if len(set(paths)) == len(set(names)):
            return paths
    raise InputDataError(
        f"{folder}: expected particle files of different names, found some that differ only by "
        "'..'; correct rlnImageName"
    )


def _series(folder: Path) -> dict[str, dict[int, Path]]:
    """Files by the name that is left without their number, then by number."""
    series: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in sorted(folder.iterdir()):
        match = _NAME.match(path.name)
        if match is None or path.name.startswith(".") or _OTHERS.search(path.name):
            continue
        if path.is_file():
            name = f"{match['stem']}_*.{match['suffix'].lower()}"
            series[name].setdefault(int(match["number"]), path)
    return dict(series)
