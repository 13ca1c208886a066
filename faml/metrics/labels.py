"""Agreement of poses and classes with known ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.spatial.transform import Rotation

from faml.conventions import rotation_angle_deg
from faml.particles import ParticlePoses

__all__ = [
    "PoseErrors",
    "adjusted_rand_index",
    "confusion",
    "f1_scores",
    "matched_classes",
    "misclassified",
    "pose_errors",
    "pose_errors_deg",
]

_MOST_PROPOSALS = 200
_ROUNDS = 20
_SETTLED_DEG = 1e-6


@dataclass(frozen=True)
class PoseErrors:
    """Errors of N poses after the average's own global motion is taken out.

    Attributes
    ----------
    rotation_deg : (N,) float64
    translation_voxels : (N,) float64
        Lengths.
    global_rotation : (3, 3) float64
        G with ``found G = truth`` where poses are right.
    global_translation : (3,) float64
        x, y, z in voxels: s with ``found s + found translation = true translation``.
    """

    rotation_deg: npt.NDArray[np.float64]
    translation_voxels: npt.NDArray[np.float64]
    global_rotation: npt.NDArray[np.float64]
    global_translation: npt.NDArray[np.float64]


def confusion(
    labels: npt.NDArray[np.integer], assigned: npt.NDArray[np.integer]
) -> npt.NDArray[np.int64]:
    """Counts ``[true label, assigned class]``.

    Parameters
    ----------
    labels, assigned : (N,) int
        From 0.

    Returns
    -------
    (labels.max() + 1, assigned.max() + 1) int64

    Raises
    ------
    ValueError
        If the lengths differ or are 0, or a label is negative.
    """
    if labels.ndim != 1 or labels.shape != assigned.shape or labels.size == 0:
        raise ValueError(
            f"expected labels and classes of one length above 0, found {labels.shape} and "
            f"{assigned.shape}"
        )
    if min(int(labels.min()), int(assigned.min())) < 0:
        raise ValueError("expected labels and classes counted from 0, found a negative one")
    table = np.zeros((int(labels.max()) + 1, int(assigned.max()) + 1), dtype=np.int64)
    np.add.at(table, (labels, assigned), 1)
    return table


def misclassified(labels: npt.NDArray[np.integer], assigned: npt.NDArray[np.integer]) -> int:
    """Particles in the wrong class under the best matching of classes to labels (Hungarian).

    With more classes than labels, all members of a class without a label count as wrong.
    Parameters and errors as `confusion`.
    """
    table = confusion(labels, assigned)
    rows, columns = linear_sum_assignment(-table)
    return int(len(labels) - table[rows, columns].sum())


def matched_classes(
    labels: npt.NDArray[np.integer],
    assigned: npt.NDArray[np.integer],
    label_count: int,
    class_count: int,
) -> npt.NDArray[np.int64]:
    """The class that stands for each label under the best matching (Hungarian), (labels,) int64.

    -1 where there are more labels than classes. Parameters and errors as `confusion`.
    """
    small = confusion(labels, assigned)
    table = np.zeros(
        (max(label_count, small.shape[0]), max(class_count, small.shape[1])), dtype=np.int64
    )
    table[: small.shape[0], : small.shape[1]] = small
    rows, columns = linear_sum_assignment(-table)
    matched = np.full(table.shape[0], -1, dtype=np.int64)
    matched[rows] = columns
    return matched


def f1_scores(
    labels: npt.NDArray[np.integer],
    assigned: npt.NDArray[np.integer],
    matched: npt.NDArray[np.int64] | None = None,
) -> list[float]:
    """F1 of each label and the class that stands for it, by default under the best matching.

    Twice what they share over what they have together; 0 for a label without a class. Parameters
    and errors as `confusion`.
    """
    table = confusion(labels, assigned)
    scores = []
    if matched is None:
        matched = matched_classes(labels, assigned, *table.shape)
    for label, k in enumerate(matched):
        members = table[:, k] if 0 <= k < table.shape[1] else np.zeros(len(table), dtype=np.int64)
        own = table[label] if label < len(table) else np.zeros(table.shape[1], dtype=np.int64)
        shared = float(members[label]) if label < len(table) else 0.0
        both = float(own.sum() + members.sum())
        scores.append(2.0 * shared / max(both, 1.0))
    return scores


def adjusted_rand_index(first: npt.NDArray[np.integer], second: npt.NDArray[np.integer]) -> float:
    """Agreement of two classifications, whatever their classes are called.

    Pairs of particles that both put together, less what chance would give (Hubert and Arabie
    1985): 1 for the same classes, 0 on average for unrelated ones, and 1 where neither has more
    than one class. Parameters and errors as `confusion`.
    """
    table = confusion(first, second)

    def pairs(counts: npt.NDArray[np.int64]) -> float:
        return float((counts * (counts - 1)).sum()) / 2.0

    together = pairs(table)
    rows, columns = pairs(table.sum(axis=1)), pairs(table.sum(axis=0))
    expected = rows * columns / max(pairs(table.sum(keepdims=True)), 1.0)
    largest = 0.5 * (rows + columns)
    return 1.0 if largest == expected else (together - expected) / (largest - expected)


def pose_errors_deg(
    found: npt.NDArray[np.float64],
    truth: npt.NDArray[np.float64],
    *,
    within_deg: float = 20.0,
    symmetry: npt.NDArray[np.float64] | None = None,
) -> npt.NDArray[np.float64]:
    """Rotation errors after removing one global rotation of the average.

    Parameters
    ----------
    found, truth : (N, 3, 3) float64
        Active rotations; ``found G = truth`` for one unknown G where poses are right.
    within_deg : float
        The G that brings most particles within this angle is taken, and averaged over them.
    symmetry : (S, 3, 3) float64, optional
        Rotations that leave the *true* structure unchanged, in its own frame and with the identity
        among them: ``truth S`` is as good as ``truth``.

    Returns
    -------
    (N,) float64
        Degrees.

    Raises
    ------
    ValueError
        If the shapes differ or there is no pose.
    """
    return _global_rotation(found, truth, within_deg, symmetry)[1]


def pose_errors(
    found: ParticlePoses,
    truth: ParticlePoses,
    *,
    within_deg: float = 20.0,
    symmetry: npt.NDArray[np.float64] | None = None,
) -> PoseErrors:
    """Rotation and translation errors after removing one global rigid motion of the average.

    Parameters as `pose_errors_deg`. An average that is rotated by G and displaced makes
    ``found s + found translation`` the true translation; s is the median over the particles whose
    rotation is right. A structure's symmetry axes are taken to pass through the box centre.
    """
    turn, errors = _global_rotation(found.rotations, truth.rotations, within_deg, symmetry)
    local = np.einsum("nji,nj->ni", found.rotations, truth.translations - found.translations)
    right = errors <= within_deg
    shift = np.median(local[right] if right.any() else local, axis=0)
    return PoseErrors(errors, np.linalg.norm(local - shift, axis=1), turn, shift)


def _global_rotation(
    found: npt.NDArray[np.float64],
    truth: npt.NDArray[np.float64],
    within_deg: float,
    symmetry: npt.NDArray[np.float64] | None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """G with ``found G ~ truth S`` and the errors in degrees.

    G minimises the sum of squared chordal distances cut off at ``within_deg``, so that wrong poses
    have no say, however many there are. The best of the particles' own proposals starts; then the
    chordal mean of those within the limit, until it stays: neither half of a round raises the sum.
    """
    if found.shape != truth.shape or found.shape[1:] != (3, 3) or len(found) == 0:
        raise ValueError(
            f"expected two arrays (N, 3, 3) with N >= 1, found {found.shape} and {truth.shape}"
        )
    group = np.eye(3)[None] if symmetry is None else np.asarray(symmetry, dtype=np.float64)
    wanted = np.einsum("nij,nsjk->nsik", np.swapaxes(found, 1, 2), truth[:, None] @ group)

    def errors_of(turn: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        # (N, S): ||found G - truth S|| = ||G - found^T truth S||.
        return rotation_angle_deg(turn, wanted)

    def cut_off_sum(turn: npt.NDArray[np.float64]) -> float:
        errors = np.minimum(errors_of(turn).min(axis=1), within_deg)
        return float((np.sin(np.deg2rad(0.5 * errors)) ** 2).sum())

    chosen = np.linspace(0, len(found) - 1, min(len(found), _MOST_PROPOSALS)).astype(int)
    best = min((wanted[i, 0] for i in chosen), key=cut_off_sum)
    for _ in range(_ROUNDS):
        errors = errors_of(best)
        right = errors.min(axis=1) <= within_deg
        agreeing = wanted[np.arange(len(found)), errors.argmin(axis=1)][right]
        mean = Rotation.from_matrix(agreeing).mean().as_matrix()
        settled = float(rotation_angle_deg(mean, best)) < _SETTLED_DEG
        best = mean
        if settled:
            break
    return best, errors_of(best).min(axis=1)
