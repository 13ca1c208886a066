"""`faml pack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from faml.cli.options import (
    Diameter,
    Inputs,
    ParticlesFolder,
    Quiet,
    TiltAngles,
    TiltAxis,
    TiltRange,
    Tomograms,
    VoxelSize,
    WedgeList,
)

__all__ = ["pack"]


def pack(
    inputs: Inputs,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The pack, such as particles.h5.")
    ],
    dtype: Annotated[
        str,
        typer.Option(
            metavar="float32|float16",
            help="float32 keeps values bit by bit; float16 takes half the space.",
        ),
    ] = "float32",
    particles: ParticlesFolder = None,
    wedge_list: WedgeList = None,
    tilt_range: TiltRange = None,
    tilt_angles: TiltAngles = None,
    tilt_axis: TiltAxis = None,
    tomograms: Tomograms = None,
    voxel_size: VoxelSize = None,
    particle_diameter: Diameter = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    quiet: Quiet = False,
) -> None:
    """Write all particles into one file, which faml run reads faster than loose ones.

    Weights, poses and the whole table go with them. Contrast and normalisation remain choices of
    faml run; with the --particle-diameter that is given there it opens the pack at once.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from faml.cli.display import RunDisplay
    from faml.config import build_config
    from faml.errors import ConfigurationError
    from faml.interrupts import ended_like_ctrl_c
    from faml.io.packs.writing import write_pack

    if dtype not in ("float32", "float16"):
        raise ConfigurationError(f"--dtype {dtype}: expected float32 or float16")
    config = build_config(
        data={
            "inputs": tuple(inputs),
            "particles_folder": particles,
            "wedge_list": wedge_list,
            "tilt_range_deg": tilt_range,
            "tilt_angles_file": tilt_angles,
            "tilt_axis": tilt_axis,
            "tomograms": tomograms,
            "voxel_size_angstrom": voxel_size,
            "particle_diameter_angstrom": particle_diameter,
        }
    )
    display = RunDisplay(quiet=quiet)
    with (
        Progress(
            TextColumn("packing"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=display.console,
            transient=True,
            disable=quiet or not display.console.is_terminal,
        ) as bar,
        ended_like_ctrl_c(),
    ):
        task = bar.add_task("packing", total=None)
        found = write_pack(
            config.data,
            output,
            dtype="float16" if dtype == "float16" else "float32",
            force=force,
            progress=lambda done, count: bar.update(task, completed=done, total=count),
        )
    boxes = found.boxes
    for warning in (*found.source.warnings, *boxes.warnings, *found.weights.warnings):
        display.say(f"warning: {warning}")
    display.say(
        f"{output}: {len(found.source.names)} particles of {boxes.box}^3 voxels, "
        f"{boxes.voxel_size_angstrom:g} Angstrom per voxel, weights from {found.weights.source}; "
        f"{output.stat().st_size / 1e6:.1f} MB in {dtype}"
    )
