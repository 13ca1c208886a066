"""Fourier shell correlations as a PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from faml.io.atomic import atomic_path
from faml.metrics.fsc import FSC_THRESHOLD, CorrectedFsc

__all__ = ["write_fsc_plot"]


def write_fsc_plot(
    path: Path, curves: list[CorrectedFsc], box: int, voxel_size_angstrom: float
) -> None:
    """Corrected, masked, unmasked and phase-randomised FSC of every class, one panel each.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 3.4 * len(curves)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for k, (axes, curve) in enumerate(
        zip(figure.subplots(len(curves), squeeze=False)[:, 0], curves, strict=True)
    ):
        frequency = np.arange(len(curve.corrected)) / (box * voxel_size_angstrom)
        axes.plot(frequency, curve.corrected, color="#14213d", lw=2.0, label="corrected")
        axes.plot(frequency, curve.masked, color="#2a9d8f", lw=1.0, label="masked")
        axes.plot(frequency, curve.unmasked, color="#888888", lw=1.0, label="unmasked")
        axes.plot(
            frequency[curve.first_randomised :],
            curve.randomised[curve.first_randomised :],
            color="#e76f51",
            lw=1.0,
            label="phases randomised",
        )
        axes.axhline(FSC_THRESHOLD, color="black", lw=0.6, ls="--")
        axes.axhline(0.0, color="black", lw=0.6)
        axes.set_ylim(-0.2, 1.05)
        axes.set_xlim(0.0, frequency[-1])
        axes.set_xlabel("1 / Å")
        axes.set_ylabel("FSC of half-maps")
        axes.set_title(f"class {k + 1}", fontsize=10)
        axes.legend(fontsize=8, frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
