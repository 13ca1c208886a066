"""Central slices of class averages as a PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from faml.io.atomic import atomic_path

__all__ = ["write_class_slices"]

_PLANES = (("XY", 0), ("XZ", 1), ("YZ", 2))


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
    voxel_size_angstrom : float
    title : str
    labels : list of K str, optional
        Default ``class 1`` ...

    Notes
    -----
    The object-oriented interface of matplotlib is used, which needs no screen and no global state.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count, n = volumes.shape[0], volumes.shape[-1]
    figure = Figure(figsize=(7.2, 2.5 * count + 0.5), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(count, 3, squeeze=False)
    bar = _round_length(0.3 * n * voxel_size_angstrom)
    for row, volume in enumerate(volumes):
        low, high = np.percentile(volume, [1.0, 99.8])
        if not high > low:
            low, high = low - 1.0, high + 1.0
        for column, (plane, axis) in enumerate(_PLANES):
            axes_here = axes[row][column]
            image = np.take(volume, n // 2, axis=axis)
            axes_here.imshow(
                image, cmap="gray", vmin=low, vmax=high, origin="lower", interpolation="bicubic"
            )
            axes_here.set_axis_off()
            if row == 0:
                axes_here.set_title(plane, fontsize=9, color="0.35")
        name = labels[row] if labels else f"class {row + 1}"
        axes[row][0].text(
            0.03,
            0.97,
            name,
            color="#ffd75f",
            fontsize=9,
            va="top",
            transform=axes[row][0].transAxes,
        )
        length = bar / voxel_size_angstrom
        axes[row][2].plot([0.94 * n - length, 0.94 * n], [0.06 * n] * 2, color="#ffd75f", lw=2.5)
        axes[row][2].text(
            0.94 * n - length / 2,
            0.09 * n,
            f"{bar:g} Å",
            color="#ffd75f",
            fontsize=8,
            ha="center",
            va="bottom",
        )
    figure.suptitle(title, fontsize=10)
    figure.tight_layout(pad=0.4)
    with atomic_path(Path(path)) as temporary:
        figure.savefig(temporary, format="png")


def _round_length(about: float) -> float:
    """A round number of Angstrom not above ``about``."""
    power = 10.0 ** np.floor(np.log10(about))
    return float(max(f * power for f in (1.0, 2.0, 5.0) if f * power <= about))
