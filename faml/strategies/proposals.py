"""Proposals: how candidate poses are found (paper Eq. 1-2; method.md section 3)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.fft
from scipy.spatial.transform import Rotation

from faml.errors import ConfigurationError
from faml.kernels.peaks import shift_peak
from faml.kernels.slicing import refine_shift
from faml.particles.view import Particle
from faml.references import PADDING, References
from faml.strategies.base import Candidates, Proposal, SearchContext
from faml.transforms.rotations import rotations_within

__all__ = ["AmplitudeProposal", "LocalProposal", "create_proposal"]

_SEPARATION_STEPS = 1.5
"""Candidates closer than this many grid steps are one peak."""


_NEWTON_STEPS = 2
_FINE = 0.25
"""Radius of the finer neighbourhood of a previous pose, in grid steps."""


class AmplitudeProposal:
    """Candidates from the translation-invariant bound of the correlation, paper Eq. 2.

    Dropping the phases makes the bound independent of the shift, so one rotational correlation
    ranks all rotations; each candidate's shift is searched afterwards.
    """

    def __init__(self, context: SearchContext) -> None:
        self._limit = context.config.max_candidates
        self._keep_previous = context.config.keep_previous
        self._max_shift = context.max_shift_voxels

    def propose(
        self, particle: Particle, references: References, rng: np.random.Generator
    ) -> Candidates:
        """See `Proposal`."""
        around = self._around(particle, references, rng)
        shells, rotations = references.shell_plan, references.rotation_plan
        samples = np.abs(shells.sample(particle.padded, references.radii, PADDING))
        data = shells.analyse_even(samples)
        classes: list[npt.NDArray[np.int64]] = []
        found: list[npt.NDArray[np.float64]] = []
        for k in particle.classes:
            score = rotations.correlate(
                data,
                references.amplitude_harmonics(k)[0],
                references.radial_weights,
                even=True,
            )
            score *= references.denominator(k, particle.weight)
            peaks, _ = rotations.peaks(
                score, self._limit, _SEPARATION_STEPS * rotations.spacing_rad
            )
            matrices = peaks.as_matrix().reshape(-1, 3, 3)
            matrices = np.concatenate([matrices, around])
            found.append(matrices)
            classes.append(np.full(len(matrices), k, dtype=np.int64))
        return search_translations(
            particle, references, np.concatenate(classes), np.concatenate(found), self._max_shift
        )

    def _around(
        self, particle: Particle, references: References, rng: np.random.Generator
    ) -> npt.NDArray[np.float64]:
        """The previous rotation and a few random neighbours of it, (M, 3, 3)."""
        if self._keep_previous < 1 or rng.random() < references.exploration:
            return np.empty((0, 3, 3))
        centre = Rotation.from_matrix(particle.previous.rotation)
        spacing = references.rotation_plan.spacing_rad
        wide = self._keep_previous // 2
        # Two scales: one reaches the next grid point, one refines below the grid.
        near = [
            rotations_within(centre, angle, count, rng)
            for angle, count in (
                (spacing, wide),
                (_FINE * spacing, self._keep_previous - 1 - wide),
            )
            if count > 0
        ]
        return Rotation.concatenate([centre, *near]).as_matrix().reshape(-1, 3, 3)


class LocalProposal:
    """Candidates around the particle's input pose, for ``--local-angle``.

    Half are spread over the whole ball around the input pose, half over a smaller ball around the
    current best pose, which is itself a candidate.
    """

    def __init__(self, context: SearchContext) -> None:
        if context.config.local_angle_deg is None:
            raise ConfigurationError("the local proposal needs search.local_angle_deg")
        self._angle_rad = np.deg2rad(context.config.local_angle_deg)
        self._limit = context.config.max_candidates
        self._max_shift = context.max_shift_voxels

    def propose(
        self, particle: Particle, references: References, rng: np.random.Generator
    ) -> Candidates:
        """See `Proposal`."""
        centre = Rotation.from_matrix((particle.input_pose or particle.previous).rotation)
        current = Rotation.from_matrix(particle.previous.rotation)
        if (centre.inv() * current).magnitude() > self._angle_rad:
            current = centre
        inner = min(self._angle_rad, 2.0 * references.rotation_plan.spacing_rad)
        near = rotations_within(current, inner, max(1, self._limit // 2), rng)
        near = near[(centre.inv() * near).magnitude() <= self._angle_rad]
        wide = rotations_within(centre, self._angle_rad, max(1, self._limit - len(near) - 1), rng)
        matrices = Rotation.concatenate([current, near, wide]).as_matrix()[: self._limit]
        return search_translations(
            particle,
            references,
            np.repeat(np.array(particle.classes, dtype=np.int64), len(matrices)),
            np.tile(matrices, (len(particle.classes), 1, 1)),
            self._max_shift,
        )


def search_translations(
    particle: Particle,
    references: References,
    classes: npt.NDArray[np.int64],
    rotations: npt.NDArray[np.float64],
    max_shift_voxels: float,
) -> Candidates:
    """Best translation of each (class, rotation) and its normalised correlation (paper Eq. 1).

    One inverse FFT of ``y conj(R A) / sigma^2`` gives the correlation at all translations.
    """
    grid = references.grid
    count, edge = grid.align_count, grid.search_edge
    whitened = particle.data[:count] * references.precision
    doubled = grid.multiplicity[:count]
    norm = np.sqrt(references.data_power(particle))
    product = np.zeros((edge, edge, edge // 2 + 1), dtype=np.complex64)
    flat = product.reshape(-1)
    translations = np.zeros((len(classes), 3))
    scores = np.zeros(len(classes))
    for i, (k, rotation) in enumerate(zip(classes, rotations, strict=True)):
        sliced = references.slice(int(k), rotation, count)
        _, energy = references.residual_terms(particle, sliced)
        flat[grid.search_indices] = whitened * sliced.conj()
        correlation = scipy.fft.irfftn(product, s=(edge,) * 3, norm="forward")
        shift_peak(correlation, grid.box / edge, max_shift_voxels, translations[i])
        best = refine_shift(
            doubled * flat[grid.search_indices],
            grid.points[:count],
            grid.box,
            max_shift_voxels,
            _NEWTON_STEPS,
            translations[i],
        )
        scale = norm * np.sqrt(energy)
        scores[i] = best / scale if scale > 0 else 0.0
    return Candidates(classes, rotations, translations, scores)


def create_proposal(context: SearchContext) -> Proposal:
    """The proposal a configuration asks for.

    Raises
    ------
    ConfigurationError
        For an unknown name.
    """
    if context.config.local_angle_deg is not None:
        return LocalProposal(context)
    known = {"amplitude": AmplitudeProposal}
    if context.config.proposal not in known:
        raise ConfigurationError(
            f"unknown proposal {context.config.proposal!r}; known are: {', '.join(sorted(known))}"
        )
    return known[context.config.proposal](context)
