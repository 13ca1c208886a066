"""The missing wedge as the particles themselves show it.

A tomogram has no power where no tilt has looked, so the mean power spectrum of the particles,
relative to the mean of each shell, is empty in a sector of planes through the tilt axis. Only noise
that was added after the tomogram was made fills that sector; then nothing can be told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import scipy.fft

from faml.transforms.fourier import half_multiplicity, shell_indices, spectrum_of, sum_over_shells

__all__ = ["Axis", "MeasuredWedge", "PowerSpectrum", "WedgeGauge", "sample_size"]

Axis = Literal["y", "x", "z", "other"]
_Grid = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]

_SAMPLE = 100
_SAMPLE_BOX = 64
_LEAST_SAMPLE = 12
_TAPER = 0.35
"""Share of the radius over which the window falls to zero: faces of the box leak otherwise."""
_LAST_SHELL = 40
"""Finer ones tell the angles no better."""
_INNER = 0.5
"""Share of that shell within which components lie too near the axis."""
_LEAST_BINS = 12
_LEAST_BOX = 16
"""Smaller boxes have too few components."""
_SECTOR_DEG = 24.0
_AXIS_STEP_DEG = 5.0
_EMPTY = 0.3
_CONFIDENT = 0.5
_EDGE = 0.05
"""Least share of the power of the observed part, above that of the empty sector, from which an
angle counts as observed; low, since radiation damage weakens the last tilts."""
_EDGE_OF_BIN = 1.5
"""The same times the number of bins: wide ones take more from beyond the edge."""
_EDGE_OF_EMPTY = 0.25
"""The same as a share of the power in the empty sector, which noise may fill."""
_ON_AXIS_DEG = 7.5
_DIM = 0.05
"""Added to relative power before its logarithm is taken."""


def sample_size(count: int, box: int) -> int:
    """How many of ``count`` particles are read: 100 up to 64^3, of larger boxes fewer (12)."""
    wanted = round(_SAMPLE * min(1.0, (_SAMPLE_BOX / box) ** 3))
    return min(count, max(wanted, _LEAST_SAMPLE))


@dataclass(frozen=True)
class MeasuredWedge:
    """A single-axis missing wedge, or that none can be told.

    Attributes
    ----------
    particles : int
        Whose spectra were averaged.
    told : bool
        False: there is no empty sector, or it is as empty about other axes; the rest is then what
        comes nearest.
    tilt_axis : {"y", "x", "z", "other"}
        `other` lies in the plane, between Y and X.
    axis_deg : float or None
        Of an axis in the plane: from Y towards -X, 0 to 180; None for Z.
    tilt_range_deg : (float, float)
        Smallest and largest tilt observed; about Y and X as in `particles.wedge.wedge_weight`.
    emptiness : float
        Mean power in the emptiest sector of 24 degrees over that of the rest; 0 is empty.
    confidence : float
        0 to 1: how much emptier that sector is than the emptiest one about the axis across.
    uncertainty_deg : float
        Of the ends of the range: what one Fourier voxel is at the shells used.
    """

    particles: int
    told: bool
    tilt_axis: Axis
    axis_deg: float | None
    tilt_range_deg: tuple[float, float]
    emptiness: float
    confidence: float
    uncertainty_deg: float

    @property
    def beam_deg(self) -> float:
        """Middle of what is missing, [-90, 90), in the angles of the range; -90 is along Z."""
        return float(_wrapped(0.5 * sum(self.tilt_range_deg) + 90.0))


class PowerSpectrum:
    """Mean power of windowed particles, each counting the same.

    Parameters
    ----------
    box : int
        Edge n in voxels.
    """

    def __init__(self, box: int) -> None:
        self._window = _window(box)
        self._total = float(self._window.sum())
        self._sum = np.zeros((box, box, box // 2 + 1))
        self.count = 0

    def add(self, volume: npt.NDArray[np.float32]) -> None:
        """One particle, ``(n, n, n)`` float32, in any units."""
        weighted = (volume - volume.mean(dtype=np.float64)).astype(np.float32)
        weighted *= self._window
        # A mean that the window leaves would leak from the origin.
        weighted -= self._window * (float(weighted.sum(dtype=np.float64)) / self._total)
        power = np.square(np.abs(spectrum_of(weighted)), dtype=np.float64)
        level = float(power.mean())
        if level > 0:
            self._sum += power / level
            self.count += 1

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """``(n, n, n // 2 + 1)`` float64."""
        return self._sum / max(self.count, 1)

    def __iadd__(self, other: PowerSpectrum) -> PowerSpectrum:
        self._sum += other._sum
        self.count += other.count
        return self


class WedgeGauge:
    """Measures wedges in power spectra of one box size.

    Parameters
    ----------
    box : int
        Edge n in voxels.
    """

    def __init__(self, box: int) -> None:
        self.box = box
        full = scipy.fft.fftfreq(box, 1.0 / box)
        half = np.arange(box // 2 + 1, dtype=np.float64)
        self._grid: _Grid = (full[:, None, None], full[None, :, None], half[None, None, :])
        self._last = min((box - 1) // 2, _LAST_SHELL)
        self._shells = shell_indices(box)
        self._multiplicity = np.broadcast_to(half_multiplicity(box), self._shells.shape)
        inside = (self._shells <= self._last) & (self._shells >= _INNER * self._last)
        where = np.nonzero(inside)
        self._where = where
        self._points: _Grid = (full[where[0]], full[where[1]], half[where[2]])
        self._counts = self._multiplicity[inside].astype(np.float64)
        self._bins = max(2 * round(1.5 * _INNER * self._last), _LEAST_BINS)

    def measure(
        self, power: npt.NDArray[np.float64], particles: int, axis_deg: float | None = None
    ) -> MeasuredWedge:
        """The wedge of a mean power spectrum.

        Parameters
        ----------
        power : (n, n, n // 2 + 1) float64
        particles : int
            Whose mean it is.
        axis_deg : float, optional
            Axis in the plane, where it is known (`MeasuredWedge.axis_deg`).
        """
        values = self._relative(power)
        axis: float | None = axis_deg if axis_deg is not None else self._axis(values)
        name = _name(axis)
        axis = {"y": 0.0, "x": 90.0}.get(name, axis)
        plane = _Plane(axis)
        found = self._profile(values, plane)
        across = _Plane(0.0 if axis is None else (axis + 90.0) % 180.0)
        elsewhere = self._profile(values, across).emptiness
        confidence = 1.0 - found.emptiness / max(elsewhere, 1e-12)
        low, high = found.observed()
        # What window and threshold add to a sharp wedge is known.
        sharp = _sector(plane.angles_deg(self._grid), low, high)
        again = self._profile(self._relative(self._smeared(sharp)), plane).observed()
        low, high = low - float(_wrapped(again[0] - low)), high - float(_wrapped(again[1] - high))
        middle, half = 0.5 * (low + high), float(np.clip(0.5 * (high - low), 0.0, 90.0))
        middle = float(_wrapped(-middle if name == "x" else middle))
        return MeasuredWedge(
            particles=particles,
            told=bool(
                self.box >= _LEAST_BOX and found.emptiness < _EMPTY and confidence > _CONFIDENT
            ),
            tilt_axis=name,
            axis_deg=axis,
            tilt_range_deg=(middle - half, middle + half),
            emptiness=found.emptiness,
            confidence=float(np.clip(confidence, 0.0, 1.0)),
            uncertainty_deg=float(np.rad2deg(1.0 / (1.5 * _INNER * self._last))),
        )

    def of_weight(self, weight: npt.NDArray[np.floating]) -> MeasuredWedge:
        """The wedge of a weight W, ``(n, n, n // 2 + 1)``, seen as that of particles is."""
        return self.measure(self._smeared(weight), 0)

    def _axis(self, values: npt.NDArray[np.float64]) -> float | None:
        """Axis around which angles explain most, in degrees; None for Z."""
        scan = np.arange(0.0, 180.0, _AXIS_STEP_DEG)
        explained = [self._profile(values, _Plane(float(angle))).explained for angle in scan]
        best = int(np.argmax(explained))
        if self._profile(values, _Plane(None)).explained > explained[best]:
            return None
        # The maximum of a parabola through three steps.
        before, here, after = (explained[(best + d) % len(scan)] for d in (-1, 0, 1))
        bend = before - 2.0 * here + after
        shift = 0.0 if bend >= 0.0 else 0.5 * (before - after) / bend
        return float((best + np.clip(shift, -0.5, 0.5)) * _AXIS_STEP_DEG % 180.0)

    def _relative(self, power: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Power of the chosen components over the mean of their shells."""
        shells, multiplicity = self._shells, self._multiplicity
        count = self._last + 1
        total = sum_over_shells(shells, multiplicity * power, count)
        number = sum_over_shells(shells, multiplicity, count)
        mean = total / number
        mean[mean <= 0] = np.inf
        relative: npt.NDArray[np.float64] = power[self._where] / mean[shells[self._where]]
        return relative

    def _smeared(self, power: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Expected power of windowed noise of this power."""
        shape = (self.box,) * 3
        window = np.square(np.abs(scipy.fft.rfftn(_window(self.box))), dtype=np.float64)
        kernel = scipy.fft.irfftn(window, s=shape)
        spread = scipy.fft.rfftn(scipy.fft.irfftn(power.astype(np.float64), s=shape) * kernel)
        return np.maximum(spread.real, 0.0)

    def _profile(self, values: npt.NDArray[np.float64], plane: _Plane) -> _Profile:
        far = plane.distance(self._points) >= _INNER * self._last
        angles = plane.angles_deg(self._points)[far]
        return _Profile.of(angles, values[far], self._counts[far], self._bins)


@dataclass(frozen=True)
class _Plane:
    """Planes through a tilt axis, and angles around it; None is an axis along Z."""

    axis_deg: float | None

    def _across(self, k: _Grid) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """The two coordinates of components kz, ky, kx across the axis."""
        kz, ky, kx = k
        if self.axis_deg is None:
            return kx, ky
        turn = np.deg2rad(self.axis_deg)
        return np.cos(turn) * kx + np.sin(turn) * ky, kz

    def distance(self, k: _Grid) -> npt.NDArray[np.float64]:
        """From the axis, in Fourier voxels."""
        distance: npt.NDArray[np.float64] = np.hypot(*self._across(k))
        return distance

    def angles_deg(self, k: _Grid) -> npt.NDArray[np.float64]:
        """Of the planes through the axis, in [-90, 90)."""
        across, up = self._across(k)
        return _wrapped(np.rad2deg(np.arctan2(up, across)))


@dataclass(frozen=True)
class _Profile:
    """Relative power by angle around an axis.

    Attributes
    ----------
    power : (B,) float64
        Of equal bins from -90 to 90 degrees; both ends are the same plane.
    explained : float
        Share of the variance of the logarithm that lies between bins.
    """

    power: npt.NDArray[np.float64]
    explained: float

    @classmethod
    def of(
        cls,
        angles_deg: npt.NDArray[np.float64],
        values: npt.NDArray[np.float64],
        counts: npt.NDArray[np.float64],
        bins: int,
    ) -> _Profile:
        """Profile of components."""
        which = np.minimum(((angles_deg + 90.0) / 180.0 * bins).astype(np.intp), bins - 1)
        number = np.maximum(np.bincount(which, counts, bins), 1e-12)
        logs = np.log(values + _DIM)
        whole = float(counts @ logs / counts.sum())
        mean = np.bincount(which, counts * logs, bins) / number
        spread = float(counts @ np.square(logs - whole))
        between = float(number @ np.square(mean - whole))
        power = np.bincount(which, counts * values, bins) / number
        return cls(power, between / spread if spread > 0 else 0.0)

    def _sector(self) -> tuple[int, int]:
        """First bin and number of bins of the emptiest sector."""
        width = max(round(_SECTOR_DEG / 180.0 * len(self.power)), 2)
        around = np.concatenate([self.power, self.power[: width - 1]])
        return int(np.argmin(np.convolve(around, np.ones(width), mode="valid"))), width

    @property
    def emptiness(self) -> float:
        """Mean power in the emptiest sector over that outside."""
        first, width = self._sector()
        turned = np.roll(self.power, -first)
        rest = float(turned[width:].mean())
        return float(turned[:width].mean()) / rest if rest > 0 else 1.0

    def observed(self) -> tuple[float, float]:
        """Where power rises at both sides of the empty sector.

        Returns
        -------
        low, high : float
            Degrees; low lies in [-90, 90), and high at most 180 above it.
        """
        first, width = self._sector()
        turned = np.roll(self.power, -first)
        empty, rest = float(turned[:width].mean()), float(turned[width:].mean())
        edge = max(_EDGE, _EDGE_OF_BIN / len(self.power))
        level = empty + max(edge * (rest - empty), _EDGE_OF_EMPTY * empty)
        middle = first + width // 2
        step = 180.0 / len(self.power)
        centre = -90.0 + (middle + 0.5) * step
        after = step * _crossing(np.roll(self.power, -middle), level)
        before = step * _crossing(np.roll(self.power, -middle - 1)[::-1], level)
        low = float(_wrapped(centre + after))
        return low, low + 180.0 - after - before


def _crossing(power: npt.NDArray[np.float64], level: float) -> float:
    """Bins from the first to where a level is crossed, by straight lines."""
    above = np.flatnonzero(power > level)
    if not above.size or above[0] == 0:
        return 0.0
    place = int(above[0])
    below, over = float(power[place - 1]), float(power[place])
    return place - 1 + (level - below) / (over - below)


def _window(box: int) -> npt.NDArray[np.float32]:
    """One inside, falling to zero towards the sphere in the box, ``(n, n, n)``."""
    axis = np.square(np.arange(box) - box // 2)
    radius = np.sqrt(axis[:, None, None] + axis[None, :, None] + axis[None, None, :])
    part = np.clip((radius / (box / 2 - 0.5) - (1.0 - _TAPER)) / _TAPER, 0.0, 1.0)
    window: npt.NDArray[np.float32] = (0.5 + 0.5 * np.cos(np.pi * part)).astype(np.float32)
    return window


def _sector(
    angles_deg: npt.NDArray[np.float64], low: float, high: float
) -> npt.NDArray[np.float64]:
    """1 where an angle lies in a range of less than 180 degrees."""
    return (np.mod(angles_deg - low, 180.0) <= high - low).astype(np.float64)


def _wrapped(angle_deg: npt.NDArray[np.float64] | float) -> npt.NDArray[np.float64]:
    """An angle of a plane in [-90, 90)."""
    wrapped: npt.NDArray[np.float64] = np.mod(np.asarray(angle_deg) + 90.0, 180.0) - 90.0
    return wrapped


def _name(axis_deg: float | None) -> Axis:
    if axis_deg is None:
        return "z"
    if min(axis_deg, 180.0 - axis_deg) <= _ON_AXIS_DEG:
        return "y"
    return "x" if abs(axis_deg - 90.0) <= _ON_AXIS_DEG else "other"
