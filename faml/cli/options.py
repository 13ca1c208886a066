"""Options that several commands share."""

from __future__ import annotations

import os
from typing import Annotated

import typer

__all__ = [
    "Diameter",
    "Inputs",
    "Invert",
    "Memory",
    "Normalise",
    "ParticlesFolder",
    "Quiet",
    "Report",
    "Subset",
    "Threads",
    "TiltAngles",
    "TiltAxis",
    "TiltRange",
    "Tomograms",
    "VoxelSize",
    "WedgeList",
    "all_cores",
]

Inputs = Annotated[
    list[str],
    typer.Argument(
        help="MRC or EM files, folders, quoted globs, one pack (faml pack), or one table: RELION, "
        "Warp or STOPGAP STAR, Dynamo .tbl, motive list .em."
    ),
]
ParticlesFolder = Annotated[
    str | None,
    typer.Option(
        "--particles", metavar="FOLDER", help="Files of a table's particles. Default: beside it."
    ),
]
WedgeList = Annotated[
    str | None,
    typer.Option(
        "--wedge-list", metavar="FILE", help="Tilts by tomogram: EM, STOPGAP's STAR, or text."
    ),
]
TiltRange = Annotated[
    tuple[float, float] | None,
    typer.Option("--tilt-range", metavar="MIN MAX", help="Tilt range in degrees."),
]
TiltAngles = Annotated[
    str | None,
    typer.Option(
        "--tilt-angles", metavar="FILE", help="Angle of each tilt, one a line (IMOD .tlt, .rawtlt)."
    ),
]
TiltAxis = Annotated[
    str | None, typer.Option("--tilt-axis", help="Of range or angles: y (default) or x.")
]
Tomograms = Annotated[
    str | None,
    typer.Option(
        "--tomograms", metavar="FILE", help="RELION 5's tomograms.star, for 2-D stacks of tilts."
    ),
]
Report = Annotated[bool, typer.Option("--report/--no-report", help="Write report.html at the end.")]
VoxelSize = Annotated[
    float | None, typer.Option("--voxel-size", help="Angstrom; overrides the files.")
]
Diameter = Annotated[
    float | None,
    typer.Option("--particle-diameter", help="Angstrom; sets the mask and the background."),
]
Invert = Annotated[bool, typer.Option("--invert", help="Density is dark: multiply by -1.")]
Normalise = Annotated[
    str | None, typer.Option("--normalise", help="auto, always or never (background 0, 1).")
]
Threads = Annotated[
    int | None, typer.Option("--threads", help="Default: all cores. Results do not depend on it.")
]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="WHERE",
        help="Visit particles in Dask workers: local:N, tcp://scheduler:port, a scheduler file "
        "(.json) or a batch system (.toml). Results do not depend on it.",
    ),
]
Memory = Annotated[
    float | None,
    typer.Option(
        "--memory",
        metavar="GB",
        help="What each process may keep of particles and weights, so as not to read them again. "
        "Default: a few weights. Results do not depend on it.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Subset = Annotated[int | None, typer.Option("--subset", help="A random subset for a first look.")]


def all_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
