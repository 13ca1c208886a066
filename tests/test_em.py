"""The EM loop: posterior, schedule, classes, invariances, and recovery of planted truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import particle_at, soft_weight, true_model
from phantoms import DETAILED, simulated
from scipy.spatial.transform import Rotation
from scipy.special import logsumexp, softmax

from faml.config import EmConfig, build_config
from faml.conventions import rotation_angle_deg
from faml.em.balance import SMALLEST_SHARE, balanced_log_fractions, class_evidence
from faml.em.expectation import log_normaliser, posterior
from faml.em.loop import EmRun
from faml.em.schedule import (
    best_and_stalled,
    classes_balanced,
    next_shell,
    sharpness,
    stop_reason,
)
from faml.em.state import Changes
from faml.errors import ConfigurationError, InputDataError
from faml.metrics.fsc import fourier_shell_correlation
from faml.metrics.labels import misclassified, pose_errors_deg
from faml.particles import wedge_weight
from faml.references import References
from faml.strategies.base import PoseSupport
from faml.transforms.fourier import fourier_grid, full_resolution_shell, shell_indices

EPS = float(np.finfo(np.float32).eps)
QUICK = {"search_shell": 5, "max_candidates": 12, "voronoi_samples": 500, "max_shift_voxels": 3.0}


@pytest.mark.parametrize("n", [17, 18])
@pytest.mark.parametrize("kind", ["full", "wedge", "soft"])
def test_true_pose_has_the_expected_residual_and_beats_others(n, kind):
    """One code path for binary wedges and CTF^2-like weights (method.md section 2)."""
    weight = {
        "full": np.ones((n, n, n // 2 + 1), np.float32),
        "wedge": wedge_weight(n, (-50, 70)),
        "soft": soft_weight(n),
    }[kind]
    particles, _ = simulated(n=n, count=1, noise=0.5, weight=weight, seed=3)
    grid = fourier_grid(n, 5, 6)
    references = References(true_model(particles, 0.5), grid, 8)
    particle = particle_at(particles, grid)
    pose = particle.previous
    rng = np.random.default_rng(0)
    others = Rotation.random(20, rng=rng).as_matrix()
    support = PoseSupport(
        classes=np.zeros(21, np.int64),
        rotations=np.concatenate([pose.rotation[None], others]),
        translations=np.repeat(pose.translation[None], 21, axis=0),
        log_volumes=np.zeros(21),
    )
    log_posterior, _ = posterior(particle, references, support)
    assert np.argmax(log_posterior) == 0
    (squared,) = references.squared_residuals(
        particle, support.classes[:1], support.rotations[:1], support.translations[:1]
    )
    seen = (particle.weight.values > 0)[: grid.align_count]
    degrees = float(grid.multiplicity[: grid.align_count][seen].sum())
    # chi^2 with so many degrees of freedom, five standard deviations, and interpolation error.
    assert abs(squared - degrees) < 5 * np.sqrt(2 * degrees) + 0.05 * degrees


def test_posterior_matches_direct_sums_and_normalises():
    particles, _ = simulated(n=16, count=1, noise=0.8, weight=wedge_weight(16, (-40, 65)), seed=4)
    grid = fourier_grid(16, 4, 5)
    model = true_model(particles, 0.8)
    references = References(model, grid, 8)
    particle = particle_at(particles, grid)
    rng = np.random.default_rng(1)
    support = PoseSupport(
        classes=np.zeros(6, np.int64),
        rotations=Rotation.random(6, rng=rng).as_matrix(),
        translations=rng.uniform(-1, 1, (6, 3)),
        log_volumes=rng.uniform(-1, 1, 6),
    )
    log_posterior, log_likelihood = posterior(particle, references, support)
    terms = []
    for i in range(6):
        posed = references.posed(0, support.rotations[i], support.translations[i], grid.align_count)
        w = particle.weight.values[: grid.align_count].astype(float)
        y = particle.data[: grid.align_count].astype(complex)
        seen = w > 0
        residual = np.abs(y - w * posed)[seen] ** 2 / w[seen] * grid.multiplicity[: len(w)][seen]
        squared = residual.sum() / 0.64
        t = support.translations[i]
        prior = np.exp(-0.5 * t @ t / 1.0) / (2 * np.pi) ** 1.5
        terms.append(np.log(prior) - 0.5 * squared + support.log_volumes[i])
    ref = np.array(terms)
    total = np.log(np.exp(ref - ref.max()).sum()) + ref.max()
    np.testing.assert_allclose(log_posterior, ref - total, atol=0.02)
    normaliser = log_normaliser(particle, references)
    assert log_likelihood == pytest.approx(total + normaliser, abs=0.02)
    assert np.exp(log_posterior).sum() == pytest.approx(1.0)


def test_posterior_survives_huge_residuals():
    particles, _ = simulated(n=16, count=1, noise=0.1, seed=5)
    grid = fourier_grid(16, 4, 5)
    model = replace(true_model(particles, 0.1), noise_variance=np.full(8, 1e-12))
    references = References(model, grid, 8)
    support = PoseSupport(
        classes=np.zeros(2, np.int64),
        rotations=np.stack([np.eye(3), np.diag([1.0, -1.0, -1.0])]),
        translations=np.zeros((2, 3)),
        log_volumes=np.zeros(2),
    )
    log_posterior, log_likelihood = posterior(particle_at(particles, grid), references, support)
    assert np.isfinite(log_likelihood)
    assert np.exp(log_posterior).sum() == pytest.approx(1.0)


@pytest.mark.parametrize("power", [0.5, 3.0])
def test_sharp_posteriors_are_powers_of_densities_not_of_cells_and_classes(power):
    """What the density of a grid is, and how large classes are, must not be raised."""
    particles, _ = simulated(n=16, count=1, noise=0.5, seed=5)
    grid = fourier_grid(16, 4, 5)
    one = true_model(particles, 0.5)
    model = replace(
        one,
        volumes=np.concatenate([one.volumes, 0.5 * one.volumes]),
        class_fractions=np.array([0.8, 0.2]),
        signal_power=np.repeat(one.signal_power, 2, axis=0),
    )
    references = References(model, grid, 8)
    particle = particle_at(particles, grid)
    support = PoseSupport(
        classes=np.array([0, 0, 1]),
        rotations=Rotation.random(3, random_state=1).as_matrix(),
        translations=np.array([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.0, -0.5, 1.0]]),
        log_volumes=np.log([1.0, 5.0, 0.2]),
    )
    plain, log_likelihood = posterior(particle, references, support)
    sharp, same = posterior(particle, references, support, power)
    kept = np.log([0.8, 0.8, 0.2]) + support.log_volumes
    expected = np.exp(plain - kept) ** power * np.exp(kept)
    np.testing.assert_allclose(np.exp(sharp), expected / expected.sum(), rtol=1e-9)
    assert same == log_likelihood
    # By which classes are balanced: their shares of the posterior, whatever the fractions.
    shares = softmax(class_evidence(particle, references, support, power) + np.log([0.8, 0.2]))
    np.testing.assert_allclose(shares[1], np.exp(sharp[2]), rtol=1e-6)


def test_last_pass_stays_with_the_last_poses():
    """While iterations still explore, what is delivered must not."""
    particles, _ = simulated(n=18, count=10, noise=0.3, weight=wedge_weight(18, (-60, 60)), seed=9)
    run = EmRun(particles, build_config(em={"iterations": 3, "seed": 1, "folds": 1}, search=QUICK))
    *_, state = run.states()
    final = run.finish(state)
    gain = final.assignments.log_likelihoods - state.assignments.log_likelihoods
    assert gain.mean() > 0
    moved = rotation_angle_deg(final.assignments.rotations, state.assignments.rotations)
    assert np.median(moved) < 15


def test_a_start_from_nothing_sums_no_further_than_the_first_iterations_look():
    """And what lies beyond comes in as the resolution grows."""
    particles, _ = simulated(n=24, count=6, noise=0.2, weight=wedge_weight(24, (-60, 60)), seed=9)
    config = build_config(em={"iterations": 5, "seed": 1, "first_shell": 4}, search=QUICK)
    run = EmRun(particles, config)
    first, *_, last = run.states()
    assert first.align_shell == 4
    assert (first.model.noise_variance > 0).all()
    assert last.align_shell > 4
    full = build_config(em={"iterations": 0, "seed": 1, "first_shell": 4}, search=QUICK)
    (only,) = EmRun(particles, full).states()
    # Without iterations it is all that will be made.
    beyond = shell_indices(24) > 8
    some, most = (
        np.square(np.abs(np.fft.rfftn(state.model.volumes[0]))[beyond]).sum()
        for state in (first, only)
    )
    assert some < 0.1 * most
    np.testing.assert_allclose(first.model.noise_variance[:8], only.model.noise_variance[:8])


def test_resolution_grows_only_with_measured_signal():
    config = EmConfig()
    ssnr = np.zeros((2, 12))
    ssnr[0, :8] = 5.0
    assert next_shell(4, ssnr, 24, config) == 5
    assert next_shell(7, ssnr, 24, config) == 7
    assert next_shell(11, ssnr, 24, config) == 11
    assert next_shell(11, ssnr, 24, EmConfig(march=False)) == 11


@pytest.fixture(scope="module")
def settled():
    """A state whose poses no longer move and which gains nothing worth mentioning."""
    particles, _ = simulated(n=16, count=4, noise=0.3, weight=wedge_weight(16, (-60, 60)), seed=3)
    *_, state = states_of(particles)
    sharp = replace(state.assignments, effective_poses=np.ones(4))
    return replace(
        state, iteration=20, assignments=sharp, next_align_shell=state.align_shell,
        changes=Changes(0.0, 0.0, 0.0), best_log_likelihood=state.log_likelihood,
    )  # fmt: skip


def test_broad_posteriors_are_not_settled_because_the_best_pose_of_a_grid_stands_still(settled):
    config = EmConfig(exploration=0)
    after = replace(settled, iteration=21, log_likelihood=settled.log_likelihood + 0.1 * 4)
    assert "median pose change" in stop_reason(settled, after, config)
    broad = replace(settled.assignments, effective_poses=np.full(4, 30.0))
    assert not stop_reason(settled, replace(after, assignments=broad), config)
    assert not stop_reason(settled, replace(after, log_likelihood=after.log_likelihood + 8), config)
    finer = replace(after, next_align_shell=after.align_shell + 1)
    assert not stop_reason(settled, finer, config)
    assert not stop_reason(settled, after, EmConfig(exploration=30))


def test_a_run_ends_when_the_likelihood_has_stood_still_for_a_while(settled):
    """One iteration says little: searches draw at random, and likelihoods go up and down."""
    moving = Changes(2.0, 0.3, 0.0)
    config = EmConfig(exploration=0)
    state, base, reasons = replace(settled, changes=moving), settled.log_likelihood, []
    for gain in (5.0, 4.9, 4.0, 5.5, 5.55, 5.4, 5.1, 5.5, 5.52):
        best, stalled = best_and_stalled(state, base + gain, state.align_shell, config)
        after = replace(
            state, iteration=state.iteration + 1, log_likelihood=base + gain,
            best_log_likelihood=best, stalled=stalled,
        )  # fmt: skip
        reasons.append(stop_reason(state, after, config))
        state = after
    assert reasons[:-1] == [""] * 8
    assert "gained less than 0.02 per particle in 5 iterations" in reasons[-1]
    assert state.best_log_likelihood == base + 5.5
    # Another resolution, another likelihood; other circumstances, another count.
    assert best_and_stalled(state, base - 1.0, state.align_shell + 1, config) == (base - 1.0, 0)
    assert (state.going_on().stalled, state.going_on().stop_reason) == (0, "")
    assert best_and_stalled(state.going_on(), base, state.align_shell, config) == (base, 0)


def test_small_gains_add_up(settled):
    """EM creeps: a hundredth per particle and iteration is not nothing."""
    config = EmConfig(exploration=0)
    state, counts = replace(settled, stalled=0), []
    for step in range(1, 9):
        gained = settled.log_likelihood + 0.012 * 4 * step
        best, stalled = best_and_stalled(state, gained, state.align_shell, config)
        state = replace(state, log_likelihood=gained, best_log_likelihood=best, stalled=stalled)
        counts.append(stalled)
    assert counts == [1, 0, 1, 0, 1, 0, 1, 0]


def test_nothing_is_said_about_gains_while_poses_are_explored(settled):
    """Nor by the first iteration after, which measures the model that exploration has left."""
    config = EmConfig(exploration=6)
    counted = []
    for iteration in (3, 6, 7, 8):
        before = replace(settled, iteration=iteration - 1, stalled=4)
        level = settled.log_likelihood - 50.0
        counted.append(best_and_stalled(before, level, settled.align_shell, config)[1])
    assert counted == [0, 0, 0, 5]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fa", "faml", "exhaustive"])
def test_planted_poses_are_recovered_from_random_orientations(strategy):
    n = 24
    particles, _ = simulated(
        n=n, count=24, noise=0.3, weight=wedge_weight(n, (-55, 65)), seed=12, shifts=1.0,
        phantom=DETAILED,
    )  # fmt: skip
    config = build_config(
        em={"iterations": 8 if strategy == "exhaustive" else 15, "seed": 3},
        search={
            "strategy": strategy,
            "max_candidates": 25,
            "max_shift_voxels": 3.0,
            "search_shell": 7,
        },
        threads=2,
    )
    run = EmRun(particles, config)
    *_, state = run.states()
    errors = pose_errors_deg(state.assignments.rotations, particles.poses.rotations)
    assert (errors < 12).mean() > 0.9
    assert run.finish(state).model.volumes.shape == (1, n, n, n)


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.1, 0.3])
@pytest.mark.parametrize("strategy", ["fa", "faml"])
def test_two_classes_are_separated(strategy, noise):
    """At low noise, classes free from the start all but always collapse into one.

    With 16 particles a class, phased candidates and seed 1, FAML ends in a worse optimum (one start
    of the three tried).
    """
    n = 24
    particles, labels = simulated(
        n=n, count=32, noise=noise, weight=wedge_weight(n, (-60, 60)), seed=13, shifts=1.0,
        phantom_seeds=(0, 21), phantom=DETAILED,
    )  # fmt: skip
    config = build_config(
        em={"classes": 2, "iterations": 15, "seed": 2},
        search={
            "strategy": strategy,
            "max_candidates": 25,
            "max_shift_voxels": 3.0,
            "search_shell": 7,
        },
        threads=2,
    )
    *_, state = EmRun(particles, config).states()
    assert misclassified(labels, state.assignments.classes) <= 1


@pytest.mark.parametrize("strategy", ["fa", "faml"])
def test_no_class_starves_at_first(strategy):
    """Three classes for copies of one particle: nothing but the floor feeds them all."""
    particles, _ = simulated(n=16, count=12, noise=0.05, seed=20)
    config = build_config(
        em={"classes": 3, "iterations": 3, "balance": 2, "seed": 4},
        search=QUICK | {"strategy": strategy},
    )
    run = EmRun(particles, config)
    for state in list(run.states())[1:3]:
        shares = state.assignments.class_probabilities.mean(axis=0)
        assert shares.min() > SMALLEST_SHARE / 3 - 1 / 12
    free = EmRun(
        particles, build_config(em=dict(config.em) | {"balance": 0}, search=dict(config.search))
    )
    starved = [s.assignments.class_probabilities.mean(axis=0).min() for s in free.states()]
    assert min(starved) < 1 / 12


def test_no_class_starves_where_evidence_is_weak_and_posteriors_are_sharp():
    """Balanced for plain posteriors, sharp ones would make the larger class take all."""
    weight = wedge_weight(16, (-60, 60))
    particles, _ = simulated(n=16, count=24, noise=3.0, weight=weight, seed=20)
    config = build_config(
        em={"classes": 2, "iterations": 3, "seed": 4, "sharpness": 8.0}, search=QUICK
    )
    run = EmRun(particles, config)
    for state in list(run.states())[1:]:
        shares = state.assignments.class_probabilities.mean(axis=0)
        assert shares.min() > SMALLEST_SHARE / 2 - 0.02


def test_when_posteriors_are_sharp():
    config = EmConfig(sharpness=4.0, exploration=3)
    assert [sharpness(i, config) for i in (1, 2, 3, 4, 9)] == [4.0, 4.0, 4.0, 1.0, 1.0]
    for other in (
        EmConfig(start="poses"),
        EmConfig(start="mean.mrc"),
        EmConfig(exploration=0),
        build_config(preset="paper").em,
    ):
        assert sharpness(1, other) == 1.0


def test_when_classes_are_balanced():
    assert [classes_balanced(i, EmConfig(classes=2)) for i in (0, 1, 5, 6)] == [
        False, True, True, False,
    ]  # fmt: skip
    for other in (
        EmConfig(),
        EmConfig(classes=2, start="poses"),
        EmConfig(classes=2, balance=0),
    ):
        assert not classes_balanced(1, other)


@given(
    st.integers(0, 10_000),
    st.integers(2, 5),
    st.sampled_from([0.1, 3.0, 300.0]),
    st.sampled_from([0.0, 1.0, 1e4]),
)
def test_balanced_fractions_leave_no_class_below_the_floor(seed, classes, spread, advantage):
    """However much better one class is for everyone."""
    rng = np.random.default_rng(seed)
    evidence = spread * rng.normal(size=(60, classes)) + advantage * rng.normal(size=classes)
    before = np.log(rng.dirichlet(np.ones(classes)) + 1e-6)
    before -= logsumexp(before)
    old = softmax(evidence + before, axis=1).mean(axis=0)
    fractions = balanced_log_fractions(evidence, before)
    shares = softmax(evidence + fractions, axis=1).mean(axis=0)
    np.testing.assert_allclose(logsumexp(fractions), 0.0, atol=1e-9)
    floor = SMALLEST_SHARE / classes
    # One particle that has made up its mind is a step of 1/60.
    assert shares.min() >= floor - 1 / 60
    if old.min() >= floor:
        np.testing.assert_array_equal(fractions, before)
    elif spread < 1:
        above = np.maximum(old - floor, 0)
        wanted = floor + (1 - SMALLEST_SHARE) * above / above.sum()
        np.testing.assert_allclose(shares, wanted, atol=1e-3)


def displaced(shift):
    """Eight particles with poses, the third of which is shifted far along y."""
    particles, _ = simulated(n=18, count=8, noise=0.2, seed=3, shifts=1.0)
    far = particles.poses.translations.copy()
    far[2] = (0.0, shift, 0.0)
    return replace(particles, poses=replace(particles.poses, translations=far))


def test_searched_shifts_reach_the_input_poses():
    for em, search, expected in (
        ({"start": "poses"}, {}, 7.0),
        ({}, {"local_angle_deg": 20.0}, 7.0),
        ({}, {}, 18 / 8),
        ({"start": "poses"}, {"max_shift_voxels": 5.5}, 5.5),
    ):
        run = EmRun(displaced(-5.0), build_config(em=em, search=search))
        assert run.max_shift_voxels == pytest.approx(expected)


def test_input_shifts_out_of_reach_name_the_particle():
    name = displaced(5.0).names[2]
    poses = {"start": "poses"}
    with pytest.raises(ConfigurationError, match=rf"{name}: .*5\.0 voxels.*at most 4.*--max-shift"):
        EmRun(displaced(5.0), build_config(em=poses, search={"max_shift_voxels": 4.0}))
    with pytest.raises(InputDataError, match=rf"{name}: .*8\.0 voxels.*at most 7"):
        EmRun(displaced(8.0), build_config(em=poses))


def states_of(particles, threads=1, **em):
    settings = {"iterations": 2, "seed": 5, "chunk_size": 3} | em
    return list(EmRun(particles, build_config(em=settings, search=QUICK, threads=threads)).states())


def assert_same(a, b):
    for name in ("volumes", "noise_variance", "signal_power", "class_fractions"):
        np.testing.assert_array_equal(getattr(a.model, name), getattr(b.model, name))
    np.testing.assert_array_equal(a.assignments.rotations, b.assignments.rotations)
    np.testing.assert_array_equal(a.assignments.log_likelihoods, b.assignments.log_likelihoods)


def test_results_do_not_depend_on_threads():
    particles, _ = simulated(n=16, count=10, weight=wedge_weight(16, (-60, 60)), seed=14)
    for a, b in zip(states_of(particles), states_of(particles, threads=3), strict=True):
        assert_same(a, b)


def test_resuming_a_state_equals_going_on():
    particles, _ = simulated(n=16, count=6, weight=wedge_weight(16, (-60, 60)), seed=15)
    whole = states_of(particles, iterations=4)
    first = states_of(particles, iterations=2)
    config = build_config(em={"iterations": 4, "seed": 5, "chunk_size": 3}, search=QUICK, threads=2)
    second = list(EmRun(particles, config).states(first[-1]))
    assert_same(whole[-1], second[-1])


@pytest.mark.parametrize("strategy", ["fa", "faml", "exhaustive"])
def test_order_of_particles_does_not_matter(strategy):
    """Only the rounding of sums changes.

    Random numbers do belong to a particle's place in the list, as does its fold, so this search
    draws none and there is one fold.
    """
    particles, _ = simulated(n=16, count=9, weight=wedge_weight(16, (-60, 60)), seed=16)
    order = np.random.default_rng(0).permutation(9)
    config = build_config(
        em={"start": "poses", "iterations": 2, "folds": 1},
        search=QUICK | {"strategy": strategy, "keep_previous": 0},
    )
    *_, a = EmRun(particles, config).states()
    *_, b = EmRun(particles.subset(order), config).states()
    # Rounding decides in which step conjugate gradients reach their tolerance of 1e-4.
    np.testing.assert_allclose(
        a.model.volumes, b.model.volumes, atol=1e-3 * np.abs(a.model.volumes).max()
    )
    np.testing.assert_allclose(
        a.assignments.log_likelihoods[order], b.assignments.log_likelihoods, rtol=1e-3
    )
    angles = rotation_angle_deg(a.assignments.rotations[order], b.assignments.rotations)
    assert angles.max() < 0.1


@pytest.mark.parametrize("n", [15, 16])
def test_one_particle_and_odd_boxes_run(n):
    particles, _ = simulated(n=n, count=1, weight=wedge_weight(n, (-60, 60)), seed=17)
    states = states_of(particles)
    assert np.isfinite(states[-1].model.volumes).all()


def test_paper_preset_runs_as_published():
    particles, _ = simulated(n=16, count=6, weight=wedge_weight(16, (-60, 60)), seed=18)
    config = build_config(preset="paper", em={"iterations": 2}, search={"voronoi_samples": 500})
    assert config.em.start == "average"
    assert config.em.update == "impute"
    assert config.em.noise == "scalar"
    assert not config.em.march
    assert config.search.max_candidates == 50
    assert (config.em.folds, config.em.sharpness) == (1, 1.0)
    *_, state = EmRun(particles, config).states()
    assert state.align_shell == full_resolution_shell(16)
    assert len(set(state.model.noise_variance)) == 1
    assert build_config(preset="paper").search.voronoi_samples == 10_000


def test_start_from_poses_needs_poses_and_k_at_most_n():
    particles, _ = simulated(n=16, count=3, seed=19)
    blind = replace(particles, poses=None)
    with pytest.raises(InputDataError, match="--start random"):
        next(EmRun(blind, build_config(em={"start": "poses"})).states())
    with pytest.raises(ConfigurationError, match="4 classes for 3 particles"):
        next(EmRun(particles, build_config(em={"classes": 4})).states())
    with pytest.raises(ConfigurationError, match="half the box"):
        EmRun(particles, build_config(search={"max_shift_voxels": 8.0}))


def test_fixture_poses_give_the_reference(shared_data):
    """RELION itself reads this fixture correctly: it decides about signs and conventions."""
    particles, reference = fixture(shared_data)
    config = build_config(em={"start": "poses", "iterations": 0})
    (state,) = EmRun(particles, config).states()
    fsc = fourier_shell_correlation(state.model.volumes[0], reference)
    assert (fsc[1:14] >= 0.95).all()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fa", "faml"])
def test_fixture_poses_are_found_from_its_reference(shared_data, strategy):
    particles, reference = fixture(shared_data)
    config = build_config(
        em={"start": "reference.mrc", "iterations": 10},
        search={"strategy": strategy},
        threads=2,
    )
    run = EmRun(particles, config, reference=reference)
    *_, state = run.states()
    final = run.finish(state)
    found = final.assignments
    assert rotation_angle_deg(found.rotations, particles.poses.rotations).max() < 4.0
    shifts = np.linalg.norm(found.translations - particles.poses.translations, axis=1)
    assert shifts.max() < 0.5
    fsc = fourier_shell_correlation(final.model.volumes[0], reference)
    assert (fsc[1:14] >= 0.95).all()


def fixture(folder):
    from faml.config import DataConfig
    from faml.io.dataset import open_particles
    from faml.io.mrc import read_volume

    data = DataConfig(inputs=(str(folder / "conventions" / "particles.star"),))
    reference = read_volume(folder / "conventions" / "reference.mrc").values
    return open_particles(data, 0).particles, reference
