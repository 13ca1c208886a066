"""`faml evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["evaluate"]

_NAME = "evaluation.json"


def evaluate(
    directory: Annotated[Path, typer.Argument(metavar="RUN", help="Output directory of a run.")],
    truth: Annotated[Path, typer.Option(help="Directory that faml simulate has written.")],
    symmetry: Annotated[
        list[str] | None,
        typer.Option(
            help="Of the true structures, once or once each; poses are compared up to it."
        ),
    ] = None,
    max_shift: Annotated[
        float, typer.Option("--max-shift", help="Largest displacement of an average, in voxels.")
    ] = 4.0,
) -> None:
    """Compare a run with the truth it was simulated from; writes evaluation.json into RUN."""
    from rich.console import Console

    from faml.evaluation import class_maps, evaluate_files
    from faml.io.atomic import write_text_atomic

    report = evaluate_files(
        class_maps(directory),
        directory / "particles.star",
        truth,
        symmetries=symmetry or ["C1"],
        max_shift_voxels=max_shift,
    )
    write_text_atomic(directory / _NAME, json.dumps(report, indent=1) + "\n")
    _show(report, Console(highlight=False))


def _show(report: dict[str, Any], console: Any) -> None:
    from rich.table import Table

    names = [name for name in report["classes"][0] if name not in ("fsc", "mirror_r_of_box")]
    table = Table("", *(f"structure {row['structure']}" for row in report["classes"]))
    for name in names[1:]:
        values = ("-" if row[name] is None else str(row[name]) for row in report["classes"])
        table.add_row(name.replace("_", " "), *values)
    console.print(table)
    console.print(
        f"misclassified {report['misclassified']}, adjusted Rand index "
        f"{report['adjusted_rand_index']}"
    )
