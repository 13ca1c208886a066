"""Constants of this machine and these particles: the real code on some of them."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
from threadpoolctl import threadpool_limits

from faml.config import RunConfig
from faml.costs.job import Job
from faml.costs.laws import Constants, PowerLaw
from faml.em.blocks import blocks_of
from faml.em.folds import folds_of
from faml.em.schedule import LOOK_AHEAD, measure_changes
from faml.em.start import REFERENCE_FREE_STARTS, fixed_assignments
from faml.em.state import Assignments
from faml.em.statistics import Statistics
from faml.io.checkpoint import HDF5Checkpoint
from faml.io.dataset import Dataset
from faml.io.grey_values import measure_grey_values
from faml.particles import ParticleSet
from faml.planning.particle_bytes import bytes_held, name_bytes, volume_bytes, weight_bytes
from faml.planning.trial import Point, Trial, cpu_seconds, increasing
from faml.report.slices import write_class_slices
from faml.symmetry import point_group
from faml.transforms.fourier import fourier_grid, full_resolution_shell

__all__ = ["job_of", "measure_constants"]

_SAMPLE = 24
_LEAST_SPREAD = 0.2
"""The averages of a run are not those of its sample, and their posteriors are as broad as they
are."""
_STREAM = 0x97A7  # tells the draw of the sample from other random streams
_BOOKS = 50_000
_BEYOND_CACHES = 1 << 26


def job_of(dataset: Dataset, config: RunConfig, count: int) -> Job:
    """The same settings with ``count`` particles like those of a data set."""
    return Job(config, dataset.particles.box, dataset.grey.radius_voxels, count)


def measure_constants(dataset: Dataset, config: RunConfig) -> Constants:
    """Visit some particles at a few resolutions, and keep the books of many.

    It takes some ten CPU seconds in one thread, and leaves nothing behind.

    Parameters
    ----------
    dataset : Dataset
    config : RunConfig
        Of the run that is planned.

    Raises
    ------
    ConfigurationError
        Settings that do not fit the particles.
    InputDataError
        A particle that cannot be read.
    """
    busy = psutil.getloadavg()[0] > (psutil.cpu_count() or 1)
    with threadpool_limits(limits=1):
        sample = _sample(dataset.particles, config)
        job = job_of(dataset, config, len(dataset.particles))
        trial = Trial(sample, _of_sample(config, len(sample)), job.explored)
        trial.begin()
        trial.march(job.last_shell)
        trial.finish()
        books, writing, copying = _books(trial)
        drawing = _drawing(trial.state.model.volumes)
        opening = _opening(sample, dataset.grey.radius_voxels)
    count = len(dataset.particles)
    held = bytes_held(dataset, count)
    resident = psutil.Process().memory_info().rss - held * count
    points = trial.points
    return Constants(
        visit=_law(points, [p.visit_s for p in points]),
        spread=max(_LEAST_SPREAD, 2.0 * max(p.error for p in points)),
        last_visit=trial.last_visit,
        start_s=trial.start_s,
        opening_s=opening,
        references=_law(points, [p.references_s for p in points]),
        averages=trial.averages,
        bookkeeping_s=books,
        iteration_s=min(p.rest_s for p in points) + drawing,
        adding_s=_adding(config.em.classes, sample.box, points[-1].shell),
        writing_s=writing,
        copying_s=copying,
        base_bytes=float(resident),
        dataset_bytes=held,
        sent_bytes=bytes_held(dataset.particles, count),
        name_bytes=name_bytes(dataset.particles),
        volume_bytes=volume_bytes(dataset),
        weight_bytes=weight_bytes(dataset),
        packed=dataset.pack is not None,
        grey_known=dataset.pack is not None,
        busy=busy,
        particles=tuple(p.particles for p in points),
    )


def _law(points: Sequence[Point], seconds: Sequence[float]) -> PowerLaw:
    return increasing([p.shell for p in points], seconds)


def _sample(particles: ParticleSet, config: RunConfig) -> ParticleSet:
    size = min(len(particles), max(_SAMPLE, 2 * config.em.classes))
    rng = np.random.default_rng(np.random.SeedSequence([config.em.seed, _STREAM]))
    return particles.subset(np.sort(rng.permutation(len(particles))[:size]))


def _of_sample(config: RunConfig, count: int) -> RunConfig:
    """Settings under which the sample does what particles of the run do."""
    em = config.em
    changed = {
        "starts": 1,
        "start": em.start if em.start in REFERENCE_FREE_STARTS else "random",
        "half_sets": False,
        "check_overfitting": False,
        "split_by": "particle",
        "b_factor": None,
        "batch": None,
        "folds": min(3, folds_of(em.folds, count)) if count >= 3 else 1,
        "smallest_class": 0.0,
        "iterations": 1_000_000,
        "mask": em.mask if em.mask in ("sphere", "auto") else "sphere",
    }
    return config.model_copy(update={"em": em.model_copy(update=changed), "threads": 1})


def _books(trial: Trial) -> tuple[float, float, float]:
    """Seconds per particle of an iteration's books, and per byte written and copied."""
    k, em = trial.config.em.classes, trial.config.em
    rng = np.random.default_rng(0)
    rotations = np.broadcast_to(np.eye(3), (_BOOKS, 3, 3)).copy()
    before = fixed_assignments(
        rng.integers(0, k, _BOOKS), rotations, rng.normal(size=(_BOOKS, 3)), k
    )
    members = rng.permutation(_BOOKS)

    def keep() -> None:
        blocks = blocks_of((members,), em.chunk_size, before)
        parts = [block.before for block in blocks]
        after = Assignments.assembled(parts, members)
        measure_changes(before, after, point_group(em.symmetry))

    seconds = cpu_seconds(keep) / _BOOKS
    state = replace(trial.state, assignments=before)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.h5"
        checkpoint = HDF5Checkpoint(path, trial.config, trial.particles)
        written = cpu_seconds(lambda: checkpoint.save(replace(state, iteration=0)))
        size = path.stat().st_size
        copied = cpu_seconds(lambda: shutil.copyfile(path, path.with_suffix(".copy")))
    return seconds, written / size, copied / size


def _drawing(volumes: npt.NDArray[np.float32]) -> float:
    """CPU seconds of the picture that each iteration leaves."""

    def draw() -> None:
        labels = [f"class {k + 1}" for k in range(len(volumes))]
        write_class_slices(Path(folder) / "slices.png", volumes, 1.0, title="", labels=labels)

    with tempfile.TemporaryDirectory() as folder:
        draw()  # loads what draws
        return cpu_seconds(draw)


def _opening(sample: ParticleSet, radius_voxels: float) -> float:
    """CPU seconds of looking at one particle's grey values."""
    count = len(sample)

    def look() -> None:
        measure_grey_values(
            lambda index: sample.volumes.read(int(sample.source_index[index])),
            sample.names, sample.box, radius_voxels,
        )  # fmt: skip

    return cpu_seconds(look) / count


def _adding(classes: int, box: int, shell: int) -> float:
    """CPU seconds of a byte of sums."""
    grid = fourier_grid(box, shell, min(shell + LOOK_AHEAD, full_resolution_shell(box)))
    total = Statistics.zeros(classes, grid, total=True)
    size = total.numerator.nbytes + total.denominator.nbytes
    # Sums that arrive are in no cache.
    parts = [total.emptied() for _ in range(math.ceil(_BEYOND_CACHES / size))]

    def add() -> None:
        for part in parts:
            total.add(part)

    return cpu_seconds(add) / (size * len(parts))
