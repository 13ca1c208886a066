"""Orientations of a class and what they observe, as a PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from faml.io.atomic import atomic_path
from faml.metrics.orientations import Coverage

__all__ = ["write_orientation_plot"]

_COLUMNS, _ROWS = 36, 18


def write_orientation_plot(
    path: Path, views: list[npt.NDArray[np.float64]], coverages: list[Coverage | None]
) -> None:
    """Two maps of the sphere per class: where the beam came from, and what was observed.

    Parameters
    ----------
    path : Path
        PNG, written atomically.
    views : list of K (M, 3) float64
        `metrics.orientations.viewing_directions` of each class.
    coverages : list of K Coverage or None
        None for an empty class.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 2.7 * len(views)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(views), 2, squeeze=False, subplot_kw={"projection": "mollweide"})
    # Equal steps of z are equal areas, so a count per cell is a density.
    latitudes = np.arcsin(np.linspace(-1.0, 1.0, _ROWS + 1))
    longitudes = np.linspace(-np.pi, np.pi, _COLUMNS + 1)
    for k, (left, right) in enumerate(panels):
        for axes in (left, right):
            axes.set_xticks([])
            axes.set_yticks([])
        left.set_title(f"class {k + 1}: {len(views[k])} viewing directions", fontsize=9)
        phi, theta = _angles(views[k])
        counts, _, _ = np.histogram2d(theta, phi, bins=(latitudes, longitudes))
        mesh = left.pcolormesh(longitudes, latitudes, counts, cmap="viridis", rasterized=True)
        figure.colorbar(mesh, ax=left, shrink=0.7, label="particles")
        found = coverages[k]
        if found is None:
            right.set_title("empty", fontsize=9)
            continue
        both = np.concatenate([found.directions, -found.directions])
        phi, theta = _angles(both)
        dots = right.scatter(
            phi,
            theta,
            c=np.tile(found.observed.mean(axis=0), 2),
            s=9,
            cmap="magma",
            vmin=0.0,
            rasterized=True,
        )
        figure.colorbar(dots, ax=right, shrink=0.7, label="relative to mean")
        right.set_title(f"observed; {100 * found.unobserved:.1f} % is not", fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def _angles(
    directions: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Longitude and latitude in radians."""
    x, y, z = directions.T
    return np.arctan2(y, x), np.arcsin(np.clip(z, -1.0, 1.0))
