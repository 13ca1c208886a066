"""The search over rotations and shifts with phases kept (method.md sections 3 and 6).

For one trial shift t, the spectrum of the particle moved back by t is analysed on shells, and one
SO(3) correlation gives the cross term of the squared residual for every rotation. What is kept of
the millions of poses is decided as they stream by.
"""

from __future__ import annotations

import math

import numpy as np

from faml.kernels._jit import kernel

__all__ = ["analyse_shifted", "keep_best", "move_back", "raise_best"]

_NEGLIGIBLE_NATS = 25.0
"""Rows of the grid whose best pose lies so far below the best of all add nothing to the mass."""


@kernel
def move_back(samples, directions, first, step, translations, box, out):
    """Samples of a spectrum on shells, moved by -t: times ``exp(+2 pi i k.t / n)``.

    Parameters
    ----------
    samples : (P, S) complex64
    directions : (P, 3) float32
        Unit vectors x, y, z.
    first, step : float
        Radius of the first shell and distance between shells, in units of 1/n.
    translations : (T, 3) float64
        x, y, z in voxels.
    box : int
        Edge n in voxels.
    out : (P, T, S) complex64
        Overwritten.
    """
    factor = 2.0 * math.pi / box
    for p in range(samples.shape[0]):
        for t in range(translations.shape[0]):
            along = factor * (
                directions[p, 0] * translations[t, 0]
                + directions[p, 1] * translations[t, 1]
                + directions[p, 2] * translations[t, 2]
            )
            # Shells are equidistant, so each phase is the last one times a constant.
            phase = complex(math.cos(first * along), math.sin(first * along))
            turn = complex(math.cos(step * along), math.sin(step * along))
            for s in range(samples.shape[1]):
                out[p, t, s] = samples[p, s] * np.complex64(phase)
                phase *= turn


@kernel
def analyse_shifted(fourier, legendre, out):
    """Coefficients of the Hartley functions of Hermitian spectra on shells.

    Even degrees are those of the real part, odd ones those of the imaginary part.

    Parameters
    ----------
    fourier : (H, M, T S) complex64
        Transform over longitude of the complex samples: northern colatitude, order modulo M, and
        T shifts of S shells.
    legendre : (L + 1, L + 1, H) float32
        ``[m, l, i]``, see `kernels.harmonics.analyse_legendre`.
    out : (T, L + 1, L + 1, S) complex64
        ``[shift, l, m, shell]``, m >= 0. Overwritten for m <= l; the rest is left as it is.
    """
    top = legendre.shape[0]
    hemisphere, longitudes, columns = fourier.shape
    shifts, shells = out.shape[0], out.shape[3]
    half = np.float32(0.5)
    even = np.empty((2, columns), np.float32)
    odd = np.empty((2, columns), np.float32)
    sums = np.empty((top, 2, columns), np.float32)
    for m in range(top):
        sums[m:] = 0
        for i in range(hemisphere):
            plus, minus = fourier[i, m], fourier[i, (longitudes - m) % longitudes]
            for c in range(columns):
                # F_m of the real and of the imaginary part of the samples.
                even[0, c] = half * (plus[c].real + minus[c].real)
                even[1, c] = half * (plus[c].imag - minus[c].imag)
                odd[0, c] = half * (plus[c].imag + minus[c].imag)
                odd[1, c] = half * (minus[c].real - plus[c].real)
            for l in range(m, top):
                p = legendre[m, l, i]
                part = odd if l & 1 else even
                for c in range(columns):
                    sums[l, 0, c] += p * part[0, c]
                    sums[l, 1, c] += p * part[1, c]
        for l in range(m, top):
            for t in range(shifts):
                for s in range(shells):
                    c = t * shells + s
                    out[t, l, m, s] = complex(sums[l, 0, c], sums[l, 1, c])


@kernel
def raise_best(correlation, offset, best):
    """Keep the larger score of every rotation.

    Parameters
    ----------
    correlation : (B, G, G) float32
    offset : float
        Added to it.
    best : (B, G, G) float32
        Raised where ``correlation + offset`` is larger.
    """
    scores, flat = correlation.reshape(-1), best.reshape(-1)
    add = np.float32(offset)
    for i in range(scores.shape[0]):
        flat[i] = max(flat[i], scores[i] + add)


@kernel
def keep_best(correlation, base, offset, first_code, limit, values, codes, state):
    """Add a grid of poses to the running mass and to the list of the best.

    Parameters
    ----------
    correlation : (B, G, G) float32
        Cross term of one shift.
    base : (B, G, G) float32
        What does not depend on the shift: energy and log volume of the cell.
    offset : float
        Logarithm of the prior of the shift.
    first_code : int
        Code of the first pose; the others follow in order.
    limit : int
        How many of the best have to survive.
    values : (V,) float32
        Log joint probabilities of the list; V is at least twice ``limit`` plus G.
    codes : (V,) int64
    state : (4,) float64
        Length of the list, least value that enters it, largest value seen, and the sum of
        ``exp(value - largest)``. Start with 0, -inf, -inf, 0.
    """
    betas, gammas, alphas = correlation.shape
    row = np.empty(alphas, np.float32)
    bits = np.empty(alphas, np.int32)
    powers = bits.view(np.float32)
    add = np.float32(offset)
    count, least, largest, total = int(state[0]), np.float32(state[1]), state[2], state[3]
    code = first_code
    for b in range(betas):
        for g in range(gammas):
            cross, rest = correlation[b, g], base[b, g]
            highest = np.float32(-np.inf)
            for a in range(alphas):
                value = cross[a] + rest[a] + add
                row[a] = value
                highest = max(highest, value)
            if highest > largest:
                total = total * math.exp(largest - highest) if total > 0.0 else 0.0
                largest = float(highest)
            if highest > least:
                for a in range(alphas):
                    if row[a] > least:
                        values[count] = row[a]
                        codes[count] = code + a
                        count += 1
                if count > values.shape[0] - alphas:
                    least = _shorten(values, codes, count, limit)
                    count = limit
            # Last, as it uses the row up.
            if highest > largest - _NEGLIGIBLE_NATS:
                total += _sum_of_exponentials(row, np.float32(largest), bits, powers)
            code += alphas
    state[0], state[1], state[2], state[3] = count, least, largest, total


@kernel
def _sum_of_exponentials(row, largest, bits, powers):
    """``sum exp(row - largest)`` to five digits, by powers of two and a polynomial.

    The library's exponential is called number by number; this one the compiler vectorises.
    """
    scale = np.float32(1.4426950408889634)
    shift, lowest = np.float32(127.0), np.float32(1.0)
    for a in range(row.shape[0]):
        # 2^x = 2^whole 2^part; an exponent field of `whole + 127` with no mantissa is 2^whole.
        x = max((row[a] - largest) * scale + shift, lowest)
        whole = np.int32(x)
        row[a] = x - np.float32(whole)
        bits[a] = whole << 23
    total = np.float32(0.0)
    for a in range(row.shape[0]):
        f = row[a]
        # Chebyshev fit of 2^f on [0, 1].
        series = np.float32(0.013676560889) * f + np.float32(0.051667028302)
        series = series * f + np.float32(0.241709986494)
        series = series * f + np.float32(0.692931414529)
        total += powers[a] * (series * f + np.float32(1.000007268932))
    return float(total)


@kernel
def _shorten(values, codes, count, limit):
    """Move the ``limit`` best of a list to its front, in order of arrival; the least of them."""
    ordered = np.sort(values[:count])
    least = ordered[count - limit]
    # Equal values fill what the larger ones leave, first come first served.
    above = 0
    for i in range(count):
        if values[i] > least:
            above += 1
    ties = limit - above
    kept = 0
    for i in range(count):
        take = values[i] > least
        if not take and values[i] == least and ties > 0:
            take = True
            ties -= 1
        if take:
            values[kept] = values[i]
            codes[kept] = codes[i]
            kept += 1
    return least
