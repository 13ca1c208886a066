"""What visiting a particle needs in one pass, as data and as what is made of it in one process."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from threading import Lock

import numpy as np

from faml.clock import StageClock
from faml.conventions import FloatArray
from faml.em.balance import class_evidence, support_of_each_class
from faml.em.blocks import Block
from faml.em.expectation import (
    ParticleResult,
    accumulate,
    log_normaliser,
    posterior,
    summarise,
)
from faml.em.state import Assignments
from faml.em.statistics import Statistics
from faml.model import Model
from faml.particles import ParticleSet
from faml.particles.view import Particle, ParticleViews, Pose
from faml.references import References
from faml.strategies.base import PoseSupport, SearchContext, Strategy, prepare
from faml.strategies.refinement import refine_support
from faml.transforms.fourier import FourierGrid, fourier_grid

__all__ = ["FixedPose", "PassPlan", "Search", "collect"]

_STREAMS = 1 << 32  # passes before the first iteration have negative numbers


class FixedPose:
    """A support of each particle's previous pose: how starts enter the M-step."""

    def __init__(self, context: SearchContext) -> None:
        del context

    def support(
        self, particle: Particle, references: References, rng: np.random.Generator
    ) -> PoseSupport:
        """See `Strategy`."""
        del references, rng
        return PoseSupport.single(particle.previous)


@dataclass(frozen=True)
class PassPlan:
    """One pass over the particles (`workers.Plan`).

    Attributes
    ----------
    models : tuple of Model
        What particles are aligned to: one for all, or one for each group.
    align_shell, sum_shell : int
        Last Fourier shells of the E-step and of the sums.
    bandwidth : int
        Band limit L of the rotational search.
    exploration : float
        Probability that a proposal disregards a particle's previous pose.
    strategy : Strategy
    iteration, seed : int
        Of the random streams.
    balanced : bool
        Every class has poses in each particle's support.
    sharpness : float
        Power of the posteriors (`expectation.posterior`).
    refine : SearchContext or None
        Limits of the local refinement of poses; None leaves them as the strategy found them.
    """

    models: tuple[Model, ...]
    align_shell: int
    sum_shell: int
    bandwidth: int
    exploration: float
    strategy: Strategy
    iteration: int
    seed: int
    balanced: bool
    sharpness: float
    refine: SearchContext | None

    @property
    def grid(self) -> FourierGrid:
        """Components of the E-step and of the sums."""
        return fourier_grid(self.models[0].box, self.align_shell, self.sum_shell)

    def begin(self, particles: ParticleSet, clock: StageClock) -> Search:
        """See `workers.Plan`."""
        return Search(self, particles, clock)


class Search:
    """A pass in one process; shared by its threads.

    Parameters
    ----------
    plan : PassPlan
    particles : ParticleSet
    clock : StageClock
        Told where the time goes.
    """

    def __init__(self, plan: PassPlan, particles: ParticleSet, clock: StageClock) -> None:
        self.clock = clock
        self._plan = plan
        self._grid = plan.grid
        self._views = ParticleViews(particles, self._grid)
        self._references: dict[int, References] = {}
        self._lock = Lock()

    def prepare(self) -> None:
        """Make all that particles share now, instead of when they ask for it."""
        for group in range(len(self._plan.models)):
            self.references(group)

    def references(self, group: int) -> References:
        """What the particles of a group are aligned to."""
        plan = self._plan
        which = group if len(plan.models) > 1 else 0
        with self._lock, self.clock.stage("references"):
            if which not in self._references:
                made = References(plan.models[which], self._grid, plan.bandwidth, plan.exploration)
                if not self._references:
                    # Made now, where pyshtools may be called.
                    _ = made.shell_plan, made.rotation_plan
                    prepare(plan.strategy, made)
                self._references[which] = made
            return self._references[which]

    def visit(self, block: Block) -> tuple[Statistics, Assignments]:
        """Posteriors of a block's particles and their sums, taken chunk by chunk."""
        references = self._weighted(block)
        results: list[ParticleResult] = []
        total: Statistics | None = None
        for chunk in block.chunks:
            sums = Statistics.zeros(references.classes, self._grid, total=False)
            for index in chunk.tolist():
                pose = block.before.pose(len(results))
                results.append(self._visit(index, pose, references, sums))
            if len(block.chunks) == 1:
                return sums, collect(results)
            if total is None:
                total = Statistics.zeros(references.classes, self._grid, total=True)
            total.add(sums)
        assert total is not None
        return total, collect(results)

    def evidence(self, block: Block) -> FloatArray:
        """Log likelihood of each class for each of a block's particles, (M, K) float64."""
        references, sharpness = self._weighted(block), self._plan.sharpness
        rows = []
        for number, index in enumerate(block.members.tolist()):
            particle, support = self._supported(index, block.before.pose(number), references)
            rows.append(class_evidence(particle, references, support, sharpness))
        return np.stack(rows)

    def _weighted(self, block: Block) -> References:
        references = self.references(block.group)
        if block.log_fractions is None:
            return references
        return references.with_log_fractions(block.log_fractions)

    def _visit(
        self, index: int, previous: Pose, references: References, sums: Statistics
    ) -> ParticleResult:
        """Posterior of one particle; adds it to ``sums``."""
        plan = self._plan
        particle, support = self._supported(index, previous, references)
        with self.clock.stage("posterior"):
            log_posterior, log_likelihood = posterior(particle, references, support, plan.sharpness)
        if plan.refine is not None:
            with self.clock.stage("refinement"):
                support = refine_support(
                    particle, references, support, log_posterior,
                    plan.refine.max_shift_voxels, plan.refine.config.local_angle_deg,
                )  # fmt: skip
                log_posterior, log_likelihood = posterior(
                    particle, references, support, plan.sharpness
                )
        with self.clock.stage("sums"):
            accumulate(particle, references, support, log_posterior, sums)
        nothing = log_normaliser(particle, references) - 0.5 * references.data_power(particle)
        return summarise(
            support, log_posterior, log_likelihood, log_likelihood - nothing, references.classes
        )

    def _supported(
        self, index: int, previous: Pose, references: References
    ) -> tuple[Particle, PoseSupport]:
        plan = self._plan
        with self.clock.stage("reading"):
            particle = self._views.particle(index, previous, range(references.classes))
        seeds = np.random.SeedSequence([plan.seed, plan.iteration % _STREAMS, index])
        rng = np.random.default_rng(seeds)
        with self.clock.stage("candidates"):
            if plan.balanced:
                return particle, support_of_each_class(particle, references, plan.strategy, rng)
            return particle, plan.strategy.support(particle, references, rng)


def collect(results: Iterable[ParticleResult]) -> Assignments:
    """Results of particles, in their order."""
    found = list(results)
    return Assignments(
        classes=np.array([r.class_index for r in found], dtype=np.int64),
        rotations=np.stack([r.rotation for r in found]),
        translations=np.stack([r.translation for r in found]),
        probabilities=np.array([r.probability for r in found]),
        class_probabilities=np.stack([r.class_probabilities for r in found]),
        effective_poses=np.array([r.effective_poses for r in found]),
        log_likelihoods=np.array([r.log_likelihood for r in found]),
        log_evidences=np.array([r.log_evidence for r in found]),
        fallbacks=np.array([r.fallback for r in found]),
        kept_masses=np.array([r.kept_mass for r in found]),
    )
