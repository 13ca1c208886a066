"""E-step: the posterior over a strategy's support, and its sums (paper Eq. 14, 15)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from faml.em.statistics import Statistics
from faml.kernels.residuals import phase_factors, shell_residual
from faml.kernels.slicing import rotate_weight, turn_back
from faml.particles.view import Particle
from faml.references import PADDING, References
from faml.strategies.base import PoseSupport
from faml.transforms.fourier import sum_over_shells

__all__ = [
    "MASS_KEPT",
    "ParticleResult",
    "accumulate",
    "log_joint",
    "log_normaliser",
    "posterior",
    "shell_power",
    "summarise",
    "support_residuals",
]

MASS_KEPT = 0.9999
"""Posterior mass of the poses that enter the sums; the rest is left out and renormalised."""


@dataclass(frozen=True)
class ParticleResult:
    """Summary of one particle's posterior (fields as in `state.Assignments`)."""

    class_index: int
    rotation: npt.NDArray[np.float64]
    translation: npt.NDArray[np.float64]
    probability: float
    class_probabilities: npt.NDArray[np.float64]
    effective_poses: float
    log_likelihood: float
    fallback: bool


def log_normaliser(particle: Particle, references: References) -> float:
    """``-1/2 sum_j log(2 pi sigma_r^2 W_j)`` over the observed components of the E-step."""
    count = references.grid.align_count
    weight = particle.weight.values[:count]
    seen = weight > 0
    variance = weight[seen].astype(np.float64) / references.precision[seen]
    terms = references.grid.multiplicity[:count][seen] * np.log(2.0 * math.pi * variance)
    return -0.5 * float(terms.sum())


def support_residuals(
    particle: Particle, references: References, support: PoseSupport
) -> npt.NDArray[np.float64]:
    """d2 of every pose of a support (Eq. 15), computed only where the search has not."""
    if support.squared_residuals is not None:
        return support.squared_residuals
    return references.squared_residuals(
        particle, support.classes, support.rotations, support.translations
    )


def log_joint(
    particle: Particle,
    references: References,
    support: PoseSupport,
    log_fractions: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Log of prior times likelihood times cell of every pose, without `log_normaliser` (Eq. 14).

    Parameters
    ----------
    particle : Particle
    references : References
    support : PoseSupport
    log_fractions : (K,) float64
        log alpha_k.

    Returns
    -------
    (M,) float64
    """
    zeta2 = references.model.shift_variance
    log_prior = (
        log_fractions[support.classes]
        - 0.5 * np.square(support.translations).sum(axis=1) / zeta2
        - 1.5 * math.log(2.0 * math.pi * zeta2)
    )
    squared = support_residuals(particle, references, support)
    joint: npt.NDArray[np.float64] = log_prior - 0.5 * squared + support.log_volumes
    return joint


def posterior(
    particle: Particle, references: References, support: PoseSupport
) -> tuple[npt.NDArray[np.float64], float]:
    """Log posterior of every pose of the support, and the log marginal likelihood (Eq. 14, 15).

    Returns
    -------
    log_posterior : (M,) float64
        Normalised: exponentials sum to one.
    log_likelihood : float
        With the normalisers of noise and shift prior.
    """
    joint = log_joint(particle, references, support, references.log_fractions)
    log_sum = float(logsumexp(joint))
    return joint - log_sum, log_sum + log_normaliser(particle, references)


def summarise(
    support: PoseSupport,
    log_posterior: npt.NDArray[np.float64],
    log_likelihood: float,
    classes: int,
) -> ParticleResult:
    """Most probable pose and shape of a posterior."""
    probability = np.exp(log_posterior)
    best = int(np.argmax(log_posterior))
    return ParticleResult(
        class_index=int(support.classes[best]),
        rotation=support.rotations[best],
        translation=support.translations[best],
        probability=float(probability[best]),
        class_probabilities=(support.classes == np.arange(classes)[:, None]) @ probability,
        effective_poses=float(1.0 / np.square(probability).sum()),
        log_likelihood=log_likelihood,
        fallback=support.fallback,
    )


def accumulate(
    particle: Particle,
    references: References,
    support: PoseSupport,
    log_posterior: npt.NDArray[np.float64],
    sums: Statistics,
) -> None:
    """Add one particle to the sums of its group (paper Eq. 10-13).

    Poses beyond `MASS_KEPT` of the posterior mass are left out.
    """
    grid = references.grid
    count = len(grid.points)
    weight = particle.weight.values
    spread = grid.weight_points
    # As in `padded_weight`: the mean of a box is no datum.
    scatter = np.where(grid.shells > 0, 0.5 * grid.multiplicity, np.float32(0.0))
    for i, mass in _kept(log_posterior):
        k, rotation = int(support.classes[i]), support.rotations[i]
        phases = np.empty(count, dtype=np.complex64)
        phase_factors(grid.points, support.translations[i], grid.box, phases)
        sliced = references.slice(k, rotation, count)
        sliced *= phases
        shell_residual(
            sliced, particle.data, weight, grid.multiplicity, grid.shells, mass, sums.residual
        )
        share = scatter * np.float32(mass)
        shifted_back = particle.data * phases.conj()
        turn_back(shifted_back, grid.points, share, rotation, PADDING, sums.numerator[k])
        rotate_weight(particle.weight.padded, spread, rotation, mass, sums.denominator[k])
        sums.class_mass[k] += mass
        sums.shift_square += mass * float(support.translations[i] @ support.translations[i])
    sums.observed += particle.weight.observed
    sums.power += shell_power(particle)
    sums.particles += 1.0


def _kept(log_posterior: npt.NDArray[np.float64]) -> list[tuple[int, float]]:
    """Indices and renormalised masses of the most probable poses that hold `MASS_KEPT`."""
    order = np.argsort(-log_posterior, kind="stable")
    mass = np.exp(log_posterior[order])
    number = int(np.searchsorted(np.cumsum(mass), MASS_KEPT)) + 1
    kept = mass[:number]
    kept = kept / kept.sum()
    return [(int(i), float(m)) for i, m in zip(order[:number], kept, strict=True)]


def shell_power(particle: Particle) -> npt.NDArray[np.float64]:
    """``sum |y|^2 / W`` over the observed components of each shell, ``(sum_shell + 1,)``."""
    grid = particle.grid
    weight = particle.weight.values.astype(np.float64)
    power = np.abs(particle.data).astype(np.float64) ** 2 * grid.multiplicity
    seen = weight > 0
    return sum_over_shells(grid.shells[seen], power[seen] / weight[seen], grid.sum_shell + 1)
