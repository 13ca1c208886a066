"""`faml run` and `faml resume`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from faml.cli.options import (
    Cluster,
    Diameter,
    Invert,
    Memory,
    Normalise,
    ParticlesFolder,
    Quiet,
    Report,
    Subset,
    Threads,
    TiltAngles,
    TiltAxis,
    TiltRange,
    Tomograms,
    VoxelSize,
    WedgeList,
    all_cores,
)
from faml.errors import ConfigurationError

if TYPE_CHECKING:
    from faml.api import RunResult
    from faml.cli.display import RunDisplay

__all__ = ["merged_settings", "resume", "run"]

_SECTIONS = ("data", "search", "em")


def run(
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory of the results.")],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            help="MRC or EM files, folders, quoted globs, one pack (faml pack), or one table: "
            "RELION, Warp or STOPGAP STAR, Dynamo .tbl, motive list .em.",
            show_default=False,
        ),
    ] = None,
    particles: ParticlesFolder = None,
    wedge_list: WedgeList = None,
    tilt_range: TiltRange = None,
    tilt_angles: TiltAngles = None,
    tilt_axis: TiltAxis = None,
    tomograms: Tomograms = None,
    voxel_size: VoxelSize = None,
    classes: Annotated[int | None, typer.Option(help="Number of classes K. Default: 1.")] = None,
    strategy: Annotated[
        str | None,
        typer.Option(help="fa, faml (default), exhaustive or an installed one (faml strategies)."),
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(help="Maximum number of iterations. Default: 40.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same result. Default: 0.")] = None,
    threads: Threads = None,
    memory: Memory = None,
    cluster: Cluster = None,
    max_shift: Annotated[
        float | None,
        typer.Option(
            "--max-shift",
            help="Largest translation in voxels. Default: box / 8, or what input poses need.",
        ),
    ] = None,
    particle_diameter: Diameter = None,
    start: Annotated[
        str | None,
        typer.Option(help="random (default), average, poses (of the STAR file) or an MRC file."),
    ] = None,
    starts: Annotated[
        int | None,
        typer.Option(help="Try so many random starts and go on with the best. Default: 1."),
    ] = None,
    start_iterations: Annotated[
        int | None, typer.Option(help="Iterations of each of several starts. Default: 12.")
    ] = None,
    start_lowpass: Annotated[
        float | None, typer.Option(help="Low-pass of the start in Angstrom.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="robust (default), or paper (the published recipe).")
    ] = None,
    update: Annotated[str | None, typer.Option(help="M-step: ratio (default) or impute.")] = None,
    symmetry: Annotated[
        str | None,
        typer.Option(help="C1 (default), C2, ..., D2, ..., T, O, I: axes as RELION's."),
    ] = None,
    similarity: Annotated[
        float | None,
        typer.Option(help="How alike class averages are held while they form. Default: 0."),
    ] = None,
    max_candidates: Annotated[
        int | None, typer.Option(help="Candidate poses per particle and class. Default: 50.")
    ] = None,
    proposal: Annotated[
        str | None, typer.Option(help="Candidates of fa and faml: phase (default) or amplitude.")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            help="Particles that each of the first 24 iterations visits, for thousands and more."
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            help="Align each of F parts to the average of the others; 1: all to one. Default: 5."
        ),
    ] = None,
    half_sets: Annotated[
        bool | None,
        typer.Option(
            "--half-sets/--no-half-sets",
            help="Two independent halves: gold-standard FSC, half-maps, sharpened map.",
            show_default=False,
        ),
    ] = None,
    split_by: Annotated[
        str | None,
        typer.Option("--split-by", help="What half-sets draw: particle (default) or tomogram."),
    ] = None,
    check_overfitting: Annotated[
        bool | None,
        typer.Option(
            "--check-overfitting",
            help="Three more iterations with phases random where half-sets stop agreeing.",
            show_default=False,
        ),
    ] = None,
    b_factor: Annotated[
        float | None,
        typer.Option("--b-factor", help="Angstrom^2, negative sharpens. Default: measured."),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(help="sphere (default, of the diameter), auto (soft outline) or an MRC file."),
    ] = None,
    angular_step: Annotated[
        float | None,
        typer.Option(
            "--angular-step",
            help="Euler step in degrees of searches with phases. Default: by resolution.",
        ),
    ] = None,
    shift_step: Annotated[
        float | None,
        typer.Option("--shift-step", help="Their shift step in voxels. Default: by resolution."),
    ] = None,
    oversampling: Annotated[
        int | None,
        typer.Option(help="exhaustive: how often cells may be halved. Default: 3."),
    ] = None,
    posterior_mass: Annotated[
        float | None,
        typer.Option(
            "--posterior-mass", help="exhaustive: share of the posterior to keep. Default: 0.999."
        ),
    ] = None,
    max_poses: Annotated[
        int | None,
        typer.Option("--max-poses", help="exhaustive: poses kept at most. Default: 200."),
    ] = None,
    max_shell: Annotated[
        int | None, typer.Option(help="Largest Fourier shell used for alignment.")
    ] = None,
    max_resolution: Annotated[
        float | None, typer.Option(help="The same as a resolution in Angstrom.")
    ] = None,
    local_angle: Annotated[
        float | None,
        typer.Option(
            "--local-angle",
            help="Search within so many degrees of the input pose; starts from poses.",
        ),
    ] = None,
    refine: Annotated[
        bool | None,
        typer.Option(
            "--refine/--no-refine",
            help="Refine the final poses below grid spacing. Default: yes, with paper no.",
            show_default=False,
        ),
    ] = None,
    min_distance: Annotated[
        float | None,
        typer.Option(
            "--min-distance",
            help="Of particles that end closer than so many Angstrom, keep the best only.",
        ),
    ] = None,
    subset: Subset = None,
    invert: Invert = False,
    normalise: Normalise = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Settings as TOML, such as the config.toml of a run; options win over it."
        ),
    ] = None,
    report: Report = True,
    quiet: Quiet = False,
) -> None:
    """Average and classify subtomograms."""
    settings = merged_settings(
        config,
        preset=preset,
        threads=threads,
        data={
            "inputs": tuple(inputs) if inputs else None,
            "particles_folder": particles,
            "wedge_list": wedge_list,
            "tilt_range_deg": tilt_range,
            "tilt_angles_file": tilt_angles,
            "tilt_axis": tilt_axis,
            "tomograms": tomograms,
            "voxel_size_angstrom": voxel_size,
            "particle_diameter_angstrom": particle_diameter,
            "invert": invert or None,
            "normalise": normalise,
            "min_distance_angstrom": min_distance,
            "subset": subset,
        },
        search={
            "strategy": strategy,
            "max_shift_voxels": max_shift,
            "max_candidates": max_candidates,
            "local_angle_deg": local_angle,
            "proposal": proposal,
            "angular_step_deg": angular_step,
            "shift_step_voxels": shift_step,
            "oversampling": oversampling,
            "posterior_mass": posterior_mass,
            "max_poses": max_poses,
            "refine": refine,
        },
        em={
            "classes": classes,
            "iterations": iterations,
            "seed": seed,
            "start": start,
            "starts": starts,
            "start_iterations": start_iterations,
            "symmetry": symmetry,
            "similarity": similarity,
            "start_lowpass_angstrom": start_lowpass,
            "update": update,
            "max_shell": max_shell,
            "batch": batch,
            "folds": folds,
            "half_sets": half_sets,
            "split_by": split_by,
            "check_overfitting": check_overfitting,
            "b_factor": b_factor,
            "mask": mask,
        },
    )
    if memory is not None:
        settings["memory_gb"] = memory
    _run(settings, output, max_resolution, cluster, quiet=quiet, report=report)


def _run(
    settings: dict[str, Any],
    output: Path,
    max_resolution: float | None,
    cluster: str | None,
    *,
    quiet: bool,
    report: bool,
) -> None:
    from faml import api
    from faml.cli.display import RunDisplay

    inputs = settings["data"].pop("inputs", ())
    if isinstance(inputs, str) or not all(isinstance(item, str) for item in inputs):
        raise ConfigurationError(f"data.inputs: expected a list of paths, found {inputs!r}")
    if not inputs:
        raise ConfigurationError(
            "expected particles, found none; give MRC files, a folder, a glob or a STAR file"
        )
    settings["output"] = output
    with RunDisplay(quiet=quiet) as display:
        result = api.run(
            inputs,
            max_resolution_angstrom=max_resolution,
            cluster=cluster,
            progress=display.progress,
            on_state=display.state,
            on_message=display.say,
            report=report,
            **settings,
        )
    _summary(display, result)


def resume(
    directory: Annotated[Path, typer.Argument(help="Output directory of a run.")],
    iterations: Annotated[
        int | None, typer.Option(help="New maximum; a converged run goes on only with this.")
    ] = None,
    threads: Threads = None,
    memory: Memory = None,
    cluster: Cluster = None,
    report: Report = True,
    quiet: Quiet = False,
) -> None:
    """Continue a run after its last complete iteration."""
    from faml import api
    from faml.cli.display import RunDisplay

    with RunDisplay(quiet=quiet) as display:
        result = api.resume(
            directory,
            iterations=iterations,
            threads=all_cores() if threads is None else threads,
            memory_gb=memory,
            cluster=cluster,
            progress=display.progress,
            on_state=display.state,
            on_message=display.say,
            report=report,
        )
    if display.iterations == 0:
        done = result.state
        display.say(
            f"nothing to continue: {done.stop_reason or f'iteration {done.iteration} is done'}; "
            f"for more, give --iterations with more than {done.iteration}"
        )
    _summary(display, result)


def merged_settings(
    config: Path | None,
    *,
    preset: str | None,
    threads: int | None,
    **sections: dict[str, Any],
) -> dict[str, Any]:
    """Settings of a TOML file and the options of the command line, which win.

    Parameters
    ----------
    config : Path or None
    preset, threads
        As given, or None.
    **sections
        ``data``, ``search`` and ``em``; None means "not given".

    Raises
    ------
    ConfigurationError
        The file is missing, not TOML, or a section of it is not a table.
    """
    values = {} if config is None else _read_toml(config)
    unknown = set(values) - {*_SECTIONS, "preset", "threads", "memory_gb", "output"}
    if unknown:
        raise ConfigurationError(
            f"{config}: unknown setting {', '.join(sorted(unknown))}; settings stand in the tables "
            f"{', '.join(f'[{name}]' for name in _SECTIONS)}"
        )
    for name in _SECTIONS:
        stored = values.get(name, {})
        if not isinstance(stored, dict):
            raise ConfigurationError(f"{config}: expected a table [{name}], found {stored!r}")
        given = {key: value for key, value in sections[name].items() if value is not None}
        values[name] = stored | given
    values["preset"] = preset or values.get("preset", "robust")
    # Threads are of the machine, not of the run: the file's number means nothing here.
    values["threads"] = all_cores() if threads is None else threads
    return values


def _read_toml(path: Path) -> dict[str, Any]:
    from faml.config import toml_values
    from faml.errors import InputDataError
    from faml.io.files import read_text

    try:
        text = read_text(path, "settings in TOML, such as the config.toml of a run")
    except InputDataError as error:
        raise ConfigurationError(str(error)) from error
    try:
        return toml_values(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}; correct it") from error


def _summary(display: RunDisplay, result: RunResult) -> None:
    from faml.results import resolution_text

    state = result.state
    if state.iteration > 0 and not state.stop_reason:
        display.say(
            f"stopped after {state.iteration} iterations, not converged; continue with: faml "
            f"resume {result.directory} --iterations {2 * state.iteration}"
        )
    for k, resolution in enumerate(result.halves.resolutions_angstrom if result.halves else ()):
        display.say(
            f"class {k + 1}: half-maps agree to {resolution_text(resolution)} (corrected FSC 0.143)"
        )
    maps = ", ".join(path.name for path in result.maps)
    display.say(f"{result.directory}: {maps}, {result.star.name}, run.h5; pictures in slices.png")
    if result.report is not None:
        display.say(f"what was found, in a browser: {result.report}")
