"""Columns of text: numbers out of them, and numbers into them where they changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from faml.conventions import rotation_angle_deg
from faml.errors import InputDataError
from faml.io.star_text import LARGEST_NUMBER

__all__ = [
    "Euler",
    "number_text",
    "numbers_or_nan",
    "numeric",
    "said",
    "whole",
    "with_columns",
    "with_numbers",
    "with_rotations",
]

Euler = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
"""From angles (N, 3) in degrees to matrices (N, 3, 3), or back."""

Array = TypeVar("Array", npt.NDArray[np.float64], npt.NDArray[np.int64])

_SAME_NUMBER = 5e-6
_SAME_ANGLE_DEG = 1e-4
_LARGEST_WHOLE = 2.0**53
"""Beyond it neighbouring whole numbers are one and the same float64."""


def numeric(
    frame: pd.DataFrame,
    columns: Sequence[str],
    place: Callable[[int, str], str],
    largest: float = LARGEST_NUMBER,
) -> npt.NDArray[np.float64]:
    """Columns as numbers, (N, len(columns)) float64.

    Parameters
    ----------
    frame : DataFrame
        Text.
    columns : sequence of str
    place : callable
        From row (from 0) and column to words that name both, for the message.
    largest : float
        Beyond it, and below its negative, there are no numbers.

    Raises
    ------
    InputDataError
        A value is not a finite number.
    """
    out = np.empty((len(frame), len(columns)))
    for index, column in enumerate(columns):
        values = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=np.float64)
        bad = np.flatnonzero(~(np.abs(values) <= largest))
        if bad.size:
            row = int(bad[0])
            raise InputDataError(
                f"{place(row, column)}: expected a number, found {frame[column].iloc[row]!r}"
            )
        out[:, index] = values
    return out


def whole(
    frame: pd.DataFrame, column: str, place: Callable[[int, str], str]
) -> npt.NDArray[np.int64]:
    """A column of whole numbers, (N,) int64.

    Raises
    ------
    InputDataError
        A value is not a whole number.
    """
    values = numeric(frame, [column], place, np.finfo(np.float64).max)[:, 0]
    bad = np.flatnonzero((values != np.round(values)) | (np.abs(values) > _LARGEST_WHOLE))
    if bad.size:
        row = int(bad[0])
        raise InputDataError(
            f"{place(row, column)}: expected a whole number, found {frame[column].iloc[row]!r}"
        )
    return values.astype(np.int64)


def said(values: Array) -> Array | None:
    """The values, or None where all are zero: tables have no other way to say nothing."""
    return values if values.any() else None


def number_text(value: float) -> str:
    """Six decimals at most, without zeros at the end; never -0."""
    text = f"{round(float(value), 6) + 0.0:.6f}".rstrip("0").rstrip(".")
    return text or "0"


def with_columns(
    frame: pd.DataFrame,
    columns: Sequence[str],
    texts: Sequence[Sequence[str]],
    same: npt.NDArray[np.bool_] | None = None,
) -> pd.DataFrame:
    """The frame with columns replaced or added at the end; rows marked ``same`` keep their text."""
    changed = frame.copy()
    for column, text in zip(columns, texts, strict=True):
        if column in frame and same is not None:
            old = frame[column].to_numpy(dtype=object)
            changed[column] = np.where(same, old, np.asarray(text, dtype=object))
        else:
            changed[column] = pd.Series(list(text), index=frame.index, dtype=object)
    return changed


def with_numbers(
    frame: pd.DataFrame,
    columns: Sequence[str],
    values: npt.NDArray[np.float64] | npt.NDArray[np.int64],
) -> pd.DataFrame:
    """Numbers (N,) or (N, len(columns)) put into columns; text that says the same stays."""
    table = np.asarray(values, dtype=np.float64).reshape(len(frame), len(columns))
    for index, column in enumerate(columns):
        new = table[:, index]
        old = numbers_or_nan(frame, column)
        same = np.abs(old - new) <= _SAME_NUMBER * np.maximum(1.0, np.abs(new))
        frame = with_columns(frame, [column], [[number_text(value) for value in new]], same)
    return frame


def with_rotations(
    frame: pd.DataFrame,
    columns: Sequence[str],
    rotations: npt.NDArray[np.float64],
    to_matrices: Euler,
    to_angles_deg: Euler,
) -> pd.DataFrame:
    """Rotations (N, 3, 3) put into three columns of angles.

    Rows whose angles are the same rotation stay as they are, also where other angles would say
    the same.
    """
    angles = to_angles_deg(rotations)
    old = np.stack([numbers_or_nan(frame, column) for column in columns], axis=1)
    known = np.isfinite(old).all(axis=1)
    same = np.zeros(len(frame), dtype=np.bool_)
    if known.any():
        apart = rotation_angle_deg(to_matrices(old[known]), rotations[known])
        same[known] = apart <= _SAME_ANGLE_DEG
    texts = [[number_text(value) for value in angles[:, index]] for index in range(3)]
    return with_columns(frame, columns, texts, same)


def numbers_or_nan(frame: pd.DataFrame, column: str) -> npt.NDArray[np.float64]:
    """A column as numbers, NaN where it is none or not there, (N,) float64."""
    if column not in frame:
        return np.full(len(frame), np.nan)
    return pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=np.float64)
