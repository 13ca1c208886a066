"""Half-sets: two halves that never see each other, in one frame when they are compared."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree as ET

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
from phantoms import DETAILED, blobs, simulated
from runs import BOX, DATA, VOXEL_ANGSTROM, assert_states_equal, settings, write_folder
from scipy.spatial.transform import Rotation

import faml
from faml.config import build_config
from faml.conventions import rotation_angle_deg
from faml.em.halves import Agreement, agreement, assignments_in_frame, in_frame, split_into_halves
from faml.em.loop import EmRun
from faml.em.start import fixed_assignments
from faml.errors import ConfigurationError, InputDataError
from faml.io.checkpoint import HDF5Checkpoint, read_run
from faml.io.mrc import write_volume
from faml.metrics.fsc import fourier_shell_correlation, pearson
from faml.metrics.labels import misclassified
from faml.metrics.resample import transform_volume
from faml.model import Model
from faml.particles import ParticlePoses, wedge_weight
from faml.particles.particle_set import MemoryReader
from faml.transforms.fourier import shell_indices

QUICK = {"search_shell": 5, "max_candidates": 8, "voronoi_samples": 300, "max_shift_voxels": 2.0}
WEIGHT = wedge_weight(16, (-50, 65))


def particles_of(count=10, noise=0.4, seed=3, **more):
    return simulated(n=16, count=count, noise=noise, weight=WEIGHT, seed=seed, **more)[0]


def run_of(particles, *, threads=1, strategy="faml", **em):
    config = build_config(
        em={"iterations": 2, "seed": 5, "chunk_size": 2, "half_sets": True} | em,
        search=QUICK | {"strategy": strategy},
        threads=threads,
    )
    return EmRun(particles, config)


def model_of(volumes):
    count, n = len(volumes), volumes.shape[-1]
    shells = (n - 1) // 2 + 1
    return Model(
        volumes=volumes.astype(np.float32),
        class_fractions=np.linspace(1.0, 2.0, count) / np.linspace(1.0, 2.0, count).sum(),
        noise_variance=np.ones(shells),
        signal_power=np.arange(1.0, count + 1)[:, None] * np.ones(shells),
        shift_variance=1.0,
    )


# ---------------------------------------------------------------------------------------- split


def test_a_split_is_even_complete_and_repeatable():
    first, second = split_into_halves(11, seed=2)
    assert sorted((len(first), len(second))) == [5, 6]
    assert sorted([*first, *second]) == list(range(11))
    np.testing.assert_array_equal(first, split_into_halves(11, seed=2)[0])
    assert any((first != split_into_halves(11, seed)[0]).any() for seed in range(3, 8)
               if len(split_into_halves(11, seed)[0]) == len(first))  # fmt: skip


def test_tomograms_stay_whole():
    tomograms = np.array([0] * 7 + [1] * 2 + [2] * 3 + [3] * 2)
    first, second = split_into_halves(14, 1, tomograms)
    assert not set(tomograms[first]) & set(tomograms[second])
    assert sorted([*first, *second]) == list(range(14))
    assert abs(len(first) - len(second)) <= 2


@pytest.mark.parametrize(
    ("count", "tomograms", "message"),
    [
        (3, None, "at least 4 particles, found 3; leave out --half-sets"),
        (8, np.zeros(8, int), "at least two of them, found 1"),
        (8, np.array([0] * 7 + [1]), "at least 2 particles in each half, found 1"),
    ],
)
def test_splits_that_cannot_be_are_refused(count, tomograms, message):
    with pytest.raises(ConfigurationError, match=message):
        split_into_halves(count, 0, tomograms)


@pytest.mark.parametrize("setting", [{"b_factor": -100.0}, {"split_by": "tomogram"}])
def test_settings_of_half_sets_need_them(setting):
    with pytest.raises(ConfigurationError, match=r"is for half-sets; give --half-sets as well"):
        build_config(em=setting)
    assert build_config(em=setting | {"half_sets": True}).em.half_sets


def test_imputation_has_plain_halves_too():
    """The paper's update fills what was not seen from the last average, which halves must not."""
    particles = particles_of(shifts=0.8)
    run = run_of(particles, update="impute", start="poses", iterations=1)
    start, state = run.states()
    assert np.isfinite(state.fsc).all()
    ratio = run_of(particles, start="poses", iterations=1)
    np.testing.assert_allclose(start.fsc, next(iter(ratio.states())).fsc, atol=1e-6)


def test_splitting_by_tomogram_needs_their_names():
    with pytest.raises(InputDataError, match="rlnTomoName or rlnMicrographName, found none"):
        run_of(particles_of(), split_by="tomogram")
    particles = replace(particles_of(), tomograms=np.array([0, 0, 0, 1, 1, 2, 2, 3, 3, 3]))
    run = run_of(particles, split_by="tomogram")
    assert not set(particles.tomograms[run.halves[0]]) & set(particles.tomograms[run.halves[1]])
    half = particles.subset(np.array([2, 5]))
    np.testing.assert_array_equal(half.tomograms, [0, 2])


# ----------------------------------------------------------------------------------- independence


@pytest.mark.parametrize("folds", [1, 2])
def test_a_half_does_not_know_the_other(folds):
    """Other data in the second half leave everything of the first as it is, bit by bit."""
    particles = particles_of(shifts=0.5)
    run = run_of(particles, start="poses", folds=folds)
    others = particles.volumes.arrays.copy()
    others[run.halves[1]] = np.random.default_rng(1).normal(size=(len(run.halves[1]), 16, 16, 16))
    changed = run_of(replace(particles, volumes=MemoryReader(others)), start="poses", folds=folds)
    # The resolution is common: FSC drives it.
    found = [list(each.states()) for each in (run, changed)]
    for one, other in zip(*(states[:2] for states in found), strict=True):
        a, b = one.half_models[0], other.half_models[0]
        if one.align_shell != other.align_shell:
            continue
        np.testing.assert_array_equal(a.volumes, b.volumes)
        np.testing.assert_array_equal(a.noise_variance, b.noise_variance)
        assert not np.array_equal(one.half_models[1].volumes, other.half_models[1].volumes)
    first = found[0][0]
    assert len(first.fold_models) == (4 if folds == 2 else 0)
    assert len(first.references) == 2 * folds


@pytest.mark.slow
def test_noise_does_not_agree():
    """Also beyond the signal: what leaks into shells that a prior has emptied is not compared."""
    n = 24
    weight = wedge_weight(n, (-60, 55))
    curves = {}
    for name, noise, phantom in (
        ("mixed", 1.0, DETAILED),
        ("noise", 1.0, DETAILED | {"count": 0}),
    ):
        particles, _ = simulated(
            n=n, count=16, noise=noise, seed=6, shifts=1.0, weight=weight, phantom=phantom
        )
        config = build_config(
            em={"iterations": 3, "seed": 1, "half_sets": True},
            search=QUICK | {"search_shell": 6, "strategy": "fa", "max_shift_voxels": 2.5},
            threads=2,
        )
        run = EmRun(particles, config)
        *_, state = run.states()
        curves[name] = state.fsc[0], run.finish(state).fsc[0]
    for curve in curves["mixed"]:
        assert curve[1:3].min() > 0.5
        assert np.abs(curve[8:]).mean() < 0.12
    for curve in curves["noise"]:
        assert np.abs(curve[4:]).mean() < 0.15


@pytest.mark.slow
def test_a_reference_is_not_found_in_noise():
    """Einstein from noise: halves that are aligned to one reference must not agree on it."""
    n = 24
    particles, _ = simulated(
        n=n, count=24, noise=1.0, seed=2, weight=wedge_weight(n, (-60, 60)), phantom={"count": 0}
    )
    reference = blobs(n, seed=4, **DETAILED)
    config = build_config(
        em={"iterations": 2, "seed": 1, "half_sets": True, "start": "einstein.mrc",
            "first_shell": 4},
        search=QUICK | {"strategy": "fa", "max_shift_voxels": 2.5},
        threads=2,
    )  # fmt: skip
    run = EmRun(particles, config, reference=reference)
    states = list(run.states())
    assert states[0].align_shell == 4  # low-passed, though nobody asked for it
    final = run.finish(states[-1])
    # Seen to shell 4 it is found to shell 4; what the data do not hold is not there.
    assert np.abs(final.fsc[0, 6:]).mean() < 0.12
    assert fourier_shell_correlation(final.model.volumes[0], reference)[7:].max() < 0.4


def test_same_result_for_any_number_of_threads_and_after_a_resume(tmp_path):
    particles = particles_of(shifts=0.8)
    run = run_of(particles, folds=3, classes=1)
    states = list(run.states())
    assert len(states[-1].fold_models) == 6
    assert len(states[-1].half_models) == 2
    for a, b in zip(states, run_of(particles, threads=2, folds=3).states(), strict=True):
        assert_states_equal(a, b)
    checkpoint = HDF5Checkpoint(tmp_path / "run.h5", run.config, particles)
    for state in states[:2]:
        checkpoint.save(state)
    stored = read_run(tmp_path / "run.h5").state
    assert_states_equal(stored, states[1])
    assert_states_equal(list(run.states(resume_from=stored))[-1], states[-1])


# ---------------------------------------------------------------------------------------- frame


def test_averages_in_two_frames_are_brought_into_one():
    n = 20
    truth = np.stack([blobs(n, seed=1, count=8), blobs(n, seed=2, count=8)])
    turn = Rotation.from_rotvec([0.9, -1.7, 0.4]).as_matrix()
    shift = np.array([0.6, -0.4, 0.3])
    # Classes in another order, each in a frame of its own.
    other = np.stack(
        [transform_volume(truth[1], turn.T, np.zeros(3)), transform_volume(truth[0], turn, shift)]
    )
    found = agreement(model_of(truth), model_of(other), 7, 1.5, one_frame=False)
    np.testing.assert_array_equal(found.order, [1, 0])
    assert found.moved
    placed = in_frame(model_of(other), found)
    for k in range(2):
        assert pearson(placed.volumes[k], truth[k]) > 0.98
    np.testing.assert_allclose(placed.class_fractions, model_of(other).class_fractions[::-1])
    np.testing.assert_allclose(placed.signal_power[0, 0], 2.0)
    fsc = found.fsc(truth, other, None)
    assert fsc[:, 1:6].min() > 0.95
    kept = agreement(model_of(truth), model_of(other), 7, 1.5, one_frame=True)
    np.testing.assert_array_equal(kept.rotations, np.stack([np.eye(3)] * 2))
    assert kept.fsc(truth, other, None)[:, 3:6].max() < 0.8


def test_classes_are_matched_where_poses_are_given():
    """In one frame nothing is turned, but the random split left classes in any order."""
    volumes = np.stack([blobs(16, seed=1, count=8), blobs(16, seed=2, count=8)])
    found = agreement(model_of(volumes), model_of(volumes[::-1]), 5, 1.0, one_frame=True)
    np.testing.assert_array_equal(found.order, [1, 0])
    np.testing.assert_array_equal(found.rotations, np.stack([np.eye(3)] * 2))


@pytest.mark.slow
def test_two_classes_in_two_halves():
    """A class is one structure in both halves, though each half has found its own."""
    n = 20
    particles, labels = simulated(
        n=n, count=32, noise=0.2, seed=5, shifts=0.5, weight=wedge_weight(n, (-50, 65)),
        phantom_seeds=(0, 4),
    )  # fmt: skip
    config = build_config(
        em={"iterations": 6, "seed": 2, "half_sets": True, "classes": 2,
            "start": "poses"},
        search=QUICK | {"strategy": "fa"},
        threads=2,
    )  # fmt: skip
    run = EmRun(particles, config)
    *_, state = run.states()
    final = run.finish(state)
    assigned = final.assignments.classes
    for half in run.halves:
        assert misclassified(labels[half], assigned[half]) <= 2
    # Were the halves' classes in different orders, half of all would be wrong.
    assert misclassified(labels, assigned) <= 4
    assert final.fsc[:, 1:4].min() > 0.6


def test_an_empty_class_has_no_frame():
    volumes = np.stack([blobs(16, seed=1), np.zeros((16, 16, 16), np.float32)])
    found = agreement(model_of(volumes), model_of(volumes[::-1]), 5, 1.0, one_frame=False)
    np.testing.assert_array_equal(found.order, [1, 0])
    np.testing.assert_array_equal(found.rotations[1], np.eye(3))
    assert np.isfinite(found.fsc(volumes, volumes[::-1], None)).all()


def test_poses_follow_their_averages():
    """Turned poses on a turned average make the same particles."""
    rng = np.random.default_rng(3)
    n = 16
    turn = Rotation.random(random_state=4).as_matrix()
    shift = np.array([0.7, -0.5, 0.2])
    second = blobs(n, seed=1)
    first = blobs(n, seed=1, rotation=turn, translation=shift)
    found = Agreement(np.array([1, 0]), np.stack([turn, np.eye(3)]), np.stack([shift, 0 * shift]))
    turns = Rotation.random(4, random_state=rng).as_matrix()
    moves = rng.uniform(-1, 1, (4, 3))
    before = fixed_assignments(np.array([1, 1, 0, 1]), turns, moves, 2)
    after = assignments_in_frame(before, np.array([0, 2, 3]), found)
    np.testing.assert_array_equal(after.classes, [0, 1, 1, 0])
    np.testing.assert_array_equal(after.class_probabilities.argmax(axis=1), after.classes)
    np.testing.assert_array_equal(after.rotations[1], turns[1])  # of the first half
    for i in (0, 3):
        wanted = transform_volume(second, turns[i], moves[i])
        got = transform_volume(first, after.rotations[i], after.translations[i])
        assert pearson(got, wanted) > 0.99
    np.testing.assert_array_equal(after.rotations[2], turns[2])


@pytest.mark.slow
def test_halves_from_random_orientations_end_in_one_frame():
    n = 24
    particles = simulated(
        n=n, count=20, noise=0.2, weight=wedge_weight(n, (-55, 65)), seed=12, shifts=1.0,
        phantom=DETAILED,
    )[0]  # fmt: skip
    config = build_config(
        em={"iterations": 7, "exploration": 4, "seed": 3, "half_sets": True},
        search=QUICK | {"strategy": "fa", "max_shift_voxels": 3.0, "search_shell": 7},
        threads=2,
    )
    run = EmRun(particles, config)
    *_, state = run.states()
    final = run.finish(state)
    found, truth = final.assignments.rotations, particles.poses.rotations
    # One global rotation puts both halves right.
    proposals = np.swapaxes(found, 1, 2) @ truth
    angles = min(
        (rotation_angle_deg(found @ proposal, truth) for proposal in proposals), key=np.median
    )
    for half in run.halves:
        assert np.median(angles[half]) < 10.0
    assert final.fsc[0, 1:6].min() > 0.7


# ---------------------------------------------------------------------------------------- on disk


def test_files_of_half_sets(tmp_path):
    folder = write_folder(tmp_path / "particles", count=8)
    out = tmp_path / "out"
    result = faml.run(folder, out, **settings(iterations=1, half_sets=True))
    for name in (
        "half1_class_001.mrc", "half2_class_001.mrc", "class_001_sharpened.mrc",
        "class_001_local_resolution.mrc", "fsc_class_001.csv", "fsc_class_001.xml", "fsc.star",
        "fsc.png",
    ):  # fmt: skip
        assert (out / name).stat().st_size > 0, name
    with mrcfile.open(out / "half1_class_001.mrc") as file:
        assert file.voxel_size.x == pytest.approx(VOXEL_ANGSTROM)
        assert file.data.shape == (BOX,) * 3
    curves = pd.read_csv(out / "fsc_class_001.csv")
    assert len(curves) == BOX // 2
    first, second = (mrcfile.read(out / f"half{h}_class_001.mrc") for h in (1, 2))
    np.testing.assert_allclose(
        curves["fsc_unmasked"], fourier_shell_correlation(first, second), atol=1e-4
    )
    points = ET.parse(out / "fsc_class_001.xml").getroot()
    assert points.tag == "fsc"
    assert [float(p.find("y").text) for p in points] == pytest.approx(
        curves["fsc_corrected"].tolist(), abs=1e-5
    )
    table = starfile.read(out / "fsc.star")
    np.testing.assert_allclose(
        table["rlnFourierShellCorrelationCorrected"], curves["fsc_corrected"], atol=1e-5
    )
    subsets = starfile.read(out / "particles.star")["particles"]["rlnRandomSubset"]
    assert sorted(subsets.value_counts().tolist()) == [4, 4]
    run = EmRun(faml.iterate.__globals__["open_particles"](result.config.data, 4).particles,
                result.config)  # fmt: skip
    np.testing.assert_array_equal(np.nonzero(subsets.to_numpy() == 2)[0], run.halves[1])
    assert len(result.halves.resolutions_angstrom) == 1
    assert "FSC 0.143" in (out / "run.log").read_text()
    again = faml.resume(out, iterations=2)
    assert again.state.iteration == 2
    assert len(again.state.half_models) == 2


def test_given_poses_are_averaged_in_halves_as_they_are(tmp_path):
    particles = particles_of(count=8, noise=0.2)
    run = run_of(particles, start="poses", iterations=0)
    (state,) = run.states()
    final = run.finish(state)
    np.testing.assert_array_equal(final.assignments.rotations, particles.poses.rotations)
    assert isinstance(particles.poses, ParticlePoses)
    assert final.fsc[0, 1:4].min() > 0.8
    # Without prior: noise is not shrunk away in the halves.
    fine = shell_indices(16) == 7
    plain = np.abs(np.fft.rfftn(final.half_models[0].volumes[0]))[fine]
    shrunk = np.abs(np.fft.rfftn(state.half_models[0].volumes[0]))[fine]
    assert plain.mean() > 2.0 * shrunk.mean()


def test_masks_of_files(tmp_path):
    folder = write_folder(tmp_path / "particles", count=4)
    z, y, x = np.indices((BOX,) * 3) - BOX // 2
    inside = (x**2 + y**2 + z**2 < 25).astype(np.float32)
    write_volume(tmp_path / "mask.mrc", inside, VOXEL_ANGSTROM)
    given = settings(iterations=1, mask=str(tmp_path / "mask.mrc"))
    result = faml.run(folder, tmp_path / "out", **given)
    assert not result.state.model.volumes[0][inside == 0].any()
    assert result.state.model.volumes[0][inside > 0].any()
    for name, values, message in (
        ("small.mrc", np.ones((8, 8, 8)), r"expected the particles' box \(16, 16, 16\)"),
        ("zero.mrc", np.zeros((BOX,) * 3), "expected a part of the box to be 1"),
        ("large.mrc", 3.0 * inside, "expected values from 0 to 1, found 0 to 3"),
    ):
        write_volume(tmp_path / name, values.astype(np.float32), VOXEL_ANGSTROM)
        bad = settings(mask=str(tmp_path / name))
        with pytest.raises(InputDataError, match=message):
            faml.run(folder, tmp_path / "bad", **bad)
    with pytest.raises(ConfigurationError, match=r"unknown mask 'mask.mrc'; expected sphere, auto"):
        faml.iterate(particles_of(), build_config(em={"mask": "mask.mrc"}))
    with pytest.raises(ConfigurationError, match="unknown mask 'cube'; expected sphere, auto or"):
        faml.run(folder, tmp_path / "bad", data=DATA, em={"mask": "cube"})
    assert not (tmp_path / "bad").exists()


def test_an_outline_flattens_what_lies_outside():
    particles = particles_of(count=12, noise=0.3, shifts=0.5)
    plain = run_of(particles, start="poses", half_sets=False, iterations=1)
    outlined = run_of(particles, start="poses", half_sets=False, iterations=1, mask="auto")
    *_, a = plain.states()
    *_, b = outlined.states()
    flat = b.model.volumes[0] == 0
    assert 0.3 < flat.mean() < 0.98
    assert a.model.volumes[0][flat].std() > 0
    truth = blobs(16)
    assert pearson(b.model.volumes[0], truth) > pearson(a.model.volumes[0], truth)
