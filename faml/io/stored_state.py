"""States out of the HDF5 file of a run: every array has the shape that the run's sizes give it."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from faml.em.running import RunningSums
from faml.em.state import Assignments, Changes, State, SymmetrySeen
from faml.em.statistics import Statistics
from faml.io.hdf5 import StoredGroup
from faml.model import Model
from faml.symmetry import point_group
from faml.transforms.fourier import fourier_grid

__all__ = [
    "FOLD_FIELDS",
    "MODEL_FIELDS",
    "Sizes",
    "iteration_name",
    "read_classes",
    "read_empty_classes",
    "read_fsc",
    "read_shell",
    "read_state",
    "stored_iterations",
]

FOLD_FIELDS = ("volumes", "signal_power")
MODEL_FIELDS = tuple(field.name for field in fields(Model))
_Layout = tuple[tuple[int | None, ...], type[np.generic]]


@dataclass(frozen=True)
class Sizes:
    """Of a run.

    Attributes
    ----------
    count : int
        Particles N.
    classes : int
        K.
    box : int
        Edge n in voxels.
    """

    count: int
    classes: int
    box: int

    def of_model(self, shells: int) -> dict[str, _Layout]:
        """Shape and type of each field of a model of S shells."""
        k, n = self.classes, self.box
        return {
            "volumes": ((k, n, n, n), np.float32),
            "class_fractions": ((k,), np.float64),
            "noise_variance": ((shells,), np.float64),
            "signal_power": ((k, shells), np.float64),
            "shift_variance": ((), np.float64),
        }

    def of_assignments(self) -> dict[str, _Layout]:
        """Shape and type of each field of assignments."""
        n, k = self.count, self.classes
        return {
            "classes": ((n,), np.int64),
            "rotations": ((n, 3, 3), np.float64),
            "translations": ((n, 3), np.float64),
            "probabilities": ((n,), np.float64),
            "class_probabilities": ((n, k), np.float64),
            "effective_poses": ((n,), np.float64),
            "log_likelihoods": ((n,), np.float64),
            "log_evidences": ((n,), np.float64),
            "fallbacks": ((n,), np.bool_),
            "kept_masses": ((n,), np.float64),
        }


def iteration_name(iteration: int) -> str:
    """The group of an iteration."""
    return f"iterations/{iteration:06d}"


def stored_iterations(root: StoredGroup, last: int) -> tuple[int, ...]:
    """Numbers of the complete iterations in a file, in order; ValueError for other names."""
    names = root.group("iterations").names()
    strange = [name for name in names if not re.fullmatch("[0-9]{6}", name)]
    if strange:
        raise ValueError(f"expected numbers of iterations, found {strange[0][:40]!r}")
    return tuple(sorted(int(name) for name in names if int(name) <= last))


def read_state(root: StoredGroup, iteration: int, symmetry: str, sizes: Sizes) -> State:
    """One iteration of a run, with the models of folds and half-sets, which are of the last.

    Parameters
    ----------
    root : StoredGroup
    iteration : int
    symmetry : str
        Of the run.
    sizes : Sizes

    Raises
    ------
    ValueError
        Something is missing or not what it should be.
    ConfigurationError
        A symmetry that there is not.
    """
    group = root.group(iteration_name(iteration))
    shells = _shells(group, sizes)
    model, layouts = group.group("model"), sizes.of_model(shells).items()
    overall = Model(**_fields({part: model.array(part, *layout) for part, layout in layouts}))
    halves = tuple(
        Model(**one) for one in _last_models(root, "halves", MODEL_FIELDS, sizes, shells)
    )
    folds = _last_models(root, "folds", FOLD_FIELDS, sizes, shells)
    # What folds do not hold out they share with their half.
    wholes = halves or (overall,)
    if len(folds) % len(wholes):
        raise ValueError(f"expected as many folds of each half, found {len(folds)} in all")
    shared = [whole for whole in wholes for _ in range(len(folds) // len(wholes))]
    changes = None
    if group.has_attribute("change_median_angle_deg"):
        changes = Changes(**{f.name: group.number(f"change_{f.name}") for f in fields(Changes)})
    # Before format 4 a run's symmetry was imposed from the beginning.
    symmetry = group.text("symmetry") if group.has_attribute("symmetry") else symmetry
    best, stalled = -np.inf, 0  # before format 5
    if group.has_attribute("best_log_likelihood"):
        best, stalled = group.number("best_log_likelihood"), group.integer("stalled")
    return State(
        iteration=iteration,
        model=overall,
        assignments=_assignments(group, sizes),
        align_shell=read_shell(group, "align_shell", sizes),
        next_align_shell=read_shell(group, "next_align_shell", sizes),
        log_likelihood=group.number("log_likelihood"),
        ssnr=group.array("ssnr", (sizes.classes, None), np.float64),
        changes=changes,
        empty_classes=read_empty_classes(group, sizes),
        stop_reason=group.text("stop_reason"),
        fold_models=tuple(replace(base, **one) for base, one in zip(shared, folds, strict=True)),
        half_models=halves,
        fsc=read_fsc(group, sizes),
        symmetry=point_group(symmetry).name,
        best_log_likelihood=best,
        stalled=stalled,
        symmetry_seen=_symmetry_seen(group, sizes),
        running=_running(root, sizes),
    )


def read_shell(group: StoredGroup, name: str, sizes: Sizes) -> int:
    """An attribute that is a Fourier shell of the box; 0 is before the first iteration."""
    shell = group.integer(name)
    if not 0 <= shell <= sizes.box:
        raise ValueError(f"expected a shell of a box of {sizes.box} as {name}, found {shell}")
    return shell


def read_classes(group: StoredGroup, sizes: Sizes) -> npt.NDArray[np.int64]:
    """Zero-based class of each particle, (N,) int64."""
    classes = group.array("assignments/classes", (sizes.count,), np.int64)
    if not ((classes >= 0) & (classes < sizes.classes)).all():
        raise ValueError(
            f"expected classes 0 to {sizes.classes - 1}, found {classes.min()} to {classes.max()}"
        )
    return classes


def read_empty_classes(group: StoredGroup, sizes: Sizes) -> tuple[int, ...]:
    """Classes that kept their old average."""
    empty = group.array("empty_classes", (None,), np.int64)
    if len(empty) > sizes.classes or not ((empty >= 0) & (empty < sizes.classes)).all():
        raise ValueError(f"expected some of {sizes.classes} classes as empty, found others")
    return tuple(int(k) for k in empty)


def read_fsc(group: StoredGroup, sizes: Sizes) -> npt.NDArray[np.float64] | None:
    """(K, n // 2) float64, or None without half-sets."""
    if "fsc" not in group:
        return None
    return group.array("fsc", (sizes.classes, sizes.box // 2), np.float64)


def _shells(group: StoredGroup, sizes: Sizes) -> int:
    shape = group.shape("model/noise_variance")
    if len(shape) != 1 or not 1 <= shape[0] <= sizes.box // 2 + 1:
        raise ValueError(f"expected shells of a box of {sizes.box}, found shape {shape}")
    return shape[0]


def _last_models(
    root: StoredGroup, name: str, parts: Collection[str], sizes: Sizes, shells: int
) -> list[dict[str, Any]]:
    """Fields of each of the models that are kept of the last iteration only."""
    if name not in root:
        return []
    group = root.group(name)
    (count, *_) = (*group.shape("volumes"), 0)
    values = {
        part: group.array(part, (count, *shape), dtype)
        for part, (shape, dtype) in sizes.of_model(shells).items()
        if part in parts
    }
    return [_fields({part: array[i] for part, array in values.items()}) for i in range(count)]


def _fields(values: dict[str, Any]) -> dict[str, Any]:
    """Of a model, whose variance of shifts is a number."""
    if "shift_variance" in values:
        values["shift_variance"] = float(values["shift_variance"])
    return values


def _assignments(group: StoredGroup, sizes: Sizes) -> Assignments:
    absent: dict[str, Any] = {
        "kept_masses": np.ones(sizes.count),  # in format 1
        "log_evidences": np.zeros(sizes.count),  # up to format 3
    }
    stored = group.group("assignments")
    values = {
        part: absent[part] if part in absent and part not in stored else stored.array(part, *layout)
        for part, layout in sizes.of_assignments().items()
    }
    return Assignments(**values | {"classes": read_classes(group, sizes)})


def _running(root: StoredGroup, sizes: Sizes) -> RunningSums | None:
    """What batches have left as of the last iteration."""
    if "running" not in root:
        return None
    group = root.group("running")
    align_shell, sum_shell = (
        read_shell(group, name, sizes) for name in ("align_shell", "sum_shell")
    )
    batch = group.array("batch", (None,), np.float64)
    values = group.array("values", (None,), np.float64)
    groups, shells = len(batch), sum_shell + 1
    if groups == 0 or len(values) % groups or not (batch > 0).all():
        raise ValueError("expected sums of each group as what batches have left, found others")
    weights, squares = (
        group.array(name, (groups * shells,), np.float64).reshape(groups, shells)
        for name in ("weights", "squares")
    )
    if not ((weights > 0) & (squares > 0)).all():
        raise ValueError("expected weights above 0 of what batches have left, found others")
    grid = fourier_grid(sizes.box, align_shell, sum_shell)
    return RunningSums(
        tuple(
            Statistics.from_vector(part, sizes.classes, grid) for part in np.split(values, groups)
        ),
        weights,
        squares,
        batch,
        group.integer("steps"),
        sizes.box,
        align_shell,
        sum_shell,
    )


def _symmetry_seen(group: StoredGroup, sizes: Sizes) -> tuple[SymmetrySeen, ...]:
    if "symmetry_seen" not in group:
        return ()
    columns = [
        group.array(f"symmetry_seen/{field.name}", (sizes.classes,), np.float64)
        for field in fields(SymmetrySeen)
    ]
    return tuple(SymmetrySeen(*map(float, row)) for row in zip(*columns, strict=True))
