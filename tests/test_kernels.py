"""Every kernel against its naive twin."""

from __future__ import annotations

import itertools

import naive
import numpy as np
import pytest
import scipy.fft
from hypothesis import given
from phantoms import rotations
from scipy.spatial.transform import Rotation

from faml.kernels.harmonics import sample_shells
from faml.kernels.peaks import local_maxima, refine_peaks, suppress_near
from faml.kernels.residuals import phase_factors, pose_terms, shell_residual
from faml.kernels.shifts import (
    SearchComponents,
    best_shifts,
    correlation_spectra,
    refine_shift,
    shift_derivatives,
    shift_peak,
)
from faml.kernels.slicing import rotate_weight, slice_spectrum, turn_back
from faml.kernels.voronoi import voronoi_counts
from faml.transforms.fourier import fourier_grid, half_cube, padded_weight, spectrum_of

EPS = float(np.finfo(np.float32).eps)


def random_cube(q, rng):
    """Half-cube of a real volume: Hermitian on the plane kx = 0."""
    n = 2 * q + 2
    return half_cube(spectrum_of(rng.normal(size=(n, n, n)).astype(np.float32)), q)


@given(rotations())
def test_slice_matches_its_twin(rotation):
    rng = np.random.default_rng(1)
    grid = fourier_grid(13, 3, 4)
    cube = random_cube(grid.padded_reach, rng)
    out = np.empty(len(grid.points), np.complex64)
    slice_spectrum(cube, grid.points, rotation, 2.0, out)
    ref = naive.slice_spectrum(cube, grid.points, rotation, 2.0)
    # Coordinates are float32: an error of eps times the reach moves the sample by as much.
    np.testing.assert_allclose(out, ref, atol=20 * EPS * grid.padded_reach * np.abs(cube).max())


def test_shell_samples_match_their_twin():
    rng = np.random.default_rng(12)
    cube = random_cube(7, rng)
    directions = rng.normal(size=(40, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    directions = np.concatenate([directions, np.eye(3), -np.eye(3)]).astype(np.float32)
    radii = np.array([1.0, 1.5, 3.0], np.float32)
    out = np.empty((len(directions), 3), np.complex64)
    sample_shells(cube, directions, radii, 2.0, out)
    ref = naive.sample_shells(cube, directions, radii, 2.0)
    np.testing.assert_allclose(out, ref, atol=20 * EPS * 7 * np.abs(cube).max())


@given(rotations())
def test_rotated_weight_matches_its_twin(rotation):
    rng = np.random.default_rng(2)
    grid = fourier_grid(13, 3, 4)
    weight = rng.uniform(0.0, 2.0, len(grid.points)).astype(np.float32)
    cube = padded_weight(weight, grid)
    points = grid.weight_points[::7]
    out = rng.normal(size=len(points))
    before = out.copy()
    rotate_weight(cube, points, rotation, 0.7, out)
    ref = before + 0.7 * naive.rotate_weight(cube, points, rotation)
    np.testing.assert_allclose(out, ref, atol=50 * EPS * grid.padded_reach)


@given(rotations())
def test_turn_back_is_the_transpose_of_the_slice(rotation):
    rng = np.random.default_rng(3)
    grid = fourier_grid(12, 3, 4)
    cube = random_cube(grid.padded_reach, rng)
    sliced = np.empty(len(grid.points), np.complex64)
    slice_spectrum(cube, grid.points, rotation, 2.0, sliced)
    values = (rng.normal(size=sliced.shape) + 1j * rng.normal(size=sliced.shape)).astype(
        np.complex64
    )
    accumulator = np.zeros_like(cube)
    weights = rng.uniform(0.5, 2.0, len(values)).astype(np.float32)
    turn_back(values, grid.points, weights, rotation, 2.0, accumulator)
    left = np.sum(weights * (sliced.conj() * values).real)
    right = np.sum((cube.conj() * accumulator).real)
    assert left == pytest.approx(right, abs=1e3 * EPS * float(np.abs(cube).max()))


def test_phases_match_their_twin():
    grid = fourier_grid(15, 4, 6)
    shift = np.array([1.3, -2.7, 0.4])
    out = np.empty(len(grid.points), np.complex64)
    phase_factors(grid.points, shift, 15, out)
    np.testing.assert_allclose(out, naive.phase_factors(grid.points, shift, 15), atol=10 * EPS)


@pytest.mark.parametrize("n", [11, 12])
def test_terms_of_half_space_points_equal_the_full_sphere(n):
    rng = np.random.default_rng(4)
    grid = fourier_grid(n, 4, (n - 1) // 2)
    model, data = rng.normal(size=(2, n, n, n)).astype(np.float32)
    k = np.fft.fftfreq(n, 1 / n)
    radius = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + k**2)
    weight_full = 1.0 + 0.5 * np.cos(radius)
    precision = rng.uniform(0.5, 2.0, n)
    count = grid.align_count
    weight = grid.take(weight_full[:, :, : n // 2 + 1].astype(np.complex64)).real.copy()
    cross, energy = pose_terms(
        grid.take(spectrum_of(model))[:count],
        grid.take(spectrum_of(data))[:count],
        weight[:count],
        grid.multiplicity[:count],
        precision[grid.shells[:count]].astype(np.float32),
    )
    ref = naive.pose_terms_full_sphere(model, data, weight_full, precision, 4)
    assert cross == pytest.approx(ref[0], rel=1e-4, abs=1e-3)
    assert energy == pytest.approx(ref[1], rel=1e-5)


def test_shell_residual_matches_its_twin():
    rng = np.random.default_rng(5)
    grid = fourier_grid(10, 3, 4)
    size = len(grid.points)
    sliced, data = (rng.normal(size=(2, size)) + 1j * rng.normal(size=(2, size))).astype(
        np.complex64
    )
    weight = np.where(rng.random(size) < 0.3, 0.0, rng.uniform(0.1, 3.0, size)).astype(np.float32)
    out = np.zeros(5)
    shell_residual(sliced, data, weight, grid.multiplicity, grid.shells, 1.0, out)
    ref = naive.shell_residual(sliced, data, weight, grid.multiplicity, grid.shells, 5)
    np.testing.assert_allclose(out, ref, rtol=1e-4)


def test_local_maxima_match_their_twin_also_across_the_poles():
    rng = np.random.default_rng(6)
    score = rng.normal(size=(4, 8, 8)).astype(np.float32)
    score[0, 2, 3] = 9.0  # at a pole, whose neighbours lie across it
    score[3, 5, 1] = 8.0
    found = np.empty(score.size, np.int64)
    count = local_maxima(score, found)
    assert sorted(found[:count]) == naive.local_maxima(score)


def test_a_plateau_counts_once_and_an_empty_score_not_at_all():
    score = np.zeros((3, 6, 6), np.float32)
    score[1, 2, 2] = score[1, 2, 3] = 1.0
    found = np.empty(score.size, np.int64)
    count = local_maxima(score, found)
    assert (1 * 6 + 2) * 6 + 2 in found[:count]
    assert (1 * 6 + 2) * 6 + 3 not in found[:count]
    assert local_maxima(np.full((3, 6, 6), -np.inf, np.float32), found) == 0


def test_equal_maxima_across_a_pole_are_not_both_lost():
    score = np.zeros((4, 8, 8), np.float32)
    score[0, 1, 2] = score[0, 5, 6] = 5.0  # neighbours through beta = 0
    found = np.empty(score.size, np.int64)
    count = local_maxima(score, found)
    assert [f for f in found[:count] if score.reshape(-1)[f] == 5.0] == [1 * 8 + 2]


def test_peak_refinement_finds_the_vertex_of_a_parabola():
    b, g, a = np.indices((6, 8, 8)).astype(np.float32)
    score = -((g - 3.2) ** 2) - (a - 4.3) ** 2 - (b - 2.1) ** 2
    out = np.empty((1, 3))
    refine_peaks(score, np.array([(2 * 8 + 3) * 8 + 4]), out)
    np.testing.assert_allclose(out, [[2.1, 3.2, 4.3]], atol=1e-4)


def test_suppression_matches_its_twin():
    matrices = Rotation.random(60, rng=7)
    kept = np.empty(10, np.int64)
    count = suppress_near(matrices.as_quat(), 0.8, 10, kept)
    assert list(kept[:count]) == naive.suppress(matrices.as_matrix(), 0.8, 10)


def test_shift_peak_stays_within_the_radius():
    rng = np.random.default_rng(8)
    correlation = rng.normal(size=(12, 12, 12)).astype(np.float32)
    correlation[-2 % 12, 1, 3] = 10.0  # outside a radius of 3 steps, |t|^2 = 14
    correlation[1, -2 % 12, 2] = 9.0  # |t| = 3
    out = np.empty(3)
    assert shift_peak(correlation, 1.5, 4.5, out) == pytest.approx(9.0)
    assert np.linalg.norm(out) <= 4.5 + 1e-9
    np.testing.assert_allclose(out, np.array([2, -2, 1]) * 1.5, atol=0.8)


def test_shift_derivatives_match_finite_differences():
    rng = np.random.default_rng(9)
    grid = fourier_grid(14, 5, 5)
    count = grid.align_count
    product = (rng.normal(size=count) + 1j * rng.normal(size=count)).astype(np.complex64)
    points, t = grid.points[:count], np.array([0.4, -1.1, 0.8])
    gradient, hessian = np.empty(3), np.empty((3, 3))
    shift_derivatives(product, points, 14, t, gradient, hessian)

    def value(s):
        return float((product * naive.phase_factors(points, -s, 14)).real.sum())

    h = 1e-3
    steps = np.eye(3) * h
    numeric = [(value(t + s) - value(t - s)) / (2 * h) for s in steps]
    np.testing.assert_allclose(gradient, numeric, rtol=1e-3, atol=1e-2)
    second = [
        [
            (value(t + a + b) - value(t + a - b) - value(t - a + b) + value(t - a - b))
            / (4 * h * h)
            for b in steps
        ]
        for a in steps
    ]
    np.testing.assert_allclose(hessian, second, rtol=1e-2, atol=0.5)


def test_newton_finds_a_planted_shift():
    grid = fourier_grid(16, 6, 6)
    count = grid.align_count
    truth = np.array([0.37, -1.21, 0.83])
    points = grid.points[:count]
    product = naive.phase_factors(points, truth, 16).astype(np.complex64)
    found = np.round(truth)
    refine_shift(product, points, 16, 4.0, 4, found)
    np.testing.assert_allclose(found, truth, atol=1e-3)


@pytest.mark.parametrize("n", [14, 15])
def test_searched_shifts_match_their_twin(n):
    """Value at the shift found, energy, and no grid shift within the radius that is better."""
    rng = np.random.default_rng(13)
    grid = fourier_grid(n, 4, 5)
    count, edge = grid.align_count, grid.search_edge
    points, multiplicity = grid.points[:count], grid.multiplicity[:count]
    cube = random_cube(grid.padded_reach, rng)
    turns = Rotation.random(3, rng=14).as_matrix()
    data = (rng.normal(size=count) + 1j * rng.normal(size=count)).astype(np.complex64)
    weight = rng.uniform(0.0, 2.0, count).astype(np.float32)
    precision = rng.uniform(0.5, 2.0, count).astype(np.float32)
    components = SearchComponents(points, grid.search_indices, multiplicity)
    spectra = np.zeros((3, edge, edge, edge // 2 + 1), np.complex64)
    energies, cross, moved = np.empty(3), np.empty(3), np.empty((3, 3))
    correlation_spectra(
        cube, turns, 2.0, components, data * precision, multiplicity * precision * weight,
        spectra, energies,
    )  # fmt: skip
    correlations = scipy.fft.irfftn(spectra, s=(edge,) * 3, axes=(1, 2, 3), norm="forward")
    best_shifts(correlations, spectra, components, n, 3.0, 2, moved, cross)
    step = n / edge
    axis = step * np.arange(-3, 4)
    trials = [t for t in itertools.product(axis, repeat=3) if np.linalg.norm(t) <= 3.0]
    for turn, energy, value, shift in zip(turns, energies, cross, moved, strict=True):
        sliced = naive.slice_spectrum(cube, points, turn, 2.0)
        power = multiplicity * precision * weight * np.abs(sliced) ** 2
        assert energy == pytest.approx(power.sum(), rel=1e-4)

        def at(t, sliced=sliced):
            return naive.shift_correlation(sliced, data, multiplicity, precision, points, n, t)

        assert np.linalg.norm(shift) <= 3.0 + 1e-9
        assert value == pytest.approx(at(shift), rel=1e-3)
        assert value >= max(at(np.array(t)) for t in trials) * (1 - 1e-3)


def test_voronoi_counts_match_brute_force():
    rng = np.random.default_rng(10)
    samples, candidates = Rotation.random(300, rng=1), Rotation.random(9, rng=2)
    sample_shifts, shifts = rng.uniform(-2, 2, (300, 3)), rng.uniform(-2, 2, (9, 3))
    counts = np.empty(9, np.int64)
    voronoi_counts(
        np.ascontiguousarray(samples.as_quat().T, dtype=np.float32),
        np.ascontiguousarray(sample_shifts.T, dtype=np.float32),
        candidates.as_quat().astype(np.float32),
        shifts.astype(np.float32),
        1.0,
        counts,
    )
    ref = naive.voronoi_counts(
        samples.as_matrix(), sample_shifts, candidates.as_matrix(), shifts, 1.0
    )
    assert counts.sum() == 300
    # A sample within rounding of a border may fall on either side.
    assert np.abs(counts - ref).sum() <= 2
