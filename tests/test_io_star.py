"""RELION STAR files: poses, what is kept, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import starfile
from scipy.spatial.transform import Rotation

from faml.errors import InputDataError
from faml.io.star import (
    read_star,
    resolve_images,
    star_pixel_size,
    star_poses,
    star_premultiplied,
    write_star,
)

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

STAR = """
# version 30001

data_general

_rlnTomoSubTomosAre2DStacks 0
_rlnNote "two words"

data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnImagePixelSize #3
_rlnImageDimensionality #4
1 "first group" 12.0 3

# version 30001

data_particles

loop_
_rlnTomoName #1
_rlnImageName #2
_rlnOpticsGroup #3
_rlnAngleRot #4
_rlnAngleTilt #5
_rlnAnglePsi #6
_rlnOriginXAngst #7
_rlnOriginYAngst #8
_rlnOriginZAngst #9
_rlnUnknownThing #10
01 a.mrc 1 10.0 20.0 30.0 12.0 -24.0 6.0 1e-07
02 b.mrc 1 -10.0 120.0 50.0 0.0 0.0 0.0 0123456789.10

data_extra

loop_
_someColumn #1
007
"""


def make(tmp_path, text=STAR, images=("a.mrc", "b.mrc")):
    path = tmp_path / "particles.star"
    path.write_text(text)
    for name in images:
        (tmp_path / name).write_bytes(b"x")
    return path


def test_reads_tables_as_text(tmp_path):
    star = read_star(make(tmp_path))
    assert len(star) == 2
    assert star.version == 30001
    assert list(star.blocks) == ["general", "optics", "particles", "extra"]
    assert list(star.particles["rlnTomoName"]) == ["01", "02"]
    assert list(star.particles["rlnUnknownThing"]) == ["1e-07", "0123456789.10"]
    assert list(star.blocks["extra"]["someColumn"]) == ["007"]
    assert star.blocks["general"]["rlnNote"] == "two words"
    assert star_pixel_size(star) == 12.0
    assert not star_premultiplied(star).any()


def test_round_trip_keeps_everything(tmp_path):
    star = read_star(make(tmp_path))
    copy = tmp_path / "copy.star"
    write_star(copy, star.blocks, star.version, "a comment")
    again = read_star(copy)
    assert list(again.blocks) == list(star.blocks)
    for name, block in star.blocks.items():
        if isinstance(block, dict):
            assert again.blocks[name] == block
        else:
            assert list(again.blocks[name].columns) == list(block.columns)
            assert again.blocks[name].to_numpy().tolist() == block.to_numpy().tolist()
    second = tmp_path / "second.star"
    write_star(second, again.blocks, again.version, "a comment")
    assert second.read_text() == copy.read_text()
    # another reader of the field understands it too
    assert float(starfile.read(copy)["particles"]["rlnAngleRot"].iloc[0]) == 10.0


def test_changed_file_is_read_anew(tmp_path):
    path = make(tmp_path)
    read_star(path)
    path.write_text(STAR.replace("01 a.mrc", "77 a.mrc").replace("02 b.mrc", "extra b.mrc"))
    assert list(read_star(path).particles["rlnTomoName"]) == ["77", "extra"]


def test_poses_follow_relion(tmp_path):
    poses = star_poses(read_star(make(tmp_path)), 12.0)
    # RELION's matrix of (rot, tilt, psi) maps the particle to the reference.
    relion = Rotation.from_euler("ZYZ", [10.0, 20.0, 30.0], degrees=True).as_matrix()
    np.testing.assert_allclose(poses.rotations[0], relion.T, atol=1e-12)
    np.testing.assert_allclose(poses.translations[0], [-1.0, 2.0, -0.5])


def test_origins_may_be_absent_and_angles_too(tmp_path):
    lines = [line for line in STAR.splitlines() if "rlnOrigin" not in line]
    text = "\n".join(lines).replace("12.0 -24.0 6.0 ", "").replace("0.0 0.0 0.0 0123", "0123")
    poses = star_poses(read_star(make(tmp_path, text)), 12.0)
    np.testing.assert_array_equal(poses.translations, 0.0)
    lines = [line for line in lines if "rlnAngle" not in line]
    text = "\n".join(lines)
    text = text.replace("10.0 20.0 30.0 12.0 -24.0 6.0 ", "").replace(
        "-10.0 120.0 50.0 0.0 0.0 0.0 ", ""
    )
    assert star_poses(read_star(make(tmp_path, text)), 12.0) is None


def test_subtomogram_angles_are_not_applied(tmp_path):
    text = STAR.replace("_rlnUnknownThing", "_rlnTomoSubtomogramRot").replace("1e-07", "90")
    plain = star_poses(read_star(make(tmp_path)), 12.0)
    turned = star_poses(read_star(make(tmp_path, text)), 12.0)
    np.testing.assert_array_equal(turned.rotations, plain.rotations)


def test_relion_30(tmp_path):
    text = (
        "data_images\n\nloop_\n_rlnImageName\n_rlnDetectorPixelSize\n_rlnMagnification\n"
        "_rlnAngleRot\n_rlnAngleTilt\n_rlnAnglePsi\n_rlnOriginX\n_rlnOriginY\n_rlnOriginZ\n"
        "a.mrc 5.0 10000 0 0 0 1.5 -2 0\nb.mrc 5.0 10000 0 0 90 0 0 0\n"
    )
    star = read_star(make(tmp_path, text))
    assert star_pixel_size(star) == pytest.approx(5.0)
    np.testing.assert_allclose(star_poses(star, 5.0).translations[0], [-1.5, 2.0, 0.0])


def test_premultiplied_per_optics_group(tmp_path):
    text = STAR.replace("_rlnImageDimensionality #4\n", "_rlnCtfDataAreCtfPremultiplied #4\n")
    text = text.replace('1 "first group" 12.0 3', "1 one 12.0 1\n2 two 12.0 0")
    text = text.replace("02 b.mrc 1", "02 b.mrc 2")
    assert star_premultiplied(read_star(make(tmp_path, text))).tolist() == [True, False]


def test_images_are_found_beside_above_and_in_the_current_directory(tmp_path, monkeypatch):
    project = tmp_path / "project"
    (project / "Extract" / "job").mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    path = project / "Extract" / "job" / "particles.star"
    path.write_text(STAR.replace("a.mrc", "Extract/job/a.mrc"))
    (project / "Extract" / "job" / "a.mrc").write_bytes(b"x")
    (elsewhere / "b.mrc").write_bytes(b"x")
    assert resolve_images(read_star(path), "rlnImageName") == (
        project / "Extract" / "job" / "a.mrc",
        elsewhere / "b.mrc",
    )


def test_missing_images_are_counted(tmp_path):
    star = read_star(make(tmp_path, images=()))
    with pytest.raises(InputDataError, match=r"rlnImageName, 2 of them not found: a\.mrc, b\.mrc"):
        resolve_images(star, "rlnImageName")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("Are2DStacks 0", "Are2DStacks 1", "rlnTomoSubTomosAre2DStacks is 1"),
        ('group" 12.0 3', 'group" 12.0 2', "rlnImageDimensionality is 2 in optics group 1"),
        ("01 a.mrc", "01 000001@a.mrcs", "000001@a.mrcs"),
        ("01 a.mrc", "01 a.mrcs", "stack, a.mrcs"),
    ],
)
def test_two_dimensional_stacks(tmp_path, old, new, reason):
    with pytest.raises(InputDataError, match=r"particles\.star: expected 3-D") as error:
        read_star(make(tmp_path, STAR.replace(old, new)))
    assert reason in str(error.value)
    assert "--stack2d" in str(error.value)
    assert "--3d" in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("_rlnImageName", "_rlnOther", r"column rlnImageName"),
        ("data_particles", "data_movies\n\nloop_\n_x #1\n1\n\ndata_p/q", "begins with data_"),
        (" 0.0 0.0 0.0 0123456789.10", "", r"line 34, .*expected 10 .*the file may be truncated"),
        ("0123456789.10", "1 2 3", "malformed STAR file"),
        ("01 a.mrc", "data_set/a.mrc a.mrc", "begins with data_"),
    ],
)
def test_malformed(tmp_path, old, new, message):
    with pytest.raises(InputDataError, match=rf"particles\.star: .*{message}"):
        read_star(make(tmp_path, STAR.replace(old, new)))


def test_explicit_empty_and_nan_values_are_kept(tmp_path):
    text = STAR.replace("0123456789.10", '""').replace("1e-07", "nan")
    star = read_star(make(tmp_path, text))
    copy = tmp_path / "copy.star"
    write_star(copy, star.blocks, star.version)
    assert "6.0 nan\n" in copy.read_text()
    assert '0.0 ""\n' in copy.read_text()


def test_incomplete_angles_name_the_column(tmp_path):
    star = read_star(make(tmp_path, STAR.replace("_rlnAngleTilt", "_rlnOther")))
    with pytest.raises(InputDataError, match=r"column rlnAngleTilt is missing.*or none"):
        star_poses(star, 12.0)


def test_text_where_a_number_belongs(tmp_path):
    star = read_star(make(tmp_path, STAR.replace("10.0 20.0 30.0", "10.0 oops 30.0")))
    with pytest.raises(InputDataError, match=r"column rlnAngleTilt, found 'oops' in row 1"):
        star_poses(star, 12.0)


def test_conflicting_pixel_sizes(tmp_path):
    text = STAR.replace('1 "first group" 12.0 3', "1 one 12.0 3\n2 two 6.0 3")
    assert star_pixel_size(read_star(make(tmp_path, text))) == 12.0  # group 2 is not used
    text = text.replace("02 b.mrc 1", "02 b.mrc 2")
    with pytest.raises(InputDataError, match=r"6 A \(b\.mrc\) and 12 A \(a\.mrc\); extract"):
        star_pixel_size(read_star(make(tmp_path, text)))


def test_unknown_optics_group(tmp_path):
    text = STAR.replace("02 b.mrc 1", "02 b.mrc 5")
    with pytest.raises(InputDataError, match="optics group 5, which data_optics lacks"):
        star_pixel_size(read_star(make(tmp_path, text)))


def test_no_particles(tmp_path):
    text = STAR[: STAR.index("01 a.mrc")]
    with pytest.raises(InputDataError, match="no rows"):
        read_star(make(tmp_path, text))


def test_optimisation_set(tmp_path):
    text = "data_\n\n_rlnTomoParticlesFile Extract/particles.star\n_rlnTomoTomogramsFile t.star\n"
    with pytest.raises(InputDataError, match=r"give its particles file instead: Extract/particles"):
        read_star(make(tmp_path, text))


def test_not_a_star_file(tmp_path):
    path = tmp_path / "particles.star"
    with pytest.raises(InputDataError, match="does not exist"):
        read_star(path)
    path.write_bytes(b"\xff\xfe\x00\x01" * 300)
    with pytest.raises(InputDataError, match=r"binary data, .*expected a STAR file"):
        read_star(path)
    path.write_text("nothing here\n")
    with pytest.raises(InputDataError, match="not a STAR file"):
        read_star(path)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")
def test_fixture_poses_agree_with_an_independent_program():
    star = read_star(SHARED / "conventions" / "particles.star")
    truth = json.loads((SHARED / "conventions" / "poses.json").read_text())
    poses = star_poses(star, star_pixel_size(star))
    assert [item["file"] for item in truth] == list(star.particles["rlnImageName"])
    # The STAR file holds six decimals of degrees and angstrom.
    rotations = np.array([item["R"] for item in truth])
    np.testing.assert_allclose(poses.rotations, rotations, atol=1e-7)
    translations = np.array([item["t_xyz_voxels"] for item in truth])
    np.testing.assert_allclose(poses.translations, translations, atol=1e-6)
