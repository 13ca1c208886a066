"""What a run has found, in words for somebody who has not seen the program before."""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass

import numpy as np

from faml.report.run_data import RunData

__all__ = [
    "ClassSummary",
    "Fact",
    "Step",
    "Summary",
    "duration_text",
    "resolution_words",
    "summarise",
]

_UNCERTAIN_POSES = 20.0
_SURE_PROBABILITY = 0.5
_FIRST_TELLING = 3
"""Iteration from random orientations before which a resolution says nothing."""
_ENDINGS = {
    "finished": "The run finished",
    "interrupted": "The run was interrupted after iteration {}",
    "failed": "The run ended with an error after iteration {}",
    "open": "Iteration {} is the last complete one so far",
}


@dataclass(frozen=True)
class Fact:
    """A number of the head of the page: what it is, its value, and a word on it."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Step:
    """A command, and why one would give it."""

    why: str
    command: str


@dataclass(frozen=True)
class ClassSummary:
    """A class in words.

    Attributes
    ----------
    number : int
        From one.
    particles : int
    share : str
        Of all particles.
    resolution, resolution_half : str
        At FSC 0.143 and 0.5.
    empty : bool
    unobserved : str
        Share of Fourier space that no particle observed; empty where that is not known.
    file : str
        Its map, where it has been written.
    """

    number: int
    particles: int
    share: str
    resolution: str
    resolution_half: str
    empty: bool
    unobserved: str
    file: str


@dataclass(frozen=True)
class Summary:
    """The head of the page."""

    title: str
    sentence: str
    facts: tuple[Fact, ...]
    warnings: tuple[str, ...]
    steps: tuple[Step, ...]
    classes: tuple[ClassSummary, ...]


def summarise(data: RunData, *, live: bool = False) -> Summary:
    """Words and numbers for the head of a report; ``live`` for one that `faml watch` shows."""
    return Summary(
        title="/".join(data.directory.resolve().parts[1:][-2:]) or str(data.directory),
        sentence=_sentence(data),
        facts=_facts(data),
        warnings=_warnings(data),
        steps=_steps(data, live=live),
        classes=tuple(_class(data, k) for k in range(data.classes)),
    )


def resolution_words(value: float, *, throughout: bool = False) -> str:
    """Of half-sets: a number, nothing in common, or never measured (NaN).

    Where halves agree ``throughout`` it is the voxels that end the curve.
    """
    if math.isnan(value):
        return "not measured"
    if not math.isfinite(value):
        return "none: the halves have nothing in common"
    return f"{value:.1f} Å{' or better' if throughout else ''}"


def duration_text(seconds: float) -> str:
    """Hours, minutes and seconds, the two that matter."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _sentence(data: RunData) -> str:
    count = len(data.names)
    shown = int((data.class_counts > 0).sum())
    groups = "one average" if data.classes == 1 else f"{data.classes} classes"
    if shown < data.classes:
        groups += f" ({data.classes - shown} of them empty)"
    largest = _largest_class(data)
    reached = data.resolution_angstrom(largest)
    of_class = f" of class {largest + 1}, the largest," if data.classes > 1 else ""
    if math.isnan(reached):
        agreement = "The resolution has not been measured"
        agreement += " yet." if _half_sets(data) else ": that takes a run with --half-sets."
    elif math.isfinite(reached):
        end = "where its two halves stop agreeing (FSC 0.143)"
        if data.agrees_throughout(largest):
            end = "as far as the voxels go: its two halves agree throughout (FSC 0.143)"
        agreement = f"The map{of_class} reaches {reached:.1f} Å, {end}."
        if not data.fsc:
            agreement = (
                f"So far the halves{of_class} agree to {reached:.1f} Å (FSC 0.143, {_how(data)})."
            )
    else:
        agreement = (
            f"The two halves{of_class or ' of the data'} have found nothing in common: do not "
            "interpret the map."
        )
    # Without a log, results that lie there are taken for the end.
    ending = data.log.ending if data.log.began or not data.final else "finished"
    how = _ENDINGS[ending].format(data.iteration)
    return f"{how}: {_plural(count, 'particle')}, {groups}. {agreement}"


def _facts(data: RunData) -> tuple[Fact, ...]:
    counts = data.class_counts
    occupancy = " / ".join(f"{100 * c / max(1, counts.sum()):.0f}" for c in counts[:6])
    if data.classes > 6:
        occupancy += " / ..."
    tomograms = data.particles.tomograms
    where = "" if tomograms is None else f"in {_plural(len(np.unique(tomograms)), 'tomogram')}"
    facts = [
        Fact("particles", f"{len(data.names):,}", where),
        Fact(
            "classes", str(data.classes), f"{occupancy} % of particles" if data.classes > 1 else ""
        ),
        _resolution_fact(data),
        Fact(
            "aligned to",
            f"{data.extent_angstrom / data.state.align_shell:.1f} Å",
            "finest detail used for alignment",
        ),
        Fact(
            "iterations",
            str(data.iteration),
            "converged" if data.state.stop_reason else "not converged",
        ),
    ]
    if data.log.began is not None:
        facts.append(
            Fact("time", duration_text(data.log.seconds), f"began {data.log.began:%Y-%m-%d %H:%M}")
        )
    return tuple(facts)


def _resolution_fact(data: RunData) -> Fact:
    """Of the largest class: a small one may reach anything by chance."""
    largest = _largest_class(data)
    reached = data.resolution_angstrom(largest)
    if math.isnan(reached):
        return Fact(
            "resolution", "not measured", "not yet" if _half_sets(data) else "run with --half-sets"
        )
    value = f"{reached:.1f} Å" if math.isfinite(reached) else "none"
    how = f"class {largest + 1}, the largest; " if data.classes > 1 else ""
    how += "half-sets, FSC 0.143"
    if data.fsc:
        return Fact("resolution", value, how)
    how += f", {_how(data)}"
    if data.config.em.start == "random" and data.iteration < _FIRST_TELLING:
        return Fact(
            "resolution", "not yet", "from random orientations the first iterations tell nothing"
        )
    return Fact("resolution so far", value, how)


def _warnings(data: RunData) -> tuple[str, ...]:
    found: list[str] = []
    if data.log.error:
        found.append(f"the run ended with an error: {data.log.error}")
    if data.classes > 1 and data.state.empty_classes:
        numbers = ", ".join(str(k + 1) for k in data.state.empty_classes)
        found.append(
            f"class {numbers} had too few particles and kept its old average; fewer classes may do"
        )
    # `empty_classes` says it already.
    found += [text for text in data.log.warnings if not re.search(r"class \d+ is empty", text)]
    effective = float(data.state.assignments.effective_poses.mean())
    if effective > _UNCERTAIN_POSES and data.iteration > 0:
        found.append(
            f"an average particle still fits {effective:.0f} poses: orientations are uncertain, "
            "and detail is blurred"
        )
    odd = int(data.particles.outliers.sum())
    if odd:
        found.append(
            f"{_plural(odd, 'particle')} {'is an outlier' if odd == 1 else 'are outliers'} of "
            f"{'its' if odd == 1 else 'their'} class (famlOutlier in particles.star): look at "
            f"{'it' if odd == 1 else 'them'} before going on"
        )
    if data.duplicates:
        found.append(
            f"{_plural(data.duplicates, 'particle')} left out as duplicates of better ones "
            "(duplicates.star)"
        )
    return (*found, *data.notes)


def _steps(data: RunData, *, live: bool) -> tuple[Step, ...]:
    run = shlex.quote(str(data.directory))
    if data.log.ending in ("interrupted", "failed"):
        return (Step("Go on where the run stopped", f"faml resume {run}"),)
    if not data.final:
        resume = Step("If it was stopped, go on from there", f"faml resume {run}")
        if live:  # the reader is watching
            return (resume,)
        return (Step("Watch the run while it goes on", f"faml watch {run}"), resume)
    steps = []
    if not data.state.stop_reason and data.iteration > 0:
        steps.append(
            Step(
                "It has not converged: let it go on",
                f"faml resume {run} --iterations {2 * data.iteration}",
            )
        )
    return (*steps, *_questions(data))


def _questions(data: RunData) -> list[Step]:
    """What one may ask of a run that has ended."""
    name = str(data.directory).rstrip("/")
    again = f"faml run --config {shlex.quote(name + '/config.toml')}"

    def output(suffix: str) -> str:
        return f"-o {shlex.quote(f'{name}-{suffix}')}"

    steps = []
    if not data.config.em.half_sets:
        steps.append(
            Step(
                "Measure how far to trust the map: two halves that never see each other",
                f"{again} {output('half-sets')} --half-sets",
            )
        )
    if data.config.em.classes == 1:
        steps.append(
            Step("See whether it is a mixture", f"{again} {output('classes')} --classes 2")
        )
    if data.config.em.starts == 1 and data.config.em.start == "random":
        steps.append(
            Step(
                "See whether other random starts find the same",
                f"{again} {output('starts')} --starts 6",
            )
        )
    if data.config.em.symmetry == "C1":
        largest = _largest_class(data) + 1
        steps.append(
            Step(
                "See which symmetry it has",
                f"faml symmetry {shlex.quote(f'{name}/class_{largest:03d}.mrc')}",
            )
        )
    maps = " ".join(
        shlex.quote(f"{name}/class_{k + 1:03d}.mrc") for k in range(min(data.classes, 6))
    )
    steps.append(Step("Look at the maps in ChimeraX", f"chimerax {maps}"))
    return steps


def _class(data: RunData, k: int) -> ClassSummary:
    particles = int(data.class_counts[k])
    coverage = data.coverages[k]
    name = f"class_{k + 1:03d}.mrc"
    return ClassSummary(
        number=k + 1,
        particles=particles,
        share=f"{100 * particles / max(1, len(data.particles)):.0f} %",
        resolution=resolution_words(
            data.resolution_angstrom(k), throughout=data.agrees_throughout(k)
        ),
        resolution_half=resolution_words(
            data.resolution_angstrom(k, 0.5), throughout=data.agrees_throughout(k, 0.5)
        ),
        empty=particles == 0,
        unobserved="" if coverage is None else f"{100 * coverage.unobserved:.0f} %",
        file=name if data.final else "",
    )


def _largest_class(data: RunData) -> int:
    """The class of most particles."""
    return int(np.argmax(data.class_counts))


def _half_sets(data: RunData) -> bool:
    return data.config.em.half_sets


def _how(data: RunData) -> str:
    """In which way the FSC of an iteration was measured."""
    return "not corrected for the mask" if data.masked else "no mask"


def _plural(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
