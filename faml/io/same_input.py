"""Whether particles are still those that a run was started with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from faml.errors import CheckpointError
from faml.io.grey_values import GreyValues

__all__ = ["GREY_FIELDS", "check_same_grey_values", "fingerprint"]

GREY_FIELDS = (
    "background_mean",
    "background_std",
    "inside_mean",
    "inside_std",
    "minimum",
    "maximum",
)
_ROUNDING = 1e-3
"""In deviations: boxes made from tilt images differ in their last digits between machines."""


def fingerprint(grey: GreyValues) -> npt.NDArray[np.float64]:
    """What volumes are recognised by, (6, N) float64: `GREY_FIELDS` of each."""
    return np.stack([getattr(grey, name) for name in GREY_FIELDS])


def check_same_grey_values(
    folder: Path,
    names: tuple[str, ...],
    stored: npt.NDArray[np.float64] | None,
    grey: GreyValues,
) -> None:
    """Raise CheckpointError unless volumes are as they were when the run was started.

    Parameters
    ----------
    folder : Path
        Of the run.
    names : tuple of N str
    stored : (6, N) float64 or None
        `fingerprint` of then; None of runs that kept none.
    grey : GreyValues
        As it is now.
    """
    if stored is None:
        return
    found = fingerprint(grey)
    deviation = np.maximum(stored[1], stored[3])
    other = (np.abs(found - stored) > _ROUNDING * deviation).any(axis=0)
    if not other.any():
        return
    first = int(np.argmax(other))
    raise CheckpointError(
        f"{folder}: expected the {len(names)} particles that the run was started with, found other "
        f"grey values in {int(other.sum())} of them, first in {names[first]} ({stored[4, first]:g} "
        f"to {stored[5, first]:g} then, {found[4, first]:g} to {found[5, first]:g} now); restore "
        "the input or start a new run"
    )
