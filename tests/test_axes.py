"""Symmetry imposed late, on the axes that averages show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from phantoms import blobs, simulated
from runs import assert_states_equal

from faml.config import build_config
from faml.em.axes import iterations_without_symmetry, onto_axes
from faml.em.loop import EmRun
from faml.errors import ConfigurationError
from faml.metrics.align import align_volume
from faml.metrics.fsc import pearson
from faml.metrics.resample import transform_volume
from faml.particles import wedge_weight
from faml.results import doubt_symmetry
from faml.symmetry import point_group

AXES = {"seed": 0, "count": 6, "spread": 0.2, "sigma": 0.045}


def free_run(name, particles, **em):
    config = build_config(
        em={"symmetry": name, "iterations": 9, "exploration": 6, "seed": 3} | em,
        search={"max_shift_voxels": 2.6, "max_candidates": 15, "search_shell": 6},
    )
    return EmRun(particles, config)


def c3_particles(count=20, noise=0.5):
    return simulated(
        n=24, count=count, weight=wedge_weight(24, (-50.0, 70.0)), noise=noise, seed=1,
        symmetry=point_group("C3").rotations, phantom=AXES,
    )[0]  # fmt: skip


def test_when_symmetry_is_imposed():
    def first(**em):
        return iterations_without_symmetry(build_config(em=em).em)

    assert first(symmetry="C3", exploration=7) == 7
    assert first(symmetry="C3", symmetry_after=2) == 2
    assert first(symmetry="C1") == 0
    assert first(symmetry="C3", start="poses") == 0


@pytest.mark.parametrize(
    ("em", "message"),
    [
        ({"symmetry_after": 3}, "symmetry_after is for a symmetry"),
        ({"symmetry_after": 3, "symmetry": "C3", "start": "poses"}, "symmetry_after is for"),
        ({"symmetry": "C3", "mask": "mask.mrc"}, "leave out --mask"),
        ({"similarity": 1.0}, "--similarity is for several classes"),
        ({"similarity": 1.0, "classes": 2, "update": "impute"}, "for the update `ratio`"),
    ],
)
def test_settings_that_others_make_meaningless(em, message):
    with pytest.raises(ConfigurationError, match=message):
        build_config(em=em)


@pytest.mark.slow
def test_a_run_does_not_end_before_its_symmetry():
    """However still it stands: without exploration it may stop at any iteration."""
    run = free_run("C3", c3_particles(count=6, noise=0.2), exploration=0, symmetry_after=6)
    states = list(run.states())
    assert [state.symmetry for state in states[:7]] == ["C1"] * 7
    assert not any(state.stop_reason for state in states[:7])
    assert states[-1].symmetry == "C3"


@pytest.mark.slow
def test_symmetry_imposed_on_random_orientations_may_fix_axes_that_are_none():
    """With this seed it does; with axes found on averages that have formed without it does not."""
    particles = c3_particles()
    truth = sum(blobs(24, turn, **AXES) for turn in point_group("C3").rotations)

    def reached(after):
        run = free_run("C3", particles, symmetry_after=after)
        *_, state = run.states()
        assert state.symmetry == "C3"
        volume = run.finish(state).model.volumes[0]
        return align_volume(volume, truth, max_shift_voxels=3).correlation

    assert reached(0) < 0.9
    assert reached(None) > 0.95


@pytest.mark.parametrize("half_sets", [False, True])
def test_turning_onto_the_axes_leaves_what_each_particle_is_compared_to(half_sets):
    particles = c3_particles(count=8, noise=0.2)
    run = free_run("C3", particles, start="poses", symmetry="C1", iterations=0, half_sets=half_sets)
    (state,) = run.states()
    turned = onto_axes(state, point_group("C3"))
    assert turned.symmetry == "C3"
    assert len(turned.half_models) == len(state.half_models)
    pairs = [(state.model, turned.model), *zip(state.half_models, turned.half_models, strict=True)]
    for before, after in pairs:
        for i in range(len(particles)):
            old, new = state.assignments, turned.assignments
            assert (
                pearson(
                    transform_volume(before.volumes[0], old.rotations[i], old.translations[i]),
                    transform_volume(after.volumes[0], new.rotations[i], new.translations[i]),
                )
                > 0.99
            )
    volume = turned.model.volumes[0]
    for rotation in point_group("C3").rotations:
        assert pearson(transform_volume(volume, rotation, np.zeros(3)), volume) > 0.95


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "right"), [("C3", True), ("C4", False), ("C5", False), ("C6", False), ("D3", False)]
)
def test_a_symmetry_that_averages_do_not_show_is_doubted(name, right):
    """However symmetric they are afterwards; with axes to be found, and with given ones."""
    particles = c3_particles()
    run = free_run("C3", particles, start="poses", symmetry="C1", iterations=0)
    (free,) = run.states()
    turned = onto_axes(free, point_group(name))
    (given,) = free_run(name, particles, start="poses", iterations=0).states()
    for state in (turned, given):
        (seen,) = state.symmetry_seen
        assert seen.evident == right
        doubts = doubt_symmetry(state)
        assert len(doubts) == (0 if right else 1)
        assert all(f"Nothing speaks for {name}" in doubt for doubt in doubts)


def test_an_empty_class_has_no_axes():
    particles = c3_particles(count=4)
    run = free_run("C3", particles, start="poses", symmetry="C1", iterations=0)
    (state,) = run.states()
    blank_volume = replace(state.model, volumes=np.zeros_like(state.model.volumes))
    turned = onto_axes(replace(state, model=blank_volume), point_group("C3"))
    assert not turned.model.volumes.any()
    assert not doubt_symmetry(turned)
    np.testing.assert_array_equal(turned.assignments.rotations, state.assignments.rotations)


@pytest.mark.slow
def test_resuming_before_and_after_symmetry_is_imposed_changes_nothing():
    particles = c3_particles(count=8)
    states = list(free_run("C3", particles, iterations=4, symmetry_after=2).states())
    assert [state.symmetry for state in states] == ["C1", "C1", "C1", "C3", "C3"]
    for begun in (1, 2, 3):
        run = free_run("C3", particles, iterations=4, symmetry_after=2)
        *_, last = run.states(states[begun])
        assert_states_equal(last, states[-1])


@pytest.mark.slow
def test_a_run_that_ends_before_is_symmetric_all_the_same():
    run = free_run("C3", c3_particles(count=8, noise=0.2), iterations=1)
    *_, state = run.states()
    assert state.symmetry == "C1"
    final = run.finish(state)
    assert final.symmetry == "C3"
    volume = final.model.volumes[0]
    turned = transform_volume(volume, point_group("C3").rotations[1], np.zeros(3))
    assert pearson(turned, volume) > 0.98
