"""Plans and tables: properties on random rotations, odd and even boxes, asymmetric structure."""

from __future__ import annotations

import naive
import numpy as np
import pytest
from hypothesis import given
from phantoms import blobs, boxes, rotations
from scipy.spatial.transform import Rotation

from faml.conventions import rotation_angle_deg
from faml.kernels.residuals import phase_factors
from faml.kernels.slicing import rotate_weight, slice_spectrum, turn_back
from faml.particles import wedge_weight
from faml.transforms.fourier import (
    NormalOperator,
    even_fast_length,
    fourier_grid,
    full_resolution_shell,
    half_cube,
    half_cube_adjoint,
    padded_half_cube,
    padded_weight,
    spectrum_of,
    volume_of,
)
from faml.transforms.harmonics import shell_transform
from faml.transforms.rotations import random_rotations, rotations_within
from faml.transforms.so3 import so3_correlation
from faml.transforms.tables import legendre_table, wigner_table

EPS = float(np.finfo(np.float32).eps)


def wigner_matrix(l, angles):
    """D^l of ZYZ angles from the package's d(beta) by its series at one beta."""
    alpha, beta, gamma = angles
    m = np.arange(-l, l + 1)
    d = np.array([[naive.wigner_d(l, a, b, beta) for b in m] for a in m])
    return np.exp(-1j * m[:, None] * alpha) * d * np.exp(-1j * m[None, :] * gamma)


def random_coefficients(bandwidth, shells, rng, parity=None):
    shape = (bandwidth + 1, bandwidth + 1, shells)
    l, m, _ = np.indices(shape)
    f = rng.normal(size=shape) + 1j * rng.normal(size=shape)
    f[:, 0] = f[:, 0].real
    keep = m <= l
    if parity is not None:
        keep &= l % 2 == parity
    return np.where(keep, f, 0).astype(np.complex64)


def test_wigner_table_matches_the_explicit_formula():
    bandwidth, count = 7, 9
    rows, offsets = wigner_table(bandwidth, count)
    beta = (np.arange(count) + 0.5) * np.pi / count
    for l in range(bandwidth + 1):
        for m in range(l + 1):
            for n in range(l + 1):
                row = rows[offsets[m, n] + l - max(m, n)]
                ref = [naive.wigner_d(l, m, n, b) for b in beta]
                np.testing.assert_allclose(row, ref, atol=10 * EPS)


def test_tables_match_pyshtools():
    pyshtools = pytest.importorskip("pyshtools")
    cosines, functions = legendre_table(6, 8)
    nodes, weights = pyshtools.expand.SHGLQ(7)
    np.testing.assert_allclose(cosines, nodes[:4])
    for i in range(4):
        values = pyshtools.legendre.PlmON(6, nodes[i], csphase=-1, cnorm=1) * 2 * weights[i]
        for l in range(7):
            for m in range(l + 1):
                index = l * (l + 1) // 2 + m
                assert functions[m, l, i] == pytest.approx(values[index], abs=10 * EPS)


@pytest.mark.filterwarnings("ignore:Gimbal lock")
@given(rotations(), rotations())
def test_wigner_matrices_are_a_representation(first, second):
    l = 3
    angles = [Rotation.from_matrix(r).as_euler("ZYZ") for r in (first, second, first @ second)]
    d1, d2, d12 = (wigner_matrix(l, a) for a in angles)
    np.testing.assert_allclose(d1 @ d2, d12, atol=1e-7)


@pytest.mark.filterwarnings("ignore:Gimbal lock")
@given(rotations())
def test_correlation_follows_the_rotation_of_one_function(rotation):
    """Rotating p by R turns c into c(R^-1 .): D(R1 R2) = D(R1) D(R2) on the package's own grid."""
    rng = np.random.default_rng(11)
    bandwidth = 4
    plan = so3_correlation(bandwidth)
    q = random_coefficients(bandwidth, 2, rng)
    radial = np.array([1.0, 2.0], np.float32)
    p = np.zeros_like(q)
    angles = Rotation.from_matrix(rotation).as_euler("ZYZ")
    for l in range(bandwidth + 1):
        d = wigner_matrix(l, angles)
        full = np.array(
            [q[l, m] if m >= 0 else (-1) ** m * q[l, -m].conj() for m in range(-l, l + 1)]
        )
        p[l, : l + 1] = (d @ full)[l:]
    correlation = plan.correlate(p, q, radial, even=False)
    index = (3, 5, 2)
    at = Rotation.from_euler("ZYZ", plan.angles(np.array([index], float))[0]).as_matrix()
    ref = naive.so3_correlation(q, q, radial, rotation.T @ at)
    assert correlation[index] == pytest.approx(
        ref, abs=1e3 * EPS * float(np.abs(correlation).max())
    )


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("bandwidth", [5, 8])
def test_so3_correlation_equals_direct_summation(bandwidth, even):
    rng = np.random.default_rng(12)
    plan = so3_correlation(bandwidth)
    p, q = (random_coefficients(bandwidth, 3, rng, 0 if even else None) for _ in range(2))
    radial = np.array([1.0, 4.0, 9.0], np.float32)
    correlation = plan.correlate(p, q, radial, even=even)
    for flat in rng.integers(0, correlation.size, 12):
        index = np.unravel_index(flat, plan.shape)
        r = Rotation.from_euler("ZYZ", plan.angles(np.array([index], float))[0]).as_matrix()
        ref = naive.so3_correlation(p, q, radial, r)
        # L^2 float32 products are summed per rotation.
        assert correlation[index] == pytest.approx(
            ref, abs=20 * EPS * bandwidth * float(np.abs(correlation).max())
        )


@pytest.mark.parametrize("bandwidth", [4, 9, 16])
def test_spherical_harmonic_round_trip(bandwidth):
    rng = np.random.default_rng(13)
    plan = shell_transform(bandwidth)
    even = random_coefficients(bandwidth, 2, rng, 0)
    odd = random_coefficients(bandwidth, 2, rng, 1)
    points = plan.directions.astype(float)
    samples = naive.synthesise(even, points) + 1j * naive.synthesise(odd, points)
    found = plan.analyse_hermitian(samples.astype(np.complex64))
    np.testing.assert_allclose(found, even + odd, atol=30 * EPS * (bandwidth + 1))
    np.testing.assert_allclose(
        plan.analyse_even(samples.real.astype(np.float32)), even, atol=30 * EPS * (bandwidth + 1)
    )


@given(boxes())
def test_parseval(n):
    volume = np.random.default_rng(n).normal(size=(n, n, n)).astype(np.float32)
    spectrum = spectrum_of(volume)
    kx = np.arange(n // 2 + 1)
    double = np.where((kx == 0) | (2 * kx == n), 1.0, 2.0)
    power = float((np.abs(spectrum) ** 2 * double).sum())
    assert power == pytest.approx(float((volume.astype(float) ** 2).sum()), rel=1e-4)
    np.testing.assert_allclose(volume_of(spectrum, n), volume, atol=1e-5)


@pytest.mark.parametrize("n", [9, 10, 15, 16])
def test_grid_points_stand_for_the_whole_sphere(n):
    last = full_resolution_shell(n)
    grid = fourier_grid(n, last - 1, last)
    k = np.fft.fftfreq(n, 1 / n)
    radius = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + k**2)
    shells = np.floor(radius + 0.5).astype(int)
    counts = np.bincount(shells.ravel())[: last + 1]
    np.testing.assert_allclose(grid.shell_counts, counts)
    assert grid.multiplicity[: grid.align_count].sum() == counts[1:last].sum()
    assert (grid.shells[: grid.align_count] > 0).all()
    assert (grid.shells[: grid.align_count] <= last - 1).all()


@pytest.mark.parametrize("n", [9, 10])
def test_half_cube_reaches_one_step_beyond_the_last_shell(n):
    """Weights are interpolated there; an odd box has no component to offer and repeats its last."""
    rng = np.random.default_rng(n)
    spectrum = rng.normal(size=(n, n, n // 2 + 1)).astype(np.float32)
    reach = full_resolution_shell(n) + 1
    cube = half_cube(spectrum, reach)
    assert cube.shape == (2 * reach + 1, 2 * reach + 1, reach + 1)
    last = n // 2
    for k in (-reach, -2, 0, 3, reach):
        for kx in (0, 1, reach):
            nearest = spectrum[np.clip(k, -last, last), 1, min(kx, last)]
            assert cube[reach + k, reach + 1, kx] == nearest


def test_grid_refuses_shells_beyond_nyquist():
    with pytest.raises(ValueError, match="align_shell"):
        fourier_grid(16, 4, 8)


@given(rotations(), boxes())
def test_slice_of_a_rotated_volume_is_the_rotated_slice(rotation, n):
    last = full_resolution_shell(n)
    grid = fourier_grid(n, last - 2, last)
    shift = np.array([0.6, -0.9, 0.3])
    sliced = np.empty(len(grid.points), np.complex64)
    slice_spectrum(
        padded_half_cube(spectrum_of(blobs(n)), grid), grid.points, rotation, 2.0, sliced
    )
    phases = np.empty_like(sliced)
    phase_factors(grid.points, shift, n, phases)
    truth = grid.take(spectrum_of(blobs(n, rotation, shift)))
    # Trilinear interpolation at twofold padding loses about (pi x / 2n)^2 / 3 per axis at radius x.
    # The last shells are left out: there a neighbour beyond the sphere is missing.
    inner = slice(0, grid.align_count)
    error = np.linalg.norm((sliced * phases - truth)[inner]) / np.linalg.norm(truth[inner])
    assert error < 0.03


@given(rotations(), boxes())
def test_back_turn_is_the_adjoint_of_the_padded_slice(rotation, n):
    rng = np.random.default_rng(14)
    last = full_resolution_shell(n)
    grid = fourier_grid(n, last - 1, last)
    a, v = (grid.take(spectrum_of(rng.normal(size=(n, n, n)).astype(np.float32))) for _ in range(2))
    cube = padded_half_cube(grid.put(a), grid)
    sliced = np.empty_like(a)
    slice_spectrum(cube, grid.points, rotation, 2.0, sliced)
    accumulator = np.zeros(cube.shape, np.complex128)
    half = (0.5 * grid.multiplicity).astype(np.float32)
    turn_back(v, grid.points, half, rotation, 2.0, accumulator)
    back = half_cube_adjoint(accumulator, grid)
    left = float((grid.multiplicity * (sliced.conj() * v).real).sum())
    right = float((grid.multiplicity * (a.conj() * back).real).sum())
    scale = float(np.linalg.norm(sliced) * np.linalg.norm(v))
    assert left == pytest.approx(right, abs=20 * EPS * scale)


@pytest.mark.filterwarnings("ignore:Gimbal lock")
@given(rotations())
def test_planted_rotation_is_found_within_the_grid_spacing(rotation):
    n, bandwidth = 24, 12
    grid = fourier_grid(n, 6, 8)
    plan, so3 = shell_transform(bandwidth), so3_correlation(bandwidth)
    radii = np.arange(1, 7, dtype=np.float32)

    def samples(volume):
        return plan.sample(padded_half_cube(spectrum_of(volume), grid), radii, 2.0)

    fixed, turned = samples(blobs(n)), samples(blobs(n, rotation))
    for even in (True, False):
        if even:
            p, q = plan.analyse_even(np.abs(turned)), plan.analyse_even(np.abs(fixed))
        else:
            p, q = plan.analyse_hermitian(turned), plan.analyse_hermitian(fixed)
        score = so3.correlate(p, q, radii**2, even=even)
        peaks, values = so3.peaks(score, 8, 0.4)
        assert (np.diff(values) <= 0).all()
        angles = rotation_angle_deg(peaks.as_matrix(), rotation)
        # Amplitudes cannot tell a structure from its inverse, so a twin may win narrowly.
        assert (angles.min() if even else angles[0]) < np.rad2deg(so3.spacing_rad)


@pytest.mark.parametrize("score", [-np.inf, 0.0])
def test_equal_scores_have_no_peaks(score):
    so3 = so3_correlation(4)
    peaks, values = so3.peaks(np.full(so3.shape, score, np.float32), 5, 0.1)
    assert len(peaks) == len(values) == 0


@pytest.mark.parametrize("n", [16, 17])
def test_normal_operator_matches_direct_sums(n):
    """Measured with W at exact rotated frequencies and turned back, by sums over all voxels."""
    rng = np.random.default_rng(21)
    grid = fourier_grid(n, 5, 6)
    near = rotations_within(Rotation.identity(), 0.3, 4, rng)  # wedges that hide the same
    turns = Rotation.concatenate([near, Rotation.random(3, rng=rng)]).as_matrix()
    wedge = grid.take(wedge_weight(n, (-45, 65)).astype(np.complex64)).real
    weight = (wedge * rng.uniform(0.5, 1.5, len(wedge))).astype(np.float32)
    cube, gathered = padded_weight(weight, grid), np.zeros(len(grid.weight_points))
    weight[grid.shells == 0] = 0.0  # the mean of a box is no datum
    volume = blobs(n, count=6, spread=0.1, sigma=0.07)
    voxels = np.stack([a.ravel() for a in np.indices((n, n, n))[::-1] - n // 2]).astype(float)
    exact = np.zeros(n**3)
    for turn in turns:
        rotate_weight(cube, grid.weight_points, turn, 1.0, gathered)
        waves = np.exp(2j * np.pi / n * (grid.points.astype(float) @ turn) @ voxels)
        exact += ((grid.multiplicity * weight * (waves.conj() @ volume.ravel())) @ waves).real
    operator = NormalOperator(gathered, grid)
    exact = grid.take(spectrum_of((exact / n**3).reshape(n, n, n).astype(np.float32)))
    exact = operator.confine(exact.astype(complex))
    found = operator(grid.take(spectrum_of(volume)).astype(complex))
    # Trilinear interpolation of W on the twofold padded grid.
    assert np.linalg.norm(found - exact) < 0.03 * np.linalg.norm(exact)


@pytest.mark.parametrize("n", [16, 17])
def test_normal_operator_is_symmetric(n):
    rng = np.random.default_rng(22)
    grid = fourier_grid(n, 5, 6)
    cube = padded_weight(grid.take(wedge_weight(n, (-45, 65)).astype(np.complex64)).real, grid)
    gathered = np.zeros(len(grid.weight_points))
    rotate_weight(cube, grid.weight_points, random_rotations(1, rng).as_matrix()[0], 1.0, gathered)
    operator = NormalOperator(gathered, grid)
    a, b = (
        grid.take(spectrum_of(v)).astype(complex)
        for v in rng.normal(size=(2, n, n, n)).astype(np.float32)
    )

    def inner(left, right):
        return float((grid.multiplicity * (left.conj() * right).real).sum())

    assert inner(a, operator(b)) == pytest.approx(inner(operator(a), b), rel=1e-6)
    assert inner(a, operator(a)) > 0


def test_fast_lengths():
    assert [even_fast_length(k) for k in (7, 49, 65, 66, 127)] == [8, 50, 72, 72, 128]


def test_euler_measure_crowds_the_poles_and_haar_does_not():
    rng = np.random.default_rng(15)
    tilt = {
        measure: random_rotations(4000, rng, measure).as_matrix()[:, 2, 2]
        for measure in ("haar", "euler")
    }
    # cos(beta) is uniform for Haar: variance 1/3; for uniform beta it is 1/2.
    assert tilt["haar"].var() == pytest.approx(1 / 3, abs=0.02)
    assert tilt["euler"].var() == pytest.approx(1 / 2, abs=0.02)


def test_neighbourhood_keeps_its_radius():
    centre = Rotation.random(rng=3)
    near = rotations_within(centre, 0.3, 500, np.random.default_rng(16))
    angles = (centre.inv() * near).magnitude()
    assert angles.max() <= 0.3
    assert np.median(angles) == pytest.approx(0.3 * 0.5 ** (1 / 3), abs=0.02)
