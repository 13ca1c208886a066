"""RELION 5's stacks of 2-D tilt images become data terms and weights (`faml.io.stacks`)."""

from __future__ import annotations

from dataclasses import replace

import mrcfile
import naive
import numpy as np
import pytest
import tilt_stacks
from tilt_stacks import Blobs, particles, stack, tomograms, write_project
from typer.testing import CliRunner

import faml
from faml.cli.app import app
from faml.config import DataConfig
from faml.conventions import relion_angles_deg_to_matrices
from faml.errors import ConfigurationError, InputDataError
from faml.io.dataset import open_particles
from faml.io.mrc import read_volume, write_volume
from faml.io.stacks import open_stacks, read_optimisation_set, read_tilt_series
from faml.io.star import read_star
from faml.kernels.tilt_planes import add_tilt_images, add_tilt_weights
from faml.transforms.fourier import half_multiplicity, shell_indices, spectrum_of

BOX = 32
LAST_SHELL = int(0.7 * BOX / 2)


@pytest.fixture(scope="module")
def series():
    return tomograms()


@pytest.fixture(scope="module")
def made(series):
    return particles(6, series)


@pytest.fixture(scope="module")
def project(tmp_path_factory, made, series):
    return write_project(tmp_path_factory.mktemp("relion"), Blobs(BOX), made, series)


@pytest.fixture
def small(tmp_path, series):
    """A project of its own, to be broken."""
    return write_project(tmp_path, Blobs(16), particles(2, series, seed=4), series)


def correlations(stacks, index, particle, box=BOX):
    """FSC of y / W with the phantom in its pose, each component weighted by W, from shell 2."""
    weight = stacks.weights.read(index).astype(np.float64)
    seen = weight > 0
    found = np.where(seen, spectrum_of(stacks.read(index)) / np.where(seen, weight, 1.0), 0.0)
    truth = spectrum_of(Blobs(box).volume(particle.rotation, particle.shift))
    shells = shell_indices(box)
    counts = half_multiplicity(box) * weight

    def sums(values):
        return np.bincount(shells[seen], (counts * values)[seen], minlength=box)

    fsc = sums((found * np.conj(truth)).real) / np.sqrt(
        sums(np.abs(found) ** 2) * sums(np.abs(truth) ** 2) + 1e-30
    )
    return fsc[2 : int(0.7 * box / 2) + 1]


@pytest.mark.parametrize("matrices", [False, True])
def test_data_over_weight_is_the_particle(tmp_path, made, series, project, matrices):
    path = project
    if matrices:
        path = write_project(tmp_path, Blobs(BOX), made, series, matrices=True)
    stacks = open_stacks(read_star(path))
    for index, particle in enumerate(made):
        fsc = correlations(stacks, index, particle)
        assert fsc.min() > 0.97, (index, fsc)


def test_grey_values_are_those_of_the_density(project, made):
    stacks = open_stacks(read_star(project))
    weight = stacks.weights.read(0)
    truth = spectrum_of(Blobs(BOX).volume(made[0].rotation, made[0].shift))
    y = spectrum_of(stacks.read(0))
    inside = shell_indices(BOX) <= LAST_SHELL
    factor = (y * np.conj(weight * truth)).real[inside].sum()
    factor /= (np.abs(weight * truth) ** 2)[inside].sum()
    # The gap of up to half a step between a point and the plane takes a little.
    assert factor == pytest.approx(1.0, abs=0.05)


def mirrored(stacks):
    return [replace(s, projections=np.swapaxes(s.projections, 1, 2)) for s in stacks.series]


def other_tilts(stacks):
    flip = np.diag([1.0, 1.0, -1.0])
    return [replace(s, projections=flip @ s.projections @ flip) for s in stacks.series]


def other_hand(stacks):
    return [replace(s, depth_sign=-s.depth_sign) for s in stacks.series]


@pytest.mark.parametrize(
    ("wrong", "below"), [(mirrored, 0.4), (other_tilts, 0.4), (other_hand, 0.9)]
)
def test_other_conventions_of_the_tilt_series_do_worse(project, made, wrong, below):
    right = open_stacks(read_star(project))
    stacks = replace(right, series=tuple(wrong(right)))
    worst = [correlations(stacks, i, particle).min() for i, particle in enumerate(made)]
    # Of the hand little depends for a particle in the middle.
    assert np.median(worst) < below, worst


@pytest.mark.parametrize("wrong", ["ignored", "transposed"])
def test_other_conventions_of_the_subtomogram_do_worse(project, made, wrong):
    right = open_stacks(read_star(project))
    turns = np.swapaxes(right.subtomograms, 1, 2)
    if wrong == "ignored":
        turns = np.broadcast_to(np.eye(3), turns.shape)
    stacks = replace(right, subtomograms=turns)
    assert np.median([correlations(stacks, i, p).min() for i, p in enumerate(made)]) < 0.5


def test_images_taken_for_others_do_worse(project, made):
    """As if stacks held the images in another order, or all but the first few."""
    right = open_stacks(read_star(project))
    shifted = tuple(np.roll(frames, 2) for frames in right.frames)
    stacks = replace(right, frames=shifted)
    assert max(correlations(stacks, i, p).min() for i, p in enumerate(made)) < 0.9


def test_images_that_are_not_premultiplied(tmp_path, made, series):
    path = write_project(tmp_path, Blobs(BOX), made[:2], series, premultiplied=False)
    stacks = open_stacks(read_star(path))
    for index, particle in enumerate(made[:2]):
        assert correlations(stacks, index, particle).min() > 0.97
    # Taken for premultiplied, signs are wrong between zeros of the CTF.
    wrong = replace(stacks, premultiplied=~stacks.premultiplied)
    assert correlations(wrong, 0, made[0]).min() < 0.5


@pytest.mark.parametrize(("box", "above"), [(24, 0.85), (40, 0.98)])
def test_other_boxes(tmp_path, series, box, above):
    """The CTF spreads the particle beyond a box of 24 pixels, as it would in RELION."""
    made = particles(2, series, seed=2, shift=0.8)
    stacks = open_stacks(read_star(write_project(tmp_path, Blobs(box), made, series)))
    for index, particle in enumerate(made):
        assert correlations(stacks, index, particle, box).min() > above


def test_noise_has_the_variance_of_the_weight(tmp_path, series):
    """Where masks blur the CTF's zeros, too; the plain sum of C^2 would be off by up to 2.5."""
    empty = Blobs(BOX)
    empty.heights[:] = 0.0
    made = particles(12, series, seed=9, hide=0.0)
    stacks = open_stacks(read_star(write_project(tmp_path, empty, made, series, noise=1.0)))
    shells = shell_indices(BOX)
    ratio, count = np.zeros(BOX), np.zeros(BOX)
    for index in range(len(stacks)):
        weight = stacks.weights.read(index)
        seen = (weight > 0) & (shells > 0)
        power = np.abs(spectrum_of(stacks.read(index))) ** 2
        ratio += np.bincount(shells[seen], power[seen] / weight[seen], minlength=BOX)[:BOX]
        count += np.bincount(shells[seen], minlength=BOX)[:BOX]
    level = ratio[3:15] / count[3:15]
    np.testing.assert_allclose(level / level.mean(), 1.0, atol=0.15)


def test_invisible_images_are_left_out(project, made, series):
    stacks = open_stacks(read_star(project))
    particle = made[0]
    hidden = int((~particle.visible).sum())
    assert hidden > 0
    assert len(stacks.frames[0]) == len(particle.visible) - hidden
    everything = replace(
        stacks, frames=(np.arange(len(particle.visible)), *stacks.frames[1:])
    ).weights.read(0)
    weight = stacks.weights.read(0)
    assert weight.sum() < everything.sum()
    # A plane that nobody else is near is empty without its image.
    assert ((weight == 0) & (everything > 0)).sum() > BOX


def geometry(stacks, index):
    return stacks._geometry(index)


@pytest.mark.parametrize("premultiplied", [False, True])
def test_kernels_equal_their_slow_twins(series, tmp_path, premultiplied):
    n = 8
    made = particles(1, series, seed=6)
    stacks = open_stacks(read_star(write_project(tmp_path, Blobs(n), made, series)))
    axes, optics = (part[:5] for part in geometry(stacks, 0))
    axes = np.concatenate([axes, np.eye(3)[None], np.eye(3)[None, [1, 2, 0]]])
    optics = np.concatenate([optics, optics[:2]])
    rng = np.random.default_rng(0)
    images = np.fft.rfft2(rng.normal(size=(len(axes), 2 * n, 2 * n))).astype(np.complex64)
    signal, noise = np.zeros((2, n, n, n // 2 + 1), np.float32)
    y = np.zeros((n, n, n // 2 + 1), np.complex64)
    add_tilt_weights(axes, optics, premultiplied, 0.5 * n, signal, noise)
    add_tilt_images(images, axes, optics, premultiplied, 0.5 * n, y)
    expected = naive.tilt_planes(images, axes, optics, premultiplied, 0.5 * n)
    np.testing.assert_allclose(signal, expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(noise, expected[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(y, expected[2], rtol=1e-4, atol=1e-4 * np.abs(y).max())


def test_average_at_the_given_poses_is_the_phantom(tmp_path, series):
    made = particles(10, series, seed=1, hide=0.05)
    path = write_project(tmp_path / "relion", Blobs(BOX), made, series)
    result = faml.run(
        [str(path)], tmp_path / "run", data={"particle_diameter_angstrom": 190.0},
        em={"start": "poses", "iterations": 0, "folds": 1}, threads=1,
    )  # fmt: skip
    found = read_volume(result.maps[0]).values
    truth = Blobs(BOX).volume()
    axis = (np.arange(BOX) - BOX // 2) ** 2
    inside = axis[:, None, None] + axis[:, None] + axis < (0.4 * BOX) ** 2
    assert np.corrcoef(found[inside], truth[inside])[0, 1] > 0.95
    assert np.corrcoef(found[inside], truth[::-1, ::-1, ::-1][inside])[0, 1] < 0.7
    # What it writes can be read again, and RELION knows its own columns.
    written = read_star(result.star)
    assert "rlnCtfImage" not in written.particles
    assert set(written.particles["rlnKept"]) == {"0.5"}
    again = DataConfig(
        inputs=(str(result.star),), tomograms=str(tmp_path / "relion/Tomograms/tomograms.star")
    )
    assert len(open_particles(again, 0).particles) == 10


def test_poses_are_those_of_the_file(project, made):
    particles_read = open_particles(DataConfig(inputs=(str(project),)), 0).particles
    np.testing.assert_allclose(
        particles_read.poses.rotations, [p.rotation for p in made], atol=1e-9
    )
    np.testing.assert_allclose(
        particles_read.poses.translations, [p.shift for p in made], atol=1e-9
    )
    assert list(particles_read.tomograms) == [1 - p.tomogram for p in made]


def test_a_subset_reads_its_own_images(project, made):
    config = DataConfig(inputs=(str(project),), subset=3)
    dataset = open_particles(config, 3)
    everything = open_stacks(read_star(project))
    for index, row in enumerate(dataset.rows):
        np.testing.assert_array_equal(
            dataset.particles.volumes.read(index), everything.read(int(row))
        )
        np.testing.assert_array_equal(
            dataset.particles.weight(index), everything.weights.read(int(row))
        )
    assert dataset.weight_source == "tilt images"
    assert len(dataset.particles) == 3
    assert dataset.available == len(made)


def test_the_optimisation_set_is_an_input_too(project):
    given = project.parent / "optimisation_set.star"
    found = read_optimisation_set(given)
    assert found.particles.samefile(project)
    assert found.tomograms.name == "tomograms.star"
    assert read_optimisation_set(project) is None
    dataset = open_particles(DataConfig(inputs=(str(given),)), 0)
    assert dataset.star.path.samefile(project)


def test_inspect_shows_tilt_images(project):
    result = CliRunner().invoke(app, ["inspect", str(project), "--tilt-range", "-60", "60"])
    assert result.exit_code == 0, result.output
    assert "tilt images" in result.output
    assert "--tilt-range is ignored" in " ".join(result.output.split())


def test_angles_and_matrices_of_the_same_series_agree(tmp_path, series):
    for matrices in (False, True):
        (tmp_path / str(matrices) / "Tomograms").mkdir(parents=True)
        tilt_stacks.write_tomograms(tmp_path / str(matrices), series, matrices=matrices)
    one, other = (
        read_tilt_series(tmp_path / str(matrices) / "Tomograms/tomograms.star", ["02", "TS_01"])
        for matrices in (False, True)
    )
    for tomogram in series:
        expected = [tilt.matrix for tilt in tomogram.tilts]
        np.testing.assert_allclose(one[tomogram.name].projections, expected, atol=1e-12)
        np.testing.assert_allclose(other[tomogram.name].projections, expected, atol=1e-8)
        assert one[tomogram.name].depth_sign == tomogram.hand


def test_relion_matrix_is_the_package_s():
    np.testing.assert_allclose(
        relion_angles_deg_to_matrices(np.array([[20.0, 50.0, -70.0]]))[0],
        tilt_stacks.relion_matrix(20.0, 50.0, -70.0),
        atol=1e-12,
    )


def broken(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def read_first(path):
    open_particles(DataConfig(inputs=(str(path),)), 0).particles.data_term(0)


def message(path):
    with pytest.raises(InputDataError) as error:
        read_first(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_no_tomograms_file_names_the_option(small):
    (small.parent / "optimisation_set.star").unlink()
    assert "--tomograms FILE" in message(small)
    tomograms_file = small.parents[2] / "Tomograms" / "tomograms.star"
    opened = open_particles(DataConfig(inputs=(str(small),), tomograms=str(tomograms_file)), 0)
    assert len(opened.particles) == 2


def test_the_optimisation_set_of_other_particles_is_not_taken(small):
    (small.parent / "other.star").write_text(small.read_text())
    broken(small.parent / "optimisation_set.star", "particles.star", "other.star")
    assert "--tomograms FILE" in message(small)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("_rlnTomoVisibleFrames", "_rlnOther", "rlnTomoVisibleFrames is missing"),
        ("[1,", "[1,1,", "flags"),
        ("[1,", "[2,", "expected [1,0,...]"),
        ("_rlnTomoName", "_rlnOther", "rlnTomoName"),
        ("_rlnCenteredCoordinateX", "_rlnOtherX", "defocus is unknown"),
        ("_rlnTomoSubtomogramRot", "_rlnOther", "rlnTomoSubtomogramRot is missing"),
        ("_rlnImagePixelSize", "_rlnOther", "rlnImagePixelSize is missing"),
        ("2_stack2d.mrcs", "3_stack2d.mrcs", "3_stack2d.mrcs"),
        ("_rlnVoltage", "_rlnCtfDataAreCtfCorrected", "CTF-corrected"),
        ("\n02 ", "\n03 ", "tomogram 03"),
    ],
)
def test_broken_particle_tables(small, old, new, said):
    broken(small, old, new)
    assert said in message(small)


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("tomograms.star", "data_global", "data_other", "data_global"),
        ("tomograms.star", "_rlnTomoHand", "_rlnOther", "rlnTomoHand"),
        ("tomograms.star", "TS_01 -1", "TS_01 0", "1 or -1"),
        ("tomograms.star", "300.0", "0.0", "rlnVoltage"),
        ("tomograms.star", "TS_01.star", "TS_09.star", "TS_09.star"),
        ("tilt_series/02.star", "data_02", "data_2", "data_02"),
        ("tilt_series/02.star", "_rlnDefocusU", "_rlnOther", "estimate the CTF"),
        ("tilt_series/02.star", "_rlnTomoYTilt", "_rlnOther", "how the images were projected"),
        ("tilt_series/02.star", "36000", "many", "'many'"),
    ],
)
def test_broken_tilt_series(small, name, old, new, said):
    broken(small.parents[2] / "Tomograms" / name, old, new)
    assert said in message(small)


@pytest.mark.parametrize("bad", ["[0.5,0,0,0]", "[1,0,0]", "[1,0,x,0]"])
def test_broken_matrices(tmp_path, series, bad):
    path = write_project(tmp_path, Blobs(16), particles(2, series), series, matrices=True)
    tomograms_file = tmp_path / "Tomograms" / "tomograms.star"
    lines = tomograms_file.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("["))
    lines[at] = " ".join([bad, *lines[at].split()[1:]])
    tomograms_file.write_text("\n".join(lines) + "\n")
    said = message(path)
    assert "rlnTomoProjX" in said
    assert f"line {at + 1}" in said


def stack_file(small, number):
    return next(small.parent.glob(f"Subtomograms/*/{number}_stack2d.mrcs"))


def rewrite(path, images):
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(images)


def test_another_number_of_images(small):
    images = mrcfile.read(stack_file(small, 2)).astype(np.float32)
    rewrite(stack_file(small, 2), images[:-1])
    said = message(small)
    assert "2_stack2d.mrcs" in said
    assert "--stack2d" in said
    assert str(len(images)) in said


def test_nan_in_an_image(small):
    images = mrcfile.read(stack_file(small, 1)).astype(np.float32).copy()
    images[2, 3, 4] = np.nan
    with pytest.warns(RuntimeWarning, match="NaN"):
        rewrite(stack_file(small, 1), images)
    assert "NaN" in message(small)
    assert "1_stack2d.mrcs" in message(small)


def test_a_stack_that_is_gone(small):
    stack_file(small, 1).unlink()
    assert "1_stack2d.mrcs" in message(small)


@pytest.mark.parametrize("shape", [(15, 15), (16, 14)])
def test_images_that_are_odd_or_not_square(small, shape):
    images = mrcfile.read(stack_file(small, 1)).astype(np.float32)
    rewrite(stack_file(small, 1), images[:, : shape[0], : shape[1]].copy())
    assert "even" in message(small)


def test_a_stack_of_one_image(tmp_path, series):
    made = particles(2, series, seed=3)
    made[0].visible[:] = False
    made[0].visible[3] = True
    assert stack(Blobs(16), made[0], series[0]).shape == (1, 16, 16)
    stacks = open_stacks(read_star(write_project(tmp_path, Blobs(16), made, series)))
    assert np.isfinite(stacks.read(0)).all()
    assert 0 < (stacks.weights.read(0) > 0).mean() < 0.1


def test_no_visible_image(tmp_path, series):
    made = particles(2, series, seed=3)
    path = write_project(tmp_path, Blobs(16), made, series)
    shown = "[" + ",".join(map(str, made[1].visible.astype(int))) + "]"
    broken(path, shown, shown.replace("1", "0"))
    assert "visible in no image" in message(path)


def test_tomograms_are_for_stacks_only(tmp_path):
    write_volume(tmp_path / "a.mrc", np.eye(16)[None] + np.zeros((16, 1, 1)), 8.0)
    config = DataConfig(
        inputs=(str(tmp_path),), tomograms="tomograms.star", tilt_range_deg=(-60.0, 60.0)
    )
    with pytest.raises(ConfigurationError, match="leave it out"):
        open_particles(config, 0)


def test_aberrations_are_warned_about(small):
    broken(small, "_rlnImageSize", "_rlnEvenZernike")
    dataset = open_particles(DataConfig(inputs=(str(small),)), 0)
    assert any("rlnEvenZernike" in warning for warning in dataset.warnings)
