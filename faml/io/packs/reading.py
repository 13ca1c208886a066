"""Open a pack: all that is known about the particles, and of the volumes nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import h5py
import numpy as np
import numpy.typing as npt

from faml.errors import InputDataError
from faml.io.files import read_head
from faml.io.formats.registry import HDF5_SIGNATURE
from faml.io.formats.table import TiltRange
from faml.io.grey_values import GreyValues
from faml.io.packs.content import Pack
from faml.io.packs.ranges import RangeFile, StoredArrays, read_column
from faml.io.packs.readers import AGAIN, PackedWeights
from faml.io.packs.texts import Paths, Texts
from faml.io.star import RelionStar
from faml.io.star_text import Block, LazyBlocks, StarText, blocks_of_text
from faml.io.wedge_files import WeightSource
from faml.particles import ParticlePoses

__all__ = ["FORMAT", "KIND", "is_hdf5", "open_pack", "table_of_pack"]

KIND = "faml particle pack"
FORMAT = 1
_DEEPEST = 4
"""Groups within groups."""
_LONGEST_NAME = 1 << 14
_LONGEST_TABLE = 1 << 32
"""Bytes. What is compressed may be of any size, and is not read before it is known."""


def is_hdf5(path: Path) -> bool:
    """Whether a file is HDF5, by its first bytes; False where it cannot be read."""
    try:
        return read_head(path, len(HDF5_SIGNATURE)) == HDF5_SIGNATURE
    except InputDataError:
        return False


def open_pack(path: Path) -> Pack:
    """Open a pack without reading a volume.

    Raises
    ------
    InputDataError
        No pack (a checkpoint, another HDF5 file), a newer one, or one that is damaged.
    """
    path = path.absolute()
    with _opened(path) as file:
        _check_kind(path, file)
        _refuse_links(path, file)
        status = os.stat(path)
        return _read(path, file, RangeFile(path, (status.st_size, status.st_mtime_ns)))


def table_of_pack(path: Path) -> StarText:
    """The table that was packed, under its own path.

    Raises
    ------
    InputDataError
        As `open_pack`, or loose files were packed.
    """
    star = open_pack(path).star
    if star is None:
        raise InputDataError(
            f"{path}: expected a particle table, found a pack of loose files, which had none; give "
            "the particles.star of a run on it"
        )
    return StarText(star.path, star.version, dict(star.blocks))


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file; whatever is wrong with it is an InputDataError."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except (OSError, KeyError, IndexError, RuntimeError, ValueError, TypeError,
            AttributeError, OverflowError, MemoryError) as error:  # fmt: skip
        raise InputDataError(
            f"{path}: cannot be read as a particle pack ({_first_line(error)}); {AGAIN}"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _check_kind(path: Path, file: h5py.File) -> None:
    if "kind" not in file.attrs or _attribute(file, "kind") != KIND:
        if "last_iteration" in file.attrs:
            raise InputDataError(
                f"{path}: expected particles, found the checkpoint of a run; give the particles "
                f"that it ran on or its particles.star, or go on with: faml resume {path.parent}"
            )
        raise InputDataError(
            f"{path}: expected a particle pack of faml, found another HDF5 file; give the particle "
            "files, or a pack that faml pack has written"
        )
    written = int(_attribute(file, "format"))
    if not 1 <= written <= FORMAT:
        raise InputDataError(
            f"{path}: expected a particle pack of format 1 to {FORMAT}, found {written}; update "
            "faml, or write it anew with faml pack"
        )


def _refuse_links(path: Path, group: h5py.Group, depth: int = 0) -> None:
    """What a pack holds lies in it: nothing elsewhere is read because a file says so."""
    if depth > _DEEPEST:  # perhaps a group within itself
        raise InputDataError(
            f"{path}: {group.name} lies deeper than anything in a pack does; {AGAIN}"
        )
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise InputDataError(
                f"{path}: {group.name.rstrip('/')}/{name} is a link, which packs do not have; "
                f"{AGAIN}"
            )
        item = group[name]
        if isinstance(item, h5py.Group):
            _refuse_links(path, item, depth + 1)
        elif item.external or item.is_virtual:
            raise InputDataError(
                f"{path}: the data of {item.name} lie in another file, which those of packs do "
                f"not; {AGAIN}"
            )


def _read(path: Path, file: h5py.File, ranges: RangeFile) -> Pack:
    particles, stored = file["particles"], file["weights"]
    count, box = len(particles["values"]), int(_attribute(file, "box"))

    values = StoredArrays.of_dataset(particles, "values", ranges)
    weights = StoredArrays.of_dataset(stored, "values", ranges)
    distinct = len(weights)
    names = Texts(_texts(particles, "names", count))
    index = read_column(particles, "weight_index", np.int64, (count,))
    amplitudes = None
    if "amplitudes" in stored:
        amplitudes = StoredArrays.of_dataset(stored, "amplitudes", ranges)
    amplitude_index = read_column(stored, "amplitude_index", np.int64, (distinct,))
    half = np.dtype(values.dtype) == np.float16
    size = float(_attribute(file, "voxel_size"))
    for what, fine in (
        ("no particles", count > 0),
        ("a box of another size", values.shape == (box,) * 3),
        ("weights of another size", weights.shape == (box, box, box // 2 + 1)),
        ("no voxel size", 0 < size < np.inf),
        ("values of another type", np.dtype(values.dtype).kind == "f"),
        ("weights that are not there", index.min() >= 0 and index.max() < distinct),
        ("amplitudes that are not there",
         amplitude_index.max() < (0 if amplitudes is None else len(amplitudes))),
    ):  # fmt: skip
        if not fine:
            raise ValueError(f"found {what}")
    poses = None
    if "rotations" in particles:
        poses = ParticlePoses(
            read_column(particles, "rotations", np.float64, (count, 3, 3)),
            read_column(particles, "translations", np.float64, (count, 3)),
        )
    described = json.loads(_long_text(file, "description"))
    if described["weight_source"] not in {*get_args(WeightSource)} - {"missing"}:
        raise ValueError(f"found weights from {described['weight_source']!r}")
    wedges = described["wedges"]
    return Pack(
        path=path,
        box=box,
        voxel_size_angstrom=size,
        arrays=values,
        rows=np.arange(count, dtype=np.int64),
        names=names,
        paths=Paths(_texts(particles, "paths", count)),
        mean=read_column(particles, "mean", np.float32, (count,)) if half else None,
        deviation=read_column(particles, "deviation", np.float32, (count,)) if half else None,
        weights=PackedWeights(
            weights=weights,
            amplitudes=amplitudes,
            amplitude_index=amplitude_index,
            which=np.arange(distinct, dtype=np.int64),
            wedges=None if wedges is None else tuple(
                tuple(TiltRange(float(low), float(high), axis) for low, high, axis in wedge)
                for wedge in wedges
            ),
        ),
        weight_source=described["weight_source"],
        weight_index=index,
        weight_power=read_column(stored, "power", np.float64, (distinct,)),
        weight_paths=Paths(
            _texts(stored, "paths", distinct) if "paths" in stored else np.array([], dtype="S1")
        ),
        premultiplied=read_column(particles, "premultiplied", np.bool_, (count,)),
        poses=poses,
        tomograms=(
            read_column(particles, "tomograms", np.int64, (count,))
            if "tomograms" in particles
            else None
        ),
        grey=tuple(_grey(group, count) for group in file["grey"].values()),
        star=_star(path, file["table"]) if "table" in file else None,
        input_format=str(described["input_format"]),
        header_sizes=tuple((float(each), int(times)) for each, times in described["header_sizes"]),
        modes=tuple(map(int, described["modes"])),
        warnings=tuple(described["warnings"]),
        weight_warnings=tuple(described["weight_warnings"]),
        pose_warnings=tuple(described["pose_warnings"]),
    )  # fmt: skip


def _attribute(item: Any, name: str) -> Any:
    """One number or text of an attribute.

    Texts of variable length are not read: they lie in a heap without a checksum, whose damage has
    made HDF5 search for ever.
    """
    identity = item.attrs.get_id(name)
    if identity.shape != () or identity.dtype.kind not in "iufS":
        raise ValueError(f"{name} is of type {identity.dtype}")
    value = item.attrs[name]
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def _long_text(group: h5py.Group, name: str) -> str:
    """Text of any length, which is stored as bytes."""
    shape = group[name].shape
    if len(shape) != 1 or shape[0] > _LONGEST_TABLE:
        raise ValueError(f"{name} has the shape {shape}")
    stored: bytes = read_column(group, name, np.uint8, shape).tobytes()
    return stored.decode("utf-8", "surrogateescape")


def _texts(group: h5py.Group, name: str, length: int) -> npt.NDArray[np.bytes_]:
    """Texts of one length, padded."""
    dtype = group[name].dtype
    if dtype.kind != "S" or dtype.itemsize > _LONGEST_NAME:
        raise ValueError(f"{group.name}/{name} is no list of texts")
    return read_column(group, name, dtype, (length,))


def _grey(group: h5py.Group, count: int) -> GreyValues:
    table = {
        each.name: read_column(group, each.name, np.float64, (count,))
        for each in fields(GreyValues)[1:]
    }
    return GreyValues(float(_attribute(group, "radius_voxels")), **table)


def _star(path: Path, table: h5py.Dataset) -> RelionStar:
    """The table, whose text is read from the pack when it is needed."""
    origin, version = Path(_attribute(table, "path")), int(_attribute(table, "version"))
    block = _attribute(table, "particles_block")

    def load() -> dict[str, Block]:
        with _opened(path) as file:
            text = _long_text(file, "table")
        return blocks_of_text(origin, text)

    return RelionStar(origin, version, LazyBlocks(load), block)
