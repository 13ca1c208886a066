"""Proposals and strategies: what they find, how it is weighted, and what they do without."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from phantoms import blobs, simulated

from faml.config import SearchConfig
from faml.conventions import rotation_angle_deg
from faml.em.balance import support_of_each_class
from faml.em.expectation import summarise
from faml.errors import ConfigurationError
from faml.model import Model
from faml.particles import wedge_weight
from faml.particles.view import ParticleViews, Pose
from faml.references import References
from faml.strategies.base import SearchContext
from faml.strategies.faml import VoronoiWeights
from faml.strategies.proposals import AmplitudeProposal, create_proposal
from faml.strategies.registry import available_strategies, create_strategy
from faml.transforms.fourier import fourier_grid, full_resolution_shell
from faml.transforms.rotations import random_rotations

N = 18
SHIFT_VOXELS = 3.0
BOTH = pytest.mark.parametrize("name", ["fa", "faml"])


def context(**search):
    defaults = {"voronoi_samples": 400, "max_candidates": 15, "proposal": "amplitude"}
    settings = SearchConfig(**defaults | search)
    return SearchContext(
        settings, N, SHIFT_VOXELS, seed=3, radius_voxels=0.3 * N, last_shell=8, classes=1
    )


def problem(*, flat=False, classes=1, previous=None, input_pose=None):
    """One noisy particle of the last class, and the model it came from (or one of zeros)."""
    particles, _ = simulated(
        n=N, count=classes, noise=0.4, weight=wedge_weight(N, (-50, 70)), seed=5,
        phantom_seeds=tuple(range(classes)),
    )  # fmt: skip
    if input_pose is not None:
        turns = np.repeat(input_pose[None], classes, axis=0)
        particles = replace(particles, poses=replace(particles.poses, rotations=turns))
    shells = full_resolution_shell(N) + 1
    model = Model(
        volumes=np.stack([0.0 * blobs(N) if flat else blobs(N, seed=k) for k in range(classes)]),
        class_fractions=np.full(classes, 1.0 / classes),
        noise_variance=np.full(shells, 0.16),
        signal_power=np.ones((classes, shells)),
        shift_variance=1.0,
    )
    grid = fourier_grid(N, 5, 6)
    pose = previous or Pose(classes - 1, np.eye(3), np.array([0.5, -1.0, 0.25]))
    particle = ParticleViews(particles, grid).particle(classes - 1, pose, range(classes))
    return particle, References(model, grid, 10)


def rng():
    return np.random.default_rng(7)


@pytest.mark.parametrize("local", [None, 40.0])
def test_residuals_of_the_search_are_those_of_the_model(local):
    """The E-step takes them from the search; computing them again gives the same numbers."""
    particle, references = problem(classes=2)
    found = create_proposal(context(local_angle_deg=local)).propose(particle, references, rng())
    assert set(found.classes) == {0, 1}
    again = references.squared_residuals(
        particle, found.classes, found.rotations, found.translations
    )
    np.testing.assert_allclose(found.squared_residuals, again, rtol=1e-4)
    power = references.data_power(particle)
    assert (np.abs(found.scores) <= 1).all()
    assert (found.squared_residuals >= power * (1 - found.scores**2) * (1 - 1e-3)).all()


def test_amplitude_candidates_are_apart_and_include_the_previous_pose():
    previous = Pose(0, random_rotations(1, rng()).as_matrix()[0], np.zeros(3))
    particle, references = problem(previous=previous)
    found = AmplitudeProposal(context(keep_previous=0)).propose(particle, references, rng())
    spacing = np.rad2deg(references.rotation_plan.spacing_rad)
    for i in range(1, len(found)):
        assert rotation_angle_deg(found.rotations[:i], found.rotations[i]).min() > spacing
    near = AmplitudeProposal(context(keep_previous=5)).propose(particle, references, rng())
    angles = rotation_angle_deg(near.rotations[-5:], previous.rotation)
    assert angles[0] == pytest.approx(0.0, abs=1e-5)
    assert (angles <= spacing * 1.001).all()
    assert len(near) == len(found) + 5
    exploring = References(references.model, references.grid, 10, exploration=1.0)
    alone = AmplitudeProposal(context(keep_previous=5)).propose(particle, exploring, rng())
    assert len(alone) == len(found)


def test_local_candidates_stay_around_the_input_pose():
    turns = random_rotations(2, rng()).as_matrix()
    # The best pose so far lies outside the ball: it must not carry the search away.
    particle, references = problem(input_pose=turns[0], previous=Pose(0, turns[1], np.zeros(3)))
    found = create_proposal(context(local_angle_deg=12.0)).propose(particle, references, rng())
    assert 1 < len(found) <= 15
    assert (rotation_angle_deg(found.rotations, turns[0]) <= 12.0 + 1e-6).all()
    assert (np.linalg.norm(found.translations, axis=1) <= SHIFT_VOXELS + 1e-6).all()


@BOTH
def test_empty_candidate_list_falls_back_to_the_previous_pose(name):
    previous = Pose(1, random_rotations(1, rng()).as_matrix()[0], np.array([1.0, 0.0, -2.0]))
    particle, references = problem(flat=True, classes=2, previous=previous)
    strategy = create_strategy(name, context(keep_previous=0))
    support = strategy.support(particle, references, rng())
    assert support.fallback
    assert list(support.classes) == [1]
    np.testing.assert_array_equal(support.rotations[0], previous.rotation)
    np.testing.assert_array_equal(support.translations[0], previous.translation)
    assert summarise(support, np.zeros(1), 0.0, 0.0, 2).fallback
    each = support_of_each_class(particle, references, strategy, rng())
    assert each.fallback
    assert list(each.classes) == [0, 1]


@pytest.mark.parametrize("proposal", ["amplitude", pytest.param("phase", marks=pytest.mark.slow)])
def test_fa_takes_the_best_correlation_of_all_classes(proposal):
    particle, references = problem(classes=3)
    settings = context(proposal=proposal)
    support = create_strategy("fa", settings).support(particle, references, rng())
    found = create_proposal(settings).propose(particle, references, rng())
    best = int(np.argmax(found.scores))
    assert len(support) == 1
    assert support.classes[0] == found.classes[best] == 2
    np.testing.assert_array_equal(support.rotations[0], found.rotations[best])
    each = support_of_each_class(particle, references, create_strategy("fa", context()), rng())
    assert list(each.classes) == [0, 1, 2]
    assert each.squared_residuals is not None


def test_voronoi_weights_sum_to_the_volume_sampled():
    turns = random_rotations(9, rng()).as_matrix()
    moves = np.random.default_rng(8).uniform(-2, 2, (9, 3))
    moves[:, 1] = 0.3  # no extent along y: one step of the search grid stands for it
    extent = np.ptp(moves, axis=0)
    fractions = VoronoiWeights(context(voronoi_volume="normalised"))
    volumes = VoronoiWeights(context(voronoi_volume="region"))
    one = np.exp(fractions.log_volumes(turns, moves, 0.5))
    assert one.sum() == pytest.approx(1.0)
    assert (one > 0).all()
    whole = np.exp(volumes.log_volumes(turns, moves, 0.5))
    assert whole.sum() == pytest.approx(extent[0] * 0.5 * extent[2])
    assert np.exp(fractions.log_volumes(turns[:1], moves[:1], 0.5)) == pytest.approx(1.0)


def test_each_class_has_its_own_cells():
    """Candidates of one class say nothing about the cells of another."""
    particle, references = problem(classes=2)
    strategy = create_strategy("faml", context(voronoi_volume="normalised"))
    support = strategy.support(particle, references, rng())
    for k in (0, 1):
        assert np.exp(support.log_volumes[support.classes == k]).sum() == pytest.approx(1.0)


def test_registry_lists_what_is_installed_and_refuses_the_rest():
    assert {"fa", "faml"} <= set(available_strategies())
    with pytest.raises(ConfigurationError, match=r"unknown strategy 'best'.*fa, faml"):
        create_strategy("best", context())
    with pytest.raises(ConfigurationError, match=r"unknown proposal 'guess'.*amplitude"):
        create_strategy("fa", context(proposal="guess"))


def test_tables_in_use_outlive_many_weights():
    """What every particle needs is not made again because weights come and go."""
    _, references = problem()
    made = []
    for weight in range(200):
        references.shared("average", lambda: made.append("average"))
        references.shared(("weight", weight), lambda: None)
    assert made == ["average"]
    references.shared(("weight", 0), lambda: made.append("weight"))
    assert made == ["average", "weight"]  # those of old weights are given up
