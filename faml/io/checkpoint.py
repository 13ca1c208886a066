"""One HDF5 file per run: configuration, versions and every iteration.

Layout, format version 5 (1 had no folds and no kept masses, 2 no half-sets, 3 no
evidences and no symmetry of a state, 4 no sharp posteriors and no count of stalled iterations)::

    /                     attrs: format, config (TOML), versions (JSON), seed, box, voxel_size,
                          last_iteration (written last)
    /particles            names; grey_values, by which they are known again (not of older files)
    /iterations/000007    model/..., assignments/..., ssnr, fsc, symmetry_seen/..., attrs: the
                          scalars of `State`
    /folds                volumes, signal_power of the last iteration's fold models
    /halves               the last iteration's models of the half-sets
    /running              what batches have left (`em.running`), as of the last iteration

The file is copied, extended and renamed into place, so whatever kills the process leaves the last
complete iteration readable. Nothing is pickled.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from faml.config import RunConfig, config_from_toml, config_to_toml
from faml.em.running import RunningSums
from faml.em.state import State, SymmetrySeen
from faml.errors import CheckpointError, FamlError, InputDataError, OutputError
from faml.io.atomic import atomic_path, remedy
from faml.io.grey_values import GreyValues
from faml.io.hdf5 import HDF5_ERRORS, StoredGroup, open_stored
from faml.io.same_input import GREY_FIELDS, fingerprint
from faml.io.stored_state import (
    FOLD_FIELDS,
    MODEL_FIELDS,
    Sizes,
    iteration_name,
    read_state,
    stored_iterations,
)
from faml.model import Model
from faml.particles import ParticleSet

__all__ = [
    "FORMAT",
    "Checkpoint",
    "HDF5Checkpoint",
    "MemoryCheckpoint",
    "StoredRun",
    "read_config",
    "read_run",
    "read_sizes",
]

FORMAT = 5
_PACKAGES = ("faml", "numpy", "scipy", "numba", "h5py", "pyshtools")
_FIRST_SHARP = 5
_GREY = "particles/grey_values"
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
    grey_values : (6, N) float64 or None
        `same_input.fingerprint` of the particles, where it is known.
    """

    config: RunConfig
    names: tuple[str, ...]
    box: int
    voxel_size_angstrom: float
    versions: dict[str, str]
    iterations: tuple[int, ...]
    state: State
    grey_values: npt.NDArray[np.float64] | None = None


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
    grey : GreyValues, optional
        Of the particles, to know them again.
    """

    def __init__(
        self,
        path: Path,
        config: RunConfig,
        particles: ParticleSet,
        *,
        history: bool = True,
        grey: GreyValues | None = None,
    ) -> None:
        super().__init__()
        self.path = path
        self._grey = grey
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
                    _write_last(file, "folds", state.fold_models, FOLD_FIELDS)
                    _write_last(file, "halves", state.half_models, MODEL_FIELDS)
                    _write_running(file, state.running)
                    file.attrs["last_iteration"] = state.iteration
        except (OutputError, OSError, RuntimeError, ValueError) as error:
            # h5py reports a full disk as any of these, depending on when it notices.
            raise CheckpointError(
                f"iteration {state.iteration} could not be saved ({_reason(error)}); "
                f"{remedy(self.path, _cause(error))}; {self.kept()}"
            ) from error
        self.saved = [state]

    def explain(self, error: FamlError) -> None:
        """Add to the message of what has ended a run what is kept of it."""
        if self.saved and not isinstance(error, CheckpointError):
            error.args = (f"{error}; {self.kept()}",)

    def kept(self) -> str:
        """What of the run can be continued, and how, for people."""
        if not self.saved:
            return "nothing was written"
        if not self.path.is_file():
            return f"iteration {self.saved[-1].iteration} was kept in {self.path}, which is gone"
        return (
            f"iteration {self.saved[-1].iteration} is kept in {self.path}; continue with: faml "
            f"resume {self.path.parent}"
        )

    def _write_header(self, file: h5py.File) -> None:
        file.attrs["format"] = FORMAT
        file.attrs["versions"] = json.dumps(software_versions())
        file.attrs["seed"] = self._config.em.seed
        file.attrs["box"] = self._particles.box
        file.attrs["voxel_size"] = self._particles.voxel_size_angstrom
        file.create_dataset(
            "particles/names", data=list(self._particles.names), dtype=h5py.string_dtype()
        )
        if self._grey is not None:
            file[_GREY] = fingerprint(self._grey)


def _reason(error: Exception) -> str:
    """What the system says, without h5py's account of its own state."""
    number = getattr(_cause(error), "errno", None)
    return os.strerror(number) if number else str(error)


def _cause(error: Exception) -> BaseException:
    return error.__cause__ or error if isinstance(error, OutputError) else error


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
        with open_stored(path) as root:
            return _read(root, path)
    except (InputDataError, *HDF5_ERRORS) as error:
        raise CheckpointError(
            f"{path}: cannot be read as a faml run ({error}); restore it from a copy or start the "
            "run again in another directory"
        ) from error


def read_sizes(root: StoredGroup, config: RunConfig) -> Sizes:
    """The sizes that all arrays of a run have; raises ValueError if it has no particles."""
    shape, box = root.shape("particles/names"), root.integer("box")
    if len(shape) != 1 or shape[0] < 1 or box < 1:
        raise ValueError(f"expected particles in boxes, found {shape} of box {box}")
    return Sizes(shape[0], config.em.classes, box)


def read_config(root: StoredGroup) -> RunConfig:
    """The configuration of a run; raises ConfigurationError for one that is not understood."""
    return config_from_toml(root.text("config"))


def _read(root: StoredGroup, path: Path) -> StoredRun:
    written = root.integer("format") if root.has_attribute("format") else 0
    if not 1 <= written <= FORMAT:
        raise CheckpointError(
            f"{path}: expected format version 1 to {FORMAT}, found {written}; "
            "update faml to continue this run"
        )
    last, config = root.integer("last_iteration"), read_config(root)
    if written < _FIRST_SHARP:  # what a run has begun with it goes on with
        config = config.model_copy(update={"em": config.em.model_copy(update={"sharpness": 1.0})})
    sizes = read_sizes(root, config)
    voxel_size = root.number("voxel_size")
    if not 0.0 < voxel_size < np.inf:
        raise ValueError(f"expected a voxel size above zero, found {voxel_size:g} Angstrom")
    return StoredRun(
        config=config,
        names=root.texts("particles/names"),
        box=sizes.box,
        voxel_size_angstrom=voxel_size,
        versions=_versions(root.text("versions")),
        iterations=stored_iterations(root, last),
        state=read_state(root, last, config.em.symmetry, sizes),
        grey_values=(
            root.array(_GREY, (len(GREY_FIELDS), sizes.count), np.float64)
            if _GREY in root
            else None
        ),
    )


def _versions(text: str) -> dict[str, str]:
    try:
        found = json.loads(text)
    except RecursionError:
        found = None
    if not isinstance(found, dict):
        raise ValueError("expected versions of software, found something else")  # noqa: TRY004
    return {name: str(value) for name, value in found.items()}


def _write_state(file: h5py.File, state: State) -> None:
    name = iteration_name(state.iteration)
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


def _write_running(file: h5py.File, running: RunningSums | None) -> None:
    """What batches have left, in place of what earlier ones had."""
    if running is None:
        if "running" in file:
            del file["running"]
        return
    group = file.require_group("running")
    for name in ("steps", "align_shell", "sum_shell"):
        group.attrs[name] = getattr(running, name)
    for name in ("weights", "squares", "batch"):
        if name in group:
            del group[name]
        group[name] = getattr(running, name).reshape(-1)
    values = np.concatenate([mean.as_vector() for mean in running.means])
    if "values" not in group:  # their number grows with the resolution
        group.create_dataset("values", data=values, maxshape=(None,), chunks=True)
    group["values"].resize(values.shape)
    group["values"][...] = values


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
