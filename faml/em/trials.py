"""Several random starts: short runs, ranked by what held-out particles say (method.md section 9).

EM ends in the optimum its start leads to, and the likelihood of particles under averages they are
part of does not tell a good one from a bad one: each run has fitted its own noise. With folds it
does. Whether independent starts end at the same averages and classes is evidence of another kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from faml.em.folds import FEWEST_FOLDS, folds_of
from faml.em.halves import agreement, frame_reach
from faml.em.loop import EmRun
from faml.em.state import State
from faml.errors import ConfigurationError
from faml.metrics.fsc import pearson
from faml.metrics.labels import adjusted_rand_index

__all__ = ["Ranked", "Ranking", "Trials"]


@dataclass(frozen=True)
class Ranked:
    """One start and how it did.

    Attributes
    ----------
    number : int
        From 1.
    state : State
        After its last iteration.
    log_likelihood : float
        Cross-validated, of all particles, at the resolution common to all starts.
    correlation : float
        Pearson coefficient of its averages with those of the best start, in one frame and order of
        classes; mean over classes by their size.
    rand_index : float
        Adjusted Rand index of its classes and the best start's; 1 with one class.
    """

    number: int
    state: State
    log_likelihood: float
    correlation: float
    rand_index: float


@dataclass(frozen=True)
class Ranking:
    """All starts, the best first.

    Attributes
    ----------
    starts : tuple of Ranked
    align_shell : int
        Last Fourier shell of the likelihoods compared.
    """

    starts: tuple[Ranked, ...]
    align_shell: int

    @property
    def best(self) -> Ranked:
        """The start that goes on."""
        return self.starts[0]


class Trials:
    """The short runs of a run with ``em.starts`` above 1.

    Parameters
    ----------
    run : EmRun

    Raises
    ------
    ConfigurationError
        Too few particles to hold any out.
    """

    def __init__(self, run: EmRun) -> None:
        em = run.config.em
        smallest = min(len(half) for half in run.halves)
        if smallest < FEWEST_FOLDS:
            raise ConfigurationError(
                f"several starts are compared by particles held out: expected at least "
                f"{FEWEST_FOLDS} particles (in each half-set), found {smallest}; leave out "
                "--starts"
            )
        self.count = em.starts
        self._run = run
        self._keeps_folds = run.folds > 1
        short = em.model_copy(
            update={
                "starts": 1,
                "iterations": min(em.start_iterations, em.iterations),
                # Without folds there is nothing to rank by.
                "folds": run.folds if self._keeps_folds else folds_of(None, smallest),
            }
        )
        self._config = run.config.model_copy(update={"em": short})

    @property
    def run(self) -> EmRun:
        """The run that goes on with the best."""
        return self._run

    def states(self, number: int, resume_from: State | None = None) -> Iterator[State]:
        """States of start ``number``, from 1."""
        yield from self._start(number).states(resume_from)

    def rank(self, states: Sequence[State]) -> Ranking:
        """Rank the last states of starts 1, 2, ... by the likelihood of particles held out."""
        shell = min(state.align_shell for state in states)
        found = [
            self._start(number).held_out_log_likelihood(state, shell)
            for number, state in enumerate(states, start=1)
        ]
        best = states[int(np.argmax(found))]
        ranked = [
            Ranked(
                number,
                state,
                found[number - 1],
                1.0 if state is best else self._correlation(best, state, shell),
                adjusted_rand_index(best.assignments.classes, state.assignments.classes),
            )
            for number, state in enumerate(states, start=1)
        ]
        return Ranking(tuple(sorted(ranked, key=lambda each: -each.log_likelihood)), shell)

    def continued(self, state: State) -> State:
        """The state of a start as one of the run itself, which may have no folds."""
        if self._keeps_folds:
            return state.going_on()
        return replace(state.going_on(), fold_models=(), running=None)

    def best(
        self,
        kept: Callable[[int], State | None] = lambda _: None,
        on_state: Callable[[int, State], None] = lambda _, __: None,
    ) -> Ranking:
        """Carry out all starts and rank them.

        Parameters
        ----------
        kept : callable
            The last state of a start that was begun before, by its number.
        on_state : callable
            Called with the number and every new state of a start.
        """
        last = []
        for number in range(1, self.count + 1):
            reached = kept(number)
            for state in self.states(number, reached):
                on_state(number, state)
                reached = state
            assert reached is not None  # a run yields its start at least
            last.append(reached)
        return self.rank(last)

    def _start(self, number: int) -> EmRun:
        return self._run.again(self._config, start_number=number)

    def _correlation(self, best: State, other: State, align_shell: int) -> float:
        reach = frame_reach(self._run.particles.box, self._run.max_shift_voxels)
        agreed = agreement(best.model, other.model, align_shell, reach, one_frame=False)
        pairs = zip(best.model.volumes, agreed.placed(other.model.volumes), strict=True)
        return float(best.model.class_fractions @ [pearson(a, b) for a, b in pairs])
