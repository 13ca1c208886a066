"""Commands and exit codes."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from faml.errors import FamlError

if TYPE_CHECKING:
    from faml.api import RunResult

__all__ = ["app", "main"]

_CODES = (
    "Exit codes: 0 success; 1 unexpected failure; 2 wrong usage or setting; 3 bad input data; "
    "4 output or checkpoint cannot be used; 130 interrupted (faml resume continues)."
)
app = typer.Typer(
    name="faml",
    help="Reference-free averaging and classification of cryo-ET subtomograms (FAML).",
    epilog=_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Inputs = Annotated[
    list[str], typer.Argument(help="MRC files, folders, quoted globs, or one RELION STAR file.")
]
TiltRange = Annotated[
    tuple[float, float] | None,
    typer.Option("--tilt-range", metavar="MIN MAX", help="Tilt range about Y in degrees."),
]
VoxelSize = Annotated[
    float | None, typer.Option("--voxel-size", help="Angstrom; overrides the files.")
]
Diameter = Annotated[
    float | None,
    typer.Option("--particle-diameter", help="Angstrom; sets the mask and the background."),
]
Invert = Annotated[bool, typer.Option("--invert", help="Density is dark: multiply by -1.")]
Normalise = Annotated[
    str | None, typer.Option("--normalise", help="auto, always or never (background 0, 1).")
]
Threads = Annotated[
    int | None, typer.Option("--threads", help="Default: all cores. Results do not depend on it.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Subset = Annotated[int | None, typer.Option("--subset", help="A random subset for a first look.")]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(value: bool) -> None:
    if value:
        from faml import __version__

        typer.echo(f"faml {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    del version


@app.command()
def run(
    inputs: Inputs,
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory of the results.")],
    tilt_range: TiltRange = None,
    voxel_size: VoxelSize = None,
    classes: Annotated[int | None, typer.Option(help="Number of classes K.")] = None,
    strategy: Annotated[
        str | None, typer.Option(help="fa, faml or an installed one (faml strategies).")
    ] = None,
    iterations: Annotated[int | None, typer.Option(help="Maximum number of iterations.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same result.")] = None,
    threads: Threads = None,
    max_shift: Annotated[
        float | None, typer.Option("--max-shift", help="Largest translation in voxels.")
    ] = None,
    particle_diameter: Diameter = None,
    start: Annotated[
        str | None, typer.Option(help="random, average, poses (of the STAR file) or an MRC file.")
    ] = None,
    start_lowpass: Annotated[
        float | None, typer.Option(help="Low-pass of the start in Angstrom.")
    ] = None,
    preset: Annotated[
        str, typer.Option(help="robust, or paper (the published recipe).")
    ] = "robust",
    update: Annotated[str | None, typer.Option(help="M-step: ratio or impute.")] = None,
    max_candidates: Annotated[
        int | None, typer.Option(help="Candidate poses per particle and class.")
    ] = None,
    max_shell: Annotated[
        int | None, typer.Option(help="Largest Fourier shell used for alignment.")
    ] = None,
    local_angle: Annotated[
        float | None,
        typer.Option("--local-angle", help="Search within so many degrees of the input pose."),
    ] = None,
    subset: Subset = None,
    invert: Invert = False,
    normalise: Normalise = None,
    quiet: Quiet = False,
) -> None:
    """Average and classify subtomograms."""
    from faml import api
    from faml.cli.display import RunDisplay

    with RunDisplay(quiet=quiet) as display:
        result = api.run(
            list(inputs),
            output,
            preset=preset,
            threads=threads or _cores(),
            data={
                "tilt_range_deg": tilt_range,
                "voxel_size_angstrom": voxel_size,
                "particle_diameter_angstrom": particle_diameter,
                "invert": invert,
                "normalise": normalise,
                "subset": subset,
            },
            search={
                "strategy": strategy,
                "max_shift_voxels": max_shift,
                "max_candidates": max_candidates,
                "local_angle_deg": local_angle,
            },
            em={
                "classes": classes,
                "iterations": iterations,
                "seed": seed,
                "start": start,
                "start_lowpass_angstrom": start_lowpass,
                "update": update,
                "max_shell": max_shell,
            },
            progress=display.progress,
            on_state=display.state,
        )
    _summary(display.console, result)


@app.command()
def resume(
    directory: Annotated[Path, typer.Argument(help="Output directory of a run.")],
    iterations: Annotated[
        int | None, typer.Option(help="New maximum; a converged run goes on only with this.")
    ] = None,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Continue a run after its last complete iteration."""
    from faml import api
    from faml.cli.display import RunDisplay

    with RunDisplay(quiet=quiet) as display:
        result = api.resume(
            directory,
            iterations=iterations,
            threads=threads or _cores(),
            progress=display.progress,
            on_state=display.state,
        )
    _summary(display.console, result)


@app.command()
def inspect(
    inputs: Inputs,
    tilt_range: TiltRange = None,
    voxel_size: VoxelSize = None,
    particle_diameter: Diameter = None,
    classes: Annotated[int | None, typer.Option(help="For the estimate.")] = None,
    threads: Threads = None,
    invert: Invert = False,
    normalise: Normalise = None,
    subset: Subset = None,
) -> None:
    """Say what the particles are and what a run would cost, without running."""
    from faml.cli.inspection import show_inspection
    from faml.config import build_config
    from faml.io.inspect import inspect_dataset

    config = build_config(
        threads=threads or _cores(),
        data={
            "inputs": tuple(inputs),
            "tilt_range_deg": tilt_range,
            "voxel_size_angstrom": voxel_size,
            "particle_diameter_angstrom": particle_diameter,
            "invert": invert,
            "normalise": normalise,
            "subset": subset,
        },
        em={"classes": classes},
    )
    show_inspection(inspect_dataset(config), Console(highlight=False), config.threads)


@app.command()
def strategies() -> None:
    """List the strategies that are installed."""
    from rich.table import Table

    from faml.strategies.registry import available_strategies

    table = Table("name", "package", "class")
    for name, entry in available_strategies().items():
        package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else ""
        table.add_row(name, package, entry.value)
    Console(highlight=False).print(table)


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Directory of data and results.")
    ] = Path("faml-demo"),
    threads: Threads = None,
    seed: Annotated[int, typer.Option(help="Of simulation and run.")] = 1,
    quiet: Quiet = False,
) -> None:
    """Simulate GroEL particles, average them from nothing and compare with the truth."""
    from faml.cli.demo import run_demo

    run_demo(output, threads or _cores(), seed, quiet=quiet)


def _summary(console: Console, result: RunResult) -> None:
    maps = ", ".join(path.name for path in result.maps)
    where = escape(str(result.directory))
    console.print(
        f"{where}: {maps}, {result.star.name}, run.h5; pictures in slices.png", soft_wrap=True
    )


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; one clear line and an exit code for whatever goes wrong."""
    sys.exit(_guarded(lambda: app(arguments, standalone_mode=False)))


def _guarded(command: Callable[[], Any]) -> int:
    import click

    if os.environ.get("FAML_DEBUG"):
        logging.basicConfig(level=logging.DEBUG)
    try:
        code = command()
    except FamlError as error:
        _say(str(error))
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        _say(
            "interrupted; the last complete iteration is kept, continue with: faml resume DIR",
            "stopped",
        )
        return 130
    except Exception as error:
        if os.environ.get("FAML_DEBUG"):
            traceback.print_exc()
        logging.getLogger("faml").exception("unexpected failure")
        _say(
            f"unexpected {type(error).__name__}: {error}; this is a bug, please report it with "
            "run.log (FAML_DEBUG=1 shows the details)"
        )
        return 1
    return code if isinstance(code, int) else 0


def _say(message: str, kind: str = "error") -> None:
    Console(stderr=True, highlight=False).print(
        f"[bold red]{kind}:[/] {escape(message)}", soft_wrap=True
    )
