"""A new start for classes that have lost their particles.

A class that next to no particle prefers stays as it is for ever, and its place is lost to a
structure it might have found. It is given the particles that the other classes explain worst:
if there is another structure, they are the ones to have it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from faml.config import EmConfig
from faml.em.schedule import exploration
from faml.em.state import Assignments

__all__ = ["reseeded", "reseeding", "starved"]

_EVERY = 3
"""Iterations a class is given to grow before it is looked at again."""
_SHARE = 0.5
"""Of an equal share of the particles, that a class begins with."""


def reseeding(iteration: int, config: EmConfig) -> bool:
    """Whether classes may be reseeded in an iteration.

    After those in which no class may starve, and as long as poses are still explored: what
    explains nothing by then is one class too many. Never where poses were given.
    """
    if config.classes == 1 or config.smallest_class == 0:
        return False
    passed = iteration - config.balance
    return passed > 0 and exploration(iteration, config) > 0 and passed % _EVERY == 0


def starved(assignments: Assignments, config: EmConfig) -> npt.NDArray[np.int64]:
    """Classes with less than `EmConfig.smallest_class` of an equal share of the particles."""
    shares = assignments.class_probabilities.mean(axis=0) * config.classes
    return np.nonzero(shares < config.smallest_class)[0]


def reseeded(assignments: Assignments, classes: npt.NDArray[np.int64]) -> Assignments:
    """Assignments, now certain, in which each of ``classes`` has its share of the worst explained.

    Parameters
    ----------
    assignments : Assignments
        Of N particles in K classes.
    classes : (M,) int64
        Dealt to in turn, so that no one has all the worst.
    """
    count, every = assignments.class_probabilities.shape
    size = max(1, int(_SHARE * count / every))
    order = np.argsort(assignments.log_evidences, kind="stable")
    labels = assignments.classes.copy()
    labels[order[: size * len(classes)]] = np.resize(classes, size * len(classes))
    return replace(
        assignments,
        classes=labels,
        class_probabilities=np.eye(every)[labels],
        probabilities=np.ones(count),
    )
