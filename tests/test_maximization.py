"""The M-step: averages, noise and priors; what it must not be misled by."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from models import log_prior_of_averages, particle_at, soft_weight, true_model
from phantoms import DETAILED, blobs, simulated
from scipy.spatial.transform import Rotation

from faml.config import EmConfig, build_config
from faml.em.expectation import accumulate, posterior
from faml.em.loop import EmRun
from faml.em.maximization import finish_volume, maximise
from faml.em.statistics import Statistics
from faml.metrics.fsc import pearson
from faml.model import ZETA2_FLOOR
from faml.particles import ParticleSet, wedge_weight
from faml.particles.view import ParticleViews, Pose
from faml.references import References
from faml.strategies.base import PoseSupport
from faml.transforms.fourier import fourier_grid
from faml.transforms.masks import soft_sphere
from faml.transforms.rotations import rotations_within

EPS = float(np.finfo(np.float32).eps)
QUICK = {"search_shell": 5, "max_candidates": 12, "voronoi_samples": 500, "max_shift_voxels": 3.0}


def penalised_objective(views, references, supports, model, grid):
    """Log posterior of data and averages at fixed sigma and tau, up to a constant."""
    value = 0.0
    for i, support in enumerate(supports):
        particle = views.particle(i, Pose(0, np.eye(3), np.zeros(3)))
        value += posterior(particle, references, support)[1]
    return value + log_prior_of_averages(model, grid)


@pytest.mark.parametrize("kind", ["wedge", "soft"])
def test_penalised_objective_never_falls_at_fixed_support(kind):
    """EM is monotone here up to interpolation.

    Slices are trilinear while the M-step solves for exact ones: a fall of up to 5e-4 of the rise
    of the first step is allowed, no more.
    """
    n = 18
    weight = wedge_weight(n, (-50, 70)) if kind == "wedge" else soft_weight(n)
    particles, _ = simulated(n=n, count=10, noise=1.0, weight=weight, seed=6)
    grid = fourier_grid(n, 6, 6)
    rng = np.random.default_rng(2)
    supports = []
    for i in range(10):
        near = rotations_within(Rotation.from_matrix(particles.poses.rotations[i]), 0.5, 4, rng)
        turns = Rotation.concatenate([near, Rotation.random(3, rng=rng)]).as_matrix()
        moves = particles.poses.translations[i] + rng.normal(scale=0.4, size=(7, 3))
        supports.append(PoseSupport(np.zeros(7, np.int64), turns, moves, np.zeros(7)))
    views = ParticleViews(particles, grid)
    model = replace(true_model(particles, 1.0), volumes=blobs(n, seed=9)[None])
    config = EmConfig()
    values = []
    for _ in range(7):
        references = References(model, grid, 8)
        values.append(penalised_objective(views, references, supports, model, grid))
        sums = Statistics.zeros(1, grid, total=True)
        for i, support in enumerate(supports):
            particle = views.particle(i, Pose(0, np.eye(3), np.zeros(3)))
            accumulate(
                particle, references, support, posterior(particle, references, support)[0], sums
            )
        step = maximise(
            sums, model, grid, config, weight_maximum=float(weight.max()), mask=None,
            fixed_power=model.signal_power, fixed_noise=model.noise_variance,
        )  # fmt: skip
        model = replace(model, volumes=step.model.volumes)
    steps = np.diff(values)
    assert steps[0] > 0
    assert (steps > -5e-4 * steps[0]).all()


def in_cone(n, degrees):
    """Components within an angle of the z axis, and their shells."""
    k = np.stack(np.meshgrid(*[np.fft.fftfreq(n, 1 / n)] * 3, indexing="ij"))
    radius = np.sqrt((k**2).sum(axis=0))
    cone = np.abs(k[0]) >= np.cos(np.deg2rad(degrees)) * np.maximum(radius, 1e-9)
    return cone, np.floor(radius + 0.5)


@pytest.mark.parametrize("n", [23, 24])
def test_average_is_right_where_few_wedges_let_see(n):
    """Dividing by the diagonal weight alone is wrong by much more than the signal itself here.

    Strong components leaked into the hidden directions, the search preferred poses that hide them,
    and wedges gathered around one axis until a class was lost.
    """
    rng = np.random.default_rng(4)
    turns = Rotation.random(40, rng=rng).as_matrix()
    turns[:32] = rotations_within(Rotation.identity(), 0.3, 32, rng).as_matrix()
    weight = wedge_weight(n, (-50, 55))
    phantom = {"count": 10, "spread": 0.12, "sigma": 0.045}
    particles, _ = simulated(
        n=n, count=40, noise=0.01, weight=weight, seed=5, turns=turns, phantom=phantom
    )
    grid = fourier_grid(n, 7, 9)
    model = true_model(particles, 0.01)
    references, sums = References(model, grid, 8), Statistics.zeros(1, grid, total=True)
    for i in range(40):
        particle = particle_at(particles, grid, i)
        support = PoseSupport.single(particle.previous)
        accumulate(particle, references, support, np.zeros(1), sums)
    step = maximise(
        sums, model, grid, EmConfig(), weight_maximum=1.0, mask=None,
        fixed_power=np.full_like(model.signal_power, 1e3), fixed_noise=model.noise_variance,
    )  # fmt: skip
    truth = np.fft.fftn(np.fft.ifftshift(blobs(n, **phantom)))
    found = np.fft.fftn(np.fft.ifftshift(step.model.volumes[0]))
    cone, shells = in_cone(n, 25)
    for low, high in ((1, 2), (3, 4), (5, 6)):
        seen = cone & (shells >= low) & (shells <= high)
        error = np.linalg.norm((found - truth)[seen]) / np.linalg.norm(truth[seen])
        assert error < 0.2, (low, high)


@pytest.mark.parametrize("n", [16, 23])
@pytest.mark.parametrize("update", ["ratio", "impute"])
def test_weights_that_vanish_at_low_frequencies(n, update):
    """CTF^2 with little amplitude contrast, and particles that all lie alike."""
    k = np.fft.fftfreq(n, 1 / n)
    square = k[:, None, None] ** 2 + k[None, :, None] ** 2 + np.arange(n // 2 + 1) ** 2
    weight = np.sin(0.07 + 0.5 * square / n) ** 2 * wedge_weight(n, (-50, 65))
    turns = np.repeat(Rotation.random(rng=1).as_matrix()[None], 8, axis=0)
    particles, _ = simulated(
        n=n, count=8, noise=0.2, weight=weight.astype(np.float32), seed=2, turns=turns
    )
    em = {"start": "poses", "iterations": 2, "update": update}
    states = list(EmRun(particles, build_config(em=em, search=QUICK)).states())
    power = np.abs(np.fft.fftn(blobs(n), norm="ortho")).max() ** 2
    for state in states:
        assert np.isfinite(state.model.volumes).all()
        assert state.model.signal_power.max() < 10 * power
    if update == "ratio":
        assert pearson(states[-1].model.volumes[0], blobs(n)) > 0.5


def test_prior_of_the_first_shell_is_measured():
    """The origin, which is no datum, must not lend its neighbours an infinite prior."""
    particles, _ = simulated(n=20, count=8, noise=0.5, weight=wedge_weight(20, (-60, 60)), seed=8)
    run = EmRun(particles, build_config(em={"start": "poses", "iterations": 0}))
    (state,) = run.states()
    truth = np.abs(np.fft.fftn(blobs(20), norm="ortho")) ** 2
    _, shells = in_cone(20, 90)
    expected = truth[shells == 1].mean()
    assert 0.5 * expected < state.model.signal_power[0, 1] < 2 * expected


def test_noise_of_known_poses_is_what_the_average_leaves():
    """Before there is an average, residuals are the data themselves, signal and all."""
    particles, _ = simulated(n=20, count=24, noise=0.5, weight=wedge_weight(20, (-60, 60)), seed=8)
    run = EmRun(particles, build_config(em={"start": "poses", "iterations": 0}))
    (state,) = run.states()
    np.testing.assert_allclose(state.model.noise_variance[2:8], 0.25, rtol=0.2)


def test_mean_of_a_box_is_no_datum():
    """Whatever constant a program adds to its boxes, the average is the same."""
    particles, _ = simulated(n=20, count=6, noise=0.2, weight=wedge_weight(20, (-60, 60)), seed=8)
    volumes = np.stack([particles.volumes.read(i) for i in range(6)])
    shifted = ParticleSet.from_arrays(
        volumes + np.linspace(-3, 3, 6, dtype=np.float32)[:, None, None, None],
        wedge_weight(20, (-60, 60))[None], voxel_size_angstrom=10.0, poses=particles.poses,
    )  # fmt: skip
    config = build_config(em={"start": "poses", "iterations": 0})
    one, two = (next(iter(EmRun(p, config).states())).model.volumes for p in (particles, shifted))
    np.testing.assert_allclose(one, two, atol=1e-4 * np.abs(one).max())


def test_ratio_and_impute_share_their_fixed_point():
    """Without a prior, and with little noise for `impute` to fit where weights are small."""
    n = 16
    particles, _ = simulated(n=n, count=12, noise=0.02, weight=wedge_weight(n, (-60, 60)), seed=7)
    volumes = {}
    for update, iterations in (("ratio", 1), ("impute", 1)):
        grid = fourier_grid(n, 5, 5)
        model = true_model(particles, 0.4)
        for _ in range(iterations if update == "ratio" else 60):
            references = References(model, grid, 8)
            sums = Statistics.zeros(1, grid, total=True)
            for i in range(len(particles)):
                particle = particle_at(particles, grid, i)
                support = PoseSupport.single(particle.previous)
                accumulate(particle, references, support, np.zeros(1), sums)
            step = maximise(
                sums, model, grid, EmConfig(update=update), weight_maximum=1.0, mask=None,
                fixed_power=np.full_like(model.signal_power, 1e12),
                fixed_noise=model.noise_variance,
            )  # fmt: skip
            model = replace(model, volumes=step.model.volumes)
        volumes[update] = model.volumes[0]
    assert pearson(volumes["ratio"], volumes["impute"]) > 0.999


def test_impute_stays_bounded_where_weights_exceed_one():
    n = 16
    particles, _ = simulated(n=n, count=8, noise=0.3, weight=soft_weight(n), seed=8)
    config = build_config(
        em={"start": "poses", "update": "impute", "iterations": 8, "first_shell": 5,
            "march": False, "max_shell": 6},
        search=QUICK,
    )  # fmt: skip
    *_, last = EmRun(particles, config).states()
    assert np.isfinite(last.model.volumes).all()
    assert pearson(last.model.volumes[0], blobs(n)) > 0.8


def test_noise_spectrum_is_recovered():
    """Coloured noise at the true poses: sigma per shell within its statistical error."""
    n = 18
    clean, _ = simulated(n=n, count=24, noise=0.0, seed=9)
    rng = np.random.default_rng(3)
    from faml.transforms.fourier import shell_indices, spectrum_of, volume_of

    shells = shell_indices(n)
    colour = 0.5 + 2.0 / (1.0 + shells)
    volumes = []
    for i in range(24):
        noise = spectrum_of(rng.normal(size=(n, n, n)).astype(np.float32)) * colour
        volumes.append(clean.volume(i) + volume_of(noise.astype(np.complex64), n))
    particles = ParticleSet.from_arrays(
        np.stack(volumes), wedge_weight(n, (-60, 60))[None], poses=clean.poses
    )
    grid = fourier_grid(n, 7, 8)
    model = true_model(particles, 1.0)
    references = References(model, grid, 8)
    sums = Statistics.zeros(1, grid, total=True)
    for i in range(24):
        particle = particle_at(particles, grid, i)
        accumulate(particle, references, PoseSupport.single(particle.previous), np.zeros(1), sums)
    step = maximise(sums, model, grid, EmConfig(), weight_maximum=1.0, mask=None)
    expected = (0.5 + 2.0 / (1.0 + np.arange(9))) ** 2
    error = np.sqrt(2.0 / np.maximum(sums.observed[1:], 1))
    ratio = step.model.noise_variance[1:9] / expected[1:]
    assert (np.abs(ratio - 1) < 5 * error + 0.03).all()


def test_scalar_noise_imputes_the_old_variance():
    """Paper Eq. 12 with its misprint corrected, on data that are noise alone."""
    n = 16
    rng = np.random.default_rng(4)
    particles = ParticleSet.from_arrays(
        (2.0 * rng.normal(size=(20, n, n, n))).astype(np.float32), wedge_weight(n, (-60, 60))[None]
    )
    grid = fourier_grid(n, 6, 7)
    model = replace(
        true_model(particles, 1.0),
        volumes=np.zeros((1, n, n, n), np.float32),
        noise_variance=np.full(8, 9.0),
    )
    references = References(model, grid, 8)
    sums = Statistics.zeros(1, grid, total=True)
    for i in range(20):
        particle = ParticleViews(particles, grid).particle(i, Pose(0, np.eye(3), np.zeros(3)))
        accumulate(particle, references, PoseSupport.single(particle.previous), np.zeros(1), sums)
    step = maximise(sums, model, grid, EmConfig(noise="scalar"), weight_maximum=1.0, mask=None)
    share = sums.observed[1:].sum() / (20 * grid.shell_counts[1:].sum())
    # data_term zeroes unobserved components, so the residual holds the observed variance alone
    assert step.model.noise_variance[3] == pytest.approx(4 * share + 9 * (1 - share), rel=0.02)


def test_empty_class_keeps_its_average_and_is_reported():
    n = 16
    particles, _ = simulated(n=n, count=4, seed=10)
    grid = fourier_grid(n, 5, 6)
    model = true_model(particles, 0.3, classes=2, seeds=(0, 1))
    references = References(model, grid, 8)
    sums = Statistics.zeros(2, grid, total=True)
    for i in range(4):
        particle = particle_at(particles, grid, i)
        accumulate(particle, references, PoseSupport.single(particle.previous), np.zeros(1), sums)
    step = maximise(sums, model, grid, EmConfig(), weight_maximum=1.0, mask=None)
    assert step.empty_classes == (1,)
    np.testing.assert_array_equal(step.model.volumes[1], model.volumes[1])
    assert np.isfinite(step.model.volumes).all()
    assert step.model.class_fractions.sum() == pytest.approx(1.0)
    assert (step.model.class_fractions > 0).all()


def test_shift_variance_has_a_floor():
    particles, _ = simulated(n=16, count=4, shifts=0.0, seed=11)
    config = build_config(em={"start": "poses", "iterations": 0})
    (state,) = EmRun(particles, config).states()
    assert state.model.shift_variance == ZETA2_FLOOR


def test_solvent_has_zero_mean_and_the_mask_flattens():
    volume = blobs(20) + 3.0
    free = finish_volume(volume, None)
    corner = free[:2, :2, :2]
    assert abs(corner.mean()) < 0.05
    mask = soft_sphere(20, 6.0, 2.0)
    flat = finish_volume(volume, mask)
    assert (flat[mask == 0] == 0).all()


@pytest.mark.parametrize("share", [None, 0.7, 0.9, 0.92, 1.0])
def test_mean_is_found_whatever_the_mask_leaves(share):
    """A mask that fills the box leaves no solvent; the mean was zero then, and the shape off."""
    n = 24
    particles, _ = simulated(
        n=n, count=20, noise=0.2, weight=wedge_weight(n, (-50, 65)), seed=2, phantom=DETAILED
    )
    diameter = None if share is None else share * n * particles.voxel_size_angstrom
    config = build_config(
        data={"particle_diameter_angstrom": diameter}, em={"start": "poses", "iterations": 0}
    )
    (state,) = EmRun(particles, config).states()
    truth = blobs(n, **DETAILED)
    assert state.model.volumes[0].mean() == pytest.approx(truth.mean(), rel=0.1)
    assert pearson(state.model.volumes[0], truth) > 0.975
