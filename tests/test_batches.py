"""Batches: what an iteration visits, what it leaves alone, and that structures still come out."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from phantoms import simulated
from runs import EM, SEARCH, assert_states_equal

from faml.config import build_config
from faml.em.batches import batch_of, in_batches
from faml.em.loop import EmRun
from faml.em.running import after_batch
from faml.em.statistics import Statistics
from faml.em.workers import Threads
from faml.errors import ConfigurationError
from faml.io.checkpoint import HDF5Checkpoint, read_run
from faml.particles import wedge_weight
from faml.transforms.fourier import fourier_grid

N = 40


@pytest.fixture(scope="module")
def particles():
    weight = wedge_weight(16, (-60.0, 45.0))
    return simulated(n=16, count=N, weight=weight, noise=0.5, seed=2)[0]


def config(**em):
    return build_config(search=SEARCH, em=EM | {"iterations": 4, "exploration": 3} | em)


def groups(*sizes):
    order = np.random.default_rng(0).permutation(sum(sizes))
    return tuple(np.sort(part) for part in np.split(order, np.cumsum(sizes)[:-1]))


def test_batches_are_for_starts_without_poses():
    with pytest.raises(ConfigurationError, match="--batch is for a start without poses"):
        config(batch=100, start="poses")


def test_first_iterations_visit_batches_and_the_others_all():
    em = config(batch=100, batch_iterations=3).em
    sizes = [sum(map(len, batch_of(groups(500, 500), i, 0, em))) for i in range(6)]
    assert sizes == [1000, 100, 100, 100, 1000, 1000]
    assert [in_batches(i, 1000, em) for i in range(6)] == [size < 1000 for size in sizes]


def test_every_group_has_its_share_in_its_order():
    em = config(batch=101).em
    split = groups(600, 300, 100)
    drawn = batch_of(split, 1, 5, em)
    assert [len(part) for part in drawn] == [61, 30, 10]
    for part, members in zip(drawn, split, strict=True):
        assert np.isin(part, members).all()
        assert (np.diff(part) > 0).all()
    again, later, other = (batch_of(split, *which, em) for which in ((1, 5), (2, 5), (1, 6)))
    assert all(np.array_equal(a, b) for a, b in zip(drawn, again, strict=True))
    for another in (later, other):
        assert not any(np.array_equal(a, b) for a, b in zip(drawn, another, strict=True))


def test_small_groups_are_not_drawn_empty():
    drawn = batch_of(groups(990, 9, 1), 1, 0, config(batch=10).em)
    assert [len(part) for part in drawn] == [10, 8, 1]


@pytest.mark.parametrize("batch", [N, 1000])
def test_a_batch_of_all_is_none(particles, batch):
    states = [list(EmRun(particles, config(batch=b, iterations=2)).states()) for b in (None, batch)]
    for mine, theirs in zip(*states, strict=True):
        assert_states_equal(mine, theirs)


@pytest.mark.parametrize(
    "em",
    [{"folds": 3}, {"folds": 3, "classes": 2, "balance": 2}, {"half_sets": True, "folds": 1}],
)
def test_others_keep_what_they_had(particles, em):
    run = EmRun(particles, config(batch=16, iterations=1, **em))
    before, after = run.states()
    visited = np.concatenate(batch_of(run._groups.members, 1, EM["seed"], run.config.em))
    assert 16 <= len(visited) < N
    rest = np.setdiff1d(np.arange(N), visited)
    for field in fields(before.assignments):
        a, b = (getattr(state.assignments, field.name) for state in (before, after))
        # Poses of halves are moved into one frame.
        if not (run.config.em.half_sets and field.name in ("rotations", "translations")):
            np.testing.assert_array_equal(a[rest], b[rest], err_msg=field.name)
    found = after.assignments.log_likelihoods
    assert (found[visited] != before.assignments.log_likelihoods[visited]).all()
    wanted = found[visited].sum() * N / len(visited)
    np.testing.assert_allclose(after.log_likelihood, wanted, rtol=1e-12)


def test_resumed_and_with_threads_it_is_the_same(particles, tmp_path):
    """Also through the file, whose sums grow with the resolution."""
    settings = config(batch=24, batch_iterations=3, classes=2, first_shell=2)
    path = tmp_path / "run.h5"
    whole = list(EmRun(particles, settings).states())
    assert len({state.running.sum_shell for state in whole[1:4]}) > 1
    assert [state.running is None for state in whole] == [True, False, False, False, True]
    checkpoint = HDF5Checkpoint(path, settings, particles)
    for number, state in enumerate(whole):
        checkpoint.save(state)
        stored = read_run(path).state
        assert_states_equal(stored, state)
        if number == 2:
            run = EmRun(particles, settings, workers=Threads(3))
            for mine, theirs in zip(whole[3:], run.states(resume_from=stored), strict=True):
                assert_states_equal(mine, theirs)


def test_no_run_converges_in_batches(particles):
    """Likelihoods of two batches are not compared."""
    settings = config(batch=16, batch_iterations=2, exploration=0, iterations=3)
    states = list(EmRun(particles, settings).states())
    assert [(state.stop_reason, state.stalled) for state in states] == [("", 0)] * 4


@pytest.mark.parametrize("em", [{"half_sets": True, "folds": 1}, {"symmetry": "C2"}])
def test_sums_do_not_outlive_their_frame(particles, em):
    settings = config(batch=16, exploration=1, iterations=2, **em)
    _, first, second = EmRun(particles, settings).states()
    if "symmetry" in em:  # imposed in the second iteration, on axes it has found
        assert (first.symmetry, second.symmetry) == ("C1", "C2")
        assert (first.running.steps, second.running.steps) == (1, 1)
    else:  # the second half is turned onto the first
        assert first.running is None


@pytest.mark.parametrize("grown", [0, 1, 5])
def test_sums_have_the_noise_of_as_many_particles(grown):
    """Particles keep their noise, and some come again; shells join with the last batches."""
    rng, pool, size, steps = np.random.default_rng(1), 200, 40, 12
    coarse, fine = fourier_grid(16, 3, 4), fourier_grid(16, 4, 6)
    found = []
    for _ in range(400):
        noise = rng.normal(size=(pool, fine.sum_shell + 1))
        running = None
        for step in range(steps):
            grid = fine if step >= steps - grown or grown == 0 else coarse
            drawn = noise[rng.permutation(pool)[:size]]
            sums = Statistics.zeros(1, grid, total=True)
            sums.residual[:] = drawn.sum(axis=0)[: grid.sum_shell + 1]
            sums.observed[:] = sums.particles = size
            running = after_batch(running, (sums,), grid)
        (effective,) = running.sums([pool])
        found.append(effective.residual / effective.observed)
    expected = running.particles([pool])[0]
    np.testing.assert_allclose(np.var(found, axis=0) * expected, 1.0, atol=0.3)
    np.testing.assert_allclose(effective.observed, expected)
    assert effective.particles == pytest.approx(expected[0])
    assert size < expected[0] < pool
    assert (expected[5] < expected[0]) == (grown > 0)


def test_a_shell_that_joined_is_scaled_by_itself():
    """Numerator and denominator of all points in it, and nothing else."""
    coarse, fine = fourier_grid(16, 3, 4), fourier_grid(16, 4, 6)
    running = None
    for grid in (coarse, coarse, fine):
        sums = Statistics.zeros(1, grid, total=True)
        for name in ("numerator", "denominator", "observed"):
            getattr(sums, name)[...] = 50.0
        sums.particles = 50.0
        running = after_batch(running, (sums,), grid)
    (found,) = running.sums([400])
    wanted = running.particles([400])[0]
    radius = 0.5 * np.linalg.norm(fine.weight_points, axis=1)
    inner, outer = radius < 4.4, radius > 5.6
    np.testing.assert_allclose(found.denominator[0, inner], wanted[0])
    np.testing.assert_allclose(found.denominator[0, outer], wanted[6])
    q = fine.padded_reach
    np.testing.assert_allclose(found.numerator[0, q, q, :9], wanted[0])
    np.testing.assert_allclose(found.numerator[0, q, q, 12:], wanted[6])
    assert wanted[6] < 0.9 * wanted[0]


def test_sums_move_to_finer_grids():
    rng = np.random.default_rng(2)
    coarse, fine = fourier_grid(17, 3, 4), fourier_grid(17, 4, 6)
    values = rng.normal(size=Statistics.zeros(2, coarse, total=True).as_vector().size)
    sums = Statistics.from_vector(values, 2, coarse)
    np.testing.assert_array_equal(sums.as_vector(), values)
    sums.particles = 10.0
    running = after_batch(None, (sums,), coarse)
    empty = Statistics.zeros(2, fine, total=True)
    empty.particles = 10.0
    moved = after_batch(running, (empty,), fine).means[0]
    scale = (1.0 - 3.0**-0.6) / 10.0
    for old, new in zip(coarse.weight_points, sums.denominator.T, strict=True):
        (there,) = np.nonzero((fine.weight_points == old).all(axis=1))[0]
        np.testing.assert_allclose(moved.denominator[:, there], scale * new)
    q, p = coarse.padded_reach, fine.padded_reach
    for kz, ky, kx in rng.integers((-q, -q, 0), q + 1, size=(50, 3)):
        np.testing.assert_allclose(
            moved.numerator[:, p + kz, p + ky, kx], scale * sums.numerator[:, q + kz, q + ky, kx]
        )
    assert np.abs(moved.numerator).sum() == pytest.approx(scale * np.abs(sums.numerator).sum())
    with pytest.raises(ValueError, match=r"expected .+ numbers, found"):
        Statistics.from_vector(np.append(values, 1.0), 2, coarse)


def test_all_particles_have_poses_in_the_end(particles):
    run = EmRun(particles, config(batch=8, batch_iterations=5, folds=1, iterations=7))
    *_, last = run.states()
    final = run.finish(last)
    assert (final.assignments.log_evidences > 0).mean() > 0.9
    assert final.model.class_fractions.sum() == pytest.approx(1.0)
