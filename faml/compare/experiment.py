"""What an experiment is: data, methods, seeds, and the runs that follow from them."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from faml.config import build_config, toml_values, validated
from faml.errors import ConfigurationError
from faml.io.files import open_regular, read_text
from faml.simulate.settings import Simulation, build_simulation
from faml.symmetry import point_group

__all__ = ["Case", "DataPoint", "Experiment", "Method", "Task", "in_words", "read_experiment"]

_KEY_LENGTH = 10
_MOST_RUNS = 100_000
_RELION_OURS = frozenset({"--i", "--o", "--K", "--iter", "--j", "--random_seed"})
"""With a name of its own, an experiment could write outside of its results."""
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Names are parts of file names."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Case(BaseModel):
    """Settings of the simulation in which data sets differ, under a name."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str = Field(pattern=_NAME)


class Method(_Section):
    """One way of going from particles to averages."""

    kind: Literal["faml", "oracle", "relion"] = "faml"
    """The oracle averages at the true poses and classes."""
    preset: str = "robust"
    data: dict[str, Any] = Field(default_factory=dict)
    search: dict[str, Any] = Field(default_factory=dict)
    em: dict[str, Any] = Field(default_factory=dict)
    """Sections of a faml run (`faml.config`)."""
    weights: Literal["all", "wedge"] = "all"
    """What is known of each particle's weight: the simulated volumes, or the tilt range alone."""
    arguments: tuple[str, ...] = ()
    """Of relion_refine, beyond those that say what the data are."""
    iterations: int = Field(default=10, ge=1)
    """Of RELION."""
    minutes: float | None = Field(default=None, gt=0)
    """After which RELION is stopped; what it has reached then counts."""
    only: dict[str, list[Any]] = Field(default_factory=dict)
    """Values of sweeps or ``case`` that the method is run on; others are left out."""


class Experiment(_Section):
    """A file of `experiments/`."""

    title: str = Field(min_length=1)
    section: str = ""
    """Of the paper."""
    about: str = ""
    seeds: tuple[int, ...] = Field(min_length=1)
    data: dict[str, Any] = Field(default_factory=dict)
    """Settings of the simulation (`faml.simulate.settings`), but for the seed."""
    cases: tuple[Case, ...] = ()
    sweep: dict[str, list[Any]] = Field(default_factory=dict)
    """Settings of the simulation and the values each takes; all combinations are run."""
    symmetries: tuple[str, ...] = ("C1",)
    """Of the structures, once or once each: poses are compared up to it."""
    methods: dict[Annotated[str, Field(pattern=_NAME)], Method] = Field(min_length=1)
    threads: int = Field(default=1, ge=1)
    """Of each run; only times depend on it."""
    paper: tuple[dict[str, Any], ...] = ()
    """What the paper reports, as rows of a table."""
    quick: dict[str, Any] = Field(default_factory=dict)
    """What the quick variant has instead; tables are merged, anything else is replaced."""

    @field_validator("symmetries")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            point_group(name)
        return value

    @model_validator(mode="after")
    def _complete(self) -> Experiment:
        for what in (self.data, self.sweep, *(case.model_extra for case in self.cases)):
            if "seed" in (what or {}):
                msg = "the seed of a simulation is the run's: give `seeds`"
                raise ValueError(msg)
        if any(not values for values in self.sweep.values()):
            msg = "a sweep needs values: expected a list that is not empty"
            raise ValueError(msg)
        names = [case.name for case in self.cases]
        if len(set(names)) < len(names):
            msg = f"every case needs a name of its own, found {', '.join(names)}"
            raise ValueError(msg)
        return self


@dataclass(frozen=True)
class DataPoint:
    """One simulated data set.

    Attributes
    ----------
    simulation : Simulation
        Paths of models are relative to the experiment's file.
    case : str
        Name, where the experiment has cases.
    swept : dict
        Values of the settings that the experiment varies.
    key : str
        Of everything that makes it, the content of models included.
    """

    simulation: Simulation
    case: str
    swept: dict[str, Any]
    key: str

    @property
    def label(self) -> str:
        """Case and what is swept, for a person."""
        swept = (f"{name} {in_words(value)}" for name, value in self.swept.items())
        return ", ".join(part for part in (self.case, *swept) if part)


@dataclass(frozen=True)
class Task:
    """One method on one data set.

    Attributes
    ----------
    experiment : str
        Name of its file.
    base : Path
        Directory of the experiment's file.
    data : DataPoint
    name : str
        Of the method.
    method : Method
    symmetries : tuple of str
    threads : int
        Of the run.
    """

    experiment: str
    base: Path
    data: DataPoint
    name: str
    method: Method
    symmetries: tuple[str, ...]
    threads: int

    @property
    def key(self) -> str:
        """Under which its result is kept: the same for the same settings and data only.

        Versions of programs are not part of it; results say them.
        """
        what = {
            "data": self.data.key,
            "method": self.method.model_dump(mode="json", exclude={"only"}),
            "symmetries": self.symmetries,
            "threads": self.threads,
        }
        parts = [self.name, self.data.case, f"seed{self.data.simulation.seed}", _digest(what)]
        return "-".join(part for part in parts if part)

    @property
    def label(self) -> str:
        """For a person."""
        parts = [self.name, self.data.label, f"seed {self.data.simulation.seed}"]
        return ", ".join(part for part in parts if part)


def read_experiment(path: Path, *, quick: bool = False) -> tuple[Experiment, list[Task]]:
    """An experiment and its runs.

    Parameters
    ----------
    path : Path
        TOML.
    quick : bool
        The quick variant.

    Raises
    ------
    InputDataError
        The file, or a model it names, cannot be read, or it is no text.
    ConfigurationError
        It is no TOML, asks for more than 100 000 runs, or a setting is unknown or out of range; of
        methods and simulations, too.
    """
    text = read_text(path, "an experiment in TOML")
    try:
        values = toml_values(text)
        if quick:
            # As it is, so that what it is has been checked.
            values = _merged(values, validated(Experiment, values).quick)
        experiment = validated(Experiment, values)
        return experiment, _tasks(experiment, path)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    result = dict(values)
    for name, value in changes.items():
        old = result.get(name)
        if isinstance(value, dict) and isinstance(old, dict):
            result[name] = _merged(old, value)
        else:
            result[name] = value
    return result


def _tasks(experiment: Experiment, path: Path) -> list[Task]:
    for name, method in experiment.methods.items():
        try:
            _check(method)
        except ConfigurationError as error:
            raise ConfigurationError(f"method {name}: {error}") from error
    tasks: dict[str, Task] = {}
    for point in _data_points(experiment, path.parent):
        where = point.swept | ({"case": point.case} if point.case else {})
        for name, method in experiment.methods.items():
            unknown = set(method.only) - set(where)
            if unknown:
                raise ConfigurationError(
                    f"method {name}: `only` names {', '.join(sorted(unknown))}, which the "
                    "experiment does not vary"
                )
            if not all(where[what] in values for what, values in method.only.items()):
                continue
            task = Task(
                experiment=path.stem,
                base=path.parent,
                data=point,
                name=name,
                method=method,
                symmetries=experiment.symmetries,
                threads=experiment.threads,
            )
            if task.key in tasks:
                raise ConfigurationError(
                    f"expected every run once, found {task.label} twice; remove the repeated seed, "
                    "case or value"
                )
            tasks[task.key] = task
    for name in experiment.methods:
        if all(task.name != name for task in tasks.values()):
            raise ConfigurationError(f"method {name}: `only` leaves nothing to run it on")
    return list(tasks.values())


def _check(method: Method) -> None:
    """Find what is wrong with a method before the first run has begun."""
    belongs = {
        "faml": {"preset", "data", "search", "em", "weights"},
        "oracle": {"data", "em"},
        "relion": {"arguments", "iterations", "minutes"},
    }[method.kind]
    strange = method.model_fields_set - belongs - {"kind", "only"}
    if strange:
        raise ConfigurationError(
            f"{', '.join(sorted(strange))} does not belong to kind {method.kind!r}"
        )
    ours = sorted(_RELION_OURS & {argument.partition("=")[0] for argument in method.arguments})
    if ours:
        raise ConfigurationError(
            f"{', '.join(ours)} of RELION is the experiment's; leave it out of arguments"
        )
    if {"seed", "classes"} & set(method.em):
        raise ConfigurationError("seed and classes are the experiment's; leave them out of em")
    build_config(preset=method.preset, data=method.data, search=method.search, em=method.em)


def _data_points(experiment: Experiment, base: Path) -> list[DataPoint]:
    names = list(experiment.sweep)
    count = math.prod(map(len, (*experiment.sweep.values(), experiment.seeds, experiment.methods)))
    count *= max(1, len(experiment.cases))
    if count > _MOST_RUNS:
        raise ConfigurationError(
            f"expected up to {_MOST_RUNS} runs, found {count} combinations of sweeps, cases, seeds "
            "and methods; split the experiment"
        )
    points = []
    digests: dict[str, str] = {}
    for case in experiment.cases or (None,):
        own = {} if case is None else dict(case.model_extra or {})
        for values in product(*experiment.sweep.values()):
            swept = dict(zip(names, values, strict=True))
            for seed in experiment.seeds:
                settings = experiment.data | own | swept
                simulation = build_simulation(**settings, seed=seed)
                if len(experiment.symmetries) not in (1, len(simulation.models)):
                    raise ConfigurationError(
                        f"expected one symmetry, or one per model ({len(simulation.models)}), "
                        f"found {len(experiment.symmetries)}"
                    )
                key = _data_key(simulation, base, digests)
                name = "" if case is None else case.name
                points.append(DataPoint(simulation, name, swept, key))
    return points


def _data_key(simulation: Simulation, base: Path, digests: dict[str, str]) -> str:
    """Key of a data set; ``digests`` of models that were read already are kept."""
    for model in simulation.models:
        if model not in digests:
            with open_regular(base / model) as stream:
                digests[model] = hashlib.file_digest(stream, "sha256").hexdigest()
    models = [digests[model] for model in simulation.models]
    return _digest({"models": models, "settings": simulation.model_dump(exclude={"models"})})


def _digest(what: Any) -> str:
    text = json.dumps(what, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_LENGTH]


def in_words(value: Any) -> str:
    """A setting as one cell of a table: ``-60 to 60`` of a range, values of a list in a row."""
    if isinstance(value, list | tuple):
        words = [in_words(each) for each in value]
        numbers = all(isinstance(each, int | float) for each in value)
        return (" to " if numbers and len(words) == 2 else " ").join(words)
    return f"{value:g}" if isinstance(value, int | float) else str(value)
