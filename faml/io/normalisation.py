"""How grey values of particles are read: by one offset and factor for all, or for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from faml.errors import InputDataError
from faml.io.grey_values import MASKED, GreyValues

__all__ = ["Normalisation", "decide_normalisation"]

_DISAGREEMENT = 0.2
"""Spread of the backgrounds, in background deviations, beyond which particles are normalised
one by one."""
_NOISE_FREE = 0.4
"""Background over inner standard deviation below which the background is not noise."""
_OUTLYING = 3.0
"""Factor between deviations, or distance of means in deviations, beyond which a particle cannot be
read as the others are: it would outweigh them, or be outweighed."""
_NOTHING, _TOO_MUCH = 1e-30, 1e30
"""Spans of grey values that single precision cannot hold, once scaled, with their squares."""
_RAW_NOTHING, _RAW_TOO_MUCH = 1e-10, 1e10
"""The same where values are not scaled."""


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


def decide_normalisation(
    grey: GreyValues,
    mode: Literal["auto", "always", "never"],
    power: npt.NDArray[np.float64],
    *,
    invert: bool,
    names: Sequence[str],
) -> tuple[Normalisation, tuple[str, ...]]:
    """Offset and scale of every particle, and warnings.

    `never` reads values as they are, less one constant for all. `always` gives every particle
    background mean 0 and variance 1. `auto` does so where the backgrounds disagree by more than
    20 %, and else applies one offset and one factor to all, which keeps relative grey values; to
    all but a few whose background is another altogether, which get their own.

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
    names : sequence of N str

    Raises
    ------
    InputDataError
        `always` with a particle whose background is constant; values too small or too large for
        single precision.
    """
    count = len(names)
    sign = -1.0 if invert else 1.0
    level = grey.background_std / np.sqrt(power)
    masked = grey.background_std <= MASKED * grey.inside_std
    _check_range(grey, names, scaled=mode != "never")
    if mode == "never":
        # The mean of a box is no datum, but a large one drowns the rest in single precision.
        offset = np.full(count, np.median(grey.background_mean))
        return _normalisation("none", "switched off", offset, np.full(count, sign)), ()
    if mode == "always":
        if masked.any():
            raise InputDataError(
                f"particle {names[int(np.argmax(masked))]}: its background is constant, so its "
                "variance cannot be brought to 1; use unmasked particles, a smaller "
                "--particle-diameter, or --normalise never"
            )
        return _normalisation("each", "asked for", grey.background_mean, sign / level), ()
    return _automatic(grey, level, power, masked, sign, names)


def _automatic(
    grey: GreyValues,
    level: npt.NDArray[np.float64],
    power: npt.NDArray[np.float64],
    masked: npt.NDArray[np.bool_],
    sign: float,
    names: Sequence[str],
) -> tuple[Normalisation, tuple[str, ...]]:
    """What `auto` decides, see `decide_normalisation`."""
    count = len(names)
    if masked.any():
        level = grey.inside_std / np.sqrt(power)
        reason = "backgrounds are constant, so the inner standard deviation is used"
        common, warnings = _common(grey, level, sign, reason, names)
        return common, (
            *warnings,
            f"{int(masked.sum())} of {count} particles have a constant background (masked?), first "
            f"{names[int(np.argmax(masked))]}; noise cannot be estimated from it: unmasked "
            "particles are better",
        )
    spread_std, spread_mean = _spread(level) / np.median(level), _spread(grey.background_mean)
    spread_mean /= float(np.median(level))
    agree = f"backgrounds agree (deviations to {spread_std:.0%}, means to {spread_mean:.2f} sd)"
    if np.median(grey.background_std) < _NOISE_FREE * np.median(grey.inside_std):
        # What is left in the background depends on where the particle lies.
        inside = grey.inside_std / np.sqrt(power)
        reason = "background is nearly noise-free"
        return _common(grey, level, sign, reason, names, compared=inside)
    if max(spread_std, spread_mean) <= _DISAGREEMENT:
        return _common(grey, level, sign, agree, names)
    warning = (
        f"the backgrounds of the particles disagree (standard deviations by {spread_std:.0%}, "
        f"means by {spread_mean:.2f} standard deviations), so each particle is normalised by "
        "itself; --normalise never keeps the grey values as they are"
    )
    reason = f"backgrounds disagree (deviations by {spread_std:.0%}, means by {spread_mean:.2f} sd)"
    return _normalisation("each", reason, grey.background_mean, sign / level), (warning,)


def _check_range(grey: GreyValues, names: Sequence[str], *, scaled: bool) -> None:
    """Raise InputDataError for values whose squares single precision cannot hold."""
    least, most = (_NOTHING, _TOO_MUCH) if scaled else (_RAW_NOTHING, _RAW_TOO_MUCH)
    extent = grey.maximum - grey.minimum
    wrong = ~((extent > least) & (extent < most))
    if not wrong.any():
        return
    first = int(np.argmax(wrong))
    remedy = "remove it or rescale the volumes" if scaled else "leave out --normalise never"
    raise InputDataError(
        f"particle {names[first]}: expected grey values that span between {least:g} and {most:g}, "
        f"found {grey.minimum[first]:.3g} to {grey.maximum[first]:.3g}; {remedy}"
    )


def _spread(values: npt.NDArray[np.float64]) -> float:
    """Standard deviation by the 10th and 90th percentile, which a few outliers do not move."""
    low, high = np.percentile(values, [10.0, 90.0])
    return float(high - low) / 2.563


def _common(
    grey: GreyValues,
    level: npt.NDArray[np.float64],
    sign: float,
    reason: str,
    names: Sequence[str],
    *,
    compared: npt.NDArray[np.float64] | None = None,
) -> tuple[Normalisation, tuple[str, ...]]:
    """One offset and factor for all, but for the few that are unlike all others.

    ``compared`` are the deviations that tell these, if not those that give the factor.
    """
    count = len(names)
    spread = level if compared is None else compared
    usual, middle = float(np.median(spread)), float(np.median(grey.background_mean))
    offset = np.full(count, middle)
    # Piecewise constant volumes have no deviation to divide by.
    scale = np.full(count, sign / (float(np.median(level)) or 1.0))
    odd = (spread > _OUTLYING * usual) | (spread < usual / _OUTLYING)
    odd |= np.abs(grey.background_mean - middle) > _OUTLYING * np.maximum(usual, spread)
    odd &= (spread > 0.0) & (usual > 0.0)
    if not odd.any():
        return _normalisation("common", reason, offset, scale), ()
    ratio = np.divide(spread, usual, where=odd, out=np.ones(count))
    offset[odd] = grey.background_mean[odd]
    scale /= ratio
    worst = int(np.argmax(np.abs(np.log(ratio)) + 1e-3 * odd))
    few = f"{int(odd.sum())} of {count} particles"
    warning = (
        f"{few} have grey values unlike all others', the worst is {names[worst]} (standard "
        f"deviation {spread[worst]:.3g} where others have {usual:.3g}, mean "
        f"{grey.background_mean[worst]:.3g} where others have {middle:.3g}), and are normalised by "
        "themselves; look at them, and remove them if they are no particles"
    )
    return _normalisation("common", f"{reason}, but for {few}", offset, scale), (warning,)


def _normalisation(
    applied: Literal["each", "common", "none"],
    reason: str,
    offset: npt.NDArray[np.float64],
    scale: npt.NDArray[np.float64],
) -> Normalisation:
    return Normalisation(applied, reason, offset.astype(np.float32), scale.astype(np.float32))
