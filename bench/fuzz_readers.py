"""What `bench/fuzz.py` feeds, and the whole files that broken ones are made of.

A reader more is one more `Reader` in `readers`: a name, whole files, how to break them, and a call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fuzz_mutate
import fuzz_seeds
import numpy as np

from faml.compare.experiment import read_experiment
from faml.config import config_from_toml, config_to_toml
from faml.em.state import State
from faml.errors import FamlError
from faml.io.checkpoint import read_run
from faml.io.em import read_em
from faml.io.files import read_text
from faml.io.formats import read_table
from faml.io.formats.table import in_tomogram, numbered_tomograms, tomogram_numbers
from faml.io.formats.wedge_lists import read_wedge_list
from faml.io.history import read_history
from faml.io.mrc import read_header, read_volume
from faml.io.stacks import (
    find_tomograms,
    open_stacks,
    read_optimisation_set,
    read_tilt_series,
    unmodelled,
)
from faml.io.star import (
    read_star,
    resolve_images,
    star_pixel_size,
    star_poses,
    star_premultiplied,
)
from faml.io.tilt_angles import read_tilt_angles
from faml.report.log_file import read_run_log
from faml.report.run_data import load_run_data

__all__ = ["Reader", "readers"]


@dataclass(frozen=True)
class Reader:
    """One reader and its whole files.

    Attributes
    ----------
    name : str
    file : str
        What the broken file is called; readers go by suffixes.
    seeds : tuple of bytes
    mutate : Mutator
    read : callable
        Given the path; may raise `FamlError` and nothing else.
    beside : dict of str to bytes
        Other files of the folder.
    """

    name: str
    file: str
    seeds: tuple[bytes, ...]
    mutate: fuzz_mutate.Mutator
    read: Callable[[Path], object]
    beside: dict[str, bytes] = field(default_factory=dict)


def readers() -> dict[str, Reader]:
    """Every reader by name."""
    star, tomograms = fuzz_seeds.star(), fuzz_seeds.tomograms()
    stack, run = fuzz_seeds.mrc((2, fuzz_seeds.BOX, fuzz_seeds.BOX)), fuzz_seeds.runs()
    secret = {fuzz_mutate.SECRET_FILE: fuzz_seeds.secret(run[0])}
    particles = fuzz_seeds.stack_particles()
    images = dict.fromkeys(("a.mrc", "b.mrc", "c d.mrc"), b"")
    every = (
        Reader("mrc", "a.mrc", (fuzz_seeds.mrc((3, 4, 5)), stack, fuzz_seeds.mrc((4, 4, 4), "i1")),
               fuzz_mutate.binary, _read_mrc),
        Reader("em", "a.em", (fuzz_seeds.em((3, 4, 5)), fuzz_seeds.em((1, 2, 3))),
               fuzz_mutate.binary, _read_em),
        Reader("star", "particles.star", star, fuzz_mutate.text, _read_star, images),
        Reader("relion", "particles.star", (*star, *particles), fuzz_mutate.text, _read_table),
        Reader("dynamo", "a.tbl", fuzz_seeds.dynamo(), fuzz_mutate.text, _read_table),
        Reader("table-map", "a.doc", (b"1 TS_01\n2 TS_02.mrc\n",), fuzz_mutate.text,
               lambda path: _read_table(path.with_suffix(".tbl")),
               {"a.tbl": fuzz_seeds.dynamo()[0]}),
        Reader("av3", "a.em", (fuzz_seeds.motl(),), fuzz_mutate.binary, _read_table),
        Reader("stopgap", "a.star", fuzz_seeds.stopgap(), fuzz_mutate.text, _read_table),
        Reader("wedge-list", "w.txt", fuzz_seeds.wedge_lists(), _either, read_wedge_list),
        Reader("tilt-angles", "a.tlt", (b"-60.0\n-3.0\n0.0 # middle\n3\n60.00\n",),
               fuzz_mutate.text, read_tilt_angles),
        Reader("tilt-series", "tomograms.star", tomograms, fuzz_mutate.text,
               lambda path: read_tilt_series(path, ["TS_1"]), {"ts.star": fuzz_seeds.tilts()}),
        Reader("optimisation-set", "optimisation_set.star", (fuzz_seeds.optimisation_set(),),
               fuzz_mutate.text, _read_optimisation_set,
               {"particles.star": particles[0], "tomograms.star": tomograms[0]}),
        Reader("stacks", "particles.star", particles, fuzz_mutate.text, _read_stacks,
               {"tomograms.star": tomograms[1], "a.mrcs": stack, "b.mrcs": stack}),
        Reader("stacks-tomograms", "tomograms.star", tomograms, fuzz_mutate.text,
               lambda path: _read_stacks(path.with_name("particles.star")),
               {"particles.star": particles[0], "ts.star": fuzz_seeds.tilts(), "a.mrcs": stack,
                "b.mrcs": stack}),
        Reader("checkpoint", "run.h5", run, fuzz_mutate.hdf5, _read_run, secret),
        Reader("history", "run.h5", run, fuzz_mutate.hdf5, _read_history, secret),
        Reader("run-directory", "run.h5", run, fuzz_mutate.hdf5,
               lambda path: load_run_data(path.parent), secret),
        Reader("run-log", "run.log", (fuzz_seeds.log(),), fuzz_mutate.text, read_run_log),
        Reader("config", "config.toml", fuzz_seeds.configs(), fuzz_mutate.text, _read_config),
        Reader("experiment", "e.toml", fuzz_seeds.experiments(), fuzz_mutate.text, _read_experiment,
               {"model.mrc": fuzz_seeds.mrc((4, 4, 4))}),
    )  # fmt: skip
    return {reader.name: reader for reader in every}


def _either(seeds: Any, rng: Any) -> bytes:
    """Lists of text as text, EM files as bytes."""
    seed = rng.choice(seeds)
    return (fuzz_mutate.binary if b"\0" in seed else fuzz_mutate.text)([seed], rng)


def _each(*calls: Callable[[], object]) -> None:
    """All of them, whichever refuses; refused is what all refuse."""
    refusals = []
    for call in calls:
        try:
            call()
        except FamlError as error:
            refusals.append(error)
    if len(refusals) == len(calls):
        raise refusals[-1]


def _read_mrc(path: Path) -> None:
    _each(
        lambda: read_header(path),
        lambda: read_volume(path),
        lambda: read_volume(path, stack=True),
    )


def _read_em(path: Path) -> None:
    _each(lambda: read_em(path), lambda: read_volume(path))


def _read_star(path: Path) -> None:
    star = read_star(path)
    _each(
        lambda: star_pixel_size(star),
        lambda: star_poses(star, star_pixel_size(star) or 1.0),
        lambda: star_premultiplied(star),
        lambda: resolve_images(star, "rlnImageName"),
    )


def _read_table(path: Path) -> None:
    table = read_table(path)
    _each(
        lambda: in_tomogram(table),
        lambda: numbered_tomograms(table),
        lambda: tomogram_numbers(table, "av3"),
    )


def _read_optimisation_set(path: Path) -> None:
    find_tomograms(path.with_name("particles.star"))  # refuses none, but passes them over
    read_optimisation_set(path)


def _read_stacks(path: Path) -> None:
    star = read_star(path)
    unmodelled(star)
    stacks = open_stacks(star, path.with_name("tomograms.star"))
    for index in range(min(len(stacks), 2)):
        weight = stacks.weights.read(index)
        volume = stacks.read(index)
        if not (np.isfinite(weight).all() and np.isfinite(volume).all()):
            raise ValueError("weights or volumes that are no numbers")


def _read_run(path: Path) -> None:
    stored = read_run(path)
    _refuse_secret(stored.names, stored.voxel_size_angstrom, *_arrays(stored.state))


def _read_history(path: Path) -> None:
    for record in read_history(path):
        _refuse_secret(record.log_likelihood, record.class_fractions, record.fsc)


def _arrays(state: State) -> Iterator[object]:
    for value in vars(state).values():
        inner = value if isinstance(value, tuple) else (value,)
        for each in inner:
            yield from vars(each).values() if hasattr(each, "__dict__") else (each,)


def _refuse_secret(*values: object) -> None:
    """Raise if something was read of the file beside."""
    for value in values:
        numbers = isinstance(value, np.ndarray) and value.dtype.kind == "f"
        if (numbers and (np.asarray(value) == fuzz_mutate.SECRET).any()) or (
            isinstance(value, tuple) and "SECRET" in value
        ):
            raise ValueError("the checkpoint gave away what another file holds")


def _read_config(path: Path) -> None:
    config = config_from_toml(read_text(path, "a configuration (TOML)"))
    config_to_toml(config)


def _read_experiment(path: Path) -> None:
    _, tasks = read_experiment(path)
    _each(
        *(lambda task=task: (task.key, task.label) for task in tasks[:3]),
        lambda: read_experiment(path, quick=True),
    )
