"""`faml compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from faml.cli.options import Quiet, all_cores
from faml.errors import ConfigurationError, FamlError, OutputError

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
    "s in all",
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

    from faml.compare.campaign import results
    from faml.compare.experiment import read_experiment
    from faml.compare.page import results_page, section_of, varied
    from faml.compare.pictures import draw_pictures
    from faml.compare.table import tidy, write_tables
    from faml.io.atomic import write_text_atomic

    # Titles and messages of other programs are no markup.
    console = Console(highlight=False, markup=False, quiet=quiet, soft_wrap=True)
    # Whatever is wrong with one of them is found before the first is run.
    read = [(path, *read_experiment(path, quick=quick)) for path in files]
    _check_chosen(read, methods, seeds)
    if page is not None:
        _make_room(page)
    sections, failures = [], []
    for path, experiment, tasks in read:
        directory = (output or path.parent / "results") / (path.stem + ("-quick" if quick else ""))
        if not tables_only:
            failures += _run(experiment, _chosen(tasks, methods, seeds), directory, jobs, console)
        found = results(tasks, directory)
        pictures: list[Path] = []
        if found:
            table = write_tables(found, directory)
            pictures = draw_pictures(found, table, varied(experiment), directory)
            _show(experiment, table, console)
            console.print(f"table and pictures: {directory}")
        else:
            table = tidy([])
            console.print(f"{experiment.title}: no results in {directory} yet")
        command = f"faml compare {path}" + (" --quick" if quick else "")
        sections.append(section_of(experiment, table, pictures, page or path, command))
    if page is not None:
        paths = " ".join(map(str, files)) + (" --quick" if quick else "")
        command = f"faml compare {paths} --tables-only --page {page}"
        write_text_atomic(page, results_page(sections, command))
        console.print(f"page: {page}")
    if failures:
        _fail(failures)


def _make_room(page: Path) -> None:
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{page.parent}: cannot be created ({error.strerror}); give another --page"
        ) from error


def _check_chosen(
    read: list[tuple[Path, Experiment, list[Task]]],
    methods: list[str] | None,
    seeds: list[int] | None,
) -> None:
    """Whether some experiment has what was asked for."""
    for what, asked, known in (
        ("methods", methods, [name for _, each, _ in read for name in each.methods]),
        ("seeds", seeds, [seed for _, each, _ in read for seed in each.seeds]),
    ):
        unknown = [each for each in asked or () if each not in known]
        if unknown:
            raise ConfigurationError(
                f"expected {what} of these experiments, "
                f"{', '.join(map(str, dict.fromkeys(known)))}, found "
                f"{', '.join(map(str, unknown))}"
            )


def _chosen(tasks: list[Task], methods: list[str] | None, seeds: list[int] | None) -> list[Task]:
    return [
        task
        for task in tasks
        if (not methods or task.name in methods)
        and (not seeds or task.data.simulation.seed in seeds)
    ]


def _run(
    experiment: Experiment, tasks: list[Task], directory: Path, jobs: int | None, console: Any
) -> list[Failure]:
    """Run what has no result yet."""
    from faml.compare.campaign import jobs_that_fit, missing, run_tasks

    todo = _possible(missing(tasks, directory), console)
    if not todo:
        return []
    number = jobs or jobs_that_fit(todo, all_cores())
    console.print(f"{experiment.title}: {len(todo)} of {len(tasks)} runs to do, {number} at a time")
    told = _Told(console, len(todo))
    try:
        return run_tasks(todo, directory, jobs=number, on_done=told)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(
            f"interrupted; {told.count} of {len(todo)} runs are done and kept; the same command "
            "goes on"
        ) from error


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
        self.count += 1
        if isinstance(outcome, dict):
            found = " ".join(f"{each['r']:.3f}" for each in outcome.get("classes", ()))
            said = f"r {found or '-'}, {outcome['cost']['cpu_s']:.0f} CPU s"
        else:
            said = f"failed: {outcome.message}"
        self._console.print(f"  {self.count}/{self._total} {task.label}: {said}")


def _show(experiment: Experiment, table: Any, console: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    from faml.compare.page import summary, varied

    shown = summary(table, varied(experiment), len(experiment.seeds))
    shown = shown[[name for name in shown if name not in _ON_THE_PAGE_ONLY]]
    printed = Table(*shown.columns, title=Text(experiment.title))
    for row in shown.to_numpy():
        printed.add_row(*(Text(str(cell)) for cell in row))
    console.print(printed)


def _fail(failures: list[Failure]) -> None:
    """One error for all runs that came to nothing."""
    first = failures[0]
    error = FamlError(
        f"{len(failures)} of the runs failed; the first: {first.message}. All others are kept; "
        "the same command tries again"
    )
    error.exit_code = first.exit_code
    raise error
