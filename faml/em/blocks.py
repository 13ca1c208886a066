"""Particles in blocks of chunks: the order in which sums are taken, whoever takes them.

A chunk sums in single precision, its block adds the chunks in double precision, and a group adds
its blocks, always in this order. Workers may be given whole blocks or single chunks: what is added
to what stays the same, and so does every bit of the result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np
import numpy.typing as npt

from faml.em.state import Assignments
from faml.em.statistics import Statistics
from faml.em.workers import chunks_of

__all__ = ["Block", "BlockSums", "block_size", "blocks_of"]

_CHUNKS = 8
"""Of a block, at least."""
_BLOCKS = 16_384
"""At most, however many particles: each sends its sums to whoever adds them."""


@dataclass(frozen=True)
class Block:
    """Some particles of one group.

    Attributes
    ----------
    group : int
    chunks : tuple of (M,) int64
        Particles, in the order in which they are visited.
    before : Assignments
        Of these particles, in this order.
    log_fractions : (K,) float64 or None
        Class fractions to see them under; None leaves the model's.
    ends : bool
        Whether the sums of a block are complete with this (part of a) block.
    """

    group: int
    chunks: tuple[npt.NDArray[np.int64], ...]
    before: Assignments
    log_fractions: npt.NDArray[np.float64] | None = None
    ends: bool = True

    @property
    def members(self) -> npt.NDArray[np.int64]:
        """All particles, (M,) int64."""
        return np.concatenate(self.chunks)

    def parts(self) -> Iterator[Block]:
        """Each chunk as a part of its own."""
        start = 0
        for number, chunk in enumerate(self.chunks, 1):
            before = self.before.take(slice(start, start + len(chunk)))
            yield replace(self, chunks=(chunk,), before=before, ends=number == len(self.chunks))
            start += len(chunk)


def blocks_of(
    groups: tuple[npt.NDArray[np.int64], ...],
    chunk_size: int,
    before: Assignments,
    log_fractions: npt.NDArray[np.float64] | None = None,
) -> list[Block]:
    """Blocks of all groups, the first of each, then the second.

    Parameters
    ----------
    groups : tuple of (M,) int64
        Particles of each.
    chunk_size : int
        Particles of a chunk.
    before : Assignments
        Of all particles.
    log_fractions : (K,) float64, optional
    """
    size = block_size(sum(len(members) for members in groups), chunk_size)
    by_group = [
        [
            Block(group, tuple(chunks_of(part, chunk_size)), before.take(part), log_fractions)
            for part in chunks_of(members, size)
        ]
        for group, members in enumerate(groups)
    ]
    # In turns: groups are spread all over the input, which is then read once and in its order.
    turns = zip_longest(*by_group)
    return [block for turn in turns for block in turn if block is not None]


def block_size(count: int, chunk_size: int) -> int:
    """Particles of a block, in chunks of ``chunk_size``, where ``count`` are visited."""
    return chunk_size * max(_CHUNKS, math.ceil(count / (_BLOCKS * chunk_size)))


class BlockSums:
    """Adds sums of blocks, or of their parts, in the order in which they are given.

    Parameters
    ----------
    totals : tuple of Statistics
        Of double precision; what is added to.
    """

    def __init__(self, totals: tuple[Statistics, ...]) -> None:
        self.totals = totals
        self._open: Statistics | None = None

    def add(self, block: Block, sums: Statistics, which: int) -> None:
        """Add the sums of a block or of its next part to total ``which``."""
        if self._open is None:
            if block.ends:
                self.totals[which].add(sums)
                return
            self._open = self.totals[which].emptied()
        self._open.add(sums)
        if block.ends:
            self.totals[which].add(self._open)
            self._open = None
