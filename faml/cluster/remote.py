"""What runs on a Dask worker. Everything that tasks share is made once per process and pass."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from threading import Lock
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

from faml.clock import StageClock
from faml.errors import ClusterError, FamlError
from faml.kernels._jit import kernel_cache_directory

__all__ = ["Done", "Parcel", "fingerprint", "keep", "processor", "work"]

T = TypeVar("T")
_PACKAGES = ("faml", "numpy", "scipy", "numba")

_begun: dict[tuple[str, str], tuple[Any, StageClock]] = {}
_lock = Lock()


@dataclass(frozen=True)
class Done:
    """The result of a task, the CPU seconds spent in each stage for it, and the processor."""

    result: Any
    seconds: dict[str, float]
    processor: str


def fingerprint() -> tuple[tuple[str, str], ...]:
    """Versions that all workers must share for results to be the same."""
    found = [(name, version(name)) for name in _PACKAGES]
    return (*found, ("kernels", kernel_cache_directory().name))


_MINE = fingerprint()  # of what was imported, whatever is installed later


@dataclass(frozen=True)
class Parcel:
    """Something that many tasks need, under the name by which a process knows it."""

    key: str
    value: Any
    fingerprint: tuple[tuple[str, str], ...] = _MINE


@cache
def processor() -> str:
    """Name of this machine's processor, for which Numba compiles."""
    import llvmlite.binding

    return f"{platform.machine()} {llvmlite.binding.get_host_cpu_name()}"


def keep(parcel: Parcel) -> Parcel:
    """Make a parcel the result of a task: workers hand it on, and if lost it is made again."""
    return parcel


def work(task: Callable[[Any, T], Any], plan: Parcel, particles: Parcel, item: T) -> Done:
    """Run one task of a plan.

    Raises
    ------
    ClusterError
        This worker has other versions.
    FamlError
        What the task raises; the worker is added to its message.
    """
    _check(plan.fingerprint)
    try:
        shared, clock = _shared(plan, particles)
        return Done(task(shared, item), clock.taken(), processor())
    except FamlError as error:
        raise type(error)(f"{error} (on worker {platform.node()})") from error
    except OSError as error:
        raise ClusterError(f"worker on {platform.node()}: {error}") from error


def _shared(plan: Parcel, particles: Parcel) -> tuple[Any, StageClock]:
    """What the plan makes of the particles in this process."""
    key = (plan.key, particles.key)
    with _lock:
        if key not in _begun:
            threadpool_limits(limits=1)  # as on one machine: more would change the order of sums
            clock = StageClock()
            _begun.clear()  # what the pass before has needed
            _begun[key] = plan.value.begin(particles.value, clock), clock
        return _begun[key]


def _check(wanted: tuple[tuple[str, str], ...]) -> None:
    mine = dict(_MINE)
    for name, there in wanted:
        if mine.get(name) != there:
            raise ClusterError(
                f"worker on {platform.node()}: expected {name} {there} as where the run was "
                f"started, found {mine.get(name)}; install the same versions everywhere"
            )
