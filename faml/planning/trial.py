"""A few iterations of a sample of particles, with a clock."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from statistics import mean, pstdev

import numpy as np

from faml.clock import StageClock
from faml.config import RunConfig
from faml.costs.laws import PowerLaw
from faml.em.loop import EmRun
from faml.em.maximization import maximise
from faml.em.schedule import LOOK_AHEAD
from faml.em.state import State
from faml.em.statistics import Statistics
from faml.particles import ParticleSet
from faml.planning.meter import Metered, MeteredWorkers
from faml.symmetry import point_group
from faml.transforms.fourier import fourier_grid, full_resolution_shell

__all__ = ["Point", "Trial", "cpu_seconds", "increasing"]

_FEWEST = 4
_BUDGET_S = 4.0
"""CPU seconds of visits at each shell, where `_FEWEST` particles do not take longer."""
_EXPONENT = 2.5
_LEAST_S = 1e-6
_MANY = 1000.0
"""Times the particles of the sample: conjugate gradients take more steps then."""


@dataclass(frozen=True)
class Point:
    """What was measured at a shell, in CPU seconds.

    Attributes
    ----------
    shell, particles : int
        Last shell of the alignment; how many were visited.
    visit_s, error : float
        Of a particle, and the relative standard error of that.
    references_s, average_s : float
        Of one group's references, and of one M-step.
    rest_s : float
        Of the iteration beside these.
    """

    shell: int
    particles: int
    visit_s: float
    error: float
    references_s: float
    average_s: float
    rest_s: float


class Trial:
    """A few iterations of a sample of particles.

    Parameters
    ----------
    sample : ParticleSet
    config : RunConfig
        Of the sample.
    explored : int
        Iterations of a run in which poses are explored.

    Attributes
    ----------
    points : list of Point
    start_s : float
        CPU seconds of a particle before the first iteration.
    last_visit : float
        A visit of the last pass, relative to one before it.
    averages : PowerLaw
        CPU seconds of an M-step by the last shell of the sums.
    state : State
        Of the last iteration.
    """

    start_s: float
    last_visit: float
    averages: PowerLaw
    state: State

    def __init__(self, sample: ParticleSet, config: RunConfig, explored: int) -> None:
        self._sample, self._config, self._explored = sample, config, explored
        self._workers, self._clock = MeteredWorkers(), StageClock()
        self.points: list[Point] = []

    def begin(self) -> None:
        """The start, and an iteration at the first shell amid those that explore poses."""
        run = self._run(self._sample, self._config)
        next(run.states())  # the first visits of a process also load compiled code
        self._workers.taken()
        start = next(run.states())
        items = self._workers.taken()
        self.start_s = sum(item.seconds for item in items) / len(self._sample)
        amid = self._explored // 2
        state = replace(start, iteration=amid, stop_reason="")
        next(run.states(state))
        self.state = self._measured(run, state)

    def march(self, top: int) -> None:
        """Settled iterations at finer shells, as far as there is time."""
        em = self._config.em
        symmetric = point_group(em.symmetry).order > 1 and em.start != "poses"
        late = em.model_copy(update={"symmetry_after": 0} if symmetric else {})
        config = self._config.model_copy(update={"em": late})
        first = self.points[0].shell
        for wanted in (round(math.sqrt(first * top)), top):
            before = self.points[-1]
            longest = before.shell * (2.5 * _BUDGET_S / (_FEWEST * before.visit_s)) ** (
                1 / _EXPONENT
            )
            shell = min(wanted, max(int(longest), before.shell))
            if shell <= before.shell:
                continue
            seconds = before.visit_s * (shell / before.shell) ** _EXPONENT
            count = min(len(self._sample), max(_FEWEST, em.classes, int(_BUDGET_S / seconds)))
            run = self._run(self._sample.subset(np.arange(count)), config)
            self.state = self._measured(
                run,
                replace(
                    self.state,
                    iteration=self._explored + 1,
                    next_align_shell=shell,
                    align_shell=shell,
                    assignments=self.state.assignments.take(slice(count)),
                    symmetry=run.symmetry.name,
                    stop_reason="",
                ),
            )
            self._last = run

    def finish(self) -> None:
        """The pass after the last iteration."""
        point = self.points[-1]
        run = self._last
        run.finish(replace(self.state, symmetry=run.symmetry.name))
        visits = _visits(self._workers.taken())
        self.last_visit = mean(_each(visits)) / point.visit_s
        seconds = {self._summed(p.shell): p.average_s for p in self.points}
        full = full_resolution_shell(self._sample.box)
        if full not in seconds:
            average = self._average_of_many(run, self.state, full)
            seconds[full] = max(average, self._clock.taken().get("averages", 0.0), _LEAST_S)
        self.averages = increasing(list(seconds), list(seconds.values()), exponent=1.0)

    def _summed(self, shell: int) -> int:
        return min(shell + LOOK_AHEAD, full_resolution_shell(self._sample.box))

    def _run(self, particles: ParticleSet, config: RunConfig) -> EmRun:
        run = EmRun(particles, config, clock=self._clock, workers=self._workers)
        self._last = run
        return run

    def _measured(self, run: EmRun, state: State) -> State:
        self._workers.taken()
        self._clock.taken()
        begin = time.process_time()
        new = next(run.states(state))
        spent = time.process_time() - begin
        items = self._workers.taken()
        stages = self._clock.taken()
        visits = _visits(items)
        each = _each(visits)
        solved = run.folds + 1 if run.folds > 1 else 1
        average = self._average_of_many(run, new, self._summed(new.align_shell))
        visit = sum(item.seconds for item in visits) / sum(item.particles for item in visits)
        references, averages = stages.get("references", 0.0), stages.get("averages", 0.0)
        counted = sum(item.seconds for item in items) + 2 * references + averages
        self.points.append(
            Point(
                shell=new.align_shell,
                particles=len(new.assignments),
                visit_s=max(visit, _LEAST_S),
                error=pstdev(each) / math.sqrt(len(each)) / visit,
                references_s=max(references / run.folds, _LEAST_S),
                average_s=max(averages / solved, average, _LEAST_S),
                rest_s=max(spent - counted, 0.0),
            )
        )
        return new

    def _average_of_many(self, run: EmRun, state: State, last: int) -> float:
        """CPU seconds of an M-step whose prior says as little as beside many particles.

        Of the sums of the last pass, up to shell ``last``.
        """
        em, box = self._config.em, self._sample.box
        if em.update != "ratio":
            return 0.0
        grid = fourier_grid(box, state.align_shell, last)
        sums = Statistics.zeros(em.classes, grid, total=True)
        for chunk in self._workers.chunks:
            sums.add(chunk)
        many = Statistics(
            **{field.name: getattr(sums, field.name) * _MANY for field in fields(sums)}
        )
        return cpu_seconds(
            lambda: maximise(
                many, state.model, grid, em, weight_maximum=None, mask=run.mask,
                symmetry=run.symmetry,
            )
        )  # fmt: skip

    @property
    def particles(self) -> ParticleSet:
        """Of the sample."""
        return self._sample

    @property
    def config(self) -> RunConfig:
        """Of the trial."""
        return self._config


def _visits(items: Sequence[Metered]) -> list[Metered]:
    return [item for item in items if item.summed]


def _each(visits: Sequence[Metered]) -> list[float]:
    return [item.seconds / item.particles for item in visits]


def increasing(
    shells: Sequence[float], seconds: Sequence[float], exponent: float = _EXPONENT
) -> PowerLaw:
    """A law through the points; of several at one shell, the last."""
    points = sorted(dict(zip(shells, seconds, strict=True)).items())
    return PowerLaw(tuple(s for s, _ in points), tuple(t for _, t in points), exponent)


def cpu_seconds(work: Callable[[], object]) -> float:
    """What something takes, in all threads."""
    begin = time.process_time()
    work()
    return time.process_time() - begin
