"""Commands and exit codes."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from faml.cli.compare import compare
from faml.cli.convert import convert
from faml.cli.evaluate import evaluate
from faml.cli.options import (
    Diameter,
    Inputs,
    Invert,
    Normalise,
    ParticlesFolder,
    Quiet,
    Subset,
    Threads,
    TiltAngles,
    TiltAxis,
    TiltRange,
    Tomograms,
    VoxelSize,
    WedgeList,
    all_cores,
)
from faml.cli.pack import pack
from faml.cli.plan import plan
from faml.cli.report import report
from faml.cli.run import resume, run
from faml.cli.simulate import simulate
from faml.cli.snr import snr
from faml.cli.symmetry import symmetry
from faml.cli.watch import watch
from faml.errors import FamlError

__all__ = ["app", "main"]

_CODES = (
    "Exit codes: 0 success; 1 unexpected failure; 2 wrong usage or setting; 3 bad input data; "
    "4 output or checkpoint cannot be used; 5 workers lost; 130 interrupted "
    "(faml resume continues)."
)
_INTERRUPTED = "interrupted before anything was written"
_INTERRUPTED_TWICE = "interrupted; what run.h5 of the output directory holds can be resumed"
# Typer carries its own copy of click, or uses the installed one, depending on its version.
_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]


class _Interrupted(Exception):  # noqa: N818 - no error
    """Ctrl-C; the message says what is kept and how to go on."""


class _Commands(TyperGroup):
    """Typer ends silently after Ctrl-C; this lets `main` say what was kept."""

    def invoke(self, ctx: Any) -> Any:
        """Invoke the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _Interrupted(str(error) or _INTERRUPTED) from error


app = typer.Typer(
    name="faml",
    cls=_Commands,
    help="Reference-free averaging and classification of cryo-ET subtomograms (FAML).",
    epilog=_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


app.command()(run)
app.command()(resume)
app.command()(symmetry)
app.command()(simulate)
app.command()(evaluate)
app.command()(report)
app.command()(watch)
app.command()(snr)
app.command()(compare)
app.command()(convert)
app.command()(pack)
app.command()(plan)


@app.command()
def inspect(
    inputs: Inputs,
    particles: ParticlesFolder = None,
    wedge_list: WedgeList = None,
    tilt_range: TiltRange = None,
    tilt_angles: TiltAngles = None,
    tilt_axis: TiltAxis = None,
    tomograms: Tomograms = None,
    voxel_size: VoxelSize = None,
    particle_diameter: Diameter = None,
    classes: Annotated[int | None, typer.Option(help="For the estimate.")] = None,
    threads: Threads = None,
    invert: Invert = False,
    normalise: Normalise = None,
    subset: Subset = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, nothing else.")] = False,
) -> None:
    """Say what the particles are and what a run would cost, without running."""
    from faml.cli.inspection import show_inspection
    from faml.config import build_config
    from faml.io.inspect import inspect_dataset
    from faml.io.inspection.as_json import inspection_to_json

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
            "subset": subset,
        },
        em={"classes": classes},
    )
    found = inspect_dataset(config)
    if as_json:
        typer.echo(inspection_to_json(found))
    else:
        show_inspection(found, Console(highlight=False), config.threads)


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
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Directory of data and results. Default: faml-demo, or the next "
            "free faml-demo-2 ...",
        ),
    ] = None,
    threads: Threads = None,
    seed: Annotated[int, typer.Option(help="Of simulation and run.")] = 1,
    quiet: Quiet = False,
) -> None:
    """Simulate GroEL particles, average them from nothing and compare with the truth."""
    from faml.cli.demo import free_directory, run_demo

    run_demo(
        output or free_directory(Path("faml-demo")),
        all_cores() if threads is None else threads,
        seed,
        quiet=quiet,
    )


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; one clear line and an exit code for whatever goes wrong."""
    sys.exit(_guarded(lambda: app(arguments, standalone_mode=False)))


def _guarded(command: Callable[[], Any]) -> int:
    if os.environ.get("FAML_DEBUG"):
        logging.basicConfig(level=logging.DEBUG)
    try:
        code = command()
    except FamlError as error:
        return _failed(str(error), error.exit_code)
    except _USAGE_ERROR as error:
        return _wrong_usage(error)
    except _Interrupted as error:
        return _failed(str(error), 130, kind="stopped")
    except KeyboardInterrupt:  # again, while the first was dealt with
        return _failed(_INTERRUPTED_TWICE, 130, kind="stopped")
    except Exception as error:  # noqa: BLE001 - no stack traces on the screen
        # The traceback is in run.log, if the run had begun.
        return _failed(
            f"unexpected {type(error).__name__}: {error}; this is a bug, please report it with "
            "run.log (FAML_DEBUG=1 shows the details)",
            1,
        )
    return code if isinstance(code, int) else 0


def _wrong_usage(error: Any) -> int:
    """Message of the argument parser as one line; no arguments at all have shown the help."""
    message = error.format_message()
    if not message:
        return 2
    parameter = getattr(error, "param", None)
    if parameter is not None and parameter.nargs > 1:  # an option behind it was taken as a value
        message = (
            f"{parameter.opts[0]}: expected {parameter.nargs} numbers, {parameter.metavar}; "
            f"{message}"
        )
    context = error.ctx
    where = context.command_path if context is not None else "faml"
    return _failed(f"{message.rstrip('.')}; see {where} --help", 2)


def _failed(message: str, code: int, *, kind: str = "error") -> int:
    if os.environ.get("FAML_DEBUG"):
        traceback.print_exc()
    text = " ".join(message.split())
    Console(stderr=True, highlight=False).print(
        f"[bold red]{kind}:[/] {escape(text)}", soft_wrap=True
    )
    return code
