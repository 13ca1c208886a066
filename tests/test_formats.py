"""Table formats of other programs: conventions, round trips, what is lost, malformed files."""

from __future__ import annotations

from pathlib import Path

import dynamotable
import emfile
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from phantoms import blobs, rotations
from scipy.spatial.transform import Rotation

from faml.conventions import rotation_angle_deg
from faml.errors import ConfigurationError, InputDataError, OutputError
from faml.io.em import is_em, read_em, read_em_header, write_em
from faml.io.formats import TiltRange, detect_format, read_table, write_table
from faml.io.formats.relion import FLAVOURS
from faml.io.formats.table import (
    ParticleTable,
    in_tomogram,
    rescaled,
    tomogram_numbers,
    with_origin,
)
from faml.io.formats.wedge_lists import read_wedge_list, with_wedge_list, write_wedge_list
from faml.io.formats.zxz import matrices_to_zxz_deg, zxz_deg_to_matrices
from faml.io.mrc import read_header, read_volume, write_volume
from faml.io.star_text import read_blocks, write_star
from faml.io.tilt_ranges import TiltRangeWeights, distinct_wedges
from faml.particles import wedge_weight

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
ALL = (*FLAVOURS, "dynamo", "av3", "stopgap")
SUFFIX = {"dynamo": ".tbl", "av3": ".em"}
ANGLE_DEG, VOXELS = 1e-3, 1e-3
SIZE = np.array([925.0, 512.0, 301.0])


def particles(count=7, seed=0, voxel_size=5.4):
    """A RELION-like table with everything that all formats hold."""
    rng = np.random.default_rng(seed)
    rotation = Rotation.random(count, rng=rng).as_matrix()
    rotation[0] = np.eye(3)  # the poles of the Euler angles
    rotation[1] = Rotation.from_euler("x", 180, degrees=True).as_matrix()
    scores = rng.uniform(0.1, 1, count).round(4)
    return ParticleTable(
        path=Path("made.star"),
        format="relion3.1",
        numbers=np.arange(1, count + 1),
        own=pd.DataFrame({"rlnMaxValueProbDistribution": scores.astype(str)}, dtype=object),
        images=tuple(f"sub/p_{k}.mrc" for k in range(count)),
        rotations=rotation,
        translations=rng.uniform(-6, 6, (count, 3)),
        coordinates_voxels=rng.uniform(0, 900, (count, 3)),
        tomograms=tuple(f"TS_{1 + k % 2:02d}" for k in range(count)),
        classes=rng.integers(1, 5, count),
        halves=1 + np.arange(count) % 2,
        scores=scores,
        voxel_size_angstrom=voxel_size,
    )


def name_of(path, target, stem="t"):
    return path / f"{stem}_{target}{SUFFIX.get(target, '.star')}"


def written(path, table, target, sizes=None, **options):
    out = name_of(path, target, options.pop("stem", "t"))
    write_table(out, table, target, sizes, **options)
    return read_table(out, table.voxel_size_angstrom)


def assert_same_poses(found, expected):
    assert rotation_angle_deg(found.rotations, expected.rotations).max() < ANGLE_DEG
    np.testing.assert_allclose(found.translations, expected.translations, atol=VOXELS)


def assert_same_places(found, expected):
    np.testing.assert_allclose(found.coordinates_voxels, expected.coordinates_voxels, atol=VOXELS)
    sums = found.coordinates_voxels + found.translations
    np.testing.assert_allclose(
        sums, expected.coordinates_voxels + expected.translations, atol=VOXELS
    )


# ---- conventions, against matrices written out by hand


def turn(axis, degrees):
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    if axis == "z":
        return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


@settings(max_examples=60, deadline=None)
@given(rotations())
def test_zxz_angles_are_their_rotation(rotation):
    angles = matrices_to_zxz_deg(rotation[None])
    assert rotation_angle_deg(zxz_deg_to_matrices(angles)[0], rotation) < 1e-5
    assert 0 <= angles[0, 1] <= 180
    first, second, third = angles[0]
    by_hand = turn("z", third) @ turn("x", second) @ turn("z", first)
    assert np.abs(by_hand - rotation).max() < 1e-6


def test_dynamo_conventions(tmp_path):
    """tdrot, tilt, narot map particle to reference; coordinates count from a voxel's corner."""
    row = np.zeros(42)
    row[[0, 3, 4, 5, 6, 7, 8]] = [12, 1.5, -2, 0.25, 20, 50, -110]
    row[[9, 12, 13, 14, 19, 21, 23, 24, 25, 35]] = [0.3, 1, -50, 70, 4, 3, 101.5, 7.5, 0.5, 5.4]
    path = tmp_path / "t.tbl"
    np.savetxt(path, row[None], fmt="%g")
    table = read_table(path)
    expected = (turn("z", -110) @ turn("x", 50) @ turn("z", 20)).T
    assert np.abs(table.rotations[0] - expected).max() < 1e-12
    assert table.translations[0].tolist() == [1.5, -2, 0.25]
    assert table.coordinates_voxels[0].tolist() == [101, 7, 0]
    assert (table.numbers[0], table.tomograms[0], table.classes[0]) == (12, "4", 3)
    assert table.wedges == ((TiltRange(-50.0, 70.0, "y"),),)
    assert table.voxel_size_angstrom == 5.4
    assert table.scores[0] == 0.3
    reference = dynamotable.read(str(path))
    assert list(table.own.columns) == list(reference.columns)


def test_motive_list_conventions(tmp_path):
    """phi, theta, psi map reference to particle; voxels count from one."""
    values = np.zeros((1, 2, 20))
    values[0, 1, [0, 3, 4, 7, 8, 9, 10, 11, 12, 16, 17, 18, 19]] = [
        *(0.5, 9, 3, 10, 20, 1, 1.5, -2, 0.25),
        *(20, -110, 50, 2),
    ]
    write_em(tmp_path / "m.em", values)
    table = read_table(tmp_path / "m.em")
    expected = turn("z", -110) @ turn("x", 50) @ turn("z", 20)
    assert np.abs(table.rotations[1] - expected).max() < 1e-6
    assert table.translations[1].tolist() == [1.5, -2, 0.25]
    assert table.coordinates_voxels[1].tolist() == [9, 19, 0]
    assert (table.numbers[1], table.tomograms[1], table.classes[1]) == (9, "3", 2)
    assert table.voxel_size_angstrom is None
    stopgap = written(tmp_path, table, "stopgap")
    text = name_of(tmp_path, "stopgap").read_text()
    assert "data_stopgap_motivelist" in text
    np.testing.assert_allclose(stopgap.rotations, table.rotations, atol=1e-6)
    np.testing.assert_allclose(stopgap.coordinates_voxels, table.coordinates_voxels, atol=1e-6)


def test_dynamo_and_av3_angles_are_each_other_negated_and_swapped(tmp_path):
    """As STOPGAP's own converter has it: phi, psi, the = -narot, -tdrot, -tilt."""
    table = particles(count=3)
    written(tmp_path, table, "dynamo")
    tdrot, tilt, narot = np.loadtxt(name_of(tmp_path, "dynamo"))[:, 6:9].T
    rotation = zxz_deg_to_matrices(np.stack([-narot, -tilt, -tdrot], axis=1))
    assert rotation_angle_deg(rotation, table.rotations).max() < ANGLE_DEG


@pytest.mark.parametrize("n", [15, 16])
def test_boxes_turn_about_voxel_n_half(tmp_path, n):
    """A structure at the pose of a table is what the box holds, for odd and even boxes."""
    table = particles(count=4, seed=n)
    table = read_table(_saved(tmp_path, table, "dynamo"))
    rotation, shift = table.rotations[3], 0.2 * table.translations[3]
    turned = blobs(n, rotation, shift)
    z, y, x = np.indices((n, n, n))
    centre = np.array([n // 2] * 3)
    mass = turned.sum()
    found = np.array([(turned * axis).sum() for axis in (x, y, z)]) / mass - centre
    still = blobs(n)
    rest = np.array([(still * axis).sum() for axis in (x, y, z)]) / still.sum() - centre
    np.testing.assert_allclose(found, rotation @ rest + shift, atol=0.15)


def _saved(path, table, target):
    write_table(name_of(path, target), table, target)
    return name_of(path, target)


def test_relion_subtomogram_frames(tmp_path):
    """The full orientation is A_subtomogram A_particle, the place coordinate - A_sub origin."""
    table = particles(count=5, seed=3)
    frames = Rotation.random(5, rng=np.random.default_rng(9)).as_matrix()
    table = written(tmp_path, _with(table, frames=frames), "relion4")
    assert rotation_angle_deg(table.frames, frames).max() < ANGLE_DEG
    full = written(tmp_path, table, "dynamo")
    assert rotation_angle_deg(full.rotations, frames @ table.rotations).max() < ANGLE_DEG
    moved = np.einsum("nij,nj->ni", frames, table.translations)
    np.testing.assert_allclose(full.translations, moved, atol=VOXELS)
    boxes = written(tmp_path, table, "dynamo", box_poses=True)
    assert rotation_angle_deg(boxes.rotations, table.rotations).max() < ANGLE_DEG
    assert in_tomogram(table).frames is None
    assert in_tomogram(full) is full


def _with(table, **values):
    from dataclasses import replace

    return replace(table, **values)


def test_relion_coordinates_unbinned_and_centred(tmp_path):
    """Three ways to say the same place."""
    table = _with(particles(count=4), tilt_series_pixel_angstrom=np.full(4, 1.35))
    four = written(tmp_path, table, "relion4")
    assert_same_places(four, table)
    stored = read_blocks(name_of(tmp_path, "relion4")).blocks["particles"]
    unbinned = stored["rlnCoordinateX"].astype(float)
    np.testing.assert_allclose(unbinned, 4 * table.coordinates_voxels[:, 0], atol=1e-3)
    five = written(tmp_path, four, "relion5", SIZE)
    assert five.coordinate_origin == "centre"
    np.testing.assert_allclose(
        five.coordinates_voxels, table.coordinates_voxels - SIZE / 2, atol=VOXELS
    )
    assert_same_places(written(tmp_path, five, "relion3.1", SIZE), table)
    with pytest.raises(ConfigurationError, match=r"count from its first voxel.*--tomogram-size"):
        write_table(tmp_path / "x.tbl", five, "dynamo")
    with pytest.raises(ConfigurationError, match="count from its centre"):
        write_table(tmp_path / "x.star", four, "relion5")
    assert not (tmp_path / "x.tbl").exists()
    assert with_origin(five, "centre", None) is five


# ---- round trips


@pytest.mark.parametrize("target", ALL)
def test_each_format_holds_poses_and_places(tmp_path, target):
    table = particles()
    sizes = SIZE if target == "relion5" else None
    found = written(tmp_path, table, target, sizes)
    assert found.format == target
    assert_same_poses(found, table)
    if target == "relion5":
        found = with_origin(found, "first voxel", SIZE)
    assert_same_places(found, table)
    np.testing.assert_array_equal(found.classes, table.classes)
    np.testing.assert_allclose(found.scores, table.scores, atol=1e-6)
    names = [f"{name}.tomostar" for name in table.tomograms]
    assert list(found.tomograms) == (names if target == "warp" else list(table.tomograms))
    if target != "dynamo":
        np.testing.assert_array_equal(found.halves, table.halves)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 10_000), rotation=rotations(), odd=st.booleans())
def test_around_all_programs(tmp_path, seed, rotation, odd):
    """RELION -> Dynamo -> motive list -> STOPGAP -> RELION changes nothing."""
    table = particles(count=4, seed=seed)
    table.rotations[2] = rotation
    size = SIZE + (0 if odd else 1)
    start = with_origin(written(tmp_path, table, "relion5", size), "first voxel", size)
    found = start
    for target in ("dynamo", "av3", "stopgap", "relion3.1"):
        found = written(tmp_path, found, target)
        if found.voxel_size_angstrom is None:
            found = _with(found, voxel_size_angstrom=5.4)
    assert_same_poses(found, start)
    assert_same_poses(found, table)
    assert_same_places(found, start)
    assert_same_places(found, table)
    np.testing.assert_array_equal(found.classes, table.classes)
    assert found.tomograms == table.tomograms


@pytest.mark.parametrize("target", ["dynamo", "av3", "stopgap", "relion3.1", "warp"])
def test_same_format_is_untouched(tmp_path, target):
    first = _saved(tmp_path, particles(), target)
    write_table(tmp_path / f"again{first.suffix}", read_table(first), target)
    assert (tmp_path / f"again{first.suffix}").read_bytes() == first.read_bytes()


def test_what_relion_does_not_know_is_kept(tmp_path):
    text = (
        "# version 30001\n\ndata_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnImagePixelSize #2\n"
        "_myColumn #3\n1 2.50 red\n\n\n# version 30001\n\ndata_particles\n\nloop_\n"
        "_rlnImageName #1\n_rlnAngleRot #2\n_rlnAngleTilt #3\n_rlnAnglePsi #4\n"
        "_rlnOriginXAngst #5\n_rlnOriginYAngst #6\n_rlnOriginZAngst #7\n_other #8\n"
        "_rlnOpticsGroup #9\na.mrc 370.0 10 -05.5 1.0 0 -2 007 1\n\n\n"
        "# version 30001\n\ndata_extra\n\n_key value\n\n"
    )
    path = tmp_path / "p.star"
    path.write_text(text)
    table = read_table(path)
    write_table(tmp_path / "q.star", table, "relion3.1")
    kept = (tmp_path / "q.star").read_text()
    for piece in ("1 2.50 red", "a.mrc 370.0 10 -05.5 1.0 0 -2 007 1", "_key value"):
        assert piece in kept
    turned = _with(table, rotations=table.rotations @ turn("z", 30))
    write_table(tmp_path / "q.star", turned, "relion3.1")
    assert "370.0" not in (tmp_path / "q.star").read_text()
    lost = write_table(tmp_path / "q.tbl", table, "dynamo").lost
    assert any("other" in line for line in lost)
    assert any("myColumn" in line for line in lost)
    assert any("data_extra" in line and "key" in line for line in lost)


def dynamo_text(count=3, columns=42):
    rng = np.random.default_rng(1)
    rows = []
    for k in range(count):
        row = [f"{value:.4f}" for value in rng.uniform(1, 99, columns)]
        for column, value in (1, str(3 * k + 2)), (13, "1"), (14, "-48"), (15, "60"), (20, "7"):
            row[column - 1] = value
        row[21] = "2"
        if columns > 27:
            row[27] = "0.5000+0.2500i"
        if columns > 35:
            row[35] = "5.4000"
        rows.append(" ".join(row))
    return "\n".join(rows) + "\n"


def test_dynamo_survives_a_star_file(tmp_path):
    """All columns come back, complex ones too; a moved pose is the only change."""
    path = tmp_path / "a.tbl"
    path.write_text(dynamo_text())
    (tmp_path / "a.doc").write_text("7 tomograms/TS_07 rec.mrc\n")
    table = read_table(path)
    star = written(tmp_path, table, "relion3.1")
    assert star.tomograms == ("tomograms/TS_07 rec.mrc",) * 3
    assert star.wedges == table.wedges
    assert star.numbers.tolist() == [2, 5, 8]
    moved = _with(star, translations=star.translations + np.array([[0.0], [1.0], [0.0]]))
    back = written(tmp_path, moved, "dynamo")
    kept = [name for name in table.own if name not in {"dx", "dy", "dz", "x", "y", "z"}]
    for name in kept:
        if name not in {"tdrot", "tilt", "narot"}:
            assert values(back.own[name]) == values(table.own[name]), name
    assert_same_poses(back, moved)
    assert_same_places(back, moved)
    assert back.tomograms == table.tomograms


def values(column):
    return [complex(text.replace("i", "j")) for text in column]


def test_what_is_lost_is_said(tmp_path):
    path = tmp_path / "a.tbl"
    path.write_text(dynamo_text())
    lost = write_table(tmp_path / "m.em", read_table(path), "av3").lost
    text = " ".join(lost)
    for piece in ("cc2", "annotation", "voxel size (3 particles)", "missing wedges"):
        assert piece in text
    assert "tag" not in text  # the number of a particle goes over
    relion = write_table(tmp_path / "t.tbl", particles(), "dynamo")
    assert any("half-sets (7 particles)" in line for line in relion.lost)
    assert any("names of the particle files" in line for line in relion.lost)
    assert any("particle_000001" in line for line in relion.notes)
    assert any("ftype 0" in line for line in relion.notes)


def test_empty_columns_are_not_data(tmp_path):
    """Zeros of a table without coordinates are no coordinates."""
    table = _with(particles(), coordinates_voxels=None, classes=None, scores=None)
    for target in ("dynamo", "av3"):
        found = written(tmp_path, table, target)
        assert found.coordinates_voxels is None
        assert found.classes is None
        assert found.scores is None


def test_rescaling(tmp_path):
    table = rescaled(particles(), 2.0)
    assert table.voxel_size_angstrom == pytest.approx(2.7)
    np.testing.assert_allclose(table.translations, 2 * particles().translations)
    found = written(tmp_path, table, "relion3.1")
    assert_same_places(found, table)
    star = read_table(name_of(tmp_path, "relion3.1"))
    half = rescaled(star, 0.5)
    write_table(tmp_path / "h.star", half, "relion3.1")
    back = read_table(tmp_path / "h.star")
    assert_same_poses(back, particles())
    with pytest.raises(ConfigurationError, match="above zero"):
        rescaled(star, 0.0)


def test_names_of_tomograms_become_numbers():
    def numbers(*names):
        return tomogram_numbers(
            _with(particles(count=len(names)), tomograms=names, own=pd.DataFrame(), foreign={}),
            "av3",
        ).tolist()

    assert numbers("5", "12", "5") == [5, 12, 5]
    assert numbers("b", "a", "b") == [2, 1, 2]
    assert numbers("01", "1") == [1, 2]  # not one number for two tomograms


# ---- the fixture written by another program


@pytest.mark.skipif(not (SHARED / "conventions").is_dir(), reason="../shared/data is absent")
@pytest.mark.parametrize("target", ["dynamo", "av3", "stopgap", "warp", "relion5"])
def test_fixture_poses(tmp_path, target):
    import json

    poses = json.loads((SHARED / "conventions" / "poses.json").read_text())
    table = read_table(SHARED / "conventions" / "particles.star")
    found = written(tmp_path, table, target)
    expected = np.array([pose["R"] for pose in poses])
    assert rotation_angle_deg(found.rotations, expected).max() < ANGLE_DEG
    shifts = np.array([pose["t_xyz_voxels"] for pose in poses])
    np.testing.assert_allclose(found.translations, shifts, atol=VOXELS)


@pytest.mark.skipif(not (SHARED / "conventions").is_dir(), reason="../shared/data is absent")
def test_fixture_average(tmp_path):
    """The average at the poses of a Dynamo table is that at the poses of the STAR file."""
    from scipy.ndimage import affine_transform

    table = read_table(SHARED / "conventions" / "particles.star")
    found = written(tmp_path, table, "dynamo")
    volumes = [read_volume(SHARED / "conventions" / name).values for name in table.images[:4]]
    reference = read_volume(SHARED / "conventions" / "reference.mrc").values

    def average(poses):
        total = 0.0
        for volume, rotation, shift in zip(
            volumes, poses.rotations, poses.translations, strict=False
        ):
            flip = rotation[::-1, ::-1]  # of z, y, x
            centre = np.array([16.0] * 3)
            total = total + affine_transform(
                volume, flip, centre + shift[::-1] - flip @ centre, order=1
            )
        return total / len(volumes)

    from_star, from_table = average(table), average(found)
    np.testing.assert_allclose(from_table, from_star, atol=1e-4 * np.abs(from_star).max())
    right = np.corrcoef(from_table.ravel(), reference.ravel())[0, 1]
    wrong = average(_with(found, rotations=np.swapaxes(found.rotations, 1, 2)))
    assert right > 0.9
    assert np.corrcoef(wrong.ravel(), reference.ravel())[0, 1] < right - 0.05


# ---- EM files


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 2, 20), (6, 6, 6)])
def test_em_is_what_emfile_reads(tmp_path, shape):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    write_em(tmp_path / "a.em", values)
    _, other = emfile.read(tmp_path / "a.em")
    np.testing.assert_array_equal(other, values)
    emfile.write(tmp_path / "b.em", values)
    np.testing.assert_array_equal(read_em(tmp_path / "b.em"), values)
    assert read_em_header(tmp_path / "b.em").shape == shape


def test_em_byte_order_and_types(tmp_path):
    values = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    raw = bytes([5, 0, 0, 2]) + np.array([4, 3, 2], ">i4").tobytes()
    (tmp_path / "mac.em").write_bytes(raw.ljust(512, b"\0") + values.astype(">i2").tobytes())
    np.testing.assert_array_equal(read_em(tmp_path / "mac.em"), values)
    header = read_header(tmp_path / "mac.em")
    assert (header.mode, header.shape, header.voxel_size_angstrom) == (1, (2, 3, 4), None)
    np.testing.assert_array_equal(read_volume(tmp_path / "mac.em").values, values)


def test_broken_em(tmp_path):
    write_em(tmp_path / "a.em", np.ones((4, 4, 4)))
    raw = (tmp_path / "a.em").read_bytes()
    (tmp_path / "short.em").write_bytes(raw[:-4])
    (tmp_path / "complex.em").write_bytes(raw[:3] + b"\x08" + raw[4:])
    (tmp_path / "tiny.em").write_bytes(b"em")
    for name, message in (
        ("short", "4 x 4 x 4 values of type 5"),
        ("complex", "found type 8"),
        ("tiny", "512 bytes, found 2 bytes"),
        ("none", "does not exist"),
    ):
        assert not is_em(tmp_path / f"{name}.em")
        with pytest.raises(InputDataError, match=message):
            read_volume(tmp_path / f"{name}.em")
    with pytest.raises(OutputError, match="1 values that are NaN"):
        write_em(tmp_path / "n.em", np.array([[[np.nan, 1.0]]]))
    write_em(tmp_path / "motl.em", np.ones((1, 3, 20)))
    with pytest.raises(InputDataError, match="a motive list or a wedge list"):
        read_volume(tmp_path / "motl.em")


# ---- wedges


def test_ranges_that_cross_90(tmp_path):
    """60 to 120 degrees is what -90 to -60 and 60 to 90 observe: the missing part is elsewhere."""
    n = 16
    tilts = ((TiltRange(60.0, 120.0),), (TiltRange(-120.0, -60.0),), (TiltRange(-60.0, 60.0),))
    weights = TiltRangeWeights(n, tilts)
    np.testing.assert_array_equal(weights.read(0), weights.read(1))
    parts = np.maximum(wedge_weight(n, (60.0, 90.0)), wedge_weight(n, (-90.0, -60.0)))
    np.testing.assert_array_equal(weights.read(0), parts)
    np.testing.assert_array_equal(np.maximum(weights.read(0), weights.read(2)), np.ones_like(parts))
    both = TiltRangeWeights(n, ((TiltRange(-50.0, 60.0), TiltRange(-40.0, 70.0, "x")),)).read(0)
    single = (wedge_weight(n, (-50.0, 60.0)), wedge_weight(n, (-40.0, 70.0), "x"))
    np.testing.assert_array_equal(both, np.maximum(*single))
    distinct, index = distinct_wedges((tilts[0], tilts[2], tilts[0]))
    assert (distinct, index.tolist()) == ((tilts[0], tilts[2]), [0, 1, 0])


def test_wedges_in_dynamo_tables(tmp_path):
    lines = dynamo_text(6).splitlines()
    rows = [line.split() for line in lines]
    kinds = (
        ("0", "0", "0", "0", "0"),
        ("1", "-50", "70", "0", "0"),
        ("2", "0", "0", "-40", "55"),
        ("4", "-50", "70", "-40", "55"),
        ("3", "-60", "60", "0", "0"),
        ("1", "60", "120", "0", "0"),
    )
    for row, kind in zip(rows, kinds, strict=True):
        row[12:17] = kind
    path = tmp_path / "a.tbl"
    path.write_text("\n".join(" ".join(row) for row in rows))
    table = read_table(path)
    assert table.wedges == (
        (TiltRange(-90, 90),),
        (TiltRange(-50, 70, "y"),),
        (TiltRange(-40, 55, "x"),),
        (TiltRange(-50, 70, "y"), TiltRange(-40, 55, "x")),
        (),
        (TiltRange(60, 120, "y"),),
    )
    assert any("ftype 3" in note and "unknown" in note for note in table.notes)
    fresh = _with(particles(count=6), wedges=table.wedges)
    assert written(tmp_path, fresh, "dynamo").wedges == (
        *table.wedges[:4],
        (TiltRange(-90, 90),),
        table.wedges[5],
    )
    rows[1][12:17] = ("1", "70", "-50", "0", "0")
    path.write_text("\n".join(" ".join(row) for row in rows))
    with pytest.raises(InputDataError, match=r"line 2, column 13 .*found 70 to -50"):
        read_table(path)


def test_wedge_lists(tmp_path):
    wedges = {1: (TiltRange(-50.0, 70.0),), 12: (TiltRange(-60.0, 45.0),)}
    for name in ("w.em", "w.star"):
        notes = write_wedge_list(tmp_path / name, wedges, 5.4)
        assert read_wedge_list(tmp_path / name) == wedges
        assert bool(notes) == name.endswith(".star")
        assert detect_format(tmp_path / name) == "wedge list"
    (tmp_path / "w.txt").write_text("1 -50 70\n\n12 -60 45.0\n")
    assert read_wedge_list(tmp_path / "w.txt") == wedges
    assert emfile.read(tmp_path / "w.em")[1][0].tolist() == [[1, -50, 70], [12, -60, 45]]
    table = _with(particles(count=3), tomograms=("TS_01", "TS_12", "TS_01"))
    found = with_wedge_list(table, wedges, tmp_path / "w.em")
    assert found.wedges == (wedges[1], wedges[12], wedges[1])
    with pytest.raises(InputDataError, match=r"1 of them are not listed: 2; complete"):
        with_wedge_list(particles(), wedges, tmp_path / "w.em")
    with pytest.raises(InputDataError, match="tomogram b has no number"):
        with_wedge_list(_with(table, tomograms=("a1", "b", "a1")), wedges, tmp_path / "w.em")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 -50 70\n2 -50\n", r"line 2: expected three numbers"),
        ("1 a 70\n", r"line 1: expected three numbers"),
        ("1 70 -50\n", r"line 1: expected a tilt range.*found 70 to -50"),
        ("1 -50 70\n1 -60 60\n", r"line 2: tomogram 1 is listed twice"),
        ("1.5 -50 70\n", r"line 1: expected the number of a tomogram"),
        ("", "the wedge list is empty"),
        ("data_x\n\nloop_\n_a #1\n1\n", "expected a table data_stopgap_wedgelist"),
    ],
)
def test_malformed_wedge_lists(tmp_path, text, message):
    (tmp_path / "w").write_text(text)
    with pytest.raises(InputDataError, match=message):
        read_wedge_list(tmp_path / "w")


# ---- malformed tables


def edited(text, line, column, value):
    rows = [row.split() for row in text.splitlines()]
    rows[line - 1][column - 1] = value
    return "\n".join(" ".join(row) for row in rows) + "\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (edited(dynamo_text(), 2, 8, "x"), r"line 2, column 8 \(tilt\): expected a number.*'x'"),
        (edited(dynamo_text(), 3, 8, "nan"), r"line 3, column 8 \(tilt\)"),
        (edited(dynamo_text(), 2, 1, "1.5"), r"line 2, column 1 \(tag\): expected a whole number"),
        (edited(dynamo_text(), 3, 36, "9"), r"line 3, column 36 \(apix\): expected one voxel size"),
        (dynamo_text() + "1 2 3\n", r"line 4: expected 42 columns as in line 1, found 3"),
    ],
)
def test_malformed_dynamo(tmp_path, text, message):
    (tmp_path / "a.tbl").write_text(text)
    with pytest.raises(InputDataError, match=message):
        read_table(tmp_path / "a.tbl")


def test_short_dynamo_tables(tmp_path):
    (tmp_path / "a.tbl").write_text(dynamo_text(columns=26))
    table = read_table(tmp_path / "a.tbl")
    assert table.voxel_size_angstrom is None
    write_table(tmp_path / "b.tbl", table, "dynamo")
    assert (tmp_path / "b.tbl").read_text() == (tmp_path / "a.tbl").read_text()


def test_malformed_stopgap_and_motive_lists(tmp_path):
    good = _saved(tmp_path, particles(), "stopgap")
    lines = good.read_text().splitlines()
    first = next(k for k, line in enumerate(lines) if line.startswith("1 "))
    values = lines[first].split()
    values[12] = "abc"
    good.write_text("\n".join([*lines[:first], " ".join(values), *lines[first + 1 :]]) + "\n")
    with pytest.raises(InputDataError, match=rf"line {first + 1}, column phi: expected a number"):
        read_table(good)
    values.append("7")
    good.write_text("\n".join([*lines[:first], " ".join(values), *lines[first + 1 :]]) + "\n")
    with pytest.raises(InputDataError, match=rf"line {first + 1}, .*16 values.*found 17"):
        read_table(good)
    motl = np.ones((1, 3, 20))
    motl[0, 2, 3] = 1.5
    write_em(tmp_path / "m.em", motl)
    with pytest.raises(InputDataError, match=r"row 4 \(number\), column 3: expected a whole"):
        read_table(tmp_path / "m.em")
    with pytest.raises(OutputError, match="16777216"):
        write_table(tmp_path / "n.em", _with(particles(), numbers=np.arange(7) + 2**25), "av3")


def test_what_is_no_table(tmp_path):
    (tmp_path / "a.txt").write_text("hello\n")
    with pytest.raises(InputDataError, match="expected a particle table"):
        read_table(tmp_path / "a.txt")
    write_volume(tmp_path / "v.mrc", np.ones((4, 4, 4)), 2.0)
    assert detect_format(tmp_path / "v.mrc") == "volume"
    with pytest.raises(InputDataError, match="found a volume"):
        read_table(tmp_path / "v.mrc")
    with pytest.raises(InputDataError, match="does not exist"):
        read_table(tmp_path / "none.tbl")
    (tmp_path / "c.star").write_text("data_x\n\nloop_\n_rlnFoo #1\n1\n")
    with pytest.raises(InputDataError, match=r"expected a table of particles.*data_x"):
        read_table(tmp_path / "c.star")
    star = "data_particles\n\nloop_\n_rlnAngleRot\n_rlnAngleTilt\n_rlnAnglePsi\n_rlnOriginXAngst\n"
    (tmp_path / "d.star").write_text(star + "_rlnOriginYAngst\n_rlnOriginZAngst\n1 2 3 4 5 6\n")
    with pytest.raises(InputDataError, match="give --voxel-size"):
        read_table(tmp_path / "d.star")
    assert read_table(tmp_path / "d.star", 2.0).translations[0].tolist() == [-2, -2.5, -3]


def test_wedges_of_a_list_go_through_a_star_file(tmp_path):
    """A STAR file that carries wedges alone still makes a table that Dynamo would align."""
    table = _with(particles(count=3), wedges=((TiltRange(-50.0, 60.0),),) * 3)
    star = written(tmp_path, table, "relion3.1")
    assert star.wedges == table.wedges
    back = written(tmp_path, star, "dynamo")
    assert back.wedges == table.wedges
    assert back.own["aligned_value"].tolist() == ["1"] * 3
    assert back.notes == ()
    skipped = (name_of(tmp_path, "dynamo").read_text()).replace("1 1 1 ", "1 0 1 ", 1)
    name_of(tmp_path, "dynamo").write_text(skipped)
    assert any(
        "1 particles are marked" in note for note in read_table(name_of(tmp_path, "dynamo")).notes
    )


def test_half_sets_that_are_none(tmp_path):
    table = _with(particles(count=3), halves=np.array([0, 1, 2]))
    star = written(tmp_path, table, "relion3.1")
    assert star.halves is None
    assert written(tmp_path, star, "stopgap").halves is None
    twice = _with(table, images=("a.mrc", "b.mrc", "a.mrc"))
    assert written(tmp_path, twice, "relion3.1").notes == (
        "1 particle files are listed again, the first is a.mrc",
    )


def test_warp_export(tmp_path):
    """What WarpTools exports with --3d: one table, pixel size as magnification, .tomostar names."""
    path = tmp_path / "matching.star"
    labels = [
        *("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ", "rlnAngleRot", "rlnAngleTilt"),
        *("rlnAnglePsi", "rlnMicrographName", "rlnMagnification", "rlnDetectorPixelSize"),
        *("rlnCtfMaxResolution", "rlnImageName", "rlnCtfImage", "rlnPixelSize", "rlnVoltage"),
        "rlnSphericalAberration",
    ]
    row = (
        "64.861 415.615 18.199 45 5.850267 74.99999 TS_1.tomostar 10000.0 10.00000 4.5 "
        "../subtomo/TS_1_0000005_10.00A.mrc ../subtomo/TS_1_0000005_ctf_10.00A.mrc 10.0 300.0 2.7"
    )
    head = "".join(f"_{name} #{k}\n" for k, name in enumerate(labels, 1))
    path.write_text(f"data_\n\nloop_\n{head}{row}\n{row.replace('0000005', '0000006')}\n")
    table = read_table(path)
    assert table.format == "warp"
    assert table.voxel_size_angstrom == 10.0
    assert table.coordinates_voxels[0].tolist() == [64.861, 415.615, 18.199]
    assert table.tomograms == ("TS_1.tomostar",) * 2
    assert table.weight_images[0].endswith("ctf_10.00A.mrc")
    expected = Rotation.from_euler("ZYZ", [45, 5.850267, 74.99999], degrees=True).inv()
    assert rotation_angle_deg(table.rotations[0], expected.as_matrix()) < 1e-6
    write_table(tmp_path / "same.star", table, "warp")
    assert row in (tmp_path / "same.star").read_text()
    write_table(tmp_path / "large.star", rescaled(table, 4.0), "warp")
    large = read_table(tmp_path / "large.star")
    assert large.voxel_size_angstrom == 2.5
    assert large.own["rlnDetectorPixelSize"].tolist() == ["2.5", "2.5"]
    np.testing.assert_allclose(large.coordinates_voxels, 4 * table.coordinates_voxels)
    four = written(tmp_path, large, "relion4")
    assert four.star.optics["rlnVoltage"].tolist() == ["300.0"]
    np.testing.assert_allclose(four.coordinates_voxels, large.coordinates_voxels, atol=1e-4)


@pytest.mark.parametrize("value", ["1e300", "99999999999999999999"])
@pytest.mark.parametrize("column", [1, 20, 22])
def test_numbers_beyond_integers_are_refused(tmp_path, column, value):
    path = tmp_path / "t.tbl"
    path.write_text(edited(dynamo_text(), 2, column, value))
    with pytest.raises(InputDataError, match=rf"line 2, column {column} .*whole number"):
        read_table(path)


@pytest.mark.parametrize("value", ["abc", "inf", "1,5"])
def test_malformed_first_row_names_line_and_column(tmp_path, value):
    path = tmp_path / "t.tbl"
    path.write_text(edited(dynamo_text(), 1, 7, value))
    with pytest.raises(InputDataError, match=r"line 1, column 7 \(tdrot\)"):
        read_table(path)


def test_em_refuses_what_float32_cannot_hold(tmp_path):
    with pytest.raises(OutputError, match="1 values that are NaN, Inf or too large"):
        write_em(tmp_path / "a.em", np.array([[[1.0, 1e39]]]))
    assert not (tmp_path / "a.em").exists()


STAR_HEAD = "data_particles\n\nloop_\n_rlnImageName #1\n_rlnOwn #2\n"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("it's.mrc", "it's.mrc"),
        ('"it\'s one.mrc"', "it's one.mrc"),
        ("'say \"x\" y.mrc'", 'say "x" y.mrc'),
        ("a#b.mrc", "a#b.mrc"),
        ('"# a.mrc"', "# a.mrc"),
        ('"a"b.mrc', '"a"b.mrc'),
        ('"_x.mrc"', "_x.mrc"),
        ('"data_1.mrc"', "data_1.mrc"),
        ("NaN", "NaN"),
        ("a\u00a0b.mrc", "a\u00a0b.mrc"),
    ],
)
def test_star_values_are_kept_to_the_letter(tmp_path, text, value):
    path, copy = tmp_path / "a.star", tmp_path / "b.star"
    path.write_text(f"{STAR_HEAD}{text} {text}  # a comment\nb.mrc 1\n", encoding="utf-8")
    found = read_blocks(path)
    assert found.blocks["particles"].to_numpy().tolist() == [[value] * 2, ["b.mrc", "1"]]
    write_star(copy, found.blocks, 30001)
    assert read_blocks(copy).blocks["particles"].equals(found.blocks["particles"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (STAR_HEAD.replace("Own", "ImageName") + "a b\n", "line 5, .*column rlnImageName again"),
        (f"{STAR_HEAD}a b\n\n{STAR_HEAD}c d\n", "line 8: there is a table data_particles"),
        (f"{STAR_HEAD}a b\na\n", "line 7, .*expected 2 values.*found 1"),
        (f"{STAR_HEAD}a b c\na b c\n", "line 6, .*expected 2 values.*found 3"),
        ("data_x\n_rlnA 1\nloop_\n_rlnB\n1\n", "line 3, .*loop_ again"),
        ("data_x\nloose 1\n", "line 2, .*expected loop_"),
    ],
)
def test_malformed_star(tmp_path, text, message):
    path = tmp_path / "a.star"
    path.write_text(text)
    with pytest.raises(InputDataError, match=rf"a\.star: malformed STAR file .*{message}"):
        read_blocks(path)


@pytest.mark.parametrize("value", ["a\nb", "a\" b' c"])
def test_star_refuses_what_it_cannot_hold(tmp_path, value):
    with pytest.raises(OutputError, match="cannot hold"):
        write_star(tmp_path / "a.star", {"x": pd.DataFrame({"a": [value]})}, 30001)
    assert not (tmp_path / "a.star").exists()


@pytest.mark.parametrize("column", ["rlnCoordinateZ", "rlnTomoSubtomogramTilt"])
def test_partial_columns_are_refused(tmp_path, column):
    frames = Rotation.random(7, rng=np.random.default_rng(3)).as_matrix()
    table = _with(particles(), frames=frames, tilt_series_pixel_angstrom=np.full(7, 2.0))
    write_table(tmp_path / "a.star", table, "relion4")
    text = (tmp_path / "a.star").read_text()
    assert column in text
    (tmp_path / "a.star").write_text(text.replace(column, "rlnOther"))
    with pytest.raises(InputDataError, match=f"column {column} is missing"):
        read_table(tmp_path / "a.star")


def test_columns_that_nothing_stands_for_are_lost_aloud(tmp_path):
    """Half-sets that are none, and second columns for scores and tomograms."""
    path = tmp_path / "a.star"
    names = "rlnTomoName rlnMicrographName rlnRandomSubset rlnMaxValueProbDistribution"
    names += " rlnAutopickFigureOfMerit"
    labels = "".join(f"_{name}\n" for name in ["rlnImageName", *names.split()])
    path.write_text(f"data_particles\nloop_\n{labels}a.mrc T1 m 3 0.5 7\nb.mrc T1 m 1 0.4 8\n")
    table = read_table(path, 4.0)
    (words,) = [text for text in write_table(tmp_path / "a.tbl", table, "dynamo").lost
                if "columns:" in text]  # fmt: skip
    for name in ("rlnMicrographName", "rlnRandomSubset", "rlnAutopickFigureOfMerit"):
        assert name in words
    assert "rlnMaxValueProbDistribution" not in words
    lost = write_table(tmp_path / "b.star", table, "relion3.1").lost
    assert any("rlnMicrographName" in text for text in lost)
    again = read_table(tmp_path / "b.star").own
    assert again["rlnRandomSubset"].tolist() == ["3", "1"]


@pytest.mark.parametrize("text", [b"1 \xff\n", b"1 a\n1 b\n", b"1 a\n2 a\n"])
def test_bad_table_maps(tmp_path, text):
    (tmp_path / "t.tbl").write_text(dynamo_text())
    (tmp_path / "t.doc").write_bytes(text)
    with pytest.raises(InputDataError, match=r"t\.doc"):
        read_table(tmp_path / "t.tbl")


def test_wedge_lists_may_have_comments(tmp_path):
    (tmp_path / "w.txt").write_text("# tomogram low high\n3 -50 60 # lopsided\n")
    assert read_wedge_list(tmp_path / "w.txt") == {3: (TiltRange(-50.0, 60.0),)}


def test_carried_junk_is_refused(tmp_path):
    write_table(tmp_path / "a.em", particles(), "av3")
    write_table(tmp_path / "a.star", read_table(tmp_path / "a.em", 5.4), "relion3.0")
    star = read_table(tmp_path / "a.star", 5.4)
    own = star.foreign["av3"].assign(row2="junk")
    with pytest.raises(InputDataError, match="particle 1, av3_row2: expected a number"):
        write_table(tmp_path / "b.em", _with(star, foreign={"av3": own}), "av3")
