"""How time grows with resolution, and the constants of one machine and one data set."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

__all__ = ["BASE_BYTES", "Constants", "PowerLaw", "constants_from", "usual_constants"]

BASE_BYTES = 450 * 2**20
"""Interpreter, libraries, compiled kernels and tables, where they were not measured."""
_SHELL = 12
_CANDIDATES = 50
_VISIT_S = 0.07
"""Measured in CPU seconds, 32^3 and 64^3 alike: one particle, one class, one iteration at r_max 12
with 50 candidates. 0.05 where low shells rule out most shifts, 0.09 where a CTF leaves them weak;
twice that on a busy machine."""
_VISIT_EXPONENT = 2.5
"""Of r_max: 0.025 s at r_max 6 (busy), 1.0 s at 31 (idle). Global searches stop growing at a sixth
of the diameter, and the rest has r_max^3 components."""
_GROUP_S = 0.2
"""Of one class of each fold, whatever the number of particles: references and M-step, at r_max 12.
Busy 0.3 to 0.4."""
_GROUP_EXPONENT = 1.0
_USUAL_SPREAD = 0.5
_STEEPEST = 4.0
"""Exponent beyond the points: volumes of r_max^3 that are searched a little more finely."""


@dataclass(frozen=True)
class PowerLaw:
    """Seconds at each shell: powers between the points, and the nearest one beyond them.

    Attributes
    ----------
    shells : tuple of float
        Ascending.
    seconds : tuple of float
        Above zero.
    exponent : float
        Where there is one point only.
    """

    shells: tuple[float, ...]
    seconds: tuple[float, ...]
    exponent: float = _VISIT_EXPONENT

    def at(self, shell: float) -> float:
        """Seconds at a shell."""
        exponent, place = self.exponent, 0
        if len(self.shells) > 1:
            place = min(max(bisect_left(self.shells, shell), 1), len(self.shells) - 1) - 1
            (a, b), (p, q) = self.shells[place : place + 2], self.seconds[place : place + 2]
            exponent = math.log(q / p) / math.log(b / a)
            if not self.shells[0] <= shell <= self.shells[-1]:  # chance must not turn it round
                exponent = min(max(exponent, 0.0), _STEEPEST)
            if shell > b:
                place += 1
        return self.seconds[place] * (shell / self.shells[place]) ** exponent


@dataclass(frozen=True)
class Constants:
    """What a run of some particles with some settings takes on a machine.

    Attributes
    ----------
    visit : PowerLaw
        CPU seconds of a particle in an iteration that aligns up to a shell, for all classes.
    spread : float
        Relative uncertainty of it.
    last_visit : float
        A visit of the last pass, which refines poses and sums all shells, relative to the others.
    start_s, opening_s : float
        CPU seconds of a particle before the first iteration: its power and first sums; its grey
        values.
    references, averages : PowerLaw
        CPU seconds of one group's references for a shell, and of one M-step of sums up to a shell.
    bookkeeping_s : float
        Of a particle in an iteration, in the process in charge.
    iteration_s : float
        Of an iteration, whatever the number of particles.
    adding_s, writing_s, copying_s : float
        For each byte of sums that are added, and of a checkpoint that is written and that is
        copied.
    base_bytes : float
        Of a process that knows no particles.
    dataset_bytes, sent_bytes, name_bytes : float
        Of a particle: what the process in charge keeps, what each worker is told, and its name.
    volume_bytes, weight_bytes : float
        Of a particle: what a visit reads.
    packed : bool
        Particles are in a pack.
    grey_known : bool
        No volume is read to begin.
    busy : bool
        The machine had more to do than it has cores: CPU seconds may be twice those of an idle one.
    particles : tuple of int
        How many were visited at each shell of `visit`; none where nothing was measured.
    """

    visit: PowerLaw
    spread: float
    last_visit: float
    start_s: float
    opening_s: float
    references: PowerLaw
    averages: PowerLaw
    bookkeeping_s: float
    iteration_s: float
    adding_s: float
    writing_s: float
    copying_s: float
    base_bytes: float
    dataset_bytes: float
    sent_bytes: float
    name_bytes: float
    volume_bytes: float
    weight_bytes: float
    packed: bool = False
    grey_known: bool = False
    busy: bool = False
    particles: tuple[int, ...] = ()


def constants_from(values: dict[str, Any]) -> Constants:
    """Constants that were written as JSON (`dataclasses.asdict`)."""
    read = {
        name: PowerLaw(tuple(value["shells"]), tuple(value["seconds"]), value["exponent"])
        for name, value in values.items()
        if isinstance(value, dict)
    }
    return Constants(**(values | read | {"particles": tuple(values["particles"])}))


def usual_constants(classes: int, candidates: int, box: int) -> Constants:
    """Of a usual machine (`_VISIT_S` and so on), where nothing was measured.

    Parameters
    ----------
    classes, candidates, box : int
    """
    visit = _VISIT_S * classes * candidates / _CANDIDATES
    half = 0.5 * classes * _GROUP_S
    return Constants(
        visit=PowerLaw((_SHELL,), (visit,)),
        spread=_USUAL_SPREAD,
        last_visit=1.5,
        start_s=0.1 * visit,
        opening_s=2e-9 * box**3,
        references=PowerLaw((_SHELL,), (half,), _GROUP_EXPONENT),
        averages=PowerLaw((_SHELL,), (half,), _GROUP_EXPONENT),
        bookkeeping_s=5e-6,
        iteration_s=0.0,
        adding_s=1e-9,
        writing_s=2e-9,
        copying_s=5e-10,
        base_bytes=BASE_BYTES,
        dataset_bytes=300.0,
        sent_bytes=100.0,
        name_bytes=20.0,
        volume_bytes=4.0 * box**3,
        weight_bytes=0.0,
    )
