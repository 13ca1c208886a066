"""One run of an experiment, in a process of its own: simulated data in, measures out."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from faml import api
from faml.compare.experiment import Method, Task
from faml.compare.relion import run_relion
from faml.config import build_config
from faml.em.state import State
from faml.evaluation import class_maps, evaluate_files
from faml.io.dataset import Dataset
from faml.io.star import ANGLE_COLUMNS, ORIGIN_COLUMNS, numbers, read_star, write_star
from faml.io.truth import true_column
from faml.simulate.dataset import simulate_dataset

__all__ = ["carry_out", "make_data"]

_STAR_VERSION = 30001
_OWN, _OTHERS = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN


def make_data(task: Task, directory: Path) -> None:
    """Simulate a task's particles, unless that was done before."""
    if not directory.exists():
        directory.parent.mkdir(parents=True, exist_ok=True)
        simulate_dataset(task.data.simulation, directory, base=task.base)


def carry_out(task: Task, data: Path, scratch: Path) -> dict[str, Any]:
    """Run a task and compare what it finds with the truth.

    Parameters
    ----------
    task : Task
    data : Path
        Its particles (`make_data`).
    scratch : Path
        A directory for the run, emptied before and removed after it.

    Returns
    -------
    dict
        Plain types: ``made_with``, ``cost``, and what `evaluation.evaluate_files` finds.

    Raises
    ------
    FamlError
        The run, or what it is compared with, cannot be used.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    began, cpu_began = time.perf_counter(), _cpu_seconds()
    found = {"faml": _faml, "oracle": _oracle, "relion": _relion}[task.method.kind](
        task, data, scratch
    )
    cost = {
        "wall_s": round(time.perf_counter() - began, 2),
        "cpu_s": round(_cpu_seconds() - cpu_began, 2),
        "memory_mb": round(_peak_bytes(task.method.kind) / 2**20),
    }
    maps, star = class_maps(scratch / "found"), scratch / "found" / "particles.star"
    report = {}
    if maps:
        report = evaluate_files(maps, star, data, symmetries=task.symmetries)
    shutil.rmtree(scratch, ignore_errors=True)
    return {
        "made_with": {"faml_version": version("faml"), "machine": _machine()},
        "cost": cost | found,
        **report,
    }


def _machine() -> str:
    """Processor and cores, without a name."""
    model = platform.processor() or platform.machine()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{model}, {os.cpu_count()} cores, {platform.system()}"


def _cpu_seconds() -> float:
    own, others = (resource.getrusage(who) for who in (_OWN, _OTHERS))
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def _peak_bytes(kind: str) -> float:
    """Of this process, or of RELION's."""
    unit = 1 if platform.system() == "Darwin" else 1024
    return unit * float(resource.getrusage(_OTHERS if kind == "relion" else _OWN).ru_maxrss)


def _faml(task: Task, data: Path, scratch: Path) -> dict[str, Any]:
    method, seed = task.method, task.data.simulation.seed
    em = {"classes": len(task.data.simulation.models), "seed": seed} | method.em
    star = data / "particles.star"
    if method.weights == "wedge":
        star = _without_weights(star)
    config = _config(task, method, star, scratch / "found", em)
    times: list[float] = []

    def on_state(state: State, dataset: Dataset) -> None:
        del state, dataset
        times.append(time.perf_counter())

    result = api.run_config(config, on_state=on_state, report=False)
    stages = {name: round(seconds, 2) for name, seconds in result.stage_seconds.items()}
    particles, passes = len(result.state.assignments), result.state.iteration + 1
    # Trial starts are no iterations of the run.
    per_pass = None if result.config.em.starts > 1 else sum(stages.values()) / particles / passes
    return {
        "status": result.state.stop_reason or "all iterations done",
        "iterations": result.state.iteration,
        "aligned_to_angstrom": round(
            task.data.simulation.box
            * task.data.simulation.voxel_size_angstrom
            / result.state.align_shell,
            2,
        ),
        "s_per_iteration": (
            round((times[-1] - times[0]) / (len(times) - 1), 3) if len(times) > 1 else None
        ),
        "cpu_s_per_particle_iteration": None if per_pass is None else round(per_pass, 4),
        "stages": stages,
    }


def _without_weights(star: Path) -> Path:
    """The same particles, of whose weights nothing is said."""
    table = read_star(star)
    assert table.optics is not None  # of our own making
    plain = star.with_name("without_weights.star")
    blocks = {
        "optics": table.optics.drop(columns="rlnCtfDataAreCtfPremultiplied", errors="ignore"),
        "particles": table.particles.drop(columns="rlnCtfImage"),
    }
    write_star(plain, blocks, _STAR_VERSION)
    return plain


def _config(task: Task, method: Method, star: Path, output: Path, em: dict[str, Any]) -> Any:
    data: dict[str, Any] = {"invert": task.data.simulation.dark} | method.data
    if method.weights == "wedge":
        simulation = task.data.simulation
        data |= {
            "tilt_range_deg": simulation.tilt_range_deg,
            "tilt_axis": simulation.tilt_axis,
        }
    return build_config(
        preset=method.preset,
        data=data | {"inputs": (str(star),)},
        search=method.search,
        em=em,
        output=str(output),
        threads=task.threads,
    )


def _oracle(task: Task, data: Path, scratch: Path) -> dict[str, Any]:
    """Averages at the true poses of the particles of each structure."""
    star = read_star(data / "particles.star")
    table = star.particles.copy()
    columns = (*ANGLE_COLUMNS, *ORIGIN_COLUMNS, "rlnClassNumber")
    for name in columns:
        table[name] = table[true_column(name)]
    labels = numbers(star, star.particles, true_column("rlnClassNumber")).astype(int)
    (scratch / "found").mkdir()
    assert star.optics is not None  # of our own making
    for label in range(1, len(task.data.simulation.models) + 1):
        # Beside the images, whose names are relative.
        one = data / f"oracle_{label}.star"
        write_star(one, {"optics": star.optics, "particles": table[labels == label]}, _STAR_VERSION)
        em = {"start": "poses", "iterations": 0, "folds": 1} | task.method.em
        output = scratch / f"of_{label}"
        result = api.run_config(_config(task, task.method, one, output, em), report=False)
        result.maps[0].rename(scratch / "found" / f"class_{label:03d}.mrc")
    blocks = {"optics": star.optics, "particles": table}
    write_star(scratch / "found" / "particles.star", blocks, _STAR_VERSION)
    return {"status": "true poses", "iterations": 0}


def _relion(task: Task, data: Path, scratch: Path) -> dict[str, Any]:
    return run_relion(
        data,
        scratch / "found",
        classes=len(task.data.simulation.models),
        iterations=task.method.iterations,
        arguments=task.method.arguments,
        seed=task.data.simulation.seed,
        threads=task.threads,
        minutes=task.method.minutes,
    )
