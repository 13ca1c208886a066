"""Many texts in little memory: names and paths of as many particles as there may be."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import numpy as np
import numpy.typing as npt

__all__ = ["Paths", "Texts", "encoded"]

T = TypeVar("T")
_SHOWN = 3


def encoded(texts: Iterable[str]) -> npt.NDArray[np.bytes_]:
    """UTF-8 of each, as one array of elements of one length."""
    return np.array([text.encode("utf-8", "surrogateescape") for text in texts], dtype=np.bytes_)


class _Stored(Sequence[T], Generic[T]):
    """Values made of texts when asked for.

    Parameters
    ----------
    stored : (N,) bytes
        UTF-8.
    """

    def __init__(self, stored: npt.NDArray[np.bytes_]) -> None:
        self.stored = stored

    def __len__(self) -> int:
        return len(self.stored)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...
    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        if isinstance(index, slice):
            return tuple(map(self._made, self.stored[index]))
        return self._made(self.stored[index])

    def __iter__(self) -> Iterator[T]:
        return map(self._made, self.stored)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        more = ", ..." if len(self) > _SHOWN else ""
        return f"{type(self).__name__}({', '.join(map(repr, self[:_SHOWN]))}{more})"

    def take(self, rows: npt.NDArray[np.int64]) -> Any:
        """Those at ``rows``, in that order."""
        return type(self)(self.stored[rows])

    @staticmethod
    @abstractmethod
    def _made(stored: bytes) -> T:
        """One text as what it stands for."""


class Texts(_Stored[str]):
    """A sequence of text that equals a tuple of the same."""

    @staticmethod
    def _made(stored: bytes) -> str:
        return stored.decode("utf-8", "surrogateescape")


class Paths(_Stored[Path]):
    """A sequence of paths that equals a tuple of the same."""

    @staticmethod
    def _made(stored: bytes) -> Path:
        return Path(stored.decode("utf-8", "surrogateescape"))
