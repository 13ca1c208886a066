"""Correlation of two shell functions over all rotations, on an Euler grid."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import scipy.fft
from scipy.spatial.transform import Rotation

from faml.kernels.peaks import local_maxima, refine_peaks, suppress_near
from faml.kernels.so3 import cross_coefficients, fill_correlation
from faml.transforms.fourier import even_fast_length
from faml.transforms.tables import wigner_table

__all__ = ["SO3Correlation", "so3_correlation"]


class SO3Correlation:
    """Plan for band limit L; immutable, shared by threads.

    The grid is ``alpha_a = 2 pi a / G``, ``gamma_g = 2 pi g / G``,
    ``beta_b = (b + 1/2) pi / B`` with G the first even 5-smooth number >= 2L + 1 and B = G / 2, so
    no grid point repeats another's rotation.

    Parameters
    ----------
    bandwidth : int
        Largest degree L.
    """

    def __init__(self, bandwidth: int) -> None:
        self.bandwidth = bandwidth
        self.period = even_fast_length(2 * bandwidth + 1)
        self.colatitudes = self.period // 2
        self._wigner, self._offsets = wigner_table(bandwidth, self.colatitudes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape ``(G, G, B)`` of a correlation, ``[gamma, alpha, beta]``."""
        return (self.period, self.period, self.colatitudes)

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
        (G, G, B) float32
            ``[gamma, alpha, beta]``.
        """
        top = self.bandwidth + 1
        step = 2 if even else 1
        cross_real = np.zeros((top, top, 2, top), dtype=np.float32)
        cross_imag = np.zeros_like(cross_real)
        cross_coefficients(p, q, radial, 0, step, cross_real, cross_imag)
        spectrum = np.zeros((self.period, top, self.colatitudes), dtype=np.complex64)
        fill_correlation(cross_real, cross_imag, self._wigner, self._offsets, 0, step, spectrum)
        correlation: npt.NDArray[np.float32] = scipy.fft.irfftn(
            spectrum, s=(self.period, self.period), axes=(0, 1), norm="forward"
        )
        return correlation

    def angles(self, steps: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """ZYZ angles alpha, beta, gamma (radians) of fractional grid indices.

        Parameters
        ----------
        steps : (M, 3) float
            Indices along ``[gamma, alpha, beta]``.
        """
        gamma = steps[:, 0] * self.spacing_rad
        alpha = steps[:, 1] * self.spacing_rad
        beta = (steps[:, 2] + 0.5) * np.pi / self.colatitudes
        return np.stack([alpha, beta, gamma], axis=1)

    def peaks(
        self, score: npt.NDArray[np.float32], limit: int, separation_rad: float
    ) -> tuple[Rotation, npt.NDArray[np.float64]]:
        """Best local maxima of a score, refined below grid spacing and kept apart.

        Parameters
        ----------
        score : (G, G, B) float32
            -inf where a rotation is excluded.
        limit : int
            At most so many.
        separation_rad : float
            Smallest rotation angle between two of them.

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
        order = np.argsort(-values, kind="stable")[: 8 * limit]
        flat, values = flat[order], values[order]
        steps = np.empty((len(flat), 3))
        refine_peaks(score, flat, steps)
        rotations = Rotation.from_euler("ZYZ", self.angles(steps))
        kept = np.empty(limit, dtype=np.int64)
        number = suppress_near(rotations.as_quat(), separation_rad, limit, kept)
        chosen = kept[:number]
        return rotations[chosen], values[chosen].astype(np.float64)


@lru_cache(maxsize=32)
def so3_correlation(bandwidth: int) -> SO3Correlation:
    """The plan of a band limit; plans are cached."""
    return SO3Correlation(bandwidth)
