"""M-step: new averages, fractions, noise and prior variances (paper Eq. 10-13).

Two updates of the averages: `ratio`, the direct maximiser with a Wiener prior, and `impute`, the
paper's Eq. 10, which fills unobserved components from the old average.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from faml.config import EmConfig
from faml.em.statistics import Statistics
from faml.errors import InputDataError
from faml.model import ZETA2_FLOOR, Model
from faml.symmetry import PointGroup, point_group
from faml.transforms.fourier import (
    BALL_RADIUS,
    FourierGrid,
    NormalOperator,
    half_cube_adjoint,
    spectrum_of,
    sum_over_shells,
    volume_of,
)
from faml.transforms.masks import automatic_mask, soft_sphere
from faml.transforms.symmetrise import symmetrise_components, symmetrise_operator

__all__ = ["CLASS_MASS_FLOOR", "MStep", "finish_volume", "maximise"]

CLASS_MASS_FLOOR = 0.5
"""A class with less posterior mass than this many particles keeps its old average."""
_NOISE_FLOOR = 1e-3  # of the data's power per shell: interpolation is no better than that
_COVERAGE_FLOOR = 0.1  # of a shell's mean weight; less is hardly seen
_OPERATOR_ERROR = 2e-2  # of a shell's mean weight: what is less certain is not solved for
_LARGER_ERROR = 4.0  # times, where that was not enough
_LARGEST_ERROR = 0.5
_SOLVENT_FROM = 0.4  # radius in boxes, where there is no mask
_LEAST_SOLVENT = 0.02  # of the ball, for a mask's surroundings to tell the solvent's mean
_TOLERANCE = 1e-4  # relative, of conjugate gradients in the preconditioned norm
_MOST_STEPS = 60
_WEIGHT_FLOOR = 1e-3  # of the best shell's mean weight: less cannot be told from ringing
_SSNR_FLOOR = 1e-2  # keeps a shell without measurable signal from being locked at zero


@dataclass(frozen=True)
class MStep:
    """Result of `maximise`.

    Attributes
    ----------
    model : Model
    ssnr : (K, S) float64
        Measured in this iteration's sums; zero beyond their last shell.
    empty_classes : tuple of int
        Classes that kept their old average.
    """

    model: Model
    ssnr: npt.NDArray[np.float64]
    empty_classes: tuple[int, ...]


def maximise(
    sums: Statistics,
    old: Model,
    grid: FourierGrid,
    config: EmConfig,
    *,
    weight_maximum: float | None,
    mask: npt.NDArray[np.float32] | None,
    outline: bool = False,
    symmetry: PointGroup | None = None,
    known_poses: bool = False,
    fixed_power: npt.NDArray[np.float64] | None = None,
    fixed_noise: npt.NDArray[np.float64] | None = None,
    attraction: float = 0.0,
) -> MStep:
    """New model from sums.

    Parameters
    ----------
    sums : Statistics
        Totals of all particles the model describes.
    old : Model
    grid : FourierGrid
        Of the sums.
    config : EmConfig
    weight_maximum : float or None
        Largest W of the data; only `impute` needs it.
    mask : (n, n, n) float32 or None
        Multiplied onto each average; its complement is solvent.
    outline : bool
        Flatten also what lies outside each average's own outline.
    symmetry : PointGroup, optional
        Of every average: the sums are averaged over it, whose noise then is that of as many times
        the data.
    known_poses : bool
        The old average is empty and the poses are right: noise is what the new one leaves over.
    fixed_power : (K, S) float64, optional
        Prior tau^2 to use instead of the measured one.
    fixed_noise : (S,) float64, optional
        sigma^2 to use instead of the measured one.
    attraction : float
        Weight of the old averages' common mean, relative to that of an average's data (Scheres et
        al. 2009); for `ratio` only.

    Raises
    ------
    InputDataError
        An average is not finite.
    """
    symmetry = symmetry or point_group("C1")
    copies = symmetry.order
    fractions = np.maximum(sums.class_mass, 1e-6 * sums.particles)
    volumes = old.volumes.copy()
    power = old.signal_power.copy()
    ssnr = np.zeros_like(power)
    filled = [
        k
        for k in range(old.classes)
        if sums.class_mass[k] >= min(CLASS_MASS_FLOOR, 0.5 * sums.particles)
    ]
    systems = {k: _system(sums, k, grid, symmetry) for k in filled}
    common = None
    if attraction > 0:
        mean = np.tensordot(old.class_fractions, old.volumes, axes=1).astype(np.float32)
        common = grid.take(spectrum_of(mean)).astype(np.complex128)
    if fixed_noise is not None:
        noise = fixed_noise
    else:
        explained = _explained(systems.values(), grid) if known_poses else None
        noise = _noise_variance(sums, old, grid, config, explained)
    for k, system in systems.items():
        numerator, operator = system.numerator, system.operator
        left = noise / copies
        power[k], ssnr[k] = _signal(
            numerator, operator.diagonal, left, noise * system.freedom, old.signal_power[k], grid
        )
        if fixed_power is not None:
            power[k] = fixed_power[k]
        if config.update == "impute":
            assert weight_maximum is not None  # `impute` comes with it
            full = sums.class_mass[k] * weight_maximum
            before = grid.take(spectrum_of(old.volumes[k])).astype(np.complex128)
            step = (operator.confine(numerator) - operator(before)) / full
            average = operator.confine(before + step)
        else:
            prior = (left / np.maximum(power[k], 1e-30))[grid.shells]
            if common is not None:
                pull = attraction * _mean_weight(operator, grid)[grid.shells]
                prior, numerator = prior + pull, numerator + pull * common
            average = _wiener(operator, prior, numerator, grid, mask)
        if copies > 1:
            # Turned operators are not quite symmetric: what that does to the solution goes.
            average = symmetrise_components(average, symmetry.rotations, grid)
        volumes[k] = finish_volume(volume_of(grid.put(average), grid.box), mask)
        if outline:
            volumes[k] *= automatic_mask(volumes[k])
        if not np.isfinite(volumes[k]).all():
            raise InputDataError(
                f"the average of class {k + 1} is not finite; check the particles' grey values and "
                "weights with: faml inspect"
            )
    model = Model(
        volumes=volumes,
        class_fractions=fractions / fractions.sum(),
        noise_variance=noise,
        signal_power=power,
        shift_variance=max(sums.shift_square / (3.0 * sums.particles), ZETA2_FLOOR),
    )
    return MStep(model, ssnr, tuple(k for k in range(old.classes) if k not in systems))


@dataclass(frozen=True)
class _System:
    """One class' equation: turned-back data, and how they were seen.

    Attributes
    ----------
    numerator : (J,) complex128
    operator : NormalOperator
    freedom : float
        Share of the data's noise that the numerator holds: copies of a symmetric one are averaged,
        and what lies beyond the ball is not in it any more.
    """

    numerator: npt.NDArray[np.complex128]
    operator: NormalOperator
    freedom: float


def _system(sums: Statistics, class_index: int, grid: FourierGrid, symmetry: PointGroup) -> _System:
    operator = NormalOperator(sums.denominator[class_index], grid)
    numerator = half_cube_adjoint(sums.numerator[class_index], grid).astype(np.complex128)
    if symmetry.order == 1:
        return _System(numerator, operator, 1.0)
    return _System(
        symmetrise_components(operator.confine(numerator), symmetry.rotations, grid),
        symmetrise_operator(operator, symmetry.rotations, grid),
        operator.ball_share / symmetry.order,
    )


def _explained(
    systems: Iterable[_System], grid: FourierGrid
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Power per shell that averages take from the data, and the components they have for it."""
    top = grid.sum_shell + 1
    power, free = np.zeros(top), np.zeros(top)
    for system in systems:
        weight = system.operator.diagonal
        mean = sum_over_shells(grid.shells, grid.multiplicity * weight, top) / grid.shell_counts
        seen = weight > np.maximum(_COVERAGE_FLOOR * mean, 1e-30)[grid.shells]
        taken = grid.multiplicity[seen] * np.abs(system.numerator[seen]) ** 2 / weight[seen]
        power += sum_over_shells(grid.shells[seen], taken, top)
        components = sum_over_shells(grid.shells[seen], grid.multiplicity[seen], top)
        free += system.freedom * components
    return power, free


def _noise_variance(
    sums: Statistics,
    old: Model,
    grid: FourierGrid,
    config: EmConfig,
    explained: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None,
) -> npt.NDArray[np.float64]:
    """sigma_r^2 (method.md section 5; paper Eq. 12 with its misprint corrected)."""
    top = grid.sum_shell + 1
    noise = old.noise_variance.copy()
    if config.noise == "scalar":
        # The paper: the old variance on unobserved components, divided by all J.
        every = sums.particles * grid.shell_counts
        used = slice(1, top)
        missing = (every[used] - sums.observed[used]).sum() * old.noise_variance[1]
        scalar = (sums.residual[used].sum() + missing) / every[used].sum()
        floor = _NOISE_FLOOR * sums.power[used].sum() / max(sums.observed[used].sum(), 1.0)
        noise[:] = max(scalar, floor, 1e-30)
        return noise
    seen = np.maximum(sums.observed, 1.0)
    residual = sums.residual / seen
    if explained is not None:
        power, free = explained
        left = seen - free
        enough = left > 0.5 * seen  # as many particles as it takes to tell noise from signal
        residual[enough] = (sums.residual - power)[enough] / left[enough]
    updated = np.maximum(residual, _NOISE_FLOOR * sums.power / seen)
    fresh = sums.observed > 0
    noise[:top][fresh] = np.maximum(updated[fresh], 1e-30)
    noise[0] = noise[1]
    return noise


def _signal(
    numerator: npt.NDArray[np.complexfloating],
    denominator: npt.NDArray[np.float64],
    noise: npt.NDArray[np.float64],
    dirt: npt.NDArray[np.float64],
    old_power: npt.NDArray[np.float64],
    grid: FourierGrid,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Prior power tau^2 and SSNR per shell.

    ``dirt`` is the noise that the numerator has left of ``noise``.

    To the extent that the normal operator is its diagonal, the numerator is ``den A`` plus noise
    of variance ``sigma^2 den``, so ``tau^2 = sum (|num|^2 - sigma^2 den) / sum den^2`` is unbiased
    where the poses were not fitted to the same shell's noise. Shells that next to no weight
    reaches have no signal that could be measured.
    """
    top = grid.sum_shell + 1

    def per_shell(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return sum_over_shells(grid.shells, grid.multiplicity * values, top)

    weights = per_shell(denominator)
    counts = grid.shell_counts
    mean_weight = weights / counts
    mean_weight[0] = mean_weight[1]  # the origin is no datum
    least = _WEIGHT_FLOOR * float(mean_weight.max())
    mean_weight = np.maximum(mean_weight, max(least, 1e-30))
    squares = np.maximum(per_shell(denominator**2), counts * mean_weight**2)
    excess = per_shell(np.abs(numerator) ** 2) - dirt[:top] * weights
    measured = np.where(weights > counts * least, excess / squares, 0.0)
    floor = _SSNR_FLOOR * noise[:top] / mean_weight
    power = old_power.copy()
    power[:top] = np.maximum(measured, floor)
    power[0] = power[1]
    ssnr = np.zeros_like(old_power)
    ssnr[:top] = np.maximum(measured, 0.0) * mean_weight / noise[:top]
    return power, ssnr


def _wiener(
    operator: NormalOperator,
    prior: npt.NDArray[np.float64],
    numerator: npt.NDArray[np.complex128],
    grid: FourierGrid,
    mask: npt.NDArray[np.float32] | None,
) -> npt.NDArray[np.complex128]:
    """``A = num / (den + sigma^2 / tau^2)``, with all of the normal operator for den.

    The origin is no datum, yet its neighbours depend on it. It is given a value with the weight of
    its neighbours: the one at which the solvent has zero mean. As solutions are linear in it, that
    takes the solution for zero and the response to a unit.

    Where next to no noise is left, the prior no longer hides that the operator is an approximation
    and has negative eigenvalues. What an equation's solution is made of then is its error, so a
    larger one is allowed for.
    """
    multiplicity = grid.multiplicity.astype(np.float64)

    def inner(a: npt.NDArray[np.complex128], b: npt.NDArray[np.complex128]) -> float:
        return float((multiplicity * (a.conj() * b).real).sum())

    diagonal = operator.diagonal
    mean = _mean_weight(operator, grid)
    unit = operator.confine((grid.shells == 0).astype(np.complex128))
    error = _OPERATOR_ERROR
    while True:
        least = prior + error * mean[grid.shells]
        inverse = 1.0 / (np.maximum(diagonal, _COVERAGE_FLOOR * mean[grid.shells]) + least)

        def left_side(
            values: npt.NDArray[np.complex128], least: npt.NDArray[np.float64] = least
        ) -> npt.NDArray[np.complex128]:
            return operator(values) + least * values + mean[0] * inner(unit, values) * unit

        found = [
            _conjugate_gradients(left_side, right_side, inverse, least, inner)
            for right_side in (operator.confine(numerator), mean[0] * unit)
        ]
        if all(sound for _, sound in found) or error >= _LARGEST_ERROR:
            break
        error *= _LARGER_ERROR
    average, response = (operator.confine(solution) for solution, _ in found)
    outside = _solvent(grid.box, mask)
    there, per_unit = (
        float((volume_of(grid.put(part), grid.box) * outside).sum(dtype=np.float64))
        for part in (average, response)
    )
    return average - (there / per_unit) * response if per_unit else average


def _mean_weight(operator: NormalOperator, grid: FourierGrid) -> npt.NDArray[np.float64]:
    """Weight of a component, mean over each shell, (S,); never zero."""
    mean = sum_over_shells(grid.shells, grid.multiplicity * operator.diagonal, grid.sum_shell + 1)
    mean /= np.maximum(grid.shell_counts, 1.0)
    mean[0] = mean[1]
    return np.maximum(mean, _WEIGHT_FLOOR * float(mean.max()))


def _conjugate_gradients(
    left_side: Callable[[npt.NDArray[np.complex128]], npt.NDArray[np.complex128]],
    right_side: npt.NDArray[np.complex128],
    inverse: npt.NDArray[np.float64],
    least: npt.NDArray[np.float64],
    inner: Callable[[npt.NDArray[np.complex128], npt.NDArray[np.complex128]], float],
) -> tuple[npt.NDArray[np.complex128], bool]:
    """Solution of a symmetric positive system, preconditioned by a diagonal, and if it is sound.

    Parameters
    ----------
    left_side : callable
        (J,) complex128 to (J,) complex128.
    right_side : (J,) complex128
    inverse : (J,) float64
        Preconditioner.
    least : (J,) float64
        The part of the system that is known to be positive. No direction has less curvature than
        that gives it, unless the rest is not as positive as it should be.
    inner : callable
        Inner product in which both are symmetric.
    """
    solution = inverse * right_side
    goal = _TOLERANCE**2 * inner(right_side, solution)
    residual = right_side - left_side(solution)
    direction = conditioned = inverse * residual
    left = inner(residual, conditioned)
    for _ in range(_MOST_STEPS):
        if not left > goal:
            break
        turned = left_side(direction)
        curvature = inner(direction, turned)
        if not curvature > 0.5 * inner(direction, least * direction):
            return solution, False  # the operator's error has come to the surface
        step = left / curvature
        solution = solution + step * direction
        residual = residual - step * turned
        conditioned = inverse * residual
        before, left = left, inner(residual, conditioned)
        direction = conditioned + (left / before) * direction
    return solution, True


def finish_volume(
    volume: npt.NDArray[np.float32], mask: npt.NDArray[np.float32] | None
) -> npt.NDArray[np.float32]:
    """Set the solvent to zero mean, and flatten it if there is a mask.

    The origin of Fourier space is in no likelihood; the surroundings of the particle fix it, which
    also keeps the volume compact enough to be interpolated in Fourier space.
    """
    outside = _solvent(volume.shape[0], mask)
    total = float(outside.sum(dtype=np.float64))
    if total > 0:
        volume = volume - np.float32((volume * outside).sum(dtype=np.float64) / total)
    if mask is not None:
        volume = volume * mask
    return volume.astype(np.float32, copy=False)


@lru_cache(maxsize=2)
def _spheres(n: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The ball that averages are confined to, and the part of it that is taken for the particle."""
    return soft_sphere(n, BALL_RADIUS * n, 1.0), soft_sphere(n, _SOLVENT_FROM * n, 1.0)


def _solvent(n: int, mask: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32]:
    """Where there is no particle, within the ball that averages are confined to.

    A mask that fills the ball leaves none; the outermost part of the ball has to do then.
    """
    ball, inside = _spheres(n)
    if mask is not None and np.maximum(ball - mask, 0.0).sum() > _LEAST_SOLVENT * ball.sum():
        inside = mask
    return np.maximum(ball - inside, 0.0)
