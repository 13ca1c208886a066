"""STAR as text: data blocks whose values are kept as they stood in the file.

What the blocks mean is in `faml.io.star` (RELION) and `faml.io.formats` (other programs).

Read here and not by the package starfile, which turns apostrophes into quotes, cuts values at
``#``, keeps one of two columns or tables of the same name, and fills up rows that end early.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import pandas as pd

from faml.errors import InputDataError, OutputError
from faml.io.atomic import write_text_atomic
from faml.io.files import read_text

__all__ = [
    "LARGEST_NUMBER",
    "Block",
    "LazyBlocks",
    "StarText",
    "blocks_of_text",
    "can_hold",
    "line_of_row",
    "read_blocks",
    "star_text",
    "write_star",
]

Block: TypeAlias = "pd.DataFrame | dict[str, str]"
"""A loop (table) or a list of single values; everything is text."""

LARGEST_NUMBER = 1e30
"""Beyond it, products of three overflow somewhere; no table means such a number."""
_DEFAULT_VERSION = 30001
_SPACE = r"[ \t\r\f\v]"
_BLANKS = re.compile(rf"{_SPACE}*")
_BARE = re.compile(r"[^ \t\r\f\v]+")
_CLOSING = {quote: re.compile(rf"{quote}(?={_SPACE}|$)") for quote in ('"', "'")}
"""A quote opens at the beginning of a value only, and closes at its end."""
_SPECIAL = re.compile(r"""[\s#]|^["'_]|^(?:data|loop)_""")
"""What a value cannot have without quotes."""


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
    """

    path: Path
    version: int
    blocks: dict[str, Block]


class LazyBlocks(Mapping[str, Block]):
    """Data blocks that are in memory only while they are needed.

    Parameters
    ----------
    load : callable
        Gives the blocks, the same each time.
    """

    def __init__(self, load: Callable[[], dict[str, Block]]) -> None:
        self._load = load
        self._blocks: dict[str, Block] | None = None

    def _loaded(self) -> dict[str, Block]:
        if self._blocks is None:
            self._blocks = self._load()
        return self._blocks

    def forget(self) -> None:
        """Free the memory; the next question loads the blocks again."""
        self._blocks = None

    def __getitem__(self, name: str) -> Block:
        return self._loaded()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded())

    def __len__(self) -> int:
        return len(self._loaded())


@dataclass
class _Scanned:
    """A block as it is being read: labels, and their values or the rows of a loop."""

    name: str
    loop: bool = False
    labels: dict[str, None] = field(default_factory=dict)
    rows: list[list[str]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)

    def block(self) -> Block:
        """The block as its readers know it."""
        if self.loop:
            return pd.DataFrame(self.rows, columns=list(self.labels), dtype=object)
        return {label: row[0] for label, row in zip(self.labels, self.rows, strict=True)}


def read_blocks(path: str | Path) -> StarText:
    """Read every block of a STAR file.

    Raises
    ------
    InputDataError
        Missing or unreadable file, no STAR file, a column or table named twice, or a row with
        another number of values than its table has columns, naming its line.
    """
    path = Path(path)
    text = _read_text(path)
    version = re.search(r"^#\s*version\s+(\d{1,9})\b", text, re.MULTILINE)
    return StarText(
        path=path,
        version=int(version.group(1)) if version else _DEFAULT_VERSION,
        blocks=blocks_of_text(path, text),
    )


def blocks_of_text(path: Path, text: str) -> dict[str, Block]:
    """Every block of STAR text; ``path`` is named in errors (InputDataError)."""
    return {name: found.block() for name, found in _scanned(path, text).items()}


def line_of_row(path: Path, block: str, row: int) -> int | None:
    """Line, from 1, on which row ``row`` (from 0) of a loop stands; None if it is not there.

    For messages: the file is read again.
    """
    try:
        found = _scanned(path, _read_text(path)).get(block)
    except InputDataError:
        return None
    return found.lines[row] if found is not None and row < len(found.lines) else None


def star_text(blocks: Mapping[str, Block], version: int, comment: str = "") -> str:
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


def write_star(path: Path, blocks: Mapping[str, Block], version: int, comment: str = "") -> None:
    """Write `star_text` atomically; raises OutputError if that fails or a value is not one line."""
    write_text_atomic(path, star_text(blocks, version, comment))


def can_hold(value: str) -> bool:
    """Whether a STAR file can hold a value: one line, no quotes of both kinds before blanks."""
    try:
        _quoted(value)
    except OutputError:
        return False
    return True


def _quoted(value: object) -> str:
    text = "nan" if value is None or value != value else str(value)  # noqa: PLR0124
    if text and not _SPECIAL.search(text):
        return text
    for quote in "\"'":
        if quote not in text and "\n" not in text and "\r" not in text:
            return f"{quote}{text}{quote}"
    for quote in "\"'":
        if not re.search(rf"{quote}\s|[\n\r]", text):
            return f"{quote}{text}{quote}"
    raise OutputError(
        f"STAR files cannot hold the value {text[:80]!r}: it has line breaks, or quotes of both "
        "kinds before blanks; rename the file or tomogram"
    )


def _read_text(path: Path) -> str:
    text = read_text(path, "a STAR file")
    if not re.search(r"^\s*data_", text, re.MULTILINE):
        raise InputDataError(f"{path}: not a STAR file: expected a line that starts with data_")
    return text


def _scanned(path: Path, text: str) -> dict[str, _Scanned]:
    """All blocks, and where their rows stand."""
    found: dict[str, _Scanned] = {}
    block: _Scanned | None = None
    for number, raw in enumerate(text.split("\n"), 1):
        values = _values(raw)
        if not values or (block is None and not values[0].startswith("data_")):
            continue
        # A row may begin with what only looks like a keyword, if it is quoted.
        plain = raw.lstrip()[:1] not in {'"', "'"}
        if plain and values[0].startswith("data_"):
            block = _Scanned(_block_name(path, number, values, found))
            found[block.name] = block
        elif block is not None:
            problem = _add(block, values, number, plain=plain)
            if problem:
                where = f"line {number}, data_{block.name}"
                raise InputDataError(f"{path}: malformed STAR file ({where}: {problem})")
    return found


def _block_name(path: Path, number: int, values: list[str], known: dict[str, _Scanned]) -> str:
    name = values[0][len("data_") :]
    if len(values) > 1 or "/" in name:
        raise InputDataError(
            f"{path}: line {number}: a table row begins with data_, which starts a new table in "
            "STAR; put another column first or rename the folder"
        )
    if name in known:
        raise InputDataError(
            f"{path}: malformed STAR file (line {number}: there is a table data_{name} already)"
        )
    return name


def _add(block: _Scanned, values: list[str], number: int, *, plain: bool) -> str | None:
    """Add a line to a block; returns what is wrong with it, if anything."""
    if plain and values == ["loop_"] and not (block.loop and block.rows):
        problem = "found loop_ again" if block.loop or block.labels else None
        block.loop = True
        return problem
    if plain and values[0].startswith("_") and (not block.loop or _is_label(block, values)):
        return _add_label(block, values, number)
    if not block.loop:
        return f"expected loop_ or a name that begins with _, found {values[0][:60]!r}"
    if len(values) != len(block.labels):
        return (
            f"expected {len(block.labels)} values, one for each column, found {len(values)}; the "
            "file may be truncated"
        )
    block.rows.append(values)
    block.lines.append(number)
    return None


def _is_label(block: _Scanned, values: list[str]) -> bool:
    """Whether a line of a loop that begins with _ is a label and not a row."""
    return not block.rows and len(values) == 1


def _add_label(block: _Scanned, values: list[str], number: int) -> str | None:
    name = values[0][1:]
    if name in block.labels:
        return f"found column {name} again; remove one of the two"
    if not block.loop:
        if len(values) != 2:
            return f"expected one value of {name}, found {len(values) - 1}"
        block.rows.append(values[1:])
        block.lines.append(number)
    block.labels[name] = None
    return None


def _values(line: str) -> list[str]:
    """Values of a line, without quotes and comments."""
    if line.isascii() and not re.search(r"[\"'#]", line):
        return line.split()
    return list(_tokens(line))


def _tokens(line: str) -> Iterator[str]:
    # All closing quotes are found once: a line may have as many opening ones as it has characters.
    closing = {
        quote: [found.start() for found in pattern.finditer(line)]
        for quote, pattern in _CLOSING.items()
    }
    at = _end(_BLANKS, line, 0)
    while at < len(line) and line[at] != "#":
        ends = closing.get(line[at], [])
        following = bisect_right(ends, at)
        if following < len(ends):
            yield line[at + 1 : ends[following]]
            at = ends[following] + 1
        else:
            start, at = at, _end(_BARE, line, at)
            yield line[start:at]
        at = _end(_BLANKS, line, at)


def _end(pattern: re.Pattern[str], line: str, start: int) -> int:
    found = pattern.match(line, start)
    return start if found is None else found.end()
