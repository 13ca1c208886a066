"""Evidence of each particle, outliers of classes, positions in tomograms, and duplicates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from phantoms import simulated
from runs import EM, SEARCH, settings
from scipy.spatial.transform import Rotation

import faml
from faml.config import DataConfig, build_config
from faml.em.loop import EmRun
from faml.errors import InputDataError
from faml.io.dataset import open_particles
from faml.io.mrc import write_volume
from faml.io.output import ParticleResults, write_particles
from faml.io.positions import particle_positions
from faml.io.star import read_star
from faml.metrics.particles import duplicates, outliers
from faml.particles import wedge_weight

# ------------------------------------------------------------------ evidence


def last_state(particles, iterations=2, **em):
    config = build_config(
        search=SEARCH | {"max_candidates": 12, "max_bandwidth": 10, "max_shift_voxels": 3.0},
        em=EM | {"start": "poses", "iterations": iterations, "folds": 3} | em,
    )
    *_, state = EmRun(particles, config).states()
    return state


def test_evidence_tells_particles_from_boxes_without_one():
    """Noise in a third of the boxes: their evidence is negative, that of the others is not."""
    weight = wedge_weight(20, (-50.0, 70.0))
    real, _ = simulated(n=20, count=9, weight=weight, noise=0.5, seed=2)
    empty, _ = simulated(n=20, count=9, weight=weight, noise=0.5, seed=2, phantom={"count": 0})
    volumes = np.stack([(empty if i % 3 == 2 else real).volume(i) for i in range(9)])
    particles = type(real).from_arrays(volumes, weight[None], poses=real.poses)
    found = last_state(particles).assignments
    none = np.arange(9) % 3 == 2
    assert found.log_evidences[~none].min() > found.log_evidences[none].max() + 20.0
    assert found.log_evidences[none].max() < 0.0


def test_evidence_is_against_noise_alone():
    """The likelihood of noise, component by component over the full sphere."""
    n, shell = 16, 5
    weight = wedge_weight(n, (-50.0, 70.0))
    particles, _ = simulated(n=n, count=6, weight=weight, noise=0.4, seed=3)
    config = build_config(
        search=SEARCH | {"max_shift_voxels": 3.0},
        em=EM | {"start": "poses", "iterations": 1, "march": False, "max_shell": shell},
    )
    before, after = EmRun(particles, config).states()
    found = after.assignments
    k = np.fft.fftfreq(n, 1 / n)
    radius = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + k**2).round().astype(int)
    inside = (radius >= 1) & (radius <= shell)
    for i in range(6):
        y = np.fft.fftn(np.fft.ifftshift(particles.volume(i)), norm="ortho")
        seen = inside & (np.abs(y) > 1e-6 * np.abs(y).max())  # what the wedge has left
        variance = before.model.noise_variance[radius[seen]]
        noise = -0.5 * (np.abs(y[seen]) ** 2 / variance + np.log(2 * np.pi * variance)).sum()
        assert found.log_likelihoods[i] - found.log_evidences[i] == pytest.approx(noise, rel=1e-4)


def test_evidence_of_given_poses_is_of_the_average_at_them():
    """Also without an iteration; the pass that makes the average has nothing to compare with."""
    weight = wedge_weight(20, (-50.0, 70.0))
    real, _ = simulated(n=20, count=9, weight=weight, noise=0.5, seed=2)
    empty, _ = simulated(n=20, count=9, weight=weight, noise=0.5, seed=2, phantom={"count": 0})
    volumes = np.stack([(empty if i % 3 == 2 else real).volume(i) for i in range(9)])
    particles = type(real).from_arrays(volumes, weight[None], poses=real.poses)
    config = build_config(
        search=SEARCH | {"max_shift_voxels": 3.0},
        em=EM | {"start": "poses", "iterations": 0, "folds": 3},
    )
    run = EmRun(particles, config)
    (state,) = run.states()
    final = run.finish(state)
    np.testing.assert_array_equal(final.model.volumes, state.model.volumes)
    np.testing.assert_array_equal(final.assignments.rotations, real.poses.rotations)
    none = np.arange(9) % 3 == 2
    found = final.assignments.log_evidences
    assert found[~none].min() > found[none].max() + 20.0


# ------------------------------------------------------------------ outliers


def test_outliers_are_those_far_below_their_own_class():
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1, 2], [30, 30, 5])
    values = rng.normal(size=65) + np.repeat([100.0, 5.0, 50.0], [30, 30, 5])
    values[3] = 60.0  # far below class 0, far above class 1
    values[40] = -20.0
    values[10] = 190.0  # far above is no fault
    values[62] = -500.0  # its class is too small to have a distribution
    assert np.nonzero(outliers(values, classes))[0].tolist() == [3, 40]


def test_equal_evidence_has_no_outliers():
    assert not outliers(np.ones(20), np.zeros(20, dtype=int)).any()


# ------------------------------------------------------------------ duplicates


def naive_duplicates(positions, tomograms, scores, distance):
    kept = []
    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        if all(
            tomograms[i] != tomograms[j] or np.linalg.norm(positions[i] - positions[j]) > distance
            for j in kept
        ):
            kept.append(i)
    return ~np.isin(np.arange(len(scores)), kept)


@pytest.mark.parametrize("seed", range(5))
def test_duplicates_equal_a_greedy_loop(seed):
    rng = np.random.default_rng(seed)
    positions = rng.uniform(0, 50, (80, 3))
    tomograms = rng.integers(0, 3, 80)
    scores = rng.integers(0, 40, 80).astype(float)  # with ties
    found = duplicates(positions, tomograms, scores, 9.0)
    assert 0 < found.sum() < 80
    np.testing.assert_array_equal(found, naive_duplicates(positions, tomograms, scores, 9.0))


def test_a_duplicate_displaces_no_other():
    """Of three in a row the best in the middle goes with neither neighbour's neighbour."""
    positions = np.array([[0.0, 0, 0], [4, 0, 0], [8, 0, 0]])
    row = np.zeros(3, dtype=int)
    assert duplicates(positions, row, np.array([3.0, 2, 1]), 5.0).tolist() == [False, True, False]


# ------------------------------------------------------------------ positions

STAR = """
data_optics

loop_
_rlnOpticsGroup #1
_rlnImagePixelSize #2
{optics_header}
1 {voxel} {optics}

data_particles

loop_
_rlnTomoName #1
_rlnImageName #2
_rlnOpticsGroup #3
_rlnAngleRot #4
_rlnAngleTilt #5
_rlnAnglePsi #6
{header}
{rows}
"""
N, VOXEL = 16, 10.0


def star_file(folder, columns, values, *, pixel=None, count=4):
    """Particles of two tomograms with the given columns; their volumes are the same phantom."""
    folder.mkdir(exist_ok=True)
    weight = wedge_weight(N, (-60.0, 60.0))
    turns = np.broadcast_to(np.eye(3), (count, 3, 3))
    particles, _ = simulated(n=N, count=count, weight=weight, noise=0.3, turns=turns, shifts=0.0)
    for i in range(count):
        write_volume(folder / f"p{i}.mrc", particles.volume(i), VOXEL)
    header = "\n".join(f"_{name} #{i}" for i, name in enumerate(columns, start=7))
    rows = [f"t{i % 2} p{i}.mrc 1 0 0 0 {' '.join(map(str, values[i]))}" for i in range(count)]
    text = STAR.format(
        voxel=VOXEL,
        optics_header="" if pixel is None else "_rlnTomoTiltSeriesPixelSize #3",
        optics="" if pixel is None else pixel,
        header=header,
        rows="\n".join(rows),
    )
    (folder / "in.star").write_text(text)
    return folder / "in.star"


def opened(path, **data):
    config = DataConfig(inputs=(str(path),), tilt_range_deg=(-60.0, 60.0), **data)
    return open_particles(config, 0)


PIXELS = ("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ")
CENTRED = tuple(f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ")
PLACES = np.array([[10.0, 20, 30], [11, 21, 31], [12.5, 20, 30], [50, 60, 70]])
SHIFTS = np.array([[1.0, 0, 0], [0, 2, 0], [0, 0, 0], [-1, -1, 3]])


@pytest.mark.parametrize(
    ("columns", "pixel", "scale"),
    [(PIXELS, None, VOXEL), (PIXELS, 2.5, 2.5), (CENTRED, 2.5, 1.0)],
)
def test_positions_are_coordinates_and_shifts(tmp_path, columns, pixel, scale):
    dataset = opened(star_file(tmp_path / "in", columns, PLACES, pixel=pixel))
    np.testing.assert_allclose(particle_positions(dataset, SHIFTS), PLACES * scale + SHIFTS * VOXEL)


def test_shifts_are_turned_into_the_tomogram(tmp_path):
    """RELION: position = coordinate - A_subtomogram origin, with A = Rz(psi)^T Ry^T Rz(rot)^T."""
    names = tuple(f"rlnTomoSubtomogram{name}" for name in ("Rot", "Tilt", "Psi"))
    angles = (30.0, 50.0, -20.0)
    values = np.concatenate([PLACES, np.tile(angles, (4, 1))], axis=1)
    dataset = opened(star_file(tmp_path / "in", (*PIXELS, *names), values))
    z1, y, z2 = (
        Rotation.from_euler(axis, a, degrees=True) for axis, a in zip("zyz", angles, strict=True)
    )
    frame = (z1 * y * z2).inv().as_matrix()
    np.testing.assert_allclose(
        particle_positions(dataset, SHIFTS), PLACES * VOXEL + SHIFTS @ frame.T * VOXEL
    )


def test_positions_of_a_subset(tmp_path):
    dataset = opened(star_file(tmp_path / "in", PIXELS, PLACES), subset=2)
    found = particle_positions(dataset, np.zeros((2, 3)))
    np.testing.assert_allclose(found, PLACES[dataset.rows] * VOXEL)


def test_run_leaves_duplicates_out(tmp_path):
    """Particles 0 and 2 are 25 Angstrom apart in one tomogram; 1 is near but in another."""
    path = star_file(tmp_path / "in", PIXELS, PLACES)
    chosen = settings(iterations=1, start="poses")
    chosen["data"] |= {"min_distance_angstrom": 40.0}
    result = faml.run(path, tmp_path / "out", **chosen)
    kept = read_star(result.star).particles
    gone = read_star(tmp_path / "out" / "duplicates.star").particles
    assert len(kept) == 3
    assert len(gone) == 1
    both = {"p0.mrc", "p2.mrc"}
    assert {name.rsplit("/", 1)[-1] for name in gone["rlnImageName"]} <= both
    evidence = dict(zip(kept["rlnImageName"], kept["famlLogEvidence"].astype(float), strict=True))
    stays = next(v for name, v in evidence.items() if name.rsplit("/", 1)[-1] in both)
    assert stays >= float(gone["famlLogEvidence"].iloc[0])


def test_distance_without_coordinates_is_said_before_anything_is_written(tmp_path):
    path = star_file(tmp_path / "in", ("rlnMystery",), np.ones((4, 1)))
    chosen = settings()
    chosen["data"] |= {"min_distance_angstrom": 40.0}
    with pytest.raises(InputDataError, match="--min-distance needs coordinates"):
        faml.run(path, tmp_path / "out", **chosen)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputDataError, match="expected a STAR file with coordinates"):
        faml.run(tmp_path / "in" / "p0.mrc", tmp_path / "out", **chosen)


def test_duplicates_of_an_earlier_end_are_not_left_behind(tmp_path):
    path = star_file(tmp_path / "in", PIXELS, PLACES)
    dataset = opened(path)
    found = replace(_results(4), duplicates=np.array([True, False, False, False]))
    write_particles(tmp_path, dataset, found)
    assert (tmp_path / "duplicates.star").exists()
    write_particles(tmp_path, dataset, _results(4))
    assert not (tmp_path / "duplicates.star").exists()


def test_outliers_are_written(tmp_path):
    dataset = opened(star_file(tmp_path / "in", PIXELS, PLACES))
    found = replace(_results(4), outliers=np.array([False, True, False, False]))
    star = write_particles(tmp_path, dataset, found)
    assert read_star(star).particles["famlOutlier"].tolist() == ["0", "1", "0", "0"]


def _results(count):
    return ParticleResults(
        classes=np.zeros(count, dtype=np.int64),
        rotations=np.tile(np.eye(3), (count, 1, 1)),
        translations=np.zeros((count, 3)),
        probabilities=np.ones(count),
        log_likelihoods=np.zeros(count),
        log_evidences=np.arange(count, dtype=float),
        outliers=np.zeros(count, dtype=bool),
        duplicates=np.zeros(count, dtype=bool),
    )
