"""What is kept in memory of what was read: the last few things used, or the first that fit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["FirstKept", "LastKept"]

T = TypeVar("T")


class LastKept(Generic[T]):
    """The values used last, by number; safe to use from several threads.

    What a pickle of it holds is how many are kept, not the values.

    Parameters
    ----------
    count : int
        Values kept at most.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._values: OrderedDict[int, T] = OrderedDict()
        self._lock = Lock()

    def get(self, index: int, make: Callable[[], T]) -> T:
        """Value ``index``, made if it is not kept.

        Made outside the lock: where each particle has a value of its own, all threads make them.
        """
        with self._lock:
            known = self._values.get(index)
            if known is not None:
                self._values.move_to_end(index)
                return known
        made = make()
        with self._lock:
            self._values[index] = made
            while len(self._values) > self.count:
                self._values.popitem(last=False)
        return made

    def __len__(self) -> int:
        return len(self._values)

    def __reduce__(self) -> tuple[Any, ...]:
        return LastKept, (self.count,)


class FirstKept:
    """Arrays, the first that came as long as they fit; safe to use from several threads.

    Particles are visited again and again in one order. Of such a cycle the last used are never the
    next ones, so what is kept stays.

    Parameters
    ----------
    limit_bytes : int
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.bytes = 0
        self._values: dict[int, npt.NDArray[Any]] = {}
        self._lock = Lock()

    def get(self, index: int, make: Callable[[], npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """Array ``index``, made if it is not kept; read-only if it is."""
        known = self._values.get(index)
        if known is not None:
            return known
        made = make()
        with self._lock:
            if self.bytes + made.nbytes <= self.limit_bytes and index not in self._values:
                made = np.ascontiguousarray(made)
                made.setflags(write=False)
                self._values[index] = made
                self.bytes += made.nbytes
        return made

    def __len__(self) -> int:
        return len(self._values)

    def __reduce__(self) -> tuple[Any, ...]:
        return FirstKept, (self.limit_bytes,)
