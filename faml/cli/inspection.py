"""How `faml inspect` shows what it found."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from faml.io.inspect import Inspection

__all__ = ["show_inspection"]


def show_inspection(found: Inspection, console: Console, threads: int) -> None:
    """Print an inspection as a table, then conventions and warnings in plain words."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    subset = "" if found.count == found.available else f" of {found.available}"
    rows = [
        ("particles", f"{found.count}{subset}"),
        ("box", f"{found.box}^3 voxels, {found.box * found.voxel_size_angstrom:.0f} Angstrom"),
        ("voxel size", f"{found.voxel_size_angstrom:.4g} Angstrom"),
        ("MRC modes", ", ".join(map(str, found.modes))),
        ("grey values", "{:.4g} to {:.4g}".format(*found.value_range)),
        ("background mean", _three(found.background_mean)),
        ("background deviation", _three(found.background_std)),
        ("contrast", f"inside minus outside {found.contrast:+.2f} deviations (positive expected)"),
        ("particle radius", f"{found.particle_radius_voxels:.1f} voxels"),
        ("missing wedge", _wedge(found)),
        ("CTF-premultiplied", "yes" if found.premultiplied else "no"),
        ("poses in the file", "yes" if found.has_poses else "no"),
        ("normalisation", found.normalisation),
        ("memory", f"about {found.memory_bytes / 1e6:.0f} MB"),
    ]
    rows += [
        (
            "time",
            f"about {cost.seconds:.0f} s per iteration at {cost.resolution_angstrom:.0f} Angstrom "
            f"(shell {cost.shell}) on {threads} threads",
        )
        for cost in found.costs
    ]
    for name, value in rows:
        table.add_row(name, escape(value))
    console.print(table)
    console.print("\n[bold]conventions assumed[/]")
    for line in found.conventions:
        console.print(f"  {escape(line)}", soft_wrap=True)
    for line in found.warnings:
        console.print(f"[yellow]warning:[/] {escape(line)}", soft_wrap=True)


def _three(values: tuple[float, float, float]) -> str:
    low, middle, high = values
    return f"{middle:.4g} (median; {low:.4g} to {high:.4g})"


def _wedge(found: Inspection) -> str:
    if found.weight_source == "missing":
        return "unknown: give --tilt-range MIN MAX"
    observed = "" if found.observed_fraction is None else f"{100 * found.observed_fraction:.0f} %"
    tilt = ""
    if found.tilt_range_deg is not None:
        low, high = found.tilt_range_deg
        about = "about " if found.tilt_range_origin == "estimated" else ""
        tilt = f", tilts {about}{low:.0f} to {high:.0f} degrees about {found.tilt_axis.upper()}"
    number = "" if found.distinct_weights == 1 else f", {found.distinct_weights} distinct weights"
    return f"{observed} of Fourier space observed{tilt}{number} (from {found.weight_source})"
