"""Where the time of a run goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

__all__ = ["StageClock"]


class StageClock:
    """CPU time of named stages, summed over the threads that are in them."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._lock = Lock()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what this thread does in the block. Stages must not be nested."""
        begin = time.thread_time()
        try:
            yield
        finally:
            spent = time.thread_time() - begin
            with self._lock:
                self._seconds[name] = self._seconds.get(name, 0.0) + spent

    def add(self, seconds: dict[str, float]) -> None:
        """Count what another clock has counted."""
        with self._lock:
            for name, spent in seconds.items():
                self._seconds[name] = self._seconds.get(name, 0.0) + spent

    def taken(self) -> dict[str, float]:
        """CPU seconds of each stage since this was last asked."""
        with self._lock:
            seconds, self._seconds = self._seconds, {}
            return seconds

    @property
    def seconds(self) -> dict[str, float]:
        """CPU seconds of each stage so far, in the order in which stages were first left."""
        with self._lock:
            return dict(self._seconds)

    def __str__(self) -> str:
        """Stages and their seconds, the longest first."""
        stages = sorted(self.seconds.items(), key=lambda item: -item[1])
        return ", ".join(f"{name} {seconds:.1f}" for name, seconds in stages)
