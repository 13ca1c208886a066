"""Folds: what a particle is aligned to does not contain the particle."""

from __future__ import annotations

from dataclasses import replace

import h5py
import numpy as np
import pytest
from phantoms import DETAILED, simulated
from runs import assert_states_equal, settings, write_folder
from scipy.spatial.transform import Rotation

import faml
from faml.config import build_config
from faml.conventions import rotation_angle_deg
from faml.em.folds import folds_of, split_into_folds
from faml.em.loop import EmRun
from faml.em.search import FixedPose
from faml.em.statistics import total_of
from faml.errors import ConfigurationError
from faml.io.checkpoint import HDF5Checkpoint, read_run
from faml.metrics.fsc import pearson
from faml.metrics.labels import pose_errors_deg
from faml.particles import wedge_weight
from faml.particles.particle_set import MemoryReader
from faml.transforms.fourier import fourier_grid

QUICK = {"search_shell": 5, "max_candidates": 8, "voronoi_samples": 300, "max_shift_voxels": 2.0}
WEIGHT = wedge_weight(16, (-50, 65))


def particles_of(count=9, noise=0.4, seed=3, **more):
    return simulated(n=16, count=count, noise=noise, weight=WEIGHT, seed=seed, **more)[0]


def run_of(particles, *, threads=1, strategy="faml", **em):
    config = build_config(
        em={"iterations": 2, "seed": 5, "chunk_size": 2, "folds": 3} | em,
        search=QUICK | {"strategy": strategy},
        threads=threads,
    )
    return EmRun(particles, config)


def test_a_split_is_even_complete_and_repeatable():
    parts = split_into_folds(11, 4, seed=2)
    assert sorted(len(part) for part in parts) == [2, 3, 3, 3]
    assert sorted(np.concatenate(parts)) == list(range(11))
    for a, b in zip(parts, split_into_folds(11, 4, seed=2), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(
        len(a) != len(b) or (a != b).any()
        for a, b in zip(parts, split_into_folds(11, 4, seed=3), strict=True)
    )


def test_more_folds_than_particles_are_refused():
    with pytest.raises(ConfigurationError, match="found 10 folds for 9 particles; lower --folds"):
        run_of(particles_of(), folds=10)


@pytest.mark.parametrize(
    ("given", "count", "folds"),
    [(None, 50, 5), (None, 4, 4), (None, 3, 3), (None, 2, 1), (None, 1, 1), (1, 9, 1), (8, 9, 8)],
)
def test_how_many_folds_there_are(given, count, folds):
    assert folds_of(given, count) == folds


@pytest.mark.parametrize("half_sets", [False, True])
def test_the_last_pass_sums_whole_halves(half_sets):
    """Folds are many, and at full resolution their sums are what takes memory."""
    run = run_of(particles_of(), start="poses", half_sets=half_sets)
    *_, state = run.states()
    grid = fourier_grid(16, state.align_shell, state.align_shell)

    def sums(*, last):
        return run._pass(
            state.references, grid, FixedPose(run._context), state.assignments, 3, last=last
        ).sums

    folds, wholes = sums(last=False), sums(last=True)
    assert len(folds) == 3 * len(wholes) == 3 * len(run.halves)
    for half, whole in enumerate(wholes):
        expected = total_of(folds[3 * half : 3 * half + 3])
        scale = np.abs(expected.numerator).max()
        np.testing.assert_allclose(whole.numerator, expected.numerator, atol=1e-6 * scale)
        np.testing.assert_allclose(whole.residual, expected.residual, rtol=1e-6)
        assert whole.particles == expected.particles


def test_two_folds_from_nothing_are_refused():
    """Aligned to each other's average alone, the two never share a frame."""
    for start in ("random", "average"):
        with pytest.raises(ConfigurationError, match=r"at least 3 folds.*found 2"):
            run_of(particles_of(), folds=2, start=start)
    *_, state = run_of(particles_of(shifts=0.8), folds=2, start="poses", iterations=1).states()
    assert len(state.fold_models) == 2


@pytest.mark.slow
def test_averages_of_folds_share_a_frame():
    particles = simulated(
        n=24, count=24, noise=0.3, weight=wedge_weight(24, (-55, 65)), seed=12, shifts=1.0,
        phantom=DETAILED,
    )[0]  # fmt: skip
    config = build_config(
        em={"iterations": 14, "seed": 3, "folds": 4},
        search={"strategy": "fa", "max_candidates": 25, "max_shift_voxels": 3.0, "search_shell": 7},
        threads=2,
    )
    *_, state = EmRun(particles, config).states()
    first = state.fold_models[0].volumes[0]
    for model in state.fold_models[1:]:
        assert pearson(first, model.volumes[0]) > 0.9
    errors = pose_errors_deg(state.assignments.rotations, particles.poses.rotations)
    assert (errors < 12).mean() > 0.85


@pytest.mark.parametrize("start", ["random", "poses"])
def test_a_particle_does_not_enter_its_own_reference(start):
    """Another particle in its place changes all references but its own."""
    particles = particles_of()
    volumes = particles.volumes.arrays.copy()
    run = run_of(particles, start=start)
    fold = next(f for f, members in enumerate(run._groups.members) if 4 in members)
    volumes[4] = volumes[4].std() * np.random.default_rng(0).normal(size=(16, 16, 16))
    changed = replace(particles, volumes=MemoryReader(volumes))
    before, after = (next(iter(run_of(p, start=start).states())) for p in (particles, changed))
    moved = [
        np.linalg.norm(
            a.volumes / np.linalg.norm(a.volumes) - b.volumes / np.linalg.norm(b.volumes)
        )
        for a, b in zip(before.fold_models, after.fold_models, strict=True)
    ]
    # Noise variances are shared, so its prior moves by a trace.
    assert moved[fold] < 0.25 * min(moved[:fold] + moved[fold + 1 :])


def test_averages_are_held_out_and_the_rest_is_shared():
    *_, state = run_of(particles_of(), classes=2, balance=2).states()
    assert len(state.fold_models) == 3
    assert state.references == state.fold_models
    for model in state.fold_models:
        np.testing.assert_array_equal(model.noise_variance, state.model.noise_variance)
        np.testing.assert_array_equal(model.class_fractions, state.model.class_fractions)
        assert np.isfinite(model.volumes).all()
        assert (model.volumes != state.model.volumes).any()


def test_without_folds_there_is_one_reference():
    *_, state = run_of(particles_of(), folds=1).states()
    assert state.fold_models == ()
    assert state.references == (state.model,)


@pytest.mark.parametrize("strategy", ["fa", "exhaustive"])
def test_threads_and_resuming_change_nothing(strategy, tmp_path):
    particles = particles_of()
    one, two = run_of(particles, strategy=strategy), run_of(particles, strategy=strategy, threads=2)
    whole = list(one.states())
    for a, b in zip(whole, two.states(), strict=True):
        assert_states_equal(a, b)
    checkpoint = HDF5Checkpoint(tmp_path / "run.h5", one.config, particles)
    for state in whole[:2]:
        checkpoint.save(state)
    stored = read_run(checkpoint.path).state
    assert_states_equal(stored, whole[1])
    *_, resumed = run_of(particles, strategy=strategy).states(stored)
    assert_states_equal(resumed, whole[-1])
    assert_states_equal(one.finish(whole[-1]), two.finish(whole[-1]))


def test_the_file_holds_the_folds_of_the_last_iteration_only(tmp_path):
    particles = particles_of(count=8)
    run = run_of(particles, folds=8, iterations=3)
    checkpoint = HDF5Checkpoint(tmp_path / "run.h5", run.config, particles)
    sizes = []
    for state in run.states():
        checkpoint.save(state)
        sizes.append(checkpoint.path.stat().st_size)
    folds = 8 * 16**3 * 4
    assert max(np.diff(sizes)) < 0.6 * folds
    with h5py.File(checkpoint.path) as file:
        np.testing.assert_array_equal(file["folds/volumes"][2], state.fold_models[2].volumes)


def test_a_file_without_folds_and_masses_is_still_read(tmp_path):
    """As format 1 wrote it."""
    particles = particles_of()
    run = run_of(particles, folds=1)
    checkpoint = HDF5Checkpoint(tmp_path / "run.h5", run.config, particles)
    state = next(iter(run.states()))
    checkpoint.save(state)
    with h5py.File(checkpoint.path, "a") as file:
        file.attrs["format"] = 1
        del file["iterations/000000/assignments/kept_masses"]
    assert_states_equal(read_run(checkpoint.path).state, state)


def test_own_noise_no_longer_speaks_for_the_old_pose():
    """Given poses that are wrong, only a reference that contains a particle prefers its own."""
    particles = particles_of(count=5, noise=1.0, shifts=0.5)
    wrong = Rotation.random(5, rng=8).as_matrix()
    particles = replace(particles, poses=replace(particles.poses, rotations=wrong))
    kept = {}
    for folds in (1, 5):
        run = run_of(
            particles, folds=folds, start="poses", iterations=1, march=False, strategy="fa"
        )
        start, state = run.states()
        angles = rotation_angle_deg(state.assignments.rotations, start.assignments.rotations)
        kept[folds] = (angles < 20).mean()
    assert kept[1] > 0.7
    assert kept[5] < 0.2


def test_folds_from_files(tmp_path):
    result = faml.run(
        write_folder(tmp_path / "in"), tmp_path / "run", **settings(iterations=1, folds=3)
    )
    assert "3 folds" in (result.directory / "run.log").read_text()
    assert result.config.em.folds == 3
