"""Decaying means of the sums of batches: stepwise EM (Cappe and Moulines 2009; Liang, Klein 2009).

With s_t the mean per particle of a batch's sums, ``S_t = (1 - g_t) S_{t-1} + g_t s_t`` and
``g_t = (t + 1)^-0.6``. The M-step is given sums of as many particles as have the noise of S, so
that noise, prior and measured signal-to-noise ratio stay what they are: with
``w_t = (1 - g_t) w_{t-1} + g_t`` and ``q_t = (1 - g_t)^2 q_{t-1} + g_t^2 / n_t``, batches of n of N
particles, f = n / N, leave S_t / w_t with the noise of ``1 / ((1 - f) q_t / w_t^2 + 1 / N)``
particles, as no particle brings new noise a second time. Shells that joined later have w and q of
their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from faml.em.statistics import Statistics
from faml.transforms.fourier import FourierGrid, fourier_grid

__all__ = ["RunningSums", "after_batch"]

_EXPONENT = 0.6
_PER_SHELL = ("residual", "observed", "power")


@dataclass(frozen=True, eq=False)
class RunningSums:
    """What batches have left so far.

    Attributes
    ----------
    means : tuple of Statistics
        S of each group, per particle.
    weights, squares : (G, S) float64
        w and q of each group and shell.
    batch : (G,) float64
        Particles of each group in the last batch.
    steps : int
        Batches that went in.
    box, align_shell, sum_shell : int
        Of the grid.
    """

    means: tuple[Statistics, ...]
    weights: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]
    batch: npt.NDArray[np.float64]
    steps: int
    box: int
    align_shell: int
    sum_shell: int

    @property
    def grid(self) -> FourierGrid:
        """Components of the sums."""
        return fourier_grid(self.box, self.align_shell, self.sum_shell)

    def particles(self, sizes: Sequence[int]) -> npt.NDArray[np.float64]:
        """How many particles have the noise of each group and shell, (G, S) float64.

        ``sizes`` are the groups', which no number exceeds.
        """
        every = np.array(sizes, dtype=np.float64)[:, None]
        fresh = 1.0 - np.minimum(self.batch[:, None] / every, 1.0)
        return 1.0 / (fresh * self.squares / self.weights**2 + 1.0 / every)

    def sums(self, sizes: Sequence[int]) -> tuple[Statistics, ...]:
        """Sums of each group, of ``sizes``, as of so many particles."""
        factors = self.particles(sizes) / self.weights
        grid = self.grid
        reach = np.arange(-grid.padded_reach, grid.padded_reach + 1)
        square = reach**2
        cube = square[:, None, None] + square[:, None] + square[grid.padded_reach :]
        cube_shells = _shells_of(cube, grid)
        points = np.square(grid.weight_points.astype(np.int64)).sum(axis=1)
        point_shells = _shells_of(points, grid)
        found = []
        for mean, factor in zip(self.means, factors, strict=True):
            part = mean.scaled(float(factor[0]))
            if (factor != factor[0]).any():
                part.numerator = mean.numerator * factor[cube_shells]
                part.denominator = mean.denominator * factor[point_shells]
                for name in _PER_SHELL:
                    setattr(part, name, getattr(mean, name) * factor)
            found.append(part)
        return tuple(found)


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
    batch = np.array([part.particles for part in sums])
    weights = np.zeros((len(sums), grid.sum_shell + 1))
    squares = np.zeros_like(weights)
    means = [part.scaled(gain / part.particles) for part in sums]
    if before is not None:
        known = before.sum_shell + 1
        weights[:, :known] = (1.0 - gain) * before.weights
        squares[:, :known] = (1.0 - gain) ** 2 * before.squares
        for mean, old in zip(means, before.means, strict=True):
            mean.add(_on_grid(old, before.grid, grid).scaled(1.0 - gain))
    weights += gain
    squares += gain**2 / batch[:, None]
    return RunningSums(
        tuple(means), weights, squares, batch, steps, grid.box, grid.align_shell, grid.sum_shell
    )


def _shells_of(squares: npt.NDArray[np.int64], grid: FourierGrid) -> npt.NDArray[np.int64]:
    """Fourier shell of points of the padded spectrum, from the square of their radius in its steps.

    What lies beyond the last shell has come from there.
    """
    shells = np.floor(0.5 * np.sqrt(squares) + 0.5).astype(np.int64)
    return np.minimum(shells, grid.sum_shell)


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
    for name in _PER_SHELL:
        values = getattr(sums, name)
        getattr(wider, name)[: len(values)] = values
    wider.shift_square, wider.particles = sums.shift_square, sums.particles
    return wider
