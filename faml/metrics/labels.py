"""Agreement of poses and classes with known ones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from faml.conventions import rotation_angle_deg

__all__ = ["confusion", "misclassified", "pose_errors_deg"]


def confusion(
    labels: npt.NDArray[np.integer], assigned: npt.NDArray[np.integer]
) -> npt.NDArray[np.int64]:
    """Counts ``[true label, assigned class]``."""
    table = np.zeros((int(labels.max()) + 1, int(assigned.max()) + 1), dtype=np.int64)
    np.add.at(table, (labels, assigned), 1)
    return table


def misclassified(labels: npt.NDArray[np.integer], assigned: npt.NDArray[np.integer]) -> int:
    """Particles in the wrong class under the best matching of classes to labels (Hungarian)."""
    table = confusion(labels, assigned)
    rows, columns = linear_sum_assignment(-table)
    return int(len(labels) - table[rows, columns].sum())


def pose_errors_deg(
    found: npt.NDArray[np.float64], truth: npt.NDArray[np.float64], *, within_deg: float = 20.0
) -> npt.NDArray[np.float64]:
    """Rotation errors after removing one global rotation of the average.

    Parameters
    ----------
    found, truth : (N, 3, 3) float64
        Active rotations; ``found G = truth`` for one unknown G where poses are right.
    within_deg : float
        The G that brings most particles within this angle is taken.

    Returns
    -------
    (N,) float64
        Degrees.
    """
    proposals = np.swapaxes(found, 1, 2) @ truth
    best = min(
        (rotation_angle_deg(found @ proposal, truth) for proposal in proposals),
        key=lambda errors: (-int((errors < within_deg).sum()), float(np.median(errors))),
    )
    return np.asarray(best)
