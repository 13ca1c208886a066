"""FA: hard alignment to the best class and pose (Xu et al. 2012; paper section 2.1)."""

from __future__ import annotations

import numpy as np

from faml.particles.view import Particle, Pose
from faml.references import References
from faml.strategies.base import PoseSupport, SearchContext
from faml.strategies.proposals import create_proposal

__all__ = ["FastAlignment"]


class FastAlignment:
    """One pose per particle: the candidate with the best normalised correlation (Eq. 1)."""

    def __init__(self, context: SearchContext) -> None:
        self._proposal = create_proposal(context)

    def prepare(self, references: References) -> None:
        """See `Strategy`."""
        self._proposal.prepare(references)

    def support(
        self, particle: Particle, references: References, rng: np.random.Generator
    ) -> PoseSupport:
        """See `Strategy`. The cell has volume one, so log-likelihoods are not FAML's."""
        candidates = self._proposal.propose(particle, references, rng)
        if len(candidates) == 0:
            return PoseSupport.single(particle.previous, fallback=True)
        best = int(np.argmax(candidates.scores))
        return PoseSupport.single(
            Pose(
                int(candidates.classes[best]),
                candidates.rotations[best],
                candidates.translations[best],
            )
        )
