"""Rotational correlation over the whole of SO(3) (method.md section 3; Kovacs & Wriggers 2002).

``c(R) = sum_{m m'} exp(i (m alpha + m' gamma)) sum_l I^l_{m m'} d^l_{m m'}(beta)``.

Deviation from the paper: the sum over l is taken directly at the colatitudes
``beta_j = (j + 1/2) pi / B`` with tabulated ``d^l(beta_j)`` instead of through d^l(pi/2) and a
third Fourier axis. It costs the same multiplications, saves the transform along beta, visits every
rotation once (a third axis visits each twice) and keeps grid points off the poles.
"""

from __future__ import annotations

import numpy as np

from faml.kernels._jit import kernel

__all__ = ["cross_coefficients", "fill_correlation"]


@kernel
def cross_coefficients(p, q, radial, first, step, out_real, out_imag):
    """``I^l_{m m'} = sum_r w_r p_lm(r) conj(q_lm'(r))`` for m >= 0 and all m'.

    Parameters
    ----------
    p, q : (L + 1, L + 1, S) complex64
        Coefficients [l, m, shell] of two real functions for m >= 0; negative orders follow from
        ``f_{l,-m} = (-1)^m conj(f_lm)``.
    radial : (S,) float32
        Weight of each shell (r^2 for the volume element).
    first, step : int
        Degrees taken: ``range(first, L + 1, step)``; (0, 2) for even functions.
    out_real, out_imag : (L + 1, L + 1, 2, L + 1) float32
        ``[m, m', sign, l]`` with sign 0 for +m' and 1 for -m'. Overwritten for those degrees with
        max(m, m') <= l.
    """
    top, _, shells = p.shape
    for l in range(first, top, step):
        for m in range(l + 1):
            for n in range(l + 1):
                rr, ii, ri, ir = 0.0, 0.0, 0.0, 0.0
                a, b, c, d = (np.float32(rr), np.float32(ii), np.float32(ri), np.float32(ir))
                for s in range(shells):
                    pr = p[l, m, s].real * radial[s]
                    pi = p[l, m, s].imag * radial[s]
                    a += pr * q[l, n, s].real
                    b += pi * q[l, n, s].imag
                    c += pi * q[l, n, s].real
                    d += pr * q[l, n, s].imag
                # p conj(q) = (pr qr + pi qi) + i (pi qr - pr qi); p q is its sign-flipped twin.
                out_real[m, n, 0, l] = a + b
                out_imag[m, n, 0, l] = c - d
                parity = np.float32(-1.0) if n & 1 else np.float32(1.0)
                out_real[m, n, 1, l] = parity * (a - b)
                out_imag[m, n, 1, l] = parity * (c + d)


@kernel
def fill_correlation(cross_real, cross_imag, wigner, offsets, first, step, out):
    """Spectrum over (gamma, alpha) of the correlation at every beta of the grid.

    Parameters
    ----------
    cross_real, cross_imag : (L + 1, L + 1, 2, L + 1) float32
        From `cross_coefficients`.
    wigner : (rows, B) float32
        ``d^l_{m m'}(beta_j)`` for 0 <= m, m' <= l; the rows of one (m, m') lie together, l rising
        from max(m, m').
    offsets : (L + 1, L + 1) int64
        First row of (m, m').
    first, step : int
        Degrees taken.
    out : (B, G, L + 1) complex64
        ``[j, m' mod G, m]``. Overwritten for |m'| <= L; other rows must be zero.
    """
    top = cross_real.shape[0]
    count = wigner.shape[1]
    period = out.shape[1]
    pr = np.empty(count, np.float32)
    pi = np.empty(count, np.float32)
    nr = np.empty(count, np.float32)
    ni = np.empty(count, np.float32)
    # m' outside: what is written for one m' then stays in the nearest cache.
    for n in range(top):
        for m in range(top):
            low = max(m, n)
            start = low
            if step == 2 and (low - first) & 1:
                start = low + 1
            pr[:] = 0
            pi[:] = 0
            nr[:] = 0
            ni[:] = 0
            for l in range(start, top, step):
                row = wigner[offsets[m, n] + l - low]
                ar, ai = cross_real[m, n, 0, l], cross_imag[m, n, 0, l]
                # d^l_{m,-m'}(beta) = (-1)^(l+m) d^l_{m,m'}(pi - beta)
                sign = np.float32(-1.0) if (l + m) & 1 else np.float32(1.0)
                br, bi = sign * cross_real[m, n, 1, l], sign * cross_imag[m, n, 1, l]
                for j in range(count):
                    pr[j] += ar * row[j]
                    pi[j] += ai * row[j]
                    nr[j] += br * row[j]
                    ni[j] += bi * row[j]
            for j in range(count):
                out[j, n, m] = complex(pr[j], pi[j])
            if n > 0:
                for j in range(count):
                    out[j, period - n, m] = complex(nr[count - 1 - j], ni[count - 1 - j])
