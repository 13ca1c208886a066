"""`faml evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from faml.errors import ConfigurationError, InputDataError

if TYPE_CHECKING:
    from faml.metrics.evaluation import Evaluation

__all__ = ["evaluate"]

_WITHIN_DEG = 20.0
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

    from faml.io.atomic import write_text_atomic
    from faml.io.star import read_star
    from faml.io.truth import read_maps, read_results, read_truth
    from faml.metrics.evaluation import evaluate as compare
    from faml.symmetry import point_group

    if not 0 <= max_shift < np.inf:
        raise ConfigurationError(f"expected --max-shift of 0 voxels or more, found {max_shift:g}")
    groups = [point_group(name) for name in symmetry or ["C1"]]
    averages, size = read_maps(sorted(directory.glob("class_[0-9][0-9][0-9].mrc")), directory)
    references, known_size = read_maps(sorted((truth / "truth").glob("class_*.mrc")), truth)
    if averages[0].shape != references[0].shape or abs(size / known_size - 1.0) > 1e-3:
        raise InputDataError(
            f"{directory}: expected maps of {references[0].shape} voxels of {known_size:g} "
            f"Angstrom as in {truth}, found {averages[0].shape} of {size:g}"
        )
    known = read_truth(read_star(truth / "particles.star"), size)
    found = read_results(read_star(directory / "particles.star"), size, known)
    for what, numbers, maps, where in (
        ("classes", found.classes, averages, directory),
        ("structures", found.labels, references, truth),
    ):
        if numbers.min() < 0 or numbers.max() >= len(maps):
            raise InputDataError(
                f"{where}: expected {what} from 1 to {len(maps)}, one for each map, found "
                f"{numbers.min() + 1} to {numbers.max() + 1}"
            )
    if len(groups) == 1:
        groups *= len(references)
    if len(groups) != len(references):
        raise ConfigurationError(
            f"expected --symmetry once or {len(references)} times, found it {len(groups)} times"
        )
    result = compare(
        averages,
        references,
        found.poses,
        found.true_poses,
        found.classes,
        found.labels,
        symmetries=groups,
        voxel_size_angstrom=size,
        max_shift_voxels=max_shift,
    )
    report = _report(result, len(references[0]), size)
    write_text_atomic(directory / _NAME, json.dumps(report, indent=1) + "\n")
    _show(report, Console(highlight=False))


def _report(result: Evaluation, box: int, size: float) -> dict[str, Any]:
    """What is written, in plain types; infinities as None."""
    from faml.metrics.fsc import resolution_at

    def resolution(fsc: np.ndarray, threshold: float) -> float | None:
        value = resolution_at(fsc, threshold, box, size)
        return round(value, 2) if np.isfinite(value) else None

    def median(values: np.ndarray) -> float | None:
        return round(float(np.median(values)), 3) if len(values) else None

    classes = [
        {
            "structure": each.label + 1,
            "class": each.class_index + 1 if each.class_index >= 0 else None,
            "particles": len(each.rotation_deg),
            "r": round(each.correlation, 4),
            "r_about_zero": round(each.correlation_about_zero, 4),
            "mirrored": each.mirrored,
            "mirror_r_of_box": round(each.mirror_correlation, 4),
            "resolution_fsc_0.5_angstrom": resolution(each.fsc, 0.5),
            "resolution_fsc_0.143_angstrom": resolution(each.fsc, 0.143),
            "median_error_deg": median(each.rotation_deg),
            "median_error_voxels": median(each.translation_voxels),
            "share_within_20_deg": (
                round(float((each.rotation_deg < _WITHIN_DEG).mean()), 4)
                if len(each.rotation_deg)
                else None
            ),
            "f1": round(result.f1[each.label], 4),
            "fsc": [round(float(v), 4) for v in each.fsc],
        }
        for each in result.classes
    ]
    return {
        "classes": classes,
        "confusion": result.confusion.tolist(),
        "misclassified": result.misclassified,
        "adjusted_rand_index": round(result.rand_index, 4),
    }


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
