"""Predictions of `faml plan` against runs, and how they scale.

    python bench/plan.py [--counts 100 1000 10000] [--json bench/results/plan.json]
    python bench/plan.py --record PLAN.json --json bench/results/plan.json
    python bench/plan.py --draw docs/assets/plan.svg --json bench/results/plan.json

The first runs `faml run` on noisy, wedge-limited boxes of 16^3 voxels, one iteration with a small
search, in one thread, and puts beside it what was predicted from 24 particles. What is compared is
CPU seconds, since the machine has other work to do. A run of ten particles says what programs need
to start, to draw and to write results, which is no part of a prediction. The second adds the
constants of ``faml plan --json`` for larger boxes, and the third draws what they predict.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
import record
from memory import write_particles

from faml.config import RunConfig, build_config
from faml.costs.job import Job
from faml.costs.laws import constants_from
from faml.costs.run import RunCost
from faml.io.dataset import open_particles
from faml.planning.measure import job_of, measure_constants
from faml.report.style import CLASS_COLOURS, GRID, new_figure, place, styled

BOX, FEW = 16, 10
SEARCH = {
    "search_shell": 5, "max_candidates": 6, "voronoi_samples": 200, "max_shift_voxels": 2.0,
    "max_bandwidth": 6, "keep_previous": 3,
}  # fmt: skip
TOML = "[search]\n" + "".join(f"{name} = {value}\n" for name, value in SEARCH.items())
WORKERS = (1, 16, 128, 1024)
COUNTS = tuple(round(10 ** (exponent / 4)) for exponent in range(8, 29))


def main() -> None:
    """Compare, record or draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="*", default=[100, 1000, 10_000])
    parser.add_argument("--iterations", type=int, default=1)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--draw", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    known = []
    if options.json is not None and options.json.exists():
        known = json.loads(options.json.read_text())["rows"]
    if options.draw is not None:
        (row,) = (row for row in known if row["what"] == "constants")
        draw(row, options.draw)
        return
    if options.record is not None:
        rows = [row for row in known if row["what"] != "constants"]
        rows.append(recorded(json.loads(options.record.read_text())))
    else:
        rows = [row for row in known if row["what"] == "constants"]
        rows += compared(options.counts, options.iterations)
    record.write(options.json, rows, "python bench/plan.py")


def compared(counts: list[int], iterations: int) -> list[dict[str, Any]]:
    """A row for each number of particles."""
    rows = []
    with tempfile.TemporaryDirectory() as work:
        settings = Path(work) / "settings.toml"
        settings.write_text(TOML)
        fixed_s = 0.0
        for count in (FEW, *counts):
            folder = Path(work) / str(count)
            folder.mkdir()
            write_particles(folder, count, BOX)
            config = build_config(
                data={"inputs": (str(folder),), "tilt_range_deg": (-60.0, 60.0)},
                search=SEARCH, em={"iterations": iterations}, threads=1,
            )  # fmt: skip
            predicted = prediction(config, iterations)
            found = measured(folder, Path(work) / f"run{count}", settings, iterations)
            if count == FEW:
                fixed_s = found["cpu_s"] - sum(found["stages"].values())
                continue
            row = beside(count, iterations, predicted, found, fixed_s)
            print(json.dumps(row, indent=1), flush=True)
            rows.append(row)
    return rows


def prediction(config: RunConfig, iterations: int) -> RunCost:
    """Of a run in one thread; what is measured first is part of no run."""
    dataset = open_particles(config.data, config.em.seed)
    job = job_of(dataset, config, len(dataset.particles))
    return RunCost(job, measure_constants(dataset, config), 1, iterations, job.last_shell)


def measured(folder: Path, out: Path, settings: Path, iterations: int) -> dict[str, Any]:
    """CPU seconds, peak memory and checkpoint of a run, a process of its own."""
    begin = time.monotonic()
    process = subprocess.Popen(
        [
            sys.executable, "-m", "faml", "run", folder, "-o", out, "--tilt-range", "-60", "60",
            "--iterations", str(iterations), "--threads", "1", "--quiet", "--no-report",
            "--config", settings,
        ],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the run of {folder} has failed")
    line = re.findall(r"CPU seconds: (.*)", (out / "run.log").read_text())[-1]
    stages = {name: float(s) for name, s in (part.rsplit(" ", 1) for part in line.split(", "))}
    return {
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "wall_s": time.monotonic() - begin,
        "peak_bytes": usage.ru_maxrss * 1024,
        "checkpoint_bytes": (out / "run.h5").stat().st_size,
        "stages": stages,
    }


def beside(
    count: int, iterations: int, predicted: RunCost, found: dict[str, Any], fixed_s: float
) -> dict[str, Any]:
    """Both, and their ratio."""
    stages = found["stages"]
    averages = stages.pop("averages")
    visits_s = sum(stages.values())
    start = predicted.start
    said_averages = start.averages_s + sum(part.averages_s for part in predicted.parts)
    # Pictures are part of what every run takes, as the one of ten particles did.
    drawn_s = predicted.constants.iteration_s * (len(predicted.parts) + 1)
    said_visits = predicted.job.count * predicted.constants.start_s
    said_visits += sum(part.search_s + part.references_s for part in predicted.parts)
    pairs = {
        "visits_s": (said_visits, visits_s),
        "averages_s": (said_averages, averages),
        "cpu_s": (predicted.cpu_s - drawn_s, found["cpu_s"] - fixed_s),
        "peak_mb": (predicted.memory_bytes / 1e6, found["peak_bytes"] / 1e6),
        "checkpoint_kb": (predicted.checkpoint_bytes / 1e3, found["checkpoint_bytes"] / 1e3),
    }
    return {
        "what": "run",
        "particles": count,
        "box": BOX,
        "iterations": iterations,
        "fixed_s": round(fixed_s, 2),
        "wall_s": round(found["wall_s"], 1),
        "ms_per_visit": round(1000 * visits_s / (count * (iterations + 1)), 3),
        **{
            f"{name}_{kind}": round(value, 3)
            for name, both in pairs.items()
            for kind, value in zip(("predicted", "measured"), both, strict=True)
        },
        **{f"{name}_ratio": round(said / real, 3) for name, (said, real) in pairs.items()},
    }


def recorded(plan: dict[str, Any]) -> dict[str, Any]:
    """The constants of a plan, and what they belong to."""
    first = plan["predictions"][0]
    return {
        "what": "constants",
        "machine": plan["machine"],
        "box": first["box"],
        "classes": first["classes"],
        "iterations": plan["assumed"]["iterations"],
        "first_shell": plan["assumed"]["first_shell"],
        "last_shell": plan["assumed"]["last_shell"],
        "constants": plan["constants"],
    }


def draw(row: dict[str, Any], path: Path) -> None:
    """Time, memory and network against the number of particles, as SVG."""
    constants = constants_from(row["constants"])
    assert asdict(constants)["visit"]["exponent"] == row["constants"]["visit"]["exponent"]
    config = build_config(em={"classes": row["classes"], "first_shell": row["first_shell"]})
    panels: list[tuple[str, float]] = [
        ("hours of a run", 3600.0), ("GB in the process in charge", 1e9),
        ("GB of sums in an iteration", 1e9),
    ]  # fmt: skip
    with styled(), mpl.rc_context({"svg.hashsalt": "faml plan"}):
        figure = new_figure(9.6, 3.1)
        for number, (label, unit) in enumerate(panels):
            axes = place(figure, 0.6 + 3.2 * number, 0.46, 9.6 - 3.2 * (number + 1) + 0.12, 0.3)
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xlabel("particles")
            axes.set_title(label, loc="left")
            axes.grid(color=GRID, linewidth=0.7)
            for colour, workers in zip(CLASS_COLOURS, WORKERS, strict=False):
                if workers == 1 and number == 2:
                    continue
                values = []
                for count in COUNTS:
                    run = RunCost(
                        Job(config, row["box"], 0.3 * row["box"], count), constants, workers,
                        row["iterations"], row["last_shell"],
                    )  # fmt: skip
                    sums = run.parts[-2].network_in_bytes
                    values.append((run.seconds, run.memory_bytes, sums)[number] / unit)
                name = f"{workers:,} worker{'s' * (workers > 1)}"
                axes.plot(COUNTS, values, color=colour, label=name, linewidth=1.6)
            if number == 0:
                axes.legend()
        figure.savefig(
            path, format=path.suffix[1:], facecolor="white",
            metadata={"Date": None, "Creator": None} if path.suffix == ".svg" else None,
        )  # fmt: skip


if __name__ == "__main__":
    main()
