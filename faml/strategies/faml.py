"""FAML: candidates of the fast alignment, weighted by their Voronoi cells (paper Eq. 4-6, 14)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from faml.kernels.voronoi import voronoi_counts
from faml.particles.view import Particle
from faml.references import References
from faml.strategies.base import PoseSupport, SearchContext
from faml.strategies.proposals import create_proposal
from faml.transforms.rotations import random_rotations, to_quaternions

__all__ = ["FastAlignmentMaximumLikelihood", "VoronoiWeights"]

_STREAM = 0x560A  # tells the Voronoi samples' random stream from the others
SHIFT_WEIGHT = 1.0
"""a_trd of the metric: one voxel counts like a unit of the Frobenius norm (paper Eq. 5)."""


class VoronoiWeights:
    """Volumes of the Voronoi cells of candidate poses by Monte Carlo (method.md section 4).

    Samples of SO(3) and of the unit cube are drawn once per run; the cube is scaled to the
    bounding box of each particle's translations.
    """

    def __init__(self, context: SearchContext) -> None:
        config = context.config
        rng = np.random.default_rng(np.random.SeedSequence([context.seed, _STREAM]))
        samples = random_rotations(config.voronoi_samples, rng, config.voronoi_measure)
        # Both samples and candidates in the asymmetric unit: a cell is shared by all equivalents.
        self._symmetry = context.symmetry
        samples = self._symmetry.representatives(samples.as_matrix())
        self._quaternions = np.ascontiguousarray(to_quaternions(samples).T, dtype=np.float32)
        self._cube = rng.random((3, config.voronoi_samples)).astype(np.float32)
        self._with_volume = config.voronoi_volume == "region"

    def log_volumes(
        self,
        rotations: npt.NDArray[np.float64],
        translations: npt.NDArray[np.float64],
        shift_step_voxels: float,
    ) -> npt.NDArray[np.float64]:
        """Logarithm of the volume of each candidate's cell.

        Parameters
        ----------
        rotations : (C, 3, 3) float64
        translations : (C, 3) float64
            Voxels.
        shift_step_voxels : float
            Grid cell of the translation search: floor of the box's edges.

        Returns
        -------
        (C,) float64
            Fractions that sum to one, times the volume of the box where the configuration says so.
        """
        low = translations.min(axis=0)
        extent = translations.max(axis=0) - low
        shifts = low[:, None] + self._cube * extent[:, None]
        counts = np.empty(len(rotations), dtype=np.int64)
        voronoi_counts(
            self._quaternions,
            shifts.astype(np.float32),
            to_quaternions(self._symmetry.representatives(rotations)).astype(np.float32),
            translations.astype(np.float32),
            SHIFT_WEIGHT,
            counts,
        )
        # A candidate nobody is nearest to has a small cell, not none.
        masses = np.where(counts > 0, counts, 0.5)
        log_fractions: npt.NDArray[np.float64] = np.log(masses / masses.sum())
        if self._with_volume:
            log_fractions += np.log(np.maximum(extent, shift_step_voxels)).sum()
        return log_fractions


class FastAlignmentMaximumLikelihood:
    """Dozens of candidates per class; the posterior over them is left to the E-step."""

    def __init__(self, context: SearchContext) -> None:
        self._proposal = create_proposal(context)
        self._voronoi = VoronoiWeights(context)

    def prepare(self, references: References) -> None:
        """See `Strategy`."""
        self._proposal.prepare(references)

    def support(
        self, particle: Particle, references: References, rng: np.random.Generator
    ) -> PoseSupport:
        """See `Strategy`."""
        candidates = self._proposal.propose(particle, references, rng)
        if len(candidates) == 0:
            return PoseSupport.single(particle.previous, fallback=True)
        step = references.grid.box / references.grid.search_edge
        log_volumes = np.empty(len(candidates))
        for k in np.unique(candidates.classes):
            chosen = candidates.classes == k
            log_volumes[chosen] = self._voronoi.log_volumes(
                candidates.rotations[chosen], candidates.translations[chosen], step
            )
        return PoseSupport(
            classes=candidates.classes,
            rotations=candidates.rotations,
            translations=candidates.translations,
            log_volumes=log_volumes,
            squared_residuals=candidates.squared_residuals,
        )
