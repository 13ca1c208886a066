"""Several random starts on disk: a checkpoint and a picture of each, and the table of all."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable
from io import StringIO
from pathlib import Path

from faml.em.state import State
from faml.em.trials import Ranking, Trials
from faml.errors import OutputError
from faml.io.atomic import write_text_atomic
from faml.io.checkpoint import HDF5Checkpoint, read_run
from faml.io.dataset import Dataset
from faml.io.output import refuse_links, start_path
from faml.results import draw_classes
from faml.run_log import log_state

__all__ = ["OnMessage", "OnState", "best_start"]

_LOG = logging.getLogger("faml")
_TABLE_NAME = "starts.csv"
_ALIKE = 0.8
"""Averages of independent starts that correlate less have not found the same."""

OnState = Callable[[State, Dataset], None]
"""Called with every new state."""
OnMessage = Callable[[str], None]
"""Called with what a user should read between iterations."""


def best_start(
    trials: Trials,
    dataset: Dataset,
    directory: Path,
    on_state: OnState | None,
    on_message: OnMessage | None,
) -> tuple[State, tuple[str, ...]]:
    """Carry out the starts of a run, or what an interrupted run has left to do of them.

    Returns
    -------
    state : State
        Where the run goes on.
    warnings : tuple of str

    Raises
    ------
    OutputError, CheckpointError
        If a file cannot be written, or one left by an earlier run cannot be read.
    """
    config = trials.run.config

    def say(text: str) -> None:
        _LOG.info(text)
        if on_message is not None:
            on_message(text)

    refuse_links(directory / "starts")
    try:
        (directory / "starts").mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{directory}: cannot be written to ({error.strerror}); make it writable"
        ) from error

    def kept(number: int) -> State | None:
        say(f"start {number} of {trials.count}")
        path = start_path(directory, number)
        return read_run(path).state if path.exists() else None

    def keep(number: int, state: State) -> None:
        path = start_path(directory, number)
        HDF5Checkpoint(path, config, dataset.particles, history=False, grey=dataset.grey).save(
            state
        )
        log_state(state, dataset, config.search.posterior_mass)
        draw_classes(path.with_suffix(".png"), state, dataset)
        if on_state is not None:
            on_state(state, dataset)

    ranking = trials.best(kept, keep)
    write_text_atomic(directory / _TABLE_NAME, _table(ranking, len(dataset.particles)))
    extent = dataset.particles.box * dataset.particles.voxel_size_angstrom
    say(
        f"starts compared by particles held out, at {extent / ranking.align_shell:.1f} Å: "
        f"{ranking.best.number} is best and goes on"
    )
    for line in _lines(ranking, len(dataset.particles)):
        say(line)
    warnings = _judged(ranking)
    for warning in warnings:
        _LOG.warning(warning)
    return trials.continued(ranking.best.state), warnings


def _lines(ranking: Ranking, count: int) -> list[str]:
    classes = len(ranking.best.state.model.class_fractions)
    top = ranking.best.log_likelihood
    return [
        f"  start {each.number:2d}  log-likelihood {(each.log_likelihood - top) / count:+8.3f} "
        f"per particle  averages like the best's {each.correlation:5.3f}"
        + (f"  classes {each.rand_index:5.3f} (adjusted Rand index)" if classes > 1 else "")
        for each in ranking.starts
    ]


def _judged(ranking: Ranking) -> tuple[str, ...]:
    """Whether another start has found what the best one found."""
    nearest = max(each.correlation for each in ranking.starts[1:])
    if nearest >= _ALIKE:
        return ()
    return (
        f"no other start has found what the best one found (correlation of averages at most "
        f"{nearest:.2f}); trust the result only as far as half-sets or more starts confirm it",
    )


def _table(ranking: Ranking, count: int) -> str:
    top = ranking.best.log_likelihood
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ("start", "iterations", "log_likelihood", "per_particle_below_best",
         "correlation_with_best", "adjusted_rand_index_with_best")
    )  # fmt: skip
    for each in ranking.starts:
        writer.writerow(
            (each.number, each.state.iteration, f"{each.log_likelihood:.2f}",
             f"{(top - each.log_likelihood) / count:.4f}", f"{each.correlation:.4f}",
             f"{each.rand_index:.4f}")
        )  # fmt: skip
    return text.getvalue()
