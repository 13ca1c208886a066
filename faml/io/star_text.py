"""STAR as text: data blocks whose values are kept as they stood in the file.

What the blocks mean is in `faml.io.star` (RELION) and `faml.io.formats` (other programs).
"""

from __future__ import annotations

import linecache
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pandas as pd
import starfile

from faml.errors import InputDataError
from faml.io.atomic import write_text_atomic

__all__ = [
    "Block",
    "StarText",
    "line_of_row",
    "read_blocks",
    "star_text",
    "write_star",
]

Block: TypeAlias = "pd.DataFrame | dict[str, str]"
"""A loop (table) or a list of single values; everything is text."""

_DEFAULT_VERSION = 30001
_VALUE = re.compile(r"""\"[^"]*\"|'[^']*'|\S+""")


@dataclass(frozen=True)
class StarText:
    """The data blocks of a file.

    Attributes
    ----------
    path : Path
    version : int
        RELION's format version from the file's comment, 30001 if there is none.
    blocks : dict of str to DataFrame or dict
        Every data block in order, by name; all values are text.
    explicit_empty : bool
        Somewhere a value is an explicit empty string.
    """

    path: Path
    version: int
    blocks: dict[str, Block]
    explicit_empty: bool


@dataclass(frozen=True)
class _Row:
    """Where a row of a loop stands and how many values it has."""

    line: int
    values: int
    labels: int


def read_blocks(path: str | Path) -> StarText:
    """Read every block of a STAR file.

    Raises
    ------
    InputDataError
        Missing or unreadable file, no STAR file, or a row with another number of values than its
        table has columns, naming its line.
    """
    path = Path(path)
    text = _read_text(path)
    version = re.search(r"^#\s*version\s+(\d+)", text, re.MULTILINE)
    return StarText(
        path=path,
        version=int(version.group(1)) if version else _DEFAULT_VERSION,
        blocks=_parse(path, text),
        explicit_empty=re.search(r"""\s(""|'')""", text) is not None,
    )


def line_of_row(path: Path, block: str, row: int) -> int | None:
    """Line, from 1, on which row ``row`` (from 0) of a loop stands; None if it is not there.

    For messages: the file is read again.
    """
    try:
        rows = _loop_rows(path.read_text(encoding="utf-8")).get(block, [])
    except (OSError, UnicodeDecodeError):
        return None
    return rows[row].line if row < len(rows) else None


def star_text(blocks: dict[str, Block], version: int, comment: str = "") -> str:
    """STAR text of data blocks whose values are text already.

    RELION reads the format from the ``# version`` comment before each table.
    """
    lines = [f"# {line}" for line in comment.splitlines()]
    for name, block in blocks.items():
        lines += ["", f"# version {version}", "", f"data_{name}", ""]
        if isinstance(block, dict):
            lines += [f"_{key} {_quoted(value)}" for key, value in block.items()]
        else:
            lines.append("loop_")
            lines += [f"_{key} #{index}" for index, key in enumerate(block.columns, 1)]
            rows = zip(*(map(_quoted, block[key]) for key in block.columns), strict=True)
            lines += [" ".join(row) for row in rows]
        lines.append("")
    return "\n".join(lines) + "\n"


def write_star(path: Path, blocks: dict[str, Block], version: int, comment: str = "") -> None:
    """Write `star_text` atomically; raises OutputError if that fails."""
    write_text_atomic(path, star_text(blocks, version, comment))


def _quoted(value: object) -> str:
    text = "nan" if value is None or value != value else str(value)  # noqa: PLR0124
    return f'"{text}"' if not text or re.search(r"[\s#]", text) else text


def _read_text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputDataError(f"{path}: the file does not exist; check the path") from error
    except UnicodeDecodeError as error:
        raise InputDataError(f"{path}: not a STAR file (not text)") from error
    except OSError as error:
        raise InputDataError(f"{path}: cannot be read ({error.strerror})") from error
    if not re.search(r"^\s*data_", text, re.MULTILINE):
        raise InputDataError(f"{path}: not a STAR file: expected a line that starts with data_")
    return text


def _parse(path: Path, text: str) -> dict[str, Block]:
    """All blocks with all values as text."""
    columns = sorted(set(re.findall(r"^\s*_(\S+)", text, re.MULTILINE)))
    # starfile reads through linecache, which would serve an earlier version of the file.
    linecache.checkcache(str(path))
    try:
        found = starfile.read(path, always_dict=True, parse_as_string=columns)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise InputDataError(f"{path}: malformed STAR file ({_reason(text, error)})") from error
    if any(re.search(r"[\s/]", name) for name in found):
        raise InputDataError(
            f"{path}: a table row begins with data_, which starts a new table in STAR; put another "
            "column first or rename the folder"
        )
    return {
        name: {key: str(value) for key, value in block.items()}
        if isinstance(block, dict)
        else block.astype(object)
        for name, block in found.items()
    }


def _reason(text: str, error: Exception) -> str:
    """What is wrong, with the line where that can be told."""
    for name, rows in _loop_rows(text).items():
        for row in rows:
            if row.values != row.labels:
                return (
                    f"line {row.line}, data_{name}: expected {row.labels} values, one for each "
                    f"column, found {row.values}"
                )
    return (
        f"{error}; every row needs as many values as the table has columns, and no row may begin "
        "with data_"
    )


def _loop_rows(text: str) -> dict[str, list[_Row]]:
    """Rows of every loop, by the name of its block."""
    rows: dict[str, list[_Row]] = {}
    name, labels, looping = "", 0, False
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("data_"):
            name, labels, looping = line.split()[0][len("data_") :], 0, False
        elif line == "loop_":
            looping = True
        elif line.startswith("_"):
            labels += 1
        elif looping:
            found = len(_VALUE.findall(line.split(" #")[0]))
            rows.setdefault(name, []).append(_Row(number, found, labels))
    return rows
