"""Fourier weights from files or from a tilt range, read when asked (`particles.WeightReader`)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from faml.conventions import FloatArray
from faml.errors import InputDataError
from faml.io.mrc import read_header, read_volume
from faml.particles.kept import LastKept
from faml.particles.wedge import (
    half_weight_volume,
    tilt_angles_weight,
    wedge_weight,
    weight_from_volume,
)

__all__ = [
    "TiltAnglesWeights",
    "TiltRangeWeight",
    "VolumeWeights",
    "WeightSource",
    "estimate_tilt_range_deg",
    "observed_fraction",
    "single_axis_range_deg",
    "weight_power",
]

WeightSource = Literal["volumes", "tilt range", "tilt angles", "tilt images", "missing"]
"""What the weights of particles are made of."""

_AMPLITUDES_KEPT = 16
_OBSERVED = 0.05
"""Of the median of the observed ones, above which a component counts as observed."""
_FULL_DEG = 175.0
_LEAST_INSIDE = 0.6
_MOST_OUTSIDE = 0.1
"""Shares of observed components, rings of a CTF apart, by which a weight is a wedge."""


@dataclass(frozen=True)
class TiltRangeWeight:
    """One binary missing wedge for all particles.

    Attributes
    ----------
    box : int
        Edge n in voxels.
    tilt_range_deg : (float, float)
    tilt_axis : {"y", "x"}
    """

    box: int
    tilt_range_deg: tuple[float, float]
    tilt_axis: str = "y"

    def read(self, index: int) -> npt.NDArray[np.float32]:
        """The wedge, ``(n, n, n // 2 + 1)`` float32, whatever the index."""
        return wedge_weight(self.box, self.tilt_range_deg, self.tilt_axis)

    def amplitude(self, index: int) -> npt.NDArray[np.float32] | None:
        """None: zeroing y where W = 0 is all a binary wedge does."""
        return None


@dataclass(frozen=True)
class TiltAnglesWeights:
    """Weights from the angles of a tilt series.

    A tomogram that was not CTF-premultiplied passes the structure alike wherever tilts looked
    (filtered back-projection), with a noise variance of ``sigma^2 / W``: then ``y = W X``. Of
    premultiplied particles the file is y.

    Attributes
    ----------
    box : int
        Edge n in voxels.
    tilt_angles_deg : tuple of T float
    tilt_axis : {"y", "x"}
    premultiplied : tuple of M bool
        Of each distinct weight.
    """

    box: int
    tilt_angles_deg: tuple[float, ...]
    tilt_axis: str
    premultiplied: tuple[bool, ...]

    def read(self, index: int) -> npt.NDArray[np.float32]:
        """Sum of the slices, ``(n, n, n // 2 + 1)`` float32."""
        return tilt_angles_weight(self.box, self.tilt_angles_deg, self.tilt_axis)

    @cached_property
    def _weight(self) -> npt.NDArray[np.float32]:
        return self.read(0)

    def amplitude(self, index: int) -> npt.NDArray[np.float32] | None:
        """W, by which the file becomes y, or None where it is y."""
        return None if self.premultiplied[index] else self._weight


@dataclass(frozen=True)
class VolumeWeights:
    """Weights from wedge or CTF volumes (rlnCtfImage), one per distinct file.

    Three layouts are read: a full cube ``(n, n, n)`` with DC at voxel n // 2; an FFTW half
    ``(n, n, n // 2 + 1)`` with DC at 0; and either with Z doubled. The latter, which RELION 4
    writes for CTF-premultiplied pseudo-subtomograms, holds the sum of CTF^2 in its first half and
    the multiplicity (how many tilt images contributed) in its second. The data term there is
    ``y = sum CTF * data`` and its noise variance ``sigma^2 sum CTF^2``, so W is the first half;
    the multiplicity is not needed.

    Attributes
    ----------
    paths : tuple of M Path
    premultiplied : tuple of M bool
        True: the file is W and y is the particle's file. False: the file is an amplitude C (of
        either sign), ``y = C X`` and ``W = C^2``.
    box : int
        Edge n of the particles in voxels.
    """

    paths: tuple[Path, ...]
    premultiplied: tuple[bool, ...]
    box: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "_amplitudes", LastKept(_AMPLITUDES_KEPT))

    def check_header(self, index: int) -> None:
        """Compare the shape with the box without reading the data.

        Raises
        ------
        InputDataError
            A shape that is none of the three layouts, or doubled Z without premultiplication.
        """
        shape = read_header(self.paths[index]).shape
        n = self.box
        if shape in {(n, n, n), (n, n, n // 2 + 1)}:
            return
        if shape in {(2 * n, n, n), (2 * n, n, n // 2 + 1)}:
            if self.premultiplied[index]:
                return
            raise InputDataError(
                f"{self.paths[index]}: found a weight volume with CTF^2 and multiplicity "
                f"{shape}, which belongs to CTF-premultiplied particles; set "
                "rlnCtfDataAreCtfPremultiplied to 1 in the optics table"
            )
        raise InputDataError(
            f"{self.paths[index]}: expected a weight volume of shape {(n, n, n)} (full cube) or "
            f"{(n, n, n // 2 + 1)} (FFTW half) for particles of box {n}, found {shape}; give the "
            "weight volumes written with these particles"
        )

    def read(self, index: int) -> npt.NDArray[np.float32]:
        """Weight W, ``(n, n, n // 2 + 1)`` float32.

        Raises
        ------
        InputDataError
            Unreadable, wrong shape, NaN, negative W, or zero everywhere.
        """
        return weight_from_volume(
            self._volume(index),
            self.box,
            premultiplied=self.premultiplied[index],
            name=str(self.paths[index]),
        )

    def amplitude(self, index: int) -> npt.NDArray[np.float32] | None:
        """C of data that are not premultiplied, ``(n, n, n // 2 + 1)`` float32, else None."""
        if self.premultiplied[index]:
            return None
        kept: LastKept[npt.NDArray[np.float32]] = self._amplitudes  # type: ignore[attr-defined]
        return kept.get(
            index,
            lambda: half_weight_volume(self._volume(index), self.box, str(self.paths[index])),
        )

    def _volume(self, index: int) -> npt.NDArray[np.float32]:
        self.check_header(index)
        return read_volume(self.paths[index]).values[: self.box]


def weight_power(weight: FloatArray) -> float:
    """Mean of W over all n^3 components: noise variance per voxel over sigma^2."""
    n = weight.shape[0]
    twice = weight[:, :, 1 : (n + 1) // 2].sum(dtype=np.float64)
    return float((weight.sum(dtype=np.float64) + twice) / n**3)


def observed_fraction(weight: FloatArray) -> float:
    """Share of the components inside the Nyquist sphere, without DC, where W > 0."""
    kz, ky, kx = _frequencies(weight.shape[0])
    radius2 = kz**2 + ky**2 + kx**2
    inside = (radius2 > 0) & (radius2 <= (weight.shape[0] / 2) ** 2)
    multiplicity = np.where((kx == 0) | (2 * kx == weight.shape[0]), 1.0, 2.0) * inside
    return float(multiplicity[weight > 0].sum() / multiplicity.sum())


def estimate_tilt_range_deg(weight: FloatArray) -> tuple[float, float] | None:
    """Tilt range about Y that a weight looks like, in steps of 180/n degrees.

    The angles around 0 at which at least half of the outer components of the planes near ky = 0
    are observed. Components count as observed above 5 % of the median of the observed ones, since
    interpolation smears a little weight beyond the last tilt.

    Returns
    -------
    (float, float) or None
        None if nothing is observed near 0 degrees.
    """
    n = weight.shape[0]
    kz, ky, kx = _frequencies(n)
    radius = np.sqrt(kz**2 + ky**2 + kx**2)
    chosen = (np.abs(ky) <= 1) & (radius > n / 6) & (radius < n / 2) & (kx > 0)
    angle = np.rad2deg(np.arctan2(kz, kx))
    values, angles = weight[chosen], angle[chosen]
    positive = values[values > 0]
    if not positive.size:
        return None
    observed = values > _OBSERVED * np.median(positive)
    width = 180.0 / n
    edges = np.arange(-90.0, 90.0 + 1e-6, width)
    total, _ = np.histogram(angles, edges)
    share, _ = np.histogram(angles[observed], edges)
    seen = (share >= 0.5 * total) & (total > 0)
    first = last = int(np.searchsorted(edges, 0.0, side="right")) - 1
    if not seen[first]:
        return None
    while first > 0 and seen[first - 1]:
        first -= 1
    while last < len(seen) - 1 and seen[last + 1]:
        last += 1
    return float(edges[first]), float(edges[last + 1])


def single_axis_range_deg(weight: FloatArray) -> tuple[float, float] | None:
    """The same estimate, where the whole weight looks like tilts about Y with a gap.

    Returns
    -------
    (float, float) or None
        None for a weight without a missing wedge, or with one of another shape: tilts about
        another axis, tilts about two.
    """
    found = estimate_tilt_range_deg(weight)
    if found is None or found[1] - found[0] >= _FULL_DEG:
        return None
    n = weight.shape[0]
    kz, ky, kx = _frequencies(n)
    radius = np.sqrt(kz**2 + ky**2 + kx**2)
    chosen = (np.hypot(kz, kx) > n / 6) & (radius < n / 2) & (kx > 0)
    angles, values = np.rad2deg(np.arctan2(kz, kx))[chosen], weight[chosen]
    observed = values > _OBSERVED * np.median(values[values > 0])
    inside = (angles >= found[0]) & (angles <= found[1])
    margin = 180.0 / n  # the estimate is no finer
    outside = (angles < found[0] - margin) | (angles > found[1] + margin)
    if not outside.any() or observed[outside].mean() > _MOST_OUTSIDE:
        return None
    return found if observed[inside].mean() >= _LEAST_INSIDE else None


def _frequencies(
    n: int,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    full = np.fft.fftfreq(n, 1.0 / n)
    half = np.arange(n // 2 + 1, dtype=np.float64)
    kz, ky, kx = np.meshgrid(full, full, half, indexing="ij")
    return kz, ky, kx
