"""`faml convert`, and tables of other programs as input of a run."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from phantoms import blobs
from scipy.spatial.transform import Rotation

import faml
from faml.config import DataConfig, build_config
from faml.conventions import rotation_angle_deg
from faml.errors import ConfigurationError, InputDataError, OutputError
from faml.io.dataset import open_particles, survey_particles
from faml.io.em import read_em, write_em
from faml.io.formats import TiltRange, read_table, write_table
from faml.io.formats.conversion import Conversion, convert, parsed_rescale
from faml.io.formats.table import ParticleTable
from faml.io.inspect import inspect_dataset
from faml.io.mrc import read_volume, write_volume
from faml.io.positions import particle_positions
from faml.io.star import read_star
from faml.particles import wedge_weight

BOX = 12
VOXEL = 4.0
COUNT = 6
RANGES = ((-50.0, 70.0), (-60.0, 40.0))


@pytest.fixture
def data(tmp_path):
    """Particles as Dynamo keeps them: a table, a folder of EM files, two tomograms."""
    rng = np.random.default_rng(5)
    folder = tmp_path / "particles"
    folder.mkdir()
    rotations = Rotation.random(COUNT, rng=rng).as_matrix()
    shifts = rng.uniform(-1.5, 1.5, (COUNT, 3))
    for k in range(COUNT):
        volume = blobs(BOX, rotations[k], shifts[k]) + rng.normal(scale=0.2, size=(BOX,) * 3)
        write_em(folder / f"particle_{2 * k + 1:06d}.em", volume)
    table = ParticleTable(
        path=tmp_path / "made",
        format="stopgap",
        numbers=2 * np.arange(COUNT) + 1,
        own=pd.DataFrame(index=range(COUNT)),
        rotations=rotations,
        translations=shifts,
        coordinates_voxels=rng.uniform(20, 300, (COUNT, 3)),
        tomograms=tuple("12"[k % 2] for k in range(COUNT)),
        classes=1 + np.arange(COUNT) % 3,
        wedges=tuple((TiltRange(*RANGES[k % 2]),) for k in range(COUNT)),
        voxel_size_angstrom=VOXEL,
    )
    write_table(tmp_path / "t.tbl", table, "dynamo")
    return tmp_path


def config(*inputs, **settings):
    return DataConfig(inputs=tuple(map(str, inputs)), **settings)


# ---- tables as input


def test_dynamo_table_as_input(data):
    """Poses, wedges, tomograms, positions and classes reach the run."""
    table = read_table(data / "t.tbl")
    opened = open_particles(config(data / "t.tbl"), 0)
    particles = opened.particles
    assert [path.name for path in opened.paths][:2] == ["particle_000001.em", "particle_000003.em"]
    assert particles.voxel_size_angstrom == VOXEL
    assert rotation_angle_deg(particles.poses.rotations, table.rotations).max() < 1e-4
    np.testing.assert_allclose(particles.poses.translations, table.translations, atol=1e-5)
    assert opened.weight_source == "tilt range"
    assert particles.weight_index.tolist() == [0, 1] * 3
    for which in (0, 1):
        np.testing.assert_array_equal(particles.weight(which), wedge_weight(BOX, RANGES[which]))
    assert particles.tomograms.tolist() == [0, 1] * 3
    np.testing.assert_allclose(
        particle_positions(opened, particles.poses.translations),
        (table.coordinates_voxels + table.translations) * VOXEL,
        atol=1e-3,
    )
    np.testing.assert_array_equal(
        opened.particles.volumes.read(2), read_em(data / "particles" / "particle_000005.em")
    )
    assert opened.star.particles["rlnClassNumber"].tolist() == ["1", "2", "3"] * 2
    assert opened.warnings == ()
    some = open_particles(config(data / "t.tbl", subset=3), 1)
    assert len(some.particles) == 3
    rows = some.rows
    assert rotation_angle_deg(some.particles.poses.rotations, table.rotations[rows]).max() < 1e-4
    expected = [RANGES[row % 2] for row in rows]
    for k, tilts in enumerate(expected):
        weight = some.particles.weight(int(some.particles.weight_index[k]))
        np.testing.assert_array_equal(weight, wedge_weight(BOX, tilts))


@pytest.mark.parametrize("target", ["av3", "stopgap"])
def test_motive_lists_as_input(data, target):
    name = {"av3": "m.em", "stopgap": "m.star"}[target]
    done = convert(
        Conversion(data / "t.tbl", data / name, target, wedge_list_out=data / "wedges.em")
    )
    assert done.files[-1] == data / "wedges.em"
    settings = {"particles_folder": str(data / "particles"), "voxel_size_angstrom": VOXEL}
    with pytest.raises(InputDataError, match=r"does not give tilts|rlnCtfImage is missing"):
        open_particles(config(data / name, **settings), 0)
    listed = {"wedge_list": str(data / "wedges.em"), **settings}
    opened = open_particles(config(data / name, **listed), 0)
    first = open_particles(config(data / "t.tbl"), 0)
    assert opened.paths == first.paths
    assert opened.particles.weight_index.tolist() == first.particles.weight_index.tolist()
    for which in (0, 1):
        np.testing.assert_array_equal(opened.particles.weight(which), first.particles.weight(which))
    poses = opened.particles.poses
    assert rotation_angle_deg(poses.rotations, first.particles.poses.rotations).max() < 1e-3
    with pytest.raises(InputDataError, match="no voxel size: neither the table nor the header"):
        open_particles(config(data / name, wedge_list=listed["wedge_list"]), 0)


def test_a_run_from_a_table(data):
    """Same average and same output from the table and from the STAR file made of it."""
    options = {"em": {"start": "poses", "iterations": 0, "classes": 1}, "threads": 1}
    one = faml.run([str(data / "t.tbl")], data / "one", **options)
    convert(Conversion(data / "t.tbl", data / "t.star"))
    two = faml.run([str(data / "t.star")], data / "two", **options)
    np.testing.assert_array_equal(read_volume(one.maps[0]).values, read_volume(two.maps[0]).values)
    star = read_star(one.star)
    assert star.optics["rlnImageSize"].tolist() == [str(BOX)]
    wedges = [name.rsplit("/", 1)[1] for name in star.particles["rlnCtfImage"]]
    assert wedges == ["wedge_001.mrc", "wedge_002.mrc"] * 3
    assert star.particles["dynamo_tag"].tolist() == [str(2 * k + 1) for k in range(COUNT)]
    three = faml.run([str(one.star)], data / "three", **options)
    np.testing.assert_allclose(
        read_volume(three.maps[0]).values, read_volume(one.maps[0]).values, atol=1e-4
    )
    back = convert(Conversion(one.star, data / "back.tbl"))
    table, before = read_table(back.files[0]), read_table(data / "t.tbl")
    assert table.numbers.tolist() == before.numbers.tolist()
    assert table.wedges == before.wedges
    np.testing.assert_allclose(table.coordinates_voxels, before.coordinates_voxels, atol=1e-4)


def test_em_files_without_table(data):
    opened = open_particles(
        config(data / "particles", tilt_range_deg=(-60.0, 60.0), voxel_size_angstrom=VOXEL), 0
    )
    assert len(opened.particles) == COUNT
    glob = open_particles(
        config(
            data / "particles" / "*.em", tilt_range_deg=(-60.0, 60.0), voxel_size_angstrom=VOXEL
        ),
        0,
    )
    assert glob.paths == opened.paths
    with pytest.raises(InputDataError, match="no voxel size"):
        open_particles(config(data / "particles", tilt_range_deg=(-60.0, 60.0)), 0)
    write_volume(data / "particles" / "x.mrc", blobs(BOX), VOXEL)
    (data / "particles" / "crop.tbl").write_text("1\n")
    one = survey_particles(config(data / "particles"))
    assert len(one.particles) == 1
    assert any("6 .em files, which are ignored" in text for text in one.warnings)
    assert any("crop.tbl, which is ignored" in text for text in one.warnings)


def test_options_of_tables(data):
    with pytest.raises(ConfigurationError, match="--particles belongs to tables"):
        open_particles(config(data / "particles", particles_folder=str(data)), 0)
    with pytest.raises(ConfigurationError, match="--wedge-list is by tomogram"):
        open_particles(config(data / "particles", wedge_list=str(data / "w.em")), 0)
    (data / "w.txt").write_text("1 -40 40\n2 -30 30\n")
    listed = open_particles(config(data / "t.tbl", wedge_list=str(data / "w.txt")), 0)
    np.testing.assert_array_equal(listed.particles.weight(1), wedge_weight(BOX, (-30.0, 30.0)))
    given = open_particles(config(data / "t.tbl", tilt_range_deg=(-20.0, 20.0)), 0)
    np.testing.assert_array_equal(given.particles.weight(0), wedge_weight(BOX, (-20.0, 20.0)))
    assert given.particles.weight_index.tolist() == [0] * COUNT
    assert any("--tilt-range replaces the tilts" in text for text in given.warnings)
    with pytest.raises(ConfigurationError, match="or one other table"):
        open_particles(config(data / "t.tbl", data / "particles"), 0)


def rewritten(path, column, values):
    rows = [line.split() for line in path.read_text().splitlines()]
    for row, value in zip(rows, values, strict=True):
        row[column - 1] = str(value)
    path.write_text("\n".join(" ".join(row) for row in rows) + "\n")


def test_wedges_that_are_not_known(data):
    rewritten(data / "t.tbl", 13, [1, 5, 1, 5, 1, 1])
    with pytest.raises(InputDataError, match=r"wedge of 2 particles is unknown.*particle_000003"):
        open_particles(config(data / "t.tbl"), 0)
    found = inspect_dataset(build_config(data={"inputs": (str(data / "t.tbl"),)}))
    assert found.weight_source == "missing"
    assert any("2 particles have ftype 5" in text for text in found.warnings)
    rewritten(data / "t.tbl", 13, [0] * COUNT)
    full = open_particles(config(data / "t.tbl"), 0)
    assert full.particles.weight(0).all()
    assert any("no particle has a missing wedge (ftype 0)" in text for text in full.warnings)
    rewritten(data / "t.tbl", 13, [1] * COUNT)
    rewritten(data / "t.tbl", 14, [60] * COUNT)
    rewritten(data / "t.tbl", 15, [120] * COUNT)
    crossing = open_particles(config(data / "t.tbl"), 0)
    parts = np.maximum(wedge_weight(BOX, (60.0, 90.0)), wedge_weight(BOX, (-90.0, -60.0)))
    np.testing.assert_array_equal(crossing.particles.weight(0), parts)


def test_particle_files_that_are_not_there(data):
    for number in (3, 7):
        (data / "particles" / f"particle_{number:06d}.em").unlink()
    with pytest.raises(InputDataError, match=r"2 of them not found: numbers 3, 7;"):
        open_particles(config(data / "t.tbl", particles_folder=str(data / "particles")), 0)
    with pytest.raises(InputDataError, match=r"2 of them not found .*: numbers 3, 7; complete"):
        open_particles(config(data / "t.tbl"), 0)
    (data / "deep").mkdir()
    (data / "particles").rename(data / "deep" / "particles")
    with pytest.raises(InputDataError, match="none that match its numbers; give --particles"):
        open_particles(config(data / "t.tbl"), 0)
    with pytest.raises(InputDataError, match="folder of particles does not exist"):
        open_particles(config(data / "t.tbl", particles_folder=str(data / "none")), 0)
    (data / "deep" / "particles").rename(data / "particles")
    rewritten(data / "t.tbl", 1, [1, 5, 5, 9, 11, 1])
    with pytest.raises(InputDataError, match=r"particle (1|5) is listed 2 times"):
        open_particles(config(data / "t.tbl"), 0)


def test_several_series_of_files(data):
    for path in list((data / "particles").iterdir()):
        path.with_name(path.name.replace("particle", "other")).write_bytes(path.read_bytes())
        path.with_name(path.name.replace("particle", "fmask")).write_bytes(b"no volume")
    with pytest.raises(InputDataError, match=r"found several \(other_\*\.em, particle_\*\.em\)"):
        open_particles(config(data / "t.tbl"), 0)


def test_mixed_boxes(data):
    write_em(data / "particles" / "particle_000005.em", np.ones((BOX + 2,) * 3))
    with pytest.raises(InputDataError, match=r"particle_000005\.em: expected a box of"):
        open_particles(config(data / "t.tbl"), 0)


# ---- the command


def test_convert_says_what_it_does(data, cli):
    code, out, err = cli("convert", data / "t.tbl", data / "a.em")
    assert (code, err) == (0, "")
    assert "(Dynamo table (.tbl), 6 entries) ->" in out
    assert "not kept: voxel size (6 particles)" in out
    assert "not kept: missing wedges" in out
    code, out, err = cli("convert", data / "a.em", data / "a.star", "--voxel-size", VOXEL)
    assert code == 0
    assert "RELION and Warp read no .em files" in out
    assert f"particle files are those in {data / 'particles'}" in out
    star = read_table(data / "a.star")
    assert star.images[0] == str(data / "particles" / "particle_000001.em")
    assert star.format == "relion3.1"
    assert star.star.optics["rlnImageSize"].tolist() == [str(BOX)]  # RELION does not start without
    code, out, err = cli("convert", data / "a.em", data / "b.star")
    assert code == 2
    assert "give --voxel-size" in err
    code, _, err = cli("convert", data / "a.em", data / "b.star", "--to", "relion9")
    assert code == 2
    assert "--to relion9: unknown format" in err
    code, _, err = cli("convert", data / "a.em", data / "b.txt")
    assert code == 2
    assert "say the format with --to" in err


def test_nothing_is_overwritten(data, cli):
    before = (data / "t.tbl").read_bytes()
    code, _, err = cli("convert", data / "t.tbl", data / "t.tbl", "--force")
    assert code == 4
    assert "is an input, which is never written to" in err
    assert cli("convert", data / "t.tbl", data / "a.em")[0] == 0
    code, _, err = cli("convert", data / "t.tbl", data / "a.em")
    assert code == 4
    assert "exists already" in err
    assert cli("convert", data / "t.tbl", data / "a.em", "--force")[0] == 0
    (data / "w.txt").write_text("1 -40 40\n2 -30 30\n")
    options = {"wedge_list": data / "w.txt", "wedge_list_out": data / "w.txt", "force": True}
    with pytest.raises(OutputError, match="is an input"):
        convert(Conversion(data / "t.tbl", data / "b.em", **options))
    assert not (data / "b.em").exists()
    assert (data / "t.tbl").read_bytes() == before
    assert cli("convert", data / "t.tbl", data / "no" / "a.em")[0] == 4


def test_rescaling_for_unbinned_boxes(data, cli):
    convert(Conversion(data / "t.tbl", data / "a.star"))
    code, out, _ = cli("convert", data / "a.star", data / "b.star", "--rescale", "2A")
    assert code == 0
    assert "boxes of 2 times as many voxels (2 A)" in out
    assert "still those of the boxes before rescaling" in out
    small, large = read_table(data / "a.star"), read_table(data / "b.star")
    np.testing.assert_allclose(large.translations, 2 * small.translations, atol=1e-3)
    np.testing.assert_allclose(large.coordinates_voxels, 2 * small.coordinates_voxels, atol=1e-3)
    assert large.voxel_size_angstrom == 2.0
    assert large.star.optics["rlnImageSize"].tolist() == [str(2 * BOX)]
    assert rotation_angle_deg(large.rotations, small.rotations).max() < 1e-3
    done = convert(Conversion(data / "t.tbl", data / "c.tbl", rescale="0.5"))
    assert read_table(done.files[0]).voxel_size_angstrom == 8.0
    assert parsed_rescale("4", None) == 4.0
    assert parsed_rescale("1.5 Å", 3.0) == 2.0
    for text in ("0", "-2", "two", "2B", "e"):
        with pytest.raises(ConfigurationError, match="expected a factor such as 2"):
            parsed_rescale(text, 2.0)
    with pytest.raises(ConfigurationError, match="give --voxel-size"):
        parsed_rescale("2A", None)


def test_sizes_of_tomograms(data):
    tomograms = data / "tomograms.star"
    tomograms.write_text(
        "data_global\n\nloop_\n_rlnTomoName #1\n_rlnTomoTiltSeriesPixelSize #2\n"
        "_rlnTomoSizeX #3\n_rlnTomoSizeY #4\n_rlnTomoSizeZ #5\n"
        "1 2.0 801 600 300\n2 2.0 800 602 300\n"
    )
    with pytest.raises(ConfigurationError, match="--tomograms FILE"):
        convert(Conversion(data / "t.tbl", data / "a.star", "relion5"))
    convert(Conversion(data / "t.tbl", data / "a.star", "relion5", tomograms=tomograms))
    table, five = read_table(data / "t.tbl"), read_table(data / "a.star")
    half = np.array([[801, 600, 300], [800, 602, 300]] * 3) / 2 * 2.0 / VOXEL
    np.testing.assert_allclose(five.coordinates_voxels, table.coordinates_voxels - half, atol=1e-4)
    convert(Conversion(data / "a.star", data / "b.tbl", tomograms=tomograms))
    back = read_table(data / "b.tbl")
    np.testing.assert_allclose(back.coordinates_voxels, table.coordinates_voxels, atol=1e-4)
    tomograms.write_text(tomograms.read_text().replace("\n2 2.0", "\n3 2.0"))
    with pytest.raises(InputDataError, match="1 of them not found: 2"):
        convert(Conversion(data / "a.star", data / "c.tbl", tomograms=tomograms))
    sizes = (400.0, 300.0, 150.0)
    done = convert(Conversion(data / "a.star", data / "c.tbl", tomogram_size=sizes, rescale="2"))
    expected = 2 * (five.coordinates_voxels + np.array(sizes) / 2)
    np.testing.assert_allclose(read_table(done.files[0]).coordinates_voxels, expected, atol=1e-3)


def test_volumes_and_wedge_lists(data, cli):
    source = data / "particles" / "particle_000001.em"
    code, _, err = cli("convert", source, data / "v.mrc")
    assert code == 2
    assert "give --voxel-size" in err
    assert cli("convert", source, data / "v.mrc", "--voxel-size", VOXEL)[0] == 0
    volume = read_volume(data / "v.mrc")
    np.testing.assert_array_equal(volume.values, read_em(source))
    assert volume.header.voxel_size_angstrom == pytest.approx(VOXEL)
    code, out, _ = cli("convert", data / "v.mrc", data / "v.em")
    assert "not kept: voxel size 4 A" in out
    assert (data / "v.em").read_bytes() == source.read_bytes()
    (data / "w.txt").write_text("1 -40 41.5\n2 -30 30\n")
    assert cli("convert", data / "w.txt", data / "w.em")[0] == 3  # text is no list by content
    convert(
        Conversion(
            data / "t.tbl",
            data / "a.em",
            wedge_list=data / "w.txt",
            wedge_list_out=data / "w.star",
        )
    )
    code, out, _ = cli("convert", data / "w.star", data / "w.em")
    assert code == 0
    assert "single tilts" in out
    np.testing.assert_allclose(read_em(data / "w.em")[0], [[1, -40, 41.5], [2, -30, 30]])


def test_particles_of_a_star_file_in_another_folder(data):
    convert(Conversion(data / "t.tbl", data / "a.star"))
    other = data / "elsewhere"
    (data / "particles").rename(other)
    convert(Conversion(data / "a.star", data / "b.star", particles=other))
    assert read_table(data / "b.star").images[0] == str(other / "particle_000001.em")
    assert len(open_particles(config(data / "b.star"), 0).particles) == COUNT
    (other / "particle_000003.em").unlink()
    with pytest.raises(InputDataError, match=r"1 of them not found: particle_000003\.em"):
        convert(Conversion(data / "a.star", data / "c.star", particles=other))


@pytest.mark.relion
@pytest.mark.skipif(shutil.which("relion_reconstruct") is None, reason="no relion_reconstruct")
@pytest.mark.parametrize("target", ["relion3.0", "relion3.1"])
def test_relion_reads_what_comes_from_dynamo(tmp_path, target):
    """RELION's own average at converted poses is the phantom."""
    n, rng = 24, np.random.default_rng(3)
    turns = Rotation.random(12, rng=rng).as_matrix()
    shifts = rng.uniform(-2, 2, (12, 3))
    for k in range(12):
        write_volume(tmp_path / f"particle_{k + 1:05d}.mrc", blobs(n, turns[k], shifts[k]), VOXEL)
    table = ParticleTable(
        path=tmp_path / "made",
        format="stopgap",
        numbers=np.arange(1, 13),
        own=pd.DataFrame(index=range(12)),
        rotations=turns,
        translations=shifts,
        voxel_size_angstrom=VOXEL,
    )
    write_table(tmp_path / "t.tbl", table, "dynamo")
    convert(Conversion(tmp_path / "t.tbl", tmp_path / "t.star", target))
    command = ["relion_reconstruct", "--i", "t.star", "--o", "map.mrc", "--angpix", str(VOXEL)]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=300)
    found = read_volume(tmp_path / "map.mrc").values
    assert np.corrcoef(found.ravel(), blobs(n).ravel())[0, 1] > 0.97


# ---- nothing lost, nothing overwritten


def test_particles_of_tomograms_that_count_anew(tmp_path):
    """RELION's 1_data.mrc of every tomogram are not one file."""
    names = [f"old/TS_{k}/{i}_data.mrc" for k in (1, 2) for i in (1, 2)]
    rows = "".join(f"{name} 1\n" for name in names)
    (tmp_path / "a.star").write_text(
        "data_optics\nloop_\n_rlnOpticsGroup\n_rlnImagePixelSize\n1 4.0\n\n"
        f"data_particles\nloop_\n_rlnImageName\n_rlnOpticsGroup\n{rows}"
    )
    for name in names:
        path = tmp_path / name.replace("old", "new")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_volume(path, np.zeros((4, 4, 4)), 4.0)
    done = convert(Conversion(tmp_path / "a.star", tmp_path / "b.star", particles=tmp_path / "new"))
    expected = [str(tmp_path / name.replace("old", "new")) for name in names]
    assert list(read_table(done.files[0]).images) == expected


def test_wedge_list_has_the_numbers_of_the_table(data):
    """Also where names of tomograms sort otherwise than their numbers."""
    (data / "t.doc").write_text("1 B\n2 A\n")
    ranges = {(TiltRange(*RANGES[0]),): "B", (TiltRange(*RANGES[1]),): "A"}
    for source, table, wedges in (("t.tbl", "a.em", "aw.em"), ("t.star", "b.em", "bw.em")):
        if source == "t.star":
            convert(Conversion(data / "t.tbl", data / "t.star"))
        convert(Conversion(data / source, data / table, wedge_list_out=data / wedges))
        found = read_table(data / table)
        number = dict(zip(found.own["tomogram"].astype(int), found.tomograms, strict=True))
        listed = {int(row[0]): tuple(row[1:]) for row in read_em(data / wedges)[0]}
        for index, tilts in listed.items():
            assert ranges[(TiltRange(*tilts),)] == number[index]


def test_outputs_that_would_be_inputs_or_each_other(data):
    before = (data / "t.tbl").read_bytes()
    with pytest.raises(OutputError, match="two files of this name"):
        convert(Conversion(data / "t.tbl", data / "a.em", wedge_list_out=data / "a.em"))
    (data / "t.doc").write_text("1 B\n2 A\n")
    with pytest.raises(OutputError, match=r"t\.doc: is an input"):
        convert(
            Conversion(data / "t.tbl", data / "t.em", wedge_list_out=data / "t.doc", force=True)
        )
    particle = data / "particles" / "particle_000001.em"
    star = convert(Conversion(data / "t.tbl", data / "t.star")).files[0]
    with pytest.raises(OutputError, match="is an input"):
        convert(Conversion(star, particle, force=True))
    assert read_em(particle).shape == (BOX,) * 3
    assert (data / "t.tbl").read_bytes() == before
    assert (data / "t.doc").read_text() == "1 B\n2 A\n"
    assert not (data / "t.em").exists()


def test_wedge_list_is_checked_before_anything_is_written(data):
    convert(Conversion(data / "t.tbl", data / "m.em"))
    with pytest.raises(ConfigurationError, match="not all known"):
        convert(Conversion(data / "m.em", data / "b.tbl", wedge_list_out=data / "w.em"))
    lines = [line.split() for line in (data / "t.tbl").read_text().splitlines()]
    lines[0][19] = "2"  # of two particles of one tomogram the tilts differ
    (data / "u.tbl").write_text("".join(" ".join(line) + "\n" for line in lines))
    with pytest.raises(ConfigurationError, match=r"tomogram 2 .*different tilts"):
        convert(Conversion(data / "u.tbl", data / "b.tbl", wedge_list_out=data / "w.em"))
    assert not (data / "b.tbl").exists()
    assert not (data / "w.em").exists()


def test_hostile_names_are_one_line(data, cli):
    loop = data / "loop"
    loop.symlink_to(loop)
    outputs = (".", "/", "", data / ("z" * 300 + ".tbl"), loop / "x.tbl")
    for out in outputs:
        code, _, err = cli("convert", data / "t.tbl", out, "--to", "dynamo", "--force")
        assert code == 4, err
        assert len(err.strip().splitlines()) == 1
    (data / "long.star").write_text(
        "data_particles\nloop_\n_rlnImageName\n_rlnPixelSize\n" + "x" * 400 + ".mrc 4\n"
    )
    assert cli("convert", data / "long.star", data / "long2.star")[0] == 0
    assert cli("convert", data / "long.star", data / "l.star", "--particles", data)[0] == 3
    assert cli("inspect", data / "long.star")[0] == 3
    for size in ("inf", "nan"):
        arguments = ("--to", "relion5", "--tomogram-size", size, "9", "9")
        assert cli("convert", data / "t.tbl", data / "v.star", *arguments)[0] == 2
        assert cli("convert", data / "t.tbl", data / "v.tbl", "--voxel-size", size)[0] == 2


def test_names_that_no_star_file_holds_are_refused_before_a_run(data):
    (data / "particles").rename(data / "two\nlines")
    for source in (data / "t.tbl", data / "two\nlines"):
        with pytest.raises(InputDataError, match="line breaks"):
            open_particles(config(source, tilt_range_deg=(-60, 60), voxel_size_angstrom=4.0), 0)
