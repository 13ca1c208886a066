"""Runs at the edges of numbers: wedges, counts, boxes, odd particles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tilt_stacks
from phantoms import blobs
from runs import VOXEL_ANGSTROM, assert_states_equal
from stress import (
    EM,
    SEARCH,
    assert_sound,
    box_of,
    of_volumes,
    strategies,
    volumes_of,
    whole,
)

from faml.config import build_config
from faml.em.loop import EmRun
from faml.errors import ConfigurationError, FamlError, InputDataError
from faml.io.dataset import open_particles
from faml.io.mrc import write_volume
from faml.particles import wedge_weight
from faml.particles.wedge import tilt_angles_weight

# ------------------------------------------------------------------ wedges


@strategies
@pytest.mark.parametrize(
    "weight",
    [
        tilt_angles_weight(12, np.array([20.0])),
        tilt_angles_weight(12, np.array([90.0])),
        tilt_angles_weight(12, np.array([-30.0, 40.0])),
        wedge_weight(12, (3.0, 4.0)),
        wedge_weight(12, (-90.0, 90.0)),
    ],
    ids=["one tilt", "along the beam", "two tilts", "one degree", "all"],
)
def test_wedges_from_a_plane_to_all(weight, strategy):
    found = whole(box_of(12, weight=weight, noise=0.2), strategy)
    assert found.model.volumes.std() < 2.0 * blobs(12).std()


@pytest.mark.parametrize(
    "em",
    [
        {"half_sets": True},
        {"symmetry": "C4", "symmetry_after": 0},
        {"update": "impute", "noise": "scalar", "march": False, "folds": 1},
    ],
    ids=["half-sets", "symmetry", "impute"],
)
def test_one_tilt_with_other_settings(em):
    whole(box_of(12, weight=tilt_angles_weight(12, np.array([20.0])), noise=0.2), **em)


def test_a_tilt_series_of_one_image_is_no_series(tmp_path):
    write_volume(tmp_path / "a.mrc", blobs(12), VOXEL_ANGSTROM)
    (tmp_path / "one.tlt").write_text("12.5\n")
    config = build_config(
        data={"inputs": (str(tmp_path / "a.mrc"),), "tilt_angles_file": str(tmp_path / "one.tlt")}
    )
    with pytest.raises(InputDataError, match="at least two different tilt angles"):
        open_particles(config.data, 0)


def test_stacks_of_one_image(tmp_path):
    """RELION 5's 2-D stacks of which all but one image are hidden."""
    series = tilt_stacks.tomograms()
    made = tilt_stacks.particles(3, series, hide=1.1)
    path = tilt_stacks.write_project(tmp_path, tilt_stacks.Blobs(16), made, series, noise=0.5)
    config = build_config(data={"inputs": (str(path),)})
    whole(open_particles(config.data, 0).particles)


# ------------------------------------------------------------------ counts


@strategies
@pytest.mark.parametrize(
    ("count", "em"),
    [
        (1, {}),
        (2, {}),
        (1, {"symmetry": "D2", "symmetry_after": 0}),
        (1, {"symmetry": "O", "symmetry_after": 1}),
        (1, {"starts": 2, "start_iterations": 1}),
        (1, {"iterations": 0}),
        (3, {"classes": 3}),
        (4, {"half_sets": True, "classes": 2}),
        (4, {"folds": 4, "chunk_size": 100}),
        (2, {"start": "average", "update": "impute", "noise": "scalar", "folds": 1}),
    ],
    ids=lambda value: value if isinstance(value, int) else " ".join(value) or "plain",
)  # fmt: skip
def test_few_particles(count, em, strategy):
    whole(box_of(12, count=count), strategy, **em)


def test_more_threads_than_particles():
    particles = box_of(12, count=2)
    runs = (EmRun(particles, build_config(search=SEARCH, em=EM, threads=n)) for n in (1, 8))
    one, many = (list(run.states())[-1] for run in runs)
    assert_states_equal(one, many)


@pytest.mark.parametrize(
    ("count", "em", "message"),
    [
        (2, {"classes": 3}, "at most as many classes as particles, found 3 classes for 2"),
        (3, {"half_sets": True}, "half-sets need at least 4 particles, found 3"),
        (2, {"folds": 5}, "at most as many folds as particles, found 5 folds for 2"),
    ],
)
def test_too_few_particles(count, em, message):
    with pytest.raises(ConfigurationError, match=message):
        whole(box_of(12, count=count), **em)


# ------------------------------------------------------------------ boxes


@strategies
@pytest.mark.parametrize("n", [5, 8, 9, 15, 16, 17])
def test_boxes(n, strategy):
    found = whole(box_of(n, count=3), strategy)
    assert found.model.volumes.shape == (1, n, n, n)


def test_a_box_of_33():
    whole(box_of(33, count=2), search={"max_candidates": 3})


@pytest.mark.parametrize("n", [3, 4])
def test_boxes_without_shells(n):
    with pytest.raises(InputDataError, match=f"boxes of at least 5 voxels, found {n}"):
        whole(box_of(n, count=3))


@pytest.mark.slow
def test_a_large_box_of_prime_edge():
    n = 197
    rng = np.random.default_rng(0)
    volumes = rng.standard_normal((2, n, n, n), dtype=np.float32)
    volumes[:, 80:104, 85:109, 90:114] += 5 * blobs(24)
    config = build_config(
        search=SEARCH | {"max_shift_voxels": 10.0}, em=EM | {"iterations": 1, "max_shell": 5}
    )
    states = list(EmRun(of_volumes(volumes), config).states())
    assert len(states) == 2
    for state in states:
        assert_sound(state)


# ------------------------------------------------------------------ odd particles


@strategies
@pytest.mark.parametrize("odd", ["zero", "hot", "large", "tiny", "all zero", "all tiny"])
def test_odd_particles_in_memory(odd, strategy):
    """Where no file's check has seen them."""
    volumes = volumes_of(box_of(12, count=5))
    one = volumes[2]
    if odd == "zero":
        one[:] = 0.0
    elif odd == "hot":
        one[6, 6, 6] = 1e6
    elif odd == "large":
        one *= 1e4
    elif odd == "tiny":
        one *= np.float32(1e-40)
    else:
        volumes *= np.float32(0.0 if odd == "all zero" else 1e-40)
    whole(of_volumes(volumes), strategy, classes=2)


@strategies
@pytest.mark.parametrize("em", [{"classes": 2}, {"half_sets": True}, {"symmetry": "C3"},
                                {"mask": "auto", "exploration": 0}])  # fmt: skip
def test_pure_noise(em, strategy):
    rng = np.random.default_rng(0)
    found = whole(of_volumes(rng.normal(size=(5, 12, 12, 12))), strategy, **em)
    # The mean of five boxes of noise has a deviation of 0.45; a prior makes it less.
    assert found.model.volumes.std() < 0.45


@strategies
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_identical_particles(noise, strategy):
    """Without noise nothing hides that the normal operator is an approximation."""
    truth = blobs(12)
    volume = truth + np.random.default_rng(1).normal(scale=noise, size=truth.shape)
    run = EmRun(
        of_volumes(np.repeat(volume[None], 5, axis=0)),
        build_config(search=SEARCH | {"strategy": strategy}, em=EM | {"iterations": 6}),
    )
    states = list(run.states())
    for state in (*states, run.finish(states[-1])):
        assert_sound(state)
        assert state.model.volumes.std() < 1.5 * volume.std()
    assert states[-1].model.volumes.std() > 0.5 * truth.std()


@strategies
def test_a_class_without_fraction_and_a_hopeless_particle(strategy):
    volumes = volumes_of(box_of(12, count=6))
    volumes[4] = 100.0 * np.random.default_rng(0).normal(size=volumes[4].shape)
    particles = of_volumes(volumes)
    config = build_config(
        search=SEARCH | {"strategy": strategy},
        em=EM | {"classes": 2, "balance": 0, "smallest_class": 0.0},
    )
    run = EmRun(particles, config)
    first = next(run.states())
    gone = np.array([1.0, 0.0])
    begun = replace(
        first,
        model=replace(first.model, class_fractions=gone),
        fold_models=tuple(replace(each, class_fractions=gone) for each in first.fold_models),
    )
    states = list(run.states(begun))
    for state in (*states, run.finish(states[-1])):
        assert_sound(state)
    # Later it has a millionth, by which an empty class may come back.
    assert (states[0].assignments.classes == 0).all()
    assert states[0].empty_classes == (1,)
    likelihoods = states[0].assignments.log_likelihoods
    assert likelihoods[4] < np.delete(likelihoods, 4).min() - 1000.0  # exp(-746) is zero


def test_an_average_is_refused_where_nothing_is_finite():
    volumes = volumes_of(box_of(12, count=3))
    volumes[1, 0, 0, 0] = np.nan
    with pytest.raises(FamlError, match="found NaN or Inf in the volume"):
        whole(of_volumes(volumes))
