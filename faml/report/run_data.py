"""All that a report says of a run, read from its directory; works while the run goes on."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from faml.config import DRAWN_MASKS, RunConfig, config_to_toml
from faml.conventions import relion_angles_deg_to_matrices
from faml.em.state import State
from faml.errors import CheckpointError, FamlError, InputDataError
from faml.io.checkpoint import StoredRun, read_run
from faml.io.files import read_text
from faml.io.history import IterationRecord, read_history
from faml.io.mrc import read_volume
from faml.io.output import CHECKPOINT_NAME, class_path, stored_starts
from faml.io.star import ANGLE_COLUMNS, RelionStar, numbers, read_star
from faml.metrics.fsc import FSC_THRESHOLD, resolution_at
from faml.metrics.orientations import Coverage
from faml.metrics.particles import outliers
from faml.report.coverage import RunInput, class_coverages, has_weights, run_input
from faml.report.log_file import RunLog, read_run_log
from faml.report.run_checks import check_classes, check_history, check_state

__all__ = ["FscCurves", "ParticleColumns", "RunData", "load_run_data"]

_TOMOGRAMS = ("rlnTomoName", "rlnMicrographName")
_T = TypeVar("_T")


@dataclass(frozen=True)
class FscCurves:
    """Half-map FSC of a class at shells 0, 1, ..., each (n // 2,) float64."""

    corrected: npt.NDArray[np.float64]
    masked: npt.NDArray[np.float64]
    unmasked: npt.NDArray[np.float64]
    randomised: npt.NDArray[np.float64]


@dataclass(frozen=True)
class ParticleColumns:
    """What was found for M particles: those of ``particles.star``, or of the last iteration.

    Attributes
    ----------
    classes : (M,) int64
        Zero-based.
    rotations : (M, 3, 3) float64
    probabilities : (M,) float64
        Posterior mass of the best pose.
    log_evidences : (M,) float64
        Nats that the structure explains.
    outliers : (M,) bool
    tomograms : (M,) str or None
        Names, where the input has them.
    """

    classes: npt.NDArray[np.int64]
    rotations: npt.NDArray[np.float64]
    probabilities: npt.NDArray[np.float64]
    log_evidences: npt.NDArray[np.float64]
    outliers: npt.NDArray[np.bool_]
    tomograms: npt.NDArray[np.str_] | None

    def __len__(self) -> int:
        return len(self.classes)


@dataclass(frozen=True)
class RunData:
    """One run, K classes of box n.

    Attributes
    ----------
    directory : Path
        Absolute.
    config : RunConfig
    config_text : str
        ``config.toml``, which also says what the data decided.
    names : tuple of N str
    box : int
    voxel_size_angstrom : float
    versions : dict of str to str
    state : State
        Of the last complete iteration.
    history : tuple of IterationRecord
        All iterations, in order.
    maps : (K, n, n, n) float32
        Final maps if `final`, else the averages of the last iteration.
    final : bool
        Maps and particles are those written when the run ended, however that was.
    particles : ParticleColumns
    duplicates : int
        Particles left out as duplicates of better ones.
    coverages : tuple of K (Coverage or None)
        None where a class is empty, or for all if the wedges could not be read.
    fsc : tuple of FscCurves
        K of them, or none where half-maps were not written yet, or are of an earlier end.
    log : RunLog
    notes : tuple of str
        What could not be read, and why.
    """

    directory: Path
    config: RunConfig
    config_text: str
    names: tuple[str, ...]
    box: int
    voxel_size_angstrom: float
    versions: dict[str, str]
    state: State
    history: tuple[IterationRecord, ...]
    maps: npt.NDArray[np.float32]
    final: bool
    particles: ParticleColumns
    duplicates: int
    coverages: tuple[Coverage | None, ...]
    fsc: tuple[FscCurves, ...]
    log: RunLog
    notes: tuple[str, ...]

    @property
    def iteration(self) -> int:
        """The last complete one."""
        return self.state.iteration

    @property
    def classes(self) -> int:
        """K."""
        return len(self.maps)

    @property
    def extent_angstrom(self) -> float:
        """Edge of the box."""
        return self.box * self.voxel_size_angstrom

    @property
    def version(self) -> str:
        """Changes when a report of the run would: the iteration, and ``final`` after the end.

        A run that ended without results says how.
        """
        if self.final:
            return f"{self.iteration}-final"
        if self.log.ending in ("failed", "interrupted"):
            return f"{self.iteration}-{self.log.ending}"
        return str(self.iteration)

    @property
    def masked(self) -> bool:
        """Whether averages, and with them the FSC of an iteration, have a mask."""
        given = self.config.data.particle_diameter_angstrom is not None
        return given or self.config.em.mask not in DRAWN_MASKS

    @property
    def class_counts(self) -> npt.NDArray[np.int64]:
        """Particles of each class, (K,)."""
        return np.bincount(self.particles.classes, minlength=self.classes)

    def resolution_angstrom(self, class_index: int, threshold: float = FSC_THRESHOLD) -> float:
        """Where a class' half-map FSC falls below a threshold; NaN where it was not measured.

        Infinity where halves agree in nothing.
        """
        curve = self._curve(class_index)
        if curve is None:
            return float("nan")
        return resolution_at(curve, threshold, self.box, self.voxel_size_angstrom)

    def agrees_throughout(self, class_index: int, threshold: float = FSC_THRESHOLD) -> bool:
        """Whether a class' half-map FSC was measured and falls below a threshold nowhere."""
        curve = self._curve(class_index)
        return curve is not None and bool((curve[1:] >= threshold).all())

    def _curve(self, class_index: int) -> npt.NDArray[np.float64] | None:
        if self.fsc:
            return self.fsc[class_index].corrected
        return None if self.state.fsc is None else self.state.fsc[class_index]


def load_run_data(directory: Path) -> RunData:
    """Read a run that has ended, was interrupted, or goes on.

    Parameters
    ----------
    directory : Path
        Output directory of ``faml run``.

    Returns
    -------
    RunData
        Of complete iterations only.

    Raises
    ------
    CheckpointError
        No run, none with a complete iteration yet, a damaged one (also one that holds values that
        are no numbers), or one of a newer format.
    InputDataError
        A file of the run's results exists but cannot be read.
    """
    directory = Path(directory)
    if directory.name == CHECKPOINT_NAME and directory.is_file():
        directory = directory.parent
    directory = Path(os.path.abspath(directory))  # commands on the page hold from anywhere
    stored = read_run(_checkpoint(directory))
    check_state(stored, directory / CHECKPOINT_NAME)
    # The run may have gone on since its checkpoint was read.
    history = tuple(
        record
        for record in read_history(directory / CHECKPOINT_NAME)
        if record.iteration <= stored.state.iteration
    )
    check_history(history, directory / CHECKPOINT_NAME)
    log = read_run_log(directory / "run.log")
    notes: list[str] = []
    # Without a log, what lies beside the checkpoint is taken to belong to it.
    results = None
    if log is None or log.results_current:
        results = _results(directory, stored, notes)
    star = None if results is None else results.star
    given = None
    if star is None or not has_weights(star):
        given = _noted(
            notes,
            "the input cannot be read again, so its tomograms or wedges are not shown",
            lambda: run_input(stored),
            None,
        )
    classes = stored.state.model.classes
    columns = _from_state(stored, given) if star is None else _from_star(star, classes)
    maps = None if results is None else results.maps
    return RunData(
        directory=directory,
        config=stored.config,
        config_text=_config_text(directory, stored.config),
        names=stored.names,
        box=stored.box,
        voxel_size_angstrom=stored.voxel_size_angstrom,
        versions=stored.versions,
        state=stored.state,
        history=history,
        maps=stored.state.model.volumes if maps is None else maps,
        final=maps is not None,
        particles=columns,
        duplicates=0 if results is None else results.duplicates,
        coverages=_noted(
            notes,
            "what of Fourier space was observed is not shown",
            lambda: class_coverages(stored, columns.classes, columns.rotations, star, given),
            (None,) * classes,
        ),
        # One that was interrupted writes maps and particles, but compares no halves.
        fsc=_final_fsc(directory, stored)
        if maps is not None and (log is None or log.ending == "finished")
        else (),
        log=log or RunLog(),
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class _Results:
    """What lies beside a checkpoint and is of its last iteration."""

    star: RelionStar
    duplicates: int
    maps: npt.NDArray[np.float32] | None


def _results(directory: Path, stored: StoredRun, notes: list[str]) -> _Results | None:
    """Results at the end of the run; None where there are none, or those of another run."""
    path = directory / "particles.star"
    if not path.is_file():
        return None
    star = read_star(path)
    duplicates = _count(directory / "duplicates.star")
    if len(star) + duplicates != len(stored.names):
        notes.append(
            f"particles.star holds {len(star)} particles, the run {len(stored.names)}: it is not "
            "of this run, so particles are shown as the last iteration left them"
        )
        return None
    return _Results(star, duplicates, _final_maps(directory, stored))


def _checkpoint(directory: Path) -> Path:
    """The run's checkpoint; says more than `read_run` where there is none yet."""
    path = directory / CHECKPOINT_NAME
    if path.is_file():
        return path
    if stored_starts(directory):
        raise CheckpointError(
            f"{directory}: expected a run with {CHECKPOINT_NAME}, found random starts that are not "
            f"done; wait for them, or continue with: faml resume {directory}"
        )
    if (directory / "run.log").is_file():
        raise CheckpointError(
            f"{directory}: expected a run with a complete iteration, found one that has begun; "
            "wait for its first iteration (run.log says how far it is)"
        )
    return path  # read_run says what is missing


def _noted(notes: list[str], lacking: str, read: Callable[[], _T], otherwise: _T) -> _T:
    """What a report can do without: if it cannot be read, the report says why."""
    try:
        return read()
    except FamlError as error:
        notes.append(f"{lacking}: {error}")
        return otherwise


def _from_star(star: RelionStar, class_count: int) -> ParticleColumns:
    table = star.particles
    tomogram = next((name for name in _TOMOGRAMS if name in table), None)
    angles = np.stack([numbers(star, table, name) for name in ANGLE_COLUMNS], axis=1)
    classes = check_classes(numbers(star, table, "rlnClassNumber"), class_count, star.path)
    # The first versions wrote neither evidences nor outliers.
    evidences = np.zeros(len(table))
    if "famlLogEvidence" in table:
        evidences = numbers(star, table, "famlLogEvidence")
    odd = np.zeros(len(table), dtype=bool)
    if "famlOutlier" in table:
        odd = numbers(star, table, "famlOutlier") > 0
    return ParticleColumns(
        classes=classes,
        rotations=relion_angles_deg_to_matrices(angles),
        probabilities=numbers(star, table, "rlnMaxValueProbDistribution"),
        log_evidences=evidences,
        outliers=odd,
        tomograms=None if tomogram is None else table[tomogram].astype(str).to_numpy(dtype=str),
    )


def _from_state(stored: StoredRun, given: RunInput | None) -> ParticleColumns:
    found = stored.state.assignments
    return ParticleColumns(
        classes=found.classes,
        rotations=found.rotations,
        probabilities=found.probabilities,
        log_evidences=found.log_evidences,
        outliers=outliers(found.log_evidences, found.classes),
        tomograms=None if given is None else _tomograms(given),
    )


def _tomograms(given: RunInput) -> npt.NDArray[np.str_] | None:
    """Names from the input's table, of the particles that the run has."""
    if given.source.star is None:
        return None
    table = given.source.star.particles
    column = next((name for name in _TOMOGRAMS if name in table), None)
    return None if column is None else table[column].astype(str).to_numpy(dtype=str)[given.rows]


def _count(path: Path) -> int:
    return len(read_star(path)) if path.is_file() else 0


def _config_text(directory: Path, config: RunConfig) -> str:
    path = directory / "config.toml"
    if not os.path.lexists(path):
        return config_to_toml(config)
    return read_text(path, "the settings of the run; restore the file or remove it")


def _final_maps(directory: Path, stored: StoredRun) -> npt.NDArray[np.float32] | None:
    """``class_001.mrc`` ..., or None unless all are there."""
    paths = [class_path(directory, k) for k in range(stored.state.model.classes)]
    if not all(path.is_file() for path in paths):
        return None
    maps = [read_volume(path).values for path in paths]
    for path, values in zip(paths, maps, strict=True):
        if values.shape != (stored.box,) * 3:
            raise InputDataError(
                f"{path}: expected a map of {stored.box}^3 voxels like the run's particles, found "
                f"{values.shape}; it is not of this run, remove it"
            )
    return np.stack(maps)


def _final_fsc(directory: Path, stored: StoredRun) -> tuple[FscCurves, ...]:
    """``fsc_class_001.csv`` ..., or none unless all are there."""
    if not stored.config.em.half_sets:
        return ()
    paths = [directory / f"fsc_class_{k + 1:03d}.csv" for k in range(stored.state.model.classes)]
    if not all(path.is_file() for path in paths):
        return ()
    return tuple(_read_fsc(path) for path in paths)


def _read_fsc(path: Path) -> FscCurves:
    names = ("fsc_corrected", "fsc_masked", "fsc_unmasked", "fsc_phase_randomised")
    try:
        table = pd.read_csv(path)
        columns = [table[name].to_numpy(dtype=np.float64) for name in names]
    except (OSError, ValueError, KeyError) as error:
        raise InputDataError(
            f"{path}: expected a table with columns {', '.join(names)}, found something else "
            f"({error}); remove it or run again"
        ) from error
    if len(table) < 2 or not np.isfinite(columns).all():
        raise InputDataError(f"{path}: expected finite values at 2 or more shells; remove it")
    return FscCurves(*columns)
