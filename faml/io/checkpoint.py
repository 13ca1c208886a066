"""One HDF5 file per run: configuration, versions and every iteration.

Layout, format version 5 (1 had no folds and no kept masses, 2 no half-sets, 3 no
evidences and no symmetry of a state, 4 no sharp posteriors and no count of stalled iterations)::

    /                     attrs: format, config (TOML), versions (JSON), seed, box, voxel_size,
                          last_iteration (written last)
    /particles            names
    /iterations/000007    model/..., assignments/..., ssnr, fsc, symmetry_seen/..., attrs: the
                          scalars of `State`
    /folds                volumes, signal_power of the last iteration's fold models
    /halves               the last iteration's models of the half-sets

The file is copied, extended and renamed into place, so whatever kills the process leaves the last
complete iteration readable. Nothing is pickled.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from dataclasses import dataclass, fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from faml.config import RunConfig, config_from_toml, config_to_toml
from faml.em.state import Assignments, Changes, State, SymmetrySeen
from faml.errors import CheckpointError, OutputError
from faml.io.atomic import atomic_path
from faml.model import Model
from faml.particles import ParticleSet

__all__ = ["FORMAT", "Checkpoint", "HDF5Checkpoint", "MemoryCheckpoint", "StoredRun", "read_run"]

FORMAT = 5
_PACKAGES = ("faml", "numpy", "scipy", "numba", "h5py", "pyshtools")
_FIRST_SHARP = 5
_FOLD_FIELDS = ("volumes", "signal_power")
_MODEL_FIELDS = tuple(field.name for field in fields(Model))
_SCALARS = (
    "iteration",
    "align_shell",
    "next_align_shell",
    "log_likelihood",
    "stop_reason",
    "symmetry",
    "best_log_likelihood",
    "stalled",
)


@dataclass(frozen=True)
class StoredRun:
    """What a checkpoint holds.

    Attributes
    ----------
    config : RunConfig
    names : tuple of N str
        Particles, in order.
    box : int
    voxel_size_angstrom : float
    versions : dict of str to str
        Software that wrote the file.
    iterations : tuple of int
        Complete ones.
    state : State
        Of the last complete iteration.
    """

    config: RunConfig
    names: tuple[str, ...]
    box: int
    voxel_size_angstrom: float
    versions: dict[str, str]
    iterations: tuple[int, ...]
    state: State


class MemoryCheckpoint:
    """Keeps states in memory; the base of what a checkpoint does."""

    def __init__(self) -> None:
        self.saved: list[State] = []

    def save(self, state: State) -> None:
        """Keep one complete iteration."""
        self.saved.append(state)

    def last(self) -> State:
        """The last complete iteration; raises CheckpointError if there is none."""
        if not self.saved:
            raise CheckpointError("the run holds no complete iteration; start it again")
        return self.saved[-1]


Checkpoint = MemoryCheckpoint


class HDF5Checkpoint(MemoryCheckpoint):
    """Writes each state to the run's HDF5 file; keeps only the last one in memory.

    Parameters
    ----------
    path : Path
    config : RunConfig
    particles : ParticleSet
    history : bool
        Keep all iterations, not only the last.
    """

    def __init__(
        self, path: Path, config: RunConfig, particles: ParticleSet, *, history: bool = True
    ) -> None:
        super().__init__()
        self.path = path
        self._history = history
        self._config = config
        self._particles = particles

    def save(self, state: State) -> None:
        """Add one complete iteration to the file.

        Raises
        ------
        CheckpointError
            If it cannot be written (disk full); the file is left at the iteration before.
        """
        try:
            with atomic_path(self.path) as temporary:
                if self._history and self.path.exists():
                    shutil.copyfile(self.path, temporary)
                with h5py.File(temporary, "a") as file:
                    if "format" not in file.attrs:
                        self._write_header(file)
                    file.attrs["config"] = config_to_toml(self._config)
                    file.attrs["format"] = FORMAT
                    _write_state(file, state)
                    _write_last(file, "folds", state.fold_models, _FOLD_FIELDS)
                    _write_last(file, "halves", state.half_models, _MODEL_FIELDS)
                    file.attrs["last_iteration"] = state.iteration
        except (OutputError, OSError, RuntimeError, ValueError) as error:
            # h5py reports a full disk as any of these, depending on when it notices.
            kept = (
                f"iteration {self.saved[-1].iteration} is kept in {self.path}; free some space "
                f"and continue with: faml resume {self.path.parent}"
                if self.saved
                else "nothing was written"
            )
            raise CheckpointError(
                f"iteration {state.iteration} could not be saved ({_reason(error)}); {kept}"
            ) from error
        self.saved = [state]

    def _write_header(self, file: h5py.File) -> None:
        file.attrs["format"] = FORMAT
        file.attrs["versions"] = json.dumps(software_versions())
        file.attrs["seed"] = self._config.em.seed
        file.attrs["box"] = self._particles.box
        file.attrs["voxel_size"] = self._particles.voxel_size_angstrom
        file.create_dataset(
            "particles/names", data=list(self._particles.names), dtype=h5py.string_dtype()
        )


def _reason(error: Exception) -> str:
    """What the system says, without h5py's account of its own state."""
    cause = error.__cause__ if isinstance(error, OutputError) else error
    number = getattr(cause, "errno", None)
    return os.strerror(number) if number else str(error)


def software_versions() -> dict[str, str]:
    """Versions of the packages that determine a result, and the kind of machine."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def read_run(path: Path) -> StoredRun:
    """Read a checkpoint up to its last complete iteration.

    Raises
    ------
    CheckpointError
        If the file is missing, not HDF5, damaged, or of a newer format.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path.parent}: expected a run with {path.name}, found none; give the output "
            "directory of faml run"
        )
    try:
        with h5py.File(path, "r") as file:
            return _read(file, path)
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: cannot be read as a faml run ({error}); restore it from a copy or start the "
            "run again in another directory"
        ) from error


def _read(file: h5py.File, path: Path) -> StoredRun:
    written = int(file.attrs.get("format", 0))
    if not 1 <= written <= FORMAT:
        raise CheckpointError(
            f"{path}: expected format version 1 to {FORMAT}, found {written}; "
            "update faml to continue this run"
        )
    last = int(file.attrs["last_iteration"])
    iterations = tuple(sorted(int(name) for name in file["iterations"] if int(name) <= last))
    config = config_from_toml(str(file.attrs["config"]))
    if written < _FIRST_SHARP:  # what a run has begun with it goes on with
        config = config.model_copy(update={"em": config.em.model_copy(update={"sharpness": 1.0})})
    return StoredRun(
        config=config,
        names=tuple(file["particles/names"].asstr()[:]),
        box=int(file.attrs["box"]),
        voxel_size_angstrom=float(file.attrs["voxel_size"]),
        versions=json.loads(str(file.attrs["versions"])),
        iterations=iterations,
        state=_read_state(file, last, config.em.symmetry),
    )


def _symmetry_seen(group: h5py.Group) -> tuple[SymmetrySeen, ...]:
    if "symmetry_seen" not in group:
        return ()
    columns = [group[f"symmetry_seen/{field.name}"][()] for field in fields(SymmetrySeen)]
    return tuple(SymmetrySeen(*map(float, row)) for row in zip(*columns, strict=True))


def _group(iteration: int) -> str:
    return f"iterations/{iteration:06d}"


def _write_state(file: h5py.File, state: State) -> None:
    name = _group(state.iteration)
    if name in file:
        del file[name]
    group = file.create_group(name)
    for section, value in (("model", state.model), ("assignments", state.assignments)):
        for field in fields(value):
            group[f"{section}/{field.name}"] = getattr(value, field.name)
    group["ssnr"] = state.ssnr
    if state.fsc is not None:
        group["fsc"] = state.fsc
    if state.symmetry_seen:
        for field in fields(SymmetrySeen):
            values = [getattr(seen, field.name) for seen in state.symmetry_seen]
            group[f"symmetry_seen/{field.name}"] = np.array(values)
    group["empty_classes"] = np.array(state.empty_classes, dtype=np.int64)
    for scalar in _SCALARS:
        group.attrs[scalar] = getattr(state, scalar)
    if state.changes is not None:
        for field in fields(state.changes):
            group.attrs[f"change_{field.name}"] = getattr(state.changes, field.name)


def _write_last(
    file: h5py.File, name: str, models: tuple[Model, ...], parts: tuple[str, ...]
) -> None:
    """Models of the last iteration only, in place: HDF5 does not return what is deleted."""
    for part in parts if models else ():
        values = np.stack([getattr(model, part) for model in models])
        path = f"{name}/{part}"
        if path not in file:
            file.create_dataset(path, data=values)
        else:
            file[path][...] = values


def _read_last(file: h5py.File, name: str) -> list[dict[str, Any]]:
    """Fields of each of the models that `_write_last` wrote."""
    if name not in file:
        return []
    parts = {key: item[()] for key, item in file[name].items()}
    if "shift_variance" in parts:
        parts["shift_variance"] = parts["shift_variance"].tolist()
    count = len(next(iter(parts.values())))
    return [{key: values[i] for key, values in parts.items()} for i in range(count)]


def _read_state(file: h5py.File, iteration: int, symmetry: str) -> State:
    group = file[_group(iteration)]

    def section(name: str) -> dict[str, Any]:
        return {key: item[()] for key, item in group[name].items()}

    model = section("model")
    model["shift_variance"] = float(model["shift_variance"])
    assignments = section("assignments")
    if "kept_masses" not in assignments:  # format 1
        assignments["kept_masses"] = np.ones(len(assignments["classes"]))
    if "log_evidences" not in assignments:  # format 3
        assignments["log_evidences"] = np.zeros(len(assignments["classes"]))
    changes = None
    if "change_median_angle_deg" in group.attrs:
        changes = Changes(
            **{f.name: float(group.attrs[f"change_{f.name}"]) for f in fields(Changes)}
        )
    overall = Model(**model)
    halves = tuple(Model(**values) for values in _read_last(file, "halves"))
    folds = _read_last(file, "folds")
    # What folds do not hold out they share with their half.
    wholes = halves or (overall,)
    shared = [whole for whole in wholes for _ in range(len(folds) // len(wholes))]
    return State(
        iteration=int(group.attrs["iteration"]),
        model=overall,
        assignments=Assignments(**assignments),
        align_shell=int(group.attrs["align_shell"]),
        next_align_shell=int(group.attrs["next_align_shell"]),
        log_likelihood=float(group.attrs["log_likelihood"]),
        ssnr=group["ssnr"][()],
        changes=changes,
        empty_classes=tuple(int(k) for k in group["empty_classes"][()]),
        stop_reason=str(group.attrs["stop_reason"]),
        fold_models=tuple(
            replace(base, **values) for base, values in zip(shared, folds, strict=True)
        ),
        half_models=halves,
        fsc=group["fsc"][()] if "fsc" in group else None,
        # Before format 4 a run's symmetry was imposed from the beginning.
        symmetry=str(group.attrs.get("symmetry", symmetry)),
        best_log_likelihood=float(group.attrs.get("best_log_likelihood", -np.inf)),
        stalled=int(group.attrs.get("stalled", 0)),
        symmetry_seen=_symmetry_seen(group),
    )
