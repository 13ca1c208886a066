"""Search for the translation of rotated references (method.md section 3).

One inverse FFT of ``y conj(R A) / sigma^2`` gives the cross term of the residual at all
translations. The FFT lies outside; `correlation_spectra` comes before it and `best_shifts` after,
each for a block of rotations, so that worker threads seldom need the interpreter.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from faml.kernels._jit import kernel
from faml.kernels.peaks import vertex
from faml.kernels.residuals import phase_factors
from faml.kernels.slicing import slice_spectrum

__all__ = [
    "SearchComponents",
    "best_shifts",
    "correlation_spectra",
    "refine_shift",
    "shift_derivatives",
    "shift_peak",
]


class SearchComponents(NamedTuple):
    """Components of the E-step.

    Attributes
    ----------
    points : (J, 3) float32
        kx, ky, kz.
    indices : (J,) int64
        Flat index of each in a search spectrum ``(m, m, m // 2 + 1)``.
    multiplicity : (J,) float32
        1 or 2: how many components of the full sphere the half-space point stands for.
    """

    points: npt.NDArray[np.float32]
    indices: npt.NDArray[np.int64]
    multiplicity: npt.NDArray[np.float32]


@kernel
def correlation_spectra(
    spectrum, rotations, scale, components, whitened, energy_weights, spectra, energies
):
    """Spectra over translation of the correlation with each rotated reference, and energies.

    Parameters
    ----------
    spectrum : (2q + 1, 2q + 1, q + 1) complex64
        Padded spectrum of the reference, see `slice_spectrum`.
    rotations : (M, 3, 3) float64
    scale : float
    components : SearchComponents
    whitened : (J,) complex64
        ``y / sigma^2``.
    energy_weights : (J,) float32
        ``multiplicity W / sigma^2``.
    spectra : (M, m, m, m // 2 + 1) complex64
        ``y conj(R A) / sigma^2`` at the components; zero elsewhere, which is left as it is.
    energies : (M,) float64
        ``sum W |R A|^2 / sigma^2`` over the full sphere. Overwritten.
    """
    sliced = np.empty(whitened.shape[0], np.complex64)
    for i in range(rotations.shape[0]):
        slice_spectrum(spectrum, components.points, rotations[i], scale, sliced)
        flat = spectra[i].reshape(-1)
        energy = 0.0
        for j in range(whitened.shape[0]):
            s = sliced[j]
            flat[components.indices[j]] = whitened[j] * s.conjugate()
            energy += energy_weights[j] * (s.real * s.real + s.imag * s.imag)
        energies[i] = energy


@kernel
def best_shifts(correlations, spectra, components, box, radius_voxels, steps, translations, cross):
    """Best translation of each rotated reference, refined below the sampling.

    Parameters
    ----------
    correlations : (M, m, m, m) float32
        Inverse FFTs of `spectra`.
    spectra : (M, m, m, m // 2 + 1) complex64
        From `correlation_spectra`.
    components : SearchComponents
    box : int
        Edge n in voxels.
    radius_voxels : float
        Largest |t|.
    steps : int
        Newton steps.
    translations : (M, 3) float64
        x, y, z in voxels. Overwritten.
    cross : (M,) float64
        ``sum Re(conj(R_phi A) y) / sigma^2`` over the full sphere, there. Overwritten.
    """
    product = np.empty(components.indices.shape[0], np.complex64)
    grid_step = box / correlations.shape[1]
    for i in range(correlations.shape[0]):
        shift_peak(correlations[i], grid_step, radius_voxels, translations[i])
        flat = spectra[i].reshape(-1)
        for j in range(product.shape[0]):
            product[j] = components.multiplicity[j] * flat[components.indices[j]]
        cross[i] = refine_shift(
            product, components.points, box, radius_voxels, steps, translations[i]
        )


@kernel
def shift_peak(correlation, step, radius_voxels, out):
    """Best translation within a radius, refined below the sampling by a parabola per axis.

    Parameters
    ----------
    correlation : (m, m, m) float32
        ``[z, y, x]`` correlation against translation, periodic, zero shift at index 0.
    step : float
        Voxels of the original box per grid step.
    radius_voxels : float
        Largest |t|.
    out : (3,) float64
        x, y, z in voxels, |out| <= radius_voxels. Overwritten.

    Returns
    -------
    float64
        Correlation at the best grid point.
    """
    m = correlation.shape[0]
    reach = min(int(radius_voxels / step + 1e-6), (m - 1) // 2)
    limit = (radius_voxels / step) ** 2 + 1e-6
    best = -np.inf
    bz, by, bx = 0, 0, 0
    for dz in range(-reach, reach + 1):
        for dy in range(-reach, reach + 1):
            for dx in range(-reach, reach + 1):
                if dz * dz + dy * dy + dx * dx <= limit:
                    value = correlation[dz % m, dy % m, dx % m]
                    if value > best:
                        best = value
                        bz, by, bx = dz, dy, dx
    middle = float(correlation[bz % m, by % m, bx % m])
    out[0] = bx + vertex(
        float(correlation[bz % m, by % m, (bx - 1) % m]),
        middle,
        float(correlation[bz % m, by % m, (bx + 1) % m]),
    )
    out[1] = by + vertex(
        float(correlation[bz % m, (by - 1) % m, bx % m]),
        middle,
        float(correlation[bz % m, (by + 1) % m, bx % m]),
    )
    out[2] = bz + vertex(
        float(correlation[(bz - 1) % m, by % m, bx % m]),
        middle,
        float(correlation[(bz + 1) % m, by % m, bx % m]),
    )
    length = 0.0
    for c in range(3):
        out[c] *= step
        length += out[c] * out[c]
    if length > radius_voxels * radius_voxels:
        shrink = radius_voxels / math.sqrt(length)
        for c in range(3):
            out[c] *= shrink
    return best


@kernel
def shift_derivatives(product, points, box, translation, gradient, hessian):
    """Correlation at a shift, with its derivatives.

    ``c(t) = sum_j Re(g_j exp(2 pi i k_j.t / n))`` for ``g = multiplicity y conj(R A) / sigma^2``.

    Parameters
    ----------
    product : (J,) complex64
        g.
    points : (J, 3) float32
        kx, ky, kz.
    box : int
        Edge n in voxels.
    translation : (3,) float64
        x, y, z in voxels.
    gradient : (3,) float64
        Overwritten, per voxel.
    hessian : (3, 3) float64
        Overwritten, per voxel^2.

    Returns
    -------
    float64
        c(t).
    """
    phases = np.empty(product.shape[0], np.complex64)
    phase_factors(points, -translation, box, phases)
    gradient[:] = 0.0
    hessian[:] = 0.0
    total = 0.0
    factor = 2.0 * math.pi / box
    for j in range(product.shape[0]):
        value = product[j] * phases[j]
        real, imag = float(value.real), float(value.imag)
        total += real
        for a in range(3):
            ka = factor * points[j, a]
            gradient[a] -= ka * imag
            for b in range(a + 1):
                hessian[a, b] -= ka * factor * points[j, b] * real
    for a in range(3):
        for b in range(a):
            hessian[b, a] = hessian[a, b]
    return total


@kernel
def refine_shift(product, points, box, radius_voxels, steps, translation):
    """Newton steps on the correlation from a grid maximum; kept only while it rises.

    Parameters
    ----------
    product, points, box
        As in `shift_derivatives`.
    radius_voxels : float
        Largest |t|.
    steps : int
        At most so many.
    translation : (3,) float64
        Start, x, y, z in voxels; overwritten.

    Returns
    -------
    float64
        Correlation at the result.
    """
    gradient = np.empty(3)
    hessian = np.empty((3, 3))
    trial = np.empty(3)
    here = shift_derivatives(product, points, box, translation, gradient, hessian)
    for _ in range(steps):
        # A maximum needs a negative definite Hessian; elsewhere Newton would climb to a saddle.
        a, b, c = hessian[0, 0], hessian[0, 1], hessian[0, 2]
        d, e, f = hessian[1, 1], hessian[1, 2], hessian[2, 2]
        minor = a * d - b * b
        determinant = a * (d * f - e * e) - b * (b * f - c * e) + c * (b * e - c * d)
        if not (a < 0.0 and minor > 0.0 and determinant < 0.0):
            break
        gx, gy, gz = gradient[0], gradient[1], gradient[2]
        trial[0] = (d * f - e * e) * gx + (c * e - b * f) * gy + (b * e - c * d) * gz
        trial[1] = (c * e - b * f) * gx + (a * f - c * c) * gy + (b * c - a * e) * gz
        trial[2] = (b * e - c * d) * gx + (b * c - a * e) * gy + (a * d - b * b) * gz
        length = 0.0
        for i in range(3):
            trial[i] = translation[i] - trial[i] / determinant
            length += trial[i] * trial[i]
        if length > radius_voxels * radius_voxels:
            break
        there = shift_derivatives(product, points, box, trial, gradient, hessian)
        if not there > here:
            break
        here = there
        translation[:] = trial
    return here
