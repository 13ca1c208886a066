"""Particles through tilt series, what surrounds them, and the command that makes them."""

from __future__ import annotations

import tomllib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phantoms import DETAILED, blobs
from scipy.spatial.transform import Rotation

from faml.cli.app import main
from faml.config import build_config
from faml.conventions import rotation_angle_deg
from faml.em.loop import EmRun
from faml.errors import ConfigurationError
from faml.io.dataset import open_particles
from faml.io.mrc import read_volume, write_volume
from faml.io.star import read_star
from faml.metrics.fsc import fourier_shell_correlation, pearson
from faml.metrics.resample import transform_volume
from faml.particles import full_cube, wedge_weight
from faml.simulate.particles import simulate_particles
from faml.simulate.settings import build_simulation
from faml.simulate.specimen import ORIENTATIONS, draw_neighbours, draw_rotation, extent_voxels
from faml.simulate.tilt_series import (
    Imaging,
    SliceSampler,
    TiltGeometry,
    TiltSeries,
    tilt_angles_deg,
)
from faml.transforms.fourier import shell_indices, spectrum_of, volume_of

VOXEL = 6.0
POSE = Rotation.from_rotvec([0.7, -1.1, 0.4]).as_matrix(), np.array([1.3, -2.0, 0.6])
PLAIN = Imaging()
CTF = Imaging(defocus_um=3.0)


def phantom(n=32):
    return blobs(n, seed=4, **DETAILED).astype(np.float64)


def geometry(n=32, tilt_range=(-90.0, 88.0), step=2.0, imaging=PLAIN):
    return TiltGeometry(n, VOXEL, tilt_angles_deg(tilt_range, step), imaging)


def spectrum_through(made, density, pose=POSE):
    images = made.transfers * made.slices(SliceSampler(density), *pose)
    return spectrum_of(made.reconstruct(images))


# ------------------------------------------------------------------------------------ tilt series


@pytest.mark.parametrize("n", [31, 32])
def test_a_whole_tilt_series_without_noise_gives_the_density_back(n):
    density = phantom(n)
    made = geometry(n)
    seen = made.weight > 0
    found = np.where(seen, spectrum_through(made, density) / np.where(seen, made.weight, 1.0), 0.0)
    truth = transform_volume(density, *POSE)
    fsc = fourier_shell_correlation(volume_of(found.astype(np.complex64), n), truth)
    assert fsc[1 : int(0.8 * n / 2) + 1].min() > 0.95


@pytest.mark.parametrize(
    ("n", "imaging"),
    [(32, PLAIN), (47, Imaging(defocus_um=1.0)), (48, Imaging(defocus_um=1.0, detector=True))],
)
def test_data_are_weight_times_density_where_tilts_pass(n, imaging):
    """Asymmetric range: turned the wrong way, planes would lie elsewhere.

    Near the zeros of the CTF the box holds too little of what it spreads.
    """
    density = blobs(n, seed=4, **DETAILED | {"sigma": 0.8 / n}).astype(np.float64)
    made = geometry(n, (-50.0, 70.0), 3.0, imaging)
    truth = spectrum_of(transform_volume(density, *POSE))
    found, weight, shells = spectrum_through(made, density), made.weight, shell_indices(n)
    contrast = imaging.transfer(np.arange(n) / (n * VOXEL), 0.5 / VOXEL) ** 2
    power = [np.square(np.abs(truth[shell_indices(n) == r])).mean() for r in range(n // 2)]
    bright = [
        r
        for r in range(2, int(0.8 * n / 2))
        if contrast[r - 1 : r + 2].min() > 0.4 and power[r] > 1e-3 * max(power[2:])
    ]
    assert len(bright) > 4
    for shell in bright:
        good = (shells == shell) & (weight > 0)
        good &= weight > np.median(weight[good])
        expected = weight[good] * truth[good]
        overlap = (found[good] * expected.conj()).real.sum()
        assert overlap / np.linalg.norm(found[good]) / np.linalg.norm(expected) > 0.97
        assert 0.85 < overlap / np.square(np.abs(expected)).sum() < 1.15


def test_noise_has_the_variance_that_the_weight_says():
    made = geometry(24, (-50.0, 70.0), 3.0, CTF)
    power = np.mean(
        [
            np.square(np.abs(spectrum_of(made.reconstruct(made.noise(np.random.default_rng(i))))))
            for i in range(12)
        ],
        axis=0,
    )
    shells, weight = shell_indices(24), made.weight
    for shell in (3, 6, 9, 12):
        at = (shells == shell) & (weight > 0)
        assert power[at].sum() / weight[at].sum() == pytest.approx(1.0, abs=0.15)


def test_the_missing_wedge_is_where_no_tilt_passes():
    n = 32
    weight = geometry(n, (-50.0, 70.0), 2.0).weight
    kz, kx = np.fft.fftfreq(n, 1.0 / n)[:, None], np.arange(n // 2 + 1)[None, :]
    angle = np.rad2deg(np.arctan2(kz, np.maximum(kx, 1e-9)))
    radius = np.hypot(kz, kx)
    far = (radius > 6) & (radius < 14)
    section = weight[:, 0, :]
    assert (section[far & (angle > -46) & (angle < 66)] > 0).all()
    assert (section[far & ((angle < -58) | (angle > 78))] < 0.01 * section.max()).all()


def quarter_turn(volume):
    """By -90 degrees about Z, which takes the axis from Y to X; an odd box, about its middle."""
    return volume.transpose(0, 2, 1)[:, ::-1]


def test_the_tilt_axis_may_be_x():
    """Everything is turned by a quarter and nothing else changes; the range is asymmetric."""
    n, tilts = 23, tilt_angles_deg((-40.0, 60.0), 4.0)
    rotation, translation = POSE
    turn = Rotation.from_euler("z", -90, degrees=True).as_matrix()
    sampler = SliceSampler(phantom(n))
    made = {axis: TiltGeometry(n, VOXEL, tilts, CTF, axis) for axis in "xy"}
    about_y = made["y"].reconstruct(made["y"].slices(sampler, rotation, translation))
    about_x = made["x"].reconstruct(made["x"].slices(sampler, turn @ rotation, turn @ translation))
    np.testing.assert_allclose(about_x, quarter_turn(about_y), atol=1e-3 * np.abs(about_y).max())
    assert np.abs(about_x - about_y).max() > 0.1 * np.abs(about_y).max()
    for weight in (
        lambda axis: made[axis].weight,
        lambda axis: wedge_weight(n, (-40.0, 60.0), axis),
    ):
        np.testing.assert_allclose(
            full_cube(weight("x")), quarter_turn(full_cube(weight("y"))), atol=1e-3
        )


def test_zeros_of_the_ctf_are_in_the_weight_where_they_should_be():
    """Defocus 3 um at 300 kV: sin(pi lambda dz k^2) vanishes first at 1 / sqrt(lambda dz)."""
    n, voxel = 48, 4.0
    imaging = Imaging(defocus_um=3.0, amplitude_contrast=0.0, spherical_aberration_mm=0.0)
    assert imaging.wavelength_angstrom == pytest.approx(0.01969, abs=1e-5)
    angles = tilt_angles_deg((-90.0, 88.0), 2.0)
    section = TiltGeometry(n, voxel, angles, imaging).weight[0, 0]
    plain = TiltGeometry(n, voxel, angles, Imaging()).weight[0, 0]
    ratio = section / plain
    scale = n * voxel / np.sqrt(imaging.wavelength_angstrom * 3e4)
    for order in (1, 2):
        zero, top = scale * np.sqrt(order), scale * np.sqrt(order - 0.5)
        near = slice(int(zero) - 1, int(zero) + 3)
        assert abs(np.argmin(ratio[near]) + near.start - zero) <= 1.0
        assert ratio[round(top)] > 2.5 * ratio[near].min()


def test_transfer_function_by_hand():
    """sin(pi lambda dz k^2 - pi / 2 Cs lambda^3 k^4 + asin A), positive to its first zero."""
    imaging = Imaging(defocus_um=2.0, spherical_aberration_mm=2.0, amplitude_contrast=0.2)
    found = imaging.transfer(np.array([0.0, 0.02, 0.04, 0.25]), 0.25)
    # lambda = 0.019687 Angstrom; phases in radian, term by term.
    phases = [
        0.0,
        np.pi * 0.019687 * 2e4 * 4e-4 - 0.5 * np.pi * 2e7 * 0.019687**3 * 1.6e-7,
        np.pi * 0.019687 * 2e4 * 1.6e-3 - 0.5 * np.pi * 2e7 * 0.019687**3 * 2.56e-6,
        np.pi * 0.019687 * 2e4 * 0.0625 - 0.5 * np.pi * 2e7 * 0.019687**3 * 0.00390625,
    ]
    np.testing.assert_allclose(found, np.sin(np.array(phases) + 0.201358), atol=0.02)
    assert found[0] == pytest.approx(0.2)
    assert (found[:3] > 0).all()


def test_coarse_shells_keep_what_little_the_ctf_leaves():
    made = TiltGeometry(32, 6.0, tilt_angles_deg((-60.0, 60.0), 3.0), Imaging(defocus_um=3.0))
    shells = shell_indices(32)
    plain = TiltGeometry(32, 6.0, made.tilts_deg, PLAIN).weight
    for shell in range(1, 13):
        at = shells == shell
        assert (made.weight[at] > 0).mean() == (plain[at] > 0).mean()


def test_neighbours_do_not_come_in_again_at_the_other_side():
    """What lies furthest, through steep tilts only: its images must hold it."""
    made = geometry(24, (30.0, 60.0), 5.0)
    sampler = SliceSampler(phantom(24))
    radius = extent_voxels(phantom(24))
    rng = np.random.default_rng(0)
    far = max(
        (draw_neighbours(1, 0, np.zeros(3), [radius], 24, rng)[0].translation for _ in range(200)),
        key=lambda place: np.hypot(place[0], place[2]),
    )
    assert np.hypot(far[0], far[2]) > 0.7 * 24
    own, other = (
        made.reconstruct(made.transfers * made.slices(sampler, np.eye(3), place))
        for place in (np.zeros(3), far)
    )
    inner = slice(6, 18)
    assert np.abs(other[inner, inner, inner]).max() < 0.15 * np.abs(own).max()


def test_damage_and_detector_take_detail_first():
    made = geometry(32, (-60.0, 60.0), 3.0, Imaging(dose_per_tilt=3.0, detector=True))
    first, last = np.abs(made.tilts_deg).argmin(), np.abs(made.tilts_deg).argmax()
    fine, coarse = (0, 28), (0, 4)
    for tilt in (first, last):
        assert made.transfers[tilt][fine] < made.transfers[tilt][coarse]
    # The last image has had the dose of all others.
    assert made.transfers[last][fine] < 0.5 * made.transfers[first][fine]


@pytest.mark.parametrize(
    ("tilt_range", "step", "message"),
    [
        ((60.0, -60.0), 3.0, "tilt range"),
        ((-100.0, 60.0), 3.0, "tilt range"),
        ((-60.0, 60.0), 0.0, "tilt step"),
        ((-60.0, 60.0), 200.0, "tilt step"),
    ],
)
def test_wrong_tilts(tilt_range, step, message):
    with pytest.raises(ConfigurationError, match=message):
        tilt_angles_deg(tilt_range, step)


def test_tilts_reach_the_end_of_the_range():
    np.testing.assert_allclose(tilt_angles_deg((-60.0, 60.0), 3.0)[[0, -1]], [-60.0, 60.0])
    assert len(tilt_angles_deg((-60.0, 60.0), 3.0)) == 41
    assert tilt_angles_deg((-50.0, 52.0), 5.0)[-1] == 50.0


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"voltage_kv": 0.0}, "voltage above 0"),
        ({"defocus_um": float("nan")}, "finite defocus"),
        ({"amplitude_contrast": 1.5}, "amplitude contrast"),
        ({"dose_per_tilt": -1.0}, "dose of 0 or more"),
        (
            {"defocus_um": 0.0, "spherical_aberration_mm": 0.0, "amplitude_contrast": 0.0},
            "nothing is seen",
        ),
    ],
)
def test_wrong_imaging(settings_, message):
    with pytest.raises(ConfigurationError, match=message):
        Imaging(**settings_)


def test_zero_is_a_setting():
    """None is what the microscope has."""
    common = {"models": ["m.mrc"], "box": 24, "voxel_size_angstrom": 6.0, "noise": "tilt-series"}
    zero = build_simulation(
        **common, defocus_um=[3.0], amplitude_contrast=0.0, spherical_aberration_mm=0.0
    ).tilt_series.imagings[0]
    assert (zero.amplitude_contrast, zero.spherical_aberration_mm) == (0.0, 0.0)
    (usual,) = build_simulation(**common).tilt_series.imagings
    assert (usual.amplitude_contrast, usual.spherical_aberration_mm) == (0.1, 2.7)
    with pytest.raises(ConfigurationError, match="microscope"):
        build_simulation(**common | {"noise": "white"}, voltage_kv=0.0)


# ------------------------------------------------------------------------------------- particles


def through_tilts(count=6, snr=0.1, imagings=(CTF,), seed=3, **more):
    return simulate_particles(
        [phantom(24)],
        [count],
        snr=snr,
        tilt_range_deg=(-50.0, 70.0),
        max_shift_voxels=2.0,
        seed=seed,
        voxel_size_angstrom=VOXEL,
        tilt_series=TiltSeries(4.0, imagings),
        **more,
    )


@pytest.mark.parametrize("snr", [0.1, 0.003])
def test_signal_to_noise_ratio_is_that_of_the_subtomogram(snr):
    """Signal and noise of the same particles apart."""
    made = TiltGeometry(24, VOXEL, tilt_angles_deg((-50.0, 70.0), 4.0), CTF)
    noisy, clean = through_tilts(16, snr), through_tilts(16, np.inf)
    scale = 1.0 / made.noise_level(snr, [SliceSampler(phantom(24) / phantom(24).std())])
    signals = scale * clean.volumes
    noise = noisy.volumes - signals
    assert signals.var(axis=(1, 2, 3)).mean() / noise.var() == pytest.approx(snr, rel=0.1)


def test_average_at_the_true_poses_is_better_with_the_ctf_in_the_weights(tmp_path):
    simulated = through_tilts(24, 0.5, (CTF, Imaging(defocus_um=4.0)))
    assert len(np.unique(simulated.particles.weight_index)) == 2
    config = build_config(em={"start": "poses", "iterations": 0})
    (state,) = EmRun(simulated.particles, config).states()
    right = fourier_shell_correlation(state.model.volumes[0], phantom(24))
    assert right[1:8].min() > 0.8
    flat = simulate_particles(
        [phantom(24)], [1], snr=np.inf, tilt_range_deg=(-50.0, 70.0), max_shift_voxels=0.0, seed=1,
        voxel_size_angstrom=VOXEL,
    ).weights  # fmt: skip
    blind = simulated.particles.from_arrays(
        simulated.volumes, flat, voxel_size_angstrom=VOXEL, poses=simulated.poses
    )
    (state,) = EmRun(blind, config).states()
    wrong = fourier_shell_correlation(state.model.volumes[0], phantom(24))
    assert pearson(state.model.volumes[0], phantom(24)) < 0.9
    assert right[1:8].mean() > wrong[1:8].mean()


def test_particles_do_not_depend_on_how_many_there_are():
    few, many = through_tilts(2), through_tilts(4)
    np.testing.assert_array_equal(few.volumes, many.volumes[:2])
    dark = through_tilts(2, dark=True)
    np.testing.assert_array_equal(dark.volumes, -few.volumes)


# -------------------------------------------------------------------------------------- specimen


@pytest.mark.parametrize("kind", ORIENTATIONS)
def test_orientations(kind):
    rng = np.random.default_rng(0)
    turns = np.stack([draw_rotation(kind, rng, 25.0) for _ in range(400)])
    np.testing.assert_allclose(
        turns @ np.swapaxes(turns, 1, 2), np.tile(np.eye(3), (400, 1, 1)), atol=1e-12
    )
    assert np.ptp(rotation_angle_deg(turns, np.eye(3))) > 90.0
    if kind.startswith("about"):
        axis = np.eye(3)["xyz".index(kind[-1])]
        np.testing.assert_allclose(turns @ axis, np.broadcast_to(axis, (400, 3)), atol=1e-12)
    tilt = np.rad2deg(np.arccos(np.clip(turns[:, 2, 2], -1.0, 1.0)))
    if kind == "cone":
        assert tilt.max() < 25.0
        # Uniform on the cap: half of it lies within this.
        half = np.rad2deg(np.arccos(0.5 + 0.5 * np.cos(np.deg2rad(25.0))))
        assert 0.4 < (tilt < half).mean() < 0.6
    if kind == "uniform":
        assert 0.4 < (tilt < 90.0).mean() < 0.6


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 6))
def test_neighbours_touch_nothing(seed, number):
    radii, place = [6.0, 9.0], np.array([1.0, -2.0, 0.5])
    found = draw_neighbours(number, 0, place, radii, 32, np.random.default_rng(seed))
    assert len(found) == number
    taken = [(place, radii[0]), *((each.translation, radii[each.density]) for each in found)]
    for i, (centre, radius) in enumerate(taken):
        for other, other_radius in taken[:i]:
            assert np.linalg.norm(centre - other) >= radius + other_radius


def test_too_many_neighbours_are_refused():
    with pytest.raises(ConfigurationError, match="expected room for 60 neighbours"):
        draw_neighbours(60, 0, np.zeros(3), [10.0], 24, np.random.default_rng(0))


def test_extent_is_that_of_the_structure():
    n = 32
    axis = np.arange(n) - n // 2
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    assert extent_voxels((radius < 9).astype(float)) == pytest.approx(9.0, abs=1.0)


@pytest.mark.parametrize("series", [None, TiltSeries(4.0)])
def test_neighbours_change_surroundings_and_nothing_else(series):
    def made(neighbours):
        return simulate_particles(
            [phantom(24)], [2], snr=np.inf, tilt_range_deg=(-60.0, 60.0), max_shift_voxels=1.0,
            seed=5, voxel_size_angstrom=VOXEL, neighbours=neighbours, tilt_series=series,
        )  # fmt: skip

    alone, crowded = made(0), made(3)
    np.testing.assert_array_equal(alone.rotations, crowded.rotations)
    assert all(np.abs(a - b).max() > 0 for a, b in zip(alone.volumes, crowded.volumes, strict=True))


# --------------------------------------------------------------------------------------- command


@pytest.fixture
def density_file(tmp_path):
    write_volume(tmp_path / "model.mrc", phantom(24).astype(np.float32), VOXEL)
    return tmp_path / "model.mrc"


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["simulate", *map(str, arguments)])
    out, err = capsys.readouterr()
    return ended.value.code, out, err


BASIC = ["--box", 24, "--voxel-size", VOXEL, "--count", 3]


@pytest.mark.parametrize(
    "route", [[], ["--noise", "tilt-series", "--tilt-step", 5, "--defocus", 3, "--defocus", 4]]
)
def test_command_writes_particles_and_hides_the_truth(density_file, tmp_path, capsys, route):
    out = tmp_path / "data"
    code, said, err = call(capsys, density_file, "-o", out, *BASIC, "--seed", 7, *route)
    assert (code, err) == (0, "")
    assert "3 particles" in said
    table = read_star(out / "particles.star").particles
    assert not any(name.startswith(("rlnAngle", "rlnOrigin", "rlnClass")) for name in table)
    assert {"famlTrueAngleRot", "famlTrueOriginXAngst", "famlTrueClassNumber"} <= set(table)
    data = open_particles(build_config(data={"inputs": (str(out / "particles.star"),)}).data, 0)
    assert data.particles.poses is None
    assert len(data.particles) == 3
    again = tmp_path / "again"
    call(capsys, density_file, "-o", again, *BASIC, "--seed", 7, *route)
    for name in ("subtomograms/particle_00001.mrc", "truth/class_001.mrc"):
        assert (out / name).read_bytes() == (again / name).read_bytes()
    manifest = tomllib.loads((out / "simulation.toml").read_text())
    assert manifest["settings"]["seed"] == 7
    assert len(manifest["models"][0]["sha256"]) == 64
    np.testing.assert_allclose(
        read_volume(out / "truth" / "class_001.mrc").values.std(), phantom(24).std(), rtol=1e-3
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--snr", "0"], 2, "above 0, found 0"),
        (["--seed", "-1"], 2, "seed of 0 or more"),
        (["--max-shift", "12"], 2, "below half the box"),
        (["--noise", "tilt-series", "--cs", "1"], 2, "spherical aberration: of a CTF"),
        (["--noise", "tilt-series", "--dose", "inf"], 2, "finite dose"),
        (["--noise", "tilt-series", "--dose", "3", "--voltage", "100"], 2, "300 and 200 kV"),
        (["--noise", "pink"], 2, "'white' or 'tilt-series'"),
        (["--defocus", "3"], 2, "for noise of a tilt-series"),
        (["--cone-angle", "10"], 2, "for orientations in a cone"),
        (["--orientations", "odd"], 2, "expected orientations uniform"),
        (["--count", "2"], 2, "one per model"),
        (["--resolution", "20"], 2, "for atomic models"),
        (["--voxel-size", "5"], 2, "give --voxel-size 6"),
        (["--voxel-size", "0"], 2, "voxel size above 0"),
        (["--box", "16"], 2, "at least 24 voxels"),
        (["--neighbours", "-1"], 2, "0 neighbours or more"),
        (["--tilt-range", "60", "-60"], 2, "tilt range"),
    ],
)
def test_wrong_settings_of_the_command(density_file, tmp_path, capsys, arguments, code, message):
    told = call(capsys, density_file, "-o", tmp_path / "data", *BASIC, *arguments)
    assert told[0] == code, told
    assert message in told[2]
    assert [path.name for path in tmp_path.iterdir()] == ["model.mrc"]


def test_a_directory_in_use_is_left_alone(density_file, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "notes.txt").write_text("mine")
    code, _, err = call(capsys, density_file, "-o", tmp_path / "data", *BASIC)
    assert code == 4
    assert "not an empty directory" in err
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["notes.txt"]


def test_nothing_is_left_of_what_could_not_be_finished(density_file, tmp_path, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("faml.simulate.dataset.write_text_atomic", full)
    code, _, err = call(capsys, density_file, "-o", tmp_path / "data", *BASIC)
    assert code == 4
    assert "No space left" in err
    assert [path.name for path in tmp_path.iterdir()] == ["model.mrc"]
    code, _, err = call(capsys, density_file, "-o", density_file / "inside", *BASIC)
    assert code == 4
    assert "cannot be created" in err


def test_a_map_that_is_none(tmp_path, capsys):
    (tmp_path / "model.mrc").write_bytes(b"nothing")
    code, _, err = call(capsys, tmp_path / "model.mrc", "-o", tmp_path / "data", *BASIC)
    assert code == 3
    assert "model.mrc" in err
    code, _, err = call(capsys, tmp_path / "gone.pdb", "-o", tmp_path / "data", *BASIC)
    assert code == 3
    assert "gone.pdb" in err
