"""One look for all figures of a report: on the page, and as PNG and SVG for papers."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from faml.io.atomic import atomic_path, write_text_atomic

__all__ = [
    "CLASS_COLOURS",
    "GRID",
    "INK",
    "MUTED",
    "ReportFigure",
    "class_colour",
    "inline_svg",
    "legend_above",
    "new_figure",
    "place",
    "plain_axes",
    "printable",
    "save_figure",
    "styled",
]

INK, MUTED, GRID = "#1f2933", "#66727f", "#dfe4e9"
CLASS_COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f",
)  # fmt: skip
"""Okabe & Ito's, which the colour-blind can tell apart, and two more; then they come again."""
_DPI = 200
_LEGEND_ROW_INCHES = 0.19
_RC: Any = {  # the keys' type is a list of all that matplotlib knows
    "font.family": ["sans-serif"],
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: it can be searched, read aloud and edited
    "axes.formatter.useoffset": False,
}
# Settings of matplotlib are global; a server may draw from several threads.
_LOCK = RLock()


@dataclass(frozen=True)
class ReportFigure:
    """A figure and what to say of it.

    Attributes
    ----------
    name : str
        Of its files, without suffix.
    title : str
    alt : str
        What it shows, for those who cannot see it.
    figure : Figure
    """

    name: str
    title: str
    alt: str
    figure: Figure


@contextmanager
def styled() -> Iterator[None]:
    """Figures are made and saved within this."""
    with _LOCK, mpl.rc_context(_RC):
        yield


def new_figure(width_inches: float = 3.8, height_inches: float = 2.5) -> Figure:
    """An empty figure that needs no screen."""
    figure = Figure(figsize=(width_inches, height_inches))
    FigureCanvasAgg(figure)
    return figure


def place(
    figure: Figure,
    left: float,
    bottom: float,
    right: float,
    top: float,
    projection: str | None = None,
) -> Axes:
    """Axes with margins in inches: layout engines take longer than drawing."""
    width, height = figure.get_size_inches()
    return figure.add_axes(
        (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height),
        projection=projection,
    )


def plain_axes(
    figure: Figure, xlabel: str, ylabel: str, *, left_inches: float = 0.58, top_inches: float = 0.1
) -> Axes:
    """One pair of axes with a light horizontal grid."""
    axes = place(figure, left_inches, 0.46, 0.12, top_inches)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    return axes


def legend_above(axes: Axes, columns: int) -> None:
    """A legend between axes and upper edge of the figure, where it hides nothing drawn."""
    rows = math.ceil(len(axes.get_legend_handles_labels()[1]) / columns)
    figure = axes.get_figure(root=True)
    if figure is None:  # axes of `plain_axes` have one
        raise ValueError("expected axes of a figure, found some without")
    box = axes.get_position()
    taken = rows * _LEGEND_ROW_INCHES / figure.get_size_inches()[1]
    axes.set_position((box.x0, box.y0, box.width, box.height - taken))
    axes.legend(
        loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=columns, columnspacing=1.0,
        handlelength=1.4, borderpad=0.1, borderaxespad=0.2, labelspacing=0.3,
    )  # fmt: skip


def class_colour(class_index: int) -> str:
    """Colour of a class, zero-based."""
    return CLASS_COLOURS[class_index % len(CLASS_COLOURS)]


def printable(name: str, longest: int = 24) -> str:
    """A name from a file as every font can draw it, cut in the middle where it is long."""
    text = "".join(c if c.isprintable() else "?" for c in name)
    text = text.encode("latin-1", "replace").decode("latin-1")
    if len(text) <= longest:
        return text
    half = (longest - 3) // 2
    return f"{text[:half]}...{text[-half:]}"


def save_figure(drawn: ReportFigure, directory: Path) -> None:
    """Write NAME.png and NAME.svg; the same numbers make the same files.

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    with styled():
        with atomic_path(directory / f"{drawn.name}.png") as temporary:
            drawn.figure.savefig(
                temporary, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None}
            )
        write_text_atomic(directory / f"{drawn.name}.svg", _svg(drawn))


def inline_svg(drawn: ReportFigure) -> str:
    """The figure as an SVG element for a page, whose style sheet gives font and colours."""
    text = _svg(drawn)
    text = text[text.index("<svg") :]
    used = set(re.findall(r"(?:#|url\(#)([\w.-]+)", text))
    text = re.sub(
        r' id="([^"]+)"', lambda found: found.group(0) if found.group(1) in used else "", text
    )
    for colour, variable in _variables().items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    if size is None:  # matplotlib always writes one
        raise ValueError(f"figure {drawn.name}: expected a viewBox in its SVG, found none")
    head = text.index(">")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {size.group(1)} {size.group(2)}" role="img" '
        f'aria-label="{_attribute(drawn.alt)}">{text[head + 1 :]}'
    )


def _svg(drawn: ReportFigure) -> str:
    buffer = io.StringIO()
    # Identifiers are digests of what they name; salted, those of two figures differ.
    with styled(), mpl.rc_context({"svg.hashsalt": f"faml {drawn.name}"}):
        drawn.figure.savefig(
            buffer,
            format="svg",
            dpi=_DPI,
            facecolor="none",
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    return buffer.getvalue()


def _variables() -> dict[str, str]:
    """Colours that a style sheet may change, for the dark."""
    named = {INK: "--ink", MUTED: "--muted", GRID: "--grid"}
    return named | {colour: f"--class-{i + 1}" for i, colour in enumerate(CLASS_COLOURS)}


def _attribute(text: str) -> str:
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(character, entity)
    return text
