"""Centred Fourier transforms, crops to the current resolution, and the padded spectrum.

Three forms of one spectrum (`faml.conventions`): the half-spectrum ``(n, n, n // 2 + 1)``; the
centred half-cube ``(2q + 1, 2q + 1, q + 1)`` that kernels index without wrapping; and the values
at the points of a `FourierGrid`. Coefficients always keep the scale of the full box.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import scipy.fft

_REACH_FULL, _REACH_NONE = 0.75, 1.0
"""Distances in boxes to which point spread functions count in full, and not at all."""
BALL_RADIUS = 0.46
"""Radius in boxes of the ball that averages are confined to."""
_BALL_NONE = 0.5

Scalar = TypeVar("Scalar", bound=np.inexact)

__all__ = [
    "BALL_RADIUS",
    "FourierGrid",
    "NormalOperator",
    "even_fast_length",
    "fourier_grid",
    "full_resolution_shell",
    "grid_distances",
    "half_cube",
    "half_cube_adjoint",
    "half_multiplicity",
    "padded_half_cube",
    "padded_weight",
    "raised_cosine",
    "shell_indices",
    "spectrum_of",
    "sum_over_shells",
    "volume_of",
]


def spectrum_of(volume: npt.NDArray[np.float32]) -> npt.NDArray[np.complex64]:
    """Half-spectrum ``(n, n, n // 2 + 1)`` of a centred volume ``(n, n, n)``, unitary."""
    return scipy.fft.rfftn(scipy.fft.ifftshift(volume), norm="ortho")


def volume_of(spectrum: npt.NDArray[np.complex64], n: int) -> npt.NDArray[np.float32]:
    """Inverse of `spectrum_of`."""
    return scipy.fft.fftshift(scipy.fft.irfftn(spectrum, s=(n, n, n), norm="ortho"))


def full_resolution_shell(n: int) -> int:
    """Last shell below Nyquist: 31 for a box of 64, 16 for 33."""
    return (n - 1) // 2


def even_fast_length(at_least: int) -> int:
    """Smallest even length >= ``at_least`` with no prime factor above 5."""
    length = at_least + at_least % 2
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 2


def shell_indices(n: int) -> npt.NDArray[np.int32]:
    """Shell ``round(|k|)`` of every half-spectrum component, ``(n, n, n // 2 + 1)`` int32."""
    k = scipy.fft.fftfreq(n, 1.0 / n)
    kx = np.arange(n // 2 + 1, dtype=np.float64)
    radius = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + kx[None, None, :] ** 2)
    return np.floor(radius + 0.5).astype(np.int32)


def half_multiplicity(n: int) -> npt.NDArray[np.float32]:
    """How many components of the whole spectrum each of the half stands for, (n // 2 + 1,)."""
    multiplicity = np.full(n // 2 + 1, 2.0, dtype=np.float32)
    multiplicity[0] = 1.0
    if n % 2 == 0:
        multiplicity[-1] = 1.0
    return multiplicity


def sum_over_shells(
    shells: npt.NDArray[np.int32], values: npt.NDArray[np.floating], count: int
) -> npt.NDArray[np.float64]:
    """Sums of ``values`` over the points of each of ``count`` shells, in float64."""
    sums = np.bincount(shells.ravel(), weights=values.ravel(), minlength=count)
    return sums[:count].astype(np.float64)


@dataclass(frozen=True)
class FourierGrid:
    """The components used at one resolution, ``|k| < r + 1/2``, in the half-space kx >= 0.

    Points with ``0 < shell <= align_shell`` come first: the E-step uses that prefix, the sums use
    all of them. The origin is listed (last part) because a volume without its mean is not compact
    and cannot be interpolated in Fourier space, but it never enters a likelihood.

    Attributes
    ----------
    box : int
        Edge n of the full box.
    align_shell, sum_shell : int
        Last shell of the E-step and of the sums; ``align_shell <= sum_shell < n / 2``.
    points : (J, 3) float32
        kx, ky, kz.
    shells : (J,) int32
    multiplicity : (J,) float32
        2, or 1 on the plane kx = 0, where both k and -k are listed.
    indices : (J,) int64
        Flat index into a half-spectrum ``(n, n, n // 2 + 1)``.
    align_count : int
        Length of the prefix.
    search_edge : int
        Edge m of the small grid on which translations are searched.
    search_indices : (align_count,) int64
        Flat index of the prefix into ``(m, m, m // 2 + 1)``.
    work_edge : int
        Edge of the cropped box that holds all points below its Nyquist plane.
    """

    box: int
    align_shell: int
    sum_shell: int
    points: npt.NDArray[np.float32]
    shells: npt.NDArray[np.int32]
    multiplicity: npt.NDArray[np.float32]
    indices: npt.NDArray[np.int64]
    align_count: int
    search_edge: int
    search_indices: npt.NDArray[np.int64]
    work_edge: int

    @property
    def weight_reach(self) -> int:
        """Q of the half-cubes of weights."""
        return self.sum_shell + 1

    @property
    def padded_reach(self) -> int:
        """Q of the half-cubes of padded spectra."""
        return 2 * self.sum_shell + 2

    @cached_property
    def weight_points(self) -> npt.NDArray[np.float32]:
        """Half-space points of the padded spectrum within the last shell, (P, 3) float32.

        kx, ky, kz in steps of the padded spectrum, 1/(2n).
        """
        reach = self.padded_reach
        square = np.arange(-reach, reach + 1) ** 2
        inside = square[:, None, None] + square[:, None] + square[reach:] < reach**2
        kz, ky, kx = np.nonzero(inside)
        return np.stack([kx, ky - reach, kz - reach], axis=1).astype(np.float32)

    @cached_property
    def work_indices(self) -> npt.NDArray[np.int64]:
        """Flat indices of the points in a half-spectrum of `work_edge`, (J,) int64."""
        return _flat_indices(self.points, self.work_edge)

    @property
    def shell_counts(self) -> npt.NDArray[np.float64]:
        """Components of the full sphere per shell, ``(sum_shell + 1,)`` float64."""
        return sum_over_shells(self.shells, self.multiplicity, self.sum_shell + 1)

    def take(self, spectrum: npt.NDArray[np.complex64]) -> npt.NDArray[np.complex64]:
        """Values of a half-spectrum at the points, ``(J,)`` complex64."""
        return spectrum.reshape(-1)[self.indices].astype(np.complex64, copy=False)

    def put(self, values: npt.NDArray[np.complexfloating]) -> npt.NDArray[np.complex64]:
        """Half-spectrum that is zero except at the points."""
        n = self.box
        spectrum = np.zeros((n, n, n // 2 + 1), dtype=np.complex64)
        spectrum.reshape(-1)[self.indices] = values
        return spectrum

    def cropped_volume(self, values: npt.NDArray[np.complexfloating]) -> npt.NDArray[np.float32]:
        """Centred volume in the box of `work_edge`, (m, m, m) float32; `irfftn` unscaled."""
        cropped = _embed(values.astype(np.complex64), self)
        return scipy.fft.fftshift(scipy.fft.irfftn(cropped, s=(self.work_edge,) * 3))


@lru_cache(maxsize=8)
def fourier_grid(box: int, align_shell: int, sum_shell: int) -> FourierGrid:
    """The grid of a resolution; grids are cached, as every iteration asks for one.

    Raises
    ------
    ValueError
        Unless ``1 <= align_shell <= sum_shell < box / 2``.
    """
    if not 1 <= align_shell <= sum_shell <= full_resolution_shell(box):
        raise ValueError(
            f"expected 1 <= align_shell <= sum_shell <= {full_resolution_shell(box)} for a box "
            f"of {box}, found {align_shell} and {sum_shell}"
        )
    shells = shell_indices(box)
    kz, ky, kx = np.nonzero(shells <= sum_shell)
    shell = shells[kz, ky, kx]
    order = np.argsort((shell > align_shell) | (shell == 0), kind="stable")
    kz, ky, kx, shell = kz[order], ky[order], kx[order], shell[order]
    signed_z = np.where(kz > box // 2, kz - box, kz)
    signed_y = np.where(ky > box // 2, ky - box, ky)
    count = int(((shell > 0) & (shell <= align_shell)).sum())
    edge = even_fast_length(2 * align_shell + 2)
    search = (signed_z[:count] % edge * edge + signed_y[:count] % edge) * (edge // 2 + 1)
    return FourierGrid(
        box=box,
        align_shell=align_shell,
        sum_shell=sum_shell,
        points=np.stack([kx, signed_y, signed_z], axis=1).astype(np.float32),
        shells=shell.astype(np.int32),
        multiplicity=np.where(kx == 0, 1.0, 2.0).astype(np.float32),
        indices=((kz * box + ky) * (box // 2 + 1) + kx).astype(np.int64),
        align_count=count,
        search_edge=edge,
        search_indices=(search + kx[:count]).astype(np.int64),
        work_edge=even_fast_length(2 * sum_shell + 2),
    )


def half_cube(spectrum: npt.NDArray[Scalar], reach: int) -> npt.NDArray[Scalar]:
    """Centred half-cube ``(2q + 1, 2q + 1, q + 1)`` of a half-spectrum, q = ``reach``.

    Components beyond the spectrum's own n // 2 repeat the outermost ones: interpolation at the
    last shell of an odd box reaches one step further than the box has components.
    """
    n = spectrum.shape[0]
    axis = np.clip(np.arange(-reach, reach + 1), -(n // 2), n // 2)
    full, half = axis % n, axis[reach:]
    return np.ascontiguousarray(spectrum[np.ix_(full, full, half)])


@lru_cache(maxsize=32)
def _compensation(edge: int) -> npt.NDArray[np.float32]:
    """``1 / sinc^2`` per axis: what trilinear interpolation on the twofold padded grid takes away.

    A triangle of one padded step in Fourier space is a factor sinc^2(x / 2m) in real space.
    """
    x = (np.arange(edge) - edge // 2) / (2.0 * edge)
    return (1.0 / np.sinc(x) ** 2).astype(np.float32)


def _apply_compensation(volume: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    axis = _compensation(volume.shape[0])
    volume *= axis[:, None, None]
    volume *= axis[None, :, None]
    volume *= axis[None, None, :]
    return volume


def padded_half_cube(
    spectrum: npt.NDArray[np.complex64], grid: FourierGrid
) -> npt.NDArray[np.complex64]:
    """Spectrum of the twofold padded, sinc^2-compensated volume, for `kernels.slicing`.

    Parameters
    ----------
    spectrum : (n, n, n // 2 + 1) complex64
        Only the components of `grid` are used.
    grid : FourierGrid

    Returns
    -------
    (2q + 1, 2q + 1, q + 1) complex64
        q = ``grid.padded_reach``; grid step 1/(2n).
    """
    edge = grid.work_edge
    volume = _apply_compensation(grid.cropped_volume(grid.take(spectrum)))
    big = np.zeros((2 * edge,) * 3, dtype=np.float32)
    start = edge - edge // 2
    big[start : start + edge, start : start + edge, start : start + edge] = volume
    return half_cube(scipy.fft.rfftn(scipy.fft.ifftshift(big)), grid.padded_reach)


def half_cube_adjoint(
    accumulator: npt.NDArray[np.complexfloating], grid: FourierGrid
) -> npt.NDArray[np.complexfloating]:
    """Adjoint of `padded_half_cube`: accumulated back-turned data at the points of the grid.

    Adjoint in the inner product ``sum_j multiplicity_j Re(conj(a_j) b_j)`` over the points, if the
    accumulator was filled by `kernels.slicing.turn_back` with weights multiplicity / 2.

    Parameters
    ----------
    accumulator : (2q + 1, 2q + 1, q + 1) complex
        q = ``grid.padded_reach``.

    Returns
    -------
    (J,) complex
        In the precision of the accumulator.
    """
    edge = grid.work_edge
    big_edge = 2 * edge
    reach = grid.padded_reach
    big = np.zeros((big_edge, big_edge, edge + 1), dtype=accumulator.dtype)
    axis = np.arange(-reach, reach + 1) % big_edge
    big[axis[:, None], axis[None, :], : reach + 1] = accumulator
    # The inverse real transform takes the Hermitian part of this plane: half of the sum over both
    # members of each pair, which is what the full accumulator would hold.
    big[:, :, 0] *= 2.0
    volume = scipy.fft.fftshift(scipy.fft.irfftn(big, s=(big_edge,) * 3))
    start = edge - edge // 2
    inner = volume[start : start + edge, start : start + edge, start : start + edge].copy()
    spectrum = scipy.fft.rfftn(scipy.fft.ifftshift(_apply_compensation(inner)))
    return 8.0 * spectrum.reshape(-1)[grid.work_indices]


class NormalOperator:
    """``sum T* W T`` of all poses: what measuring with weights W and turning back does to a volume.

    In real space it is a convolution with the sum of the turned point spread functions of W,
    reaching twice as far as the volume does, so it is a product on the twofold padded spectrum.
    Its diagonal alone will not do: a wedge is only a few steps wide near the origin, and there the
    strong components next to it leak in.

    Parameters
    ----------
    weight_sum : (P,) float64
        ``sum P R^-1 W`` at ``grid.weight_points``, gathered from `padded_weight`.
    grid : FourierGrid

    Attributes
    ----------
    weights : (P,) float64
        As given.
    spectrum : (2m, 2m, m + 1) float32
        The same on the twofold padded grid, m = ``grid.work_edge``.
    """

    def __init__(self, weight_sum: npt.NDArray[np.float64], grid: FourierGrid) -> None:
        self._grid = grid
        self.weights = weight_sum
        edge = grid.work_edge
        self.spectrum = np.zeros((2 * edge, 2 * edge, edge + 1), dtype=np.float32)
        flat = self.spectrum.reshape(-1)
        distances = grid_distances(scipy.fft.fftfreq(edge))
        self._ball = raised_cosine(distances, BALL_RADIUS, _BALL_NONE).astype(np.float32)
        flat[_flat_indices(grid.weight_points, 2 * edge)] = weight_sum

    @property
    def diagonal(self) -> npt.NDArray[np.float64]:
        """Weight at the points of the grid, (J,) float64."""
        flat = _flat_indices(2.0 * self._grid.points, 2 * self._grid.work_edge)
        # Spectra of cut off spread functions ring; where there is no weight, also below zero.
        values: npt.NDArray[np.float64] = self.spectrum.reshape(-1)[flat].astype(np.float64)
        return np.maximum(values, 0.0)

    @property
    def ball_share(self) -> float:
        """Share of white noise in the box that `confine` leaves."""
        return float(np.square(self._ball, dtype=np.float64).mean())

    def confine(self, values: npt.NDArray[np.complex128]) -> npt.NDArray[np.complex128]:
        """Only what lies in the ball that the box holds; (J,) complex128.

        Turned-back data repeat with the box, in every orientation at another place: beyond the
        ball there is a mixture of repetitions that no volume explains.
        """
        return self._components(self._volume(values))

    def __call__(self, values: npt.NDArray[np.complex128]) -> npt.NDArray[np.complex128]:
        """Applied to what lies in the ball, and confined again; (J,) complex128."""
        edge = self._grid.work_edge
        volume = scipy.fft.fftshift(self._volume(values) * self._ball)
        # Axis by axis, so that neither padding is transformed nor what is cut off afterwards.
        spectrum = scipy.fft.rfft(volume, 2 * edge, axis=2)
        for axis in (1, 0):
            spectrum = scipy.fft.fft(spectrum, 2 * edge, axis=axis)
        spectrum *= self.spectrum
        spectrum = scipy.fft.ifft(spectrum, axis=0, overwrite_x=True)[:edge]
        spectrum = scipy.fft.ifft(spectrum, axis=1)[:, :edge]
        turned = scipy.fft.irfft(spectrum, 2 * edge, axis=2)[:, :, :edge]
        return self._components(scipy.fft.ifftshift(turned))

    def _volume(self, values: npt.NDArray[np.complex128]) -> npt.NDArray[np.float32]:
        # Single precision: the operator is not known better than to a percent.
        edge = self._grid.work_edge
        spectrum = _embed(values.astype(np.complex64), self._grid)
        volume: npt.NDArray[np.float32] = scipy.fft.irfftn(spectrum, s=(edge,) * 3)
        return volume

    def _components(self, volume: npt.NDArray[np.float32]) -> npt.NDArray[np.complex128]:
        spectrum = scipy.fft.rfftn(volume * self._ball)
        return spectrum.reshape(-1)[self._grid.work_indices].astype(np.complex128)


def padded_weight(values: npt.NDArray[np.float32], grid: FourierGrid) -> npt.NDArray[np.float32]:
    """Spectrum of W's point spread function on the twofold padded grid, for `rotate_weight`.

    Data are known at the components of the grid only, so their point spread function repeats with
    the box. It is cut off softly before one box, and compensated for trilinear interpolation.
    The origin has no weight: the mean of a box says nothing about the particle in it.

    Parameters
    ----------
    values : (J,) float32
        W at the points of the grid.
    grid : FourierGrid

    Returns
    -------
    (2q + 1, 2q + 1, q + 1) float32
        q = ``grid.padded_reach``.
    """
    edge = even_fast_length(2 * grid.sum_shell + 2)
    spectrum = np.zeros((edge, edge, edge // 2 + 1), dtype=np.float32)
    values = np.where(grid.shells > 0, values, np.float32(0.0))
    spectrum.reshape(-1)[_flat_indices(grid.points, edge)] = values
    once = scipy.fft.irfftn(spectrum, s=(edge,) * 3)
    repeated = np.tile(once, (2, 2, 2)) * _spread_window(edge)
    return half_cube(scipy.fft.rfftn(repeated).real, grid.padded_reach)


def grid_distances(axis: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Distance from the origin on a cubic grid."""
    square = axis**2
    distances: npt.NDArray[np.float64] = np.sqrt(
        square[:, None, None] + square[None, :, None] + square[None, None, :]
    )
    return distances


def raised_cosine(
    distances: npt.NDArray[np.float64], full: float, none: float
) -> npt.NDArray[np.float64]:
    """Raised cosine from 1 to 0 between two distances."""
    faded: npt.NDArray[np.float64] = 0.5 + 0.5 * np.cos(
        np.pi * np.clip((distances - full) / (none - full), 0.0, 1.0)
    )
    return faded


@lru_cache(maxsize=8)
def _spread_window(edge: int) -> npt.NDArray[np.float32]:
    """Taper and interpolation compensation of point spread functions, ``(2m, 2m, 2m)``."""
    axis = scipy.fft.fftfreq(2 * edge)
    compensation = 1.0 / np.sinc(axis) ** 2
    window = raised_cosine(grid_distances(2.0 * axis), _REACH_FULL, _REACH_NONE)
    window *= compensation[:, None, None]
    window *= compensation[None, :, None]
    window *= compensation[None, None, :]
    return window.astype(np.float32)


def _flat_indices(points: npt.NDArray[np.float32], edge: int) -> npt.NDArray[np.int64]:
    """Flat indices of points (P, 3) in a half-spectrum ``(m, m, m // 2 + 1)``."""
    k = points.astype(np.int64)
    return (k[:, 2] % edge * edge + k[:, 1] % edge) * (edge // 2 + 1) + k[:, 0]


def _embed(values: npt.NDArray[Scalar], grid: FourierGrid) -> npt.NDArray[Scalar]:
    edge = grid.work_edge
    out = np.zeros((edge, edge, edge // 2 + 1), dtype=values.dtype)
    out.reshape(-1)[grid.work_indices] = values
    return out
