"""Figures of one class: slices, viewing directions, coverage; and of all tomograms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.ndimage
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from scipy.spatial import cKDTree

from faml.metrics.orientations import viewing_directions
from faml.report.run_data import RunData
from faml.report.slices import round_length
from faml.report.style import (
    GRID,
    INK,
    MUTED,
    ReportFigure,
    class_colour,
    new_figure,
    place,
    plain_axes,
    printable,
    styled,
)

__all__ = [
    "TomogramCounts",
    "coverage_figure",
    "directions_figure",
    "slices_figure",
    "tomogram_counts",
    "tomograms_figure",
]

_PLANES = (("xy", 0), ("xz", 1), ("yz", 2))
_FEW_DIRECTIONS = 400
"""Up to so many viewing directions are drawn one by one."""
_COLUMNS, _ROWS = 36, 18
_SMOOTHED = 4
"""Directions whose mean a place of the coverage map shows."""
_SLICE_EDGE = 128
_MOST_TOMOGRAMS = 60


@dataclass(frozen=True)
class TomogramCounts:
    """Particles of each class in each tomogram.

    Attributes
    ----------
    names : tuple of T str
        Sorted.
    counts : (T, K) int64
    """

    names: tuple[str, ...]
    counts: npt.NDArray[np.int64]


def tomogram_counts(data: RunData) -> TomogramCounts | None:
    """Count classes by tomogram; None where the input names none."""
    if data.particles.tomograms is None:
        return None
    names, index = np.unique(data.particles.tomograms, return_inverse=True)
    counts = np.zeros((len(names), data.classes), dtype=np.int64)
    np.add.at(counts, (index, data.particles.classes), 1)
    return TomogramCounts(tuple(str(name) for name in names), counts)


def slices_figure(data: RunData, class_index: int) -> ReportFigure:
    """Central planes with a scale bar; bright is dense."""
    volume = data.maps[class_index]
    n = volume.shape[-1]
    low, high = (float(v) for v in np.percentile(volume, [1.0, 99.8]))
    if not high > low:
        low, high = float(volume.min()), float(volume.max())
    with styled():
        figure = new_figure(6.06, 2.22)
        # One pair of axes for the three planes: axes take longer to draw than images.
        axes = place(figure, 0.0, 0.0, 0.0, 0.22)
        axes.set_axis_off()
        for number, (plane, axis) in enumerate(_PLANES):
            left = 1.015 * number
            axes.imshow(
                _finer(np.take(volume, n // 2, axis=axis)), cmap="gray", origin="lower",
                vmin=low, vmax=high if high > low else low + 1.0, interpolation="none",
                extent=(left, left + 1.0, 0.0, 1.0),
            )  # fmt: skip
            axes.text(left + 0.5, 1.03, plane, ha="center", fontsize=9, clip_on=False)
        axes.set_xlim(0.0, left + 1.0)
        axes.set_ylim(0.0, 1.0)
        if not high > low:
            _on_image(axes, 0.5 * (left + 1.0), 0.5, "constant")
        _scale_bar(axes, left + 0.94, n * data.voxel_size_angstrom)
    return ReportFigure(
        f"slices_class_{class_index + 1:03d}",
        "Central slices",
        f"Central slices of class {class_index + 1} in the planes xy, xz and yz; dense is bright.",
        figure,
    )


def _finer(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Small images by cubic splines on a finer grid, rather than as tiles."""
    times = -(-_SLICE_EDGE // image.shape[0])
    return scipy.ndimage.zoom(image, times, order=3, mode="nearest", grid_mode=True)


def _scale_bar(axes: Axes, right: float, extent_angstrom: float) -> None:
    """A bar that ends at ``right``, where the edge of the box is 1."""
    bar = round_length(0.35 * extent_angstrom)
    length = bar / extent_angstrom
    axes.plot(
        [right - length, right], [0.07, 0.07], color="white", linewidth=3.0,
        solid_capstyle="butt", path_effects=[withStroke(linewidth=4.5, foreground="black")],
    )  # fmt: skip
    _on_image(axes, right - 0.5 * length, 0.15, f"{bar / 10:g} nm")


def _on_image(axes: Axes, x: float, y: float, text: str) -> None:
    axes.text(
        x, y, text, color="white", ha="center", va="center", fontsize=8,
        path_effects=[withStroke(linewidth=2.0, foreground="black")],
    )  # fmt: skip


def directions_figure(data: RunData, class_index: int) -> ReportFigure:
    """Where the beam came from, in the frame of the average."""
    members = data.particles.classes == class_index
    views = viewing_directions(data.particles.rotations[members])
    with styled():
        few = len(views) <= _FEW_DIRECTIONS
        figure, axes = _sphere()
        phi, theta = _angles(views)
        if few:
            axes.plot(
                phi, theta, "o", color=class_colour(class_index), markersize=4, alpha=0.7,
                markeredgewidth=0,
            )  # fmt: skip
        else:
            # Equal steps of z are equal areas, so a count per cell is a density.
            latitudes = np.arcsin(np.linspace(-1.0, 1.0, _ROWS + 1))
            longitudes = np.linspace(-np.pi, np.pi, _COLUMNS + 1)
            counts, _, _ = np.histogram2d(theta, phi, bins=(latitudes, longitudes))
            mesh = axes.pcolormesh(longitudes, latitudes, counts, cmap="viridis", rasterized=True)
            _colour_bar(figure, mesh, "particles")
        if not len(views):
            axes.text(0.0, 0.0, "empty", ha="center", va="center", color=MUTED)
    return ReportFigure(
        f"directions_class_{class_index + 1:03d}",
        "Viewing directions",
        f"Map of the sphere with the {len(views)} viewing directions of class {class_index + 1}.",
        figure,
    )


def coverage_figure(data: RunData, class_index: int) -> ReportFigure | None:
    """What of Fourier space the class has observed; None where that is not known."""
    found = data.coverages[class_index]
    if found is None:
        return None
    latitudes = np.linspace(-0.5 * np.pi, 0.5 * np.pi, 2 * _ROWS + 1)
    longitudes = np.linspace(-np.pi, np.pi, 2 * _COLUMNS + 1)
    both = np.concatenate([found.directions, -found.directions])
    observed = np.tile(found.observed.mean(axis=0), 2)
    theta, phi = np.meshgrid(_middles(latitudes), _middles(longitudes), indexing="ij")
    places = np.stack(
        [np.cos(theta) * np.cos(phi), np.cos(theta) * np.sin(phi), np.sin(theta)], axis=-1
    )
    nearest = cKDTree(both).query(places, k=_SMOOTHED)[1]
    with styled():
        figure, axes = _sphere()
        mesh = axes.pcolormesh(
            longitudes, latitudes, observed[nearest].mean(axis=-1), cmap="cividis", vmin=0.0,
            vmax=max(2.0, float(observed.max())), rasterized=True,
        )  # fmt: skip
        _colour_bar(figure, mesh, "relative to mean")
    return ReportFigure(
        f"coverage_class_{class_index + 1:03d}",
        "Fourier space observed",
        f"Map of the sphere: how much of each direction of Fourier space class {class_index + 1} "
        f"has observed; {100 * found.unobserved:.1f} percent is not.",
        figure,
    )


def _middles(edges: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(0.5 * (edges[1:] + edges[:-1]))


def _sphere() -> tuple[Figure, Axes]:
    """Figure and axes of a map of the sphere that keeps areas, with room for a colour bar."""
    figure = new_figure(4.6, 2.2)
    axes = place(figure, 0.3, 0.08, 0.86, 0.08, projection="mollweide")
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xticks(np.deg2rad([-120, -60, 0, 60, 120]), [""] * 5)
    axes.set_yticks(np.deg2rad([-60, -30, 0, 30, 60]))
    axes.tick_params(labelsize=7, labelcolor=MUTED)
    return figure, axes


def _colour_bar(figure: Figure, mappable: ScalarMappable, label: str) -> None:
    bar = figure.colorbar(mappable, cax=place(figure, 3.92, 0.4, 0.56, 0.4), label=label)
    bar.outline.set_visible(False)


def _angles(
    directions: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Longitude and latitude in radians."""
    x, y, z = directions.T
    return np.arctan2(y, x), np.arcsin(np.clip(z, -1.0, 1.0))


def tomograms_figure(data: RunData) -> ReportFigure | None:
    """Classes by tomogram; None where there are not several of them, or far too many."""
    found = tomogram_counts(data)
    if found is None or not 1 < len(found.names) <= _MOST_TOMOGRAMS:
        return None
    with styled():
        names = [printable(name) for name in found.names]
        figure = new_figure(4.6, 0.9 + 0.2 * len(names))
        left_inches = 0.25 + 0.075 * max(len(name) for name in names)
        axes = plain_axes(figure, "particles", "", left_inches=left_inches, top_inches=0.35)
        axes.grid(visible=False)
        left = np.zeros(len(found.names))
        places = np.arange(len(found.names))
        for k in range(data.classes):
            axes.barh(
                places, found.counts[:, k], left=left, height=0.7, color=class_colour(k),
                label=f"class {k + 1}",
            )  # fmt: skip
            left += found.counts[:, k]
        axes.set_yticks(places, names)
        for label in axes.get_yticklabels():
            label.set_parse_math(False)  # a dollar sign in a name is no formula
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.invert_yaxis()
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if data.classes > 1:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4)
    return ReportFigure(
        "tomograms",
        "Classes by tomogram",
        f"Particles of each class in each of {len(found.names)} tomograms.",
        figure,
    )
