"""Slow, obvious twins of the kernels: loops in double precision that share no package code."""

from __future__ import annotations

import itertools
from math import factorial

import numpy as np
from scipy.special import sph_harm_y


def trilinear(cube, x, y, z):
    """Value of a centred half-cube at (x, y, z) in grid steps, by Friedel symmetry for x < 0."""
    q = cube.shape[2] - 1

    def at(i, j, k):
        if i < 0:
            return np.conj(cube[-k + q, -j + q, -i])
        return cube[k + q, j + q, i]

    i, j, k = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
    total = 0.0
    for di, dj, dk in itertools.product((0, 1), repeat=3):
        weight = (
            (x - i if di else 1 - x + i)
            * (y - j if dj else 1 - y + j)
            * (z - k if dk else 1 - z + k)
        )
        if weight:
            total = total + weight * at(i + di, j + dj, k + dk)
    return total


def slice_spectrum(cube, points, rotation, scale):
    return np.array([trilinear(cube, *(scale * (rotation.T @ p))) for p in points.astype(float)])


def sample_shells(cube, directions, radii, scale):
    return np.array(
        [[trilinear(cube, *(scale * r * u)) for r in radii] for u in directions.astype(float)]
    )


def shift_correlation(sliced, data, multiplicity, precision, points, box, translation):
    """sum Re(conj(R_phi A) y) / sigma^2 over the full sphere."""
    posed = sliced * phase_factors(points, translation, box)
    return float((multiplicity * precision * (np.conj(posed) * data).real).sum())


def rotate_weight(cube, points, rotation):
    return np.array([trilinear(cube, *(rotation @ p)).real for p in points.astype(float)])


def phase_factors(points, translation, box):
    return np.exp(-2j * np.pi * (points.astype(float) @ translation) / box)


def pose_terms_full_sphere(volume_model, data_volume, weight_full, precision_of_shell, align_shell):
    """Cross and energy terms by a sum over the full FFT cube instead of half-space points."""
    n = volume_model.shape[0]
    a = np.fft.fftn(np.fft.ifftshift(volume_model), norm="ortho")
    y = np.fft.fftn(np.fft.ifftshift(data_volume), norm="ortho")
    k = np.fft.fftfreq(n, 1 / n)
    cross = energy = 0.0
    for iz, iy, ix in itertools.product(range(n), repeat=3):
        shell = int(np.floor(np.sqrt(k[iz] ** 2 + k[iy] ** 2 + k[ix] ** 2) + 0.5))
        if 0 < shell <= align_shell:
            p = precision_of_shell[shell]
            cross += p * (np.conj(a[iz, iy, ix]) * y[iz, iy, ix]).real
            energy += p * weight_full[iz, iy, ix] * abs(a[iz, iy, ix]) ** 2
    return cross, energy


def wigner_d(l, m, n, beta):
    """d^l_{m n}(beta) of exp(-i beta J_y), explicit factorial sum (Wigner)."""
    total = 0.0
    for s in range(max(0, n - m), min(l + n, l - m) + 1):
        total += (
            (-1) ** (m - n + s)
            / (factorial(l + n - s) * factorial(s) * factorial(m - n + s) * factorial(l - m - s))
            * np.cos(beta / 2) ** (2 * l + n - m - 2 * s)
            * np.sin(beta / 2) ** (m - n + 2 * s)
        )
    norm = 1.0 * factorial(l + m) * factorial(l - m) * factorial(l + n) * factorial(l - n)
    return float(np.sqrt(norm) * total)


def synthesise(coefficients, points):
    """Real function of coefficients [l, m >= 0, shell] at unit vectors, (P, S)."""
    theta = np.arccos(np.clip(points[:, 2], -1, 1))
    phi = np.arctan2(points[:, 1], points[:, 0])
    out = np.zeros((len(points), coefficients.shape[2]))
    for l in range(coefficients.shape[0]):
        for m in range(l + 1):
            basis = sph_harm_y(l, m, theta, phi)[:, None] * coefficients[l, m].astype(complex)
            out += (1 if m == 0 else 2) * basis.real
    return out


def sphere(bandwidth):
    """Quadrature points and weights exact for products of two functions of degree L."""
    nodes, weights = np.polynomial.legendre.leggauss(bandwidth + 2)
    count = 2 * bandwidth + 3
    phi = 2 * np.pi * np.arange(count) / count
    theta = np.repeat(np.arccos(nodes), count)
    phi = np.tile(phi, len(nodes))
    points = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], 1)
    return points, np.repeat(weights, count) * 2 * np.pi / count


def so3_correlation(p, q, radial, rotation):
    """sum_r w_r integral p(r u) q(r R^T u) du by direct summation over the sphere."""
    points, area = sphere(p.shape[0] - 1)
    left, right = synthesise(p, points), synthesise(q, points @ rotation)
    return float((area[:, None] * left * right * radial).sum())


def local_maxima(score):
    """Flat indices of [beta, gamma, alpha] points above all 26 neighbours, poles mirrored."""
    betas, gammas, alphas = score.shape
    found = []
    for b, g, a in itertools.product(range(betas), range(gammas), range(alphas)):
        best = True
        for dg, da, db in itertools.product((-1, 0, 1), repeat=3):
            if (dg, da, db) == (0, 0, 0):
                continue
            gg, aa, bb = g + dg, a + da, b + db
            if bb < 0 or bb >= betas:
                bb = -1 - bb if bb < 0 else 2 * betas - 1 - bb
                gg, aa = gg + gammas // 2, aa + alphas // 2
            if score[bb, gg % gammas, aa % alphas] >= score[b, g, a]:
                best = False
        if best:
            found.append((b * gammas + g) * alphas + a)
    return found


def suppress(matrices, separation_rad, limit):
    kept = []
    for i, r in enumerate(matrices):
        angles = [np.arccos(np.clip((np.trace(r.T @ matrices[k]) - 1) / 2, -1, 1)) for k in kept]
        if all(angle >= separation_rad for angle in angles):
            kept.append(i)
        if len(kept) == limit:
            break
    return kept


def voronoi_counts(sample_matrices, sample_shifts, matrices, shifts, weight):
    counts = np.zeros(len(matrices), dtype=int)
    for r, t in zip(sample_matrices, sample_shifts, strict=True):
        distances = [
            np.linalg.norm(np.eye(3) - r.T @ m) ** 2 + weight * np.sum((t - s) ** 2)
            for m, s in zip(matrices, shifts, strict=True)
        ]
        counts[int(np.argmin(distances))] += 1
    return counts


def shell_residual(sliced, data, weight, multiplicity, shells, count):
    out = np.zeros(count)
    for a, y, w, m, s in zip(sliced, data, weight, multiplicity, shells, strict=True):
        if w > 0:
            out[s] += m * abs(y - w * a) ** 2 / w
    return out


def gauss_nodes(bandwidth, longitudes):
    """Points and areas of the quadrature over the whole sphere that the package uses."""
    count = bandwidth + 1 + (bandwidth + 1) % 2
    nodes, weights = np.polynomial.legendre.leggauss(count)
    phi = np.tile(2 * np.pi * np.arange(longitudes) / longitudes, count)
    theta = np.repeat(np.arccos(nodes), longitudes)
    points = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], 1)
    return points, np.repeat(weights, longitudes) * 2 * np.pi / longitudes


def hartley_at_nodes(
    cube, radii, scale, bandwidth, longitudes, translation=(0.0, 0.0, 0.0), box=1, part=None
):
    """Coefficients [l, m >= 0, shell] of Re + Im of a Hermitian half-cube, shifted by -t.

    By quadrature over the whole sphere. ``part`` maps the complex samples to other ones first.
    """
    points, area = gauss_nodes(bandwidth, longitudes)
    samples = np.array(
        [[trilinear(cube, *(scale * r * u)) for r in radii] for u in points], dtype=complex
    )
    if part is not None:
        samples = part(samples)
    along = points @ np.asarray(translation, dtype=float)
    samples = samples * np.exp(2j * np.pi * along[:, None] * radii / box)
    values = area[:, None] * (samples.real + samples.imag)
    theta = np.arccos(np.clip(points[:, 2], -1, 1))
    phi = np.arctan2(points[:, 1], points[:, 0])
    out = np.zeros((bandwidth + 1, bandwidth + 1, len(radii)), complex)
    for l in range(bandwidth + 1):
        for m in range(l + 1):
            out[l, m] = (np.conj(sph_harm_y(l, m, theta, phi))[:, None] * values).sum(axis=0)
    return out


def phased_log_joint(particle, references, grid):
    """Log joint of all (shift, beta, gamma, alpha) by direct sums over shells and spheres."""
    radii = np.arange(1, grid.shells + 1).astype(float)
    radial = radii**2 * references.shell_precision[1 : grid.shells + 1]
    box, top = references.grid.box, grid.bandwidth
    points, area = sphere(top)
    turn = grid.sphere.longitudes
    average = hartley_at_nodes(references.padded[0], radii, 2.0, top, turn)
    power = hartley_at_nodes(
        references.padded[0], radii, 2.0, top, turn, part=lambda s: np.abs(s) ** 2
    )
    weight = hartley_at_nodes(particle.weight.cube, radii, 1.0, top, turn)
    weighted = (area[:, None] * radial).ravel()
    data = [
        synthesise(hartley_at_nodes(particle.padded, radii, 2.0, top, turn, t, box), points).ravel()
        for t in grid.translations
    ]
    left = np.array(data) * weighted
    left_energy = synthesise(weight, points).ravel() * weighted
    cells = grid.cells(np.arange(np.prod(grid.shape)))
    turns = grid.matrices(cells[:, :3], 0)
    out = np.empty((len(left), len(turns)))
    for i, turn in enumerate(turns):
        energy = left_energy @ synthesise(power, points @ turn).ravel()
        out[:, i] = left @ synthesise(average, points @ turn).ravel() - 0.5 * energy
    zeta2 = references.model.shift_variance
    square = (grid.translations**2).sum(axis=1)
    out += (-0.5 * square / zeta2 - 1.5 * np.log(2 * np.pi * zeta2))[:, None]
    step = np.pi / grid.shape[0]
    beta = (cells[:, 0] + 0.5) * step
    areas = (np.cos(beta - step / 2) - np.cos(beta + step / 2)) / (2 * grid.period**2)
    return (out + np.log(areas * grid.shift_step_voxels**3)).ravel()


def tilt_planes(images, axes, optics, premultiplied, reach):
    """Weight, noise and data of planes within half a step of each point of a half-spectrum."""
    n = images.shape[2] - 1
    signal, noise = np.zeros((2, n, n, n // 2 + 1))
    data = np.zeros((n, n, n // 2 + 1), complex)
    edge = (n - 1) // 2
    span = range(-edge, edge + 1)
    for kz, ky, kx, t in itertools.product(span, span, range(edge + 1), range(len(axes))):
        u, v, distance = axes[t] @ (kx, ky, kz)
        if abs(distance) >= 0.5 or kx**2 + ky**2 + kz**2 >= reach**2:
            continue
        o, square = optics[t], u**2 + v**2

        def phase(a, b, o=o):
            r = a**2 + b**2
            return o[0] * a**2 + o[1] * a * b + o[2] * b**2 - o[3] * r**2 + o[4]

        envelope = o[5] * np.exp(-o[6] * square)
        if square > 0:
            envelope *= np.exp(-0.5 * o[7] / (0.245 * (np.sqrt(square) / o[8]) ** -1.665 + 2.81))
        c = envelope * np.sin(phase(u, v))
        step = 1e-5
        slopes = [
            (phase(u + step, v) - phase(u - step, v)) / (2 * step),
            (phase(u, v + step) - phase(u, v - step)) / (2 * step),
        ]
        lag = min(1.0, np.hypot(*slopes) / np.pi)
        overlap = 2 / np.pi * (np.arccos(lag) - lag * np.sqrt(1 - lag**2))
        variance = 0.5 * envelope**2 * (1 - overlap * np.cos(2 * phase(u, v)))
        place = (kz % n, ky % n, kx)
        signal[place] += c**2
        noise[place] += variance if premultiplied else c**2
        data[place] += (1 if premultiplied else c) * _bilinear(images[t], 2 * u, 2 * v)
    return signal, noise, data


def _bilinear(half, x, y):
    rows = half.shape[0]

    def at(i, j):
        return half[j % rows, i] if i >= 0 else np.conj(half[-j % rows, -i])

    i, j = int(np.floor(x)), int(np.floor(y))
    return sum(
        (x - i if di else 1 - x + i) * (y - j if dj else 1 - y + j) * at(i + di, j + dj)
        for di, dj in itertools.product((0, 1), repeat=2)
    )
