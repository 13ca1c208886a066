"""What is done with how many particles: groups, shells, visits, and what is saved of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from faml.config import BLIND_STARTS, RunConfig
from faml.costs.sizes import (
    saved_last_bytes,
    saved_once_bytes,
    saved_running_bytes,
    saved_state_bytes,
)
from faml.em.batches import batch_size
from faml.em.folds import folds_of
from faml.em.schedule import LOOK_AHEAD, first_align_shell, last_shell
from faml.transforms.fourier import full_resolution_shell

__all__ = ["Job", "number_of_groups"]


def number_of_groups(config: RunConfig, count: int) -> int:
    """Groups of particles with averages of their own: folds in all halves."""
    halves = 2 if config.em.half_sets else 1
    return halves * folds_of(config.em.folds, max(1, count // halves))


@dataclass(frozen=True)
class Job:
    """Particles and what is done with them.

    Attributes
    ----------
    config : RunConfig
    box : int
    radius_voxels : float
    count : int
        Particles N.
    """

    config: RunConfig
    box: int
    radius_voxels: float
    count: int

    @property
    def classes(self) -> int:
        """K."""
        return self.config.em.classes

    @property
    def halves(self) -> int:
        """Half-sets, or none."""
        return 2 if self.config.em.half_sets else 0

    @cached_property
    def groups(self) -> int:
        """Folds in all halves."""
        return number_of_groups(self.config, self.count)

    @property
    def first_shell(self) -> int:
        """Where a run begins."""
        return first_align_shell(self.box, self.radius_voxels, self.config.em)

    @property
    def last_shell(self) -> int:
        """The finest it may come to."""
        return last_shell(self.box, self.config.em)

    def sum_shell(self, shell: int) -> int:
        """Last shell that an iteration at a resolution sums."""
        return min(shell + LOOK_AHEAD, full_resolution_shell(self.box))

    def visited(self, iteration: int) -> int:
        """Particles of an iteration."""
        return batch_size(iteration, self.count, self.config.em)

    @property
    def batched(self) -> bool:
        """Whether the first iterations visit some particles only."""
        return self.visited(1) < self.count

    @property
    def explored(self) -> int:
        """Iterations in which poses are explored."""
        em = self.config.em
        return em.exploration if em.start in BLIND_STARTS else 0

    @property
    def solves(self) -> tuple[int, int]:
        """M-steps of an iteration: one after the other, and of groups, which threads share."""
        ordered = 1 + 2 * self.halves
        held_out = self.groups if self.groups > max(1, self.halves) else 0
        return ordered, held_out

    def saved_bytes(self, iteration: int, shell: int, name_bytes: float) -> int:
        """Size of the checkpoint after an iteration that aligned to a shell; the start is 0.

        Sums of batches leave their place empty when all particles are visited.
        """
        if iteration < 0:
            return 0
        _, each = saved_state_bytes(self.box, self.classes, self.count, halves=self.halves > 0)
        folds = self.groups if self.groups > max(1, self.halves) else 0
        kept = saved_last_bytes(self.box, self.classes, folds, self.halves)
        if self.batched and iteration > 0:
            kept += self.groups * saved_running_bytes(self.classes, self.sum_shell(shell))
        return (iteration + 1) * each + kept + saved_once_bytes(self.count, name_bytes)
