"""The whole job from Python: particle files in, an output directory out.

`run` and `resume` do what the command line does; `iterate` gives the bare generator of states.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from faml.clock import StageClock
from faml.cluster import check_cluster, connected
from faml.config import BLIND_STARTS, DRAWN_MASKS, RunConfig, build_config, config_to_toml
from faml.em.loop import EmRun, Progress
from faml.em.schedule import first_align_shell
from faml.em.start import REFERENCE_FREE_STARTS, start_assignments
from faml.em.state import State
from faml.em.trials import Trials
from faml.errors import (
    CheckpointError,
    ClusterError,
    ConfigurationError,
    InputDataError,
    OutputError,
)
from faml.interrupts import ended_like_ctrl_c
from faml.io.atomic import write_text_atomic
from faml.io.checkpoint import HDF5Checkpoint, StoredRun, read_run
from faml.io.dataset import Dataset, open_particles
from faml.io.lock import only_one
from faml.io.mrc import read_volume
from faml.io.output import CHECKPOINT_NAME, prepare_output_directory, stored_starts
from faml.io.positions import particle_positions
from faml.io.same_input import check_same_grey_values
from faml.particles import ParticleSet
from faml.results import (
    HalfResults,
    doubt_symmetry,
    draw_classes,
    draw_orientations,
    judge_overfitting,
    leave_report,
    write_half_results,
    write_results,
)
from faml.run_log import log_header, log_state, logged
from faml.starts import OnMessage, OnState, best_start

__all__ = ["CHECKPOINT_NAME", "RunResult", "iterate", "resume", "run", "run_config"]

_LOG = logging.getLogger("faml")
_CONFIG_NAME = "config.toml"
_SMALLEST_SHELL = 2
_REFERENCE_VOXEL = 0.01
"""Relative difference of voxel sizes from which a reference is suspicious."""
_MASK_ROUNDING = 1e-3
_SMALLEST_MASK = 1e-4
_SAME_VOXEL = 1e-4
"""Headers hold voxel sizes in single precision; more than this is another voxel size."""


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
    halves : HalfResults or None
        Resolution and half-maps, where there are half-sets.
    stage_seconds : dict of str to float
        CPU seconds of each stage of the work, of all threads.
    report : Path or None
        ``report.html``, unless it was not asked for or could not be made.
    """

    config: RunConfig
    state: State
    directory: Path
    maps: tuple[Path, ...]
    star: Path
    warnings: tuple[str, ...]
    halves: HalfResults | None = None
    stage_seconds: dict[str, float] = field(default_factory=dict)
    report: Path | None = None


def run(
    inputs: list[str | Path] | str | Path,
    output: str | Path,
    *,
    max_resolution_angstrom: float | None = None,
    cluster: str | None = None,
    progress: Progress | None = None,
    on_state: OnState | None = None,
    on_message: OnMessage | None = None,
    report: bool = True,
    **settings: Any,
) -> RunResult:
    """Average and classify particles.

    Parameters
    ----------
    inputs : path or list of paths
        MRC or EM files, folders, globs, or one table (STAR file, Dynamo table, motive list).
    output : path
        Directory of the results; must not hold another run.
    max_resolution_angstrom : float, optional
        Finest resolution used for alignment, in Angstrom; sets ``em.max_shell``.
    cluster : str, optional
        Who visits the particles instead of threads (`cluster.connected`). Results do not depend on
        it.
    progress : callable, optional
        Called with (particles done, particles in all) during each pass.
    on_state : callable, optional
        Called with every state and the data set.
    on_message : callable, optional
        Called with what a user should read between iterations.
    report : bool
        Write ``report.html`` when all else is done.
    **settings
        ``preset``, ``threads``, ``memory_gb`` and the sections ``data``, ``search``, ``em`` as
        dictionaries (`faml.config`).

    Raises
    ------
    FamlError
        One of its subclasses, for anything wrong with settings, input or output. What is wrong
        with settings or input is found before anything is written.
    KeyboardInterrupt
        After Ctrl-C, SIGTERM (the end of a batch job's time) or SIGHUP; the message says what is
        kept and how to go on.
    """
    given = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    data = dict(settings.pop("data", None) or {}) | {"inputs": tuple(str(item) for item in given)}
    config = build_config(data=data, output=os.fspath(output), **settings)
    return run_config(
        config,
        max_resolution_angstrom=max_resolution_angstrom,
        cluster=cluster,
        progress=progress,
        on_state=on_state,
        on_message=on_message,
        report=report,
    )


def run_config(
    config: RunConfig,
    *,
    max_resolution_angstrom: float | None = None,
    cluster: str | None = None,
    progress: Progress | None = None,
    on_state: OnState | None = None,
    on_message: OnMessage | None = None,
    report: bool = True,
) -> RunResult:
    """`run` for a complete configuration (with ``data.inputs`` and ``output``)."""
    if not config.output:
        raise ConfigurationError("expected an output directory, found none; give -o DIR")
    check_cluster(cluster)
    config = _with_absolute_paths(config)
    # Everything that can be wrong with the input is found before anything is written.
    dataset = open_particles(config.data, config.em.seed, config.memory_gb)
    particles = dataset.particles
    if max_resolution_angstrom is not None:
        config = _with_resolution(config, particles, max_resolution_angstrom)
    _check_columns(config, dataset)
    reference, warnings = _reference(config, particles)
    mask = _mask(config)
    clock = StageClock()
    em = EmRun(particles, config, reference=reference, mask=mask, progress=progress, clock=clock)
    trials = _trials(em)
    directory = prepare_output_directory(config.output, dataset.files)
    warnings = (*warnings, *_unused_poses(config, particles))
    with (
        only_one(directory),
        logged(directory),
        ended_like_ctrl_c(),
        connected(cluster) as workers,
    ):
        em.workers = workers or em.workers
        write_text_atomic(directory / _CONFIG_NAME, _config_text(em))
        log_header(em, dataset)
        for warning in (*dataset.warnings, *warnings):
            _LOG.warning(warning)
        done = _carry_out(em, trials, dataset, directory, None, on_state, on_message, warnings)
        _LOG.info("CPU seconds: %s", clock)
        page = leave_report(directory) if report else None
    return replace(done, stage_seconds=clock.seconds, report=page)


def resume(
    directory: str | Path,
    *,
    iterations: int | None = None,
    threads: int | None = None,
    memory_gb: float | None = None,
    cluster: str | None = None,
    progress: Progress | None = None,
    on_state: OnState | None = None,
    on_message: OnMessage | None = None,
    report: bool = True,
) -> RunResult:
    """Continue a run after its last complete iteration.

    Parameters
    ----------
    directory : path
        Output directory of the run.
    iterations : int, optional
        New maximum; a converged run goes on only if this is given.
    threads : int, optional
    memory_gb : float, optional
        Results depend on neither.
    cluster : str, optional
        As in `run`; that of the run so far is not remembered.
    report : bool
        As in `run`.

    Raises
    ------
    FamlError
        `CheckpointError` if there is no readable run, or its particles have changed; as `run`.
    KeyboardInterrupt
        As `run`.
    """
    folder = Path(directory)
    if folder.name == CHECKPOINT_NAME and folder.is_file():
        folder = folder.parent
    read_run(_last_written(folder))  # no lock file where there is no run
    check_cluster(cluster)
    with only_one(folder), ended_like_ctrl_c():
        return _go_on(
            folder,
            iterations,
            threads,
            memory_gb,
            cluster,
            progress,
            on_state,
            on_message,
            report=report,
        )


def _last_written(folder: Path) -> Path:
    """The checkpoint that a run goes on from: its own, or one of its starts."""
    begun = stored_starts(folder)
    own = folder / CHECKPOINT_NAME
    return begun[0] if begun and not own.exists() else own


def _go_on(
    folder: Path,
    iterations: int | None,
    threads: int | None,
    memory_gb: float | None,
    cluster: str | None,
    progress: Progress | None,
    on_state: OnState | None,
    on_message: OnMessage | None,
    *,
    report: bool,
) -> RunResult:
    last = _last_written(folder)
    starting = last.name != CHECKPOINT_NAME
    stored = read_run(last)
    config = _changed(stored.config, iterations=iterations, threads=threads, memory_gb=memory_gb)
    dataset = open_particles(config.data, config.em.seed, config.memory_gb)
    particles = dataset.particles
    _check_same_particles(folder, stored, particles)
    check_same_grey_values(folder, stored.names, stored.grey_values, dataset.grey)
    reference, warnings = _reference(config, particles)
    state = None if starting else stored.state
    if state is not None and iterations is not None and iterations > state.iteration:
        state = state.going_on()
    mask = _mask(config)
    clock = StageClock()
    em = EmRun(particles, config, reference=reference, mask=mask, progress=progress, clock=clock)
    with logged(folder), connected(cluster) as workers:
        em.workers = workers or em.workers
        write_text_atomic(folder / _CONFIG_NAME, _config_text(em))
        _LOG.info("resumed after %s", f"iteration {state.iteration}" if state else "some starts")
        done = _carry_out(em, _trials(em), dataset, folder, state, on_state, on_message, warnings)
        _LOG.info("CPU seconds: %s", clock)
        page = leave_report(folder) if report else None
    return replace(done, stage_seconds=clock.seconds, report=page)


def iterate(
    particles: ParticleSet,
    config: RunConfig | None = None,
    *,
    reference: npt.NDArray[np.float32] | None = None,
    mask: npt.NDArray[np.float32] | None = None,
    resume_from: State | None = None,
) -> Iterator[State]:
    """The EM loop as a generator of immutable states; nothing is written.

    Raises
    ------
    ConfigurationError, InputDataError
        At once, for settings that do not fit the particles.
    """
    run = EmRun(particles, config or build_config(), reference=reference, mask=mask)
    trials = _trials(run)
    if trials is not None and resume_from is None:
        return _after_trials(run, trials)
    return _limited(run, resume_from)


def _trials(run: EmRun) -> Trials | None:
    return Trials(run) if run.config.em.starts > 1 else None


def _after_trials(run: EmRun, trials: Trials) -> Iterator[State]:
    with threadpool_limits(limits=1):
        state = trials.continued(trials.best().best.state)
    yield state
    yield from _limited(run, state)


def _limited(em: EmRun, resume_from: State | None) -> Iterator[State]:
    """States of a run; BLAS is limited to one thread while one is made, not in between."""
    states = em.states(resume_from)
    while True:
        with threadpool_limits(limits=1):
            state = next(states, None)
        if state is None:
            return
        yield state


def _carry_out(
    em: EmRun,
    trials: Trials | None,
    dataset: Dataset,
    directory: Path,
    resume_from: State | None,
    on_state: OnState | None,
    on_message: OnMessage | None,
    warnings: tuple[str, ...],
) -> RunResult:
    checkpoint = HDF5Checkpoint(
        directory / CHECKPOINT_NAME, em.config, dataset.particles, grey=dataset.grey
    )
    if resume_from is not None:
        checkpoint.saved = [resume_from]
    finished = False
    try:
        # One BLAS thread: more would change the order of sums with the machine.
        with threadpool_limits(limits=1):
            if resume_from is None and trials is not None:
                resume_from, doubts = best_start(trials, dataset, directory, on_state, on_message)
                warnings = (*warnings, *doubts)
                checkpoint.save(resume_from)
            for state in em.states(resume_from):
                checkpoint.save(state)
                log_state(state, dataset, em.config.search.posterior_mass)
                draw_classes(
                    directory / "slices" / f"iteration_{state.iteration:03d}.png", state, dataset
                )
                if on_state is not None:
                    on_state(state, dataset)
            last = checkpoint.last()
            _LOG.info(last.stop_reason or f"stopped after {last.iteration} iterations")
            final = em.finish(last)
        maps, star = write_results(final, dataset, directory, em)
        finished = True
        warnings = (*warnings, *draw_orientations(final, dataset, directory, em.symmetry))
        warnings = (*warnings, *doubt_symmetry(final))
        halves = None
        if em.config.em.half_sets:
            mask = None if em.config.em.mask == "auto" else em.mask
            halves = write_half_results(final, dataset, directory, mask, em.config.em.b_factor)
        draw_classes(directory / "slices.png", final, dataset)
        if em.config.em.check_overfitting:
            with threadpool_limits(limits=1):
                warnings = (*warnings, *judge_overfitting(em, last, directory))
    except KeyboardInterrupt as error:
        message = _interrupted(checkpoint, dataset, directory, em, finished=finished)
        raise KeyboardInterrupt(message) from error
    except (ClusterError, InputDataError, OutputError) as error:
        checkpoint.explain(error)
        raise
    every = (*dataset.warnings, *warnings, *(halves.warnings if halves else ()))
    return RunResult(em.config, final, directory, maps, star, every, halves)


def _interrupted(
    checkpoint: HDF5Checkpoint,
    dataset: Dataset,
    directory: Path,
    em: EmRun,
    *,
    finished: bool,
) -> str:
    """Leave the last complete iteration's results, unless better ones lie there; what to say."""
    if not checkpoint.saved and stored_starts(directory):
        message = f"interrupted; continue with: faml resume {directory}"
    elif not checkpoint.saved:
        message = (
            "interrupted before the first iteration was complete; start again with the same command"
        )
    else:
        last = checkpoint.last()
        # In batches, many particles were not visited yet and have the poses of the start.
        if not finished and last.running is None:
            with suppress(OutputError):  # the checkpoint is what counts
                write_results(last, dataset, directory, em)
        message = (
            f"interrupted; iteration {last.iteration} is kept; continue with: "
            f"faml resume {directory}"
        )
    _LOG.info(message)
    return message


def _with_absolute_paths(config: RunConfig) -> RunConfig:
    """Paths that stay right when a run is resumed from another folder."""
    update: dict[str, Any] = {"inputs": tuple(_absolute(item) for item in config.data.inputs)}
    for name in ("particles_folder", "wedge_list", "tilt_angles_file", "tomograms"):
        path = getattr(config.data, name)
        if path is not None:
            update[name] = _absolute(path)
    data = config.data.model_copy(update=update)
    em = config.em
    if em.start not in REFERENCE_FREE_STARTS and Path(em.start).expanduser().exists():
        em = em.model_copy(update={"start": _absolute(em.start)})
    if em.mask not in DRAWN_MASKS and Path(em.mask).expanduser().exists():
        em = em.model_copy(update={"mask": _absolute(em.mask)})
    return config.model_copy(update={"data": data, "em": em, "output": _absolute(config.output)})


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def _changed(
    config: RunConfig,
    *,
    threads: int | None = None,
    memory_gb: float | None = None,
    **em: int | None,
) -> RunConfig:
    """The configuration with other settings where they are not None, validated."""
    values = config.model_dump()
    values["em"] |= {key: value for key, value in em.items() if value is not None}
    if threads is not None:
        values["threads"] = threads
    if memory_gb is not None:
        values["memory_gb"] = memory_gb
    return build_config(**values)


def _with_resolution(
    config: RunConfig, particles: ParticleSet, resolution_angstrom: float
) -> RunConfig:
    """``em.max_shell`` from a resolution in Angstrom."""
    if config.em.max_shell is not None:
        raise ConfigurationError(
            "expected a largest shell or a finest resolution, found both; leave one out"
        )
    extent = particles.box * particles.voxel_size_angstrom
    first = config.em.first_shell or _SMALLEST_SHELL
    if not 0 < resolution_angstrom <= extent / first:
        raise ConfigurationError(
            f"expected a finest resolution above 0 and up to {extent / first:g} Angstrom (shell "
            f"{first} of this box), found {resolution_angstrom:g}"
        )
    # The factor keeps a resolution printed with four digits on its shell.
    return _changed(config, max_shell=int(1.0001 * extent / resolution_angstrom))


def _check_columns(config: RunConfig, dataset: Dataset) -> None:
    """Find what the input lacks for the settings before anything is written."""
    em, particles = config.em, dataset.particles
    start_assignments(particles, em.start, em.classes, em.seed)
    if config.search.local_angle_deg is not None and particles.poses is None:
        raise InputDataError(
            "--local-angle searches around input poses: expected a STAR file with rlnAngleRot, "
            "rlnAngleTilt and rlnAnglePsi, found none; leave it out"
        )
    if config.data.min_distance_angstrom is not None:
        particle_positions(dataset, np.zeros((len(particles), 3)))


def _check_same_particles(folder: Path, stored: StoredRun, particles: ParticleSet) -> None:
    """Raise CheckpointError unless the particles are those the run was started with."""
    if particles.names != stored.names or particles.box != stored.box:
        raise CheckpointError(
            f"{folder}: expected the {len(stored.names)} particles of box {stored.box} that the "
            f"run was started with, found {len(particles)} of box {particles.box} or other names; "
            "restore the input or start a new run"
        )
    if abs(particles.voxel_size_angstrom / stored.voxel_size_angstrom - 1.0) > _SAME_VOXEL:
        raise CheckpointError(
            f"{folder}: expected the voxel size of {stored.voxel_size_angstrom:g} Angstrom that "
            f"the run was started with, found {particles.voxel_size_angstrom:g}; restore the input "
            "or start a new run"
        )


def _reference(
    config: RunConfig, particles: ParticleSet
) -> tuple[npt.NDArray[np.float32] | None, tuple[str, ...]]:
    """The starting reference, if any, and warnings about it."""
    start = config.em.start
    if start in REFERENCE_FREE_STARTS:
        return None, ()
    path = Path(start)
    if not path.exists() and path.suffix.lower() not in (".mrc", ".map"):
        raise ConfigurationError(
            f"unknown start {start!r}; expected {', '.join(REFERENCE_FREE_STARTS)} or the path "
            "of an MRC file"
        )
    volume = read_volume(path)
    if not np.ptp(volume.values) > 0:
        raise InputDataError(f"reference {start}: the volume is constant; give a map")
    size, wanted = volume.header.voxel_size_angstrom, particles.voxel_size_angstrom
    if size is None or abs(size / wanted - 1.0) <= _REFERENCE_VOXEL:
        return volume.values, ()
    return volume.values, (
        f"reference {start}: its header says {size:g} Angstrom per voxel, the particles have "
        f"{wanted:g}; it is taken voxel for voxel, so rescale it unless the header is wrong",
    )


def _mask(config: RunConfig) -> npt.NDArray[np.float32] | None:
    """The mask of a file, if there is one."""
    name = config.em.mask
    if name in DRAWN_MASKS:
        return None
    path = Path(name)
    if not path.exists() and path.suffix.lower() not in (".mrc", ".map"):
        return None  # neither a file nor meant as one: the run says what there is
    mask = read_volume(path).values
    low, high = float(mask.min()), float(mask.max())
    if low < -_MASK_ROUNDING or high > 1.0 + _MASK_ROUNDING:
        raise InputDataError(
            f"mask {name}: expected values from 0 to 1, found {low:g} to {high:g}; rescale it"
        )
    if not mask.mean() > _SMALLEST_MASK:
        raise InputDataError(
            f"mask {name}: expected a part of the box to be 1, found a mean of {mask.mean():g}; "
            "give another mask"
        )
    return np.clip(mask, 0.0, 1.0)


def _config_text(em: EmRun) -> str:
    """The configuration, and in comments what follows from it and the data."""
    shell = first_align_shell(em.particles.box, em.radius_voxels, em.config.em)
    diameter = 2.0 * em.radius_voxels * em.particles.voxel_size_angstrom
    return (
        f"{config_to_toml(em.config)}\n"
        "# Where settings above are absent, the data decided:\n"
        f"# max_shift_voxels = {em.max_shift_voxels:.2f}\n"
        f"# particle_diameter_angstrom = {diameter:.1f} (no mask unless it is given)\n"
        f"# first_shell = {shell}\n"
        f"# folds = {em.folds}\n"
    )


def _unused_poses(config: RunConfig, particles: ParticleSet) -> tuple[str, ...]:
    poses = particles.poses
    if poses is None or poses.are_zero or config.em.start not in BLIND_STARTS:
        return ()
    if config.search.local_angle_deg is not None:
        return (
            f"--local-angle searches around the file's poses, but the start is {config.em.start}; "
            "--start poses begins from them",
        )
    return ("the file's poses are not used; --start poses begins from them",)
