"""Options that several commands share."""

from __future__ import annotations

import os
from typing import Annotated

import typer

__all__ = [
    "Diameter",
    "Inputs",
    "Invert",
    "Normalise",
    "Quiet",
    "Subset",
    "Threads",
    "TiltAxis",
    "TiltRange",
    "VoxelSize",
    "all_cores",
]

Inputs = Annotated[
    list[str], typer.Argument(help="MRC files, folders, quoted globs, or one RELION STAR file.")
]
TiltRange = Annotated[
    tuple[float, float] | None,
    typer.Option("--tilt-range", metavar="MIN MAX", help="Tilt range in degrees."),
]
TiltAxis = Annotated[
    str | None, typer.Option("--tilt-axis", help="Of the tilt range: y (default) or x.")
]
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
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Subset = Annotated[int | None, typer.Option("--subset", help="A random subset for a first look.")]


def all_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
