"""Spherical harmonic analysis of functions with parity on shells (method.md section 3)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import scipy.fft

from faml.kernels.harmonics import analyse_legendre, sample_shells
from faml.kernels.phased import analyse_shifted, move_back
from faml.transforms.fourier import even_fast_length
from faml.transforms.tables import legendre_table

__all__ = ["ShellTransform", "shell_transform"]


class ShellTransform:
    """Analysis of shells up to degree L; immutable, shared by threads.

    Parameters
    ----------
    bandwidth : int
        Largest degree L.
    """

    def __init__(self, bandwidth: int) -> None:
        self.bandwidth = bandwidth
        # An even number of nodes keeps the equator free, so that hemispheres do not share one.
        nodes = bandwidth + 1 + (bandwidth + 1) % 2
        self.longitudes = even_fast_length(2 * bandwidth + 2)
        cosines, self._legendre = legendre_table(bandwidth, nodes)
        self.colatitudes = len(cosines)
        phi = 2.0 * np.pi * np.arange(self.longitudes) / self.longitudes
        sines = np.sqrt(1.0 - cosines**2)
        directions = np.stack(
            [
                np.outer(sines, np.cos(phi)),
                np.outer(sines, np.sin(phi)),
                np.broadcast_to(cosines[:, None], (self.colatitudes, self.longitudes)),
            ],
            axis=-1,
        )
        self.directions = directions.reshape(-1, 3).astype(np.float32)

    def sample(
        self, half_cube: npt.NDArray[np.complex64], radii: npt.NDArray[np.float32], scale: float
    ) -> npt.NDArray[np.complex64]:
        """Values on the northern half of each shell, ``(T * M, S)`` complex64.

        Parameters
        ----------
        half_cube : (2q + 1, 2q + 1, q + 1) complex64
        radii : (S,) float32
            In units of 1/n.
        scale : float
            Grid points of the half-cube per unit.
        """
        out = np.empty((len(self.directions), len(radii)), dtype=np.complex64)
        sample_shells(half_cube, self.directions, radii, scale, out)
        return out

    def analyse_even(self, samples: npt.NDArray[np.float32]) -> npt.NDArray[np.complex64]:
        """Coefficients of real even functions.

        Parameters
        ----------
        samples : (T * M, S) float32
            Values on the northern half.

        Returns
        -------
        (L + 1, L + 1, S) complex64
            ``[l, m, shell]``, m >= 0, odd l zero.
        """
        shells = samples.shape[1]
        grid = samples.reshape(self.colatitudes, self.longitudes, shells)
        orders = scipy.fft.rfft(grid, axis=1)[:, : self.bandwidth + 1]
        return self._analyse(orders, 0)

    def analyse_hermitian(self, samples: npt.NDArray[np.complex64]) -> npt.NDArray[np.complex64]:
        """Coefficients of the Hartley function Re + Im of a Hermitian spectrum.

        Even degrees carry the real part, odd ones the imaginary part (method.md section 3).

        Parameters
        ----------
        samples : (T * M, S) complex64
            Values on the northern half.

        Returns
        -------
        (L + 1, L + 1, S) complex64
            ``[l, m, shell]``, m >= 0.
        """
        shells = samples.shape[1]
        grid = samples.reshape(self.colatitudes, self.longitudes, shells)
        top = self.bandwidth + 1
        even = scipy.fft.rfft(np.ascontiguousarray(grid.real), axis=1)[:, :top]
        odd = scipy.fft.rfft(np.ascontiguousarray(grid.imag), axis=1)[:, :top]
        return self._analyse(even, 0) + self._analyse(odd, 1)

    def analyse_shifted(
        self,
        samples: npt.NDArray[np.complex64],
        radii: npt.NDArray[np.float32],
        translations: npt.NDArray[np.float64],
        box: int,
    ) -> npt.NDArray[np.complex64]:
        """`analyse_hermitian` of a spectrum moved by -t, for several t at once.

        Parameters
        ----------
        samples : (H * M, S) complex64
            Values on the northern half.
        radii : (S,) float32
            Of the shells, in units of 1/n, equidistant.
        translations : (T, 3) float64
            x, y, z in voxels.
        box : int
            Edge n in voxels.

        Returns
        -------
        (T, L + 1, L + 1, S) complex64
            ``[shift, l, m, shell]``, m >= 0; only m <= l is set.
        """
        shifts, shells = len(translations), len(radii)
        step = float(radii[1] - radii[0]) if shells > 1 else 1.0
        moved = np.empty((len(samples), shifts, shells), dtype=np.complex64)
        move_back(samples, self.directions, float(radii[0]), step, translations, box, moved)
        columns = moved.reshape(self.colatitudes, self.longitudes, shifts * shells)
        fourier = scipy.fft.fft(columns, axis=1, overwrite_x=True)
        fourier *= np.float32(2.0 * np.pi / self.longitudes)
        top = self.bandwidth + 1
        out = np.empty((shifts, top, top, shells), dtype=np.complex64)
        analyse_shifted(fourier, self._legendre, out)
        return out

    def _analyse(self, orders: npt.NDArray[np.complex64], parity: int) -> npt.NDArray[np.complex64]:
        top = self.bandwidth + 1
        scaled = np.ascontiguousarray(orders * np.float32(2.0 * np.pi / self.longitudes))
        out = np.empty((top, top, orders.shape[2]), dtype=np.complex64)
        analyse_legendre(scaled, self._legendre, parity, out)
        return out


@lru_cache(maxsize=64)
def shell_transform(bandwidth: int) -> ShellTransform:
    """The transform of a band limit; plans are cached."""
    return ShellTransform(bandwidth)
