"""`faml symmetry`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import numpy.typing as npt
import typer

from faml.cli.options import VoxelSize
from faml.errors import ConfigurationError, InputDataError, OutputError

if TYPE_CHECKING:
    from rich.console import Console

    from faml.metrics.symmetry_search import SymmetryFit

__all__ = ["symmetry"]

_POLYHEDRAL = ("T", "O", "I")
_FOLDS = 12


def symmetry(
    map_file: Annotated[Path, typer.Argument(metavar="MAP", help="An MRC map.")],
    groups: Annotated[
        str | None,
        typer.Option(help="Point groups to test, such as C7,D7. Default: all up to --max-fold."),
    ] = None,
    max_fold: Annotated[
        int | None,
        typer.Option(
            "--max-fold", min=2, max=60, help=f"Highest order of an axis tested. Default: {_FOLDS}."
        ),
    ] = None,
    helical: Annotated[
        bool, typer.Option("--helical", help="Rise and twist about Z instead of point groups.")
    ] = False,
    particle_diameter: Annotated[
        float | None,
        typer.Option(
            "--particle-diameter",
            help="Angstrom, of a helix. Default: 0.6 of the box.",
        ),
    ] = None,
    least_rise: Annotated[
        float | None,
        typer.Option("--least-rise", help="Angstrom, of a helix. Default: two voxels."),
    ] = None,
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

    from faml.io.mrc import read_volume, write_volume
    from faml.metrics.symmetry_search import find_symmetry, in_standard_frame
    from faml.symmetry import point_group

    if helical and any(v is not None for v in (groups, max_fold, align, max_resolution)):
        raise ConfigurationError(
            "--helical looks for rise and twist only; leave out --groups, --max-fold, --align and "
            "--max-resolution"
        )
    if not helical and any(v is not None for v in (particle_diameter, least_rise)):
        raise ConfigurationError(
            "--particle-diameter and --least-rise are for --helical; leave them out"
        )
    if groups is not None and max_fold is not None:
        raise ConfigurationError("--groups says what is tested; leave out --max-fold")
    if (align is None) != (output is None):
        raise ConfigurationError("--align GROUP and --output FILE belong together; give both")
    names = _names(groups, max_fold or _FOLDS, align)
    volume = read_volume(map_file)
    if output is not None and output.exists() and output.samefile(map_file):
        raise OutputError(f"{output}: is the map itself; choose another file")
    values = volume.values
    size = volume.header.voxel_size_angstrom if voxel_size is None else voxel_size
    if size is None:
        raise InputDataError(f"{map_file}: the header has no voxel size; give --voxel-size")
    if not size > 0:
        raise ConfigurationError(f"expected a voxel size above 0 Angstrom, found {size:g}")
    if len(set(values.shape)) != 1:
        raise InputDataError(
            f"{map_file}: expected a cubic map, found {values.shape}; pad or crop it"
        )
    if not values.max() > values.min():
        raise InputDataError(f"{map_file}: the map is constant; it holds no structure")
    extent = values.shape[0] * size
    console = Console(highlight=False)
    if helical:
        diameter = 0.6 * extent if particle_diameter is None else particle_diameter
        _show_helix(
            values, size, diameter, 2.0 * size if least_rise is None else least_rise, console
        )
        return
    fits = find_symmetry(
        values,
        [point_group(name) for name in names],
        size,
        max_shell=_last_shell(max_resolution, extent),
    )
    _show_fits(fits, values, size, console)
    if align is not None and output is not None:
        chosen = next(fit for fit in fits if fit.group.name == point_group(align).name)
        write_volume(output, in_standard_frame(values, chosen), size)
        console.print(f"{output}: axes of {chosen.group.name} as --symmetry wants", markup=False)


def _last_shell(max_resolution: float | None, extent: float) -> int | None:
    if max_resolution is None:
        return None
    if not 0 < max_resolution <= extent / 2:
        raise ConfigurationError(
            f"expected a finest resolution above 0 and up to {extent / 2:g} Angstrom, found "
            f"{max_resolution:g}"
        )
    return int(extent / max_resolution)


def _show_fits(
    fits: tuple[SymmetryFit, ...], values: npt.NDArray[np.float32], size: float, console: Console
) -> None:
    from rich.table import Table

    from faml.metrics.symmetry_search import suggested

    table = Table("group", "correlation", "weakest", "agrees to", "main axis x y z", "centre x y z")
    for fit in fits:
        finest = fit.resolution_angstrom
        table.add_row(
            fit.group.name,
            f"{fit.correlation:.3f}",
            f"{fit.weakest:.3f}",
            f"{finest:.1f} Å" if np.isfinite(finest) else "nothing",
            " ".join(f"{v:+.2f}" for v in fit.rotation[:, 2]),
            " ".join(f"{v:+.1f}" for v in fit.centre),
        )
    console.print(table)
    console.print(
        "correlation of the map with its copies turned by the group, mean and smallest; "
        "agrees to: FSC 0.5 with them; centre in voxels from the middle of the box",
        soft_wrap=True,
    )
    best = suggested(fits, values, size)
    if best is None:
        console.print("no symmetry: nothing agrees beyond the particle's outline", soft_wrap=True)
    else:
        console.print(
            f"[bold]{best.group.name}[/] is the largest group that holds as far as any does",
            soft_wrap=True,
        )


def _show_helix(
    values: npt.NDArray[np.float32],
    size: float,
    diameter: float,
    least_rise: float,
    console: Console,
) -> None:
    from rich.table import Table

    from faml.metrics.helix import find_helix

    largest = 2 * (values.shape[0] // 2 - 1) * size
    if not 2 * size <= diameter <= largest:
        raise ConfigurationError(
            f"expected a diameter of {2 * size:g} to {largest:g} Angstrom, found {diameter:g}"
        )
    highest = 0.5 * values.shape[0] * size
    if not size <= least_rise <= highest:
        raise ConfigurationError(
            f"expected a least rise of one voxel ({size:g} Angstrom) to {highest:g} Angstrom, "
            f"found {least_rise:g}"
        )
    table = Table("rise", "twist", "correlation")
    for fit in find_helix(values, size, 0.5 * diameter / size, least_rise_angstrom=least_rise):
        table.add_row(
            f"{fit.rise_angstrom:.2f} Å", f"{fit.twist_deg:+.2f}°", f"{fit.correlation:.3f}"
        )
    console.print(table)
    console.print(
        f"screws about Z that take the map onto itself, from a rise of {least_rise:g} Å on; "
        "multiples of one screw are as good as it, and it may lie below that (--least-rise)",
        soft_wrap=True,
    )


def _names(groups: str | None, max_fold: int, align: str | None) -> list[str]:
    from faml.symmetry import point_group

    if groups is None:
        folds = range(2, max_fold + 1)
        found = [f"C{n}" for n in folds] + [f"D{n}" for n in folds] + list(_POLYHEDRAL)
    else:
        found = [point_group(name).name for name in groups.split(",")]
    if align is not None:
        found.append(point_group(align).name)
    if "C1" in found:
        raise ConfigurationError("every map has C1; leave it out")
    return list(dict.fromkeys(found))
