"""What a run found, beside the truth: maps, poses and classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from faml.metrics.align import align_volume
from faml.metrics.fsc import correlation_about_zero, fourier_shell_correlation, pearson
from faml.metrics.labels import (
    adjusted_rand_index,
    confusion,
    f1_scores,
    matched_classes,
    misclassified,
    pose_errors,
)
from faml.metrics.symmetry_search import find_symmetry
from faml.particles import ParticlePoses
from faml.symmetry import PointGroup
from faml.transforms.masks import automatic_mask

__all__ = ["ClassEvaluation", "Evaluation", "evaluate"]

_INSIDE = 0.5
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
    mirror_correlation : float
        Of the mirror image of the class with the truth, whole boxes.
    mirrored : bool
        It is the mirror image that was found.
    fsc : (n // 2,) float64
        Of the aligned map and the truth.
    rotation_deg, translation_voxels : (M,) float64
        Pose errors of the particles that are rightly in the class, after its global motion.
    """

    label: int
    class_index: int
    correlation: float
    correlation_about_zero: float
    mirror_correlation: float
    mirrored: bool
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
    symmetry: PointGroup,
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
    symmetry : PointGroup
        Of the true structures, wherever their axes lie; poses are compared up to it.
    voxel_size_angstrom : float
    max_shift_voxels : float
        Largest displacement of an average per axis that is searched.

    Raises
    ------
    ValueError
        Shapes or numbers do not fit, or a map is constant.
    """
    matched = matched_classes(labels, assigned, len(truths), len(averages))
    results = []
    for label, reference in enumerate(truths):
        k = int(matched[label])
        if k < 0:
            none = np.zeros(0)
            flat = np.zeros(reference.shape[0] // 2)
            results.append(ClassEvaluation(label, -1, 0.0, 0.0, 0.0, False, flat, none, none))
            continue
        aligned = align_volume(averages[k], reference, max_shift_voxels=max_shift_voxels)
        mirror = align_volume(
            np.ascontiguousarray(averages[k][::-1]), reference, max_shift_voxels=max_shift_voxels
        )
        inside = automatic_mask(reference) > _INSIDE
        chosen = (labels == label) & (assigned == k)
        errors = None
        if chosen.any():
            group = symmetry.rotations
            if symmetry.order > 1:
                (fit,) = find_symmetry(reference, [symmetry], voxel_size_angstrom)
                group = fit.rotation @ group @ fit.rotation.T
            errors = pose_errors(
                ParticlePoses(found.rotations[chosen], found.translations[chosen]),
                ParticlePoses(truth.rotations[chosen], truth.translations[chosen]),
                symmetry=group,
            )
        results.append(
            ClassEvaluation(
                label=label,
                class_index=k,
                correlation=pearson(aligned.volume, reference, inside),
                correlation_about_zero=correlation_about_zero(aligned.volume, reference, inside),
                mirror_correlation=mirror.correlation,
                mirrored=mirror.correlation > aligned.correlation + _MIRRORED,
                fsc=fourier_shell_correlation(aligned.volume, reference),
                rotation_deg=np.zeros(0) if errors is None else errors.rotation_deg,
                translation_voxels=np.zeros(0) if errors is None else errors.translation_voxels,
            )
        )
    return Evaluation(
        classes=tuple(results),
        confusion=confusion(labels, assigned),
        misclassified=misclassified(labels, assigned),
        f1=tuple(f1_scores(labels, assigned)),
        rand_index=adjusted_rand_index(labels, assigned),
    )
