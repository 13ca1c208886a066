"""Shell sampling and the Legendre part of the spherical harmonic transform.

A function on the sphere is sampled at Gauss-Legendre colatitudes theta_i (northern half only) and
equidistant longitudes. Functions here have a parity under k -> -k: even (amplitudes, weights, real
parts of Hermitian spectra) or odd (their imaginary parts), so the southern half is known and only
degrees l of that parity occur (method.md section 3).
"""

from __future__ import annotations

import numpy as np

from faml.kernels._jit import kernel
from faml.kernels.interpolation import cell, trilinear

__all__ = ["analyse_legendre", "sample_shells"]


@kernel
def sample_shells(spectrum, directions, radii, scale, out):
    """Trilinear samples of a half-cube on spherical shells.

    Parameters
    ----------
    spectrum : (2q + 1, 2q + 1, q + 1) complex64
        Centred half-cube; needs ``q >= scale * max(radii) + 1``.
    directions : (P, 3) float32
        Unit vectors x, y, z.
    radii : (S,) float32
        Radius of each shell in units of 1/n.
    scale : float
        Grid points per unit of k.
    out : (P, S) complex64
        Overwritten. Shells vary fastest, as the transform wants them.
    """
    q = spectrum.shape[2] - 1
    real = spectrum.view(np.float32).reshape(-1)
    imag = real[1:]
    for p in range(directions.shape[0]):
        dx, dy, dz = directions[p, 0], directions[p, 1], directions[p, 2]
        sign = np.float32(1.0)
        if dx < 0:
            dx, dy, dz = -dx, -dy, -dz
            sign = np.float32(-1.0)
        for s in range(radii.shape[0]):
            length = radii[s] * np.float32(scale)
            corner, fx, fy, fz = cell(dx * length, dy * length, dz * length, q, 2)
            out[p, s] = complex(
                trilinear(real, corner, fx, fy, fz, q, 2),
                sign * trilinear(imag, corner, fx, fy, fz, q, 2),
            )


@kernel
def analyse_legendre(orders, legendre, parity, out):
    """Coefficients ``f_lm = sum_i w_i P_lm(theta_i) F_m(theta_i)`` for m >= 0 and l of one parity.

    Parameters
    ----------
    orders : (T, M, S) complex64
        Fourier coefficients over longitude: northern colatitude, order m, shell.
    legendre : (M, L + 1, T) float32
        Orthonormal Legendre functions with Condon-Shortley phase times twice the quadrature
        weight (both hemispheres) of the northern colatitude.
    parity : int
        0 for even, 1 for odd degrees.
    out : (L + 1, M, S) complex64
        Overwritten for degrees of the parity and m <= l; the rest is set to zero.
    """
    degrees = legendre.shape[1]
    thetas, top, shells = orders.shape
    real = np.empty(shells, np.float32)
    imag = np.empty(shells, np.float32)
    out[:] = 0
    for m in range(top):
        first = m + ((m + parity) & 1)
        for l in range(first, degrees, 2):
            real[:] = 0
            imag[:] = 0
            for t in range(thetas):
                p = legendre[m, l, t]
                for s in range(shells):
                    real[s] += p * orders[t, m, s].real
                    imag[s] += p * orders[t, m, s].imag
            for s in range(shells):
                out[l, m, s] = complex(real[s], imag[s])
