"""Plans and tasks that Dask workers import by name."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from faml.errors import InputDataError


@dataclass(frozen=True)
class Marks:
    """A folder in which tasks leave marks."""

    folder: Path

    def begin(self, particles, clock):
        del particles
        with clock.stage("beginning"):
            return self

    def first(self, item):
        """Whether nobody has begun this item before."""
        try:
            (self.folder / str(item)).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def square(marks, item):
    del marks
    return item * item


def die_once(marks, item):
    """Take the worker down at the first try of every third item."""
    if item % 3 == 0 and marks.first(item):
        os.kill(os.getpid(), signal.SIGKILL)
    return item * item


def die(marks, item):
    del marks, item
    os.kill(os.getpid(), signal.SIGKILL)


def hang_once(marks, item):
    """Hang at the first try of one item until that is allowed to end."""
    if item == 2 and marks.first(item):
        while not (marks.folder / "go on").exists():
            time.sleep(0.1)
    return item * item


def refuse(marks, item):
    del marks
    if item == 3:
        raise InputDataError("particle three: expected something else")
    return item


def lose_the_disk(marks, item):
    del marks, item
    raise OSError(5, "Input/output error", "particles.h5")
