"""The model at the current resolution: everything that is common to all particles of an iteration.

Padded spectra of the averages, their spherical harmonics and the denominators of the rotational
search are made once here and shared by threads.
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from faml.kernels.residuals import phase_factors, pose_grid_terms, pose_terms
from faml.kernels.slicing import slice_spectrum
from faml.model import Model
from faml.particles.view import Particle, WeightView
from faml.transforms.fourier import FourierGrid, padded_half_cube, spectrum_of
from faml.transforms.harmonics import ShellTransform, shell_transform
from faml.transforms.so3 import SO3Correlation, so3_correlation

__all__ = ["References", "band_limit"]

T = TypeVar("T")
_TABLES_KEPT = 64
_DENOMINATOR_FLOOR = 1e-3
PADDING = 2.0
"""Grid points of a padded spectrum per Fourier unit."""


def band_limit(box: int, shell: int, radius_voxels: float, maximum: int) -> int:
    """Band limit L of a particle of a radius at a resolution, ``ceil(2 pi r rho / n) + 1``.

    method.md section 6; at most ``maximum``, at least 4.
    """
    return max(4, min(maximum, math.ceil(2.0 * math.pi * shell * radius_voxels / box) + 1))


class References:
    """Averages, noise precision and search tables at one resolution.

    Parameters
    ----------
    model : Model
    grid : FourierGrid
    bandwidth : int
        Band limit L of the rotational search.
    exploration : float
        Probability that a proposal disregards a particle's previous pose.
    """

    def __init__(
        self, model: Model, grid: FourierGrid, bandwidth: int, exploration: float = 0.0
    ) -> None:
        self.model = model
        self.exploration = exploration
        with np.errstate(divide="ignore"):
            self.log_fractions: npt.NDArray[np.float64] = np.log(model.class_fractions)
        """(K,) log alpha_k."""
        self.grid = grid
        self.bandwidth = bandwidth
        self.padded = tuple(padded_half_cube(spectrum_of(volume), grid) for volume in model.volumes)
        inverse = 1.0 / model.noise_variance[: grid.sum_shell + 1]
        self.shell_precision: npt.NDArray[np.float32] = inverse.astype(np.float32)
        """(sum_shell + 1,) 1 / sigma_r^2."""
        count = grid.align_count
        self.precision: npt.NDArray[np.float32] = self.shell_precision[grid.shells[:count]]
        """(align_count,) 1 / sigma^2 at the points of the E-step."""
        self._lock = Lock()
        self._shared: OrderedDict[Hashable, Any] = OrderedDict()

    def shared(self, key: Hashable, make: Callable[[], T]) -> T:
        """What depends on the model and on ``key`` only: made once and shared by all particles.

        Parameters
        ----------
        key : hashable
        make : callable
            May be called by more than one thread; the first result is everyone's. Called without
            the lock, so that threads do not wait for each other's tables.
        """
        with self._lock:
            if key in self._shared:
                # What all particles need stays, however many weights come and go.
                self._shared.move_to_end(key)
                known: T = self._shared[key]
                return known
        made = make()
        with self._lock:
            if len(self._shared) >= _TABLES_KEPT:
                self._shared.popitem(last=False)
            return self._shared.setdefault(key, made)

    @property
    def classes(self) -> int:
        """K."""
        return self.model.classes

    def with_log_fractions(self, log_fractions: npt.NDArray[np.float64]) -> References:
        """The same averages and tables, (K,) other class fractions."""
        other = copy.copy(self)
        other.log_fractions = log_fractions
        return other

    @property
    def radii(self) -> npt.NDArray[np.float32]:
        """Shell radii of the rotational search, 1 ... align_shell."""
        return np.arange(1, self.grid.align_shell + 1, dtype=np.float32)

    @property
    def radial_weights(self) -> npt.NDArray[np.float32]:
        """Volume element times precision, ``r^2 / sigma_r^2``, per radius."""
        weights = self.radii**2 * self.shell_precision[1 : self.grid.align_shell + 1]
        return weights.astype(np.float32)

    @property
    def shell_plan(self) -> ShellTransform:
        """Spherical harmonic plan of the search."""
        return shell_transform(self.bandwidth)

    @property
    def rotation_plan(self) -> SO3Correlation:
        """SO(3) correlation plan of the search."""
        return so3_correlation(self.bandwidth)

    def slice(
        self, class_index: int, rotation: npt.NDArray[np.float64], count: int
    ) -> npt.NDArray[np.complex64]:
        """``A_k(R^T k)`` at the first ``count`` points of the grid."""
        out = np.empty(count, dtype=np.complex64)
        slice_spectrum(self.padded[class_index], self.grid.points[:count], rotation, PADDING, out)
        return out

    def posed(
        self,
        class_index: int,
        rotation: npt.NDArray[np.float64],
        translation: npt.NDArray[np.float64],
        count: int,
    ) -> npt.NDArray[np.complex64]:
        """``(R_phi A_k)`` at the first ``count`` points: rotated, then shifted."""
        sliced = self.slice(class_index, rotation, count)
        phases = np.empty(count, dtype=np.complex64)
        phase_factors(self.grid.points[:count], translation, self.grid.box, phases)
        sliced *= phases
        return sliced

    def squared_residuals(
        self,
        particle: Particle,
        classes: npt.NDArray[np.int64],
        rotations: npt.NDArray[np.float64],
        translations: npt.NDArray[np.float64],
    ) -> npt.NDArray[np.float64]:
        """d2 of poses over the shells of the E-step (paper Eq. 15; method.md section 2).

        Parameters
        ----------
        particle : Particle
        classes : (M,) int64
        rotations : (M, 3, 3) float64
        translations : (M, 3) float64
            x, y, z in voxels.

        Returns
        -------
        (M,) float64
        """
        count = self.grid.align_count
        power = self.data_power(particle)
        squared = np.empty(len(classes))
        for i, (k, rotation, translation) in enumerate(
            zip(classes, rotations, translations, strict=True)
        ):
            cross, energy = pose_terms(
                self.posed(int(k), rotation, translation, count),
                particle.data[:count],
                particle.weight.values[:count],
                self.grid.multiplicity[:count],
                self.precision,
            )
            squared[i] = power - 2.0 * cross + energy
        return squared

    def grid_residuals(
        self,
        particle: Particle,
        class_index: int,
        rotations: npt.NDArray[np.float64],
        translations: npt.NDArray[np.float64],
        poses: npt.NDArray[np.int64],
    ) -> npt.NDArray[np.float64]:
        """d2 of poses of one class that share rotations and shifts.

        As `squared_residuals`, but each rotation is sliced and each shift's phases are made once.

        Parameters
        ----------
        particle : Particle
        class_index : int
        rotations : (M, 3, 3) float64
        translations : (T, 3) float64
            x, y, z in voxels.
        poses : (P, 2) int64
            Which rotation and which shift.

        Returns
        -------
        (P,) float64
        """
        grid, count = self.grid, self.grid.align_count
        points = grid.points[:count]
        phases = np.empty((len(translations), count), dtype=np.complex64)
        for i, translation in enumerate(translations):
            phase_factors(points, translation, grid.box, phases[i])
        factor = grid.multiplicity[:count] * self.precision
        order = np.argsort(poses[:, 0], kind="stable")
        terms = np.empty(len(poses))
        pose_grid_terms(
            self.padded[class_index],
            points,
            rotations,
            PADDING,
            phases,
            (particle.data[:count] * factor).conj(),
            particle.weight.values[:count] * factor,
            poses[order, 0],
            poses[order, 1],
            terms,
        )
        squared = np.empty(len(poses))
        squared[order] = terms + self.data_power(particle)
        return squared

    def data_power(self, particle: Particle) -> float:
        """``sum |y|^2 / (W sigma^2)``, the constant term of d2, in float64."""
        count = self.grid.align_count
        weight = particle.weight.values[:count]
        data = particle.data[:count]
        factor = (self.grid.multiplicity[:count] * self.precision).astype(np.float64)
        power = data.real.astype(np.float64) ** 2 + data.imag.astype(np.float64) ** 2
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(weight > 0, factor * power / weight, 0.0)
        return float(terms.sum())

    def log_prior(
        self, classes: npt.NDArray[np.int64], translations: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """Log prior density of poses, ``log alpha_k - |t|^2 / (2 zeta^2)`` with its normaliser.

        Parameters
        ----------
        classes : (M,) int64
        translations : (M, 3) float64
            x, y, z in voxels.
        """
        zeta2 = self.model.shift_variance
        prior: npt.NDArray[np.float64] = (
            self.log_fractions[classes]
            - 0.5 * np.square(translations).sum(axis=1) / zeta2
            - 1.5 * math.log(2.0 * math.pi * zeta2)
        )
        return prior

    def shell_samples(
        self, class_index: int, plan: ShellTransform, shells: int
    ) -> npt.NDArray[np.complex64]:
        """A_k on the nodes of the first shells, (P, S) complex64."""
        return plan.sample(self.padded[class_index], self.radii[:shells], PADDING)

    def amplitude_harmonics(self, class_index: int) -> npt.NDArray[np.complex64]:
        """Coefficients of |A_k| on the shells of the E-step, (L + 1, L + 1, S)."""

        def make() -> npt.NDArray[np.complex64]:
            samples = self.shell_samples(class_index, self.shell_plan, self.grid.align_shell)
            return self.shell_plan.analyse_even(np.abs(samples))

        return self.shared(("amplitude", class_index), make)

    def energy(
        self, class_index: int, weight: WeightView, plan: SO3Correlation, shells: int
    ) -> npt.NDArray[np.float32]:
        """``sum W (R |A|^2) / sigma^2`` over an SO(3) grid and the first shells, (B, G, G).

        It depends on the class and the distinct weight only. |A|^2 and W have more than the
        plan's band limit holds; what is lost is measured in bench/exhaustive.py.
        """
        sphere = shell_transform(plan.bandwidth)
        radii = self.radii[:shells]

        def power() -> npt.NDArray[np.complex64]:
            return sphere.analyse_even(np.abs(self.shell_samples(class_index, sphere, shells)) ** 2)

        samples = sphere.sample(weight.cube.astype(np.complex64), radii, 1.0).real
        return plan.correlate(
            sphere.analyse_even(np.ascontiguousarray(samples)),
            self.shared(("power", class_index, plan.bandwidth, shells), power),
            self.radial_weights[:shells],
            even=True,
        )

    def denominator(self, class_index: int, weight: WeightView) -> npt.NDArray[np.float32]:
        """``1 / sqrt(sum W (R |A|^2) / sigma^2)`` over the SO(3) grid (paper Eq. 2)."""

        def make() -> npt.NDArray[np.float32]:
            energy = self.energy(class_index, weight, self.rotation_plan, self.grid.align_shell)
            # Band limiting can push a sum of positive terms to zero or below.
            tiny = float(np.finfo(np.float32).tiny)
            floor = max(_DENOMINATOR_FLOOR * float(energy.max()), tiny)
            return (1.0 / np.sqrt(np.maximum(energy, floor))).astype(np.float32)

        return self.shared(("denominator", class_index, weight.index), make)
