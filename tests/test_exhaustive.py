"""Exhaustive maximum likelihood: what it finds, what it keeps, and what it costs in exactness."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from models import log_prior_of_averages, particle_at, soft_weight, true_model
from phantoms import blobs, simulated
from scipy.spatial.transform import Rotation

from faml.config import EmConfig, SearchConfig
from faml.conventions import rotation_angle_deg
from faml.em.expectation import accumulate, posterior
from faml.em.maximization import maximise
from faml.em.statistics import Statistics
from faml.particles import ParticlePoses, wedge_weight
from faml.particles.view import ParticleViews, Pose
from faml.references import References
from faml.strategies.base import SearchContext
from faml.strategies.exhaustive import Exhaustive
from faml.strategies.proposals import PhaseProposal
from faml.strategies.registry import create_strategy
from faml.transforms.fourier import fourier_grid


def context(n, *, classes=1, **search):
    return SearchContext(
        config=SearchConfig(**search), box=n, max_shift_voxels=2.5, seed=1,
        radius_voxels=0.35 * n, last_shell=6, classes=classes,
    )  # fmt: skip


def problem(n, *, noise=0.5, index=1, classes=1, seed=3):
    particles, labels = simulated(
        n=n, count=4, noise=noise, weight=soft_weight(n), seed=seed,
        phantom_seeds=tuple(range(classes)),
    )  # fmt: skip
    grid = fourier_grid(n, 6, 6)
    model = true_model(particles, noise, classes, tuple(range(classes)))
    pose = Pose(0, np.eye(3), np.zeros(3))
    particle = ParticleViews(particles, grid).particle(index, pose, range(classes))
    truth = Pose(
        int(labels[index]), particles.poses.rotations[index], particles.poses.translations[index]
    )
    return particle, References(model, grid, 8), truth


def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("n", [18, 21])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_true_pose_is_found_below_the_grid_step(n, index):
    particle, references, truth = problem(n, index=index, noise=0.12)
    strategy = Exhaustive(context(n))
    support = strategy.support(particle, references, rng())
    log_posterior, _ = posterior(particle, references, support)
    best = int(np.argmax(log_posterior))
    assert rotation_angle_deg(support.rotations[best], truth.rotation) < 4.0
    assert np.linalg.norm(support.translations[best] - truth.translation) < 0.3
    assert np.exp(log_posterior).sum() == pytest.approx(1.0, abs=1e-9)
    there = references.squared_residuals(
        particle, np.zeros(1, np.int64), truth.rotation[None], truth.translation[None]
    )
    assert support.squared_residuals.min() < there[0] + 10.0  # the truth is not on the grid


@pytest.mark.parametrize("oversampling", [0, 3])
def test_kept_poses_are_rescored_with_the_cartesian_residual(oversampling):
    particle, references, _ = problem(18, noise=2.0, classes=2)
    strategy = Exhaustive(context(18, classes=2, oversampling=oversampling, max_poses=80))
    support = strategy.support(particle, references, rng())
    again = references.squared_residuals(
        particle, support.classes, support.rotations, support.translations
    )
    np.testing.assert_allclose(support.squared_residuals, again, rtol=2e-5)
    assert len(support) <= 80
    assert (np.linalg.norm(support.translations, axis=1) <= 2.5 + 1e-9).all()


def test_classes_share_one_posterior():
    for index in range(4):
        particle, references, truth = problem(18, classes=2, index=index)
        strategy = Exhaustive(context(18, classes=2))
        support = strategy.support(particle, references, rng())
        log_posterior, _ = posterior(particle, references, support)
        assert support.classes[int(np.argmax(log_posterior))] == truth.class_index


def test_the_cap_is_reported_and_what_is_kept_stands_for_all():
    """The marginal likelihood does not depend on how many poses are kept."""
    particle, references, _ = problem(18, noise=1.0)
    settings = {"oversampling": 0, "posterior_mass": 0.999}
    capped = Exhaustive(context(18, max_poses=60, **settings)).support(particle, references, rng())
    free = Exhaustive(context(18, max_poses=50_000, **settings)).support(
        particle, references, rng()
    )
    assert len(capped) <= 60
    assert capped.mass < 0.9
    assert free.mass > 0.99
    assert len(free) > 60
    few, many = (posterior(particle, references, s)[1] for s in (capped, free))
    assert few == pytest.approx(many, abs=0.3)
    uncorrected = few + np.log(capped.mass)
    assert abs(uncorrected - many) > abs(few - many)


def test_finer_steps_give_the_same_marginal_likelihood():
    """The sum over cells is an integral: it converges as they shrink."""
    particle, references, _ = problem(18, noise=2.5)
    values = [
        posterior(
            particle,
            references,
            Exhaustive(
                context(18, max_poses=20_000, posterior_mass=0.9999, oversampling=0, **steps)
            ).support(particle, references, rng()),
        )[1]
        for steps in (
            {},
            {"angular_step_deg": 9.0, "shift_step_voxels": 0.5},
            {"angular_step_deg": 7.5, "shift_step_voxels": 0.4},
        )
    ]
    assert values[0] == pytest.approx(values[2], abs=0.5)
    assert values[1] == pytest.approx(values[2], abs=0.1)


@pytest.mark.parametrize("name", ["exhaustive", "faml", "fa"])
def test_a_reference_without_structure_leaves_the_previous_pose(name):
    particle, references, _ = problem(18)
    flat = References(
        replace(references.model, volumes=np.zeros((1, 18, 18, 18), np.float32)),
        references.grid,
        8,
    )
    strategy = create_strategy(name, context(18, proposal="phase", keep_previous=0))
    support = strategy.support(particle, flat, rng())
    assert support.fallback
    np.testing.assert_array_equal(support.rotations[0], particle.previous.rotation)


@pytest.mark.parametrize("angle", [0.5, 25.0])
def test_a_local_search_stays_around_the_input_pose(angle):
    n = 18
    particles, _ = simulated(n=n, count=2, noise=0.5, weight=soft_weight(n), seed=3)
    away = Rotation.from_rotvec([0.0, 0.6, 0.0]) * Rotation.from_matrix(particles.poses.rotations)
    poses = ParticlePoses(away.as_matrix(), particles.poses.translations)
    grid = fourier_grid(n, 6, 6)
    references = References(true_model(particles, 0.5), grid, 8)
    particle = particle_at(replace(particles, poses=poses), grid, 1)
    support = Exhaustive(context(n, local_angle_deg=angle)).support(particle, references, rng())
    angles = rotation_angle_deg(support.rotations, poses.rotations[1])
    # A ball finer than the grid is represented by the nearest cells.
    assert angles.max() <= max(angle, 20.0) + 1e-6
    assert not support.fallback


def test_phases_find_what_amplitudes_lose_beside_a_neighbour():
    """A second copy in the box doubles the amplitudes' noise, but has its own phases."""
    n, noise = 24, 0.3
    turns = [Rotation.random(rng=i).as_matrix() for i in range(6)]
    particles, _ = simulated(n=n, count=6, noise=noise, weight=wedge_weight(n, (-50, 60)),
                             seed=4, shifts=1.0, turns=turns)  # fmt: skip
    crowded = np.stack(
        [
            particles.volume(i)
            + blobs(n, Rotation.random(rng=90 + i).as_matrix(), (0.36 * n, 0, -0.2 * n))
            for i in range(6)
        ]
    )
    particles = type(particles).from_arrays(
        crowded, wedge_weight(n, (-50, 60))[None], poses=particles.poses
    )
    grid = fourier_grid(n, 7, 7)
    references = References(true_model(particles, noise), grid, 12)
    hits = {}
    for proposal in ("amplitude", "phase"):
        strategy = create_strategy("fa", replace(context(n, proposal=proposal, keep_previous=0)))
        strategy.prepare(references)
        hits[proposal] = 0
        for i in range(6):
            particle = ParticleViews(particles, grid).particle(i, Pose(0, np.eye(3), np.zeros(3)))
            found = strategy.support(particle, references, rng())
            hits[proposal] += bool(rotation_angle_deg(found.rotations[0], turns[i]) < 20)
    assert hits["phase"] >= 5
    assert hits["phase"] > hits["amplitude"]


def test_phased_candidates_include_the_true_pose():
    for index in range(4):
        particle, references, truth = problem(18, index=index, noise=0.2)
        found = PhaseProposal(context(18, max_candidates=10, keep_previous=0)).propose(
            particle, references, rng()
        )
        assert 0 < len(found) <= 10
        assert rotation_angle_deg(found.rotations, truth.rotation).min() < 20.0


def test_penalised_objective_never_falls_on_a_fixed_grid():
    """At fixed sigma and tau, with every pose of the grid kept and two classes.

    Slices are trilinear while the M-step solves for exact ones: a fall of up to 5e-4 of the first
    step's rise is allowed, no more (as in test_maximization).
    """
    n, noise = 16, 1.0
    weight = soft_weight(n)
    particles, _ = simulated(
        n=n, count=5, noise=noise, weight=weight, seed=6, phantom_seeds=(0, 1), shifts=1.0
    )
    grid = fourier_grid(n, 4, 4)
    views = ParticleViews(particles, grid)
    strategy = Exhaustive(
        context(
            n, classes=2, oversampling=0, max_poses=100_000, posterior_mass=1.0,
            angular_step_deg=30.0, shift_step_voxels=1.5,
        )
    )  # fmt: skip
    model = replace(
        true_model(particles, noise, 2, (0, 1)),
        volumes=np.stack([blobs(n, seed=9), blobs(n, seed=10)]),
    )
    values, masses = [], []
    for _ in range(5):
        references = References(model, grid, 8)
        sums = Statistics.zeros(2, grid, total=True)
        value = 0.0
        for i in range(5):
            particle = views.particle(i, Pose(0, np.eye(3), np.zeros(3)), (0, 1))
            support = strategy.support(particle, references, rng())
            assert support.mass > 1.0 - 2e-5  # as exact as the running sum
            log_posterior, log_likelihood = posterior(particle, references, support)
            masses.append(np.exp(log_posterior).sum())
            value += log_likelihood
            accumulate(particle, references, support, log_posterior, sums)
        values.append(value + log_prior_of_averages(model, grid))
        step = maximise(
            sums, model, grid, EmConfig(), weight_maximum=float(weight.max()), mask=None,
            fixed_power=model.signal_power, fixed_noise=model.noise_variance,
        )  # fmt: skip
        model = step.model
    np.testing.assert_allclose(masses, 1.0, atol=1e-9)
    rises = np.diff(values)
    assert rises[0] > 1.0
    assert (rises > -5e-4 * rises[0]).all(), rises
