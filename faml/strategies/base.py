"""What a strategy is: given particle, model and generator, a weighted set of poses.

Adding one is a file with a class that has `Strategy`'s constructor and method, and an entry point
in the group ``faml.strategies``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from faml.config import SearchConfig
from faml.particles.view import Particle, Pose
from faml.references import References
from faml.symmetry import PointGroup, point_group

__all__ = ["Candidates", "PoseSupport", "Proposal", "SearchContext", "Strategy", "prepare"]


@dataclass(frozen=True)
class PoseSupport:
    """Weighted poses that stand for the integral over classes, rotations and shifts.

    Attributes
    ----------
    classes : (M,) int64
    rotations : (M, 3, 3) float64
    translations : (M, 3) float64
        x, y, z in voxels.
    log_volumes : (M,) float64
        Logarithm of the volume of each pose's cell: Haar measure (total 1) times voxel^3.
    squared_residuals : (M,) float64 or None
        d2 of each pose (method.md section 2) where the search has computed it; else the E-step
        does.
    fallback : bool
        No candidate was found; the support is the previous pose.
    mass : float
        Share of the posterior that the poses hold, as far as the strategy knows it. They stand
        for all of it.
    """

    classes: npt.NDArray[np.int64]
    rotations: npt.NDArray[np.float64]
    translations: npt.NDArray[np.float64]
    log_volumes: npt.NDArray[np.float64]
    squared_residuals: npt.NDArray[np.float64] | None = None
    fallback: bool = False
    mass: float = 1.0

    @classmethod
    def single(cls, pose: Pose, log_volume: float = 0.0, *, fallback: bool = False) -> PoseSupport:
        """A support of one pose."""
        return cls(
            classes=np.array([pose.class_index], dtype=np.int64),
            rotations=pose.rotation[None].astype(np.float64),
            translations=pose.translation[None].astype(np.float64),
            log_volumes=np.array([log_volume]),
            fallback=fallback,
        )

    def __len__(self) -> int:
        return len(self.classes)


@dataclass(frozen=True)
class Candidates:
    """Poses a proposal found, in no particular order.

    Attributes
    ----------
    classes : (M,) int64
    rotations : (M, 3, 3) float64
    translations : (M, 3) float64
        x, y, z in voxels.
    scores : (M,) float64
        Normalised correlation of paper Eq. 1, between -1 and 1.
    squared_residuals : (M,) float64
        d2 of paper Eq. 15, method.md section 2.
    """

    classes: npt.NDArray[np.int64]
    rotations: npt.NDArray[np.float64]
    translations: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    squared_residuals: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.classes)


@dataclass(frozen=True)
class SearchContext:
    """What a strategy is built from.

    Attributes
    ----------
    config : SearchConfig
    box : int
        Edge n in voxels.
    max_shift_voxels : float
    seed : int
        Of the run; for draws made once.
    radius_voxels : float
        Of the particle.
    last_shell : int
        Largest Fourier shell of the E-step in this run.
    classes : int
        K.
    symmetry : PointGroup
        Of every class: poses outside its asymmetric unit need not be searched.
    """

    config: SearchConfig
    box: int
    max_shift_voxels: float
    seed: int
    radius_voxels: float
    last_shell: int
    classes: int
    symmetry: PointGroup = field(default_factory=lambda: point_group("C1"))


class Proposal(Protocol):
    """Finds candidate poses: a part of its own, exchangeable within a strategy."""

    def prepare(self, references: References) -> None:
        """Make the tables that one pass needs; see `Strategy`."""
        ...

    def propose(
        self, particle: Particle, references: References, rng: np.random.Generator
    ) -> Candidates:
        """Candidate poses of one particle for each of its ``classes``; may be empty."""
        ...


def prepare(strategy: Strategy, references: References) -> None:
    """Let a strategy make its tables: pyshtools must not be called from worker threads."""
    hook = getattr(strategy, "prepare", None)
    if hook is not None:
        hook(references)


@runtime_checkable
class Strategy(Protocol):
    """One way to support the posterior of a particle. Instances are shared by threads.

    A strategy that has tables of its own may have a method ``prepare(references)``, which is called
    once before each pass, in the main thread.
    """

    def __init__(self, context: SearchContext) -> None: ...

    def support(
        self, particle: Particle, references: References, rng: np.random.Generator
    ) -> PoseSupport:
        """The weighted poses of one particle in each of its ``classes``; never empty.

        Parameters
        ----------
        particle : Particle
        references : References
            The model at the current resolution.
        rng : numpy Generator
            Seeded by run, iteration and particle.
        """
        ...
