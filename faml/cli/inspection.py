"""How `faml inspect` shows what it found."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from faml.io.inspect import Inspection
from faml.io.inspection.tomograms import Tomogram

__all__ = ["show_inspection"]

_TOMOGRAMS_SHOWN = 30


def show_inspection(found: Inspection, console: Console, threads: int) -> None:
    """Print an inspection as tables, then conventions and warnings in plain words."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in (*_data_rows(found), *_estimate_rows(found, threads)):
        table.add_row(name, escape(value))
    console.print(table)
    if found.tomograms:
        console.print(_tomograms(found.tomograms))
        hidden = len(found.tomograms) - _TOMOGRAMS_SHOWN
        if hidden > 0:
            console.print(f"{hidden} more tomograms; --json has them all")
    console.print("\n[bold]conventions assumed[/]")
    for line in found.conventions:
        console.print(f"  {escape(line)}", soft_wrap=True)
    for line in found.warnings:
        console.print(f"[yellow]warning:[/] {escape(line)}", soft_wrap=True)


def _data_rows(found: Inspection) -> list[tuple[str, str]]:
    subset = "" if found.count == found.available else f" of {found.available}"
    return [
        ("input", found.input_format),
        ("particles", f"{found.count}{subset}"),
        ("box", f"{found.box}^3 voxels, {found.box * found.voxel_size_angstrom:.0f} Angstrom"),
        ("voxel size", _voxel_size(found)),
        ("MRC modes", ", ".join(map(str, found.modes))),
        ("grey values", "{:.4g} to {:.4g}".format(*found.value_range)),
        ("background mean", _three(found.background_mean)),
        ("background deviation", _three(found.background_std)),
        ("contrast", _contrast(found)),
        ("particle radius", f"{found.particle_radius_voxels:.1f} voxels"),
        ("missing wedge", _wedge(found)),
        ("wedge of the particles", _measured(found)),
        ("CTF-premultiplied", "yes" if found.premultiplied else "no"),
        ("poses in the file", "yes" if found.has_poses else "no"),
        ("duplicates", _duplicates(found)),
        ("normalisation", found.normalisation),
    ]


def _estimate_rows(found: Inspection, threads: int) -> list[tuple[str, str]]:
    times = [
        (
            "time",
            f"about {cost.seconds:.0f} s per iteration at {cost.resolution_angstrom:.0f} Angstrom "
            f"(shell {cost.shell}) on {threads} threads",
        )
        for cost in found.costs
    ]
    memory = ("memory", f"about {found.memory_bytes / 1e6:.0f} MB")
    return [memory, *times, ("resolution", _resolution(found))]


def _three(values: tuple[float, float, float]) -> str:
    low, middle, high = values
    return f"{middle:.4g} (median; {low:.4g} to {high:.4g})"


def _voxel_size(found: Inspection) -> str:
    sizes = found.voxel_sizes
    said = [
        *([f"--voxel-size {sizes.option:.4g}"] if sizes.option is not None else []),
        *([f"table {sizes.table:.4g}"] if sizes.table is not None else []),
        *(f"{count} headers {size:.4g}" for size, count in sizes.headers[:3]),
    ]
    return f"{found.voxel_size_angstrom:.4g} Angstrom ({', '.join(said)})"


def _contrast(found: Inspection) -> str:
    contrast = found.contrast
    numbers = (
        f"centre minus rim {contrast.centre:+.2f}, inside minus outside {contrast.inside:+.2f}"
    )
    if contrast.verdict == "cannot be told":
        return f"cannot be told: signal too weak or centre and rim disagree ({numbers} deviations)"
    right = "as it must be" if contrast.verdict == "white" else "wrong, it must be white"
    return (
        f"protein is {contrast.verdict}, {right} (confidence {contrast.confidence:.4f}; {numbers} "
        "deviations)"
    )


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


def _measured(found: Inspection) -> str:
    wedge = found.measured_wedge
    read = f"from {wedge.particles} particles"
    if not wedge.told:
        return (
            f"cannot be told {read}: no direction is empty, as where noise or a filter came after "
            "the reconstruction"
        )
    about = {
        "z": "about Z",
        "other": f"about an axis {wedge.axis_deg or 0.0:.0f} degrees from Y",
    }.get(wedge.tilt_axis, f"about {wedge.tilt_axis.upper()}")
    low, high = wedge.tilt_range_deg
    return (
        f"tilts {low:.0f} to {high:.0f} degrees {about}, within {wedge.uncertainty_deg:.0f} "
        f"(measured {read}, confidence {wedge.confidence:.2f})"
    )


def _duplicates(found: Inspection) -> str:
    copies = sum(len(names) - 1 for names in found.identical)
    same = f"{copies} copies of other volumes" if copies else "no volume twice"
    if found.close is None:
        return f"{same}; distances unknown, no coordinates"
    return (
        f"{same}; {found.close.particles} particles closer than "
        f"{found.close.distance_angstrom:.0f} Angstrom to another"
    )


def _resolution(found: Inspection) -> str:
    reach = found.resolution
    if reach.signal_angstrom is None:
        return (
            f"between {reach.first_angstrom:.0f} (where a run begins) and "
            f"{reach.nyquist_angstrom:.3g} Angstrom (two voxels); from {reach.basis}"
        )
    snr = "" if reach.snr is None else f", signal-to-noise ratio {reach.snr:.2g}"
    return (
        f"about {reach.signal_angstrom:.3g} Angstrom, no finer than {reach.nyquist_angstrom:.3g} "
        f"(two voxels){snr}; from {reach.basis}"
    )


def _tomograms(tomograms: tuple[Tomogram, ...]) -> Table:
    table = Table("tomogram", "particles", "weights", "tilts seen", "mean", "deviation", "contrast")
    for each in tomograms[:_TOMOGRAMS_SHOWN]:
        tilts = "-"
        if each.tilt_range_deg is not None:
            tilts = "{:.0f} to {:.0f}".format(*each.tilt_range_deg)
        table.add_row(
            escape(each.name),
            str(each.particles),
            str(each.weights),
            tilts,
            f"{each.grey_mean:.3g}",
            f"{each.grey_std:.3g}",
            f"{each.contrast} ({each.centre:+.2f})",
        )
    return table
