"""Search over the whole pose space with phases kept (method.md sections 3 and 6).

One SO(3) correlation per trial shift gives the squared residual of every rotation of an Euler
grid, up to the band limit and the quadrature over integer shells. Nothing the size of rotations
times shifts is ever stored.

Most shifts are ruled out first: half of the shells, for a tenth of the work, say where a particle
cannot be. Shifts whose best rotation lies `_RULED_OUT_NATS` behind there add some 1e-8 nats to a
log posterior; the most measured, for one of twenty in crowded real boxes, is 0.08
(bench/results.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from faml.kernels.phased import keep_best, raise_best
from faml.particles.view import Particle
from faml.references import PADDING, References
from faml.strategies.pose_grid import PoseGrid

__all__ = ["BestPoses", "PhasedSearch"]

_BLOCK_BYTES = 1 << 20
"""Samples of shifted spectra that are worked on together: what a core's cache holds."""
_RULED_OUT_NATS = 20.0
"""Shifts that lie so far behind at half the shells are not looked at with all of them."""


@dataclass(frozen=True)
class BestPoses:
    """The most probable poses of a grid.

    Attributes
    ----------
    classes : (M,) int64
    cells : (M, 6) int64
        Of level 0, see `PoseGrid`; the most probable first.
    log_joint : (M,) float64
        Prior times likelihood times cell, without the particle's constants; as the correlation
        has it.
    log_total : float
        Log of the sum over the whole grid and all classes.
    """

    classes: npt.NDArray[np.int64]
    cells: npt.NDArray[np.int64]
    log_joint: npt.NDArray[np.float64]
    log_total: float

    def __len__(self) -> int:
        return len(self.classes)


class PhasedSearch:
    """Correlations of one particle with every class, shift by shift."""

    def __init__(self, references: References, grid: PoseGrid) -> None:
        self._references = references
        self.grid = grid
        self._radii = references.radii[: grid.shells]
        self._radial = references.radial_weights[: grid.shells]

    def best_poses(
        self, particle: Particle, limit: int, allowed: npt.NDArray[np.bool_] | None = None
    ) -> BestPoses:
        """The ``limit`` most probable poses, and the mass of all; empty if all poses are alike.

        A reference without structure has no best pose.

        Parameters
        ----------
        particle : Particle
        limit : int
        allowed : (B, G, G) bool, optional
            Rotations to be considered.
        """
        grid = self.grid
        betas, gammas, alphas = grid.shape
        points = len(grid.lattice) * betas * gammas * alphas
        values = np.empty(4 * limit + 2 * alphas, dtype=np.float32)
        codes = np.empty(len(values), dtype=np.int64)
        state = np.array([0.0, -np.inf, -np.inf, 0.0])
        prior = self._shift_priors(particle)
        cells = grid.log_volumes(np.arange(betas)[:, None], 0)
        base = {
            k: cells.astype(np.float32)[:, None, None] - 0.5 * self._energy(k, particle)
            for k in particle.classes
        }
        if allowed is not None:
            for rest in base.values():
                rest[~allowed] = -np.inf
        structured = False
        shifts = self._promising(particle, prior, allowed)
        for k, shift, correlation in self._correlations(particle, shifts):
            structured = structured or bool(correlation[0, 0].any())
            first = k * points + shift * betas * gammas * alphas
            keep_best(correlation, base[k], prior[k][shift], first, limit, values, codes, state)
        count = int(state[0])
        if not structured or not math.isfinite(state[2]):
            return BestPoses(np.empty(0, np.int64), np.empty((0, 6), np.int64), np.empty(0), 0.0)
        order = np.argsort(-values[:count], kind="stable")[:limit]
        classes, within = np.divmod(codes[order], points)
        return BestPoses(
            classes=classes,
            cells=grid.cells(within),
            log_joint=values[order].astype(np.float64),
            log_total=float(state[2] + math.log(state[3])),
        )

    def scores(self, particle: Particle) -> dict[int, npt.NDArray[np.float32]]:
        """Log joint density of every rotation at its best shift, for each of the classes.

        Returns
        -------
        dict of (B, G, G) float32
            Without the particle's constants; -inf nowhere, as the best shift is never ruled out.
        """
        found = {k: np.full(self.grid.shape, -np.inf, dtype=np.float32) for k in particle.classes}
        prior = self._shift_priors(particle)
        shifts = self._promising(particle, prior, None)
        for k, shift, correlation in self._correlations(particle, shifts):
            raise_best(correlation, prior[k][shift], found[k])
        for k in found:
            found[k] -= 0.5 * self._energy(k, particle)
        return found

    def _shift_priors(self, particle: Particle) -> dict[int, npt.NDArray[np.float64]]:
        """Log prior density of the shifts of level 0, for each of the classes."""
        translations = self.grid.translations
        return {
            k: self._references.log_prior(np.full(len(translations), k), translations)
            for k in particle.classes
        }

    def _promising(
        self,
        particle: Particle,
        prior: dict[int, npt.NDArray[np.float64]],
        allowed: npt.NDArray[np.bool_] | None,
    ) -> dict[int, npt.NDArray[np.bool_]]:
        """Which shifts are worth a correlation with all shells, (T,) for each class.

        Classes are not compared: what tells them apart may lie in the other shells.
        """
        everywhere = np.ones(len(self.grid.lattice), dtype=np.bool_)
        scout = self.grid.scout
        if scout is None:
            return dict.fromkeys(particle.classes, everywhere)
        search = PhasedSearch(self._references, scout)
        base = {k: -0.5 * search._energy(k, particle) for k in particle.classes}
        if allowed is not None:
            outside = ~_coarser(allowed, scout.shape)
            for rest in base.values():
                rest[outside] = -np.inf
        highest = {k: prior[k].copy() for k in particle.classes}
        shifts = dict.fromkeys(particle.classes, everywhere)
        for k, shift, correlation in search._correlations(particle, shifts):
            highest[k][shift] += float((correlation + base[k]).max())
        return {k: each >= each.max() - _RULED_OUT_NATS for k, each in highest.items()}

    def _correlations(
        self, particle: Particle, shifts: dict[int, npt.NDArray[np.bool_]]
    ) -> Iterator[tuple[int, int, npt.NDArray[np.float32]]]:
        """Class, number of the shift, and cross term over the grid of rotations.

        ``shifts`` are those to be looked at, (T,) for each class.
        """
        grid = self.grid
        samples = grid.sphere.sample(particle.padded, self._radii, PADDING)
        plan, translations = grid.rotations, grid.translations
        harmonics = {k: self._harmonics(k) for k in particle.classes}
        block = max(1, _BLOCK_BYTES // samples.nbytes)
        # Small transforms cost less together than one by one.
        spectra = plan.spectrum(max(1, _BLOCK_BYTES // plan.spectrum().nbytes))
        filled: list[tuple[int, int]] = []

        def transformed() -> Iterator[tuple[int, int, npt.NDArray[np.float32]]]:
            correlations = plan.transform(spectra[: len(filled)])
            for (k, shift), correlation in zip(filled, correlations, strict=True):
                yield k, shift, correlation
            filled.clear()

        numbers = np.flatnonzero(np.logical_or.reduce(list(shifts.values())))
        for first in range(0, len(numbers), block):
            chosen = numbers[first : first + block]
            data = grid.sphere.analyse_shifted(
                samples, self._radii, translations[chosen], self._references.grid.box
            )
            for i, number in enumerate(chosen):
                for k in particle.classes:
                    if not shifts[k][number]:
                        continue
                    spectrum = spectra[len(filled)]
                    plan.fill(data[i], harmonics[k], self._radial, spectrum, even=False)
                    filled.append((k, int(number)))
                    if len(filled) == len(spectra):
                        yield from transformed()
        if filled:
            yield from transformed()

    def _harmonics(self, class_index: int) -> npt.NDArray[np.complex64]:
        """Hartley coefficients of an average, (L + 1, L + 1, S)."""
        sphere, references = self.grid.sphere, self._references

        def make() -> npt.NDArray[np.complex64]:
            samples = references.shell_samples(class_index, sphere, self.grid.shells)
            return sphere.analyse_hermitian(samples)

        return references.shared(("hartley", class_index, sphere.bandwidth, self.grid.shells), make)

    def _energy(self, class_index: int, particle: Particle) -> npt.NDArray[np.float32]:
        plan = self.grid.rotations
        key = ("energy", class_index, particle.weight.index, plan, self.grid.shells)
        return self._references.shared(
            key,
            lambda: self._references.energy(class_index, particle.weight, plan, self.grid.shells),
        )


def _coarser(allowed: npt.NDArray[np.bool_], shape: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
    """The points of a coarser grid nearest to those allowed, (B, G, G) of its shape."""
    betas, gammas, alphas = np.nonzero(allowed)
    count, period, _ = shape
    beta = (2 * betas + 1) * count // (2 * allowed.shape[0])
    gamma, alpha = (
        np.rint(steps * (period / allowed.shape[1])).astype(np.int64) % period
        for steps in (gammas, alphas)
    )
    coarse = np.zeros(shape, dtype=np.bool_)
    coarse[beta, gamma, alpha] = True
    return coarse
