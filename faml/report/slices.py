"""Central slices of class averages as a PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from faml.io.atomic import atomic_path

__all__ = ["round_length", "write_class_slices"]

_PLANES = (("xy", 0), ("xz", 1), ("yz", 2))
_PANEL_INCHES = 2.3
_GAP_INCHES = 0.05
_HEAD_INCHES = 0.62
_BACKGROUND, _INK, _ACCENT = "#14161a", "#e8e8e8", "#ffd166"


def write_class_slices(
    path: str | Path,
    volumes: npt.NDArray[np.float32],
    voxel_size_angstrom: float,
    *,
    title: str = "",
    labels: list[str] | None = None,
) -> None:
    """Draw the three central planes of every volume, with a scale bar.

    Parameters
    ----------
    path : path
        PNG, written atomically.
    volumes : (K, n, n, n) float32
        Grey values are stretched per volume, bright is dense; a constant volume says so.
    voxel_size_angstrom : float
    title : str
        Such as iteration and resolution.
    labels : list of K str, optional
        Default ``class 1`` ...

    Raises
    ------
    ValueError
        If there is no volume, or not one label for each.
    OutputError
        If the file cannot be written.

    Notes
    -----
    The object-oriented interface of matplotlib is used, which needs no screen and no global state.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if volumes.ndim != 4 or len(volumes) == 0:
        raise ValueError(f"expected volumes (K, n, n, n) with K >= 1, found shape {volumes.shape}")
    names = labels or [f"class {k + 1}" for k in range(len(volumes))]
    if len(names) != len(volumes):
        raise ValueError(f"expected {len(volumes)} labels, one per volume, found {len(names)}")
    width = 3 * _PANEL_INCHES + 4 * _GAP_INCHES
    height = _HEAD_INCHES + len(volumes) * (_PANEL_INCHES + _GAP_INCHES)
    figure = Figure(figsize=(width, height), dpi=110, facecolor=_BACKGROUND)
    FigureCanvasAgg(figure)
    figure.text(
        2 * _GAP_INCHES / width,
        1.0 - 0.19 / height,
        title,
        color=_INK,
        fontsize=11,
        va="center",
        parse_math=False,
    )
    for row, (volume, name) in enumerate(zip(volumes, names, strict=True)):
        _draw_row(figure, row, volume, name, voxel_size_angstrom)
    with atomic_path(Path(path)) as temporary:
        figure.savefig(temporary, format="png")


def _draw_row(
    figure: Any, row: int, volume: npt.NDArray[np.float32], name: str, voxel_size_angstrom: float
) -> None:
    """The three planes of one volume, placed by hand: layout engines cost more than drawing."""
    width, height = figure.get_size_inches()
    low, high = (float(v) for v in np.percentile(volume, [1.0, 99.8]))
    if not high > low:  # less than 1 % of the voxels differ
        low, high = float(volume.min()), float(volume.max())
    empty = not high > low
    n = volume.shape[-1]
    for column, (plane, axis) in enumerate(_PLANES):
        left = _GAP_INCHES + column * (_PANEL_INCHES + _GAP_INCHES)
        bottom = height - _HEAD_INCHES - (row + 1) * (_PANEL_INCHES + _GAP_INCHES) + _GAP_INCHES
        axes = figure.add_axes(
            (left / width, bottom / height, _PANEL_INCHES / width, _PANEL_INCHES / height)
        )
        axes.imshow(
            np.take(volume, n // 2, axis=axis),
            cmap="gray",
            vmin=low,
            vmax=high if not empty else low + 1.0,
            origin="lower",
            interpolation="bicubic",
        )
        axes.set_axis_off()
        if row == 0:
            axes.set_title(plane, fontsize=9, color=_INK, pad=4, family="monospace")
        if empty:
            _write(axes, 0.5, 0.5, "constant", ha="center", va="center", color=_INK)
        if column == 0:
            _write(axes, 0.04, 0.96, name, ha="left", va="top", color=_ACCENT)
        if column == len(_PLANES) - 1:
            _draw_scale_bar(axes, n, voxel_size_angstrom)


def _draw_scale_bar(axes: Any, n: int, voxel_size_angstrom: float) -> None:
    bar = round_length(0.3 * n * voxel_size_angstrom)
    length = bar / voxel_size_angstrom / n
    axes.plot(
        [0.94 - length, 0.94],
        [0.06, 0.06],
        color=_ACCENT,
        lw=2.5,
        solid_capstyle="butt",
        transform=axes.transAxes,
    )
    text = f"{bar / 10:g} nm" if bar >= 1000 else f"{bar:g} Å"
    _write(axes, 0.94 - 0.5 * length, 0.085, text, ha="center", va="bottom", color=_ACCENT)


def _write(axes: Any, x: float, y: float, text: str, *, ha: str, va: str, color: str) -> None:
    """Text that stays legible on any grey, at a fraction of the panel."""
    from matplotlib.patheffects import withStroke

    axes.text(
        x,
        y,
        text,
        ha=ha,
        va=va,
        color=color,
        fontsize=9,
        transform=axes.transAxes,
        parse_math=False,
        path_effects=[withStroke(linewidth=2.0, foreground=_BACKGROUND)],
    )


def round_length(about: float) -> float:
    """A round number of Angstrom not above ``about``."""
    power = 10.0 ** np.floor(np.log10(about))
    return float(max(f * power for f in (1.0, 2.0, 5.0) if f * power <= about))
