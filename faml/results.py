"""What a run leaves in its directory when it ends or is interrupted."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from faml.em.loop import EmRun
from faml.em.overfitting import check_overfitting
from faml.em.state import State, SymmetrySeen
from faml.errors import FamlError, OutputError
from faml.io.atomic import write_text_atomic
from faml.io.dataset import Dataset
from faml.io.fsc_files import write_fsc
from faml.io.mrc import write_volume
from faml.io.output import ParticleResults, class_path, write_class_averages, write_particles
from faml.io.positions import particle_positions
from faml.metrics.orientations import fourier_coverage, viewing_directions
from faml.metrics.particles import duplicates, outliers
from faml.metrics.postprocess import Postprocessed, local_resolution, postprocess
from faml.report.curves import write_fsc_plot
from faml.report.orientations import write_orientation_plot
from faml.report.page import write_report
from faml.report.slices import write_class_slices
from faml.symmetry import PointGroup
from faml.transforms.masks import automatic_mask

__all__ = [
    "HalfResults",
    "doubt_symmetry",
    "draw_classes",
    "draw_orientations",
    "judge_overfitting",
    "leave_report",
    "resolution_text",
    "write_half_results",
    "write_results",
]

_LOG = logging.getLogger("faml")
_FEWEST_SHELLS = 3
"""Half-maps that agree no further than this have no structure in common but a blob."""
_OVERFITTING_NAME = "overfitting.csv"
_UNOBSERVED = 0.02
"""Share of Fourier space whose absence a user should know of."""


@dataclass(frozen=True)
class HalfResults:
    """What half-sets say about the K class averages.

    Attributes
    ----------
    resolutions_angstrom : tuple of K float
        Where the corrected FSC falls below 0.143; infinity where the halves do not agree at all.
    half_maps : tuple of 2 K Path
        Unfiltered and unmasked; class by class.
    sharpened : tuple of K Path
    warnings : tuple of str
    """

    resolutions_angstrom: tuple[float, ...]
    half_maps: tuple[Path, ...]
    sharpened: tuple[Path, ...]
    warnings: tuple[str, ...]


def write_results(
    state: State,
    dataset: Dataset,
    directory: Path,
    em: EmRun,
) -> tuple[tuple[Path, ...], Path]:
    """Write class averages and ``particles.star``; their paths.

    Parameters
    ----------
    state : State
    dataset : Dataset
    directory : Path
    em : EmRun
        Knows the half-sets, and how near to each other particles are one.

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    maps = write_class_averages(
        directory, state.model.volumes, dataset.particles.voxel_size_angstrom
    )
    found = state.assignments
    half_of = None
    if len(em.halves) > 1:
        half_of = np.zeros(len(found), dtype=np.int64)
        half_of[em.halves[1]] = 1
    odd = outliers(found.log_evidences, found.classes)
    same = np.zeros(len(found), dtype=bool)
    distance = em.config.data.min_distance_angstrom
    if distance is not None and dataset.particles.tomograms is not None:
        places = particle_positions(dataset, found.translations)
        tomograms = dataset.particles.tomograms
        same = duplicates(places, tomograms, found.log_evidences, distance)
        _LOG.info("%d particles are duplicates of a better one (duplicates.star)", int(same.sum()))
    star = write_particles(
        directory,
        dataset,
        ParticleResults(
            classes=found.classes,
            rotations=found.rotations,
            translations=found.translations,
            probabilities=found.probabilities,
            log_likelihoods=found.log_likelihoods,
            log_evidences=found.log_evidences,
            outliers=odd,
            duplicates=same,
            halves=half_of,
        ),
    )
    # A report takes what lies there for the results of now once it reads this.
    _LOG.info("%d particles are outliers of their class (famlOutlier)", int(odd.sum()))
    return maps, star


def write_half_results(
    state: State,
    dataset: Dataset,
    directory: Path,
    mask: npt.NDArray[np.float32] | None,
    b_factor: float | None = None,
) -> HalfResults:
    """Write half-maps, FSC, sharpened map and local resolution of every class.

    Parameters
    ----------
    state : State
        The last one, with two `State.half_models`.
    dataset : Dataset
    directory : Path
    mask : (n, n, n) float32 or None
        For the masked FSC; None takes each average's soft outline.
    b_factor : float, optional
        Angstrom^2; None measures it.

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    particles = dataset.particles
    size, box = particles.voxel_size_angstrom, particles.box
    found: list[Postprocessed] = []
    halves, sharpened, warnings = [], [], []
    for k, average in enumerate(state.model.volumes):
        first, second = (model.volumes[k] for model in state.half_models)
        stem = class_path(directory, k).stem
        for number, volume in enumerate((first, second), start=1):
            halves.append(directory / f"half{number}_{stem}.mrc")
            write_volume(halves[-1], volume, size)
        outline = automatic_mask(average) if mask is None else mask
        done = postprocess(first, second, outline, size, b_factor=b_factor)
        found.append(done)
        sharpened.append(directory / f"{stem}_sharpened.mrc")
        write_volume(sharpened[-1], done.volume, size)
        write_volume(
            directory / f"{stem}_local_resolution.mrc", local_resolution(first, second, size), size
        )
        warnings += _judged(done, k, box * size)
        _LOG.info(
            "class %d: resolution %s at FSC 0.143, B-factor %.0f A^2 (%s)",
            k + 1,
            resolution_text(done.resolution_angstrom),
            done.b_factor,
            done.b_factor_reason,
        )
    curves = [done.fsc for done in found]
    write_fsc(directory, curves, box, size)
    write_fsc_plot(directory / "fsc.png", curves, box, size)
    for warning in warnings:
        _LOG.warning(warning)
    return HalfResults(
        tuple(done.resolution_angstrom for done in found),
        tuple(halves),
        tuple(sharpened),
        tuple(warnings),
    )


def _judged(done: Postprocessed, class_index: int, extent_angstrom: float) -> list[str]:
    """Whether the halves have found the same."""
    if done.resolution_angstrom <= extent_angstrom / _FEWEST_SHELLS:
        return []
    return [
        f"class {class_index + 1}: the half-sets agree no further than "
        f"{resolution_text(done.resolution_angstrom)}; there is no structure that both have found, "
        "do not interpret this map"
    ]


def resolution_text(resolution: float) -> str:
    """In Angstrom; halves that agree in nothing have none."""
    return f"{resolution:.1f} Å" if math.isfinite(resolution) else "nothing"


def judge_overfitting(em: EmRun, state: State, directory: Path) -> tuple[str, ...]:
    """Carry out `em.overfitting` and write ``overfitting.csv``; warnings.

    Parameters
    ----------
    em : EmRun
    state : State
        The last one.
    directory : Path
    """
    found = check_overfitting(em, state)
    (directory / _OVERFITTING_NAME).unlink(missing_ok=True)  # of an earlier end of the same run
    if found is None:
        _LOG.info("overfitting: half-sets agree well as far as they were aligned; nothing to test")
        return ()
    assert state.fsc is not None  # it was checked
    lines = ["class,shell,fsc,fsc_random_phases"]
    lines += [
        f"{k + 1},{shell},{state.fsc[k, shell]:.6f},{found.fsc[k, shell]:.6f}"
        for k, shell in np.ndindex(found.fsc.shape)
    ]
    write_text_atomic(directory / _OVERFITTING_NAME, "\n".join(lines) + "\n")
    _LOG.info(
        "overfitting: with phases random from shell %d on, half-sets agree beyond by %s on average",
        found.first_shell,
        " ".join(f"{v:.3f}" for v in found.agreement),
    )
    warnings = tuple(
        f"class {k + 1}: half-sets agree in noise (mean FSC {found.agreement[k]:.2f} where the "
        "data's phases were made random, overfitting.csv); their FSC cannot be trusted there"
        for k in found.suspicious
    )
    for warning in warnings:
        _LOG.warning(warning)
    return warnings


def draw_orientations(
    state: State, dataset: Dataset, directory: Path, symmetry: PointGroup
) -> tuple[str, ...]:
    """Draw ``orientations.png``; warnings about what no particle has observed.

    Parameters
    ----------
    state : State
    dataset : Dataset
    directory : Path
    symmetry : PointGroup
    """
    particles, found = dataset.particles, state.assignments
    members = [np.nonzero(found.classes == k)[0] for k in range(len(state.model.class_fractions))]
    coverages = [
        fourier_coverage(particles, found.rotations, mine, state.align_shell, symmetry)
        if len(mine)
        else None
        for mine in members
    ]
    views = viewing_directions(found.rotations)
    try:
        write_orientation_plot(
            directory / "orientations.png", [views[mine] for mine in members], coverages
        )
    except OutputError as error:
        _LOG.warning("no picture of orientations: %s", error)
    extent = particles.box * particles.voxel_size_angstrom
    warnings = tuple(
        f"class {k + 1}: no particle has observed {100 * each.unobserved:.0f} % of Fourier space "
        f"to {extent / state.align_shell:.1f} Å, because missing wedges coincide; the map is "
        "smeared along these directions (orientations.png)"
        for k, each in enumerate(coverages)
        if each is not None and each.unobserved > _UNOBSERVED
    )
    for warning in warnings:
        _LOG.warning(warning)
    return warnings


def doubt_symmetry(state: State) -> tuple[str, ...]:
    """Warnings about a symmetry that averages did not have before it was imposed on them."""
    warnings = tuple(
        f"class {k + 1}: before {state.symmetry} was imposed, the average did not show it: its FSC "
        f"with its least alike turned copy was {seen.agreement:.2f} on average, "
        f"{_comparison(seen)}. Nothing speaks for {state.symmetry} but you; ask `faml symmetry` "
        "about the map of a run without --symmetry"
        for k, seen in enumerate(state.symmetry_seen)
        if not seen.evident
    )
    for warning in warnings:
        _LOG.warning(warning)
    return warnings


def _comparison(seen: SymmetrySeen) -> str:
    if seen.by_chance:
        return f"with one of a symmetry it can hardly have {seen.chance:.2f}"
    return f"and its noise allows {seen.expected:.2f}"


def leave_report(directory: Path) -> Path | None:
    """Write ``report.html`` of a run whose other results lie there; None if that fails.

    A page that cannot be made is no reason to lose a run, so the log says why in one line.

    Raises
    ------
    KeyboardInterrupt
        With a message: nothing but the report is missing.
    """
    again = f"all other results are complete; try again with: faml report {directory}"
    try:
        return write_report(directory, figures=False)
    except FamlError as error:
        _LOG.warning("no report: %s; %s", error, again)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"interrupted while the report was written; {again}") from error
    except Exception as error:  # noqa: BLE001 - whatever it is, the run has done its work
        _LOG.warning("no report: unexpected %s: %s; %s", type(error).__name__, error, again)
        _LOG.debug("report of %s", directory, exc_info=True)
    return None


def draw_classes(path: Path, state: State, dataset: Dataset) -> None:
    """Central slices; a picture that cannot be written is no reason to stop."""
    size = dataset.particles.voxel_size_angstrom
    fractions = state.model.class_fractions
    try:
        write_class_slices(
            path,
            state.model.volumes,
            size,
            title=f"iteration {state.iteration}, "
            f"aligned to {dataset.particles.box * size / state.align_shell:.1f} Å",
            labels=[f"class {k + 1}: {100 * f:.0f} %" for k, f in enumerate(fractions)],
        )
    except OutputError as error:
        _LOG.warning("no picture of iteration %d: %s", state.iteration, error)
