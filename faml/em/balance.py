"""A share for every class while classes form from nothing.

Averages form at different speeds from random orientations. Free to choose, all particles would
follow the first that has formed, and the other classes would never be heard of again. For the
first iterations class fractions are therefore chosen, where needed, such that no class has less
than a certain share of the posterior mass.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp

from faml.em.expectation import log_joint, sharpened, support_residuals
from faml.particles.view import Particle
from faml.references import References
from faml.strategies.base import PoseSupport, Strategy

__all__ = ["SMALLEST_SHARE", "balanced_log_fractions", "class_evidence", "support_of_each_class"]

SMALLEST_SHARE = 0.5
"""Of an equal share 1 / K, that every class gets."""


def support_of_each_class(
    particle: Particle, references: References, strategy: Strategy, rng: np.random.Generator
) -> PoseSupport:
    """The strategy's supports of every class alone, side by side.

    Asked about all classes at once, a strategy may drop one before its fraction is known.
    """
    alone = [
        strategy.support(particle.of_class(k), references, rng) for k in range(references.classes)
    ]
    return PoseSupport(
        classes=np.repeat(np.arange(references.classes), [len(part) for part in alone]),
        rotations=np.concatenate([part.rotations for part in alone]),
        translations=np.concatenate([part.translations for part in alone]),
        log_volumes=np.concatenate([part.log_volumes for part in alone]),
        squared_residuals=np.concatenate(
            [support_residuals(particle, references, part) for part in alone]
        ),
        fallback=all(part.fallback for part in alone),
    )


def class_evidence(
    particle: Particle, references: References, support: PoseSupport, sharpness: float = 1.0
) -> npt.NDArray[np.float64]:
    """Log likelihood of each class, marginal over its poses, up to a constant; (K,) float64.

    ``sharpness`` is that of posteriors (`expectation.posterior`).
    """
    equal = references.with_log_fractions(np.zeros(references.classes))
    joint = log_joint(particle, equal, support, equal.log_fractions)
    joint = sharpened(joint, equal, support, sharpness)
    return np.array([logsumexp(joint[support.classes == k]) for k in range(references.classes)])


def balanced_log_fractions(
    evidence: npt.NDArray[np.float64], log_fractions: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Logarithms of class fractions under which no class starves.

    Fractions are left as they are if every class has `SMALLEST_SHARE` of an equal share under
    them. Else the target shares w are the present ones, raised to that floor, and the logarithms
    b minimise the convex ``mean_i log sum_k exp(e_ik + b_k) - sum_k w_k b_k``, whose gradient is
    the difference between shares and targets.

    Parameters
    ----------
    evidence : (M, K) float64
        From `class_evidence`, of a sample of the particles.
    log_fractions : (K,) float64
        log alpha_k of the model.

    Returns
    -------
    (K,) float64
        Their exponentials sum to one.
    """
    floor = SMALLEST_SHARE / len(log_fractions)
    shares = np.exp(log_softmax(evidence + log_fractions, axis=1)).mean(axis=0)
    if shares.min() >= floor:
        return log_fractions
    wanted = floor + (1.0 - SMALLEST_SHARE) * _excess(shares, floor)

    def objective(
        offsets: npt.NDArray[np.float64],
    ) -> tuple[float, npt.NDArray[np.float64]]:
        joint = evidence + offsets
        reached = np.exp(log_softmax(joint, axis=1)).mean(axis=0)
        return float(logsumexp(joint, axis=1).mean() - wanted @ offsets), reached - wanted

    # Starting from equal means, a class that is better for everyone does not hide the others.
    found = minimize(objective, -evidence.mean(axis=0), jac=True, method="L-BFGS-B")
    fractions: npt.NDArray[np.float64] = log_softmax(found.x)
    return fractions


def _excess(shares: npt.NDArray[np.float64], floor: float) -> npt.NDArray[np.float64]:
    """How what is above the floor is divided; sums to one."""
    above = np.maximum(shares - floor, 0.0)
    divided: npt.NDArray[np.float64] = above / above.sum()
    return divided
