"""Tilt angles from text: one a line, as IMOD's .tlt and .rawtlt files have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from faml.errors import InputDataError
from faml.io.files import read_text

__all__ = ["read_tilt_angles"]

_WANTED = "one tilt angle a line; give a .tlt or .rawtlt file (--tilt-angles)"
_RADIANS = 3.2
_LARGEST_DEG = 180.0


def read_tilt_angles(path: str | Path) -> tuple[float, ...]:
    """Angles of a tilt series in degrees, in the order of the file.

    Blank lines and what follows ``#`` are skipped. Angles beyond 90 degrees are folded: a plane
    tilted by 100 degrees is that tilted by -80.

    Parameters
    ----------
    path : path
        Text with one angle a line, in any order.

    Returns
    -------
    tuple of T float
        In (-90, 90].

    Raises
    ------
    InputDataError
        The file cannot be read; a line is not one number or not an angle in degrees; fewer than
        two different tilts.
    """
    path = Path(path)
    angles = [
        _angle(path, number, words)
        for number, line in enumerate(read_text(path, _WANTED).splitlines(), 1)
        if (words := line.split("#")[0].split())
    ]
    if len(set(angles)) < 2:
        raise InputDataError(
            f"{path}: expected at least two different tilt angles, one a line, found "
            f"{len(set(angles))}; give the file of the whole tilt series"
        )
    if max(map(abs, angles)) <= _RADIANS:
        raise InputDataError(
            f"{path}: expected tilt angles in degrees, found none beyond "
            f"{max(map(abs, angles)):g}; convert them if they are radians"
        )
    return tuple(angles)


def _angle(path: Path, number: int, words: list[str]) -> float:
    """One line's angle, folded to (-90, 90]."""
    try:
        (angle,) = map(float, words)
    except ValueError:
        raise InputDataError(
            f"{path}: line {number}: expected one tilt angle in degrees, found "
            f"{' '.join(words)[:60]!r}; write one number a line"
        ) from None
    if not np.isfinite(angle) or abs(angle) > _LARGEST_DEG:
        raise InputDataError(
            f"{path}: line {number}: expected a tilt angle from -180 to 180 degrees, found "
            f"{angle:g}; correct or remove it"
        )
    return -(((90.0 - angle) % 180.0) - 90.0) if abs(angle) > 90.0 or angle == -90.0 else angle
