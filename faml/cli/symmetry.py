"""`faml symmetry`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from faml.cli.options import VoxelSize
from faml.errors import ConfigurationError, InputDataError, OutputError

__all__ = ["symmetry"]

_POLYHEDRAL = ("T", "O", "I")


def symmetry(
    map_file: Annotated[Path, typer.Argument(metavar="MAP", help="An MRC map.")],
    groups: Annotated[
        str | None,
        typer.Option(help="Point groups to test, such as C7,D7. Default: all up to --max-fold."),
    ] = None,
    max_fold: Annotated[
        int, typer.Option("--max-fold", min=2, max=60, help="Highest order of an axis tested.")
    ] = 12,
    voxel_size: VoxelSize = None,
    max_resolution: Annotated[
        float | None, typer.Option(help="Finest detail the search looks at, in Angstrom.")
    ] = None,
    align: Annotated[
        str | None,
        typer.Option(
            help="Write the map turned so that this group's axes lie as --symmetry wants."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The turned map.", show_default=False)
    ] = None,
) -> None:
    """Say which point groups a map has, and turn it onto their standard axes."""
    from rich.console import Console
    from rich.table import Table

    from faml.io.mrc import read_volume, write_volume
    from faml.metrics.symmetry_search import find_symmetry, in_standard_frame, suggested
    from faml.symmetry import point_group

    if (align is None) != (output is None):
        raise ConfigurationError("--align GROUP and --output FILE belong together; give both")
    if output is not None and output.exists() and output.samefile(map_file):
        raise OutputError(f"{output}: is the map itself; choose another file")
    names = _names(groups, max_fold)
    if align is not None and point_group(align).name not in names:
        names.append(point_group(align).name)
    volume = read_volume(map_file)
    size = voxel_size or volume.header.voxel_size_angstrom
    if size is None:
        raise InputDataError(f"{map_file}: the header has no voxel size; give --voxel-size")
    extent = volume.values.shape[0] * size
    shell = None
    if max_resolution is not None:
        if not 0 < max_resolution <= extent / 2:
            raise ConfigurationError(
                f"expected a finest resolution above 0 and up to {extent / 2:g} Angstrom, found "
                f"{max_resolution:g}"
            )
        shell = int(extent / max_resolution)
    if not volume.values.max() > volume.values.min():
        raise InputDataError(f"{map_file}: the map is constant; it holds no structure")
    fits = find_symmetry(
        volume.values, [point_group(name) for name in names], size, max_shell=shell
    )
    console = Console(highlight=False)
    table = Table("group", "correlation", "weakest", "agrees to", "main axis x y z", "centre x y z")
    for fit in fits:
        finest = fit.resolution_angstrom
        table.add_row(
            fit.group.name,
            f"{fit.correlation:.3f}",
            f"{fit.weakest:.3f}",
            f"{finest:.1f} Å" if finest < extent else "nothing",
            " ".join(f"{v:+.2f}" for v in fit.rotation[:, 2]),
            " ".join(f"{v:+.1f}" for v in fit.centre),
        )
    console.print(table)
    console.print(
        "correlation of the map with its copies turned by the group, mean and smallest; "
        "agrees to: FSC 0.5 with them; centre in voxels from the middle of the box",
        soft_wrap=True,
    )
    best = suggested(fits, volume.values, size)
    if best is None:
        console.print("no symmetry: nothing agrees beyond the particle's outline", soft_wrap=True)
    else:
        console.print(
            f"[bold]{best.group.name}[/] is the largest group that holds as far as any does",
            soft_wrap=True,
        )
    if align is not None and output is not None:
        chosen = next(fit for fit in fits if fit.group.name == point_group(align).name)
        write_volume(output, in_standard_frame(volume.values, chosen), size)
        console.print(f"{output}: axes of {chosen.group.name} as --symmetry wants", markup=False)


def _names(groups: str | None, max_fold: int) -> list[str]:
    from faml.symmetry import point_group

    if groups is None:
        folds = range(2, max_fold + 1)
        return [f"C{n}" for n in folds] + [f"D{n}" for n in folds] + list(_POLYHEDRAL)
    found = [point_group(name).name for name in groups.split(",")]
    if "C1" in found:
        raise ConfigurationError("every map has C1; leave it out of --groups")
    return list(dict.fromkeys(found))
