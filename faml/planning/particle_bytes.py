"""What a data set holds of each particle, in memory, on disk and for workers."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

import numpy as np

from faml.io.dataset import Dataset
from faml.particles import ParticleSet
from faml.particles.kept import FirstKept, LastKept

__all__ = ["bytes_held", "name_bytes", "volume_bytes", "weight_bytes"]

_SAMPLE = 200


def bytes_held(value: Any, count: int) -> float:
    """Bytes per particle of all arrays and sequences over ``count`` particles within a value.

    What is the same however many particles there are is left out, as are volumes and weights that
    are kept while a run goes on.
    """
    return sum(_own_bytes(each, count) for each in _within(value, count, set())) / count


def _within(value: Any, count: int, seen: set[int]) -> Iterator[Any]:
    if id(value) in seen or isinstance(value, type | FirstKept | LastKept | Path | np.generic):
        return
    seen.add(id(value))
    listed = isinstance(value, tuple | list) and len(value) == count and count > 1
    if listed or isinstance(value, np.ndarray | bytes):
        yield value
    elif isinstance(value, tuple | list | dict):
        members = value.values() if isinstance(value, dict) else value
        for each in members:
            yield from _within(each, count, seen)
    elif isinstance(value, FunctionType | MethodType):
        # A closure holds what was compressed for later.
        function = value.__func__ if isinstance(value, MethodType) else value
        for cell in getattr(function, "__closure__", None) or ():
            yield from _within(cell.cell_contents, count, seen)
    elif type(value).__module__.startswith("faml.") and hasattr(value, "__dict__"):
        for each in vars(value).values():
            yield from _within(each, count, seen)


def _own_bytes(value: Any, count: int) -> float:
    if isinstance(value, np.ndarray):
        return float(value.nbytes) if value.ndim and len(value) == count else 0.0
    if isinstance(value, bytes):  # a table
        return float(len(value))
    return count * (8 + _mean(sys.getsizeof(each) for each in _some(value)))


def name_bytes(particles: ParticleSet) -> float:
    """Mean length of the names."""
    return _mean(len(name.encode()) for name in _some(particles.names))


def volume_bytes(dataset: Dataset) -> float:
    """Bytes of a particle's volume, or tilt images, on disk."""
    pack, box = dataset.pack, dataset.particles.box
    if pack is not None:
        return float(box**3 * np.dtype(pack.arrays.dtype).itemsize)
    return _mean(_size(path) for path in _some(dataset.paths))


def weight_bytes(dataset: Dataset) -> float:
    """Bytes of weights that each visit reads: none where few are kept, or where tilts say them."""
    particles = dataset.particles
    distinct = int(particles.weight_index.max()) + 1
    if not dataset.weight_paths or distinct <= particles.weights_kept:
        return 0.0
    return _mean(_size(path) for path in _some(dataset.weight_paths))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # whoever reads it says what is wrong
        return 0


def _some(values: Sequence[Any]) -> Iterator[Any]:
    """A few, from all of them."""
    for index in range(0, len(values), max(1, len(values) // _SAMPLE)):
        yield values[index]


def _mean(values: Iterator[Any]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0
