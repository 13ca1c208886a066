"""`faml compare`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from faml.cli.options import Quiet, all_cores
from faml.errors import ConfigurationError, FamlError

if TYPE_CHECKING:
    from faml.compare.campaign import Failure
    from faml.compare.experiment import Experiment, Task

__all__ = ["compare"]

_ON_THE_PAGE_ONLY = (
    "r of box",
    "r of symmetry",
    "within 20 degrees",
    "F1 mean",
    "adjusted Rand",
    "CPU s per particle and iteration",
    "CPU s in all",
    "peak memory, MB",
)
"""A terminal is narrow."""


def compare(
    files: Annotated[
        list[Path], typer.Argument(metavar="EXPERIMENT.toml...", help="What is to be compared.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Results, one directory per experiment. Default: results, beside the file.",
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The quick variant of each.")] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time. Default: what the machine holds.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of each run.")] = 1,
    methods: Annotated[
        list[str] | None, typer.Option("--method", help="Only these methods.")
    ] = None,
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="Only these seeds.")] = None,
    tables_only: Annotated[
        bool,
        typer.Option("--tables-only", help="Run nothing; tables and pictures of what is there."),
    ] = False,
    page: Annotated[
        Path | None, typer.Option(help="A Markdown page of all experiments' tables.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Run experiments: methods x settings x seeds, with the truth known.

    Finished runs are kept; the same command goes on where it was interrupted.
    """
    from rich.console import Console

    from faml.compare.campaign import jobs_that_fit, missing, results, run_tasks
    from faml.compare.experiment import read_experiment
    from faml.compare.page import results_page, section_of
    from faml.compare.pictures import draw_pictures
    from faml.compare.table import write_tables
    from faml.io.atomic import write_text_atomic

    console = Console(highlight=False, quiet=quiet, soft_wrap=True)
    read = [(path, *read_experiment(path, quick=quick)) for path in files]
    sections, failures = [], []
    for path, experiment, tasks in read:
        name = path.stem + ("-quick" if quick else "")
        directory = (output or path.parent / "results") / name
        chosen = _chosen(experiment, tasks, methods, seeds)
        todo = [] if tables_only else _possible(missing(chosen, directory), console)
        if todo:
            number = jobs or jobs_that_fit(todo, threads, all_cores())
            console.print(
                f"{experiment.title}: {len(todo)} of {len(chosen)} runs to do, {number} at a time"
            )
            done = _Told(console, len(todo))
            try:
                failures += run_tasks(todo, directory, jobs=number, threads=threads, on_done=done)
            except KeyboardInterrupt as error:
                message = f"interrupted; {done.count} of {len(todo)} runs are done and kept; the "
                raise KeyboardInterrupt(message + "same command goes on") from error
        found = results(tasks, directory)
        pictures: list[Path] = []
        if found:
            table = write_tables(found, directory)
            pictures = draw_pictures(found, table, list(experiment.sweep), directory)
            if not quiet:
                _show(experiment, table, console)
            console.print(f"table and pictures: {directory}")
        else:
            import pandas as pd

            table = pd.DataFrame()
        if page is not None:
            command = f"faml compare {path}" + (" --quick" if quick else "")
            sections.append(section_of(experiment, table, pictures, page, command))
    if page is not None:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(page, results_page(sections, f"faml {shlex.join(sys.argv[1:])}"))
        console.print(f"page: {page}")
    if failures:
        _fail(failures)


def _chosen(
    experiment: Experiment, tasks: list[Task], methods: list[str] | None, seeds: list[int] | None
) -> list[Task]:
    unknown = set(methods or ()) - set(experiment.methods)
    if unknown:
        raise ConfigurationError(
            f"expected methods {', '.join(experiment.methods)}, found {', '.join(sorted(unknown))}"
        )
    strange = set(seeds or ()) - set(experiment.seeds)
    if strange:
        raise ConfigurationError(
            f"expected seeds {', '.join(map(str, experiment.seeds))}, found "
            f"{', '.join(map(str, sorted(strange)))}"
        )
    return [
        task
        for task in tasks
        if (not methods or task.name in methods)
        and (not seeds or task.data.simulation.seed in seeds)
    ]


def _possible(tasks: list[Task], console: Any) -> list[Task]:
    """RELION has rows where it is installed."""
    from faml.compare.relion import find_relion

    possible = [task for task in tasks if task.method.kind != "relion"]
    if len(possible) == len(tasks) or find_relion() is not None:
        return tasks
    console.print("relion_refine is not on the PATH: its runs are left out")
    return possible


class _Told:
    """Says what has been done, a line a run."""

    def __init__(self, console: Any, total: int) -> None:
        self.count = 0
        self._console, self._total = console, total

    def __call__(self, task: Task, outcome: dict[str, Any] | Failure) -> None:
        from rich.markup import escape

        self.count += 1
        if isinstance(outcome, dict):
            found = " ".join(f"{each['r']:.3f}" for each in outcome.get("classes", ()))
            said = f"r {found or '-'}, {outcome['cost']['cpu_s']:.0f} CPU s"
        else:
            said = f"failed: {outcome.message}"
        self._console.print(f"  {self.count}/{self._total} {escape(task.label)}: {escape(said)}")


def _show(experiment: Experiment, table: Any, console: Any) -> None:
    from rich.table import Table

    from faml.compare.page import summary

    shown = summary(table, list(experiment.sweep), len(experiment.seeds))
    shown = shown[[name for name in shown if name not in _ON_THE_PAGE_ONLY]]
    printed = Table(*shown.columns, title=experiment.title)
    for row in shown.to_numpy():
        printed.add_row(*map(str, row))
    console.print(printed)


def _fail(failures: list[Failure]) -> None:
    """One error for all runs that came to nothing."""
    first = failures[0]
    error = FamlError(
        f"{len(failures)} runs failed; the first: {first.message}. All others are kept; the same "
        "command tries these again"
    )
    error.exit_code = first.exit_code
    raise error
