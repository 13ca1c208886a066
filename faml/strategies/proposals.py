"""Proposals: how candidate poses are found (paper Eq. 1-2; method.md section 3)."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt
import scipy.fft
from scipy.spatial.transform import Rotation

from faml.errors import ConfigurationError
from faml.kernels.shifts import SearchComponents, best_shifts, correlation_spectra
from faml.particles.view import Particle
from faml.references import PADDING, References
from faml.strategies.base import Candidates, Proposal, SearchContext
from faml.strategies.phased import PhasedSearch
from faml.strategies.pose_grid import PoseGrid, check_affordable, pose_grid
from faml.transforms.rotations import rotations_within
from faml.transforms.so3 import SO3Correlation

__all__ = ["AmplitudeProposal", "LocalProposal", "PhaseProposal", "create_proposal"]

_SEPARATION_STEPS = 1.5
"""Candidates closer than this many grid steps are one peak."""
_NEWTON_STEPS = 2
_BLOCK_COMPONENTS = 1 << 17
"""Components of the search spectra that are worked on together, 1 MB of them."""
_FINE = 0.25
"""Radius of the finer neighbourhood of a previous pose, in grid steps."""


class _GlobalProposal(ABC):
    """Peaks over the whole of SO(3), and the neighbourhood of the previous pose."""

    def __init__(self, context: SearchContext) -> None:
        self._context = context
        self._limit = context.config.max_candidates
        self._keep_previous = context.config.keep_previous

    @abstractmethod
    def prepare(self, references: References) -> None:
        """See `Strategy`."""

    def propose(
        self, particle: Particle, references: References, rng: np.random.Generator
    ) -> Candidates:
        """See `Proposal`."""
        around = self._around(particle, references, rng)
        found = {
            k: np.concatenate([peaks, around])
            for k, peaks in self._peaks(particle, references).items()
        }
        return search_translations(
            particle,
            references,
            np.repeat(np.array(list(found), dtype=np.int64), [len(m) for m in found.values()]),
            np.concatenate(list(found.values())),
            self._context.max_shift_voxels,
        )

    @abstractmethod
    def _peaks(
        self, particle: Particle, references: References
    ) -> dict[int, npt.NDArray[np.float64]]:
        """Rotations of the best peaks (M, 3, 3) for each of the particle's classes."""

    def _highest(
        self, score: npt.NDArray[np.float32], plan: SO3Correlation
    ) -> npt.NDArray[np.float64]:
        separation = _SEPARATION_STEPS * plan.spacing_rad
        peaks, _ = plan.peaks(score, self._limit, separation, self._context.symmetry)
        return peaks.as_matrix().reshape(-1, 3, 3)

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


class AmplitudeProposal(_GlobalProposal):
    """Candidates from the translation-invariant bound of the correlation, paper Eq. 2.

    Dropping the phases makes the bound independent of the shift, so one rotational correlation
    ranks all rotations; each candidate's shift is searched afterwards.
    """

    def prepare(self, references: References) -> None:
        """The tables are those that every pass has."""

    def _peaks(
        self, particle: Particle, references: References
    ) -> dict[int, npt.NDArray[np.float64]]:
        shells, plan = references.shell_plan, references.rotation_plan
        samples = np.abs(shells.sample(particle.padded, references.radii, PADDING))
        data = shells.analyse_even(samples)
        found = {}
        for k in particle.classes:
            score = plan.correlate(
                data, references.amplitude_harmonics(k), references.radial_weights, even=True
            )
            score *= references.denominator(k, particle.weight)
            found[k] = self._highest(score, plan)
        return found


class PhaseProposal(_GlobalProposal):
    """Candidates from the likelihood at low resolution with phases, at the best of all shifts.

    It costs one rotational correlation per shift, at a resolution where there are few of them, and
    keeps what the amplitudes alone have lost (method.md section 8).
    """

    def __init__(self, context: SearchContext) -> None:
        super().__init__(context)
        check_affordable(context, body_centred=True)

    def prepare(self, references: References) -> None:
        """See `Strategy`."""
        self._grid(references).prepare()

    def _peaks(
        self, particle: Particle, references: References
    ) -> dict[int, npt.NDArray[np.float64]]:
        grid = self._grid(references)
        found = PhasedSearch(references, grid).scores(particle)
        return {k: self._highest(scores, grid.rotations) for k, scores in found.items()}

    def _grid(self, references: References) -> PoseGrid:
        return references.shared(
            "phase proposal",
            lambda: pose_grid(self._context, references.grid.align_shell, body_centred=True),
        )


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

    def prepare(self, references: References) -> None:
        """Nothing is common to all particles."""

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
    """Best translation of each (class, rotation), its residual and its correlation (Eq. 1, 15).

    Parameters
    ----------
    particle : Particle
    references : References
    classes : (M,) int64
    rotations : (M, 3, 3) float64
    max_shift_voxels : float
        Largest |t|.
    """
    grid = references.grid
    count, edge = grid.align_count, grid.search_edge
    components = SearchComponents(
        grid.points[:count], grid.search_indices, grid.multiplicity[:count]
    )
    whitened = particle.data[:count] * references.precision
    energy_weights = components.multiplicity * references.precision * particle.weight.values[:count]
    translations = np.empty((len(classes), 3))
    cross, energy = np.empty(len(classes)), np.empty(len(classes))
    block = max(1, _BLOCK_COMPONENTS // (edge * edge * (edge // 2 + 1)))
    spectra = np.zeros((min(block, len(classes)), edge, edge, edge // 2 + 1), dtype=np.complex64)
    for k in np.unique(classes):
        (members,) = np.nonzero(classes == k)
        for chosen in np.split(members, range(block, len(members), block)):
            part = spectra[: len(chosen)]
            moved, crossed = np.empty((len(chosen), 3)), np.empty(len(chosen))
            energies = np.empty(len(chosen))
            correlation_spectra(
                references.padded[k], rotations[chosen], PADDING, components, whitened,
                energy_weights, part, energies,
            )  # fmt: skip
            correlations = scipy.fft.irfftn(part, s=(edge,) * 3, axes=(1, 2, 3), norm="forward")
            best_shifts(
                correlations, part, components, grid.box, max_shift_voxels, _NEWTON_STEPS, moved,
                crossed,
            )  # fmt: skip
            translations[chosen], cross[chosen], energy[chosen] = moved, crossed, energies
    power = references.data_power(particle)
    scale = np.sqrt(power * energy)
    return Candidates(
        classes=classes,
        rotations=rotations,
        translations=translations,
        scores=np.divide(cross, scale, out=np.zeros_like(cross), where=scale > 0),
        squared_residuals=power - 2.0 * cross + energy,
    )


def create_proposal(context: SearchContext) -> Proposal:
    """The proposal a configuration asks for.

    Raises
    ------
    ConfigurationError
        For an unknown name.
    """
    if context.config.local_angle_deg is not None:
        return LocalProposal(context)
    known = {"amplitude": AmplitudeProposal, "phase": PhaseProposal}
    if context.config.proposal not in known:
        raise ConfigurationError(
            f"unknown proposal {context.config.proposal!r}; known are: {', '.join(sorted(known))}"
        )
    return known[context.config.proposal](context)
