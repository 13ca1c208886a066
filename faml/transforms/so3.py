"""Correlation of two shell functions over all rotations, on an Euler grid."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import scipy.fft
from scipy.spatial.transform import Rotation

from faml.kernels.peaks import local_maxima, refine_peaks, suppress_near
from faml.kernels.so3 import cross_coefficients, fill_correlation
from faml.symmetry import PointGroup
from faml.transforms.fourier import even_fast_length
from faml.transforms.tables import wigner_table

__all__ = ["SO3Correlation", "so3_correlation"]


class SO3Correlation:
    """Plan for band limit L; immutable, shared by threads.

    The grid is ``alpha_a = 2 pi a / G``, ``gamma_g = 2 pi g / G``,
    ``beta_b = (b + 1/2) pi / B`` with B = G / 2, so no grid point repeats another's rotation.

    Parameters
    ----------
    bandwidth : int
        Largest degree L.
    period : int, optional
        G, even and at least 2L + 1; None takes the first such number without prime factors
        above 5.

    Raises
    ------
    ValueError
        For a period that is odd or too short.
    """

    def __init__(self, bandwidth: int, period: int | None = None) -> None:
        self.bandwidth = bandwidth
        self.period = even_fast_length(2 * bandwidth + 1) if period is None else period
        if self.period % 2 or self.period <= 2 * bandwidth:
            raise ValueError(
                f"expected an even period above {2 * bandwidth} for bandwidth {bandwidth}, found "
                f"{self.period}"
            )
        self.colatitudes = self.period // 2
        self._wigner, self._offsets = wigner_table(bandwidth, self.colatitudes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape ``(B, G, G)`` of a correlation, ``[beta, gamma, alpha]``."""
        return (self.colatitudes, self.period, self.period)

    @property
    def spacing_rad(self) -> float:
        """Grid spacing, the same along all three angles."""
        return 2.0 * np.pi / self.period

    def correlate(
        self,
        p: npt.NDArray[np.complex64],
        q: npt.NDArray[np.complex64],
        radial: npt.NDArray[np.float32],
        *,
        even: bool,
    ) -> npt.NDArray[np.float32]:
        """``c(R) = sum_r w_r integral p(r u) q(r R^T u) du`` for every rotation of the grid.

        Parameters
        ----------
        p, q : (L + 1, L + 1, S) complex64
            Coefficients ``[l, m, shell]`` from `ShellTransform`.
        radial : (S,) float32
            Weight w_r of each shell.
        even : bool
            Both are even functions: odd degrees are skipped.

        Returns
        -------
        (B, G, G) float32
            ``[beta, gamma, alpha]``.
        """
        spectrum = self.spectrum()
        self.fill(p, q, radial, spectrum, even=even)
        return self.transform(spectrum)

    def spectrum(self, *count: int) -> npt.NDArray[np.complex64]:
        """Zeros ``(B, G, L + 1)`` for `fill`, or ``(count, B, G, L + 1)`` for many."""
        shape = (*count, self.colatitudes, self.period, self.bandwidth + 1)
        return np.zeros(shape, dtype=np.complex64)

    def fill(
        self,
        p: npt.NDArray[np.complex64],
        q: npt.NDArray[np.complex64],
        radial: npt.NDArray[np.float32],
        spectrum: npt.NDArray[np.complex64],
        *,
        even: bool,
    ) -> None:
        """Spectrum of `correlate` over gamma and alpha, into an array from `spectrum`."""
        top = self.bandwidth + 1
        step = 2 if even else 1
        cross_real = np.empty((top, top, 2, top), dtype=np.float32)
        cross_imag = np.empty_like(cross_real)
        cross_coefficients(p, q, radial, 0, step, cross_real, cross_imag)
        fill_correlation(cross_real, cross_imag, self._wigner, self._offsets, 0, step, spectrum)

    def transform(self, spectrum: npt.NDArray[np.complex64]) -> npt.NDArray[np.float32]:
        """The correlation ``(..., B, G, G)`` of filled spectra."""
        correlation: npt.NDArray[np.float32] = scipy.fft.irfftn(
            spectrum, s=(self.period, self.period), axes=(-2, -1), norm="forward"
        )
        return correlation

    def angles(self, steps: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """ZYZ angles alpha, beta, gamma (radians) of fractional grid indices.

        Parameters
        ----------
        steps : (M, 3) float
            Indices along ``[beta, gamma, alpha]``.
        """
        beta = (steps[:, 0] + 0.5) * np.pi / self.colatitudes
        gamma = steps[:, 1] * self.spacing_rad
        alpha = steps[:, 2] * self.spacing_rad
        return np.stack([alpha, beta, gamma], axis=1)

    def peaks(
        self,
        score: npt.NDArray[np.float32],
        limit: int,
        separation_rad: float,
        symmetry: PointGroup | None = None,
    ) -> tuple[Rotation, npt.NDArray[np.float64]]:
        """Best local maxima of a score, refined below grid spacing and kept apart.

        Parameters
        ----------
        score : (B, G, G) float32
            -inf where a rotation is excluded.
        limit : int
            At most so many.
        separation_rad : float
            Smallest rotation angle between two of them.
        symmetry : PointGroup, optional
            Equivalent peaks ``R S`` count once, by the one in the asymmetric unit.

        Returns
        -------
        rotations : scipy Rotation of M <= limit
            Best first; empty if all scores are the same, as those of an empty reference.
        scores : (M,) float64
            At the grid points.
        """
        nothing = Rotation.from_quat(np.empty((0, 4))), np.empty(0)
        if not score.max() > score.min():
            return nothing
        found = np.empty(score.size // 8 + 1, dtype=np.int64)
        count = min(local_maxima(score, found), len(found))
        flat = found[:count]
        values = score.reshape(-1)[flat]
        # The pool is larger than the limit because suppression will thin it.
        pool = 8 * limit * (1 if symmetry is None else symmetry.order)
        order = np.argsort(-values, kind="stable")[:pool]
        flat, values = flat[order], values[order]
        steps = np.empty((len(flat), 3))
        refine_peaks(score, flat, steps)
        rotations = Rotation.from_euler("ZYZ", self.angles(steps))
        if symmetry is not None and symmetry.order > 1:
            rotations = Rotation.from_matrix(symmetry.representatives(rotations.as_matrix()))
        kept = np.empty(limit, dtype=np.int64)
        number = suppress_near(rotations.as_quat(), separation_rad, limit, kept)
        chosen = kept[:number]
        return rotations[chosen], values[chosen].astype(np.float64)


@lru_cache(maxsize=32)
def so3_correlation(bandwidth: int, period: int | None = None) -> SO3Correlation:
    """The plan of a band limit and grid; plans are cached."""
    return SO3Correlation(bandwidth, period)
