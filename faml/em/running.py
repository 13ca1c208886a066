"""Decaying means of the sums of batches: stepwise EM (Cappe and Moulines 2009; Liang, Klein 2009).

With s_t the mean per particle of a batch's sums, ``S_t = (1 - g_t) S_{t-1} + g_t s_t`` and
``g_t = (t + 1)^-0.6``. Its noise is that of ``1 / e_t`` particles, where
``e_t = (1 - g_t)^2 e_{t-1} + g_t^2 / n_t``: the M-step is given ``S_t / e_t``, the sums of so many,
so that noise, prior and measured signal-to-noise ratio stay what they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from faml.em.statistics import Statistics
from faml.transforms.fourier import FourierGrid, fourier_grid

__all__ = ["RunningSums", "after_batch"]

_EXPONENT = 0.6


@dataclass(frozen=True, eq=False)
class RunningSums:
    """What batches have left so far.

    Attributes
    ----------
    means : tuple of Statistics
        S of each group, per particle.
    inverse_counts : (G,) float64
        e of each group.
    steps : int
        Batches that went in.
    box, align_shell, sum_shell : int
        Of the grid.
    """

    means: tuple[Statistics, ...]
    inverse_counts: npt.NDArray[np.float64]
    steps: int
    box: int
    align_shell: int
    sum_shell: int

    @property
    def grid(self) -> FourierGrid:
        """Components of the sums."""
        return fourier_grid(self.box, self.align_shell, self.sum_shell)

    @property
    def sums(self) -> tuple[Statistics, ...]:
        """Sums of each group as of the number of particles whose noise they have."""
        pairs = zip(self.means, self.inverse_counts, strict=True)
        return tuple(mean.scaled(1.0 / float(inverse)) for mean, inverse in pairs)


def after_batch(
    before: RunningSums | None, sums: tuple[Statistics, ...], grid: FourierGrid
) -> RunningSums:
    """Running sums with those of one more batch.

    Parameters
    ----------
    before : RunningSums or None
        None where there are none, or poses have moved to another frame since.
    sums : tuple of Statistics
        Of each group.
    grid : FourierGrid
        Of the sums; no coarser than before.
    """
    steps = 1 if before is None else before.steps + 1
    gain = 1.0 if before is None else (steps + 1.0) ** -_EXPONENT
    means, inverse = [], []
    for number, part in enumerate(sums):
        new = part.scaled(gain / part.particles)
        if before is not None:
            new.add(_on_grid(before.means[number], before.grid, grid).scaled(1.0 - gain))
        old = 0.0 if before is None else float(before.inverse_counts[number])
        means.append(new)
        inverse.append((1.0 - gain) ** 2 * old + gain**2 / part.particles)
    return RunningSums(
        tuple(means), np.array(inverse), steps, grid.box, grid.align_shell, grid.sum_shell
    )


def _on_grid(sums: Statistics, old: FourierGrid, new: FourierGrid) -> Statistics:
    """Sums on a grid of more shells, of which they say nothing."""
    if old.sum_shell == new.sum_shell:
        return sums
    wider = Statistics.zeros(len(sums.class_mass), new, total=True)
    q = old.padded_reach
    edge = slice(new.padded_reach - q, new.padded_reach + q + 1)
    wider.numerator[:, edge, edge, : q + 1] = sums.numerator
    # Points come in one order on all grids.
    known = np.square(new.weight_points.astype(np.int64)).sum(axis=1) < q**2
    wider.denominator[:, known] = sums.denominator
    wider.class_mass[:] = sums.class_mass
    for name in ("residual", "observed", "power"):
        values = getattr(sums, name)
        getattr(wider, name)[: len(values)] = values
    wider.shift_square, wider.particles = sums.shift_square, sums.particles
    return wider
