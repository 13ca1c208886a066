"""Refinement of poses below grid spacing: derivatives, accuracy, limits, and its place in a run."""

from __future__ import annotations

from dataclasses import replace

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import particle_at, soft_weight, true_model
from phantoms import DETAILED, blobs, boxes, rotations, simulated
from runs import assert_states_equal
from scipy.spatial.transform import Rotation

import faml
from faml.cli.run import merged_settings
from faml.config import build_config
from faml.conventions import rotation_angle_deg
from faml.em.expectation import posterior
from faml.em.loop import EmRun
from faml.io.mrc import write_volume
from faml.io.star import read_star, star_poses
from faml.kernels.refinement import pose_derivatives, refine_pose
from faml.particles import wedge_weight
from faml.particles.view import Pose
from faml.references import PADDING, References
from faml.strategies.base import PoseSupport
from faml.strategies.refinement import refine_support
from faml.transforms.fourier import fourier_grid

FAR = 3.0  # voxels, beyond all shifts


def problem(n, *, noise=0.0, sigma=0.3, index=0, shell=None, seed=0, phantom=None):
    """A particle of known pose with an asymmetric weight, and its true model."""
    shell = n // 3 if shell is None else shell
    particles, _ = simulated(
        n=n, count=3, noise=noise, weight=soft_weight(n), seed=seed, phantom=phantom
    )
    grid = fourier_grid(n, shell, shell)
    model = true_model(particles, sigma)
    model = replace(model, volumes=blobs(n, **(phantom or {}))[None])
    return particle_at(particles, grid, index), References(model, grid, 8)


def away(pose, rng, angle_deg, voxels):
    """A pose at a distance."""
    axis, move = rng.normal(size=(2, 3))
    turn = Rotation.from_rotvec(np.radians(angle_deg) * axis / np.linalg.norm(axis))
    return Pose(
        0,
        turn.as_matrix() @ pose.rotation,
        pose.translation + voxels * move / np.linalg.norm(move),
    )


def refined(particle, references, *poses, max_shift=FAR, local=None):
    """Supports before and after."""
    m = len(poses)
    before = PoseSupport(
        classes=np.array([p.class_index for p in poses]),
        rotations=np.stack([p.rotation for p in poses]),
        translations=np.stack([p.translation for p in poses]),
        log_volumes=np.arange(m, dtype=float),
    )
    log_posterior, _ = posterior(particle, references, before)
    return before, refine_support(particle, references, before, log_posterior, max_shift, local)


def objectives(particle, references, support):
    squared = references.squared_residuals(
        particle, support.classes, support.rotations, support.translations
    )
    prior = np.square(support.translations).sum(axis=1) / references.model.shift_variance
    return 0.5 * (squared + prior)


def kernel_arguments(particle, references):
    grid, count = references.grid, references.grid.align_count
    return {
        "spectrum": references.padded[0],
        "points": grid.points[:count],
        "scale": PADDING,
        "box": grid.box,
        "data": particle.data[:count],
        "weight": particle.weight.values[:count],
        "factor": grid.multiplicity[:count] * references.precision,
        "shift_precision": 1.0 / references.model.shift_variance,
    }


@pytest.mark.parametrize("n", [15, 16])
def test_derivatives_are_those_of_an_independent_objective(n):
    particle, references = problem(n, noise=0.4, shell=4)
    values = kernel_arguments(particle, references)
    pose = away(particle.previous, np.random.default_rng(2), 5.0, 0.7)
    gradient, normal = np.empty(6), np.empty((6, 6))
    names = ("points", "rotation", "translation", "scale", "box", "data", "weight", "factor")
    inputs = values | {"rotation": pose.rotation, "translation": pose.translation}
    objective, _ = pose_derivatives(
        values["spectrum"], *(inputs[name] for name in names), values["shift_precision"],
        gradient, normal,
    )  # fmt: skip

    w, f = values["weight"].astype(float), values["factor"].astype(float)
    y, points = values["data"].astype(complex), values["points"]

    def posed(step):
        turn = Rotation.from_rotvec(step[:3]).as_matrix() @ pose.rotation
        shift = pose.translation + step[3:]
        sliced = naive.slice_spectrum(values["spectrum"].astype(complex), points, turn, PADDING)
        return sliced * naive.phase_factors(points, shift, n), shift

    def objective_at(step):
        s, shift = posed(step)
        cross = (f * (np.conj(s) * y).real).sum()
        return (
            0.5 * (f * w * abs(s) ** 2).sum()
            - cross
            + 0.5 * values["shift_precision"] * shift @ shift
        )

    assert objective == pytest.approx(objective_at(np.zeros(6)), rel=1e-5)
    h = 1e-5
    steps = h * np.eye(6)
    expected = [(objective_at(step) - objective_at(-step)) / (2 * h) for step in steps]
    size = np.abs(expected).max()
    np.testing.assert_allclose(gradient, expected, atol=1e-3 * size)
    jacobian = np.array([(posed(step)[0] - posed(-step)[0]) / (2 * h) for step in steps])
    gauss_newton = np.einsum("aj,bj,j->ab", jacobian.conj(), jacobian, f * w).real
    gauss_newton[3:, 3:] += values["shift_precision"] * np.eye(3)
    np.testing.assert_allclose(normal, gauss_newton, atol=1e-3 * np.abs(gauss_newton).max())
    np.testing.assert_array_equal(normal, normal.T)


@pytest.mark.parametrize("phantom", [None, DETAILED])
@pytest.mark.parametrize("n", [24, 25])
def test_the_true_pose_is_recovered_from_some_degrees_away(n, phantom):
    rng = np.random.default_rng(1)
    for index in range(3):
        particle, references = problem(n, index=index, phantom=phantom)
        truth = particle.previous
        start = away(truth, rng, rng.uniform(4.0, 6.0), 0.7)
        _, after = refined(particle, references, start)
        assert rotation_angle_deg(after.rotations[0], truth.rotation) < 0.3
        assert np.linalg.norm(after.translations[0] - truth.translation) < 0.05


@given(
    n=boxes(),
    rotation=rotations(),
    noise=st.floats(0.0, 5.0),
    seed=st.integers(0, 50),
    voxels=st.floats(0.0, 2.0),
)
def test_no_pose_is_worse_than_it_was(n, rotation, noise, seed, voxels):
    particle, references = problem(n, noise=noise, sigma=max(noise, 0.1), seed=seed)
    start = away(replace(particle.previous, rotation=rotation), np.random.default_rng(0), 0, voxels)
    near = away(particle.previous, np.random.default_rng(seed), 8.0, voxels)
    before, after = refined(particle, references, start, near, max_shift=4.0)
    was, now = (objectives(particle, references, s) for s in (before, after))
    assert (now <= was).all()
    turned = rotation_angle_deg(after.rotations, before.rotations)
    assert (turned <= np.degrees(references.rotation_plan.spacing_rad) + 1e-6).all()
    assert (np.linalg.norm(after.translations, axis=1) <= 4.0 + 1e-9).all()
    orthogonal = after.rotations @ after.rotations.transpose(0, 2, 1)
    np.testing.assert_allclose(orthogonal, np.broadcast_to(np.eye(3), (2, 3, 3)), atol=1e-9)
    squared = references.squared_residuals(
        particle, after.classes, after.rotations, after.translations
    )
    np.testing.assert_array_equal(after.squared_residuals, squared)
    np.testing.assert_array_equal(after.log_volumes, before.log_volumes)
    np.testing.assert_array_equal(after.classes, before.classes)


def test_the_largest_shift_is_kept_while_the_rotation_goes_on():
    particle, references = problem(24)
    truth = particle.previous
    limit = 0.8 * float(np.linalg.norm(truth.translation))
    start = away(replace(truth, translation=0.9 * limit / np.linalg.norm(truth.translation)
                         * truth.translation), np.random.default_rng(3), 5.0, 0.0)  # fmt: skip
    _, after = refined(particle, references, start, max_shift=limit)
    assert np.linalg.norm(after.translations[0]) == pytest.approx(limit, abs=1e-9)
    assert rotation_angle_deg(after.rotations[0], truth.rotation) < 3.0
    _, still = refined(particle, references, replace(start, translation=np.zeros(3)), max_shift=0.0)
    np.testing.assert_array_equal(still.translations, 0.0)


@pytest.mark.parametrize("trust_deg", [0.5, 2.0])
def test_the_rotation_stays_within_the_trust_radius(trust_deg):
    particle, references = problem(24)
    start = away(particle.previous, np.random.default_rng(4), 6.0, 0.3)
    rotation, translation = start.rotation.copy(), start.translation.copy()
    values = kernel_arguments(particle, references)
    gain = refine_pose(*values.values(), np.radians(trust_deg), FAR, 6, rotation, translation)
    assert gain > 0
    turned = rotation_angle_deg(rotation, start.rotation)
    assert 0.9 * trust_deg < turned <= trust_deg + 1e-6


def test_a_rotation_outside_the_local_angle_is_discarded():
    particle, references = problem(24)
    truth = particle.previous
    start = away(truth, np.random.default_rng(5), 5.0, 0.3)
    local = replace(particle, input_pose=start)
    before, kept = refined(local, references, start, local=2.0)
    np.testing.assert_array_equal(kept.rotations, before.rotations)
    np.testing.assert_array_equal(kept.translations, before.translations)
    _, free = refined(local, references, start, local=8.0)
    assert rotation_angle_deg(free.rotations[0], truth.rotation) < 0.5


def test_a_reference_without_structure_leaves_the_pose():
    particle, references = problem(16)
    model = replace(references.model, volumes=np.zeros((1, 16, 16, 16), np.float32))
    flat = References(model, references.grid, 8)
    start = away(particle.previous, np.random.default_rng(6), 5.0, 0.7)
    before, after = refined(particle, flat, start)
    np.testing.assert_array_equal(after.rotations, before.rotations)
    np.testing.assert_array_equal(after.translations, before.translations)
    assert np.isfinite(after.squared_residuals).all()


def test_a_round_reference_is_no_harm():
    particle, references = problem(16)
    n = 16
    radius2 = ((np.indices((n, n, n)) - n // 2) ** 2).sum(axis=0)
    ball = np.exp(-radius2 / 8.0).astype(np.float32)[None]
    round_ = References(replace(references.model, volumes=ball), references.grid, 8)
    before, after = refined(particle, round_, particle.previous)
    assert np.isfinite(after.rotations).all()
    assert objectives(particle, round_, after)[0] <= objectives(particle, round_, before)[0]


def test_only_poses_that_carry_weight_move():
    particle, references = problem(24)
    rng = np.random.default_rng(7)
    near, far = away(particle.previous, rng, 4.0, 0.3), away(particle.previous, rng, 90.0, 1.5)
    before, after = refined(particle, references, far, near)
    np.testing.assert_array_equal(after.rotations[0], before.rotations[0])
    assert rotation_angle_deg(after.rotations[1], particle.previous.rotation) < 0.5


# ---------------------------------------------------------------------- runs


N_RUN, NOISE = 24, 0.1
COARSE = {"max_bandwidth": 8, "keep_previous": 0, "max_shift_voxels": FAR, "max_candidates": 12,
          "voronoi_samples": 300}  # fmt: skip
"""Little noise, a low band limit, no previous poses: the grid limits the poses."""


def finished(*, strategy, threads):
    """The last state of a refined run from the true poses."""
    particles, _ = simulated(
        n=N_RUN, count=8, noise=NOISE, weight=soft_weight(N_RUN), seed=8, phantom=DETAILED
    )
    config = build_config(
        threads=threads,
        search=COARSE | {"strategy": strategy},
        em={"iterations": 1, "start": "poses", "seed": 2, "chunk_size": 2, "max_shell": 8},
    )
    run = EmRun(particles, config)
    *_, last = run.states()
    return run.finish(last)


@pytest.mark.parametrize("strategy", ["fa", "faml"])
def test_a_run_ends_with_smaller_pose_errors_in_its_star_file(tmp_path, strategy):
    tilts = (-50.0, 70.0)
    particles, _ = simulated(
        n=N_RUN, count=16, noise=NOISE, weight=wedge_weight(N_RUN, tilts), seed=8, phantom=DETAILED
    )
    folder = tmp_path / "particles"
    folder.mkdir()
    for index, name in enumerate(particles.names):
        write_volume(folder / f"{name}.mrc", particles.volume(index), 10.0)
    # The true structure as the start keeps the frame in which the poses are known.
    write_volume(tmp_path / "start.mrc", blobs(N_RUN, **DETAILED), 10.0)
    errors = []
    for refine in (False, True):
        result = faml.run(
            [str(folder)],
            tmp_path / f"run-{refine}",
            data={"tilt_range_deg": tilts, "normalise": "never"},
            search=COARSE | {"proposal": "amplitude", "strategy": strategy, "refine": refine},
            em={"iterations": 1, "start": str(tmp_path / "start.mrc"), "max_shell": 8},
        )
        found = star_poses(read_star(result.star), 10.0)
        turns = rotation_angle_deg(found.rotations, particles.poses.rotations)
        moves = np.linalg.norm(found.translations - particles.poses.translations, axis=1)
        errors.append((np.median(turns), np.median(moves)))
    (turn_before, move_before), (turn_after, move_after) = errors
    assert turn_before < 10.0  # all are found, which a median error of lost ones would not tell
    assert turn_after < 0.5 * turn_before
    assert move_after < 0.8 * move_before


@pytest.mark.parametrize("strategy", ["fa", "faml"])
def test_threads_do_not_matter(strategy):
    one = finished(strategy=strategy, threads=1)
    two = finished(strategy=strategy, threads=2)
    assert_states_equal(one, two)


def test_iterations_are_not_refined():
    states = []
    for refine in (False, True):
        particles, _ = simulated(n=16, count=4, seed=8)
        search = {"strategy": "fa", "refine": refine, "max_bandwidth": 6}
        run = EmRun(particles, build_config(search=search, em={"iterations": 1, "start": "poses"}))
        *_, last = run.states()
        states.append(last)
    assert_states_equal(*states)


@pytest.mark.parametrize(
    ("preset", "option", "expected"),
    [
        ("robust", None, True),
        ("robust", False, False),
        ("paper", None, False),
        ("paper", True, True),
    ],
)
def test_the_option_wins_over_the_preset(preset, option, expected):
    settings = merged_settings(
        None, preset=preset, threads=1, data={}, search={"refine": option}, em={}
    )
    assert build_config(**settings).search.refine is expected
