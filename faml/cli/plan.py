"""`faml plan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from faml.cli.options import (
    Diameter,
    Inputs,
    Invert,
    Normalise,
    ParticlesFolder,
    Threads,
    TiltAngles,
    TiltAxis,
    TiltRange,
    Tomograms,
    VoxelSize,
    WedgeList,
    all_cores,
)
from faml.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.table import Table

    from faml.planning.plan import Plan

__all__ = ["plan"]

_LARGEST = 10**9
_WORKERS = (16, 128)


def plan(
    inputs: Inputs,
    workers: Annotated[
        list[int] | None,
        typer.Option(
            help="Workers of one thread each; may be given several times. Default: the cores of "
            "this machine, 16 and 128."
        ),
    ] = None,
    count: Annotated[
        list[int] | None,
        typer.Option(
            help="Particles, as if there were so many; may be given several times. Default: those "
            "there are, and 10^3 to 10^7."
        ),
    ] = None,
    particles: ParticlesFolder = None,
    wedge_list: WedgeList = None,
    tilt_range: TiltRange = None,
    tilt_angles: TiltAngles = None,
    tilt_axis: TiltAxis = None,
    tomograms: Tomograms = None,
    voxel_size: VoxelSize = None,
    particle_diameter: Diameter = None,
    invert: Invert = False,
    normalise: Normalise = None,
    classes: Annotated[int | None, typer.Option(help="As in faml run.")] = None,
    strategy: Annotated[str | None, typer.Option(help="As in faml run.")] = None,
    max_shift: Annotated[
        float | None, typer.Option("--max-shift", help="Voxels; as in faml run.")
    ] = None,
    symmetry: Annotated[str | None, typer.Option(help="As in faml run.")] = None,
    batch: Annotated[int | None, typer.Option(help="As in faml run.")] = None,
    half_sets: Annotated[bool, typer.Option("--half-sets", help="As in faml run.")] = False,
    max_shell: Annotated[int | None, typer.Option(help="As in faml run.")] = None,
    iterations: Annotated[int | None, typer.Option(help="As in faml run.")] = None,
    threads: Threads = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="All of it, with the constants measured."),
    ] = None,
) -> None:
    """Predict time, memory, network and disk for many particles and workers.

    A few particles are visited as in a run, which takes some ten seconds or more with large boxes.
    """
    from rich.console import Console
    from rich.markup import escape

    from faml.config import build_config
    from faml.io.atomic import write_text_atomic
    from faml.io.dataset import open_particles
    from faml.planning.hints import hints_of
    from faml.planning.measure import job_of, measure_constants
    from faml.planning.plan import COUNTS, make_plan, plan_to_json

    _check_numbers("--count", count)
    _check_numbers("--workers", workers)
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise ConfigurationError(
            f"--json {json_file}: expected a file in a folder that is there, found no "
            f"{json_file.parent}; make it first"
        )
    config = build_config(
        threads=all_cores() if threads is None else threads,
        data={
            "inputs": tuple(inputs),
            "particles_folder": particles,
            "wedge_list": wedge_list,
            "tilt_range_deg": tilt_range,
            "tilt_angles_file": tilt_angles,
            "tilt_axis": tilt_axis,
            "tomograms": tomograms,
            "voxel_size_angstrom": voxel_size,
            "particle_diameter_angstrom": particle_diameter,
            "invert": invert,
            "normalise": normalise,
        },
        search={"strategy": strategy, "max_shift_voxels": max_shift},
        em={
            "classes": classes,
            "symmetry": symmetry,
            "batch": batch,
            "half_sets": half_sets or None,
            "max_shell": max_shell,
            "iterations": iterations,
        },
    )
    console = Console(highlight=False)
    with console.status("visiting a few particles"):
        dataset = open_particles(config.data, config.em.seed)
        constants = measure_constants(dataset, config)
    own = len(dataset.particles)
    made = make_plan(
        job_of(dataset, config, own),
        constants,
        count or (own, *(each for each in COUNTS if each > own)),
        workers or (config.threads, *_WORKERS),
    )
    hints = hints_of(made)
    if json_file is not None:
        write_text_atomic(json_file, plan_to_json(made, hints) + "\n")
    for line in _assumed(made):
        console.print(line, soft_wrap=True)
    console.print(_table(made))
    for hint in hints:
        console.print(f"[bold]-[/] {escape(hint)}", soft_wrap=True)


def _check_numbers(option: str, values: list[int] | None) -> None:
    for value in values or ():
        if not 1 <= value <= _LARGEST:
            raise ConfigurationError(
                f"{option}: expected a number from 1 to {_LARGEST:,}, found {value}; correct it"
            )


def _assumed(made: Plan) -> list[str]:
    row = made.predictions[0]
    visit = made.constants.visit
    took = ", ".join(
        f"{1000 * seconds:.3g} ms at shell {shell:g} ({number} particles)"
        for shell, seconds, number in zip(
            visit.shells, visit.seconds, made.constants.particles, strict=True
        )
    )
    usual, short, long = row.usual, row.short, row.long
    marched = f"from shell {row.job.first_shell} one further in each up to {usual.top_shell}"
    if row.job.first_shell == usual.top_shell:
        marched = f"all up to shell {usual.top_shell}"
    return [
        f"measured here, CPU time of a visit: {took}",
        f"assumed: {usual.iterations} iterations, {marched}, and the last pass; in brackets "
        f"from {short.iterations} iterations up to shell {short.top_shell} to {long.iterations} "
        f"up to {long.top_shell}, and {100 * made.constants.spread:.0f} % for the measurement",
        "workers: this machine's kind of core, one thread each; a link of 10 Gbit/s to the process "
        "in charge, whose memory is 'main'",
    ]


def _table(made: Plan) -> Table:
    from rich.table import Table

    from faml.planning.hints import in_bytes, in_time

    table = Table(
        "particles", "workers", "iteration", "run", "main", "worker", "network", "disk read",
        "run.h5",
    )  # fmt: skip
    last = None
    for row in made.predictions:
        low, high = row.seconds_range
        first, finest = row.first, row.finest
        network = "-"
        if row.workers > 1:
            network = f"{in_bytes(finest.network_in_bytes)}, {in_bytes(finest.network_needed)}/s"
        table.add_row(
            "" if row.job.count == last else f"{row.job.count:,}",
            f"{row.workers:,}",
            " to ".join(dict.fromkeys(in_time(each.seconds) for each in (first, finest))),
            f"{in_time(row.usual.seconds)} ({in_time(low)} to {in_time(high)})",
            in_bytes(row.usual.memory_bytes),
            "-" if row.workers == 1 else in_bytes(row.usual.worker_bytes),
            network,
            in_bytes(row.disk_read_bytes),
            in_bytes(row.usual.checkpoint_bytes),
        )
        last = row.job.count
    return table
