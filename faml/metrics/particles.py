"""Which particles are not what they seem: outliers of their class, and duplicates."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

__all__ = ["duplicates", "outliers"]

_DEVIATIONS = 3.5
_NORMAL = 1.4826  # median absolute deviation of a normal distribution to its standard deviation
_FEWEST = 8
"""Members from which a class has a distribution that a particle can lie outside of."""


def outliers(
    log_evidences: npt.NDArray[np.float64], classes: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Particles that their class explains far worse than its other members.

    Parameters
    ----------
    log_evidences : (N,) float64
        How much better than nothing the structure explains each (`State.assignments`).
    classes : (N,) int64

    Returns
    -------
    (N,) bool
        True below the median of the class by more than 3.5 robust standard deviations; none in
        classes of fewer than 8.
    """
    found = np.zeros(len(classes), dtype=bool)
    for k in np.unique(classes):
        members = np.nonzero(classes == k)[0]
        if len(members) < _FEWEST:
            continue
        values = log_evidences[members]
        middle = np.median(values)
        spread = _NORMAL * np.median(np.abs(values - middle))
        found[members] = values < middle - _DEVIATIONS * spread
    return found


def duplicates(
    positions: npt.NDArray[np.float64],
    tomograms: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float64],
    distance: float,
) -> npt.NDArray[np.bool_]:
    """Particles that lie closer to a better one of their tomogram than a distance.

    Parameters
    ----------
    positions : (N, 3) float64
        In the unit of ``distance``.
    tomograms : (N,) int64
    scores : (N,) float64
        Of two particles that are one, that with the higher score stays.
    distance : float

    Returns
    -------
    (N,) bool
        True where a particle is to be left out. What is left out displaces no other.
    """
    left_out = np.zeros(len(positions), dtype=bool)
    for tomogram in np.unique(tomograms):
        members = np.nonzero(tomograms == tomogram)[0]
        tree = cKDTree(positions[members])
        order = np.argsort(-scores[members], kind="stable")
        settled = np.zeros(len(members), dtype=bool)
        for i in order:
            if left_out[members[i]]:
                continue
            settled[i] = True
            near = [j for j in tree.query_ball_point(positions[members[i]], distance) if j != i]
            left_out[members[[j for j in near if not settled[j]]]] = True
    return left_out
