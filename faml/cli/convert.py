"""`faml convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from faml.cli.options import VoxelSize

__all__ = ["convert"]


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="A", help="Particle table (STAR, .tbl, .em), wedge list or volume (.mrc, .em)."
        ),
    ],
    destination: Annotated[
        Path, typer.Argument(metavar="B", help="What to write; its suffix says the format.")
    ],
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="relion3.0, relion3.1, relion4, relion5, warp, dynamo, av3 or stopgap. "
            "Default: by the suffix, a STAR file as A or relion3.1.",
        ),
    ] = None,
    particles: Annotated[
        Path | None,
        typer.Option(help="Folder of the particle files. Default: beside the table, or none."),
    ] = None,
    rescale: Annotated[
        str | None,
        typer.Option(
            metavar="FACTOR|SIZE",
            help="For larger or smaller boxes: a factor (2: twice as many voxels), or the voxel "
            "size to come to (5.4A).",
        ),
    ] = None,
    voxel_size: VoxelSize = None,
    tomogram_size: Annotated[
        tuple[float, float, float] | None,
        typer.Option(
            "--tomogram-size",
            metavar="X Y Z",
            help="Voxels of A's particles; for RELION 5's centred coordinates.",
        ),
    ] = None,
    tomograms: Annotated[
        Path | None,
        typer.Option("--tomograms", help="RELION's tomograms.star, which has the sizes."),
    ] = None,
    wedge_list: Annotated[
        Path | None,
        typer.Option("--wedge-list", help="Tilts by tomogram: EM, STOPGAP's STAR, or text."),
    ] = None,
    wedge_list_out: Annotated[
        Path | None,
        typer.Option("--wedge-list-out", help="Write A's tilts as such a list (.em or .star)."),
    ] = None,
    box_poses: Annotated[
        bool,
        typer.Option(
            "--box-poses",
            help="Poses of the boxes as they are on disk, not those in the tomogram "
            "(rlnTomoSubtomogram angles).",
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
) -> None:
    """Convert particle tables between RELION, Warp, Dynamo, AV3 and STOPGAP.

    Poses, shifts, coordinates, classes, scores and half-sets go over. What the other format cannot
    hold is listed.
    """
    from rich.console import Console
    from rich.markup import escape

    from faml.io.formats.conversion import Conversion
    from faml.io.formats.conversion import convert as converted

    done = converted(
        Conversion(
            source=source,
            destination=destination,
            target=to,
            particles=particles,
            rescale=rescale,
            voxel_size_angstrom=voxel_size,
            tomogram_size=tomogram_size,
            tomograms=tomograms,
            wedge_list=wedge_list,
            wedge_list_out=wedge_list_out,
            box_poses=box_poses,
            force=force,
        )
    )
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        escape(f"{source} ({done.source}, {done.count} entries) -> {done.files[0]} ({done.target})")
    )
    for path in done.files[1:]:
        console.print(escape(f"with {path}"))
    for line in done.lost:
        console.print(f"[yellow]not kept:[/] {escape(line)}")
    for line in done.notes:
        console.print(f"[yellow]note:[/] {escape(line)}")
