"""`faml simulate`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from faml.cli.options import Quiet
from faml.errors import ConfigurationError

__all__ = ["simulate"]

_ROUTES = ("white", "tilt-series")
_CONE_DEG = 30.0


def simulate(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL...", help="PDB, mmCIF or MRC files, one a class.")
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
        typer.Option("--tilt-range", metavar="MIN MAX", help="About Y, in degrees."),
    ] = (-60.0, 60.0),
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

    from faml.simulate.dataset import (
        checksums,
        model_density,
        new_directory,
        write_dataset,
    )
    from faml.simulate.particles import simulate_particles
    from faml.simulate.tilt_series import Imaging, TiltSeries

    kind = orientations.replace("-", "_")
    if noise not in _ROUTES:
        raise ConfigurationError(f"expected --noise {' or '.join(_ROUTES)}, found {noise!r}")
    if cone_angle is not None and kind != "cone":
        raise ConfigurationError("--cone-angle is for --orientations cone; leave it out")
    given = {
        "voltage_kv": voltage,
        "spherical_aberration_mm": spherical_aberration,
        "amplitude_contrast": amplitude_contrast,
        "dose_per_tilt": dose,
        "detector": detector or None,
    }
    optics: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    series = None
    if noise == "white":
        if optics or defocus or tilt_step is not None:
            raise ConfigurationError(
                "tilt step, defocus, microscope, dose and detector are for --noise tilt-series; "
                "give that or leave them out"
            )
    else:
        # Damage depends on the voltage, too.
        of_ctf = {
            "--voltage": None if dose else voltage,
            "--cs": spherical_aberration,
            "--amplitude-contrast": amplitude_contrast,
        }
        unused = [option for option, value in of_ctf.items() if value is not None]
        if unused and not defocus:
            raise ConfigurationError(
                f"{', '.join(unused)} belong to a CTF; give --defocus as well or leave them out"
            )
        defoci: list[float | None] = [*defocus] if defocus else [None]
        imagings = [Imaging(defocus_um=each, **optics) for each in defoci]
        series = TiltSeries(3.0 if tilt_step is None else tilt_step, tuple(imagings))
    cone = _CONE_DEG if cone_angle is None else cone_angle
    numbers = counts or [100]
    if len(numbers) == 1:
        numbers = numbers * len(models)
    if len(numbers) != len(models):
        raise ConfigurationError(
            f"expected --count once, or once per model ({len(models)}), found it {len(numbers)} "
            "times"
        )
    settings = {
        "box": box,
        "voxel_size_angstrom": voxel_size,
        "counts": numbers,
        "snr": snr,
        "noise": noise,
        "tilt_range_deg": list(tilt_range),
        "tilt_step_deg": series.step_deg if series else None,
        **(asdict(series.imagings[0]) if series else {}),
        "defocus_um": defocus or None,
        "resolution_angstrom": resolution,
        "max_shift_voxels": max_shift,
        "orientations": orientations,
        "cone_angle_deg": cone if kind == "cone" else None,
        "neighbours": neighbours,
        "dark": dark,
        "seed": seed,
    }
    with new_directory(output) as folder:
        sources = checksums(models)
        densities = [model_density(path, box, voxel_size, resolution) for path in models]
        simulated = simulate_particles(
            densities,
            numbers,
            snr=snr,
            tilt_range_deg=tilt_range,
            max_shift_voxels=max_shift,
            seed=seed,
            voxel_size_angstrom=voxel_size,
            rotations=kind,
            cone_deg=cone,
            neighbours=neighbours,
            tilt_series=series,
            dark=dark,
        )
        write_dataset(simulated, densities, sources, folder, settings)
    star = output / "particles.star"
    if not quiet:
        Console(highlight=False).print(
            f"{len(simulated.labels)} particles: {star}\nnext: faml run {star} -o run"
            + (" --invert" if dark else ""),
            soft_wrap=True,
        )
