"""`faml simulate`."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import Annotated

import typer

from faml.cli.options import Quiet

__all__ = ["simulate"]

_PACKAGED = Path("groel")
_ROUNDED_TO_ANGSTROM = 10.0


def simulate(
    models: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL...",
            help="PDB, mmCIF or MRC files, one a class; groel is the packaged one.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="A new directory.")],
    box: Annotated[int, typer.Option(help="Edge of the subtomograms in voxels.")],
    voxel_size: Annotated[float, typer.Option("--voxel-size", help="Angstrom.")],
    counts: Annotated[
        list[int] | None,
        typer.Option("--count", help="Particles; once, or once per model. Default: 100."),
    ] = None,
    snr: Annotated[
        float, typer.Option(help="Variance of signal over noise within the box; inf for none.")
    ] = 0.01,
    noise: Annotated[
        str, typer.Option(help="white (behind a wedge), or tilt-series (projected and imaged).")
    ] = "white",
    tilt_range: Annotated[
        tuple[float, float],
        typer.Option("--tilt-range", metavar="MIN MAX", help="In degrees."),
    ] = (-60.0, 60.0),
    tilt_axis: Annotated[str, typer.Option("--tilt-axis", help="y or x.")] = "y",
    tilt_step: Annotated[
        float | None, typer.Option("--tilt-step", help="tilt-series: degrees. Default: 3.")
    ] = None,
    defocus: Annotated[
        list[float] | None,
        typer.Option(
            "--defocus", help="tilt-series: micrometres, once per tomogram. No CTF without."
        ),
    ] = None,
    voltage: Annotated[float | None, typer.Option(help="tilt-series: kV. Default: 300.")] = None,
    spherical_aberration: Annotated[
        float | None, typer.Option("--cs", help="tilt-series: millimetres. Default: 2.7.")
    ] = None,
    amplitude_contrast: Annotated[
        float | None, typer.Option("--amplitude-contrast", help="tilt-series. Default: 0.1.")
    ] = None,
    dose: Annotated[
        float | None,
        typer.Option(
            help="tilt-series: electrons per square Angstrom and tilt. Default: no damage."
        ),
    ] = None,
    detector: Annotated[
        bool, typer.Option("--detector", help="tilt-series: a detector's modulation transfer.")
    ] = False,
    resolution: Annotated[
        float | None, typer.Option(help="Of atomic models, in Angstrom. Default: two voxels.")
    ] = None,
    max_shift: Annotated[
        float, typer.Option("--max-shift", help="Shifts are within +- this many voxels.")
    ] = 3.0,
    orientations: Annotated[
        str, typer.Option(help="uniform, about-x, about-y, about-z or cone.")
    ] = "uniform",
    cone_angle: Annotated[
        float | None,
        typer.Option("--cone-angle", help="cone: half-angle about the beam. Default: 30."),
    ] = None,
    neighbours: Annotated[
        int, typer.Option(help="Other particles around each one, as in a crowded cell.")
    ] = 0,
    dark: Annotated[
        bool, typer.Option("--dark", help="Density is dark, as on the detector.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Same seed, same data.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Make subtomograms of known structures, with the truth in columns of its own."""
    from rich.console import Console

    from faml.simulate.dataset import simulate_dataset
    from faml.simulate.density import demo_model_path
    from faml.simulate.settings import build_simulation

    settings = build_simulation(
        models=[
            str(demo_model_path() if path == _PACKAGED and not path.exists() else path)
            for path in models
        ],
        counts=counts,
        box=box,
        voxel_size_angstrom=voxel_size,
        snr=snr,
        noise=noise,
        tilt_range_deg=tilt_range,
        tilt_axis=tilt_axis,
        tilt_step_deg=tilt_step,
        defocus_um=defocus,
        voltage_kv=voltage,
        spherical_aberration_mm=spherical_aberration,
        amplitude_contrast=amplitude_contrast,
        dose_per_tilt=dose,
        detector=detector,
        resolution_angstrom=resolution,
        max_shift_voxels=max_shift,
        orientations=orientations,
        cone_angle_deg=cone_angle,
        neighbours=neighbours,
        dark=dark,
        seed=seed,
    )
    simulated = simulate_dataset(settings, output)
    star = output / "particles.star"
    if not quiet:
        Console(highlight=False).print(
            f"{len(simulated.labels)} particles: {star}\nnext: faml run {shlex.quote(str(star))} "
            f"-o run --particle-diameter {_diameter_angstrom(output, voxel_size):.0f}"
            + (" --invert" if dark else ""),
            soft_wrap=True,
        )


def _diameter_angstrom(output: Path, voxel_size_angstrom: float) -> float:
    """Of the largest of the structures, rounded up to what one would type."""
    from faml.io.mrc import read_volume
    from faml.simulate.specimen import extent_voxels

    paths = sorted((output / "truth").glob("class_*.mrc"))
    radius = max(extent_voxels(read_volume(path).values) for path in paths)
    exact = 2.0 * radius * voxel_size_angstrom
    return _ROUNDED_TO_ANGSTROM * math.ceil(exact / _ROUNDED_TO_ANGSTROM)
