"""What a run found, beside the truth: from arrays, and from the directories of two commands."""

from __future__ import annotations

import json

import numpy as np
import pytest
from phantoms import DETAILED, blobs
from scipy.spatial.transform import Rotation

from faml.cli.app import main
from faml.conventions import rotation_angle_deg
from faml.errors import InputDataError
from faml.io.mrc import write_volume
from faml.io.star import read_star, write_star
from faml.metrics.evaluation import evaluate
from faml.metrics.fsc import correlation_about_zero, pearson
from faml.metrics.labels import f1_scores, matched_classes
from faml.metrics.resample import transform_volume
from faml.particles import ParticlePoses
from faml.symmetry import point_group
from faml.transforms.masks import automatic_mask

N = 24
MOTION = Rotation.from_rotvec([0.5, 1.0, -0.4]).as_matrix(), np.array([1.0, -0.5, 1.5])


def structure(seed, symmetry="C1"):
    copies = point_group(symmetry).rotations
    return sum(blobs(N, turn, seed=seed, **DETAILED) for turn in copies)


def poses_of(count, seed=0):
    rng = np.random.default_rng(seed)
    turns = Rotation.random(count, random_state=seed).as_matrix()
    return ParticlePoses(turns, rng.uniform(-2.0, 2.0, (count, 3)))


def seen_from(truth, motion=MOTION):
    """Poses of particles on an average that was rotated and displaced by a motion."""
    turn, shift = motion
    rotations = truth.rotations @ turn.T
    return ParticlePoses(rotations, truth.translations - np.einsum("nij,j->ni", rotations, shift))


def compared(averages, truths, truth, assigned, labels, found=None, symmetry="C1"):
    return evaluate(
        averages, truths, found or seen_from(truth), truth, np.asarray(assigned),
        np.asarray(labels), symmetries=[point_group(symmetry)] * len(truths),
        voxel_size_angstrom=5.0,
    )  # fmt: skip


def test_a_perfect_run_in_another_frame_and_order_is_perfect():
    truths = [structure(1), structure(2)]
    averages = [transform_volume(truths[k], *MOTION) for k in (1, 0)]
    labels = np.array([0, 0, 1, 1, 1, 0])
    result = compared(averages, truths, poses_of(6), 1 - labels, labels)
    for label, each in enumerate(result.classes):
        assert each.class_index == 1 - label
        assert each.correlation > 0.99
        assert each.correlation_about_zero > 0.99
        assert not each.mirrored
        assert each.rotation_deg.max() < 1e-3
        assert each.translation_voxels.max() < 1e-3
        assert each.fsc[1:8].min() > 0.98
    assert (result.misclassified, result.f1, result.rand_index) == (0, (1.0, 1.0), 1.0)
    np.testing.assert_array_equal(result.confusion, [[0, 3], [3, 0]])


def test_errors_are_found_as_large_as_they_are():
    truth, truths = poses_of(9), [structure(1)]
    found = seen_from(truth)
    turns = Rotation.from_rotvec(np.deg2rad([0.0, 7.0, 0.0])).as_matrix()
    wrong = found.rotations.copy()
    wrong[4] = wrong[4] @ turns
    shifted = found.translations.copy()
    shifted[2] += [0.0, 2.0, 0.0]
    averages = [transform_volume(truths[0], *MOTION)]
    zeros = np.zeros(9, dtype=int)
    (each,) = compared(averages, truths, truth, zeros, zeros, ParticlePoses(wrong, shifted)).classes
    assert each.rotation_deg.argmax() == 4
    assert each.rotation_deg[4] == pytest.approx(7.0, abs=1.0)
    assert each.translation_voxels[2] == pytest.approx(2.0, abs=0.1)


def test_poses_are_compared_up_to_symmetry_wherever_its_axes_lie():
    turn = Rotation.from_rotvec([0.3, -0.6, 0.2]).as_matrix()
    centre = np.array([1.0, -0.5, 0.7])
    group = turn @ point_group("C3").rotations @ turn.T
    truths = [transform_volume(structure(3, "C3"), turn, centre)]
    truth = poses_of(12)
    chosen = np.random.default_rng(1).integers(3, size=12)
    turns = truth.rotations @ group[chosen]
    # R c + t is where the axes are seen, and stays.
    moved = truth.translations + truth.rotations @ centre - turns @ centre
    equivalent = ParticlePoses(turns, moved)
    zeros = np.zeros(12, dtype=int)
    (each,) = compared(truths, truths, truth, zeros, zeros, equivalent, "C3").classes
    assert each.symmetry_correlation > 0.98
    assert each.rotation_deg.max() < 3.0
    assert each.translation_voxels.max() < 0.5
    (blind,) = compared(truths, truths, truth, zeros, zeros, equivalent).classes
    assert blind.symmetry_correlation is None
    assert np.median(blind.rotation_deg) > 30.0 or (blind.rotation_deg > 60).mean() > 0.3


def test_symmetry_of_an_average_is_judged_about_the_truth_s_axes_in_its_own_frame():
    turn = Rotation.from_rotvec([0.3, -0.6, 0.2]).as_matrix()
    truth = transform_volume(structure(3, "C3"), turn, np.array([1.0, -0.5, 0.7]))
    lopsided = truth + 0.5 * truth.max() / structure(7).max() * structure(7)
    poses, zeros = poses_of(6), np.zeros(6, dtype=int)
    scores = []
    for average in (truth, lopsided):
        moved = [transform_volume(average, *MOTION)]
        (each,) = compared(moved, [truth], poses, zeros, zeros, symmetry="C3").classes
        scores.append(each.symmetry_correlation)
    assert scores[0] > 0.97
    assert scores[1] < scores[0] - 0.03


def test_a_symmetry_that_structures_have_not_is_refused():
    """Poses compared up to it would look better than they are."""
    zeros = np.zeros(4, dtype=int)
    with pytest.raises(InputDataError, match="structure 1 has no symmetry D7"):
        compared([structure(1)], [structure(1)], poses_of(4), zeros, zeros, symmetry="D7")


def test_noise_of_an_average_is_not_interpolated_away():
    truth = structure(1)
    rng = np.random.default_rng(0)
    noise = rng.normal(scale=truth.std(), size=truth.shape)
    average = transform_volume(truth, *MOTION) + noise
    zeros = np.zeros(4, dtype=int)
    (each,) = compared([average], [truth], poses_of(4), zeros, zeros).classes
    inside = automatic_mask(truth) > 0.5
    expected = pearson(truth + noise, truth, inside)
    assert each.correlation == pytest.approx(expected, abs=0.012)


def test_an_empty_class_scores_nothing_and_spoils_nothing():
    truths = [structure(1), structure(2)]
    labels = np.array([0, 0, 1, 1])
    result = compared([truths[0], np.zeros((N,) * 3)], truths, poses_of(4), labels, labels)
    assert result.classes[0].correlation > 0.99
    assert result.classes[1].correlation == 0.0


def test_the_wrong_hand_is_reported():
    truths = [structure(1)]
    zeros = np.zeros(4, dtype=int)
    mirrored = np.ascontiguousarray(truths[0][:, :, ::-1])
    (each,) = compared([mirrored], truths, poses_of(4), zeros, zeros).classes
    assert each.mirrored
    assert each.mirror_correlation > 0.95 > each.correlation


def test_more_structures_than_classes():
    truths = [structure(1), structure(2)]
    labels = np.array([0, 0, 0, 1])
    result = compared([truths[0]], truths, poses_of(4), np.zeros(4, dtype=int), labels)
    assert [each.class_index for each in result.classes] == [0, -1]
    assert result.misclassified == 1
    assert result.f1 == (pytest.approx(6 / 7), 0.0)
    assert len(result.classes[1].rotation_deg) == 0


def test_more_classes_than_maps_are_refused():
    labels = np.array([0, 0, 1, 1])
    with pytest.raises(ValueError, match="at most 2 structures and 1 classes"):
        compared([structure(1)], [structure(1), structure(2)], poses_of(4), labels, labels)


def test_f1_and_matching_by_hand():
    labels, assigned = np.array([0, 0, 0, 0, 1, 1]), np.array([2, 2, 2, 0, 0, 0])
    np.testing.assert_array_equal(matched_classes(labels, assigned, 2, 3), [2, 0])
    assert f1_scores(labels, assigned) == [pytest.approx(6 / 7), pytest.approx(4 / 5)]
    with pytest.raises(ValueError, match="one length"):
        f1_scores(labels, assigned[:3])


def test_correlation_about_zero_knows_the_mean():
    rng = np.random.default_rng(0)
    a = rng.normal(size=1000)
    assert correlation_about_zero(a, 2.0 * a) == pytest.approx(1.0)
    assert correlation_about_zero(a + 5.0, a) < 0.5 < pearson(a + 5.0, a)
    assert correlation_about_zero(a, np.zeros(1000)) == 0.0
    with pytest.raises(ValueError, match="one shape"):
        correlation_about_zero(a, a[:10])
    with pytest.raises(ValueError, match="empty mask"):
        correlation_about_zero(a, a, np.zeros(1000, dtype=bool))


# --------------------------------------------------------------------------------------- command


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    out, err = capsys.readouterr()
    return ended.value.code, out, err


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """Two structures simulated, and averaged at poses that the run was given."""
    folder = tmp_path_factory.mktemp("evaluated")
    for k in (1, 2):
        write_volume(folder / f"model{k}.mrc", structure(k).astype(np.float32), 5.0)
    arguments = [
        "simulate", folder / "model1.mrc", folder / "model2.mrc", "-o", folder / "data", "--box",
        N, "--voxel-size", 5, "--count", 9, "--snr", 1, "--max-shift", 1, "--quiet",
    ]  # fmt: skip
    for command in (
        arguments,
        ["run", folder / "data" / "particles.star", "-o", folder / "run", "--max-shift", 2,
         "--classes", 2, "--iterations", 4, "--seed", 2, "--quiet", "--max-candidates", 15],
    ):  # fmt: skip
        with pytest.raises(SystemExit) as ended:
            main([*map(str, command)])
        assert ended.value.code == 0
    return folder


def test_command_compares_a_run_with_its_simulation(directories, capsys):
    code, out, err = call(capsys, "evaluate", directories / "run", "--truth", directories / "data")
    assert (code, err) == (0, "")
    assert "structure 2" in out
    assert "misclassified" in out
    report = json.loads((directories / "run" / "evaluation.json").read_text())
    assert np.sum(report["confusion"]) == 18
    assert {row["class"] for row in report["classes"]} == {1, 2}
    assert all(-1.0 <= row["r"] <= 1.0 for row in report["classes"])
    assert len(report["classes"][0]["fsc"]) == N // 2


def test_true_poses_in_files_mean_no_error(directories, tmp_path, capsys):
    """The STAR file of the run, with the truth in RELION's columns, and the true maps."""
    run = tmp_path / "run"
    run.mkdir()
    star = read_star(directories / "run" / "particles.star")
    table = star.particles.copy()
    for name in table.columns:
        if str(name).startswith("famlTrue"):
            table["rln" + str(name).removeprefix("famlTrue")] = table[name]
    write_star(run / "particles.star", star.blocks | {star.particles_block: table}, 30001)
    for k in (1, 2):
        write_volume(run / f"class_{k:03d}.mrc", structure(k).astype(np.float32), 5.0)
    code, _, err = call(capsys, "evaluate", run, "--truth", directories / "data")
    assert (code, err) == (0, "")
    report = json.loads((run / "evaluation.json").read_text())
    for row in report["classes"]:
        assert row["median_error_deg"] < 0.01
        assert row["median_error_voxels"] < 0.01
        assert row["r"] > 0.99
        assert row["f1"] == 1.0
    assert report["misclassified"] == 0


def test_wrong_directories(directories, tmp_path, capsys):
    run, data = directories / "run", directories / "data"
    for arguments, code, message in (
        ((tmp_path, "--truth", data), 3, "expected maps class_001.mrc"),
        ((run, "--truth", run), 3, "expected maps class_001.mrc"),
        ((run, "--truth", data, "--symmetry", "X9"), 2, "X9"),
        ((run, "--truth", data, "--max-shift", "-1"), 2, "0 voxels or more"),
        ((run, "--truth", data, "--max-shift", "inf"), 2, "0 voxels or more"),
        ((run, "--truth", data, *["--symmetry", "C1"] * 3), 2, "one per structure (2), found 3"),
        ((run, "--truth", data, "--symmetry", "C7"), 3, "has no symmetry C7"),
    ):
        told = call(capsys, "evaluate", *arguments)
        assert told[0] == code, told
        assert message in told[2]


def test_a_run_on_other_particles_is_refused(directories, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    star = read_star(directories / "run" / "particles.star")
    table = star.particles.copy()
    table.loc[table.index[0], "rlnImageName"] = "elsewhere/other.mrc"
    write_star(run / "particles.star", star.blocks | {star.particles_block: table}, 30001)
    write_volume(run / "class_001.mrc", structure(1).astype(np.float32), 5.0)
    code, _, err = call(capsys, "evaluate", run, "--truth", directories / "data")
    assert code == 3
    assert "found other.mrc" in err
    # Another simulation of the same models calls its particles alike.
    for seed in ("0", "5"):
        call(
            capsys, "simulate", directories / "model1.mrc", directories / "model2.mrc", "-o",
            tmp_path / seed, "--box", N, "--voxel-size", 5, "--count", 9, "--seed", seed,
        )  # fmt: skip
    code, _, err = call(
        capsys, "evaluate", directories / "run", "--truth", tmp_path / "5", "--symmetry", "C1"
    )
    assert code == 3
    assert "another truth" in err
    assert call(capsys, "evaluate", directories / "run", "--truth", tmp_path / "0")[0] == 0


def test_motion_of_the_helpers_is_the_one_of_the_package():
    """An average turned by G: found R maps it where the truth maps the structure."""
    truth = poses_of(1)
    found = seen_from(truth)
    direct = transform_volume(structure(1), truth.rotations[0], truth.translations[0])
    average = transform_volume(structure(1), *MOTION)
    through = transform_volume(average, found.rotations[0], found.translations[0])
    assert pearson(direct, through) > 0.97
    assert rotation_angle_deg(truth.rotations, found.rotations)[0] > 5.0
