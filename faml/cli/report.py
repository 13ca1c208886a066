"""`faml report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["report"]


def report(
    directory: Annotated[Path, typer.Argument(metavar="RUN", help="Output directory of a run.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The HTML file. Default: RUN/report.html."),
    ] = None,
    figures: Annotated[
        bool,
        typer.Option(
            "--figures/--no-figures", help="Also write each figure as PNG and SVG to RUN/figures/."
        ),
    ] = True,
) -> None:
    """Write one HTML file that shows what a run has found; no network needed to read it."""
    from rich.console import Console

    from faml.report.page import FIGURES_NAME, write_report

    path = write_report(directory, output, figures=figures)
    console = Console(highlight=False)
    console.print(f"report: {path.resolve()}", markup=False, soft_wrap=True)
    if figures:
        folder = (directory if directory.is_dir() else directory.parent) / FIGURES_NAME
        console.print(f"figures: {folder.resolve()}", markup=False, soft_wrap=True)
