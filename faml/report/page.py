"""The report of a run: one HTML file that needs nothing else, and its figures for papers."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from faml.errors import OutputError
from faml.io.atomic import write_text_atomic
from faml.io.output import refuse_links
from faml.report.class_figures import (
    coverage_figure,
    directions_figure,
    slices_figure,
    tomogram_counts,
    tomograms_figure,
)
from faml.report.figures import (
    convergence_figures,
    fsc_figure,
    posterior_figures,
    time_figure,
)
from faml.report.run_data import RunData, load_run_data
from faml.report.style import CLASS_COLOURS, ReportFigure, inline_svg, save_figure
from faml.report.summary import duration_text, summarise
from faml.report.surface import SurfaceMap, surface_map

__all__ = ["FIGURES_NAME", "REPORT_NAME", "render_page", "report_figures", "write_report"]

REPORT_NAME = "report.html"
FIGURES_NAME = "figures"
_SCRIPTS = ("surface.js", "viewer.js", "page.js")
_FINE_EDGE, _COARSE_EDGE = 64, 48
_FEW_CLASSES = 4
"""Up to so many classes have surfaces of the finer kind."""
_LISTED = 200
"""Tomograms, and outliers, that are listed by name."""
# The page may not reach anywhere: no sentence of an input file can make it do so.
_POLICY = (
    "default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
    "img-src data:; connect-src {connect}; base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True)
class _Figures:
    """All figures of a report, by where they stand; lists of classes have K entries."""

    slices: tuple[ReportFigure, ...]
    fsc: tuple[ReportFigure | None, ...]
    directions: tuple[ReportFigure, ...]
    coverage: tuple[ReportFigure | None, ...]
    convergence: tuple[ReportFigure, ...]
    posterior: tuple[ReportFigure, ...]
    tomograms: ReportFigure | None
    time: ReportFigure | None

    def all(self) -> list[ReportFigure]:
        """Those that there are."""
        every = (
            *self.slices, *self.fsc, *self.directions, *self.coverage, *self.convergence,
            *self.posterior, self.tomograms, self.time,
        )  # fmt: skip
        return [drawn for drawn in every if drawn is not None]


def report_figures(data: RunData) -> list[ReportFigure]:
    """Every figure of a run's report."""
    return _figures(data).all()


def render_page(data: RunData, *, refresh_seconds: float | None = None) -> str:
    """The report as one HTML text without any reference to elsewhere.

    Parameters
    ----------
    data : RunData
    refresh_seconds : float, optional
        For a page that a local server shows: so often it asks the relative URL ``version``, and
        loads itself again once the answer (plain text) is no longer `RunData.version`. What the
        reader has set (views, levels, place) is kept.
    """
    return _rendered(data, _figures(data), refresh_seconds)


def write_report(directory: Path, output: Path | None = None, *, figures: bool = True) -> Path:
    """Write the report of a run, and its figures into ``figures/`` of the run.

    Parameters
    ----------
    directory : Path
        Of the run.
    output : Path, optional
        The HTML file; default ``report.html`` in the run's directory.
    figures : bool
        Write each figure as PNG and SVG, too.

    Returns
    -------
    Path
        The HTML file.

    Raises
    ------
    CheckpointError, InputDataError
        As `load_run_data`.
    OutputError
        If a file cannot be written, or another than a page lies where it would.
    """
    _check_output(output)
    data = load_run_data(directory)
    folder = data.directory / FIGURES_NAME
    if figures:
        refuse_links(folder)
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{folder}: cannot be made ({error.strerror}); remove what is there, or give "
                "--no-figures"
            ) from error
    drawn = _figures(data)
    path = data.directory / REPORT_NAME if output is None else output
    write_text_atomic(path, _rendered(data, drawn, None))
    for each in drawn.all() if figures else ():
        save_figure(each, folder)
    return path


def _check_output(output: Path | None) -> None:
    """Refuse to replace what is no page, such as the checkpoint of the run."""
    if output is not None and output.exists() and output.suffix.lower() not in (".html", ".htm"):
        raise OutputError(
            f"{output}: expected an HTML file or none to be replaced, found another; give another "
            "name, ending in .html"
        )


def _figures(data: RunData) -> _Figures:
    each = range(data.classes)
    return _Figures(
        slices=tuple(slices_figure(data, k) for k in each),
        fsc=tuple(fsc_figure(data, k) for k in each),
        directions=tuple(directions_figure(data, k) for k in each),
        coverage=tuple(coverage_figure(data, k) for k in each),
        convergence=tuple(convergence_figures(data)),
        posterior=tuple(posterior_figures(data)),
        tomograms=tomograms_figure(data),
        time=time_figure(data),
    )


def _rendered(data: RunData, drawn: _Figures, refresh_seconds: float | None) -> str:
    script, style = _static()
    maps = [_surface(data, k) for k in range(data.classes)]
    payload = {
        "run": str(data.directory.resolve()),
        "version": data.version,
        "refresh": refresh_seconds,
        "maps": [None if found is None else _payload(found) for found in maps],
    }
    tomograms = tomogram_counts(data)
    odd = [
        name for name, flag in zip(_kept_names(data), data.particles.outliers, strict=True) if flag
    ]
    text = _environment().get_template("report.html").render(
        data=data,
        summary=summarise(data, live=refresh_seconds is not None),
        figures=drawn,
        policy=_POLICY.format(
            digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            connect="'none'" if refresh_seconds is None else "'self'",
        ),
        script=Markup(script),
        style=Markup(style),
        payload=Markup(_json_in_html(payload)),
        has_map=[found is not None for found in maps],
        live=refresh_seconds is not None,
        tomograms=None if tomograms is None else list(
            zip(tomograms.names, tomograms.counts.tolist(), strict=True)
        )[:_LISTED],
        tomograms_left_out=0 if tomograms is None else max(0, len(tomograms.names) - _LISTED),
        outliers=odd[:_LISTED],
        outliers_left_out=max(0, len(odd) - _LISTED),
        class_colours=len(CLASS_COLOURS),
        duration=duration_text,
    )  # fmt: skip
    # Names of files need not be UTF-8; the page is.
    return text.encode("utf-8", "replace").decode("utf-8")


def _kept_names(data: RunData) -> list[str]:
    """Names of the particles shown; numbers in particles.star where duplicates were left out."""
    if len(data.particles) == len(data.names):
        return list(data.names)
    return [f"row {i + 1} of particles.star" for i in range(len(data.particles))]


def _surface(data: RunData, class_index: int) -> SurfaceMap | None:
    return surface_map(
        data.maps[class_index],
        data.voxel_size_angstrom,
        diameter_angstrom=data.config.data.particle_diameter_angstrom,
        largest_edge=_FINE_EDGE if data.classes <= _FEW_CLASSES else _COARSE_EDGE,
    )


def _payload(found: SurfaceMap) -> dict[str, Any]:
    values = asdict(found)
    values["voxel"] = values.pop("voxel_size_angstrom")
    return values


def _json_in_html(value: Any) -> str:
    """JSON that ends no script element, whatever names it holds."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("faml.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg"] = lambda drawn: Markup(inline_svg(drawn))
    return environment


def _static() -> tuple[str, str]:
    """Script and style sheet."""
    loader = _environment().loader
    if loader is None:  # `_environment` gives one
        raise RuntimeError("expected a loader of templates")

    def source(name: str) -> str:
        return loader.get_source(_environment(), name)[0]

    return "\n".join(source(name) for name in _SCRIPTS), source("report.css")
