"""What someone runs into who converts, inspects and runs for the first time."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from faml.config import DataConfig
from faml.conventions import matrices_to_relion_angles_deg
from faml.errors import InputDataError
from faml.io.dataset import open_particles, survey_particles
from faml.io.formats import read_table
from faml.io.formats.conversion import Conversion, convert
from faml.io.inputs import resolve_inputs
from faml.io.mrc import write_volume
from faml.io.star_text import read_blocks
from faml.io.wedge_files import single_axis_range_deg
from faml.particles import wedge_weight
from faml.particles.wedge import full_cube, tilt_angles_weight

BOX, VOXEL, COUNT = 24, 6.0, 4
RANGE = (-45.0, 60.0)


def write_particles(folder, *, poses=True, weights=True, zero=False):
    """A STAR file, particles in a folder beside it and one weight volume."""
    rng = np.random.default_rng(3)
    (folder / "subtomograms").mkdir(parents=True)
    for k in range(COUNT):
        volume = rng.normal(size=(BOX,) * 3).astype(np.float32)
        write_volume(folder / "subtomograms" / f"particle_{k + 1:05d}.mrc", volume, VOXEL)
    write_volume(folder / "wedge.mrc", full_cube(wedge_weight(BOX, RANGE)), VOXEL)
    angles = matrices_to_relion_angles_deg(Rotation.random(COUNT, rng=rng).as_matrix())
    columns = ["rlnImageName", "rlnMicrographName"]
    columns += ["rlnCtfImage"] if weights else []
    columns += ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"] if poses else []
    rows = []
    for k in range(COUNT):
        row = [f"subtomograms/particle_{k + 1:05d}.mrc", "TS_01"]
        row += ["wedge.mrc"] if weights else []
        row += [f"{0.0 if zero else angle:.4f}" for angle in angles[k]] if poses else []
        rows.append(" ".join([*row, "1"]))
    head = "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnImagePixelSize\n_rlnImageSize\n"
    head += f"1 {VOXEL} {BOX}\n\ndata_particles\n\nloop_\n"
    labels = "\n".join(f"_{name}" for name in [*columns, "rlnOpticsGroup"])
    star = folder / "particles.star"
    star.write_text(f"{head}{labels}\n" + "\n".join(rows) + "\n")
    return star


def turned_boxes(text):
    """The file with axes of the boxes that are not those of the tomogram."""
    for name in ("Rot", "Tilt", "Psi"):
        text = text.replace("_rlnAngleRot", f"_rlnTomoSubtomogram{name}\n_rlnAngleRot")
    return text.replace("wedge.mrc ", "wedge.mrc 10 20 30 ")


def columns_13_to_15(path):
    return np.loadtxt(path)[:, 12:15]


def config(*inputs, **settings):
    return DataConfig(inputs=tuple(map(str, inputs)), **settings)


def test_wedge_of_weight_volumes_survives_dynamo(tmp_path):
    star = write_particles(tmp_path / "p")
    done = convert(Conversion(star, tmp_path / "a.tbl"))
    assert any("estimated from the weight volume" in note for note in done.notes)
    kind, low, high = columns_13_to_15(tmp_path / "a.tbl").T
    assert (kind == 1).all()
    np.testing.assert_allclose(low, RANGE[0], atol=180 / BOX)
    np.testing.assert_allclose(high, RANGE[1], atol=180 / BOX)
    folder = tmp_path / "p" / "subtomograms"
    convert(Conversion(tmp_path / "a.tbl", tmp_path / "back.star", particles=folder))
    weight = open_particles(config(tmp_path / "back.star"), 0).particles.weight(0)
    assert (weight == (wedge_weight(BOX, RANGE) > 0)).mean() > 0.9
    assert weight.mean() < 0.75


def test_no_tilts_in_dynamo_are_unknown_in_star(tmp_path):
    star = write_particles(tmp_path / "p", weights=False)
    folder = tmp_path / "p" / "subtomograms"
    convert(Conversion(star, tmp_path / "a.tbl"))
    assert not columns_13_to_15(tmp_path / "a.tbl").any()
    done = convert(Conversion(tmp_path / "a.tbl", tmp_path / "back.star", particles=folder))
    assert any("missing wedge is unknown" in note for note in done.notes)
    with pytest.raises(InputDataError, match=r"4 particles is unknown.*--wedge-list FILE"):
        open_particles(config(tmp_path / "back.star"), 0)
    (tmp_path / "w.txt").write_text("1 -40 55\n")
    listed = Conversion(
        tmp_path / "a.tbl", tmp_path / "w.star", particles=folder, wedge_list=tmp_path / "w.txt"
    )
    assert not any("unknown" in note for note in convert(listed).notes)
    weight = open_particles(config(tmp_path / "w.star"), 0).particles.weight(0)
    np.testing.assert_array_equal(weight, wedge_weight(BOX, (-40.0, 55.0)))


@pytest.mark.parametrize("box", [17, 24, 32])
def test_only_wedges_about_y_are_estimated(box):
    for tilts in ((-60.0, 60.0), (-35.0, 65.0)):
        found = single_axis_range_deg(wedge_weight(box, tilts))
        np.testing.assert_allclose(found, tilts, atol=180 / box)
        assert single_axis_range_deg(wedge_weight(box, tilts, "x")) is None
    about_both = np.maximum(wedge_weight(box, (-60.0, 60.0)), wedge_weight(box, (-60.0, 60.0), "x"))
    assert single_axis_range_deg(about_both) is None
    assert single_axis_range_deg(np.ones((box, box, box // 2 + 1), dtype=np.float32)) is None
    single = single_axis_range_deg(tilt_angles_weight(box, tuple(range(-45, 61, 3))))
    np.testing.assert_allclose(single, RANGE, atol=1.5 * 180 / box)


def test_turned_boxes_and_missing_weights_are_said(tmp_path):
    star = write_particles(tmp_path / "p")
    text = star.read_text()
    star.write_text(turned_boxes(text))
    done = convert(Conversion(star, tmp_path / "t.tbl"))
    assert any("the boxes are turned against the tomogram" in note for note in done.notes)
    assert not columns_13_to_15(tmp_path / "t.tbl").any()
    star.write_text(text)
    (tmp_path / "p" / "wedge.mrc").unlink()
    done = convert(Conversion(star, tmp_path / "a.tbl"))
    assert any("cannot be estimated from the weight volumes" in note for note in done.notes)
    assert not columns_13_to_15(tmp_path / "a.tbl").any()


def test_folder_of_a_table_is_not_its_particles(tmp_path):
    star = write_particles(tmp_path / "p")
    with pytest.raises(InputDataError, match=rf"with 4 particles.*wedge\.mrc.*give {star}"):
        resolve_inputs([str(tmp_path / "p")])
    for k in range(COUNT - 1):
        (tmp_path / "p" / f"extra_{k}.mrc").write_bytes(b"")
    with pytest.raises(InputDataError, match="with 4 particles"):
        resolve_inputs([str(tmp_path / "p")])
    (tmp_path / "p" / "extra_9.mrc").write_bytes(b"")
    assert len(resolve_inputs([str(tmp_path / "p")]).volumes) == COUNT + 1


def test_names_of_tomograms_do_not_collide(tmp_path):
    star = write_particles(tmp_path / "p")
    for name, target in (("a.tbl", None), ("a.em", None), ("a.star", "stopgap")):
        convert(Conversion(star, tmp_path / name, target=target))
        assert set(read_table(tmp_path / name).tomograms) == {"TS_01"}
    assert sorted(path.name for path in tmp_path.glob("*.doc")) == [
        "a.doc",
        "a.em.doc",
        "a.star.doc",
    ]


def test_zeros_are_no_poses(tmp_path):
    star = write_particles(tmp_path / "p", poses=False)
    convert(Conversion(star, tmp_path / "a.tbl"))
    folder = str(tmp_path / "p" / "subtomograms")
    found = survey_particles(config(tmp_path / "a.tbl", particles_folder=folder))
    assert found.particles.poses is None
    assert any("all angles and shifts are 0" in text for text in found.warnings)
    posed = survey_particles(config(write_particles(tmp_path / "q")))
    assert posed.particles.poses is not None
    zero = write_particles(tmp_path / "z", zero=True)
    assert survey_particles(config(zero)).particles.poses is None
    opened = open_particles(config(zero), 0)  # boxes may be aligned already: --start poses works
    assert opened.particles.poses.are_zero
    assert any("aligned already" in text for text in opened.warnings)
    # Pseudo-subtomograms that lie turned in the tomogram have a pose although it is zero.
    zero.write_text(turned_boxes(zero.read_text()))
    assert survey_particles(config(zero)).particles.poses is not None


def test_table_without_files_says_how_to_name_them(tmp_path):
    star = write_particles(tmp_path / "p")
    alone = tmp_path / "alone"
    alone.mkdir()
    convert(Conversion(star, alone / "a.tbl"))
    convert(Conversion(alone / "a.tbl", alone / "back.star"))
    assert "rlnImageName" not in read_blocks(alone / "back.star").blocks["particles"]
    cure = rf"faml convert {alone / 'back.star'} NEW\.star --particles FOLDER"
    with pytest.raises(InputDataError, match=cure):
        survey_particles(config(alone / "back.star"))
    folder = tmp_path / "p" / "subtomograms"
    convert(Conversion(alone / "back.star", alone / "new.star", particles=folder))
    assert len(survey_particles(config(alone / "new.star")).paths) == COUNT


def test_all_ways_to_give_the_wedge_are_named(tmp_path):
    star = write_particles(tmp_path / "p")
    convert(Conversion(star, tmp_path / "a.em"))
    folder = tmp_path / "p" / "subtomograms"
    lists = config(tmp_path / "a.em", particles_folder=str(folder), voxel_size_angstrom=VOXEL)
    with pytest.raises(
        InputDataError, match=r"--tilt-range MIN MAX, --tilt-angles FILE or --wedge-list FILE"
    ):
        open_particles(lists, 0)
    with pytest.raises(InputDataError, match=r"--tilt-range MIN MAX or --tilt-angles FILE$"):
        open_particles(config(folder), 0)


def test_files_of_unknown_kind_are_named(tmp_path, cli):
    for name in ("README.md", "simulation.toml"):
        (tmp_path / name).write_text("count = 6\n" * 200)
        kind = rf"{name}: unknown kind of file \{name[name.rindex('.') :]}; expected \.mrc"
        with pytest.raises(InputDataError, match=kind):
            resolve_inputs([str(tmp_path / name)])
    odd = tmp_path / "particle.st3"
    write_volume(odd.with_suffix(".mrc"), np.ones((8, 8, 8), dtype=np.float32), VOXEL)
    odd.with_suffix(".mrc").rename(odd)
    assert resolve_inputs([str(odd)]).volumes == (odd,)
    code, _, err = cli("run", tmp_path, "-o", tmp_path / "r", "--tilt-range", "-60", "-q")
    assert code == 2
    assert "--tilt-range: expected 2 numbers, MIN MAX" in err
