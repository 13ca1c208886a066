"""The whole job from Python: particle files in, an output directory out.

`run` and `resume` do what the command line does; `iterate` gives the bare generator of states.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from faml.config import RunConfig, build_config, config_to_toml
from faml.em.loop import EmRun, Progress
from faml.em.start import REFERENCE_FREE_STARTS
from faml.em.state import State
from faml.errors import CheckpointError, ConfigurationError, InputDataError
from faml.io.atomic import write_text_atomic
from faml.io.checkpoint import HDF5Checkpoint, read_run
from faml.io.dataset import Dataset, open_particles
from faml.io.mrc import read_volume
from faml.io.output import (
    ParticleResults,
    prepare_output_directory,
    write_class_averages,
    write_particles,
)
from faml.particles import ParticleSet
from faml.report.slices import write_class_slices

__all__ = ["CHECKPOINT_NAME", "RunResult", "iterate", "resume", "run", "run_config"]

CHECKPOINT_NAME = "run.h5"
_LOG = logging.getLogger("faml")

OnState = Callable[[State, Dataset], None]


@dataclass(frozen=True)
class RunResult:
    """What a run left behind.

    Attributes
    ----------
    config : RunConfig
    state : State
        The last iteration, with averages at full resolution.
    directory : Path
    maps : tuple of K Path
    star : Path
    warnings : tuple of str
    """

    config: RunConfig
    state: State
    directory: Path
    maps: tuple[Path, ...]
    star: Path
    warnings: tuple[str, ...]


def run(
    inputs: list[str | Path] | str | Path,
    output: str | Path,
    *,
    progress: Progress | None = None,
    on_state: OnState | None = None,
    **settings: Any,
) -> RunResult:
    """Average and classify particles.

    Parameters
    ----------
    inputs : path or list of paths
        MRC files, folders, globs, or one RELION STAR file.
    output : path
        Directory of the results; must not hold another run.
    progress : callable, optional
        Called with (particles done, particles in all) during each pass.
    on_state : callable, optional
        Called with every state and the data set.
    **settings
        ``preset``, ``threads`` and the sections ``data``, ``search``, ``em`` as dictionaries
        (`faml.config`).

    Raises
    ------
    FamlError
        One of its subclasses, for anything wrong with settings, input or output.
    """
    given = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    data = dict(settings.pop("data", None) or {})
    data["inputs"] = tuple(os.path.abspath(item) for item in given)
    em = dict(settings.pop("em", None) or {})
    if em.get("start", "random") not in REFERENCE_FREE_STARTS and Path(em["start"]).exists():
        em["start"] = os.path.abspath(em["start"])
    config = build_config(data=data, em=em, output=os.path.abspath(output), **settings)
    return run_config(config, progress=progress, on_state=on_state)


def run_config(
    config: RunConfig,
    *,
    progress: Progress | None = None,
    on_state: OnState | None = None,
) -> RunResult:
    """`run` for a complete configuration (with ``data.inputs`` and ``output``)."""
    if not config.output:
        raise ConfigurationError("expected an output directory, found none; give -o DIR")
    # Everything that can be wrong with the input is found before anything is written.
    dataset = open_particles(config.data, config.em.seed)
    em = EmRun(
        dataset.particles,
        config,
        reference=_reference(config, dataset.particles),
        progress=progress,
    )
    directory = prepare_output_directory(config.output)
    write_text_atomic(directory / "config.toml", config_to_toml(config))
    with _logged(directory):
        for warning in dataset.warnings:
            _LOG.warning(warning)
        return _carry_out(em, dataset, directory, None, on_state)


def resume(
    directory: str | Path,
    *,
    iterations: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    on_state: OnState | None = None,
) -> RunResult:
    """Continue a run after its last complete iteration.

    Parameters
    ----------
    directory : path
        Output directory of the run.
    iterations : int, optional
        New maximum; a converged run goes on only if this is given.
    threads : int, optional
        Results do not depend on it.

    Raises
    ------
    CheckpointError
        If there is no readable run, or its particles have changed.
    """
    folder = Path(directory)
    stored = read_run(folder / CHECKPOINT_NAME)
    config = stored.config
    if iterations is not None:
        config = config.model_copy(
            update={"em": config.em.model_copy(update={"iterations": iterations})}
        )
    if threads is not None:
        config = config.model_copy(update={"threads": threads})
    dataset = open_particles(config.data, config.em.seed)
    particles = dataset.particles
    if particles.names != stored.names or particles.box != stored.box:
        raise CheckpointError(
            f"{folder}: expected the {len(stored.names)} particles of box {stored.box} that the "
            f"run was started with, found {len(particles)} of box {particles.box} or other names; "
            "restore the input or start a new run"
        )
    state = stored.state
    if iterations is not None and iterations > state.iteration:
        state = replace(state, stop_reason="")
    em = EmRun(particles, config, reference=_reference(config, particles), progress=progress)
    with _logged(folder):
        _LOG.info("resumed after iteration %d", state.iteration)
        return _carry_out(em, dataset, folder, state, on_state)


def iterate(
    particles: ParticleSet,
    config: RunConfig | None = None,
    *,
    reference: npt.NDArray[np.float32] | None = None,
    resume_from: State | None = None,
) -> Iterator[State]:
    """The EM loop as a generator of immutable states; nothing is written."""
    em = EmRun(particles, config or build_config(), reference=reference)
    with threadpool_limits(limits=1):
        yield from em.states(resume_from)


def _carry_out(
    em: EmRun,
    dataset: Dataset,
    directory: Path,
    resume_from: State | None,
    on_state: OnState | None,
) -> RunResult:
    checkpoint = HDF5Checkpoint(directory / CHECKPOINT_NAME, em.config, dataset.particles)
    if resume_from is not None:
        checkpoint.saved = [resume_from]
    # One BLAS thread: more would change the order of sums with the machine.
    with threadpool_limits(limits=1):
        for state in em.states(resume_from):
            checkpoint.save(state)
            _log_state(state, dataset)
            _draw(directory / "slices" / f"iteration_{state.iteration:03d}.png", state, dataset)
            if on_state is not None:
                on_state(state, dataset)
        last = checkpoint.last()
        _LOG.info(last.stop_reason or f"stopped after the {last.iteration} iterations asked for")
        final = em.finish(last)
    maps = write_class_averages(
        directory, final.model.volumes, dataset.particles.voxel_size_angstrom
    )
    found = final.assignments
    star = write_particles(
        directory,
        dataset,
        ParticleResults(
            classes=found.classes,
            rotations=found.rotations,
            translations=found.translations,
            probabilities=found.probabilities,
            log_likelihoods=found.log_likelihoods,
        ),
    )
    _draw(directory / "slices.png", final, dataset)
    return RunResult(em.config, final, directory, tuple(maps), star, dataset.warnings)


def _reference(config: RunConfig, particles: ParticleSet) -> npt.NDArray[np.float32] | None:
    start = config.em.start
    if start in REFERENCE_FREE_STARTS:
        return None
    path = Path(start)
    if not path.exists() and path.suffix.lower() not in (".mrc", ".map"):
        raise ConfigurationError(
            f"unknown start {start!r}; expected {', '.join(REFERENCE_FREE_STARTS)} or the path "
            "of an MRC file"
        )
    volume = read_volume(path)
    size = volume.header.voxel_size_angstrom
    if size is not None and abs(size / particles.voxel_size_angstrom - 1.0) > 0.01:
        raise InputDataError(
            f"reference {start}: expected the particles' voxel size "
            f"{particles.voxel_size_angstrom:g} Angstrom, found {size:g}; rescale it"
        )
    if not np.ptp(volume.values) > 0:
        raise InputDataError(f"reference {start}: the volume is constant; give a map")
    return volume.values


def _draw(path: Path, state: State, dataset: Dataset) -> None:
    size = dataset.particles.voxel_size_angstrom
    fractions = state.model.class_fractions
    write_class_slices(
        path,
        state.model.volumes,
        size,
        title=f"iteration {state.iteration}, "
        f"{dataset.particles.box * size / state.align_shell:.1f} Å",
        labels=[f"class {k + 1}: {100 * f:.0f} %" for k, f in enumerate(fractions)],
    )


def _log_state(state: State, dataset: Dataset) -> None:
    found = state.assignments
    extent = dataset.particles.box * dataset.particles.voxel_size_angstrom
    _LOG.info(
        "iteration %d: log-likelihood %.1f, resolution %.1f Angstrom, occupancies %s, effective "
        "poses %.2f, next shell %d",
        state.iteration,
        state.log_likelihood,
        extent / state.align_shell,
        " ".join(f"{f:.3f}" for f in state.model.class_fractions),
        float(found.effective_poses.mean()),
        state.next_align_shell,
    )
    if found.fallbacks.any():
        _LOG.warning(
            "iteration %d: %d particles had no candidate pose and kept their previous one",
            state.iteration,
            int(found.fallbacks.sum()),
        )
    for k in state.empty_classes:
        _LOG.warning(
            "iteration %d: class %d is empty and keeps its average", state.iteration, k + 1
        )


@contextmanager
def _logged(directory: Path) -> Iterator[None]:
    """Send the log of the package to ``run.log`` for the time of a run."""
    (directory / "slices").mkdir(exist_ok=True)
    handler = logging.FileHandler(directory / "run.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = _LOG.level
    _LOG.addHandler(handler)
    _LOG.setLevel(logging.INFO)
    try:
        yield
    finally:
        _LOG.removeHandler(handler)
        _LOG.setLevel(level)
        handler.close()
