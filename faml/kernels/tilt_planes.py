"""Tilt images as planes of a particle's Fourier space: data term and weight (method.md section 2).

A tilt image knows the spectrum on one plane through the origin. Each point of the grid takes from
every plane that passes within half a Fourier step the component at its foot on that plane, found by
bilinear interpolation in the spectrum of the twofold padded image. So each component is used about
once, the noise of neighbouring points is independent, and its variance is that of the images. A
smoother kernel (trilinear insertion) would lend one component to several points, and fade the
particle away from the centre of the box.
"""

from __future__ import annotations

import math

import numpy as np

from faml.kernels._jit import kernel

__all__ = ["add_tilt_images", "add_tilt_weights", "transfer"]

_HALF_STEP = 0.5


@kernel
def _phase(u, v, optics):
    """Argument of the sine of the CTF, see `transfer`."""
    square = u * u + v * v
    return (
        (optics[0] * u + optics[1] * v) * u
        + optics[2] * v * v
        - optics[3] * square * square
        + optics[4]
    )


@kernel
def _envelope(u, v, optics):
    """Scale and decay of the CTF, see `transfer`."""
    square = u * u + v * v
    exponent = -optics[6] * square
    if optics[7] != 0.0 and square > 0.0:
        critical = 0.245 * (square / (optics[8] * optics[8])) ** -0.8325 + 2.81
        exponent -= 0.5 * optics[7] / critical
    return optics[5] * math.exp(exponent)


@kernel
def transfer(u, v, optics):
    """Contrast transfer of one image, C(u, v), with its envelope.

    Parameters
    ----------
    u, v : float
        Image frequency along x and y in Fourier steps of the box (1 / extent).
    optics : (9,) float64
        ``C = o5 sin(o0 u^2 + o1 u v + o2 v^2 - o3 r^4 + o4) exp(-o6 r^2)
        exp(-o7 / (2 (0.245 (r / o8)^-1.665 + 2.81)))`` with r^2 = u^2 + v^2. o8 is the extent of
        the box in Angstrom; the last factor is the decay by o7 electrons per square Angstrom
        (Grant and Grigorieff 2015, Eq. 3, rounded as in RELION).

    Returns
    -------
    float
    """
    return _envelope(u, v, optics) * math.sin(_phase(u, v, optics))


@kernel
def _powers(u, v, optics, premultiplied):
    """C^2, and the variance of the noise that an image of noise 1 has there.

    Premultiplied noise is cut off with the image, which blurs C^2: between its zeros it swings by
    the overlap of the round image with itself, displaced by as far as the CTF spreads.
    """
    envelope = _envelope(u, v, optics)
    phase = _phase(u, v, optics)
    power = envelope * envelope
    sine = math.sin(phase)
    signal = power * sine * sine
    if not premultiplied:
        return signal, signal
    cubic = 4.0 * optics[3] * (u * u + v * v)
    slope_u = 2.0 * optics[0] * u + optics[1] * v - cubic * u
    slope_v = 2.0 * optics[2] * v + optics[1] * u - cubic * v
    # The phase of C^2 is twice that of C; 2 pi a step is one box.
    lag = min(1.0, math.sqrt(slope_u * slope_u + slope_v * slope_v) / math.pi)
    overlap = 2.0 / math.pi * (math.acos(lag) - lag * math.sqrt(1.0 - lag * lag))
    return signal, 0.5 * power * (1.0 - overlap * (1.0 - 2.0 * sine * sine))


@kernel
def _along_x(slope, offset, last):
    """First and last kx of a row that may lie within half a step of a plane."""
    if abs(slope) * (last + 1) < 1e-6:
        return 0, (last if abs(offset) < _HALF_STEP else -1)
    a, b = (-_HALF_STEP - offset) / slope, (_HALF_STEP - offset) / slope
    low, high = max(0.0, min(a, b)), min(float(last), max(a, b))
    if low > high:
        return 0, -1
    return math.floor(low), math.ceil(high)


@kernel
def add_tilt_weights(axes, optics, premultiplied, reach, signal, noise):
    """Add C^2 of every tilt image, and its noise, to the points near its plane.

    Parameters
    ----------
    axes : (T, 3, 3) float64
        Rows are the image's x, its y and the plane's normal as unit vectors (x, y, z) of the box.
    optics : (T, 9) float64
        See `transfer`.
    premultiplied : bool
        The images are multiplied by C.
    reach : float
        Points with ``|k| < reach`` are filled; at most n / 2.
    signal : (n, n, n // 2 + 1) float32
        Half-spectrum; ``sum C^2`` is added.
    noise : (n, n, n // 2 + 1) float32
        Variance of what `add_tilt_images` makes of white noise of variance 1; added to.
    """
    n = signal.shape[0]
    limit = reach * reach
    edge = (n - 1) // 2
    for t in range(axes.shape[0]):
        a = axes[t]
        for kz in range(-edge, edge + 1):
            for ky in range(-edge, edge + 1):
                rest = limit - kz * kz - ky * ky
                if rest <= 0.0:
                    continue
                offset = a[2, 1] * ky + a[2, 2] * kz
                first, last = _along_x(a[2, 0], offset, min(edge, int(math.sqrt(rest))))
                for kx in range(first, last + 1):
                    if abs(a[2, 0] * kx + offset) >= _HALF_STEP or kx * kx >= rest:
                        continue
                    u = a[0, 0] * kx + a[0, 1] * ky + a[0, 2] * kz
                    v = a[1, 0] * kx + a[1, 1] * ky + a[1, 2] * kz
                    power, variance = _powers(u, v, optics[t], premultiplied)
                    signal[kz % n, ky % n, kx] += power
                    noise[kz % n, ky % n, kx] += variance


@kernel
def add_tilt_images(images, axes, optics, premultiplied, reach, out):
    """Add C times every tilt image to the points near its plane.

    Parameters
    ----------
    images : (T, 2n, n + 1) complex64
        Half-spectra of the twofold padded, centred images.
    axes, optics, premultiplied, reach
        As in `add_tilt_weights`; premultiplied images are added as they are.
    out : (n, n, n // 2 + 1) complex64
        Half-spectrum; added to.
    """
    n = out.shape[0]
    rows = images.shape[1]
    limit = reach * reach
    edge = (n - 1) // 2
    one = np.float32(1.0)
    for t in range(axes.shape[0]):
        a, image = axes[t], images[t]
        for kz in range(-edge, edge + 1):
            for ky in range(-edge, edge + 1):
                rest = limit - kz * kz - ky * ky
                if rest <= 0.0:
                    continue
                offset = a[2, 1] * ky + a[2, 2] * kz
                first, last = _along_x(a[2, 0], offset, min(edge, int(math.sqrt(rest))))
                for kx in range(first, last + 1):
                    if abs(a[2, 0] * kx + offset) >= _HALF_STEP or kx * kx >= rest:
                        continue
                    u = a[0, 0] * kx + a[0, 1] * ky + a[0, 2] * kz
                    v = a[1, 0] * kx + a[1, 1] * ky + a[1, 2] * kz
                    factor = one if premultiplied else np.float32(transfer(u, v, optics[t]))
                    # The other half of the image's spectrum is the conjugate of this one.
                    mirrored = u < 0.0
                    x = -2.0 * u if mirrored else 2.0 * u
                    y = -2.0 * v if mirrored else 2.0 * v
                    ix, iy = int(x), math.floor(y)
                    fx, fy = np.float32(x - ix), np.float32(y - iy)
                    near, far = image[iy % rows], image[(iy + 1) % rows]
                    value = (one - fy) * ((one - fx) * near[ix] + fx * near[ix + 1]) + fy * (
                        (one - fx) * far[ix] + fx * far[ix + 1]
                    )
                    if mirrored:
                        value = value.conjugate()
                    out[kz % n, ky % n, kx] += factor * value
