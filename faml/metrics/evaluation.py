"""What a run found, beside the truth: maps, poses and classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from faml.conventions import rotation_angle_deg
from faml.errors import InputDataError
from faml.metrics.align import Alignment, align_volume
from faml.metrics.fsc import correlation_about_zero, fourier_shell_correlation, pearson
from faml.metrics.labels import (
    adjusted_rand_index,
    confusion,
    f1_scores,
    matched_classes,
    misclassified,
    pose_errors,
)
from faml.metrics.resample import Resampler, transform_volume
from faml.metrics.symmetry_search import find_symmetry
from faml.particles import ParticlePoses
from faml.symmetry import PointGroup
from faml.transforms.masks import automatic_mask

__all__ = ["ClassEvaluation", "Evaluation", "evaluate"]

_INSIDE = 0.5
_SYMMETRIC = 0.8
"""Correlation of a structure with its least alike copy, from which it has a symmetry."""
_MIRRORED = 0.02
"""By which a mirror image must correlate better to be called so."""


@dataclass(frozen=True)
class ClassEvaluation:
    """One true structure and the class that stands for it.

    Attributes
    ----------
    label, class_index : int
        Both zero-based; class -1 where more structures than classes are known.
    correlation, correlation_about_zero : float
        Within the true structure's outline, after alignment: about the means (Pearson) and about
        zero, as Chimera's Fit in Map gives both.
    box_correlation : float
        About the means, over the whole box.
    mirror_correlation : float
        Of the mirror image of the class with the truth, whole boxes.
    mirrored : bool
        It is the mirror image that was found.
    symmetry_correlation : float or None
        Of the average and its copies, turned by the true structure's symmetry: mean over its
        rotations. None where it has none.
    fsc : (n // 2,) float64
        Of the aligned map and the truth.
    rotation_deg, translation_voxels : (M,) float64
        Pose errors of the particles that are rightly in the class, after its global motion.
    """

    label: int
    class_index: int
    correlation: float
    correlation_about_zero: float
    box_correlation: float
    mirror_correlation: float
    mirrored: bool
    symmetry_correlation: float | None
    fsc: npt.NDArray[np.float64]
    rotation_deg: npt.NDArray[np.float64]
    translation_voxels: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """A whole run.

    Attributes
    ----------
    classes : tuple of ClassEvaluation
        One per true structure.
    confusion : (labels, classes) int64
        Particles.
    misclassified : int
        Under the best matching of classes to structures.
    f1 : tuple of float
        Of each true structure and its class.
    rand_index : float
        Adjusted for chance.
    """

    classes: tuple[ClassEvaluation, ...]
    confusion: npt.NDArray[np.int64]
    misclassified: int
    f1: tuple[float, ...]
    rand_index: float


def evaluate(
    averages: Sequence[npt.NDArray[np.floating]],
    truths: Sequence[npt.NDArray[np.floating]],
    found: ParticlePoses,
    truth: ParticlePoses,
    assigned: npt.NDArray[np.integer],
    labels: npt.NDArray[np.integer],
    *,
    symmetries: Sequence[PointGroup],
    voxel_size_angstrom: float,
    max_shift_voxels: float = 4.0,
) -> Evaluation:
    """Compare averages, poses and classes with known ones.

    Parameters
    ----------
    averages, truths : sequence of (n, n, n) float
        Maps of the classes and of the true structures.
    found, truth : ParticlePoses
        Of N particles.
    assigned, labels : (N,) int
        Class found and true structure, zero-based.
    symmetries : sequence of PointGroup
        Of each true structure, wherever its axes lie; poses are compared up to it.
    voxel_size_angstrom : float
    max_shift_voxels : float
        Largest displacement of an average per axis that is searched.

    Raises
    ------
    InputDataError
        A structure has not the symmetry it is said to have.
    ValueError
        Shapes or numbers do not fit, or a true map is constant.
    """
    table = confusion(labels, assigned)
    if table.shape[0] > len(truths) or table.shape[1] > len(averages):
        raise ValueError(
            f"expected at most {len(truths)} structures and {len(averages)} classes, one for each "
            f"map, found {table.shape[0]} and {table.shape[1]}"
        )
    matched = matched_classes(labels, assigned, len(truths), len(averages))
    results = []
    for label, (reference, group) in enumerate(zip(truths, symmetries, strict=True)):
        k = int(matched[label])
        if k < 0 or not np.ptp(averages[k]) > 0:
            results.append(_nothing(label, k, reference.shape[0]))
            continue
        average = averages[k]
        aligned = align_volume(average, reference, max_shift_voxels=max_shift_voxels)
        # About voxel n // 2, so that the mirror image is no further away.
        mirror = average[::-1]
        if len(average) % 2 == 0:
            mirror = np.roll(mirror, 1, axis=0)
        other = align_volume(
            np.ascontiguousarray(mirror), reference, max_shift_voxels=max_shift_voxels
        )
        # The truth is brought onto the average: interpolation would take noise from the latter.
        back = aligned.rotation.T
        placed = transform_volume(reference, back, -back @ aligned.translation)
        inside = automatic_mask(placed) > _INSIDE
        chosen = (labels == label) & (assigned == k)
        rotations, centre = _equivalents(reference, group, label, voxel_size_angstrom)
        errors = None
        if chosen.any():
            turns, moves = truth.rotations[chosen], truth.translations[chosen]
            errors = pose_errors(
                ParticlePoses(found.rotations[chosen], found.translations[chosen]),
                # Axes pass through the centre that poses are compared about.
                ParticlePoses(turns, moves + turns @ centre),
                symmetry=rotations,
            )
        results.append(
            ClassEvaluation(
                label=label,
                class_index=k,
                correlation=pearson(average, placed, inside),
                correlation_about_zero=correlation_about_zero(average, placed, inside),
                box_correlation=pearson(average, placed),
                mirror_correlation=other.correlation,
                mirrored=other.correlation > aligned.correlation + _MIRRORED,
                symmetry_correlation=_symmetric(average, rotations, centre, aligned),
                fsc=fourier_shell_correlation(average, placed),
                rotation_deg=np.zeros(0) if errors is None else errors.rotation_deg,
                translation_voxels=np.zeros(0) if errors is None else errors.translation_voxels,
            )
        )
    return Evaluation(
        classes=tuple(results),
        confusion=table,
        misclassified=misclassified(labels, assigned),
        f1=tuple(f1_scores(labels, assigned, matched)),
        rand_index=adjusted_rand_index(labels, assigned),
    )


def _nothing(label: int, class_index: int, box: int) -> ClassEvaluation:
    """A structure without a class, or one whose class is empty."""
    none = np.zeros(0)
    return ClassEvaluation(
        label, class_index, 0.0, 0.0, 0.0, 0.0, False, None, np.zeros(box // 2), none, none
    )


def _symmetric(
    average: npt.NDArray[np.floating],
    rotations: npt.NDArray[np.float64],
    centre: npt.NDArray[np.float64],
    aligned: Alignment,
) -> float | None:
    """How alike the average is to itself about axes of the truth, given in the truth's frame."""
    if len(rotations) == 1:
        return None
    # `aligned` brings the average onto the truth: x -> R x + t; axes go the other way.
    back = aligned.rotation.T
    middle = back @ (centre - aligned.translation)
    resampler = Resampler(average)
    scores = []
    for rotation in rotations:
        turn = back @ rotation @ back.T
        if rotation_angle_deg(turn, np.eye(3)) < 1e-3:
            continue
        scores.append(pearson(average, resampler.place(turn, middle - turn @ middle)))
    return float(np.mean(scores))


def _equivalents(
    reference: npt.NDArray[np.floating], group: PointGroup, label: int, voxel_size_angstrom: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Rotations of a structure's symmetry in its own frame, and where its axes meet."""
    if group.order == 1:
        return group.rotations, np.zeros(3)
    (fit,) = find_symmetry(reference, [group], voxel_size_angstrom)
    if fit.weakest < _SYMMETRIC:
        raise InputDataError(
            f"structure {label + 1} has no symmetry {group.name}: turned by it, it correlates with "
            f"itself by {fit.weakest:.2f} only; give --symmetry once per structure"
        )
    return fit.rotation @ group.rotations @ fit.rotation.T, fit.centre
