"""Figures of a report, drawn from `RunData`: one panel each, so that a page can lay them out."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from faml.em.schedule import GAIN_NATS
from faml.metrics.fsc import FSC_THRESHOLD, resolution_at
from faml.report.run_data import RunData
from faml.report.style import (
    GRID,
    INK,
    MUTED,
    ReportFigure,
    class_colour,
    legend_above,
    new_figure,
    plain_axes,
    styled,
)

__all__ = ["convergence_figures", "fsc_figure", "posterior_figures", "time_figure"]

_HALF = 0.5
_LABELLED_CLASSES = 8
_NEARLY_ZERO_DEG = 0.01
_NEARLY_ZERO_VOXELS = 0.001
_FEW_OUTLIERS = 500
"""Up to so many are marks one by one; more would be most of the page."""


def fsc_figure(data: RunData, class_index: int) -> ReportFigure | None:
    """Half-map FSC of a class with its cut-offs; None without half-sets."""
    if data.fsc:
        curves = data.fsc[class_index]
        lines = [
            ("corrected for the mask", curves.corrected, class_colour(class_index), 2.0, "-"),
            ("with mask", curves.masked, INK, 1.0, "-"),
            ("without mask", curves.unmasked, MUTED, 1.0, "--"),
            ("phases randomised", curves.randomised, MUTED, 1.0, ":"),
        ]
    elif data.state.fsc is not None:
        curve = data.state.fsc[class_index]
        how = "with mask, uncorrected" if data.masked else "without mask"
        lines = [(f"half-sets, this iteration, {how}", curve, class_colour(class_index), 2.0, "-")]
    else:
        return None
    with styled():
        figure = new_figure(5.4, 2.9)
        axes = plain_axes(figure, "resolution (Å)", "Fourier shell correlation")
        frequency = np.arange(len(lines[0][1])) / data.extent_angstrom
        for number, (label, values, colour, width, dash) in enumerate(lines):
            axes.plot(
                frequency[1:], values[1:], color=colour, linewidth=width, linestyle=dash,
                label=label, zorder=3.0 - 0.1 * number,
            )  # fmt: skip
        for threshold in (_HALF, FSC_THRESHOLD):
            axes.axhline(threshold, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
            axes.annotate(
                f"{threshold:g}", (1.0, threshold), xycoords=("axes fraction", "data"),
                xytext=(-2, 2), textcoords="offset points", ha="right", fontsize=7, color=MUTED,
            )  # fmt: skip
        axes.set_ylim(min(-0.1, float(lines[0][1].min()) - 0.05), 1.05)
        axes.set_xlim(0.0, frequency[-1])
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda f, _: f"{1.0 / f:.0f}" if f > 0 else "∞")
        )
        axes.legend(loc="upper right")
    reached = " and ".join(_fall(data, class_index, each) for each in (_HALF, FSC_THRESHOLD))
    return ReportFigure(
        f"fsc_class_{class_index + 1:03d}",
        "Agreement of the two halves",
        f"Fourier shell correlation of the half-maps of class {class_index + 1} against "
        f"resolution; it {reached}.",
        figure,
    )


def convergence_figures(data: RunData) -> list[ReportFigure]:
    """How the run went, iteration by iteration."""
    history = data.history
    compared = any(np.isfinite(line).any() for line in _agreements(data))
    drawn = [
        _line_figure(
            data, "convergence_log_likelihood", "Gain of log-likelihood", "nats per particle",
            "Gain of log-likelihood per particle over the iteration before, where both used the "
            "same detail.",
            _draw_gain,
        ),
        _line_figure(
            # Without halves there is no resolution to speak of.
            data, "convergence_resolution", "Resolution" if compared else "Aligned to", "Å",
            f"Finest detail used for alignment, "
            f"{data.extent_angstrom / history[-1].align_shell:.1f} Å in the last iteration"
            f"{', and to what the halves agree' if compared else ''}.",
            _draw_resolution,
        ),
        _line_figure(
            data, "convergence_angles", "Movement of orientations", "median change (degrees)",
            "Median change of the best orientations, in degrees, by iteration.",
            _draw_turns,
        ),
        _line_figure(
            data, "convergence_shifts", "Movement of positions", "median change (voxels)",
            "Median change of the best shifts, in voxels, by iteration.",
            _draw_shifts,
        ),
        _line_figure(
            data, "convergence_certainty", "Certainty", "effective poses per particle",
            f"Effective poses per particle, {history[-1].effective_poses:.1f} in the last "
            "iteration, by iteration.",
            _draw_certainty,
        ),
    ]  # fmt: skip
    if data.classes > 1:
        shares = ", ".join(f"{100 * f:.0f}" for f in history[-1].class_fractions)
        drawn.append(
            _line_figure(
                data, "convergence_occupancy", "Occupancy", "share of particles (%)",
                f"Share of each class, {shares} percent in the last iteration, by iteration.",
                _draw_occupancy,
            )
        )  # fmt: skip
    return drawn


def _line_figure(
    data: RunData,
    name: str,
    title: str,
    ylabel: str,
    alt: str,
    draw: Callable[[Axes, RunData], None],
) -> ReportFigure:
    with styled():
        figure = new_figure()
        axes = plain_axes(figure, "iteration", ylabel)
        draw(axes, data)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        last = max(data.history[-1].iteration, 1)
        first = data.history[0].iteration
        axes.set_xlim(min(first, last - 1) - 0.02 * last, last + 0.02 * last)
    return ReportFigure(name, title, alt, figure)


def _draw_gain(axes: Axes, data: RunData) -> None:
    """Gains between iterations that used the same detail: others cannot be compared."""
    gains = [
        (after.iteration, (after.log_likelihood - before.log_likelihood) / len(data.names))
        for before, after in pairwise(data.history)
        if after.align_shell == before.align_shell
    ]
    axes.axhspan(-GAIN_NATS, GAIN_NATS, color=GRID, linewidth=0)
    axes.set_yscale("symlog", linthresh=0.1, linscale=0.6)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.set_ylim(-0.3, 1.0)
    if not gains:
        _say(axes, "no two iterations of one resolution yet")
        return
    x, y = np.array(gains).T
    axes.plot(x, y, "o", color=INK, markersize=4)
    axes.set_ylim(min(-0.3, 1.5 * float(y.min())), max(1.0, 1.5 * float(y.max())))


def _agreements(data: RunData) -> list[list[float]]:
    """Å to which the halves of each class agree, by iteration; NaN where they do not."""
    return [
        [
            _nan_for_infinite(
                resolution_at(record.fsc[k], FSC_THRESHOLD, data.box, data.voxel_size_angstrom)
            )
            if record.fsc is not None
            else math.nan
            for record in data.history
        ]
        for k in range(data.classes)
    ]


def _draw_resolution(axes: Axes, data: RunData) -> None:
    numbers = [record.iteration for record in data.history]
    aligned = [data.extent_angstrom / record.align_shell for record in data.history]
    axes.step(numbers, aligned, where="mid", color=INK, linewidth=1.4, label="aligned to")
    values = [aligned]
    for k, agreed in enumerate(_agreements(data)):
        if np.isfinite(agreed).any():
            label = "halves agree to" if data.classes == 1 else f"halves, class {k + 1}"
            axes.plot(
                numbers, agreed, color=class_colour(k), linewidth=1.2, marker="o", markersize=3,
                label=label if k < _LABELLED_CLASSES else None,
            )  # fmt: skip
            values.append(agreed)
    axes.set_ylim(0.0, 1.1 * float(np.nanmax(np.concatenate(values))))
    if len(values) > 1:
        legend_above(axes, 3)


def _draw_turns(axes: Axes, data: RunData) -> None:
    moved = {r.iteration: r.median_angle_deg for r in data.history}
    _draw_movement(axes, moved, _NEARLY_ZERO_DEG, (0.3, 200.0))


def _draw_shifts(axes: Axes, data: RunData) -> None:
    moved = {r.iteration: r.median_shift_voxels for r in data.history}
    _draw_movement(axes, moved, _NEARLY_ZERO_VOXELS, (0.01, 10.0))


def _draw_movement(
    axes: Axes, moved: dict[int, float | None], least: float, limits: tuple[float, float]
) -> None:
    """On a logarithmic scale, on which what stands still lies at ``least``."""
    known = {number: max(value, least) for number, value in moved.items() if value is not None}
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.set_ylim(limits)
    if not known:
        _say(axes, "no iteration yet")
        return
    axes.plot(list(known), list(known.values()), color=INK, linewidth=1.4, marker="o", markersize=3)
    axes.set_ylim(
        min(limits[0], 0.7 * min(known.values())), max(limits[1], 1.4 * max(known.values()))
    )


def _draw_certainty(axes: Axes, data: RunData) -> None:
    values = [record.effective_poses for record in data.history]
    axes.plot(
        [record.iteration for record in data.history], values, color=INK, linewidth=1.4,
        marker="o", markersize=3,
    )  # fmt: skip
    axes.set_ylim(0.0, 1.15 * max(*values, 1.0))
    axes.axhline(1.0, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))


def _draw_occupancy(axes: Axes, data: RunData) -> None:
    shares = 100.0 * np.array([record.class_fractions for record in data.history])
    numbers = [record.iteration for record in data.history]
    for k, share in enumerate(shares.T):
        axes.plot(
            numbers, share, color=class_colour(k), linewidth=1.4, marker="o", markersize=3,
            label=f"class {k + 1}" if k < _LABELLED_CLASSES else None,
        )  # fmt: skip
    axes.set_ylim(0.0, min(100.0, 1.15 * float(shares.max())))
    legend_above(axes, 4)


def posterior_figures(data: RunData) -> list[ReportFigure]:
    """How certain poses are, and how much of each particle is explained."""
    found = data.particles
    drawn = [
        _histogram(
            "posterior_probability", "Certainty of the best pose",
            "posterior probability of the best pose", found.probabilities, data,
            np.linspace(0.0, 1.0, 21),
            f"Histogram of the probability of each particle's best pose; median "
            f"{np.median(found.probabilities):.2f}.",
        ),
    ]  # fmt: skip
    effective = data.state.assignments.effective_poses
    top = max(2.0, float(np.quantile(effective, 0.995)))
    edges = np.geomspace(1.0, top, 21)
    with styled():
        figure = new_figure()
        axes = plain_axes(figure, "effective poses of a particle", "particles")
        axes.hist(np.clip(effective, 1.0, top), bins=edges.tolist(), color=MUTED, edgecolor="none")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axes.xaxis.set_minor_formatter(FuncFormatter(_sparse(top)))
    drawn.append(
        ReportFigure(
            "posterior_effective_poses", "Poses that share a particle",
            f"Histogram of effective poses per particle; median {np.median(effective):.1f}.",
            figure,
        )
    )  # fmt: skip
    if np.ptp(found.log_evidences) > 0:
        low, high = float(found.log_evidences.min()), float(found.log_evidences.max())
        drawn.append(
            _histogram(
                "evidence", "Evidence for the structure", "evidence (nats)",
                found.log_evidences, data, np.linspace(low, high, 31),
                f"Histogram of how much the structure explains of each particle; "
                f"{int(found.outliers.sum())} outliers.",
                mark=found.outliers,
            )
        )  # fmt: skip
    return drawn


def _sparse(top: float) -> Callable[[float, int], str]:
    """Labels between powers of ten, where there is room."""
    chosen = (2, 5) if top > 10 else (2, 3, 4, 5, 6, 8)

    def label(value: float, _: int) -> str:
        power = 10.0 ** math.floor(math.log10(value) + 1e-9)
        return f"{value:g}" if round(value / power) in chosen else ""

    return label


def _histogram(
    name: str,
    title: str,
    xlabel: str,
    values: npt.NDArray[np.float64],
    data: RunData,
    edges: npt.NDArray[np.float64],
    alt: str,
    mark: npt.NDArray[np.bool_] | None = None,
) -> ReportFigure:
    """Stacked by class, so that the outline is that of all particles."""
    with styled():
        figure = new_figure()
        axes = plain_axes(figure, xlabel, "particles")
        present = [k for k in range(data.classes) if (data.particles.classes == k).any()]
        hidden = "_" if len(present) > _LABELLED_CLASSES else ""  # from the legend
        axes.hist(
            [values[data.particles.classes == k] for k in present], bins=edges.tolist(),
            stacked=True, color=[class_colour(k) for k in present],
            label=[f"{hidden}class {k + 1}" for k in present], edgecolor="none",
        )  # fmt: skip
        if mark is not None and mark.any():
            axes.plot(
                values[mark], np.zeros(int(mark.sum())), "v", color=INK, markersize=5,
                clip_on=False, label="outlier", rasterized=int(mark.sum()) > _FEW_OUTLIERS,
            )  # fmt: skip
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        if 1 < len(present) <= _LABELLED_CLASSES or (mark is not None and mark.any()):
            legend_above(axes, 4)
    return ReportFigure(name, title, alt, figure)


def time_figure(data: RunData) -> ReportFigure | None:
    """Wall time of each iteration; None where no log has it."""
    seconds = data.log.iteration_seconds
    # The first one after several random starts stands for all of these.
    first = data.history[0].iteration
    numbers = [r.iteration for r in data.history if r.iteration in seconds]
    numbers = [i for i in numbers if i > first or first == 0]
    if not numbers:
        return None
    with styled():
        figure = new_figure()
        axes = plain_axes(figure, "iteration", "seconds")
        axes.bar(numbers, [seconds[i] for i in numbers], color=MUTED, width=0.7)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    mean = float(np.mean([seconds[i] for i in numbers]))
    return ReportFigure(
        "time", "Time per iteration",
        f"Wall time of each iteration, {mean:.0f} seconds on average.", figure,
    )  # fmt: skip


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=MUTED)


def _nan_for_infinite(value: float) -> float:
    return value if math.isfinite(value) else math.nan


def _fall(data: RunData, class_index: int, threshold: float) -> str:
    """Where an FSC passes a threshold, in words."""
    value = data.resolution_angstrom(class_index, threshold)
    if data.agrees_throughout(class_index, threshold):
        return f"stays above {threshold:g}"
    if not math.isfinite(value):
        return f"begins below {threshold:g}"
    return f"falls below {threshold:g} at {value:.1f} Å"
