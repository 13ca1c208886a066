"""Sufficient statistics of the M-step, per group of particles."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from faml.transforms.fourier import FourierGrid

__all__ = ["Statistics", "total_of"]


@dataclass
class Statistics:
    """Sums over particles and poses. Partial sums of a chunk are complex64, totals complex128.

    Attributes
    ----------
    numerator : (K, 2q + 1, 2q + 1, q + 1) complex
        ``sum P R^-1 y`` on the padded half-cube.
    denominator : (K, P) float64
        ``sum P R^-1 W`` at `FourierGrid.weight_points`.
    class_mass : (K,) float64
        ``sum P``.
    residual, observed, power : (S,) float64
        Per shell: ``sum P |y - W R A|^2 / W``, number of components with W > 0 behind it, and
        ``sum |y|^2 / W``.
    shift_square : float
        ``sum P |t|^2`` in voxel^2.
    particles : float
        How many.
    """

    numerator: npt.NDArray[np.complexfloating]
    denominator: npt.NDArray[np.float64]
    class_mass: npt.NDArray[np.float64]
    residual: npt.NDArray[np.float64]
    observed: npt.NDArray[np.float64]
    power: npt.NDArray[np.float64]
    shift_square: float = 0.0
    particles: float = 0.0

    @classmethod
    def zeros(cls, classes: int, grid: FourierGrid, *, total: bool) -> Statistics:
        """Empty sums; ``total`` chooses double precision for the numerator."""
        q = grid.padded_reach
        shape = (classes, 2 * q + 1, 2 * q + 1, q + 1)
        shells = grid.sum_shell + 1
        return cls(
            numerator=np.zeros(shape, dtype=np.complex128 if total else np.complex64),
            denominator=np.zeros((classes, len(grid.weight_points))),
            class_mass=np.zeros(classes),
            residual=np.zeros(shells),
            observed=np.zeros(shells),
            power=np.zeros(shells),
        )

    def add(self, other: Statistics) -> None:
        """Add another sum in place. The order of calls fixes the rounding: keep it fixed."""
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if isinstance(mine, np.ndarray):
                mine += theirs
            else:
                setattr(self, field.name, mine + theirs)

    def scaled(self, factor: float) -> Statistics:
        """New sums, as of ``factor`` times the particles."""
        return Statistics(
            **{field.name: getattr(self, field.name) * factor for field in fields(self)}
        )

    def as_vector(self) -> npt.NDArray[np.float64]:
        """All numbers of a total in a row, (V,) float64, for `from_vector`."""
        parts = [np.atleast_1d(getattr(self, field.name)) for field in fields(self)]
        return np.concatenate([part.view(np.float64).reshape(-1) for part in parts])

    @classmethod
    def from_vector(
        cls, values: npt.NDArray[np.float64], classes: int, grid: FourierGrid
    ) -> Statistics:
        """A total from `as_vector`; ValueError unless there are as many numbers as it has."""
        total, start = cls.zeros(classes, grid, total=True), 0
        expected = len(total.as_vector())
        if len(values) != expected:
            raise ValueError(f"expected {expected} numbers, found {len(values)}")
        for field in fields(total):
            part = getattr(total, field.name)
            if not isinstance(part, np.ndarray):
                setattr(total, field.name, float(values[start]))
                start += 1
                continue
            flat = part.view(np.float64).reshape(-1)
            flat[:] = values[start : start + flat.size]
            start += flat.size
        return total

    def emptied(self) -> Statistics:
        """Empty sums of the same kind."""
        return self.minus(self)

    def minus(self, other: Statistics) -> Statistics:
        """A new sum without ``other``, which is part of this one."""
        return Statistics(
            **{field.name: getattr(self, field.name) - getattr(other, field.name)
               for field in fields(self)}
        )  # fmt: skip


def total_of(parts: tuple[Statistics, ...]) -> Statistics:
    """Sum of all parts; the part itself where there is one."""
    if len(parts) == 1:
        return parts[0]
    total = parts[0].emptied()
    for part in parts:
        total.add(part)
    return total
