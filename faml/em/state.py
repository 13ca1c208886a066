"""Immutable states that the EM loop yields and checkpoints keep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from faml.em.running import RunningSums
from faml.model import Model
from faml.particles.view import Pose

__all__ = ["Assignments", "Changes", "State", "SymmetrySeen"]


_BETTER = 0.1
"""FSC by which a symmetry must be ahead of chance."""
_SHARE = 0.85
"""Of what is expected that it must reach."""


@dataclass(frozen=True)
class Assignments:
    """What an iteration found for each of N particles.

    Attributes
    ----------
    classes : (N,) int64
        Most probable class, zero-based.
    rotations : (N, 3, 3) float64
        Most probable pose.
    translations : (N, 3) float64
        x, y, z in voxels.
    probabilities : (N,) float64
        Posterior mass of the most probable pose.
    class_probabilities : (N, K) float64
    effective_poses : (N,) float64
        ``1 / sum P^2``.
    log_likelihoods : (N,) float64
        Logarithm of each particle's marginal likelihood, with all normalisers.
    log_evidences : (N,) float64
        The same less that of a box without structure: what the structure explains, in nats.
    fallbacks : (N,) bool
        The candidate list was empty and the previous pose was used.
    kept_masses : (N,) float64
        Share of the posterior held by the poses that stand for it, as the strategy knows it.
    """

    classes: npt.NDArray[np.int64]
    rotations: npt.NDArray[np.float64]
    translations: npt.NDArray[np.float64]
    probabilities: npt.NDArray[np.float64]
    class_probabilities: npt.NDArray[np.float64]
    effective_poses: npt.NDArray[np.float64]
    log_likelihoods: npt.NDArray[np.float64]
    log_evidences: npt.NDArray[np.float64]
    fallbacks: npt.NDArray[np.bool_]
    kept_masses: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.classes)

    @classmethod
    def assembled(cls, parts: Sequence[Assignments], members: npt.NDArray[np.int64]) -> Assignments:
        """Assignments of particles 0 to N - 1 from parts, and which particle each row is of."""
        order = np.argsort(members)
        return cls(
            **{
                field.name: np.concatenate([getattr(part, field.name) for part in parts])[order]
                for field in fields(cls)
            }
        )

    def take(self, which: npt.NDArray[np.int64] | slice) -> Assignments:
        """Those of some particles."""
        return Assignments(
            **{field.name: getattr(self, field.name)[which] for field in fields(self)}
        )

    def updated(self, which: npt.NDArray[np.int64], new: Assignments) -> Assignments:
        """The same with those of some particles replaced."""
        columns = {}
        for field in fields(self):
            columns[field.name] = getattr(self, field.name).copy()
            columns[field.name][which] = getattr(new, field.name)
        return Assignments(**columns)

    def pose(self, index: int) -> Pose:
        """Most probable pose of one particle."""
        return Pose(int(self.classes[index]), self.rotations[index], self.translations[index])


@dataclass(frozen=True)
class Changes:
    """How far the poses moved since the last iteration.

    Attributes
    ----------
    median_angle_deg, median_shift_voxels : float
    class_share : float
        Share of particles whose class changed.
    """

    median_angle_deg: float
    median_shift_voxels: float
    class_share: float


@dataclass(frozen=True)
class SymmetrySeen:
    """What an average had of a symmetry before that was imposed on it.

    Attributes
    ----------
    correlation : float
        Of the average and its turned copies (Pearson).
    agreement : float
        FSC of the average and the copy that is least like it, mean over the shells aligned to. A
        single shell may hold no signal, so none decides.
    chance : float
        The same for the worse of two groups that it can hardly have both.
    expected : float
        What its signal-to-noise ratio allows, for copies whose noise is independent.
    """

    correlation: float
    agreement: float
    chance: float
    expected: float

    @property
    def by_chance(self) -> bool:
        """Whether it agreed no better with copies turned by the symmetry than by another."""
        return self.agreement < self.chance + _BETTER

    @property
    def evident(self) -> bool:
        """Whether the average had the symmetry in all its detail, and not in its outline alone."""
        return not self.by_chance and self.agreement >= _SHARE * self.expected


@dataclass(frozen=True)
class State:
    """One complete iteration.

    Attributes
    ----------
    iteration : int
        0 is the start.
    model : Model
        After the M-step.
    assignments : Assignments
    align_shell : int
        Last Fourier shell the E-step used.
    next_align_shell : int
        The one the next E-step will use.
    log_likelihood : float
        Sum over particles at the parameters before the M-step (scaled up from those that the
        iteration visited), with the class fractions of the pass
        where classes are balanced. Comparable only between
        iterations with the same `align_shell`.
    ssnr : (K, S) float64
        Measured spectral signal-to-noise ratio of each average.
    changes : Changes or None
        None for the start.
    empty_classes : tuple of int
        Classes that kept their old average for want of particles.
    stop_reason : str
        Empty while the run should go on.
    fold_models : tuple of Model
        What each fold is aligned to next: the model without the fold's own particles. Empty
        without folds.
    half_models : tuple of Model
        Of each half-set. Empty without half-sets.
    fsc : (K, n // 2) float64 or None
        Fourier shell correlation of the half-sets' averages, in one frame.
    symmetry : str
        That the averages have; a run from nothing begins without its own.
    best_log_likelihood : float
        That last counted as a gain at this `align_shell`; minus infinity before any.
    stalled : int
        Iterations since then.
    symmetry_seen : tuple of K SymmetrySeen
        Where a symmetry was imposed on averages that had been made without.
    running : RunningSums or None
        What batches have left; None while all particles are visited.
    """

    iteration: int
    model: Model
    assignments: Assignments
    align_shell: int
    next_align_shell: int
    log_likelihood: float
    ssnr: npt.NDArray[np.float64]
    changes: Changes | None
    empty_classes: tuple[int, ...]
    stop_reason: str
    fold_models: tuple[Model, ...] = ()
    half_models: tuple[Model, ...] = ()
    fsc: npt.NDArray[np.float64] | None = None
    symmetry: str = "C1"
    best_log_likelihood: float = -math.inf
    stalled: int = 0
    symmetry_seen: tuple[SymmetrySeen, ...] = ()
    running: RunningSums | None = None

    def going_on(self) -> State:
        """The same state as one that another run, or the same with other settings, begins from.

        What has stood still under other circumstances says nothing.
        """
        return replace(self, stop_reason="", best_log_likelihood=-math.inf, stalled=0)

    @property
    def references(self) -> tuple[Model, ...]:
        """The models that the groups of particles are aligned to next."""
        return self.fold_models or self.half_models or (self.model,)

    @property
    def converged(self) -> bool:
        """Whether the loop stops here."""
        return bool(self.stop_reason)
