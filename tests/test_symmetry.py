"""Point groups, symmetrised sums, and runs of symmetric structures."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from phantoms import blobs, rotations, simulated
from runs import DATA, settings, write_folder
from scipy.spatial.transform import Rotation

import faml
from faml.config import SearchConfig, build_config
from faml.conventions import rotation_angle_deg
from faml.em.expectation import accumulate, posterior
from faml.em.loop import EmRun
from faml.em.maximization import maximise
from faml.em.schedule import measure_changes
from faml.em.start import fixed_assignments
from faml.em.statistics import Statistics
from faml.errors import ConfigurationError
from faml.metrics.align import align_volume
from faml.metrics.fsc import pearson
from faml.metrics.labels import pose_errors_deg
from faml.model import Model
from faml.particles import wedge_weight
from faml.particles.view import ParticleViews, Pose
from faml.references import References
from faml.strategies.base import PoseSupport, SearchContext
from faml.strategies.registry import create_strategy
from faml.symmetry import PointGroup, point_group
from faml.transforms.fourier import (
    NormalOperator,
    fourier_grid,
    full_resolution_shell,
    half_cube_adjoint,
    spectrum_of,
    volume_of,
)
from faml.transforms.symmetrise import symmetrise_components, symmetrise_operator

ORDERS = {
    "C1": 1, "C2": 2, "C7": 7, "D2": 4, "D7": 14, "T": 12, "O": 24, "I": 60, "I1": 60, "I3": 60,
    "I4": 60,
}  # fmt: skip
QUICK = {"search_shell": 5, "max_candidates": 12, "voronoi_samples": 300, "max_shift_voxels": 2.0}


# -------------------------------------------------------------------------------- groups


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_a_group_is_closed_and_has_its_order(name, order):
    group = point_group(name)
    assert group.order == order
    np.testing.assert_array_equal(group.rotations[0], np.eye(3))
    products = (group.rotations[:, None] @ group.rotations[None]).reshape(-1, 3, 3)
    distances = np.abs(products[:, None] - group.rotations[None]).max(axis=(2, 3))
    assert distances.min(axis=1).max() < 1e-9
    turns = np.abs(group.rotations[:, None] - group.rotations[None]).max(axis=(2, 3))
    assert turns[~np.eye(order, dtype=bool)].min(initial=1.0) > 1e-3


@pytest.mark.relion
@pytest.mark.parametrize("name", ["C3", "D2", "D7", "T", "O", "I", "I1", "I2", "I3", "I4"])
def test_axes_are_those_of_relion(name):
    program = shutil.which("relion_refine")
    if program is None:
        pytest.skip("needs relion_refine on the PATH")
    told = subprocess.run(
        [program, "--print_symmetry_ops", "--sym", name], capture_output=True, text=True, check=True
    ).stdout
    number = r"\s+(-?[\d.]+(?:e-?\d+)?)"
    found = re.findall(r"R\(\d+\)=" + 9 * number, told)
    theirs = np.array(found, dtype=float).reshape(-1, 3, 3)
    ours = point_group(name).rotations
    assert len(theirs) == len(ours)
    distances = np.abs(theirs[:, None] - ours[None]).max(axis=(2, 3))
    assert distances.min(axis=0).max() < 1e-4
    assert distances.min(axis=1).max() < 1e-4


def test_axes_lie_where_they_are_said_to():
    def turn(angle, axis):
        axis = np.array(axis) / np.linalg.norm(axis)
        return Rotation.from_rotvec(np.deg2rad(angle) * axis).as_matrix()

    golden = (1 + 5**0.5) / 2
    for name, angle, axis in (
        ("C5", 72, (0, 0, 1)),
        ("D5", 180, (1, 0, 0)),
        ("T", 120, (0, 0, 1)),
        ("T", 180, (0, 2**0.5, 1)),
        ("O", 90, (1, 0, 0)),
        ("O", 90, (0, 0, 1)),
        ("I", 180, (0, 1, 0)),
        ("I", 72, (1, 0, golden)),
        ("I1", 72, (0, 1, golden)),
        ("I3", 72, (0, 0, 1)),
        ("I4", 72, (0, 0, 1)),
    ):
        distances = np.abs(point_group(name).rotations - turn(angle, axis)).max(axis=(1, 2))
        assert distances.min() < 1e-9, (name, angle, axis)


@pytest.mark.parametrize("name", ["", "C0", "D", "E7", "X", "C-2", "C1.5", "I5", "C999", "cyclic"])
def test_unknown_names_are_refused_with_what_exists(name):
    with pytest.raises(ConfigurationError, match=r"symmetry.*expected"):
        point_group(name)


def test_names_in_lower_case_and_synonyms():
    assert point_group("d7").name == "D7"
    assert point_group(" i2 ").name == "I"
    assert build_config(em={"symmetry": "d7"}).em.symmetry == "D7"
    with pytest.raises(ConfigurationError, match=r"em.symmetry: unknown symmetry 'Q'; expected C1"):
        build_config(em={"symmetry": "Q"})


@given(rotations(), st.sampled_from(["C2", "C7", "D3", "T", "O", "I"]))
def test_equivalents_have_one_representative(turn, name):
    group = point_group(name)
    equivalents = turn @ group.rotations
    chosen = group.representatives(equivalents)
    np.testing.assert_allclose(chosen, np.broadcast_to(chosen[0], chosen.shape), atol=1e-9)
    assert group.in_unit(chosen).all()
    assert group.in_unit(equivalents).sum() == 1
    np.testing.assert_allclose(group.angles_deg(turn[None], equivalents[-1:]), 0.0, atol=1e-4)


@given(rotations(), rotations(), st.sampled_from(["C1", "C4", "D2", "T"]))
def test_angles_are_the_smallest_between_equivalents(a, b, name):
    group = point_group(name)
    every = rotation_angle_deg(a[None], b @ group.rotations)
    np.testing.assert_allclose(group.angles_deg(a[None], b[None]), every.min(), atol=1e-6)


def test_the_asymmetric_unit_is_its_share_of_all_rotations():
    rng = np.random.default_rng(1)
    turns = Rotation.random(20_000, random_state=rng).as_matrix()
    for name in ("C3", "D7", "O"):
        group = point_group(name)
        share = group.in_unit(turns).mean()
        assert abs(share * group.order - 1.0) < 5.0 * np.sqrt(group.order / len(turns)), name


def test_a_move_to_an_equivalent_pose_is_no_move():
    group = point_group("C7")
    turns = Rotation.random(5, random_state=2).as_matrix()
    before = fixed_assignments(np.zeros(5, dtype=int), turns, np.zeros((5, 3)), 1)
    after = replace(before, rotations=turns @ group.rotations[3])
    assert measure_changes(before, after, group).median_angle_deg < 1e-4
    assert measure_changes(before, after, point_group("C1")).median_angle_deg > 10.0


# ------------------------------------------------------------------------------ symmetrised sums


def sums_at(particles, grid, group, references):
    """Sums of all particles at their poses' equivalents of a group."""
    sums = Statistics.zeros(1, grid, total=True)
    views = ParticleViews(particles, grid)
    poses = particles.poses
    for i in range(len(particles)):
        for turn in group.rotations:
            pose = Pose(0, poses.rotations[i] @ turn, poses.translations[i])
            accumulate(
                views.particle(i, pose), references, PoseSupport.single(pose), np.zeros(1), sums
            )
    return sums


def blank(grid):
    shells = full_resolution_shell(grid.box) + 1
    return Model(
        volumes=np.zeros((1,) + 3 * (grid.box,), np.float32),
        class_fractions=np.ones(1),
        noise_variance=np.full(shells, 0.2),
        signal_power=np.ones((1, shells)),
        shift_variance=1.0,
    )


def per_shell_error(found, wanted, grid):
    def power(values):
        return np.bincount(grid.shells, grid.multiplicity * np.abs(values) ** 2)[1:]

    return np.sqrt(power(found - wanted) / power(wanted))


@pytest.mark.parametrize(("name", "n"), [("C3", 20), ("D2", 21), ("O", 20), ("T", 21)])
def test_turned_sums_are_sums_at_all_equivalents(name, n):
    group = point_group(name)
    particles, _ = simulated(n=n, count=4, noise=0.2, weight=wedge_weight(n, (-50, 64)), seed=3)
    grid = fourier_grid(n, 6, 8)
    references = References(blank(grid), grid, 4)
    once = sums_at(particles, grid, point_group("C1"), references)
    every = sums_at(particles, grid, group, references)
    operator = NormalOperator(once.denominator[0], grid)
    wanted_operator = NormalOperator(every.denominator[0] / group.order, grid)
    found_operator = symmetrise_operator(operator, group.rotations, grid)
    errors = per_shell_error(found_operator.diagonal, wanted_operator.diagonal, grid)
    # Rotations that take the grid to itself are exact; others are as good as trilinear samples.
    assert errors.max() < (1e-5 if name in ("D2", "O") else 0.05)

    found = symmetrise_components(
        operator.confine(half_cube_adjoint(once.numerator[0], grid)), group.rotations, grid
    )
    wanted = half_cube_adjoint(every.numerator[0], grid) / group.order
    # Where a particle is; near the rim of the ball the turned-back data themselves are poor.
    z, y, x = np.indices((n, n, n)) - n // 2
    inside = (x**2 + y**2 + z**2 < (0.35 * n) ** 2).astype(np.float32)
    found, wanted = (
        grid.take(spectrum_of(volume_of(grid.put(values), n) * inside))
        for values in (found, wanted)
    )
    # Beyond shell 5 of 10 the trilinear samples that turn data back are off by as much.
    assert per_shell_error(found, wanted, grid)[:5].max() < 0.04


def test_a_symmetric_average_has_the_noise_of_all_copies():
    """Prior and solution are those of the data at all equivalents, better than those of one."""
    n, group = 20, point_group("C4")
    particles, _ = simulated(
        n=n, count=6, noise=1.0, seed=4, symmetry=group.rotations, phantom={"count": 4}
    )
    grid = fourier_grid(n, 6, 8)
    old = blank(grid)
    old = replace(old, noise_variance=np.ones_like(old.noise_variance))
    sums = sums_at(particles, grid, point_group("C1"), References(old, grid, 4))
    every = sums_at(particles, grid, group, References(old, grid, 4))
    every.particles, every.class_mass = sums.particles, sums.class_mass
    config = build_config().em
    given = {
        "weight_maximum": 1.0,
        "mask": None,
        "fixed_noise": old.noise_variance,
        "fixed_power": np.full_like(old.signal_power, 10.0),
    }
    found = maximise(sums, old, grid, config, symmetry=group, **given).model.volumes[0]
    wanted = maximise(every, old, grid, config, **given).model.volumes[0]
    # Where particles are: near the rim of the ball turned-back data themselves are poor.
    z, y, x = np.indices((n, n, n)) - n // 2
    assert pearson(found, wanted, x**2 + y**2 + z**2 < (0.35 * n) ** 2) > 0.99
    plain = maximise(sums, old, grid, config, **given).model.volumes[0]
    truth = sum(blobs(n, turn, count=4) for turn in group.rotations)
    assert pearson(found, truth) > pearson(plain, truth) + 0.01


def test_noise_alone_has_no_signal_whatever_the_symmetry():
    """The SSNR of a symmetric average is unbiased: noise is known in all copies and in the ball."""
    n, config = 24, build_config().em
    grid = fourier_grid(n, 8, 10)
    old = replace(blank(grid), noise_variance=np.ones(full_resolution_shell(n) + 1))
    given = {"weight_maximum": 1.0, "mask": None, "fixed_noise": old.noise_variance}
    for name in ("C1", "C3", "D2"):
        found = []
        for seed in range(6):
            particles, _ = simulated(n=n, count=8, noise=1.0, seed=seed, phantom={"count": 0})
            sums = sums_at(particles, grid, point_group("C1"), References(old, grid, 4))
            step = maximise(sums, old, grid, config, symmetry=point_group(name), **given)
            found.append(step.ssnr[0, 3:9])
        # Values below zero are cut off, so the mean of pure noise is a little above it.
        assert np.mean(found) < 0.06, name


# ---------------------------------------------------------------------------------------- runs


def context_of(group, **search):
    return SearchContext(
        config=SearchConfig(**QUICK, **search), box=16, max_shift_voxels=2.0, seed=1,
        radius_voxels=6.0, last_shell=6, classes=1, symmetry=group,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("strategy", "proposal"),
    [("faml", "phase"), ("faml", "amplitude"), ("fa", "phase"), ("exhaustive", "phase")],
)
@pytest.mark.parametrize("name", ["C3", "D2"])
def test_only_the_asymmetric_unit_is_searched(strategy, proposal, name):
    """What is found there is as good as what is found everywhere."""
    group = point_group(name)
    volume = sum(blobs(16, turn, seed=1, count=5) for turn in group.rotations)
    particles, _ = simulated(
        n=16, count=2, noise=0.6, seed=5, weight=wedge_weight(16, (-55, 60)),
        symmetry=group.rotations, phantom={"seed": 1, "count": 5},
    )  # fmt: skip
    grid = fourier_grid(16, 6, 6)
    model = replace(
        blank(grid), volumes=volume[None].astype(np.float32), noise_variance=np.full(8, 0.36)
    )
    references = References(model, grid, 6)
    views = ParticleViews(particles, grid)
    rng = np.random.default_rng(1)
    best = {}
    for label, given_group in (("symmetric", group), ("plain", point_group("C1"))):
        search = create_strategy(
            strategy, context_of(given_group, proposal=proposal, keep_previous=0, oversampling=3)
        )
        for i in range(2):
            pose = Pose(0, particles.poses.rotations[i], particles.poses.translations[i])
            particle = views.particle(i, pose)
            support = search.support(particle, references, rng)
            if label == "symmetric" and strategy != "exhaustive":
                assert group.in_unit(support.rotations).all()
                assert len(support) >= (1 if strategy == "fa" else 2)
            squared = references.squared_residuals(
                particle, support.classes, support.rotations, support.translations
            )
            best[label, i] = squared.min()
    for i in range(2):
        # Distinct candidates only: there may be room for one that is better. Yet where all copies
        # of a peak are tried, one of them lies nearest to a point of the grid.
        assert best["symmetric", i] < best["plain", i] + 8.0


@pytest.mark.parametrize("name", ["C3", "D2"])
def test_the_likelihood_is_that_of_all_rotations(name):
    """Equivalents that are not searched count as much as those that are."""
    group = point_group(name)
    volume = sum(blobs(16, turn, seed=1, count=5) for turn in group.rotations)
    # So noisy that the posterior is broader than the grid.
    particles, _ = simulated(
        n=16, count=3, noise=3.0, seed=5, weight=wedge_weight(16, (-55, 60)),
        symmetry=group.rotations, phantom={"seed": 1, "count": 5},
    )  # fmt: skip
    grid = fourier_grid(16, 4, 4)
    model = replace(
        blank(grid), volumes=volume[None].astype(np.float32), noise_variance=np.full(8, 9.0)
    )
    references = References(model, grid, 6)
    views = ParticleViews(particles, grid)
    found = {}
    for searched in (group, point_group("C1")):
        context = context_of(searched, oversampling=0, max_poses=100_000)
        search = create_strategy("exhaustive", context)
        for i in range(3):
            particle = views.particle(i, Pose(0, np.eye(3), np.zeros(3)))
            support = search.support(particle, references, np.random.default_rng(1))
            found[searched.name, i] = posterior(particle, references, support)[1]
    for i in range(3):
        # A count of equivalents that is wrong by one would be off by 0.2 or more. Cropped to
        # shell 4 the structure fills an even box, whose first plane has no mirror image.
        assert abs(found[name, i] - found["C1", i]) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "name"), [("fa", "C3"), ("faml", "C3"), ("faml", "D2")])
def test_a_symmetric_run_finds_the_structure_and_its_axis(strategy, name):
    """From random orientations; without symmetry r ends between 0.91 and 0.96 here."""
    n, group = 24, point_group(name)
    phantom = {"seed": 2, "count": 5, "spread": 0.22, "sigma": 0.045}
    particles, _ = simulated(
        n=n, count=16, noise=0.3, seed=6, shifts=1.0, weight=wedge_weight(n, (-60, 55)),
        symmetry=group.rotations, phantom=phantom,
    )  # fmt: skip
    config = build_config(
        em={"iterations": 14, "seed": 3, "symmetry": name, "exploration": 7},
        search=QUICK | {"search_shell": 6, "strategy": strategy, "max_candidates": 15},
        threads=2,
    )
    run = EmRun(particles, config)
    *_, state = run.states()
    volume = run.finish(state).model.volumes[0]
    grid = fourier_grid(n, 10, 10)
    spectrum = grid.take(spectrum_of(volume))
    turned = symmetrise_components(spectrum, group.rotations, grid)
    assert per_shell_error(turned, spectrum, grid)[:8].max() < 0.05
    truth = sum(blobs(n, turn, **phantom) for turn in group.rotations)
    assert align_volume(volume, truth, max_shift_voxels=3).correlation > 0.965
    errors = pose_errors_deg(
        state.assignments.rotations, particles.poses.rotations, symmetry=group.rotations
    )
    assert np.median(errors) < 8.0


def test_no_symmetry_changes_nothing():
    """C1 takes the path of runs that know nothing of groups."""
    particles, _ = simulated(n=16, count=5, noise=0.4, seed=8)
    grid = fourier_grid(16, 5, 7)
    old = blank(grid)
    sums = sums_at(particles, grid, point_group("C1"), References(old, grid, 4))
    given = {"weight_maximum": 1.0, "mask": None}
    plain = maximise(sums, old, grid, build_config().em, **given)
    same = maximise(sums, old, grid, build_config().em, symmetry=point_group("C1"), **given)
    np.testing.assert_array_equal(plain.model.volumes, same.model.volumes)


def test_symmetry_on_disk(tmp_path):
    folder = write_folder(tmp_path / "particles", count=5)
    result = faml.run(folder, tmp_path / "out", **settings(iterations=1, symmetry="c2"))
    assert result.config.em.symmetry == "C2"
    assert 'symmetry = "C2"' in (tmp_path / "out" / "config.toml").read_text()
    assert "symmetry C2" in (tmp_path / "out" / "run.log").read_text()
    assert isinstance(point_group(result.config.em.symmetry), PointGroup)
    with pytest.raises(ConfigurationError, match="unknown symmetry 'K9'"):
        faml.run(folder, tmp_path / "other", data=DATA, em={"symmetry": "K9"})
    assert not (tmp_path / "other").exists()
