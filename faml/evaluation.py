"""Files of a run beside files of the truth it was simulated from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from faml.errors import ConfigurationError, InputDataError
from faml.io.star import read_star
from faml.io.truth import read_maps, read_results, read_truth
from faml.metrics.evaluation import Evaluation, evaluate
from faml.metrics.fsc import resolution_at
from faml.symmetry import point_group

__all__ = ["class_maps", "evaluate_files"]

_WITHIN_DEG = 20.0
_SAME_VOXEL = 1e-3


def class_maps(directory: Path) -> list[Path]:
    """Class averages that a run has written, in their order."""
    return sorted(directory.glob("class_[0-9][0-9][0-9].mrc"))


def evaluate_files(
    maps: Sequence[Path],
    star: Path,
    truth: Path,
    *,
    symmetries: Sequence[str] = ("C1",),
    max_shift_voxels: float = 4.0,
) -> dict[str, Any]:
    """Compare averages, poses and classes in files with a simulation.

    Parameters
    ----------
    maps : sequence of Path
        One per class, in the order of rlnClassNumber.
    star : Path
        Poses and classes, of faml or RELION.
    truth : Path
        Directory that `simulate.dataset.simulate_dataset` has written.
    symmetries : sequence of str
        Of the true structures, once or once each.
    max_shift_voxels : float
        Largest displacement of an average per axis.

    Returns
    -------
    dict
        Plain types: ``classes``, one per true structure, ``confusion`` (structures, classes),
        ``misclassified``, ``adjusted_rand_index``. Resolutions that there are none of are None.

    Raises
    ------
    ConfigurationError
        Symmetries of another number.
    InputDataError
        Files that are missing or do not fit each other.
    """
    if not 0 <= max_shift_voxels < np.inf:
        raise ConfigurationError(
            f"expected a largest shift of 0 voxels or more, found {max_shift_voxels:g}"
        )
    groups = [point_group(name) for name in symmetries]
    averages, size = read_maps(maps, star.parent)
    references, known_size = read_maps(sorted((truth / "truth").glob("class_*.mrc")), truth)
    if averages[0].shape != references[0].shape or abs(size / known_size - 1.0) > _SAME_VOXEL:
        raise InputDataError(
            f"{star.parent}: expected maps of {references[0].shape} voxels of {known_size:g} "
            f"Angstrom as in {truth}, found {averages[0].shape} of {size:g}"
        )
    known = read_truth(read_star(truth / "particles.star"), size)
    found = read_results(read_star(star), size, known)
    for what, numbers, volumes, where in (
        ("classes", found.classes, averages, star.parent),
        ("structures", found.labels, references, truth),
    ):
        if numbers.min() < 0 or numbers.max() >= len(volumes):
            raise InputDataError(
                f"{where}: expected {what} from 1 to {len(volumes)}, one for each map, found "
                f"{numbers.min() + 1} to {numbers.max() + 1}"
            )
    if len(groups) == 1:
        groups *= len(references)
    if len(groups) != len(references):
        raise ConfigurationError(
            f"expected one symmetry, or one per structure ({len(references)}), found {len(groups)}"
        )
    result = evaluate(
        averages,
        references,
        found.poses,
        found.true_poses,
        found.classes,
        found.labels,
        symmetries=groups,
        voxel_size_angstrom=size,
        max_shift_voxels=max_shift_voxels,
    )
    return _report(result, len(references[0]), size)


def _report(result: Evaluation, box: int, size: float) -> dict[str, Any]:
    def resolution(fsc: npt.NDArray[np.float64], threshold: float) -> float | None:
        value = resolution_at(fsc, threshold, box, size)
        return round(value, 2) if np.isfinite(value) else None

    def median(values: npt.NDArray[np.float64]) -> float | None:
        return round(float(np.median(values)), 3) if len(values) else None

    def within(values: npt.NDArray[np.float64]) -> float | None:
        return round(float((values < _WITHIN_DEG).mean()), 4) if len(values) else None

    classes = [
        {
            "structure": each.label + 1,
            "class": each.class_index + 1 if each.class_index >= 0 else None,
            "particles": len(each.rotation_deg),
            "r": round(each.correlation, 4),
            "r_about_zero": round(each.correlation_about_zero, 4),
            "r_of_box": round(each.box_correlation, 4),
            "mirrored": each.mirrored,
            "mirror_r_of_box": round(each.mirror_correlation, 4),
            "symmetry_r": (
                None if each.symmetry_correlation is None else round(each.symmetry_correlation, 4)
            ),
            "resolution_fsc_0.5_angstrom": resolution(each.fsc, 0.5),
            "resolution_fsc_0.143_angstrom": resolution(each.fsc, 0.143),
            "median_error_deg": median(each.rotation_deg),
            "median_error_voxels": median(each.translation_voxels),
            "share_within_20_deg": within(each.rotation_deg),
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
