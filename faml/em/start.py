"""Starts: which pose each particle has before the first E-step (method.md section 7)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from faml.conventions import IntArray
from faml.em.state import Assignments
from faml.errors import ConfigurationError, InputDataError
from faml.particles import ParticleSet
from faml.transforms.rotations import random_rotations

__all__ = ["REFERENCE_FREE_STARTS", "fixed_assignments", "start_assignments", "start_seed"]

REFERENCE_FREE_STARTS = ("random", "average", "poses")
_STREAM = 0x57A7  # tells the start's random stream from the others
_NUMBER_STREAM = 0x57A8


def start_seed(seed: int, number: int) -> int:
    """Seed of random start ``number``, from 1; the first has the run's own."""
    if number == 1:
        return seed
    return int(np.random.SeedSequence([seed, _NUMBER_STREAM, number]).generate_state(1)[0])


def start_assignments(particles: ParticleSet, start: str, classes: int, seed: int) -> Assignments:
    """Poses and classes of iteration 0.

    Parameters
    ----------
    particles : ParticleSet
    start : {"random", "average", "poses"} or anything else
        Haar-random rotations; all at the identity (the paper's plain average); the input poses.
        Anything else is a reference, for which poses do not matter: the identity.
    classes : int
        Particles are split over the classes at random, as evenly as possible.
    seed : int

    Raises
    ------
    InputDataError
        `poses` without input poses.
    ConfigurationError
        More classes than particles.
    """
    count = len(particles)
    if classes > count:
        raise ConfigurationError(
            f"expected at most as many classes as particles, found {classes} classes for "
            f"{count} particles; lower --classes"
        )
    rng = np.random.default_rng(np.random.SeedSequence([seed, _STREAM]))
    split = rng.permutation(np.arange(count) % classes)
    rotations = np.broadcast_to(np.eye(3), (count, 3, 3)).copy()
    translations = np.zeros((count, 3))
    if start == "random":
        rotations = random_rotations(count, rng).as_matrix()
    elif start == "poses":
        if particles.poses is None:
            raise InputDataError(
                "--start poses needs poses: expected a STAR file with rlnAngleRot, rlnAngleTilt "
                "and rlnAnglePsi, found none; use --start random"
            )
        rotations = particles.poses.rotations.copy()
        translations = particles.poses.translations.copy()
    return fixed_assignments(split, rotations, translations, classes)


def fixed_assignments(
    labels: IntArray,
    rotations: npt.NDArray[np.float64],
    translations: npt.NDArray[np.float64],
    classes: int,
) -> Assignments:
    """Assignments with probability one."""
    count = len(labels)
    return Assignments(
        classes=labels.astype(np.int64),
        rotations=rotations,
        translations=translations,
        probabilities=np.ones(count),
        class_probabilities=np.eye(classes)[labels],
        effective_poses=np.ones(count),
        log_likelihoods=np.zeros(count),
        log_evidences=np.zeros(count),
        fallbacks=np.zeros(count, dtype=bool),
        kept_masses=np.ones(count),
    )
