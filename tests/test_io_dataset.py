"""Opening particles: lists, checks, voxel size, weights, normalisation, inspection."""

from pathlib import Path

import numpy as np
import pytest

from faml.config import DataConfig, build_config
from faml.errors import ConfigurationError, InputDataError
from faml.io.dataset import open_particles, survey_particles
from faml.io.inspect import inspect_dataset
from faml.io.mrc import write_volume
from faml.io.wedge_files import (
    TiltRangeWeight,
    VolumeWeights,
    estimate_tilt_range_deg,
    observed_fraction,
    weight_power,
)
from faml.particles import full_cube, wedge_weight

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")

BOX = 16
TILT = (-60.0, 60.0)


def ball(box=BOX, radius=4.0):
    z, y, x = np.indices((box, box, box)) - box // 2
    return (x * x + y * y + z * z <= radius**2).astype(np.float32)


def particle(seed, *, density=0.5, deviation=1.0, mean=0.0, box=BOX):
    noise = np.random.default_rng(seed).normal(size=(box, box, box))
    return (deviation * (noise + density * ball(box)) + mean).astype(np.float32)


def folder(path, count=6, voxel_size=4.0, **options):
    path.mkdir(exist_ok=True)
    for index in range(count):
        write_volume(path / f"p_{index + 1}.mrc", particle(index, **options), voxel_size)
    return path


def config(*inputs, **settings):
    settings = {"tilt_range_deg": TILT, **settings}
    return DataConfig(inputs=tuple(str(text) for text in inputs), **settings)


def write_star(path, names, weights=None, optics="", premultiplied=0, pixel=4.0, extra=()):
    columns = ["rlnImageName", "rlnOpticsGroup"] + (["rlnCtfImage"] if weights else [])
    lines = ["data_optics", "", "loop_", "_rlnOpticsGroup", "_rlnCtfDataAreCtfPremultiplied"]
    lines += ["_rlnImagePixelSize"] if pixel else []
    lines += [f"1 {premultiplied} {pixel or ''}", optics, "", "data_particles", "", "loop_"]
    lines += [f"_{name}" for name in columns]
    for index, name in enumerate(names):
        lines.append(f"{name} 1 {weights[index]}" if weights else f"{name} 1")
    path.write_text("\n".join([*lines, *extra]) + "\n")
    return path


# ---- lists


def test_folder_glob_and_files_are_the_same(tmp_path):
    path = folder(tmp_path / "in", count=11)
    (path / "._p_1.mrc").write_bytes(b"hidden")
    by_folder = open_particles(config(path), 0)
    by_glob = open_particles(config(path / "p_*.mrc"), 0)
    by_files = open_particles(config(*(path / f"p_{i}.mrc" for i in range(1, 12))), 0)
    expected = tuple(str(path / f"p_{i}.mrc") for i in range(1, 12))  # natural order
    assert by_folder.particles.names == by_glob.particles.names == expected
    assert by_files.particles.names == expected
    assert by_folder.particles.box == BOX
    assert by_folder.particles.voxel_size_angstrom == pytest.approx(4.0)
    assert by_folder.particles.poses is None
    assert by_folder.modes == (2,)
    assert by_folder.warnings == ()


def test_duplicates_are_refused(tmp_path):
    path = folder(tmp_path / "in")
    with pytest.raises(InputDataError, match=r"p_2\.mrc: given twice"):
        open_particles(config(path, path / ".." / "in" / "p_2.mrc"), 0)
    star = write_star(path / "a.star", ["p_1.mrc", "p_1.mrc"])
    with pytest.raises(InputDataError, match=r"p_1\.mrc is listed 2 times"):
        open_particles(config(star), 0)


def test_inputs_that_are_not_there(tmp_path):
    with pytest.raises(ConfigurationError, match="no input"):
        open_particles(config(), 0)
    with pytest.raises(InputDataError, match=r"gone: the file or folder does not exist"):
        open_particles(config(tmp_path / "gone"), 0)
    with pytest.raises(InputDataError, match=r"no file matches; check the pattern"):
        open_particles(config(tmp_path / "*.mrc"), 0)
    (tmp_path / "run.star").write_text("x")
    with pytest.raises(InputDataError, match=r"no \*\.mrc in it; did you mean .*run\.star"):
        open_particles(config(tmp_path), 0)


def test_star_with_other_inputs(tmp_path):
    path = folder(tmp_path / "in")
    star = write_star(path / "a.star", ["p_1.mrc"])
    with pytest.raises(ConfigurationError, match=r"one STAR file or MRC files"):
        open_particles(config(star, path), 0)


def test_folder_with_star_or_weights_is_warned_about(tmp_path):
    path = folder(tmp_path / "in")
    write_star(path / "a.star", ["p_1.mrc"])
    write_volume(path / "wedge.mrc", particle(99), 4.0)
    warnings = " ".join(open_particles(config(path), 0).warnings)
    assert "a.star, which is ignored" in warnings
    assert "look like weights or references: wedge.mrc" in warnings


def test_subset_is_seeded_sorted_and_carries_poses(tmp_path):
    path = folder(tmp_path / "in", count=8)
    first = open_particles(config(path, subset=4), 3)
    again = open_particles(config(path, subset=4), 3)
    other = [open_particles(config(path, subset=4), seed).rows.tolist() for seed in range(6)]
    assert first.rows.tolist() == again.rows.tolist() == sorted(first.rows.tolist())
    assert len({tuple(rows) for rows in other}) > 1
    assert first.available == 8
    assert len(first.particles) == 4
    whole = open_particles(config(path, normalise="never"), 3)
    part = open_particles(config(path, normalise="never", subset=4), 3)
    for index, row in enumerate(part.rows):
        assert part.particles.names[index] == whole.particles.names[row]
        np.testing.assert_array_equal(part.particles.volume(index), whole.particles.volume(row))
    assert "all 8 are used" in open_particles(config(path, subset=9), 0).warnings[0]


# ---- boxes, values


def test_differing_and_non_cubic_boxes(tmp_path):
    path = folder(tmp_path / "in")
    write_volume(path / "p_3.mrc", particle(0, box=12), 4.0)
    with pytest.raises(InputDataError, match=r"p_3\.mrc: expected a box of \(16, 16, 16\).*12"):
        open_particles(config(path), 0)
    write_volume(path / "p_3.mrc", particle(0)[:10], 4.0)
    with pytest.raises(InputDataError, match=r"p_3\.mrc: expected a cubic box.*extract"):
        open_particles(config(path), 0)


def test_constant_volume(tmp_path):
    path = folder(tmp_path / "in")
    write_volume(path / "p_4.mrc", np.full((BOX,) * 3, 2.0), 4.0)
    with pytest.raises(InputDataError, match=r"p_4\.mrc: the volume is constant.*remove it"):
        open_particles(config(path), 0)


def test_not_finite_and_truncated(tmp_path):
    path = folder(tmp_path / "in")
    raw = bytearray((path / "p_2.mrc").read_bytes())
    raw[2000:2004] = np.float32(np.nan).tobytes()
    (path / "p_2.mrc").write_bytes(raw)
    with pytest.raises(InputDataError, match=r"p_2\.mrc: found NaN or Inf"):
        open_particles(config(path), 0)
    (path / "p_2.mrc").write_bytes(raw[:3000])
    with pytest.raises(InputDataError, match=r"p_2\.mrc: truncated"):
        open_particles(config(path), 0)


# ---- voxel size


@pytest.mark.parametrize("header", [0.0, 1.0])
def test_absent_voxel_size(tmp_path, header):
    path = folder(tmp_path / "in", voxel_size=header)
    with pytest.raises(InputDataError, match=r"no voxel size.*p_1\.mrc.*give --voxel-size"):
        open_particles(config(path), 0)
    given = open_particles(config(path, voxel_size_angstrom=3.0), 0)
    assert given.particles.voxel_size_angstrom == 3.0
    star = write_star(path / "a.star", ["p_1.mrc", "p_2.mrc"], pixel=5.0)
    assert open_particles(config(star), 0).particles.voxel_size_angstrom == 5.0


def test_conflicting_voxel_sizes(tmp_path):
    path = folder(tmp_path / "in")
    star = write_star(path / "a.star", ["p_1.mrc", "p_2.mrc"], pixel=8.0)
    with pytest.raises(InputDataError, match=r"a\.star says 8 A, the header of .*--voxel-size"):
        open_particles(config(star), 0)
    overridden = open_particles(config(star, voxel_size_angstrom=8.0), 0)
    assert overridden.particles.voxel_size_angstrom == 8.0
    assert "replaces 4 A" in " ".join(overridden.warnings)
    write_volume(path / "p_5.mrc", particle(4), 5.0)
    with pytest.raises(InputDataError, match=r"p_1\.mrc has 4 A, .*p_5\.mrc has 5 A"):
        open_particles(config(path), 0)


# ---- weights


def test_tilt_range_is_needed_without_weights(tmp_path):
    path = folder(tmp_path / "in")
    with pytest.raises(InputDataError, match=r"give --tilt-range MIN MAX"):
        open_particles(config(path, tilt_range_deg=None), 0)
    star = write_star(path / "a.star", ["p_1.mrc"])
    with pytest.raises(InputDataError, match=r"a\.star: column rlnCtfImage.*--tilt-range"):
        open_particles(config(star, tilt_range_deg=None), 0)
    assert survey_particles(config(path, tilt_range_deg=None)).weight_source == "missing"


@pytest.mark.parametrize("tilt", [(60.0, -60.0), (10.0, 10.0), (-100.0, 60.0)])
def test_bad_tilt_range(tmp_path, tilt):
    with pytest.raises(ConfigurationError, match="give the smaller angle first"):
        open_particles(config(folder(tmp_path / "in"), tilt_range_deg=tilt), 0)


def test_tilt_range_weight(tmp_path):
    data = open_particles(config(folder(tmp_path / "in")), 0)
    assert data.weight_source == "tilt range"
    np.testing.assert_array_equal(data.particles.weight(0), wedge_weight(BOX, TILT))
    assert TiltRangeWeight(BOX, TILT).amplitude(0) is None


def half_and_full(seed=0):
    """A symmetric random weight on the half grid and as full cube."""
    rng = np.random.default_rng(seed)
    cube = rng.uniform(0.5, 2.0, size=(BOX,) * 3)
    mirror = -np.arange(BOX) % BOX
    cube = 0.5 * (cube + cube[mirror][:, mirror][:, :, mirror])
    half = cube[:, :, : BOX // 2 + 1].astype(np.float32)
    return half, np.fft.fftshift(cube).astype(np.float32)


@pytest.mark.parametrize("n", [7, 8])
def test_full_cube_inverts_the_half(n):
    volume = np.random.default_rng(1).normal(size=(n, n, n))
    power = np.abs(np.fft.fftn(volume)) ** 2
    half = np.abs(np.fft.rfftn(volume)) ** 2
    np.testing.assert_allclose(full_cube(half), np.fft.fftshift(power), rtol=1e-5)
    assert weight_power(half) == pytest.approx(power.mean())


@pytest.mark.parametrize("layout", ["cube", "half", "doubled cube", "doubled half"])
def test_premultiplied_layouts(tmp_path, layout):
    half, cube = half_and_full()
    stored = cube if "cube" in layout else half
    if "doubled" in layout:
        stored = np.concatenate([stored, 30.0 + stored])  # multiplicity behind CTF^2
    write_volume(tmp_path / "w.mrc", stored, 4.0)
    reader = VolumeWeights((tmp_path / "w.mrc",), (True,), BOX)
    np.testing.assert_allclose(reader.read(0), half, rtol=1e-6)
    assert reader.amplitude(0) is None


@pytest.mark.parametrize("layout", ["cube", "half"])
def test_amplitude_may_be_negative(tmp_path, layout):
    half, cube = half_and_full()
    write_volume(tmp_path / "c.mrc", -cube if layout == "cube" else -half, 4.0)
    reader = VolumeWeights((tmp_path / "c.mrc",), (False,), BOX)
    np.testing.assert_allclose(reader.read(0), half**2, rtol=1e-5)
    np.testing.assert_allclose(reader.amplitude(0), -half, rtol=1e-6)
    assert reader.amplitude(0) is reader.amplitude(0)  # kept


def test_data_term_of_amplitude_and_premultiplied(tmp_path):
    half, cube = half_and_full()
    path = folder(tmp_path / "in", count=3)
    write_volume(path / "c.mrc", -cube, 4.0)
    plain = write_star(path / "a.star", ["p_1.mrc", "p_2.mrc"], ["c.mrc"] * 2)
    data = open_particles(config(plain, tilt_range_deg=None, normalise="never"), 0).particles
    spectrum = np.fft.rfftn(np.fft.ifftshift(data.volume(1)), norm="ortho")
    np.testing.assert_allclose(data.data_term(1), -half * spectrum, atol=1e-4)
    write_volume(path / "w.mrc", cube, 4.0)
    done = write_star(path / "b.star", ["p_1.mrc", "p_2.mrc"], ["w.mrc"] * 2, premultiplied=1)
    data = open_particles(config(done, tilt_range_deg=None, normalise="never"), 0).particles
    np.testing.assert_allclose(data.data_term(1), spectrum, atol=1e-4)


def test_distinct_weights_are_shared_and_win_over_a_tilt_range(tmp_path):
    path = folder(tmp_path / "in", count=4)
    _, cube = half_and_full()
    for name in ("w1.mrc", "w2.mrc"):
        write_volume(path / name, cube, 4.0)
    names = [f"p_{i}.mrc" for i in range(1, 5)]
    star = write_star(path / "a.star", names, ["w2.mrc", "w1.mrc", "w2.mrc", "w2.mrc"])
    data = open_particles(config(star), 0)
    assert data.particles.weight_index.tolist() == [0, 1, 0, 0]
    assert [weight.name for weight in data.weight_paths] == ["w2.mrc", "w1.mrc"]
    assert any("--tilt-range is ignored" in warning for warning in data.warnings)


@pytest.mark.parametrize(
    ("weight", "premultiplied", "message"),
    [
        (np.ones((12, 12, 12)), 0, r"w\.mrc: expected a weight volume of shape \(16, 16, 16\)"),
        (np.zeros((BOX,) * 3), 0, r"w\.mrc: the weight volume is zero everywhere"),
        (-np.ones((BOX,) * 3), 1, r"w\.mrc: expected weights >= 0.*rlnCtfDataAreCtfPremultiplied"),
        (np.ones((2 * BOX, BOX, 9)), 0, r"w\.mrc: .*multiplicity.*Premultiplied to 1"),
    ],
)
def test_bad_weights(tmp_path, weight, premultiplied, message):
    path = folder(tmp_path / "in", count=2)
    write_volume(path / "w.mrc", weight, 4.0)
    star = write_star(path / "a.star", ["p_1.mrc"], ["w.mrc"], premultiplied=premultiplied)
    with pytest.raises(InputDataError, match=message):
        open_particles(config(star, tilt_range_deg=None), 0)


def test_missing_weight_file(tmp_path):
    path = folder(tmp_path / "in", count=2)
    star = write_star(path / "a.star", ["p_1.mrc"], ["gone.mrc"])
    with pytest.raises(InputDataError, match=r"column rlnCtfImage, 1 of them not found: gone\.mrc"):
        open_particles(config(star, tilt_range_deg=None), 0)


def test_premultiplied_without_ctf_volumes_is_warned_about(tmp_path):
    path = folder(tmp_path / "in", count=2)
    star = write_star(path / "a.star", ["p_1.mrc"], premultiplied=1)
    assert "no CTF volumes" in " ".join(open_particles(config(star), 0).warnings)


# ---- normalisation and contrast


def background(data, index):
    z, y, x = np.indices((BOX,) * 3) - BOX // 2
    return data.particles.volume(index)[x * x + y * y + z * z > data.grey.radius_voxels**2]


def test_always_gives_mean_zero_variance_one(tmp_path):
    path = folder(tmp_path / "in", deviation=3.0, mean=50.0)
    data = open_particles(config(path, normalise="always"), 0)
    for index in range(len(data.particles)):
        values = background(data, index).astype(np.float64)
        assert values.mean() == pytest.approx(0.0, abs=1e-5)
        assert values.var() == pytest.approx(1.0, rel=1e-5)


def test_never_keeps_values_and_invert_turns_the_sign(tmp_path):
    path = folder(tmp_path / "in")
    data = open_particles(config(path, normalise="never"), 0)
    # But for the mean of a box, which is no datum.
    offset = np.float32(np.median(data.grey.background_mean))
    np.testing.assert_array_equal(data.particles.volume(2), particle(2) - offset)
    inverted = open_particles(config(path, normalise="never", invert=True), 0)
    np.testing.assert_array_equal(inverted.particles.volume(2), offset - particle(2))


def test_auto_keeps_relative_values_where_particles_agree(tmp_path):
    path = folder(tmp_path / "in", deviation=3.0, mean=50.0)
    data = open_particles(config(path), 0)
    assert data.normalisation.applied == "common"
    assert len(set(data.particles.scale)) == len(set(data.particles.offset)) == 1
    assert background(data, 0).std() == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("what", ["deviation", "mean"])
def test_auto_normalises_each_where_they_disagree(tmp_path, what):
    path = folder(tmp_path / "in")
    for index in range(3):
        options = {"deviation": 4.0} if what == "deviation" else {"mean": 2.0}
        write_volume(path / f"p_{index + 1}.mrc", particle(index, **options), 4.0)
    data = open_particles(config(path), 0)
    assert data.normalisation.applied == "each"
    assert "disagree" in " ".join(data.warnings)
    assert background(data, 0).std() == pytest.approx(1.0, rel=1e-4)
    assert background(data, 5).mean() == pytest.approx(0.0, abs=1e-4)


def test_premultiplied_particles_keep_their_own_noise_level(tmp_path):
    """Noise variance sigma^2 W: four times the weight is twice the deviation, and no fault."""
    path = folder(tmp_path / "in", count=8)
    for index in range(4):
        write_volume(path / f"p_{index + 1}.mrc", particle(index, deviation=2.0), 4.0)
    write_volume(path / "w4.mrc", np.full((BOX,) * 3, 4.0), 4.0)
    write_volume(path / "w1.mrc", np.ones((BOX,) * 3), 4.0)
    names = [f"p_{i}.mrc" for i in range(1, 9)]
    star = write_star(path / "a.star", names, ["w4.mrc"] * 4 + ["w1.mrc"] * 4, premultiplied=1)
    data = open_particles(config(star, tilt_range_deg=None), 0)
    assert data.normalisation.applied == "common"
    each = open_particles(config(star, tilt_range_deg=None, normalise="always"), 0)
    ratio = background(each, 0).std() / background(each, 7).std()
    assert ratio == pytest.approx(2.0, rel=1e-4)


def test_masked_particles(tmp_path):
    path = folder(tmp_path / "in")
    for index in range(6):
        write_volume(path / f"p_{index + 1}.mrc", particle(index) * ball(), 4.0)
    data = open_particles(config(path), 0)
    assert np.isfinite(data.particles.volume(0)).all()
    assert "constant background" in " ".join(data.warnings)
    with pytest.raises(InputDataError, match=r"p_1\.mrc: its background is constant.*never"):
        open_particles(config(path, normalise="always"), 0)


def test_contrast_is_checked(tmp_path):
    path = folder(tmp_path / "in", count=10, density=-0.5)
    assert "add --invert" in " ".join(open_particles(config(path), 0).warnings)
    assert not open_particles(config(path, invert=True), 0).warnings
    bright = folder(tmp_path / "bright", count=10, density=0.5)
    warnings = open_particles(config(bright, invert=True), 0).warnings
    assert "leave --invert out" in " ".join(warnings)
    noise = folder(tmp_path / "noise", count=10, density=0.0)
    assert not open_particles(config(noise), 0).warnings


def test_particle_diameter(tmp_path):
    path = folder(tmp_path / "in")
    data = open_particles(config(path, particle_diameter_angstrom=40.0), 0)
    assert data.grey.radius_voxels == pytest.approx(5.0)
    assert open_particles(config(path), 0).grey.radius_voxels == pytest.approx(0.4 * BOX)
    with pytest.raises(ConfigurationError, match=r"exceeds the box of 16 x 4 = 64 A"):
        open_particles(config(path, particle_diameter_angstrom=400.0), 0)


# ---- inspection


def test_inspect_without_tilt_range(tmp_path):
    path = folder(tmp_path / "in")
    seen = inspect_dataset(build_config(data={"inputs": (str(path),)}))
    assert (seen.count, seen.box, seen.modes) == (6, BOX, (2,))
    assert seen.weight_source == "missing"
    assert seen.observed_fraction is None
    assert any("--tilt-range MIN MAX" in warning for warning in seen.warnings)
    assert seen.memory_bytes > 0
    assert [cost.shell for cost in seen.costs] == [7]


def test_inspect_with_tilt_range(tmp_path):
    path = folder(tmp_path / "in")
    data = {"inputs": (str(path),), "tilt_range_deg": TILT}
    one = inspect_dataset(build_config(data=data))
    two = inspect_dataset(build_config(data=data, threads=2))
    assert one.tilt_range_deg == TILT
    assert one.tilt_range_origin == "given"
    assert one.observed_fraction == pytest.approx(120 / 180, abs=0.05)
    assert two.costs[0].seconds < one.costs[0].seconds < 2.0 * two.costs[0].seconds


def test_the_tilt_axis_may_be_x(tmp_path):
    path = folder(tmp_path / "in")
    data = {"inputs": (str(path),), "tilt_range_deg": (-50.0, 70.0)}
    config = build_config(data=data | {"tilt_axis": "x"})
    weight = open_particles(config.data, 0).particles.weight(0)
    np.testing.assert_array_equal(weight, wedge_weight(BOX, (-50.0, 70.0), "x"))
    assert (weight != wedge_weight(BOX, (-50.0, 70.0))).mean() > 0.1
    assert inspect_dataset(config).tilt_axis == "x"
    with pytest.raises(ConfigurationError, match="--tilt-axis belongs to --tilt-range"):
        build_config(data={"inputs": (str(path),), "tilt_axis": "x"})


@pytest.mark.parametrize("tilt", [(-60.0, 60.0), (-50.0, 70.0), (-40.0, 40.0)])
def test_tilt_range_is_estimated_from_a_weight(tilt):
    weight = wedge_weight(64, tilt)
    assert estimate_tilt_range_deg(weight) == pytest.approx(tilt, abs=180 / 64)
    # shares of a sphere: the wedge is a sector of the half circle
    assert observed_fraction(weight) == pytest.approx((tilt[1] - tilt[0]) / 180, abs=0.02)


# ---- shared data


@needs_shared
def test_conventions_fixture_keeps_relative_grey_values():
    star = SHARED / "conventions" / "particles.star"
    data = open_particles(DataConfig(inputs=(str(star),)), 0)
    assert len(data.particles) == 8
    assert data.normalisation.applied == "common"
    assert data.warnings == ()
    assert data.particles.voxel_size_angstrom == pytest.approx(12.0)
    assert data.particles.weight_index.max() == 0
    observed = data.particles.weight(0) > 0
    # The wedge file is the package's own definition, inside the Nyquist sphere.
    expected = wedge_weight(32, (-50.0, 70.0)) > 0
    k = np.fft.fftfreq(32, 1 / 32)
    radius2 = k[:, None, None] ** 2 + k[None, :, None] ** 2 + np.arange(17) ** 2
    assert (observed == expected)[radius2 < 15.5**2].mean() > 0.99


def test_particle_that_fills_its_box_is_warned_about(tmp_path):
    path = folder(tmp_path / "in", count=2)
    extent = open_particles(config(path), 0).particles.box * 4.0
    for share, warned in ((0.9, False), (0.95, True)):
        found = open_particles(config(path, particle_diameter_angstrom=share * extent), 0)
        assert any("larger boxes" in w for w in found.warnings) == warned


@needs_shared
def test_real_ribosome_opens():
    star = SHARED / "real_ribosome" / "particles.star"
    data = open_particles(DataConfig(inputs=(str(star),)), 0)
    assert len(data.particles) == 40
    assert data.premultiplied.all()
    assert len(data.weight_paths) == 4
    assert data.particles.poses is not None
    assert data.normalisation.applied == "common"
    assert data.warnings == ()
    low, high = inspect_dataset(
        build_config(data={"inputs": (str(star),)})
    ).tilt_range_deg  # data/README.md: about -54..+61 to -46..+76
    assert -60 < low < -45
    assert 60 < high < 75
