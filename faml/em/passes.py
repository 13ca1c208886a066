"""One pass over the particles: what visiting one needs, and how chunks run in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from faml.clock import StageClock
from faml.conventions import FloatArray
from faml.em.balance import balanced_log_fractions, class_evidence, support_of_each_class
from faml.em.expectation import (
    ParticleResult,
    accumulate,
    log_normaliser,
    posterior,
    summarise,
)
from faml.em.state import Assignments
from faml.em.statistics import Statistics, total_of
from faml.particles.view import Particle, ParticleViews
from faml.references import References
from faml.strategies.base import PoseSupport, SearchContext, Strategy
from faml.strategies.refinement import refine_support

__all__ = ["FixedPose", "Pass", "Search", "chunks_of", "collect", "in_order"]

T = TypeVar("T")
_BALANCE_SAMPLE = 96
"""Particles that decide the class fractions of balanced iterations."""
_BALANCE_STREAM = 0xBA1A  # tells the sample's random stream from the particles'
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
class Pass:
    """What a pass over the particles returns; a sum per group, after the last pass per half."""

    sums: tuple[Statistics, ...]
    assignments: Assignments

    @property
    def total(self) -> Statistics:
        """Sums of all particles."""
        return total_of(self.sums)


@dataclass(frozen=True)
class Search:
    """What visiting a particle needs in one pass; shared by threads.

    ``references`` is one for all particles, or one for each group.
    """

    views: ParticleViews
    references: tuple[References, ...]
    group_of: npt.NDArray[np.int64]
    strategy: Strategy
    before: Assignments
    iteration: int
    seed: int
    balanced: bool
    sharpness: float
    """Power of the posteriors (`expectation.posterior`)."""
    refine: SearchContext | None
    """Limits of the local refinement of poses; None leaves them as the strategy found them."""
    clock: StageClock

    def visit(self, index: int, sums: Statistics) -> ParticleResult:
        """Posterior of one particle; adds it to ``sums``."""
        references = self.references_of(index)
        particle, support = self._supported(index)
        with self.clock.stage("posterior"):
            log_posterior, log_likelihood = posterior(particle, references, support, self.sharpness)
        if self.refine is not None:
            with self.clock.stage("refinement"):
                support = refine_support(
                    particle, references, support, log_posterior,
                    self.refine.max_shift_voxels, self.refine.config.local_angle_deg,
                )  # fmt: skip
                log_posterior, log_likelihood = posterior(
                    particle, references, support, self.sharpness
                )
        with self.clock.stage("sums"):
            accumulate(particle, references, support, log_posterior, sums)
        nothing = log_normaliser(particle, references) - 0.5 * references.data_power(particle)
        return summarise(
            support, log_posterior, log_likelihood, log_likelihood - nothing, references.classes
        )

    def class_evidence(self, index: int) -> FloatArray:
        """Log likelihood of each class, (K,) float64."""
        particle, support = self._supported(index)
        return class_evidence(particle, self.references_of(index), support, self.sharpness)

    def with_balanced_fractions(self, count: int, chunk_size: int, threads: int) -> Search:
        """The search with class fractions under which no class starves in a sample of ``count``."""
        seeds = np.random.SeedSequence([self.seed, self.iteration, _BALANCE_STREAM])
        order = np.random.default_rng(seeds).permutation(count)
        sample = np.sort(order[:_BALANCE_SAMPLE])

        def work(chunk: npt.NDArray[np.int64]) -> FloatArray:
            return np.stack([self.class_evidence(int(i)) for i in chunk])

        evidence = np.concatenate(list(in_order(work, chunks_of(sample, chunk_size), threads)))
        fractions = balanced_log_fractions(evidence, self.references[0].log_fractions)
        references = tuple(each.with_log_fractions(fractions) for each in self.references)
        return replace(self, references=references)

    def references_of(self, index: int) -> References:
        """What a particle is aligned to."""
        return self.references[self.group_of[index] if len(self.references) > 1 else 0]

    def _supported(self, index: int) -> tuple[Particle, PoseSupport]:
        references = self.references_of(index)
        pose = self.before.pose(index)
        with self.clock.stage("reading"):
            particle = self.views.particle(index, pose, range(references.classes))
        seeds = np.random.SeedSequence([self.seed, self.iteration % _STREAMS, index])
        rng = np.random.default_rng(seeds)
        with self.clock.stage("candidates"):
            if self.balanced:
                return particle, support_of_each_class(particle, references, self.strategy, rng)
            return particle, self.strategy.support(particle, references, rng)


def chunks_of(members: npt.NDArray[np.int64], size: int) -> list[npt.NDArray[np.int64]]:
    """Particles in work items of fixed size, so that sums do not depend on who does which."""
    return [members[i : i + size] for i in range(0, len(members), size)]


def in_order(
    work: Callable[[npt.NDArray[np.int64]], T],
    chunks: list[npt.NDArray[np.int64]],
    threads: int,
) -> Iterator[T]:
    """Results of ``work`` in the order of ``chunks``, at most two per thread in flight."""
    if threads == 1:
        yield from map(work, chunks)
        return
    with ThreadPoolExecutor(max_workers=threads) as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for chunk in chunks:
                waiting.append(pool.submit(work, chunk))
                if len(waiting) >= 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def collect(results: list[ParticleResult]) -> Assignments:
    """Results of all particles, in their order."""
    return Assignments(
        classes=np.array([r.class_index for r in results], dtype=np.int64),
        rotations=np.stack([r.rotation for r in results]),
        translations=np.stack([r.translation for r in results]),
        probabilities=np.array([r.probability for r in results]),
        class_probabilities=np.stack([r.class_probabilities for r in results]),
        effective_poses=np.array([r.effective_poses for r in results]),
        log_likelihoods=np.array([r.log_likelihood for r in results]),
        log_evidences=np.array([r.log_evidence for r in results]),
        fallbacks=np.array([r.fallback for r in results]),
        kept_masses=np.array([r.kept_mass for r in results]),
    )
