"""Broken files from whole ones: bytes, text and the structure of HDF5, for `bench/fuzz.py`.

Every function takes a `random.Random`, so that an input follows from its number alone.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from random import Random
from typing import Any

import h5py
import numpy as np

__all__ = ["SECRET", "SECRET_FILE", "Mutator", "binary", "hdf5", "text"]

Mutator = Callable[[Sequence[bytes], Random], bytes]
"""From whole files to a broken one."""

SECRET = 86420.75
"""Stands in the file beside a checkpoint that no reader may open."""
SECRET_FILE = "secret.h5"

_INTEGERS = (
    *(0, 1, 2, 3, 4, 16, 127, 128, 255, 256, 1023, 1024, 32767, 32768, 65535, 65536, 1 << 24),
    *(2**31 - 1, 2**31, 2**32 - 1, 46341, 1290, 1291, 2**31 - 1024, 0xDEADBEEF),
)
_FLOATS = (0.0, -0.0, -1.0, 1e-45, 1e-30, 3.4e38, -3.4e38, float("inf"), float("nan"), 128.0)
_TOKENS = (
    *("0", "1", "-1", "2", "3", "0.0", "-0", "1e308", "-1e308", "1e-308", "1e400", "nan", "inf"),
    *("-inf", "NaN", "None", "true", "0x10", "1_000", "9" * 25, "9" * 5000, "1" + "0" * 400, "+"),
    *("1e", "1,5", "1+2i", "1j", "\uff11", "\u00b2", "\u0661", "\0", "\ufeff", "''", '""'),
    *("'", '"', "x" * 300, "x/" * 2500, "0x" + "f" * 5000),
    *("#", "[", "[]", "[1,0]", "[1,1,1]", "[1e400,0,0,0]", "[nan,0,0,0]", "{}", "=", "[[a]]"),
    *("data_", "data_particles", "loop_", "_", "_rlnImageName", "data_optics", "# version 30001"),
    *("../../../etc/passwd", "/dev/zero", "/etc/passwd", "/proc/self/environ", ".", "..", "/", "~"),
    *("a b", "\u2028", "\x85", "%s%n", "1979-05-27", "0b1"),
    *("180", "-180", "181", "90.0001", "4611686018427387904", "9223372036854775808", "16777217"),
)
_BREAKS = ("\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "", " ", "\t", "\0")
_MOST_BYTES = 1 << 17
"""Inputs stay small, whatever is doubled."""


def binary(seeds: Sequence[bytes], rng: Random) -> bytes:
    """Flips, interesting numbers, cuts, repeats and splices; most of them near the beginning."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4, 8, 16))):
        if data:
            rng.choice(_BINARY)(data, seeds, rng)
    return bytes(data[:_MOST_BYTES])


def text(seeds: Sequence[bytes], rng: Random) -> bytes:
    """Words and lines replaced, removed, repeated, exchanged; sometimes bytes."""
    lines = rng.choice(seeds).decode().split("\n")
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4, 8))):
        rng.choice(_TEXT)(lines, seeds, rng)
        lines = lines or [""]
    data = "\n".join(lines).encode("utf-8", "surrogatepass")
    if rng.random() < 0.15:
        data = binary([data or b"\n"], rng)
    return data[:_MOST_BYTES]


def hdf5(seeds: Sequence[bytes], rng: Random) -> bytes:
    """Bytes of a file, or what its objects are, or both."""
    data = rng.choice(seeds)
    kind = rng.random()
    if kind < 0.55:
        names = _names(data)
        with h5py.File.in_memory(data) as file:
            for _ in range(rng.choice((1, 1, 1, 2, 3))):
                _break_structure(file, names, rng)
            file.flush()
            data = file.id.get_file_image()
    return data if kind < 0.5 else binary([data], rng)


def _position(data: bytearray, rng: Random) -> int:
    span = min(len(data), 256) if rng.random() < 0.6 else len(data)
    return rng.randrange(span)


def _flip(data: bytearray, seeds: Sequence[bytes], rng: Random) -> None:
    data[_position(data, rng)] ^= 1 << rng.randrange(8)


def _byte(data: bytearray, seeds: Sequence[bytes], rng: Random) -> None:
    data[_position(data, rng)] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))


def _number(data: bytearray, seeds: Sequence[bytes], rng: Random) -> None:
    order, where = rng.choice("<>"), _position(data, rng) & ~3
    if rng.random() < 0.75:
        value = (rng.choice(_INTEGERS) * rng.choice((1, 1, -1))) & 0xFFFFFFFF
        word = struct.pack(f"{order}I", value)
    else:
        word = struct.pack(f"{order}f", rng.choice(_FLOATS))
    if rng.random() < 0.1:
        word = word * 2
    data[where : where + len(word)] = word


def _cut(data: bytearray, seeds: Sequence[bytes], rng: Random) -> None:
    del data[rng.randrange(len(data)) :]


def _remove(data: bytearray, seeds: Sequence[bytes], rng: Random) -> None:
    where = _position(data, rng)
    del data[where : where + rng.choice((1, 2, 4, 8, 64, 1024))]


def _repeat(data: bytearray, seeds: Sequence[bytes], rng: Random) -> None:
    where = _position(data, rng)
    piece = data[where : where + rng.choice((1, 4, 16, 256, 1024))]
    data[where:where] = piece * rng.choice((1, 2, 16))


def _splice(data: bytearray, seeds: Sequence[bytes], rng: Random) -> None:
    other = rng.choice(seeds)
    data[_position(data, rng) :] = other[rng.randrange(len(other)) :]


def _fill(data: bytearray, seeds: Sequence[bytes], rng: Random) -> None:
    where, length = _position(data, rng), rng.choice((4, 16, 64, 512))
    data[where : where + length] = rng.choice((b"\0", b"\xff", b"A")) * length


_BINARY = (_flip, _flip, _byte, _byte, _number, _number, _number, _cut, _remove, _repeat, _splice,
           _fill)  # fmt: skip


def _word(lines: list[str], seeds: Sequence[bytes], rng: Random) -> None:
    row = rng.randrange(len(lines))
    words = re.findall(r"\s+|[^\s=]+|=", lines[row]) or [""]
    words[rng.randrange(len(words))] = rng.choice(_TOKENS)
    lines[row] = "".join(words)


def _extra_word(lines: list[str], seeds: Sequence[bytes], rng: Random) -> None:
    row = rng.randrange(len(lines))
    words = lines[row].split(" ")
    words.insert(rng.randrange(len(words) + 1), rng.choice(_TOKENS))
    lines[row] = " ".join(words)


def _fewer_words(lines: list[str], seeds: Sequence[bytes], rng: Random) -> None:
    row = rng.randrange(len(lines))
    words = lines[row].split(" ")
    del words[rng.randrange(len(words))]
    lines[row] = " ".join(words)


def _column(lines: list[str], seeds: Sequence[bytes], rng: Random) -> None:
    """The same word in every line, so that no column differs from the others."""
    place, token = rng.randrange(20), rng.choice(_TOKENS)
    for row, line in enumerate(lines):
        words = line.split()
        if len(words) > max(place, 1):
            words[place] = token
            lines[row] = " ".join(words)


def _exchange(lines: list[str], seeds: Sequence[bytes], rng: Random) -> None:
    a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[a], lines[b] = lines[b], lines[a]


def _drop(lines: list[str], seeds: Sequence[bytes], rng: Random) -> None:
    where = rng.randrange(len(lines))
    del lines[where : where + rng.choice((1, 1, 1, 2, 8))]


def _again(lines: list[str], seeds: Sequence[bytes], rng: Random) -> None:
    where = rng.randrange(len(lines))
    lines[where:where] = lines[where : where + rng.choice((1, 1, 4))] * rng.choice((1, 1, 2, 50))


def _foreign(lines: list[str], seeds: Sequence[bytes], rng: Random) -> None:
    other = rng.choice(seeds).decode().split("\n")
    where, start = rng.randrange(len(lines)), rng.randrange(len(other))
    lines[where : where + rng.choice((0, 1, 3))] = other[start : start + rng.choice((1, 3, 10))]


def _cut_text(lines: list[str], seeds: Sequence[bytes], rng: Random) -> None:
    row = rng.randrange(len(lines))
    del lines[row + 1 :]
    lines[row] = lines[row][: rng.randrange(len(lines[row]) + 1)]


def _joined(lines: list[str], seeds: Sequence[bytes], rng: Random) -> None:
    row = rng.randrange(len(lines))
    lines[row : row + 2] = [rng.choice(_BREAKS).join(lines[row : row + 2])]


_TEXT = (_word, _word, _word, _word, _extra_word, _fewer_words, _column, _exchange, _drop, _again,
         _foreign, _cut_text, _joined)  # fmt: skip

_DTYPES = ("<f4", "<f8", ">f8", "<f2", "<i4", "<i8", "<u8", "?", "S5", "c16", "<u1")
_SHAPES: tuple[tuple[int, ...], ...] = (
    *((), (0,), (1,), (2,), (3,), (4,), (7,), (2, 3), (2, 4, 4, 4), (3, 3), (3, 3, 3), (4, 4, 4)),
    *((0, 4, 4, 4), (1, 1, 1, 1, 1), (2, 4, 4, 5), (5, 4, 4, 4), (1 << 12,)),
)
_HUGE: tuple[tuple[int, ...], ...] = ((1 << 40,), (2, 1 << 14, 1 << 14, 1 << 14), (1 << 31, 3, 3))
_VALUES: tuple[Any, ...] = (
    *(0, 1, -1, 2, 3, 5, 4, 2**31, 2**63 - 1, -(2**63), 0.5, 1e308, -1e308, 1e-320),
    *(float("nan"), float("inf"), -float("inf"), "", "C1", "x", "[" * 3000, '{"a": 1}', "null"),
    *("[em]\nclasses = 3", "\ufeff", b"\xff\xfe", b"bytes", True),
)


@lru_cache(maxsize=16)
def _names(data: bytes) -> tuple[str, ...]:
    """Of all objects of a file."""
    found: list[str] = []
    with h5py.File.in_memory(data) as file:
        file.visit(found.append)
    return tuple(found)


def _break_structure(file: h5py.File, names: Sequence[str], rng: Random) -> None:
    """One object or attribute becomes another; what HDF5 itself refuses is left as it is."""
    name = rng.choice(names)
    try:
        if rng.random() < 0.35:
            groups = ("/", "iterations/000000", "iterations/000001")
            _break_attribute(file[rng.choice(groups)], rng)
        else:
            parent, _, last = name.rpartition("/")
            del file[name]
            rng.choice(_REPLACEMENTS)(file[parent or "/"], last, rng)
    except (ValueError, TypeError, OSError, RuntimeError, KeyError, OverflowError):
        pass


def _break_attribute(item: h5py.Group | h5py.Dataset, rng: Random) -> None:
    names = sorted(item.attrs)
    if not names:
        return
    name = rng.choice(names)
    value = rng.choice(_VALUES)
    del item.attrs[name]
    how = rng.randrange(7)
    if how == 0:
        return
    if how == 1:
        item.attrs.create(name, h5py.Empty(rng.choice(("f8", "i8", "S3"))))
    elif how == 2:
        item.attrs.create(name, np.full(rng.choice(_SHAPES[:10]), 1, dtype=rng.choice(_DTYPES)))
    elif how == 3:
        item.attrs.create(name, item.file.ref, dtype=h5py.ref_dtype)
    else:
        item.attrs[name] = value


def _other_shape(parent: h5py.Group, name: str, rng: Random) -> None:
    values = np.zeros(rng.choice(_SHAPES), dtype=rng.choice(_DTYPES))
    if values.dtype.kind == "f":
        values += rng.choice((0.0, 1.0, np.nan, np.inf, 6e4))
    elif values.dtype.kind in "iu":
        values += rng.choice((0, 1, 100))
    parent.create_dataset(name, data=values)


def _other_numbers(parent: h5py.Group, name: str, rng: Random) -> None:
    value = rng.choice((-1, 1 << 20, 1 << 40, 1 << 62, -(2**63), 2))
    parent.create_dataset(name, data=np.full(rng.choice((1, 2, 3, 4)), value, dtype=np.int64))


def _huge(parent: h5py.Group, name: str, rng: Random) -> None:
    options: dict[str, Any] = {}
    if rng.random() < 0.7:
        options["chunks"] = True
    if rng.random() < 0.3:
        options |= {"compression": "gzip", "shuffle": True, "chunks": True}
    parent.create_dataset(name, shape=rng.choice(_HUGE), dtype=rng.choice(_DTYPES[:8]), **options)


def _compressed(parent: h5py.Group, name: str, rng: Random) -> None:
    shape = rng.choice(((2, 4, 4, 4), (3,), (1 << 18,), (64, 64, 64)))
    parent.create_dataset(name, data=np.zeros(shape, np.float32), compression="gzip", chunks=True)


def _soft(parent: h5py.Group, name: str, rng: Random) -> None:
    target = rng.choice(("/", "/iterations", "/particles/names", "/nowhere", parent.name, "."))
    parent[name] = h5py.SoftLink(target)


def _external(parent: h5py.Group, name: str, rng: Random) -> None:
    target = rng.choice((f"{parent.name}/{name}", "/", "/iterations"))
    parent[name] = h5py.ExternalLink(rng.choice((SECRET_FILE, "/dev/zero", "run.h5")), target)


def _hard(parent: h5py.Group, name: str, rng: Random) -> None:
    parent[name] = rng.choice((parent, parent.file["/"], parent.file["particles/names"]))


def _virtual(parent: h5py.Group, name: str, rng: Random) -> None:
    shape = rng.choice(_SHAPES[2:])
    layout = h5py.VirtualLayout(shape=shape, dtype="<f8")
    layout[...] = h5py.VirtualSource(SECRET_FILE, "values", shape=shape)
    parent.create_virtual_dataset(name, layout)


def _stored_outside(parent: h5py.Group, name: str, rng: Random) -> None:
    shape = rng.choice(_SHAPES[2:])
    parent.create_dataset(name, shape, "<f8", external=[(SECRET_FILE, 0, h5py.h5f.UNLIMITED)])


def _reference(parent: h5py.Group, name: str, rng: Random) -> None:
    kind = rng.choice((h5py.ref_dtype, h5py.regionref_dtype))
    parent.create_dataset(name, rng.choice(((), (2,), (3,))), dtype=kind)


def _odd_type(parent: h5py.Group, name: str, rng: Random) -> None:
    kinds = (
        np.dtype([("a", "<f4"), ("b", "<i8")]),
        np.dtype(("<f4", (3, 3))),
        h5py.vlen_dtype(np.float64),
        h5py.string_dtype(),
        np.dtype("V7"),
        h5py.enum_dtype({"a": 1, "b": 2}),
    )
    parent.create_dataset(name, rng.choice(((), (2,), (3,))), dtype=rng.choice(kinds))


def _text_data(parent: h5py.Group, name: str, rng: Random) -> None:
    values = rng.choice((["a", "b", "c"], ["a", "a", "a"], ["x" * 5000], ["", "\0", "\n"]))
    parent.create_dataset(name, data=values, dtype=h5py.string_dtype())


def _group(parent: h5py.Group, name: str, rng: Random) -> None:
    group = parent.create_group(name)
    if rng.random() < 0.5:
        group["volumes"] = np.zeros((2, 4, 4, 4), np.float32)


def _empty(parent: h5py.Group, name: str, rng: Random) -> None:
    parent[name] = h5py.Empty(rng.choice(("f4", "i8")))


def _nothing(parent: h5py.Group, name: str, rng: Random) -> None:
    """Leaves the object away."""


def _type_only(parent: h5py.Group, name: str, rng: Random) -> None:
    parent[name] = np.dtype("f8")


_REPLACEMENTS = (_other_shape, _other_shape, _other_numbers, _huge, _compressed, _soft, _external,
                 _hard, _virtual, _stored_outside, _reference, _odd_type, _text_data, _group,
                 _empty, _nothing, _type_only)  # fmt: skip
