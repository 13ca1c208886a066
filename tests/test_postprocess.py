"""From half-maps to a final map: corrected FSC, sharpening, local resolution, masks."""

from __future__ import annotations

import numpy as np
import pytest
from phantoms import blobs

from faml.metrics.fsc import corrected_fsc, fourier_shell_correlation, ssnr_of_fsc
from faml.metrics.postprocess import guinier_b_factor, local_resolution, postprocess
from faml.transforms.fourier import shell_indices
from faml.transforms.masks import automatic_mask, otsu_threshold, soft_sphere


def halves_of(truth, noise, seed=0):
    rng = np.random.default_rng(seed)
    return [truth + rng.normal(scale=noise, size=truth.shape) for _ in range(2)]


def low_passed(n, seed, cut):
    """White noise up to a shell."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfftn(rng.normal(size=(n, n, n)))
    spectrum[shell_indices(n) > cut] = 0
    volume = np.fft.irfftn(spectrum, s=(n, n, n), axes=(0, 1, 2))
    return volume / volume.std()


def test_ssnr_is_that_of_both_halves():
    """F = s / (s + 1) for a half of SSNR s; the average has twice that."""
    np.testing.assert_allclose(ssnr_of_fsc([0.5, 0.0, -0.3, 0.9]), [2.0, 0.0, 0.0, 18.0])
    assert np.isfinite(ssnr_of_fsc(1.0))


def test_a_tight_mask_makes_noise_agree_and_is_corrected():
    n = 48
    mask = np.zeros((n, n, n))
    mask[14:34, 14:36, 16:33] = 1.0
    # Common signal at low shells only, noise beyond.
    first, second = halves_of(2.0 * low_passed(n, 1, 5), 1.0)
    offset = 6.0  # an offset times a sharp mask is the mask, in both
    curves = corrected_fsc(first + offset, second + offset, mask, seed=3)
    beyond = slice(curves.first_randomised + 3, n // 2)
    assert curves.masked[beyond].mean() > 0.25
    assert curves.randomised[beyond].mean() > 0.2
    assert abs(curves.corrected[beyond].mean()) < 0.15
    assert np.abs(curves.unmasked[beyond]).mean() < 0.1
    np.testing.assert_array_equal(curves.corrected[:3], curves.masked[:3])


def test_a_soft_mask_changes_little_where_there_is_signal():
    n = 32
    truth = blobs(n)
    first, second = halves_of(truth, 0.05)
    curves = corrected_fsc(first, second, soft_sphere(n, 9.0, 4.0))
    assert curves.corrected[1:6].min() > 0.95
    assert (curves.masked[3:8] >= curves.unmasked[3:8] - 0.02).all()


def test_the_final_map_is_cut_where_the_halves_stop_agreeing():
    n = 32
    truth = low_passed(n, 2, 7)
    first, second = halves_of(truth, 0.5)
    done = postprocess(first, second, np.ones((n, n, n)), 5.0)
    assert 32 * 5.0 / 9 < done.resolution_angstrom < 32 * 5.0 / 6
    spectrum = np.abs(np.fft.rfftn(done.volume))
    assert spectrum[shell_indices(n) >= 10].max() < 1e-2 * spectrum.max()
    assert done.b_factor == 0.0
    assert "not sharpened" in done.b_factor_reason
    mean = 0.5 * (first + second)
    assert (
        np.corrcoef(done.volume.ravel(), truth.ravel())[0, 1]
        > (np.corrcoef(mean.ravel(), truth.ravel())[0, 1])
    )


@pytest.mark.parametrize("b_factor", [-150.0, -400.0])
def test_the_b_factor_of_a_blurred_map_is_measured(b_factor):
    n, voxel = 64, 2.0
    rng = np.random.default_rng(1)
    spectrum = np.fft.rfftn(rng.normal(size=(n, n, n)))
    radius = shell_indices(n) / (n * voxel)
    blurred = spectrum * np.exp(0.25 * b_factor * radius**2)
    found, reason = guinier_b_factor(blurred, n, voxel, 5.0)
    assert found == pytest.approx(b_factor, rel=0.05)
    assert "Guinier" in reason
    assert guinier_b_factor(blurred, n, voxel, 14.0)[0] == 0.0
    done = postprocess(
        np.fft.irfftn(blurred), np.fft.irfftn(blurred), np.ones((n, n, n)), voxel,
        b_factor=b_factor,
    )  # fmt: skip
    np.testing.assert_allclose(
        np.fft.rfftn(done.volume)[3, 5, 7] / spectrum[3, 5, 7], 1.0, atol=0.05
    )


def test_local_resolution_tells_a_sharp_half_from_a_blurred_one():
    n, voxel = 48, 4.0
    fine, coarse = low_passed(n, 3, 20), low_passed(n, 4, 6)
    z = np.arange(n)[:, None, None]
    side = 1.0 / (1.0 + np.exp(-(z - n / 2) / 1.5))
    first, second = halves_of(fine * side + coarse * (1 - side), 0.3)
    found = local_resolution(first, second, voxel)
    assert found.shape == (n, n, n)
    assert np.isfinite(found).all()
    sharp, blurred = np.median(found[34:42]), np.median(found[10:15])
    assert sharp < 11.5  # shell 20 is 9.6 Angstrom
    # Shell 6 is 32; windows as wide as that see some of the sharp half from everywhere here.
    assert 17.0 < blurred < 40.0
    noise = np.random.default_rng(0).normal(size=(2, n, n, n))
    assert np.percentile(local_resolution(*noise, voxel), 1) > 80.0


def test_maps_without_anything_in_common_have_no_resolution():
    n = 32
    rng = np.random.default_rng(5)
    first, second = rng.normal(size=(2, n, n, n))
    done = postprocess(first, second, soft_sphere(n, 10.0, 3.0), 5.0)
    assert done.resolution_angstrom > 32 * 5.0 / 3
    assert np.isfinite(done.volume).all()
    constant = postprocess(np.zeros((n, n, n)), np.zeros((n, n, n)), np.ones((n, n, n)), 5.0)
    assert not constant.volume.any()


def test_otsu_separates_two_groups():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0.0, 0.1, 900), rng.normal(2.0, 0.1, 100)])
    assert 0.3 < otsu_threshold(values) < 1.8
    with pytest.raises(ValueError, match="constant or NaN"):
        otsu_threshold(np.ones(5))
    with pytest.raises(ValueError, match="constant or NaN"):
        otsu_threshold(np.array([0.0, np.nan]))


@pytest.mark.parametrize("n", [24, 25])
def test_an_automatic_mask_is_a_soft_outline(n):
    volume = blobs(n, seed=3, count=10, spread=0.2)
    volume[2, 2, 2] = volume.max()  # a speck
    mask = automatic_mask(volume, extend_voxels=1.0, edge_voxels=2.0)
    assert mask.dtype == np.float32
    assert mask.min() == 0.0
    assert mask.max() == 1.0
    assert mask[volume > 0.7 * volume.max()].min() == 0.0  # the speck is left out
    centre = volume.copy()
    centre[2, 2, 2] = 0
    assert mask[centre > 0.6 * volume.max()].min() == 1.0
    assert ((mask > 0) & (mask < 1)).any()
    assert mask.mean() < 0.5
    assert automatic_mask(np.zeros((n, n, n))).min() == 1.0
    same = fourier_shell_correlation(volume * mask, centre)
    assert same[1:5].min() > 0.95
