"""Grey values of particles: background statistics, normalisation and contrast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr

from faml.errors import ConfigurationError, InputDataError

__all__ = [
    "DEFAULT_RADIUS",
    "Contrast",
    "GreyValues",
    "Normalisation",
    "contrast_warning",
    "decide_normalisation",
    "judge_contrast",
    "measure_grey_values",
]

DEFAULT_RADIUS = 0.4
"""Particle radius over the box edge where no diameter is given."""

_DISAGREEMENT = 0.2
"""Spread of the backgrounds, in background deviations, beyond which particles are normalised
one by one."""
_NOISE_FREE = 0.4
"""Background over inner standard deviation below which the background is not noise."""
_MASKED = 1e-6
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


@dataclass(frozen=True)
class Normalisation:
    """How grey values are read: ``(value - offset) * scale``.

    Attributes
    ----------
    applied : str
        `each` (particle by particle), `common` (one offset and factor) or `none`.
    reason : str
        For people.
    offset, scale : (N,) float32
        The scale carries the sign of `--invert`.
    """

    applied: Literal["each", "common", "none"]
    reason: str
    offset: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32]


def measure_grey_values(
    read: Callable[[int], npt.NDArray[np.float32]],
    names: tuple[str, ...],
    box: int,
    radius_voxels: float,
) -> GreyValues:
    """One pass over the particles, one volume in memory at a time.

    Parameters
    ----------
    read : callable
        Particle index to ``(n, n, n)`` float32.
    names : tuple of N str
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
    inner, outer = _regions(box, radius_voxels)
    centre, rim = _centre_and_rim(box, radius_voxels)
    table = np.empty((8, len(names)))
    for index, name in enumerate(names):
        values = read(index).reshape(-1)
        low, high = float(values.min()), float(values.max())
        if low == high:
            raise InputDataError(
                f"particle {name}: the volume is constant (every voxel is {low:g}), so it carries "
                "no data; remove it or extract it again"
            )
        background, core = values[outer].astype(np.float64), values[inner].astype(np.float64)
        table[:, index] = (
            background.mean(),
            background.std(),
            core.mean(),
            core.std(),
            low,
            high,
            values[centre].mean(dtype=np.float64),
            values[rim].mean(dtype=np.float64),
        )
    return GreyValues(radius_voxels, *table)


def decide_normalisation(
    grey: GreyValues,
    mode: Literal["auto", "always", "never"],
    power: npt.NDArray[np.float64],
    *,
    invert: bool,
    names: tuple[str, ...],
) -> tuple[Normalisation, tuple[str, ...]]:
    """Offset and scale of every particle, and warnings.

    `never` reads values as they are. `always` gives every particle background mean 0 and
    variance 1. `auto` does so where the backgrounds disagree by more than 20 %, and else applies
    one offset and one factor to all, which keeps relative grey values.

    CTF-premultiplied data have a noise variance of sigma^2 times the mean of W by nature, so there
    the background variance is brought to ``power`` instead of 1: otherwise y and W of one particle
    would no longer belong together.

    Parameters
    ----------
    grey : GreyValues
    mode : {"auto", "always", "never"}
    power : (N,) float64
        Expected background variance relative to the typical particle; 1 unless premultiplied.
    invert : bool
    names : tuple of N str

    Raises
    ------
    InputDataError
        `always` with a particle whose background is constant.
    """
    count = len(names)
    sign = -1.0 if invert else 1.0
    level = grey.background_std / np.sqrt(power)
    masked = grey.background_std <= _MASKED * grey.inside_std
    if mode == "never":
        return _normalisation("none", "switched off", np.zeros(count), np.full(count, sign)), ()
    if mode == "always":
        if masked.any():
            raise InputDataError(
                f"particle {names[int(np.argmax(masked))]}: its background is constant, so its "
                "variance cannot be brought to 1; use unmasked particles, a smaller "
                "--particle-diameter, or --normalise never"
            )
        return _normalisation("each", "asked for", grey.background_mean, sign / level), ()
    return _automatic(grey, level, power, masked, sign, names)


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
    usable = deviation > _MASKED * grey.inside_std[chosen]
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


def _automatic(
    grey: GreyValues,
    level: npt.NDArray[np.float64],
    power: npt.NDArray[np.float64],
    masked: npt.NDArray[np.bool_],
    sign: float,
    names: tuple[str, ...],
) -> tuple[Normalisation, tuple[str, ...]]:
    """What `auto` decides, see `decide_normalisation`."""
    count = len(names)
    if masked.any():
        return _common(
            grey.background_mean,
            grey.inside_std / np.sqrt(power),
            sign,
            "backgrounds are constant, so the inner standard deviation is used",
        ), (
            f"{int(masked.sum())} of {count} particles have a constant background (masked?), first "
            f"{names[int(np.argmax(masked))]}; noise cannot be estimated from it: unmasked "
            "particles are better",
        )
    spread_std, spread_mean = _spread(level) / np.median(level), _spread(grey.background_mean)
    spread_mean /= float(np.median(level))
    agree = f"backgrounds agree (deviations to {spread_std:.0%}, means to {spread_mean:.2f} sd)"
    if np.median(grey.background_std) < _NOISE_FREE * np.median(grey.inside_std):
        return _common(grey.background_mean, level, sign, "background is nearly noise-free"), ()
    if max(spread_std, spread_mean) <= _DISAGREEMENT:
        return _common(grey.background_mean, level, sign, agree), ()
    warning = (
        f"the backgrounds of the particles disagree (standard deviations by {spread_std:.0%}, "
        f"means by {spread_mean:.2f} standard deviations), so each particle is normalised by "
        "itself; --normalise never keeps the grey values as they are"
    )
    reason = f"backgrounds disagree (deviations by {spread_std:.0%}, means by {spread_mean:.2f} sd)"
    return _normalisation("each", reason, grey.background_mean, sign / level), (warning,)


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


def _spread(values: npt.NDArray[np.float64]) -> float:
    """Standard deviation by the 10th and 90th percentile, which a few outliers do not move."""
    low, high = np.percentile(values, [10.0, 90.0])
    return float(high - low) / 2.563


def _common(
    mean: npt.NDArray[np.float64], level: npt.NDArray[np.float64], sign: float, reason: str
) -> Normalisation:
    count = mean.size
    offset = np.full(count, np.median(mean))
    # Piecewise constant volumes have no deviation to divide by.
    factor = float(np.median(level)) or 1.0
    return _normalisation("common", reason, offset, np.full(count, sign / factor))


def _normalisation(
    applied: Literal["each", "common", "none"],
    reason: str,
    offset: npt.NDArray[np.float64],
    scale: npt.NDArray[np.float64],
) -> Normalisation:
    return Normalisation(applied, reason, offset.astype(np.float32), scale.astype(np.float32))
