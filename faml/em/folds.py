"""Folds: no particle sees its own noise in the average it is aligned to (method.md section 9).

At its previous pose a particle's own noise in the reference adds about (observed components) / N
to its log-likelihood, more than neighbouring poses differ, so poses freeze. With folds, particles
are aligned to the average of the other folds, and the log-likelihood is cross-validated.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from faml.errors import ConfigurationError
from faml.model import Model

__all__ = ["FEWEST_FOLDS", "folds_of", "split_into_folds", "with_averages_of"]

FEWEST_FOLDS = 3
"""Of a start without poses: two would only know each other, in two frames."""
_FOLDS = 5
_STREAM = 0xF01D  # tells the split's random stream from the others


def folds_of(given: int | None, count: int) -> int:
    """Folds of ``count`` particles: as given, or as many as do them good."""
    if given is not None:
        return given
    return min(_FOLDS, count) if count >= FEWEST_FOLDS else 1


def split_into_folds(
    count: int, folds: int, seed: int, *, blind: bool = False
) -> tuple[npt.NDArray[np.int64], ...]:
    """A random split of particles whose parts differ in size by one at most.

    Parameters
    ----------
    count, folds, seed : int
    blind : bool
        The start knows nothing of the poses.

    Raises
    ------
    ConfigurationError
        More folds than particles, or two of them from nothing: each would be aligned to the other
        alone, and their averages would end in two frames.
    """
    if 1 < folds < FEWEST_FOLDS and blind:
        raise ConfigurationError(
            f"expected at least {FEWEST_FOLDS} folds for a start without poses, found {folds}: "
            "each would only know the other, and the two averages would not share a frame; raise "
            "--folds"
        )
    if folds > count:
        raise ConfigurationError(
            f"expected at most as many folds as particles, found {folds} folds for {count} "
            "particles; lower --folds"
        )
    if folds == 1:
        return (np.arange(count),)
    rng = np.random.default_rng(np.random.SeedSequence([seed, _STREAM]))
    label = rng.permutation(np.arange(count) % folds)
    return tuple(np.nonzero(label == fold)[0] for fold in range(folds))


def with_averages_of(overall: Model, others: Model) -> Model:
    """The reference of a fold: averages and their prior are held out, the rest is shared."""
    return replace(overall, volumes=others.volumes, signal_power=others.signal_power)
