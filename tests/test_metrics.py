"""FSC, alignment and pose errors against naive twins and planted answers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from phantoms import blobs, rotations
from scipy.spatial.transform import Rotation

from faml.conventions import rotation_angle_deg
from faml.metrics.align import align_volume
from faml.metrics.fsc import fourier_shell_correlation, pearson, resolution_at
from faml.metrics.labels import (
    adjusted_rand_index,
    confusion,
    misclassified,
    pose_errors,
    pose_errors_deg,
)
from faml.metrics.resample import Resampler, crop_fourier, transform_volume
from faml.particles import ParticlePoses, wedge_weight

# ------------------------------------------------------------------ FSC


def naive_fsc(a, b):
    """Loops over the full spectrum."""
    n = len(a)
    left, right = np.fft.fftn(a), np.fft.fftn(b)
    cross, first, second = (np.zeros(2 * n) for _ in range(3))
    signed = [i if 2 * i < n else i - n for i in range(n)]
    for index in itertools.product(range(n), repeat=3):
        shell = int(np.floor(np.sqrt(sum(signed[i] ** 2 for i in index)) + 0.5))
        cross[shell] += (left[index] * np.conj(right[index])).real
        first[shell] += abs(left[index]) ** 2
        second[shell] += abs(right[index]) ** 2
    return cross[: n // 2] / np.sqrt(first * second)[: n // 2]


@pytest.mark.parametrize("n", [7, 8, 13, 14])
def test_fsc_equals_loops(n):
    rng = np.random.default_rng(n)
    a, b = rng.normal(size=(2, n, n, n))
    b += 0.7 * a
    np.testing.assert_allclose(fourier_shell_correlation(a, b), naive_fsc(a, b), atol=1e-12)


def test_fsc_of_a_volume_with_itself_its_negative_and_zero():
    volume = blobs(16)
    assert fourier_shell_correlation(volume, volume) == pytest.approx(1.0)
    assert fourier_shell_correlation(volume, -3 * volume) == pytest.approx(-1.0)
    assert (fourier_shell_correlation(volume, 0 * volume) == 0).all()


def test_fsc_mask_is_multiplied_onto_both():
    rng = np.random.default_rng(0)
    a, b, mask = rng.random((3, 10, 10, 10))
    expected = fourier_shell_correlation(a * mask, b * mask)
    np.testing.assert_array_equal(fourier_shell_correlation(a, b, mask), expected)


def test_fsc_refuses_unequal_and_flat_shapes():
    cube = np.ones((8, 8, 8))
    for other in (np.ones((9, 9, 9)), np.ones((8, 8))):
        with pytest.raises(ValueError, match="cubes of one size"):
            fourier_shell_correlation(cube, other)
    with pytest.raises(ValueError, match="cubes of one size"):
        fourier_shell_correlation(cube[0], cube[0])
    with pytest.raises(ValueError, match="mask"):
        fourier_shell_correlation(cube, cube, np.ones((8, 8)))


def test_resolution_interpolates_in_frequency():
    # Crosses 0.5 halfway between shells 3 and 4 of a box of 100 Angstrom.
    fsc = np.array([0.0, 1.0, 0.9, 0.7, 0.3, 0.6])
    assert resolution_at(fsc, 0.5, 10, 10.0) == pytest.approx(100 / 3.5)
    assert resolution_at(fsc, 0.1, 10, 10.0) == pytest.approx(100 / 5)
    assert resolution_at(fsc, 1.5, 10, 10.0) == np.inf
    # A value right at the threshold has not fallen below it.
    assert resolution_at(np.array([1.0, 0.5, 0.0]), 0.5, 10, 10.0) == pytest.approx(100.0)


@pytest.mark.parametrize("curve", [[1.0], [1.0, np.nan, 0.0]])
def test_resolution_refuses_unusable_curves(curve):
    with pytest.raises(ValueError, match="without NaN"):
        resolution_at(np.array(curve), 0.5, 10, 10.0)


# ------------------------------------------------------------------ Pearson


def test_pearson_equals_numpy_inside_a_mask():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 6, 6, 6)).astype(np.float32)
    b += a
    mask = rng.random(a.shape) > 0.5
    assert pearson(a, b) == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1], abs=1e-6)
    assert pearson(a, b, mask) == pytest.approx(np.corrcoef(a[mask], b[mask])[0, 1], abs=1e-6)
    assert pearson(5 * a + 3, a) == pytest.approx(1.0)


def test_pearson_of_a_constant_is_zero_and_of_nothing_an_error():
    a = blobs(6)
    assert pearson(a, np.full_like(a, 3.0)) == 0.0
    with pytest.raises(ValueError, match="empty mask"):
        pearson(a, a, np.zeros(a.shape, dtype=bool))
    with pytest.raises(ValueError, match="one shape"):
        pearson(a, a[:1])


# ------------------------------------------------------------------ resampling


@given(rotations(), st.sampled_from([21, 24]), st.integers(0, 5))
def test_transform_equals_the_analytically_moved_phantom(rotation, n, seed):
    shift = np.random.default_rng(seed).uniform(-1.5, 1.5, 3)
    moved = transform_volume(blobs(n, seed=seed), rotation, shift)
    expected = blobs(n, rotation, shift, seed=seed)
    # Gaussians of 0.055 n voxels have 1e-3 of their peak left at the Nyquist limit of n = 21.
    assert np.abs(moved - expected).max() < 0.02 * expected.max()
    assert pearson(moved, expected) > 0.9999


@pytest.mark.parametrize("n", [12, 13])
def test_identity_and_whole_voxels_are_exact(n):
    volume = np.random.default_rng(0).normal(size=(n, n, n)).astype(np.float32)
    np.testing.assert_allclose(transform_volume(volume, np.eye(3), np.zeros(3)), volume, atol=1e-5)
    moved = transform_volume(volume, np.eye(3), np.array([2.0, 1.0, 0.0]))  # x, y, z
    np.testing.assert_allclose(moved[:, 1:, 2:], volume[:, :-1, :-2], atol=1e-5)
    assert (moved[:, 0] == 0).all()
    assert (moved[:, :, :2] == 0).all()


def test_quarter_turn_about_z_takes_x_to_y():
    n = 9
    volume = np.zeros((n, n, n), np.float32)
    volume[4, 4, 6] = 1.0  # x = +2
    turned = transform_volume(
        volume, Rotation.from_euler("z", 90, degrees=True).as_matrix(), [0] * 3
    )
    assert np.unravel_index(turned.argmax(), turned.shape) == (4, 6, 4)  # y = +2


def test_resampler_refuses_what_is_no_cube():
    with pytest.raises(ValueError, match="cubic"):
        Resampler(np.zeros((4, 4, 5)))


@pytest.mark.parametrize(("n", "edge"), [(24, 16), (25, 16), (24, 15), (25, 15), (16, 16)])
def test_cropping_keeps_centre_and_grey_values(n, edge):
    wide = blobs(n, translation=(0.05 * n, 0.0, -0.04 * n))
    small = crop_fourier(wide, edge)
    # The same Gaussians on the coarser grid; the phantom scales with its box.
    expected = blobs(edge, translation=(0.05 * edge, 0.0, -0.04 * edge))
    assert np.abs(small - expected).max() < 0.02 * expected.max()


# ------------------------------------------------------------------ alignment


@pytest.mark.parametrize(("n", "seed"), [(24, 0), (25, 1), (24, 2), (31, 3)])
def test_planted_pose_is_found_in_noise(n, seed):
    rng = np.random.default_rng(seed)
    reference = blobs(n, seed=seed)
    turn, shift = Rotation.random(rng=rng).as_matrix(), rng.uniform(-2.5, 2.5, 3)
    clean = blobs(n, turn, shift, seed=seed)
    moving = clean + 0.5 * clean.std() * rng.normal(size=clean.shape)
    found = align_volume(moving, reference, max_shift_voxels=3.0)
    # The moving map is turned back: (R, t)^-1 = (R^T, -R^T t).
    assert rotation_angle_deg(found.rotation, turn.T) < 1.0
    np.testing.assert_allclose(found.translation, -turn.T @ shift, atol=0.1)
    # Not flattered by interpolation: what the true pose gives, to the little that is fitted.
    assert found.correlation == pytest.approx(pearson(clean, moving), abs=3e-3)
    assert pearson(found.volume, reference) > 0.85


def test_noise_free_alignment_is_exact_to_interpolation():
    n = 24
    turn, shift = (
        Rotation.from_euler("ZYZ", [1.0, 2.0, 3.0]).as_matrix(),
        np.array([2.2, -1.3, 0.4]),
    )
    found = align_volume(blobs(n, turn, shift), blobs(n), max_shift_voxels=3.0)
    assert rotation_angle_deg(found.rotation, turn.T) < 0.05
    np.testing.assert_allclose(found.translation, -turn.T @ shift, atol=0.01)
    assert found.correlation > 0.9999


def test_alignment_of_a_wedge_limited_map_of_opposite_scale_and_offset():
    n = 24
    rng = np.random.default_rng(5)
    turn = Rotation.random(rng=rng).as_matrix()
    spectrum = np.fft.rfftn(np.fft.ifftshift(blobs(n, turn, seed=4)))
    observed = spectrum * wedge_weight(n, (-60.0, 60.0))
    moving = 40.0 * np.fft.fftshift(np.fft.irfftn(observed, s=(n, n, n), axes=(0, 1, 2))) + 7.0
    found = align_volume(moving, blobs(n, seed=4))
    assert rotation_angle_deg(found.rotation, turn.T) < 6.0  # the wedge pulls a little


def test_alignment_refuses_what_cannot_be_aligned():
    volume = blobs(12)
    with pytest.raises(ValueError, match="constant"):
        align_volume(np.ones_like(volume), volume)
    with pytest.raises(ValueError, match="reference map is constant"):
        align_volume(volume, np.zeros_like(volume))
    with pytest.raises(ValueError, match="NaN"):
        align_volume(np.where(volume > 1, np.nan, volume), volume)
    with pytest.raises(ValueError, match="cubes of one size"):
        align_volume(volume, blobs(13))


# ------------------------------------------------------------------ poses


def planted(count, seed, noise_deg=0.0, wrong=0):
    """Found and true poses that differ by one rigid motion, noise, and some wrong ones."""
    rng = np.random.default_rng(seed)
    truth = Rotation.random(count, rng=rng).as_matrix()
    turn, shift = Rotation.random(rng=rng).as_matrix(), rng.uniform(-2, 2, 3)
    noise = Rotation.from_rotvec(np.deg2rad(noise_deg) * rng.normal(size=(count, 3))).as_matrix()
    found = noise @ truth @ turn.T
    found[:wrong] = Rotation.random(wrong, rng=rng).as_matrix() if wrong else found[:0]
    true_shift = rng.uniform(-3, 3, (count, 3))
    found_shift = true_shift - np.einsum("nij,j->ni", found, shift)
    return found, found_shift, truth, true_shift, turn, shift


@pytest.mark.parametrize("seed", range(4))
def test_global_rotation_is_removed_exactly(seed):
    found, _, truth, _, _, _ = planted(30, seed)
    assert pose_errors_deg(found, truth).max() < 1e-4


@pytest.mark.parametrize("seed", range(4))
def test_wrong_poses_do_not_pull_the_global_rotation(seed):
    found, _, truth, _, turn, _ = planted(100, seed, noise_deg=3.0, wrong=60)
    errors = pose_errors_deg(found, truth)
    expected = rotation_angle_deg(found @ turn, truth)
    # G is the mean of 40 poses of 3 degrees per axis, and of a few wrong ones that lie near.
    assert np.abs(errors - expected).max() < 3.0 * np.sqrt(3 / 40) * 3
    assert np.abs(errors[60:].mean() - expected[60:].mean()) < 0.5


def test_averaging_beats_the_best_single_proposal():
    found, _, truth, _, turn, _ = planted(200, 0, noise_deg=5.0)
    poses = pose_errors(ParticlePoses(found, np.zeros((200, 3))), ParticlePoses(truth, found[:, 0]))
    assert rotation_angle_deg(poses.global_rotation, turn) < 1.2


def test_translations_follow_the_global_motion():
    found, found_shift, truth, true_shift, turn, shift = planted(40, 7)
    found_shift[:10] += 5.0
    errors = pose_errors(ParticlePoses(found, found_shift), ParticlePoses(truth, true_shift))
    np.testing.assert_allclose(errors.global_rotation, turn, atol=1e-6)
    np.testing.assert_allclose(errors.global_translation, shift, atol=1e-6)
    assert errors.translation_voxels[10:].max() < 1e-6
    np.testing.assert_allclose(errors.translation_voxels[:10], 5.0 * np.sqrt(3), atol=1e-6)


def test_symmetry_is_forgiven_only_when_given():
    group = Rotation.create_group("D7").as_matrix()
    found, _, truth, _, _, _ = planted(50, 3, noise_deg=1.0)
    mixed = np.random.default_rng(0).integers(len(group), size=50)
    turned = truth @ group[mixed]
    assert np.median(pose_errors_deg(found, turned)) > 20.0
    assert pose_errors_deg(found, turned, symmetry=group).max() < 6.0


def test_poses_of_one_particle_and_of_none():
    one = Rotation.random(1, rng=np.random.default_rng(0)).as_matrix()
    assert pose_errors_deg(one, np.eye(3)[None]) == pytest.approx(0.0, abs=1e-5)
    with pytest.raises(ValueError, match="N >= 1"):
        pose_errors_deg(one[:0], one[:0])
    with pytest.raises(ValueError, match="N >= 1"):
        pose_errors_deg(one, np.repeat(one, 2, axis=0))


# ------------------------------------------------------------------ classes


@given(st.integers(2, 4), st.integers(2, 4), st.integers(0, 1000))
def test_misclassified_equals_trying_every_matching(labels_count, classes_count, seed):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(labels_count), rng.integers(labels_count, size=15)])
    assigned = rng.integers(classes_count, size=len(labels))
    size = max(labels_count, classes_count)
    best = max(
        sum(matching[c] == label for c, label in zip(assigned, labels, strict=True))
        for matching in itertools.permutations(range(size))
    )
    assert misclassified(labels, assigned) == len(labels) - best


def test_confusion_counts_and_refuses():
    table = confusion(np.array([0, 0, 1, 1, 1]), np.array([2, 2, 0, 0, 2]))
    np.testing.assert_array_equal(table, [[0, 0, 2], [2, 0, 1]])
    with pytest.raises(ValueError, match="one length"):
        confusion(np.array([0, 1]), np.array([0]))
    with pytest.raises(ValueError, match="one length"):
        confusion(np.array([], dtype=int), np.array([], dtype=int))
    with pytest.raises(ValueError, match="negative"):
        confusion(np.array([0, 1]), np.array([-1, 0]))


# ------------------------------------------------------------------ classifications


def test_rand_index_of_a_published_example():
    """The 2 x 2 tables of which the index is known in closed form, and renamed classes."""
    first = np.repeat([0, 0, 1, 1], [5, 1, 1, 5])
    second = np.repeat([0, 1, 0, 1], [5, 1, 1, 5])
    # Pairs: 20 together in both, 30 in each, 66 in all: (20 - 900/66) / (30 - 900/66).
    assert adjusted_rand_index(first, second) == pytest.approx((20 - 900 / 66) / (30 - 900 / 66))
    assert adjusted_rand_index(first, 1 - first) == 1.0
    assert adjusted_rand_index(np.zeros(4, int), np.zeros(4, int)) == 1.0


def test_rand_index_of_unrelated_classes_is_zero_on_average():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    found = [adjusted_rand_index(labels, rng.permutation(labels)) for _ in range(400)]
    assert abs(np.mean(found)) < 4 * np.std(found) / 20
