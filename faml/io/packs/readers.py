"""Volumes and weights of a pack, read when asked for.

Readers hold paths, places and checksums but no open HDF5 file, so they serve in threads, after a
fork, and in other processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from faml.errors import InputDataError
from faml.io.formats.table import Wedge
from faml.io.packs.ranges import DamagedError, StoredArrays
from faml.io.packs.texts import Texts
from faml.particles.kept import LastKept

__all__ = ["AGAIN", "PackedVolumes", "PackedWeights", "singles_of_halves"]

AGAIN = "copy it again, or write it anew with faml pack"
"""What to do about a damaged pack."""
_AMPLITUDES_KEPT = 16


@dataclass(frozen=True)
class PackedVolumes:
    """Volumes of a pack (`particles.VolumeReader`).

    Attributes
    ----------
    arrays : StoredArrays
    rows : (N,) int64
        Which of the pack's each one is.
    names : Texts
    mean, deviation : (N,) float32 or None
        Of the values of each, where they are stored in half precision as
        ``(value - mean) / deviation``.
    """

    arrays: StoredArrays
    rows: npt.NDArray[np.int64]
    names: Texts
    mean: npt.NDArray[np.float32] | None
    deviation: npt.NDArray[np.float32] | None

    def read(self, index: int) -> npt.NDArray[np.float32]:
        """Volume ``index``, ``(n, n, n)`` float32, not to be written to.

        Raises
        ------
        InputDataError
            The particle is not what was written, or the file cannot be read.
        """
        try:
            stored = self.arrays.read(int(self.rows[index]))
        except DamagedError:
            raise InputDataError(
                f"{self.arrays.file.path}: particle {self.names[index]} is damaged (its "
                f"checksum is not that of what was written); {AGAIN}"
            ) from None
        if self.mean is None or self.deviation is None:
            return stored.astype(np.float32, copy=False)
        values = singles_of_halves(stored)
        values *= self.deviation[index]
        values += self.mean[index]
        return values


@dataclass(frozen=True)
class PackedWeights:
    """Distinct weights of a pack (`particles.WeightReader`).

    Attributes
    ----------
    weights : StoredArrays
    amplitudes : StoredArrays or None
    amplitude_index : (M,) int64
        Which amplitude each weight has; -1 for none.
    which : (M',) int64
        The weights that are used.
    wedges : tuple of M' Wedge, or None
        Tilt ranges, where the weights are of such.
    """

    weights: StoredArrays
    amplitudes: StoredArrays | None
    amplitude_index: npt.NDArray[np.int64]
    which: npt.NDArray[np.int64]
    wedges: tuple[Wedge, ...] | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "_last", LastKept(_AMPLITUDES_KEPT))

    def read(self, index: int) -> npt.NDArray[np.float32]:
        """Weight W, ``(n, n, n // 2 + 1)`` float32; raises InputDataError as `PackedVolumes`."""
        return self._read(self.weights, int(self.which[index]))

    def amplitude(self, index: int) -> npt.NDArray[np.float32] | None:
        """C by which a file becomes y, or None where it is y; raises as `read`."""
        stored = int(self.amplitude_index[self.which[index]])
        arrays = self.amplitudes
        if stored < 0 or arrays is None:
            return None
        last: LastKept[npt.NDArray[np.float32]] = self._last  # type: ignore[attr-defined]
        return last.get(stored, lambda: self._read(arrays, stored))

    def _read(self, arrays: StoredArrays, index: int) -> npt.NDArray[np.float32]:
        try:
            return arrays.read(index).astype(np.float32, copy=False)
        except DamagedError:
            raise InputDataError(
                f"{arrays.file.path}: weight {index + 1} is damaged (its checksum is not that of "
                f"what was written); {AGAIN}"
            ) from None


def singles_of_halves(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Finite half-precision values as float32, exactly; five times faster than numpy's cast.

    A half becomes a single by moving its exponent and mantissa up and its sign to the front; what
    is left is the difference of the exponents' biases, by which subnormal values come right, too.
    """
    bits = values.astype("=f2", copy=False).view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= np.int32(-0x70002000)  # sign, and the 15 bits of the half
    singles: npt.NDArray[np.float32] = bits.view(np.float32)
    singles *= np.float32(2.0**112)
    return singles
