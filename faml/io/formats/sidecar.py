"""Names of tomograms beside tables that have numbers only: Dynamo's table map.

A text file; each line has a number and a name. Beside ``a.tbl`` it is Dynamo's own ``a.doc``.
Beside motive lists it is only for faml: ``a.em.doc``, ``a.star.doc``, so that tables that differ in
the suffix alone do not share it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from faml.errors import InputDataError
from faml.io.atomic import write_text_atomic
from faml.io.files import read_text

__all__ = ["names_path", "read_names", "write_names"]


def names_path(table: Path, source: str) -> Path:
    """Where the names of the tomograms of a table in the format ``source`` are."""
    return table.with_suffix(".doc") if source == "dynamo" else Path(f"{table}.doc")


def read_names(table: Path, source: str) -> dict[int, str]:
    """Names by number; empty if there is no table map.

    Raises
    ------
    InputDataError
        Not text, a line that does not begin with a number and a name after it, or a number or
        name twice.
    """
    path = names_path(table, source)
    if not os.path.isfile(path):  # which also says no where the path cannot be
        return {}
    text = read_text(path, f"the table map of {table.name}; correct or remove it")
    names: dict[int, str] = {}
    taken: set[str] = set()
    for number, line in enumerate(text.splitlines(), 1):
        parts = line.split(maxsplit=1)
        if not parts:
            continue
        if len(parts) != 2 or not re.fullmatch(r"\d{1,15}", parts[0]):
            raise InputDataError(
                f"{path}, line {number}: expected the number of a tomogram and its name, found "
                f"{line.strip()!r}; correct or remove this table map"
            )
        index, name = int(parts[0]), parts[1].strip()
        if names.get(index, name) != name or (name in taken and index not in names):
            raise InputDataError(
                f"{path}, line {number}: expected one name for each tomogram, found number {index} "
                f"or name {name!r} again; correct or remove this table map"
            )
        names[index] = name
        taken.add(name)
    return names


def write_names(
    table: Path, source: str, numbers: Iterable[int], names: Sequence[str]
) -> list[Path]:
    """Write the table map where names are more than the numbers; the files written, none or one.

    One that is there already is replaced in any case: it would name other tomograms.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    pairs = dict(zip(map(int, numbers), names, strict=True))
    path = names_path(table, source)
    if all(name == str(number) for number, name in pairs.items()) and not os.path.lexists(path):
        return []
    text = "".join(f"{number} {name}\n" for number, name in sorted(pairs.items()))
    write_text_atomic(path, text)
    return [path]
