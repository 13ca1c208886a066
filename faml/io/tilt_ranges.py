"""Missing wedges that differ between particles, from tables and wedge lists."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from faml.io.formats.table import TiltRange, Wedge
from faml.particles.wedge import wedge_weight

__all__ = ["TiltRangeWeights", "distinct_wedges"]


@dataclass(frozen=True)
class TiltRangeWeights:
    """One binary weight for each distinct wedge (`particles.WeightReader`).

    Attributes
    ----------
    box : int
        Edge n in voxels.
    wedges : tuple of M Wedge
    """

    box: int
    wedges: tuple[Wedge, ...]

    def read(self, index: int) -> npt.NDArray[np.float32]:
        """1 where any range of the wedge observes the component, ``(n, n, n // 2 + 1)`` float32."""
        weight = np.zeros((self.box, self.box, self.box // 2 + 1), dtype=np.float32)
        for tilts in self.wedges[index]:
            for low, high in _folded(tilts):
                np.maximum(weight, wedge_weight(self.box, (low, high), tilts.axis), out=weight)
        return weight

    def amplitude(self, index: int) -> npt.NDArray[np.float32] | None:
        """None: zeroing y where W = 0 is all a binary wedge does."""
        return None


def distinct_wedges(
    wedges: tuple[Wedge, ...],
) -> tuple[tuple[Wedge, ...], npt.NDArray[np.int64]]:
    """The distinct ones in order of appearance, and which of them each particle has, (N,) int64."""
    known: dict[Wedge, int] = {}
    index = np.array([known.setdefault(wedge, len(known)) for wedge in wedges], dtype=np.int64)
    return tuple(known), index


def _folded(tilts: TiltRange) -> list[tuple[float, float]]:
    """The range within -90 to 90 degrees; one that crosses 90 comes in two parts.

    A plane tilted by 100 degrees is that tilted by -80.
    """
    low, high = tilts.low_deg, tilts.high_deg
    if high - low >= 180.0:
        return [(-90.0, 90.0)]
    turns = 180.0 * np.floor((low + 90.0) / 180.0)
    low, high = low - turns, high - turns
    if high <= 90.0:
        return [(low, high)]
    return [(low, 90.0), (-90.0, high - 180.0)]
