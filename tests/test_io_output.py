"""What is written reads back: poses, kept columns, resolvable paths."""

import os
import shutil
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import starfile
from scipy.spatial.transform import Rotation

import faml
from faml.config import DataConfig
from faml.errors import OutputError
from faml.io.dataset import open_particles
from faml.io.mrc import read_volume, write_volume
from faml.io.output import (
    ParticleResults,
    prepare_output_directory,
    write_class_averages,
    write_particles,
)
from faml.io.star import read_star

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

BOX = 8
TILT = (-60.0, 60.0)


def folder(path, count=5, voxel_size=4.0):
    path.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        write_volume(path / f"p_{index + 1}.mrc", rng.normal(size=(BOX,) * 3), voxel_size)
    return path


def results(count, seed=0):
    rng = np.random.default_rng(seed)
    rotations = Rotation.random(count, rng=rng).as_matrix()
    rotations[0] = np.eye(3)  # the pole of the Euler angles
    return ParticleResults(
        classes=rng.integers(0, 3, size=count),
        rotations=rotations,
        translations=rng.uniform(-3, 3, size=(count, 3)),
        probabilities=rng.uniform(size=count),
        log_likelihoods=rng.normal(scale=100, size=count),
        log_evidences=rng.normal(scale=10, size=count),
        outliers=np.arange(count) == 1,
        duplicates=np.zeros(count, dtype=bool),
    )


STAR = """
# version 50001

data_general

_rlnTomoSubTomosAre2DStacks 0

data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnImagePixelSize #3
_rlnImageDimensionality #4
1 first 4.0 3
9 unused 7.5 3

data_particles

loop_
_rlnTomoName #1
_rlnAngleRot #2
_rlnImageName #3
_rlnOpticsGroup #4
_rlnRandomSubset #5
_rlnMystery #6
_rlnTomoSubtomogramRot #7
_rlnAngleTilt #8
_rlnAnglePsi #9
{rows}

data_other

loop_
_thing #1
0042
"""


def star_input(path, count=5):
    rows = [f"0{i} 1.0 p_{i}.mrc 1 {1 + i % 2} 00{i} 33.0 2.0 3.0" for i in range(1, count + 1)]
    (path / "in.star").write_text(STAR.format(rows="\n".join(rows)))
    return path / "in.star"


def open_config(path, **options):
    return open_particles(DataConfig(inputs=(str(path),), tilt_range_deg=TILT, **options), 1)


def check_poses(directory, dataset, found, **options):
    """The written STAR, opened as input, has the poses that were written."""
    again = open_particles(DataConfig(inputs=(str(directory / "particles.star"),), **options), 1)
    # Angles to 5e-7 degrees, origins to 5e-7 angstrom.
    np.testing.assert_allclose(again.particles.poses.rotations, found.rotations, atol=1e-6)
    np.testing.assert_allclose(again.particles.poses.translations, found.translations, atol=1e-6)
    assert again.paths == dataset.paths
    assert again.particles.voxel_size_angstrom == dataset.particles.voxel_size_angstrom
    np.testing.assert_array_equal(again.particles.weight(0), dataset.particles.weight(0))
    return again


def test_folder_input_gives_a_complete_star(tmp_path, monkeypatch):
    dataset = open_config(folder(tmp_path / "in"))
    out = prepare_output_directory(tmp_path / "out")
    found = results(5)
    path = write_particles(out, dataset, found)
    monkeypatch.chdir(tmp_path.root)
    again = check_poses(out, dataset, found)
    assert path == out / "particles.star"
    assert again.weight_source == "volumes"
    assert again.warnings == ()
    star = read_star(path)
    assert star.version == 30001
    assert star.optics["rlnImageDimensionality"].tolist() == ["3"]
    assert star.optics["rlnImageSize"].tolist() == [str(BOX)]
    assert {"rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast"} <= set(star.optics)
    assert "Assumed" in path.read_text()
    table = starfile.read(path)["particles"]
    np.testing.assert_array_equal(table["rlnClassNumber"], found.classes + 1)
    np.testing.assert_allclose(table["rlnMaxValueProbDistribution"], found.probabilities, atol=1e-6)
    np.testing.assert_allclose(table["rlnLogLikeliContribution"], found.log_likelihoods, atol=1e-6)
    wedge = read_volume(out / "wedge.mrc").values
    assert wedge.shape == (BOX,) * 3
    assert wedge[BOX // 2, BOX // 2, BOX // 2] == 1.0  # DC at n // 2


def test_star_input_keeps_columns_tables_and_order(tmp_path):
    source = star_input(folder(tmp_path / "in"))
    dataset = open_config(source)
    out = prepare_output_directory(tmp_path / "out")
    found = results(5)
    check_poses(out, dataset, found) if write_particles(out, dataset, found) else None
    before, after = read_star(source), read_star(out / "particles.star")
    assert after.version == 50001
    assert list(after.blocks) == ["general", "optics", "particles", "other"]
    assert after.blocks["general"] == before.blocks["general"]
    assert after.blocks["other"]["thing"].tolist() == ["0042"]
    assert after.optics.to_numpy().tolist() == before.optics.to_numpy().tolist()
    kept = ["rlnTomoName", "rlnOpticsGroup", "rlnRandomSubset", "rlnMystery"]
    for column in [*kept, "rlnTomoSubtomogramRot"]:
        assert after.particles[column].tolist() == before.particles[column].tolist()
    columns = [name for name in after.particles if name in before.particles]
    assert columns == list(before.particles)  # in their order
    assert all(os.path.isabs(name) for name in after.particles["rlnImageName"])


def test_subset_keeps_the_order_of_the_input(tmp_path):
    source = star_input(folder(tmp_path / "in"))
    dataset = open_config(source, subset=3)
    out = prepare_output_directory(tmp_path / "out")
    write_particles(out, dataset, results(3))
    mystery = read_star(out / "particles.star").particles["rlnMystery"].tolist()
    assert mystery == [f"00{row + 1}" for row in dataset.rows]


def test_given_voxel_size_goes_into_the_optics_table_in_use(tmp_path):
    source = star_input(folder(tmp_path / "in", voxel_size=0.0))
    dataset = open_config(source, voxel_size_angstrom=5.0)
    out = prepare_output_directory(tmp_path / "out")
    found = results(5)
    write_particles(out, dataset, found)
    optics = read_star(out / "particles.star").optics
    assert optics["rlnImagePixelSize"].tolist() == ["5.000000", "7.5"]
    check_poses(out, dataset, found)


def test_relion_30_keeps_pixel_origins(tmp_path):
    path = folder(tmp_path / "in", count=2)
    (path / "old.star").write_text(
        "data_\n\nloop_\n_rlnImageName\n_rlnDetectorPixelSize\n_rlnMagnification\n_rlnOriginX\n"
        "_rlnOriginY\n_rlnOriginZ\np_1.mrc 4.0 10000 0 0 0\np_2.mrc 4.0 10000 0 0 0\n"
    )
    dataset = open_config(path / "old.star")
    out = prepare_output_directory(tmp_path / "out")
    found = results(2)
    write_particles(out, dataset, found)
    after = read_star(out / "particles.star").particles
    assert float(after["rlnOriginX"].iloc[0]) == pytest.approx(-found.translations[0, 0], abs=1e-6)
    assert "rlnOriginXAngst" not in after
    check_poses(out, dataset, found)


def test_results_of_another_count_are_refused(tmp_path):
    dataset = open_config(folder(tmp_path / "in"))
    out = prepare_output_directory(tmp_path / "out")
    with pytest.raises(OutputError, match="expected results for 5 particles, found 4"):
        write_particles(out, dataset, results(4))
    assert not list(out.iterdir())


def test_class_averages(tmp_path):
    volumes = np.random.default_rng(0).normal(size=(2, BOX, BOX, BOX)).astype(np.float32)
    paths = write_class_averages(tmp_path, volumes, 4.0)
    assert [path.name for path in paths] == ["class_001.mrc", "class_002.mrc"]
    for path, volume in zip(paths, volumes, strict=True):
        read = read_volume(path)
        np.testing.assert_array_equal(read.values, volume)
        assert read.header.voxel_size_angstrom == pytest.approx(4.0)
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(paths[0].stat().st_mode) == 0o666 & ~umask


def test_output_directory(tmp_path):
    out = prepare_output_directory(tmp_path / "a" / "b")
    assert out.is_dir()
    assert not list(out.iterdir())
    assert prepare_output_directory(out) == out
    (out / "run.h5").write_bytes(b"")
    with pytest.raises(OutputError, match=r"holds another run.*faml resume .*choose another"):
        prepare_output_directory(out)


def test_output_directory_that_cannot_be_one(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match="cannot be used as output directory"):
            prepare_output_directory(path)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")
def test_fixture_round_trip(tmp_path):
    source = SHARED / "conventions" / "particles.star"
    dataset = open_particles(DataConfig(inputs=(str(source),)), 0)
    poses = dataset.particles.poses
    found = replace(results(8), rotations=poses.rotations, translations=poses.translations)
    found = replace(found, classes=np.zeros(8, dtype=np.int64))
    write_particles(tmp_path, dataset, found)
    check_poses(tmp_path, dataset, found)
    before, after = read_star(source), read_star(tmp_path / "particles.star")
    for column in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst"):
        np.testing.assert_allclose(
            after.particles[column].astype(float), before.particles[column].astype(float), atol=2e-6
        )
    assert not (tmp_path / "wedge.mrc").exists()


def shell_correlation(a, b):
    """Fourier shell correlation of two volumes, shells 0 to n/2 - 1."""
    n = a.shape[0]
    x, y = np.fft.fftn(a), np.fft.fftn(b)
    k = np.fft.fftfreq(n, 1 / n)
    radius = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + k**2).round().astype(int)

    def shells(values):
        return np.bincount(radius.ravel(), values.ravel())[: n // 2]

    power = shells(np.abs(x) ** 2) * shells(np.abs(y) ** 2)
    return shells((x * y.conj()).real) / np.sqrt(power)


@pytest.mark.relion
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")
@pytest.mark.skipif(shutil.which("relion_refine") is None, reason="relion_refine is not on PATH")
@pytest.mark.parametrize("kind", ["star", "volumes"])
def test_relion_reads_what_is_written(tmp_path, kind):
    """RELION averages at the written poses, with the written wedge, and gets the reference."""
    fixture = SHARED / "conventions"
    poses = open_particles(DataConfig(inputs=(str(fixture / "particles.star"),)), 0).particles.poses
    if kind == "star":
        inputs = DataConfig(inputs=(str(fixture / "particles.star"),))
    else:
        pattern = str(fixture / "particle_*.mrc")
        inputs = DataConfig(inputs=(pattern,), tilt_range_deg=(-50.0, 70.0))
    found = replace(results(8), rotations=poses.rotations, translations=poses.translations)
    found = replace(found, classes=np.zeros(8, dtype=np.int64))
    star = write_particles(tmp_path, open_particles(inputs, 0), found)
    command = [
        *("relion_refine", "--i", str(star), "--ref", str(fixture / "reference.mrc"), "--ctf"),
        *("--o", str(tmp_path / "run"), "--iter", "1", "--skip_align", "--K", "1", "--pad", "2"),
        *("--tau2_fudge", "4", "--particle_diameter", "380", "--norm", "--dont_check_norm"),
    ]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path, timeout=120)
    average = read_volume(tmp_path / "run_it001_class001.mrc").values
    reference = read_volume(fixture / "reference.mrc").values
    # Shell 1 is RELION's treatment of the background (0.1 to 0.9 by its options, and the same with
    # the fixture's own STAR file); the others reach 0.944 to 0.985 with either file.
    assert shell_correlation(average, reference)[2:14].min() >= 0.93


@pytest.mark.relion
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")
@pytest.mark.skipif(shutil.which("relion_refine") is None, reason="relion_refine is not on PATH")
def test_relion_averages_what_a_run_leaves_like_the_run_itself(tmp_path):
    """Both of RELION's programs, on the table of a run, against the map of that run."""
    fixture = SHARED / "conventions"
    run = faml.run(
        [fixture / "particles.star"],
        tmp_path / "run",
        em={"start": "poses", "iterations": 0, "folds": 1},
        search={"refine": False},
        report=False,
    )
    own = read_volume(run.maps[0]).values
    rebuilt, refined = tmp_path / "rebuilt.mrc", tmp_path / "refined"
    average = f"--ref {run.maps[0]} --iter 1 --skip_align --K 1 --pad 2 --tau2_fudge 100"
    for command in (
        f"relion_reconstruct --i {run.star} --o {rebuilt} --ctf --angpix 12 --3d_rot",
        f"relion_refine --i {run.star} --o {refined} --ctf {average} "
        "--particle_diameter 380 --norm --dont_check_norm",
    ):
        subprocess.run(command.split(), check=True, capture_output=True, timeout=120)
    correlation = shell_correlation(read_volume(rebuilt).values, own)
    assert correlation[1:].min() >= 0.95
    # relion_refine treats the background in its own way (shell 1), and shrinks the last shell.
    refined = read_volume(tmp_path / "refined_it001_class001.mrc").values
    assert shell_correlation(refined, own)[2:15].min() >= 0.95
