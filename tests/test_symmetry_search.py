"""Point groups and their axes found in maps, turned and off the centre of the box."""

from __future__ import annotations

import mrcfile
import numpy as np
import pytest
from phantoms import blobs
from scipy.spatial.transform import Rotation

from faml.cli.app import main
from faml.conventions import rotation_angle_deg
from faml.io.mrc import write_volume
from faml.metrics.fsc import pearson
from faml.metrics.helix import find_helix
from faml.metrics.resample import crop_fourier, transform_volume
from faml.metrics.symmetry_search import (
    _Proposals,
    controls,
    find_symmetry,
    in_standard_frame,
    suggested,
    symmetry_about,
)
from faml.symmetry import point_group

VOXEL = 8.0
TURN = Rotation.from_rotvec([0.9, -0.7, 0.4]).as_matrix()


def symmetric(name, turn=TURN, centre=(1.0, -1.5, 0.5), n=24, noise=0.1, seed=0):
    """A phantom with turned axes that meet off the centre, with noise."""
    rng = np.random.default_rng(seed)
    copies = point_group(name).rotations
    # So few and small that the copies of a large group do not fill a ball.
    unit = {"count": max(3, 24 // len(copies)), "spread": 0.22, "sigma": 0.045}
    clean = sum(blobs(n, turn @ copy, centre, seed=3, **unit) for copy in copies)
    return clean + rng.normal(scale=noise * clean.std(), size=clean.shape)


def fits_of(volume, *names):
    return find_symmetry(volume, [point_group(name) for name in names], VOXEL)


@pytest.mark.parametrize(("name", "wrong"), [("C3", "C4"), ("D2", "D3"), ("C5", "C7"), ("T", "I")])
def test_finds_the_group_and_its_axes(name, wrong):
    volume = symmetric(name)
    right, other = fits_of(volume, name, wrong)
    assert right.weakest > 0.95
    assert other.weakest < right.weakest - 0.05
    assert other.resolution_angstrom > 1.2 * right.resolution_angstrom
    # The axes are the planted ones, up to what the group itself and its normaliser allow.
    group = point_group(name)
    for rotation in group.rotations[1:]:
        found = right.rotation @ rotation @ right.rotation.T
        planted = TURN @ group.rotations @ TURN.T
        assert np.abs(planted - found).max(axis=(1, 2)).min() < 0.05
    # And they meet in the planted centre, of cyclic groups up to a move along the axis.
    away = right.centre - np.array([1.0, -1.5, 0.5])
    if name.startswith("C"):
        axis = TURN[:, 2]
        away = away - (away @ axis) * axis
    assert np.linalg.norm(away) < 0.2


def test_suggests_the_largest_group_that_holds():
    volume = symmetric("D3")
    fits = fits_of(volume, "C2", "C3", "D2", "D3", "D6")
    found = suggested(fits, volume, VOXEL)
    assert found is not None
    assert found.group.name == "D3"


def test_suggests_nothing_for_an_asymmetric_map():
    volume = symmetric("C1")
    assert suggested(fits_of(volume, "C2", "C3", "D2"), volume, VOXEL) is None


def test_standard_frame_is_that_of_the_run():
    """The turned map is unchanged by the very rotations that --symmetry averages over."""
    volume = symmetric("D2", noise=0.05)
    (fit,) = fits_of(volume, "D2")
    placed = in_standard_frame(volume, fit)
    for rotation in point_group("D2").rotations:
        assert pearson(transform_volume(placed, rotation, np.zeros(3)), placed) > 0.95


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        (np.zeros((8, 8, 9)), "cubic"),
        (np.full((16, 16, 16), np.nan), "NaN"),
        (np.ones((16, 16, 16)), "constant"),
    ],
)
def test_bad_maps(volume, message):
    with pytest.raises(ValueError, match=message):
        fits_of(volume, "C2")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("C2", ["C5", "C7"]), ("C5", ["C7", "C11"]), ("D7", ["C5", "C11"]), ("I", ["C7", "C11"])],
)
def test_controls_share_no_rotation_with_a_group(name, expected):
    group = point_group(name)
    assert [each.name for each in controls(group)] == expected
    for other in controls(group):
        for turn in other.rotations[1:]:
            assert rotation_angle_deg(group.rotations, turn).min() > 1.0


def test_the_least_alike_copy_tells_a_group_from_a_subgroup():
    """Mean agreement with the copies of D3 is good where the map has C3."""
    copies = point_group("C3").rotations
    volume = sum(blobs(32, turn, seed=1, count=6, spread=0.2) for turn in copies)
    right, wrong = symmetry_about(volume, [point_group("C3"), point_group("D3")], 1.0)
    assert right.least_alike[1:9].mean() > 0.95
    assert wrong.least_alike[1:9].mean() < 0.6
    assert wrong.least_alike.shape == (16,)


def test_c1_is_no_finding():
    with pytest.raises(ValueError, match="C1"):
        fits_of(symmetric("C1", n=16), "C1")


# ------------------------------------------------------------------ the command


def command(*arguments):
    with pytest.raises(SystemExit) as raised:
        main(["symmetry", *map(str, arguments)])
    return raised.value.code


def test_command_shows_and_turns(tmp_path, capsys):
    path, turned = tmp_path / "map.mrc", tmp_path / "turned.mrc"
    write_volume(path, symmetric("C3").astype(np.float32), VOXEL)
    assert command(path, "--groups", "C2,c3", "--align", "C3", "-o", turned) == 0
    shown = capsys.readouterr().out
    assert "C3 is the largest group" in shown
    with mrcfile.open(turned) as file:
        assert file.voxel_size.x == pytest.approx(VOXEL)
        placed = file.data.copy()
    (fit,) = fits_of(placed, "C3")
    assert abs(fit.rotation[2, 2]) > 0.999
    assert np.linalg.norm(fit.centre[:2]) < 0.1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--groups", "C7,X"], 2, "unknown symmetry 'X'"),
        (["--groups", "C1"], 2, "every map has C1"),
        (["--align", "C3"], 2, "belong together"),
        (["--align", "C3", "-o", "{map}"], 4, "is the map itself"),
        (["--max-resolution", "1e6"], 2, "finest resolution"),
    ],
)
def test_bad_commands(tmp_path, capsys, arguments, code, message):
    path = tmp_path / "map.mrc"
    write_volume(path, symmetric("C3", n=16).astype(np.float32), VOXEL)
    assert command(path, *[a.format(map=path) for a in arguments]) == code
    assert message in " ".join(capsys.readouterr().err.split())


def test_command_on_a_constant_map(tmp_path, capsys):
    path = tmp_path / "map.mrc"
    write_volume(path, np.ones((16, 16, 16), np.float32), VOXEL)
    assert command(path, "--groups", "C2") == 3
    assert "holds no structure" in " ".join(capsys.readouterr().err.split())


# ------------------------------------------------------------------ helices


def helix(rise, twist_deg, *, n=48, noise=0.0, fold=1):
    """Blobs on a helix about Z, right-handed for a positive twist, voxel units."""
    z, y, x = np.indices((n, n, n)) - float(n // 2)
    volume = np.zeros((n, n, n))
    for step in range(-n, n):
        for copy in range(fold):
            angle = np.deg2rad(step * twist_deg + copy * 360.0 / fold)
            for radius, height, shift in ((9.0, 1.0, 0.0), (6.0, 0.6, 1.3)):
                centre = radius * np.cos(angle), radius * np.sin(angle), step * rise + shift
                far = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2
                volume += height * np.exp(-far / 4.5)
    rng = np.random.default_rng(0)
    return volume + noise * volume.std() * rng.normal(size=volume.shape)


@pytest.mark.parametrize(("rise", "twist"), [(4.3, 35.0), (4.3, -35.0), (6.0, 100.0)])
def test_helix_is_found_with_its_hand(rise, twist):
    best = find_helix(helix(rise, twist, noise=0.3), VOXEL, 12.0)[0]
    # The best may be a multiple of the generator: n rises with n twists.
    number = round(best.rise_angstrom / VOXEL / rise)
    assert number >= 1
    assert best.rise_angstrom == pytest.approx(number * rise * VOXEL, abs=0.15 * VOXEL)
    apart = (best.twist_deg - number * twist + 180.0) % 360.0 - 180.0
    assert abs(apart) < 2.0
    assert best.correlation > 0.8


def test_smallest_rise_is_among_those_shown():
    found = find_helix(helix(4.3, 35.0), VOXEL, 12.0)
    smallest = min(found, key=lambda fit: fit.rise_angstrom)
    assert smallest.rise_angstrom == pytest.approx(4.3 * VOXEL, abs=0.15 * VOXEL)
    assert smallest.twist_deg == pytest.approx(35.0, abs=1.5)


def test_helix_of_bad_maps():
    with pytest.raises(ValueError, match="constant"):
        find_helix(np.ones((16, 16, 16)), 1.0, 5.0)
    with pytest.raises(ValueError, match="radius of 1 to 7"):
        find_helix(helix(4.0, 30.0, n=16), 1.0, 9.0)
    with pytest.raises(ValueError, match="cubic"):
        find_helix(np.ones((16, 16, 8)), 1.0, 5.0)


def test_command_on_a_helix(tmp_path, capsys):
    path = tmp_path / "map.mrc"
    write_volume(path, helix(4.3, 35.0).astype(np.float32), VOXEL)
    assert command(path, "--helical", "--particle-diameter", 24 * VOXEL) == 0
    shown = capsys.readouterr().out
    assert "rise" in shown
    assert "twist" in shown
    assert command(path, "--helical", "--groups", "C2") == 2


# ------------------------------------------------------------------ axes at the poles of the grid


@pytest.mark.parametrize("axis", ["Z", "X", "Y"])
def test_autocorrelation_is_right_where_the_grid_has_its_poles(axis):
    """Turns about Z have beta 0, twofold turns about axes in XY have beta pi."""
    volume = symmetric("C1", turn=np.eye(3), centre=(0.0, 0.0, 0.0), noise=0.0)
    proposals = _Proposals(volume, 6)
    angles = np.deg2rad(np.array([0.0, 30.0, 75.0, 180.0]))
    at = Rotation.from_euler(axis, angles[:, None]).as_matrix()
    tilt = Rotation.from_rotvec([0.03, 0.02, -0.01]).as_matrix()
    exact, near = proposals._at(at), proposals._at(at @ tilt)
    # Two degrees away the function has hardly changed, and nothing jumps at a pole.
    scale = proposals._at(np.eye(3)[None])[0]
    assert scale == pytest.approx(proposals._padded.max(), rel=0.02)
    np.testing.assert_allclose(exact, near, atol=0.06 * scale)
    copies = [transform_volume(volume, turn, np.zeros(3)) for turn in at]
    low = [crop_fourier(copy, 12) for copy in copies]
    expected = [pearson(copy, low[0]) for copy in low]
    np.testing.assert_allclose(exact / scale, expected, atol=0.12)


@pytest.mark.parametrize("name", ["C4", "D3"])
def test_axes_that_already_lie_right_are_found(name):
    volume = symmetric(name, turn=np.eye(3), centre=(0.0, 0.0, 0.0))
    (fit,) = fits_of(volume, name)
    assert fit.weakest > 0.95
    assert abs(fit.rotation[2, 2]) > 0.999
    assert np.linalg.norm(fit.centre) < 0.15


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--helical", "--max-fold", "7"], 2, "--helical looks for rise and twist only"),
        (["--particle-diameter", "100"], 2, "are for --helical"),
        (["--groups", "C2", "--max-fold", "7"], 2, "leave out --max-fold"),
        (["--voxel-size", "-3"], 2, "voxel size above 0"),
        (["--voxel-size", "0"], 2, "voxel size above 0"),
        (["--helical", "--least-rise", "1"], 2, "least rise of one voxel"),
        (["--helical", "--particle-diameter", "0"], 2, "expected a diameter"),
    ],
)
def test_more_bad_commands(tmp_path, capsys, arguments, code, message):
    path = tmp_path / "map.mrc"
    write_volume(path, symmetric("C3", n=16).astype(np.float32), VOXEL)
    assert command(path, *arguments) == code
    assert message in " ".join(capsys.readouterr().err.split())


def test_command_on_a_map_that_is_no_cube_or_no_file(tmp_path, capsys):
    path, other = tmp_path / "map.mrc", tmp_path / "other.mrc"
    with mrcfile.new(path) as file:
        file.set_data(np.random.default_rng(0).normal(size=(16, 16, 12)).astype(np.float32))
        file.voxel_size = VOXEL
    other.write_bytes(path.read_bytes())
    assert command(path, "--groups", "C2") == 3
    assert "cubic" in " ".join(capsys.readouterr().err.split())
    assert command(tmp_path / "missing.mrc", "--align", "C2", "-o", other) == 3
    assert "bug" not in capsys.readouterr().err
