"""Grey values of files at the edges: scales, offsets, whole numbers, particles unlike others."""

from __future__ import annotations

from dataclasses import replace

import mrcfile
import numpy as np
import pytest
from phantoms import DETAILED
from runs import VOXEL_ANGSTROM
from stress import TILTS, box_of, volumes_of, whole

from faml.config import build_config
from faml.errors import InputDataError
from faml.io.dataset import open_particles


@pytest.fixture(scope="module")
def clear():
    """Particles whose poses are beyond doubt, so that rounding moves none to another optimum."""
    return box_of(20, count=6, noise=0.1, phantom=DETAILED)


def from_files(folder, volumes, poses, strategy="faml", normalise="auto", **em):
    """A run of volumes as files hold them, that begins at the true poses; its warnings."""
    folder.mkdir()
    for index, volume in enumerate(volumes):
        with mrcfile.new(folder / f"{index:02d}.mrc") as file:
            file.set_data(np.asarray(volume))
            file.set_volume()
            file.voxel_size = VOXEL_ANGSTROM
    config = build_config(
        data={"inputs": (str(folder),), "tilt_range_deg": TILTS, "normalise": normalise}
    )
    dataset = open_particles(config.data, 0)
    search = {"max_candidates": 12, "max_bandwidth": 10, "max_shift_voxels": 3.0}
    options = {"start": "poses", "iterations": 1} | em
    state = whole(replace(dataset.particles, poses=poses), strategy, search=search, **options)
    return state, dataset


@pytest.fixture(scope="module")
def usual(tmp_path_factory, clear):
    """The run of the clear particles as they are, once for each strategy and normalisation."""
    known = {}

    def run(strategy="faml", normalise="auto"):
        if (strategy, normalise) not in known:
            folder = tmp_path_factory.mktemp("usual") / "files"
            volumes = volumes_of(clear)
            found, _ = from_files(folder, volumes, clear.poses, strategy, normalise)
            known[strategy, normalise] = found
        return known[strategy, normalise]

    return run


def turned_deg(a, b):
    cosine = (np.einsum("nij,nij->n", a.assignments.rotations, b.assignments.rotations) - 1) / 2
    return np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))


def assert_alike(a, b, *, degrees, voxels, values, scale=1.0):
    """Poses, classes and averages, these to ``values`` of their largest."""
    assert turned_deg(a, b).max() < degrees
    moved = a.assignments.translations - b.assignments.translations
    assert np.abs(moved).max() < voxels
    np.testing.assert_array_equal(a.assignments.classes, b.assignments.classes)
    limit = values * np.abs(a.model.volumes).max()
    np.testing.assert_allclose(b.model.volumes / scale, a.model.volumes, rtol=0, atol=limit)


@pytest.mark.parametrize(
    ("strategy", "normalise"),
    [("fa", "never"), ("faml", "auto"), ("faml", "never"), ("exhaustive", "never")],
)
def test_powers_of_two_change_no_bit(tmp_path, strategy, normalise):
    """They are exact in single precision, so nothing but an absolute constant could tell."""
    particles = box_of(16, count=5, phantom_seeds=(0, 5), noise=0.5)
    volumes = volumes_of(particles)

    def run(name, factor):
        scaled = volumes * np.float32(factor)
        return from_files(
            tmp_path / name, scaled, particles.poses, strategy, normalise,
            start="random", classes=2, iterations=2,
        )[0]  # fmt: skip

    usual = run("usual", 1.0)
    for number, factor in enumerate((2.0**-20, 2.0**20)):  # 1e-6 and 1e6
        if strategy == "exhaustive" and factor < 1:
            continue  # the slowest
        other = run(f"scaled_{number}", factor)
        grey = factor if normalise == "never" else 1.0
        np.testing.assert_array_equal(other.model.volumes / np.float32(grey), usual.model.volumes)
        np.testing.assert_array_equal(
            other.model.noise_variance / grey**2, usual.model.noise_variance
        )
        for name in ("rotations", "translations", "class_probabilities"):
            np.testing.assert_array_equal(
                getattr(other.assignments, name), getattr(usual.assignments, name)
            )


@pytest.mark.parametrize(
    ("strategy", "normalise", "scale"),
    [
        ("faml", "auto", 1e-6), ("faml", "auto", 1e3), ("faml", "auto", 1e6),
        ("faml", "never", 1e-6), ("faml", "never", 1e-3), ("faml", "never", 1e6),
        ("fa", "never", 1e-6), ("exhaustive", "never", 1e6),
    ],
)  # fmt: skip
def test_scales_change_nothing(tmp_path, clear, usual, strategy, normalise, scale):
    """Values are rounded anew, by 6e-8 of each; refinement ends within 0.3 degrees of itself."""
    volumes = volumes_of(clear) * np.float32(scale)
    found, _ = from_files(tmp_path / "scaled", volumes, clear.poses, strategy, normalise)
    grey = scale if normalise == "never" else 1.0
    expected = usual(strategy, normalise)
    assert_alike(expected, found, degrees=0.3, voxels=0.01, values=2e-3, scale=grey)


@pytest.mark.parametrize(
    ("normalise", "deviations"),
    [("auto", -1e1), ("auto", 1e6), ("always", 1e3), ("never", -1e1), ("never", 1e6)],
)
def test_offsets_change_what_single_precision_loses(tmp_path, clear, usual, normalise, deviations):
    """An offset is no datum.

    What a file loses is fixed when it is written: values at 1e6 deviations of the noise are rounded
    to 1/16 of a deviation, which adds noise of 1/16/sqrt(12) = 0.02 deviations, here 2 % of the
    noise and so 2 % of a pose's error of some ten degrees at most. Below that nothing is lost.
    """
    shifted = volumes_of(clear) + np.float32(0.1 * deviations)
    found, _ = from_files(tmp_path / "offset", shifted, clear.poses, normalise=normalise)
    lost = deviations == 1e6
    assert_alike(
        usual("faml", normalise), found, degrees=1.0 if lost else 0.3, voxels=0.1 if lost else 0.01,
        values=0.03 if lost else 2e-3,
    )  # fmt: skip


@pytest.mark.parametrize("kind", [np.int8, np.int16])
def test_whole_numbers(tmp_path, clear, usual, kind):
    """Bytes divide the largest value by 127, a sixth of the noise's deviation."""
    volumes = volumes_of(clear)
    factor = np.iinfo(kind).max / np.abs(volumes).max()
    rounded = np.round(volumes * factor).astype(kind)
    found, dataset = from_files(tmp_path / "rounded", rounded, clear.poses)
    assert dataset.modes == ({np.int8: 0, np.int16: 1}[kind],)
    assert_alike(usual(), found, degrees=2.0, voxels=0.2, values=0.05)


@pytest.mark.parametrize("normalise", ["auto", "always"])
def test_a_particle_of_another_scale_outweighs_none(tmp_path, normalise):
    """One of twelve, which the middle 80 % that decide about all do not see."""
    particles = box_of(16, count=12)
    volumes = volumes_of(particles)
    usual, _ = from_files(tmp_path / "usual", volumes, particles.poses, normalise=normalise)
    volumes[3] = 1e4 * volumes[3] + 50.0
    found, dataset = from_files(tmp_path / "odd", volumes, particles.poses, normalise=normalise)
    if normalise == "auto":
        assert dataset.normalisation.applied == "common"
        assert len(set(dataset.particles.scale)) == 2
        (warning,) = [each for each in dataset.warnings if "unlike" in each]
        assert "1 of 12 particles have grey values unlike all others'" in warning
        assert "03" in warning
    difference = found.model.volumes - usual.model.volumes
    # As long as no pose moves, all that changes is the level of one particle, by some per cent.
    assert np.abs(difference).max() < 0.1 * usual.model.volumes.max()


def test_a_particle_far_off_is_brought_back(tmp_path):
    particles = box_of(16, count=12)
    volumes = volumes_of(particles)
    volumes[5] += 1e4
    _, dataset = from_files(tmp_path / "odd", volumes, particles.poses)
    assert any("grey values unlike all others'" in each for each in dataset.warnings)
    assert abs(dataset.particles.volume(5).mean()) < 1.0


def test_noise_free_particles_are_not_taken_for_odd(tmp_path):
    """What the wedge leaves in their backgrounds depends on pose and shift."""
    particles = box_of(16, count=12, noise=0.0, shifts=1.7)
    _, dataset = from_files(tmp_path / "clean", volumes_of(particles), particles.poses)
    assert not any("unlike" in each for each in dataset.warnings)
    assert len(set(dataset.particles.scale)) == 1


@pytest.mark.parametrize("place", [(8, 8, 8), (0, 0, 0)])
def test_a_hot_voxel_is_said(tmp_path, place):
    particles = box_of(16, count=6)
    volumes = volumes_of(particles)
    volumes[(2, *place)] = 1e6
    _, dataset = from_files(tmp_path / "hot", volumes, particles.poses)
    assert any("extreme voxels, the worst is" in each for each in dataset.warnings)
    assert not any("extreme" in each for each in
                   from_files(tmp_path / "all", volumes_of(particles), None, start="random")[1]
                   .warnings)  # fmt: skip


@pytest.mark.parametrize("normalise", ["auto", "always", "never"])
@pytest.mark.parametrize("scale", [1e-40, 1e-33])
def test_values_that_single_precision_cannot_square(tmp_path, normalise, scale):
    particles = box_of(12, count=4)
    volumes = volumes_of(particles)
    volumes[1] *= np.float32(scale)
    with pytest.raises(InputDataError, match=r"particle .*01.*: expected grey values that span"):
        from_files(tmp_path / "files", volumes, particles.poses, normalise=normalise)


def test_a_constant_file_is_named(tmp_path):
    volumes = volumes_of(box_of(12, count=3))
    volumes[1] = 0.0
    with pytest.raises(InputDataError, match=r"01.*: the volume is constant"):
        from_files(tmp_path / "files", volumes, None, start="random")
