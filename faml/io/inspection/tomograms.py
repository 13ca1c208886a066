"""What each tomogram holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from faml.io.dataset import Dataset
from faml.io.grey_values import judge_contrast
from faml.io.inspection.measured_wedge import MeasuredWedge, PowerSpectrum, WedgeGauge, sample_size
from faml.io.inspection.wedge_check import wedge_warnings

__all__ = [
    "Tomogram",
    "WedgeSurvey",
    "describe_tomograms",
    "survey_wedges",
    "tomogram_names",
    "tomogram_wedge_warnings",
]

_LARGEST_BOX = 160
"""Of larger ones the spectrum of each tomogram would take too much memory."""
_FEWEST = 4
"""Particles of a tomogram in the sample, below which its wedge is not held against the weights."""
_MOST_COMPARED = 100
_NAMES = ("rlnTomoName", "rlnMicrographName")


@dataclass(frozen=True)
class Tomogram:
    """Statistics of the particles of one tomogram.

    Attributes
    ----------
    name : str
    particles : int
    weights : int
        Distinct weights.
    tilt_range_deg : (float, float) or None
        That the particles show; None where it cannot be told.
    grey_mean, grey_std : float
        Median of the backgrounds.
    contrast : {"white", "black", "cannot be told"}
    centre : float
        Median of centre minus rim, in deviations of the background.
    """

    name: str
    particles: int
    weights: int
    tilt_range_deg: tuple[float, float] | None
    grey_mean: float
    grey_std: float
    contrast: Literal["white", "black", "cannot be told"]
    centre: float


@dataclass(frozen=True)
class WedgeSurvey:
    """Wedges measured in a sample of the particles.

    Attributes
    ----------
    all : MeasuredWedge
        Of all particles of the sample.
    tomograms : tuple of (MeasuredWedge or None)
        About the axis of all; None where no particle of the tomogram is in the sample, or boxes
        are larger than 160 voxels.
    sample : (M,) int64
        The particles, by tomogram.
    """

    all: MeasuredWedge
    tomograms: tuple[MeasuredWedge | None, ...]
    sample: npt.NDArray[np.int64]


def tomogram_names(dataset: Dataset) -> tuple[str, ...]:
    """Names in the order of their numbers in ``particles.tomograms``; none if that is None."""
    if dataset.star is None or dataset.particles.tomograms is None:
        return ()
    for column in _NAMES:
        if column in dataset.star.particles:
            names = dataset.star.particles[column].astype(str).to_numpy()[dataset.rows]
            return tuple(map(str, np.unique(names)))
    return tuple(map(str, np.unique(dataset.particles.tomograms)))


def survey_wedges(dataset: Dataset, gauge: WedgeGauge) -> WedgeSurvey:
    """Measure the wedge in a sample of the particles, spread evenly over the tomograms."""
    particles = dataset.particles
    labels = _labels(dataset)
    order = np.argsort(labels, kind="stable")
    size = sample_size(len(particles), particles.box)
    sample = order[np.unique(np.linspace(0, len(order) - 1, size).round().astype(np.int64))]
    whole = PowerSpectrum(particles.box)
    found: list[tuple[int, PowerSpectrum]] = []
    for label in np.unique(labels[sample]):
        own = PowerSpectrum(particles.box)
        for index in sample[labels[sample] == label]:
            own.add(particles.volumes.read(int(particles.source_index[index])))
        whole += own
        if particles.box <= _LARGEST_BOX:
            found.append((int(label), own))
    measured = gauge.measure(whole.values, whole.count)
    each: list[MeasuredWedge | None] = [None] * (int(labels.max()) + 1)
    # About Z nothing is gained.
    for label, own in found if measured.axis_deg is not None else ():
        each[label] = gauge.measure(own.values, own.count, axis_deg=measured.axis_deg)
    return WedgeSurvey(measured, tuple(each), sample)


def describe_tomograms(
    dataset: Dataset, survey: WedgeSurvey, *, invert: bool
) -> tuple[Tomogram, ...]:
    """A row for each tomogram; none where the input does not name them."""
    particles, grey = dataset.particles, dataset.grey
    rows = []
    for number, name in enumerate(tomogram_names(dataset)):
        members = np.flatnonzero(particles.tomograms == number)
        wedge = survey.tomograms[number]
        contrast = judge_contrast(grey, invert=invert, chosen=members)
        rows.append(
            Tomogram(
                name=name,
                particles=len(members),
                weights=len(np.unique(particles.weight_index[members])),
                tilt_range_deg=wedge.tilt_range_deg if wedge is not None and wedge.told else None,
                grey_mean=float(np.median(grey.background_mean[members])),
                grey_std=float(np.median(grey.background_std[members])),
                contrast=contrast.verdict,
                centre=contrast.centre,
            )
        )
    return tuple(rows)


def tomogram_wedge_warnings(
    dataset: Dataset, survey: WedgeSurvey, gauge: WedgeGauge
) -> tuple[str, ...]:
    """Tomograms whose particles show another wedge than their weights: one sentence, or none.

    In the mean over tomograms, wedges that were given to the wrong ones cancel.
    """
    particles = dataset.particles
    declared: dict[int, MeasuredWedge] = {}
    wrong = []
    numbered = list(zip(tomogram_names(dataset), survey.tomograms, strict=False))
    for number, (name, measured) in enumerate(numbered[:_MOST_COMPARED]):
        if measured is None or measured.particles < _FEWEST:
            continue
        members = particles.tomograms == number
        which = int(np.bincount(particles.weight_index[members]).argmax())
        if which not in declared:
            declared[which] = gauge.of_weight(particles.weight(which))
        found = wedge_warnings(measured, declared[which], dataset.weight_source)
        wrong += [(name, words) for words in found]
    if not wrong:
        return ()
    name, words = wrong[0]
    return (
        f"the missing wedges of {len(wrong)} of {len(numbered)} tomograms do not look like what "
        f"was declared for them, the first is {name}: {words.split(';')[0]}; check which tilts "
        "belong to which tomogram (--wedge-list gives each its own)",
    )


def _labels(dataset: Dataset) -> npt.NDArray[np.int64]:
    labels = dataset.particles.tomograms
    return np.zeros(len(dataset.particles), dtype=np.int64) if labels is None else labels
