"""What `faml inspect` finds out from the data: wedge, contrast, duplicates, bounds; tilt angles."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from phantoms import blobs
from scipy.spatial.transform import Rotation

import faml
from faml.config import DataConfig, build_config
from faml.errors import ConfigurationError, InputDataError
from faml.io.dataset import open_particles, survey_particles
from faml.io.em import write_em
from faml.io.formats.conversion import Conversion, convert
from faml.io.grey_values import judge_contrast, measure_grey_values
from faml.io.inspect import inspect_dataset
from faml.io.inspection.identity import close_particles, identical_volumes
from faml.io.inspection.measured_wedge import PowerSpectrum, WedgeGauge, sample_size
from faml.io.inspection.resolution import estimate_resolution
from faml.io.inspection.wedge_check import wedge_warnings
from faml.io.mrc import read_volume, write_volume
from faml.io.star import read_star
from faml.io.star_text import write_star
from faml.io.tilt_angles import read_tilt_angles
from faml.particles import full_cube, tilt_angles_weight, wedge_weight
from faml.simulate.particles import simulate_particles, write_particles
from faml.simulate.tilt_series import Imaging, TiltGeometry, TiltSeries, tilt_angles_deg
from faml.transforms.fourier import spectrum_of, volume_of

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is not here")
N = 24
LOPSIDED = (-50.0, 70.0)


def simulated(tilt_range=LOPSIDED, axis="y", *, series=True, snr=0.05, n=N, count=6, **more):
    return simulate_particles(
        [blobs(n, seed=1)], [count], snr=snr, tilt_range_deg=tilt_range, tilt_axis=axis,
        max_shift_voxels=1.5, seed=3, voxel_size_angstrom=10.0,
        tilt_series=TiltSeries(4.0) if series else None, **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def through_tilts():
    """Of one tilt series about each axis."""
    return {axis: simulated(axis=axis) for axis in ("y", "x")}


def measured(volumes):
    spectrum = PowerSpectrum(volumes[0].shape[0])
    for volume in volumes:
        spectrum.add(volume)
    gauge = WedgeGauge(volumes[0].shape[0])
    return gauge.measure(spectrum.values, spectrum.count)


def declared(tilt_range, axis="y", n=N):
    return WedgeGauge(n).of_weight(wedge_weight(n, tilt_range, axis))


def said_so(tilt_range, axis):
    """As options say it, not as a weight shows it."""
    return replace(
        declared((-60.0, 60.0)), tilt_axis=axis, axis_deg={"y": 0.0, "x": 90.0}[axis],
        tilt_range_deg=tilt_range,
    )  # fmt: skip


def folder(path, volumes, size=10.0):
    path.mkdir(parents=True)
    for i, volume in enumerate(volumes):
        write_volume(path / f"p_{i + 1:02d}.mrc", np.ascontiguousarray(volume), size)
    return path


def inspected(path, **data):
    return inspect_dataset(build_config(data={"inputs": (str(path),)} | data))


# ---- the wedge of the particles


@pytest.mark.parametrize("axis", ["y", "x"])
def test_wedge_of_tilt_series(through_tilts, axis):
    found = measured(through_tilts[axis].volumes)
    assert found.told
    assert found.tilt_axis == axis
    assert found.particles == 6
    assert found.confidence > 0.9
    assert found.tilt_range_deg == pytest.approx(LOPSIDED, abs=8.0)


@pytest.mark.parametrize(
    ("tilt_range", "axis", "n"),
    [((-40.0, 40.0), "y", 24), ((-30.0, 65.0), "x", 33), ((-70.0, 60.0), "y", 40)],
)
def test_wedge_behind_white_noise(tilt_range, axis, n):
    found = measured(simulated(tilt_range, axis, series=False, n=n, count=5).volumes)
    assert found.told
    assert found.tilt_axis == axis
    assert found.tilt_range_deg == pytest.approx(tilt_range, abs=found.uncertainty_deg)
    assert declared(tilt_range, axis, n).tilt_range_deg == pytest.approx(
        tilt_range, abs=0.7 * found.uncertainty_deg
    )


def test_noise_added_after_the_wedge_gives_no_alarm():
    clean = simulated(series=False, snr=0.1).volumes
    noise = np.random.default_rng(0).normal(size=clean.shape).astype(np.float32)
    for volumes in (clean + noise, noise):
        found = measured(volumes)
        assert not found.told
        for wrong in ((-20.0, 20.0), (-90.0, 30.0), LOPSIDED):
            assert wedge_warnings(found, declared(wrong, "x"), "tilt range") == ()
    # A little noise does not hide it.
    slight = measured(clean + 0.2 * noise)
    assert slight.told
    assert slight.tilt_range_deg == pytest.approx(LOPSIDED, abs=8.0)


def test_small_boxes_are_not_judged():
    small = simulated(series=False, n=12, count=4).volumes
    assert not measured(small).told


def test_axis_turned_in_the_plane_and_beam_elsewhere():
    rng = np.random.default_rng(5)
    wedge = full_cube(wedge_weight(48, LOPSIDED)) > 0
    points = np.stack(np.indices((48,) * 3)[::-1], -1) - 24.0  # x, y, z
    for turn, name in (
        (Rotation.from_euler("z", 30, degrees=True), "other"),
        (Rotation.from_euler("x", 90, degrees=True), "z"),
    ):
        inverse = np.rint(points @ turn.as_matrix()).astype(int) + 24
        x, y, z = np.clip(np.moveaxis(inverse, -1, 0), 0, 47)
        weight = np.fft.ifftshift(wedge[z, y, x])[:, :, :25].astype(np.float32)
        particles = [
            volume_of(spectrum_of(rng.normal(size=(48,) * 3).astype(np.float32)) * weight, 48)
            for _ in range(4)
        ]
        found = measured(particles)
        assert found.told
        assert found.tilt_axis == name
        (warning,) = wedge_warnings(found, declared(LOPSIDED, n=48), "tilt range")
        if name == "other":
            assert found.axis_deg == pytest.approx(30.0, abs=2.0)
            assert "turned in the plane to 30 degrees" in warning
        else:
            assert "does not lie around Z" in warning


@pytest.mark.parametrize("axis", ["y", "x"])
@pytest.mark.parametrize(
    ("said", "turned", "words"),
    [
        (LOPSIDED, False, None),
        ((-70.0, 50.0), False, "sign of the tilts looks wrong: -70 50 is declared"),
        ((-85.0, 85.0), False, "too wide"),
        ((-30.0, 50.0), False, "too narrow"),
        ((-50.0, 45.0), False, "too narrow: the largest tilt"),
        (LOPSIDED, True, "tilts are declared about"),
    ],
)
def test_warnings_of_a_wrong_declaration(through_tilts, axis, said, turned, words):
    found = measured(through_tilts[axis].volumes)
    other = {"y": "x", "x": "y"}[axis] if turned else axis
    warnings = wedge_warnings(found, said_so(said, other), "tilt range")
    if words is None:
        assert warnings == ()
        return
    (warning,) = warnings
    assert re.search(words, warning)
    right = "-50 70" if turned or said == (-70.0, 50.0) else r"-(4|5)\d"
    assert re.search(f"give --tilt-range {right}", warning)
    assert ("--tilt-axis x" in warning) == (axis == "x")


def test_weights_without_a_wedge_and_none_at_all(through_tilts):
    found = measured(through_tilts["y"].volumes)
    (warning,) = wedge_warnings(
        found, WedgeGauge(N).of_weight(np.ones((N, N, N // 2 + 1))), "volumes"
    )
    assert "no missing wedge" in warning
    assert "rlnCtfImage" in warning
    (warning,) = wedge_warnings(found, None, "missing")
    assert re.search(r"about Y; give --tilt-range -(4|5)\d", warning)


def test_sample_is_bounded():
    assert sample_size(10_000, 64) == 100
    assert sample_size(10_000, 32) == 100
    assert sample_size(10_000, 256) == 12
    assert sample_size(7, 64) == 7


# ---- contrast


def grey_of(volumes):
    n = volumes.shape[1]
    names = tuple(map(str, range(len(volumes))))
    return measure_grey_values(lambda index: volumes[index], names, n, 0.4 * n)


@pytest.mark.parametrize("kind", ["white noise", "tilts", "CTF"])
def test_contrast_of_weak_signal(kind):
    # Steps are coarse to be quick.
    series = {"tilts": TiltSeries(6.0), "CTF": TiltSeries(6.0, (Imaging(defocus_um=3.0),))}.get(
        kind
    )
    found = simulate_particles(
        [blobs(32, seed=1)], [12], snr=0.01, tilt_range_deg=(-60.0, 60.0), max_shift_voxels=1.5,
        seed=3, voxel_size_angstrom=10.0, tilt_series=series,
    ).volumes  # fmt: skip
    bright, dark = grey_of(found), grey_of(-found)
    assert judge_contrast(bright, invert=False).verdict == "white"
    assert judge_contrast(bright, invert=True).verdict == "black"
    assert judge_contrast(dark, invert=False).verdict == "black"
    assert judge_contrast(dark, invert=True).verdict == "white"
    assert judge_contrast(dark, invert=False).confidence > 0.999


@pytest.mark.parametrize("seed", range(4))
def test_contrast_that_cannot_be_told(seed):
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(10, N, N, N)).astype(np.float32)
    assert judge_contrast(grey_of(noise), invert=False).verdict == "cannot be told"
    weak = noise + np.float32(np.sqrt(1e-6)) * blobs(N, seed=1) / blobs(N, seed=1).std()
    assert judge_contrast(grey_of(weak), invert=True).verdict == "cannot be told"
    two = grey_of(noise[:2] + 5 * blobs(N, seed=1))
    assert judge_contrast(two, invert=False).verdict == "cannot be told"


def test_hollow_particles_are_left_undecided():
    axis = np.arange(N) - N // 2
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis**2)
    shell = ((radius > 7) & (radius < 9)) - 0.5 * (radius < 5.5)
    noise = np.random.default_rng(1).normal(size=(10, N, N, N))
    found = judge_contrast(grey_of((noise + shell).astype(np.float32)), invert=False)
    assert found.centre < 0 < found.inside
    assert found.verdict == "cannot be told"


# ---- duplicates, voxel sizes, tomograms, resolution


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Particles of two tomograms with poses and coordinates; the second pair lies 30 A apart."""
    made = simulate_particles(
        [blobs(24, seed=1)], [12], snr=0.5, tilt_range_deg=LOPSIDED, max_shift_voxels=1.5, seed=3,
        voxel_size_angstrom=10.0, tilt_series=TiltSeries(4.0, (Imaging(), Imaging())),
    )  # fmt: skip
    path = write_particles(made, tmp_path_factory.mktemp("data"))
    star = read_star(path)
    particles = star.particles.copy()
    place = np.arange(12) * 1000.0
    place[4] = place[2] + 3.0  # voxels of 10 A; both of the first tomogram
    place[5] = place[4]  # at one place, but in another
    for axis, values in zip("XYZ", (place, 0 * place, 0 * place), strict=True):
        particles[f"rlnCoordinate{axis}"] = [f"{value:.3f}" for value in values]
    for column in ("rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst"):
        particles[column] = "0.0"
    write_star(path, {"optics": star.optics, "particles": particles}, 30001)
    return path


@pytest.mark.parametrize(
    ("name", "words"), [("a.tbl", "Dynamo table"), ("a.em", "motive list of AV3")]
)
def test_format_of_the_input(table, tmp_path, name, words):
    assert inspected(table).input_format.startswith("RELION 3.1 STAR")
    convert(Conversion(table, tmp_path / name))
    for number, image in enumerate(read_star(table).particles["rlnImageName"], 1):
        (tmp_path / f"particle_{number:06d}.mrc").symlink_to(table.parent / image)
    assert inspected(tmp_path / name, tilt_range_deg=LOPSIDED).input_format.startswith(words)


def test_close_particles_stay_in_their_tomogram(table):
    data = survey_particles(DataConfig(inputs=(str(table),)))
    found = close_particles(data, 40.0)
    assert found.particles == 2
    assert found.nearest_angstrom == pytest.approx(30.0, abs=1e-6)
    assert [Path(name).stem[-2:] for name in sorted(found.first)] == ["03", "05"]
    assert close_particles(data, 29.0).particles == 0
    assert close_particles(data, 29.0).first is None


def test_statistics_of_tomograms(table):
    found = inspected(table)
    assert [each.particles for each in found.tomograms] == [6, 6]
    assert all(each.weights == 1 for each in found.tomograms)
    assert all(each.contrast == "white" for each in found.tomograms)
    for each in found.tomograms:
        assert each.tilt_range_deg == pytest.approx(LOPSIDED, abs=10.0)
    assert any("closer than" in warning for warning in found.warnings)


def test_identical_volumes(tmp_path):
    noise = np.random.default_rng(0).normal(size=(5, 16, 16, 16)).astype(np.float32)
    turned = noise[0][::-1, ::-1]  # other order, values of the same mean
    path = folder(tmp_path / "in", [*noise, noise[1], noise[3], noise[1], turned])
    data = survey_particles(DataConfig(inputs=(str(path),)))
    names = [[Path(name).stem for name in group] for group in identical_volumes(data)]
    assert sorted(names) == [["p_02", "p_06", "p_08"], ["p_04", "p_07"]]
    found = inspected(path)
    assert found.close is None
    assert any("3 particles are copies" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("header", "given", "words"),
    [
        (0.0, 4.0, "4 file headers have a voxel size of 0 or 1 A"),
        (1.0, 4.0, "4 file headers have a voxel size of 0 or 1 A"),
        (4.0, 1.0, "exactly 1 A"),
        (4.0, 0.04, "unusual"),
        (4.0, None, None),
    ],
)
def test_suspicious_voxel_sizes(tmp_path, header, given, words):
    noise = np.random.default_rng(0).normal(size=(4, 16, 16, 16)).astype(np.float32)
    found = inspected(folder(tmp_path / "in", noise, header), voxel_size_angstrom=given)
    assert found.voxel_sizes.headers == ((header, 4),)
    assert found.voxel_sizes.option == given
    text = " ".join(found.warnings)
    assert ("voxel size of 0" in text or "exactly 1 A" in text or "unusual" in text) == bool(words)
    assert words is None or words in text


def test_reachable_resolution(table):
    data = survey_particles(DataConfig(inputs=(str(table),)))
    found = estimate_resolution(data)
    assert found.nyquist_angstrom == 20.0
    assert found.particles == 12
    assert found.nyquist_angstrom <= found.signal_angstrom <= 60.0
    assert "given poses" in found.basis


def test_no_signal_is_promised_in_noise(tmp_path):
    made = simulated(series=False, n=20, count=12, snr=1e-7)
    data = survey_particles(DataConfig(inputs=(str(write_particles(made, tmp_path)),)))
    found = estimate_resolution(data)
    assert found.signal_angstrom is None or found.signal_angstrom >= 100.0
    bare = folder(tmp_path / "bare", made.volumes)
    assert inspected(bare, tilt_range_deg=LOPSIDED).resolution.signal_angstrom is None


# ---- the command


def test_json(cli, table):
    code, out, err = cli("inspect", table, "--json")
    assert (code, err) == (0, "")

    def refuse(name):
        raise AssertionError(name)

    found = json.loads(out, parse_constant=refuse)
    assert found["schema_version"] == 1
    assert found["count"] == 12
    assert found["measured_wedge"]["tilt_axis"] == "y"
    assert found["contrast"]["verdict"] == "white"
    assert [each["particles"] for each in found["tomograms"]] == [6, 6]
    assert found["close"]["particles"] == 2
    assert any("--min-distance" in warning for warning in found["warnings"])
    assert set(found) >= {
        "box", "voxel_size_angstrom", "voxel_sizes", "weight_source", "tilt_range_deg",
        "resolution", "costs", "memory_bytes", "identical", "normalisation", "conventions",
    }  # fmt: skip


def test_text(cli, tmp_path, through_tilts):
    path = folder(tmp_path / "in", through_tilts["x"].volumes)
    code, out, err = cli("inspect", path, "--tilt-range", -50, 70)
    assert (code, err) == (0, "")
    assert "loose volumes (.mrc)" in out
    assert "measured from 6 particles" in out
    assert "warning: tilts are declared about Y" in out
    code, out, _ = cli("inspect", path, "--tilt-range", -50, 70, "--tilt-axis", "x")
    assert "warning" not in out
    assert "protein is white" in out


@needs_shared
def test_real_ribosomes():
    found = inspected(SHARED / "real_ribosome" / "particles.star")
    assert found.warnings == ()
    assert found.contrast.verdict == "white"
    assert found.measured_wedge.told
    assert found.measured_wedge.tilt_axis == "y"
    low, high = found.measured_wedge.tilt_range_deg  # data/README.md: -54..+61 to -46..+76
    assert -57 < low < -40
    assert 56 < high < 76
    assert len(found.tomograms) == 4
    # FSC of their average with RELION's map of 18,000 is 0.5 at 38 A and 0.28 at 27 A.
    assert 28 < found.resolution.signal_angstrom < 50


# ---- tilt angles


@pytest.mark.parametrize("n", [24, 27])
@pytest.mark.parametrize("axis", ["y", "x"])
def test_weight_of_tilt_angles_is_that_of_a_tilt_series(axis, n):
    angles = tilt_angles_deg((-50.0, 66.0), 3.0)
    expected = TiltGeometry(n, 10.0, angles, Imaging(), axis).weight
    k = np.fft.fftfreq(n, 1.0 / n)
    half = np.arange(n // 2 + 1)
    radius = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + half**2)
    inside = (radius > 2) & (radius < n / 2 - 1)

    def alike(signed, about):
        weight = tilt_angles_weight(n, signed, about)
        return np.corrcoef(weight[inside], expected[inside])[0, 1]

    assert alike(angles, axis) > 0.94
    assert alike(-angles, axis) < 0.92  # IMOD's sign, not the opposite
    assert alike(angles, {"y": "x", "x": "y"}[axis]) < 0.5


def test_weight_of_tilt_angles_slice_by_slice():
    n = 17
    weight = tilt_angles_weight(n, (0.0, 30.0))
    assert weight[0, :, 0] == pytest.approx(2.0)  # on the axis every image counts
    assert weight[0, 3, 7] == pytest.approx(1.0)
    kz, kx = 4, 7  # close to the plane at 30 degrees
    distance = abs(kz * np.cos(np.pi / 6) - kx * np.sin(np.pi / 6))
    assert weight[kz, 0, kx] == pytest.approx(1.0 - distance, abs=1e-6)
    assert weight[-kz, 0, kx] == 0.0
    unsorted = tilt_angles_weight(n, (30.0, -10.0, 5.0))
    np.testing.assert_allclose(unsorted, tilt_angles_weight(n, (-10.0, 5.0, 30.0)), atol=1e-6)


def test_reading_tilt_angles(tmp_path):
    path = tmp_path / "ts.tlt"
    path.write_text("# a comment\n  60.01\n-3.00\n\n0\n 100.0\n-95 # folded, too\n-90\n")
    assert read_tilt_angles(path) == (60.01, -3.0, 0.0, -80.0, 85.0, 90.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "-60\n-57\nstage\n",
            r"ts\.tlt: line 3: expected one tilt angle in degrees, found 'stage'",
        ),
        ("-60 1\n", "line 1: .*found '-60 1'; write one number a line"),
        ("-60\n\nnan\n", "line 3: .*found nan"),
        ("-60\n720\n", "line 2: expected a tilt angle from -180 to 180"),
        ("", "at least two different tilt angles.*found 0"),
        ("12\n12\n", "at least two different tilt angles.*found 1"),
        ("-90\n90\n", "found 1"),  # one plane
        ("-1.05\n0.0\n1.05\n", "radians"),
        (b"\xff\xfe\x00\x80", "binary"),
        (None, "does not exist"),
    ],
)
def test_bad_tilt_angles(tmp_path, text, words):
    path = tmp_path / "ts.tlt"
    if isinstance(text, bytes):
        path.write_bytes(text)
    elif text is not None:
        path.write_text(text)
    with pytest.raises(InputDataError, match=words):
        read_tilt_angles(path)


def test_tilt_angles_reach_the_particles(tmp_path):
    angles = tilt_angles_deg((-50.0, 66.0), 4.0)
    noise = np.random.default_rng(0).normal(size=(3, 16, 16, 16)).astype(np.float32)
    path = folder(tmp_path / "in", noise)
    file = tmp_path / "ts.rawtlt"
    file.write_text("\n".join(map(str, np.random.default_rng(1).permutation(angles))))
    data = open_particles(DataConfig(inputs=(str(path),), tilt_angles_file=str(file)), 0)
    assert data.weight_source == "tilt angles"
    expected = tilt_angles_weight(16, angles)
    np.testing.assert_allclose(data.particles.weight(0), expected, atol=1e-5)
    # A tomogram's structure is passed alike, so y = W X.
    spectrum = spectrum_of(data.particles.volume(1)) * expected
    np.testing.assert_allclose(data.particles.data_term(1), spectrum, rtol=1e-4, atol=1e-4)
    found = inspected(path, tilt_angles_file=str(file), tilt_axis="x")
    assert found.tilt_range_deg == pytest.approx((-50.0, 66.0))
    assert (found.tilt_range_origin, found.tilt_axis) == ("given", "x")


def test_premultiplied_particles_are_y(tmp_path):
    made = simulated(n=16, count=3)
    star = write_particles(made, tmp_path)
    blocks = read_star(star)
    columns = blocks.particles.drop(columns="rlnCtfImage")
    write_star(star, {"optics": blocks.optics, "particles": columns}, 30001)
    file = tmp_path / "ts.tlt"
    file.write_text("\n".join(map(str, tilt_angles_deg(LOPSIDED, 3.0))))
    data = open_particles(DataConfig(inputs=(str(star),), tilt_angles_file=str(file)), 0)
    observed = data.particles.weight(0) > 0
    spectrum = spectrum_of(data.particles.volume(1)) * observed
    np.testing.assert_allclose(data.particles.data_term(1), spectrum, rtol=1e-4, atol=1e-4)


def test_tilts_are_said_once(cli, tmp_path):
    data = {"inputs": ("x",), "tilt_angles_file": "ts.tlt"}
    with pytest.raises(ConfigurationError, match="--tilt-range and --tilt-angles both say"):
        build_config(data=data | {"tilt_range_deg": (-60.0, 60.0)})
    with pytest.raises(ConfigurationError, match="--tilt-angles and --wedge-list both say"):
        build_config(data=data | {"wedge_list": "w.star"})
    assert build_config(data=data | {"tilt_axis": "x"}).data.tilt_axis == "x"
    noise = np.random.default_rng(0).normal(size=(2, 16, 16, 16)).astype(np.float32)
    path = folder(tmp_path / "in", noise)
    file = tmp_path / "ts.tlt"
    file.write_text("0\n3\nx\n")
    for command in (("inspect",), ("snr",), ("run", "-o", tmp_path / "out")):
        code, _, err = cli(*command, path, "--tilt-angles", file)
        assert code == 3
        assert "line 3" in err
        assert err.count("\n") == 1


def test_run_with_tilt_angles(tmp_path):
    """The wedge beside the particles of a run is a mask: amplitudes of a tomogram stay."""
    angles = tilt_angles_deg((-50.0, 66.0), 4.0)
    path = folder(tmp_path / "in", simulated(series=False, n=16, count=4).volumes)
    file = tmp_path / "ts.tlt"
    file.write_text("\n".join(map(str, angles)))
    config = {"tilt_angles_file": str(file), "tilt_axis": "x"}
    result = faml.run(
        [str(path)], tmp_path / "out", data=config,
        em={"iterations": 1, "seed": 1}, search={"max_candidates": 4, "voronoi_samples": 100},
        threads=1, report=False,
    )  # fmt: skip
    wedge = read_volume(result.directory / "wedge.mrc").values
    np.testing.assert_array_equal(wedge, full_cube(tilt_angles_weight(16, angles, "x")) > 0)
    assert str(file) in (result.directory / "config.toml").read_text()


def wedged_table(path, *, swapped=False, axis="y"):
    """A Dynamo table of two tomograms with opposite tilts, and what it says of them."""
    ranges = ((-60.0, 30.0), (-30.0, 60.0))
    rng = np.random.default_rng(4)
    (path / "particles").mkdir()
    lines = []
    for k in range(12):
        spectrum = np.fft.rfftn(rng.normal(size=(24, 24, 24)), axes=(0, 1, 2))
        spectrum *= wedge_weight(24, ranges[k % 2], axis)
        volume = np.fft.irfftn(spectrum, s=(24,) * 3, axes=(0, 1, 2))
        write_em(path / "particles" / f"particle_{k + 1:06d}.em", volume)
        low, high = ranges[(k + swapped) % 2]
        tilts = f"1 {low} {high} 0 0" if axis == "y" else f"2 0 0 {low} {high}"
        lines.append(f"{k + 1} 1 1 0 0 0 0 0 0 0 0 0 {tilts} 0 0 {1 + k % 2}\n")
    (path / "t.tbl").write_text("".join(lines))
    return path / "t.tbl"


@pytest.mark.parametrize("swapped", [False, True])
def test_wedges_given_to_the_wrong_tomograms(cli, tmp_path, swapped):
    """Their mean is the same."""
    path = wedged_table(tmp_path, swapped=swapped)
    code, out, _ = cli("inspect", path, "--voxel-size", "6", "--json")
    assert code == 0
    found = [text for text in json.loads(out)["warnings"] if "2 of 2 tomograms" in text]
    assert bool(found) == swapped
    assert not any("declared" in text for text in json.loads(out)["warnings"]) or swapped


@pytest.mark.parametrize("axis", ["y", "x"])
def test_tilts_of_a_table_are_said_as_given(cli, tmp_path, axis):
    path = wedged_table(tmp_path, axis=axis)
    code, out, _ = cli("inspect", path, "--voxel-size", "6", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["tilt_axis"] == axis
    assert found["tilt_range_origin"] == "given"
    assert found["tilt_range_deg"] == [-60.0, 30.0]
