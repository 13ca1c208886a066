"""Batches: some of the particles are enough for averages that will change anyway.

Each of the first iterations visits a random batch, and the new averages are made of decaying means
of the sums of all batches so far (`em.running`). The last iterations visit all particles.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt

from faml.config import EmConfig

__all__ = ["batch_of", "batch_size", "in_batches"]

_STREAM = 0xBA7C  # tells the draw of batches from other random streams
_FEWEST = 8
"""Of a group: fewer say nothing about noise."""


def in_batches(iteration: int, count: int, config: EmConfig) -> bool:
    """Whether an iteration visits some of ``count`` particles only."""
    return batch_size(iteration, count, config) < count


def batch_of(
    groups: tuple[npt.NDArray[np.int64], ...], iteration: int, seed: int, config: EmConfig
) -> tuple[npt.NDArray[np.int64], ...]:
    """Particles of each group that an iteration visits, in their order.

    Parameters
    ----------
    groups : tuple of (M,) int64
    iteration : int
        From 1; the start, 0, visits all.
    seed : int
    config : EmConfig
    """
    count = sum(len(members) for members in groups)
    size = batch_size(iteration, count, config)
    if size >= count:
        return groups
    drawn = []
    for number, members in enumerate(groups):
        wanted = max(_FEWEST, round(Fraction(size * len(members), count)))
        rng = np.random.default_rng(np.random.SeedSequence([seed, _STREAM, iteration, number]))
        chosen = rng.permutation(len(members))[:wanted]
        drawn.append(members[np.sort(chosen)])
    return tuple(drawn)


def batch_size(iteration: int, count: int, config: EmConfig) -> int:
    """How many of ``count`` particles an iteration visits; from 1, the start visits all."""
    if config.batch is None or not 1 <= iteration <= config.batch_iterations:
        return count
    return min(count, config.batch)
