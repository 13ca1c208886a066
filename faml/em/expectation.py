"""E-step: the posterior over a strategy's support, and its sums (paper Eq. 14, 15)."""

from __future__ import annotations

import math
from collections.abc import Iterator
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
    "sharpened",
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
    log_evidence: float
    fallback: bool
    kept_mass: float


def log_normaliser(particle: Particle, references: References) -> float:
    """``-1/2 sum_j log(2 pi sigma_r^2 W_j)`` over the observed components of the E-step."""

    def make() -> float:
        count = references.grid.align_count
        weight = particle.weight.values[:count]
        seen = weight > 0
        variance = weight[seen].astype(np.float64) / references.precision[seen]
        terms = references.grid.multiplicity[:count][seen] * np.log(2.0 * math.pi * variance)
        return -0.5 * float(terms.sum())

    return references.shared(("normaliser", particle.weight.index), make)


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
    weighted = references.with_log_fractions(log_fractions)
    log_prior = weighted.log_prior(support.classes, support.translations)
    squared = support_residuals(particle, references, support)
    joint: npt.NDArray[np.float64] = log_prior - 0.5 * squared + support.log_volumes
    return joint


def posterior(
    particle: Particle, references: References, support: PoseSupport, sharpness: float = 1.0
) -> tuple[npt.NDArray[np.float64], float]:
    """Log posterior of every pose of the support, and the log marginal likelihood (Eq. 14, 15).

    Parameters
    ----------
    particle : Particle
    references : References
    support : PoseSupport
    sharpness : float
        Power s of the density of poses: ``alpha_k (p(t) p(y | k, phi))^s v`` for a cell of volume
        v. Above 1 it anneals backwards (Naim and Gildea 2012). The likelihood is that of 1.

    Returns
    -------
    log_posterior : (M,) float64
        Normalised: exponentials sum to one.
    log_likelihood : float
        With the normalisers of noise and shift prior.
    """
    joint = log_joint(particle, references, support, references.log_fractions)
    log_sum = float(logsumexp(joint))
    log_likelihood = log_sum + log_normaliser(particle, references)
    if sharpness != 1.0:
        joint = sharpened(joint, references, support, sharpness)
        log_sum = float(logsumexp(joint))
    return joint - log_sum, log_likelihood


def sharpened(
    joint: npt.NDArray[np.float64], references: References, support: PoseSupport, sharpness: float
) -> npt.NDArray[np.float64]:
    """`log_joint` with the density of poses raised to a power, fractions and cells as they are."""
    kept = references.log_fractions[support.classes] + support.log_volumes
    result: npt.NDArray[np.float64] = sharpness * (joint - kept) + kept
    return result


def summarise(
    support: PoseSupport,
    log_posterior: npt.NDArray[np.float64],
    log_likelihood: float,
    log_evidence: float,
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
        log_evidence=log_evidence,
        fallback=support.fallback,
        kept_mass=support.mass,
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
    poses, masses = _kept(log_posterior)
    for members in _same_rotation(support, poses):
        first = poses[members[0]]
        k, rotation = int(support.classes[first]), support.rotations[first]
        sliced = references.slice(k, rotation, count)
        shifted_back = np.zeros(count, dtype=np.complex64)
        for i in members:
            mass, translation = float(masses[i]), support.translations[poses[i]]
            phases = np.empty(count, dtype=np.complex64)
            phase_factors(grid.points, translation, grid.box, phases)
            shell_residual(
                sliced * phases, particle.data, weight, grid.multiplicity, grid.shells, mass,
                sums.residual,
            )  # fmt: skip
            shifted_back += np.float32(mass) * phases.conj()
            sums.shift_square += mass * float(translation @ translation)
        shifted_back *= particle.data
        total = float(masses[members].sum())
        turn_back(shifted_back, grid.points, scatter, rotation, PADDING, sums.numerator[k])
        rotate_weight(particle.weight.padded, spread, rotation, total, sums.denominator[k])
        sums.class_mass[k] += total
    sums.observed += particle.weight.observed
    sums.power += shell_power(particle)
    sums.particles += 1.0


def _kept(
    log_posterior: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Indices and renormalised masses of the most probable poses that hold `MASS_KEPT`."""
    order = np.argsort(-log_posterior, kind="stable")
    mass = np.exp(log_posterior[order])
    number = int(np.searchsorted(np.cumsum(mass), MASS_KEPT)) + 1
    kept = mass[:number]
    return order[:number], kept / kept.sum()


def _same_rotation(
    support: PoseSupport, poses: npt.NDArray[np.int64]
) -> Iterator[npt.NDArray[np.int64]]:
    """Positions in ``poses`` that share class and rotation, so that they are turned together.

    Strategies that search a grid return many shifts of each rotation.
    """
    keys = np.column_stack([support.classes[poses], support.rotations[poses].reshape(-1, 9)])
    _, group = np.unique(keys, axis=0, return_inverse=True)
    order = np.argsort(group, kind="stable")
    yield from np.split(order, np.nonzero(np.diff(group[order]))[0] + 1)


def shell_power(particle: Particle) -> npt.NDArray[np.float64]:
    """``sum |y|^2 / W`` over the observed components of each shell, ``(sum_shell + 1,)``."""
    grid = particle.grid
    weight = particle.weight.values.astype(np.float64)
    power = np.abs(particle.data).astype(np.float64) ** 2 * grid.multiplicity
    seen = weight > 0
    return sum_over_shells(grid.shells[seen], power[seen] / weight[seen], grid.sum_shell + 1)
