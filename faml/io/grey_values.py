"""Grey values of particles: statistics of background and inside, contrast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr

from faml.errors import ConfigurationError, InputDataError

__all__ = [
    "DEFAULT_RADIUS",
    "MASKED",
    "Contrast",
    "GreyGauge",
    "GreyValues",
    "contrast_warning",
    "extreme_warning",
    "judge_contrast",
    "measure_grey_values",
]

DEFAULT_RADIUS = 0.4
"""Particle radius over the box edge where no diameter is given."""

_EXTREME = 100.0
"""Deviations of the background beyond which a voxel is no density, unless others have it too."""
_UNLIKE = 3.0
"""Times what the extreme voxels of others reach."""
MASKED = 1e-6
"""Background over overall standard deviation below which the particle was masked."""
_CONTRAST_CHANCE = 1e-4
"""Probability of a difference by chance below which it is believed."""
_CONTRAST_LEAST = 0.01
_CONTRAST_FEWEST = 3
_CENTRE = 0.5
_RIM = 1.25
"""Centre and rim, in particle radii: to the one, and from 1 to the other."""


@dataclass(frozen=True)
class GreyValues:
    """Statistics of N particles as they lie in the files.

    Attributes
    ----------
    radius_voxels : float
        Inside is up to this distance from the centre, background beyond it.
    background_mean, background_std : (N,) float64
    inside_mean, inside_std : (N,) float64
    minimum, maximum : (N,) float64
    centre_mean, rim_mean : (N,) float64
        Within half the radius, and in the shell around the particle, from 1 to 1.25 radii.
    """

    radius_voxels: float
    background_mean: npt.NDArray[np.float64]
    background_std: npt.NDArray[np.float64]
    inside_mean: npt.NDArray[np.float64]
    inside_std: npt.NDArray[np.float64]
    minimum: npt.NDArray[np.float64]
    maximum: npt.NDArray[np.float64]
    centre_mean: npt.NDArray[np.float64]
    rim_mean: npt.NDArray[np.float64]

    def take(self, rows: npt.NDArray[np.int64]) -> GreyValues:
        """Those of the particles at ``rows``."""
        columns = (getattr(self, each.name)[rows] for each in fields(self)[1:])
        return GreyValues(self.radius_voxels, *columns)


@dataclass(frozen=True)
class Contrast:
    """Whether density is bright or dark, `--invert` applied.

    Attributes
    ----------
    verdict : {"white", "black", "cannot be told"}
        White is right.
    confidence : float
        0 to 1: that such a difference is no chance, from its spread over the particles.
    centre : float
        Median of centre minus rim, in deviations of the background.
    inside : float
        The same of inside minus background.
    """

    verdict: Literal["white", "black", "cannot be told"]
    confidence: float
    centre: float
    inside: float


def measure_grey_values(
    read: Callable[[int], npt.NDArray[np.float32]],
    names: Sequence[str],
    box: int,
    radius_voxels: float,
) -> GreyValues:
    """One pass over the particles, one volume in memory at a time.

    Parameters
    ----------
    read : callable
        Particle index to ``(n, n, n)`` float32.
    names : sequence of N str
        For errors.
    box : int
    radius_voxels : float

    Raises
    ------
    InputDataError
        A volume is constant (or cannot be read, from `read`).
    ConfigurationError
        The particle diameter leaves no background.
    """
    gauge = GreyGauge(box, radius_voxels)
    table = np.empty((8, len(names)))
    for index, name in enumerate(names):
        table[:, index] = gauge.measure(read(index), name)
    return GreyValues(radius_voxels, *table)


class GreyGauge:
    """Measures volumes of one box size for one particle radius.

    Parameters
    ----------
    box : int
    radius_voxels : float

    Raises
    ------
    ConfigurationError
        The particle radius leaves no background.
    """

    def __init__(self, box: int, radius_voxels: float) -> None:
        self._inner, self._outer = _regions(box, radius_voxels)
        self._centre, self._rim = _centre_and_rim(box, radius_voxels)

    def measure(self, volume: npt.NDArray[np.float32], name: str) -> tuple[float, ...]:
        """The statistics of `GreyValues`, in its order; raises InputDataError if all are one."""
        values = volume.reshape(-1)
        low, high = float(values.min()), float(values.max())
        if low == high:
            raise InputDataError(
                f"particle {name}: the volume is constant (every voxel is {low:g}), so it carries "
                "no data; remove it or extract it again"
            )
        background = values[self._outer].astype(np.float64)
        core = values[self._inner].astype(np.float64)
        return (
            background.mean(),
            background.std(),
            core.mean(),
            core.std(),
            low,
            high,
            values[self._centre].mean(dtype=np.float64),
            values[self._rim].mean(dtype=np.float64),
        )


def extreme_warning(grey: GreyValues, names: Sequence[str]) -> str | None:
    """A warning if single voxels of some particles outdo all density, else None."""
    level = float(np.median(np.maximum(grey.background_std, grey.inside_std)))
    reach = np.maximum(grey.maximum - grey.background_mean, grey.background_mean - grey.minimum) / (
        level or 1.0
    )
    odd = reach > max(_EXTREME, _UNLIKE * float(np.median(reach)))
    if not odd.any():
        return None
    worst = int(np.argmax(reach))
    return (
        f"{int(odd.sum())} of {len(names)} particles have extreme voxels, the worst is "
        f"{names[worst]} with one {reach[worst]:.3g} standard deviations from its background; what "
        "such voxels add to every Fourier component outweighs the particle: remove it, or X-ray "
        "peaks before the reconstruction"
    )


def contrast_warning(grey: GreyValues, *, invert: bool) -> str | None:
    """A warning if the particles are darker than what surrounds them, else None."""
    found = judge_contrast(grey, invert=invert)
    if found.verdict != "black":
        return None
    remedy = "leave --invert out" if invert else "add --invert"
    return (
        f"particles are darker than what surrounds them (by {-found.centre:.2f} background "
        f"standard deviations at their centre, confidence {found.confidence:.4f}); protein must "
        f"be positive: {remedy}"
    )


def judge_contrast(grey: GreyValues, *, invert: bool, chosen: Any = slice(None)) -> Contrast:
    """Bright or dark density, as far as the particles show it.

    Two differences are tested over the particles (Student's t, extreme values clipped): centre
    against rim, which sees most, and inside against background. One must be beyond chance and the
    other must not say the opposite, as it does for hollow particles.

    Parameters
    ----------
    grey : GreyValues
    invert : bool
    chosen : index, optional
        Of the particles.
    """
    sign = -1.0 if invert else 1.0
    deviation = grey.background_std[chosen]
    usable = deviation > MASKED * grey.inside_std[chosen]
    differences = [
        sign * (inner - outer)[chosen][usable] / deviation[usable]
        for inner, outer in (
            (grey.centre_mean, grey.rim_mean),
            (grey.inside_mean, grey.background_mean),
        )
    ]
    centre, inside = (float(np.median(each)) if each.size else 0.0 for each in differences)
    signs, chances = zip(*map(_significance, differences), strict=True)
    surest = int(np.argmin(chances))
    told = chances[surest] < _CONTRAST_CHANCE and not (
        chances[1 - surest] < _CONTRAST_CHANCE and signs[0] != signs[1]
    )
    if not told:
        return Contrast("cannot be told", float(1.0 - chances[surest]), centre, inside)
    verdict: Literal["white", "black"] = "white" if signs[surest] > 0 else "black"
    return Contrast(verdict, float(1.0 - chances[surest]), centre, inside)


def _significance(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Sign of the mean of values, and how probable one as large is by chance."""
    if values.size < _CONTRAST_FEWEST:
        return 0.0, 1.0
    clipped = np.clip(values, *np.percentile(values, [5.0, 95.0]))
    mean, spread = float(clipped.mean()), float(clipped.std(ddof=1))
    if abs(mean) < _CONTRAST_LEAST:
        return float(np.sign(mean)), 1.0
    if spread == 0.0:
        return float(np.sign(mean)), 0.0
    t = abs(mean) / spread * np.sqrt(clipped.size)
    return float(np.sign(mean)), float(2.0 * stdtr(clipped.size - 1, -t))


def _regions(box: int, radius_voxels: float) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Flat indices of the voxels inside and outside the particle radius."""
    axis = (np.arange(box) - box // 2) ** 2
    radius2 = axis[:, None, None] + axis[None, :, None] + axis[None, None, :]
    inside = (radius2 <= radius_voxels**2).reshape(-1)
    if inside.mean() > 0.95 or not inside.any():
        raise ConfigurationError(
            f"the particle radius of {radius_voxels:g} voxels leaves no background in a box of "
            f"{box} voxels; give a smaller --particle-diameter or larger boxes"
        )
    return np.flatnonzero(inside), np.flatnonzero(~inside)


def _centre_and_rim(
    box: int, radius_voxels: float
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Flat indices of the voxels near the centre and in the shell around the particle."""
    axis = (np.arange(box) - box // 2) ** 2
    radius2 = (axis[:, None, None] + axis[None, :, None] + axis[None, None, :]).reshape(-1)
    beyond = radius2 > radius_voxels**2
    rim = beyond & (radius2 <= (_RIM * radius_voxels) ** 2)
    return (
        np.flatnonzero(radius2 <= (_CENTRE * radius_voxels) ** 2),
        np.flatnonzero(rim if rim.any() else beyond),
    )
