"""The search over the whole pose space: kernels, grid, and equality with brute force."""

from __future__ import annotations

import math
from dataclasses import replace

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import particle_at, soft_weight, true_model
from phantoms import simulated
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from scipy.special import logsumexp

from faml.config import SearchConfig
from faml.conventions import rotation_angle_deg
from faml.errors import ConfigurationError
from faml.kernels.phased import keep_best, raise_best
from faml.references import References
from faml.strategies.base import SearchContext
from faml.strategies.phased import PhasedSearch, _coarser
from faml.strategies.pose_grid import PoseGrid, check_affordable, pose_grid
from faml.transforms.fourier import fourier_grid
from faml.transforms.harmonics import shell_transform

SHAPE = (3, 6, 6)


def stream(grids, offsets, base, limit):
    """Values and codes that `keep_best` keeps, and its state."""
    values = np.empty(2 * limit + 2 * SHAPE[2], np.float32)
    codes = np.empty(len(values), np.int64)
    state = np.array([0.0, -np.inf, -np.inf, 0.0])
    for i, (grid, offset) in enumerate(zip(grids, offsets, strict=True)):
        keep_best(grid, base, offset, i * grid.size, limit, values, codes, state)
    count = int(state[0])
    order = np.argsort(-values[:count], kind="stable")[:limit]
    return values[order], codes[order], state


@given(st.integers(0, 10_000), st.integers(1, 40), st.sampled_from([0.1, 3.0, 60.0]))
@settings(max_examples=40)
def test_streaming_keeps_the_best_and_the_mass_of_all(seed, limit, spread):
    rng = np.random.default_rng(seed)
    grids = rng.normal(scale=spread, size=(5, *SHAPE)).astype(np.float32) + 1000.0
    offsets = rng.normal(size=5)
    base = rng.normal(size=SHAPE).astype(np.float32)
    values, codes, state = stream(grids, offsets, base, limit)
    every = (grids + base + offsets[:, None, None, None].astype(np.float32)).ravel()
    best = np.sort(every)[::-1][:limit]
    np.testing.assert_allclose(values, best, rtol=1e-6)
    np.testing.assert_allclose(every[codes], values, rtol=1e-6)
    assert len(set(codes)) == limit
    total = state[2] + math.log(state[3])
    assert total == pytest.approx(logsumexp(every.astype(float)), abs=2e-4)


def test_streaming_fills_up_with_equal_values_in_order():
    grids = np.zeros((3, *SHAPE), np.float32)
    grids[2, 1, 1, 1] = 1.0
    values, codes, _ = stream(grids, np.zeros(3), np.zeros(SHAPE, np.float32), 4)
    assert values.tolist() == [1.0, 0.0, 0.0, 0.0]
    assert codes.tolist() == [2 * 108 + 36 + 6 + 1, 0, 1, 2]


def test_excluded_rotations_are_neither_kept_nor_counted():
    base = np.full(SHAPE, -np.inf, np.float32)
    base[1, 2, 3] = -0.5
    values, codes, state = stream(np.zeros((2, *SHAPE), np.float32), [0.0, 0.25], base, 3)
    assert values.tolist() == [-0.25, -0.5]
    assert codes.tolist() == [108 + 36 + 12 + 3, 36 + 12 + 3]
    assert state[3] == pytest.approx(1 + math.exp(-0.25), rel=1e-5)


def test_the_best_score_of_every_rotation_is_remembered():
    rng = np.random.default_rng(1)
    grids, offsets = rng.normal(size=(7, *SHAPE)).astype(np.float32), rng.normal(size=7)
    best = np.full(SHAPE, -np.inf, np.float32)
    for grid, offset in zip(grids, offsets, strict=True):
        raise_best(grid, offset, best)
    every = grids + offsets[:, None, None, None].astype(np.float32)
    np.testing.assert_allclose(best, every.max(axis=0), rtol=1e-6)


@pytest.mark.parametrize("bandwidth", [5, 8])
def test_shifted_harmonics_are_those_of_the_shifted_spectrum(bandwidth):
    plan = shell_transform(bandwidth)
    rng = np.random.default_rng(2)
    radii = np.arange(1, 5, dtype=np.float32)
    samples = rng.normal(size=(len(plan.directions), 4, 2)).astype(np.float32)
    samples = np.ascontiguousarray(samples).view(np.complex64)[..., 0]
    moves = rng.uniform(-3, 3, (3, 3))
    found = plan.analyse_shifted(samples, radii, moves, 17)
    for move, mine in zip(moves, found, strict=True):
        k = plan.directions[:, None] * radii[:, None]
        moved = (samples * np.exp(2j * np.pi * (k @ move) / 17)).astype(np.complex64)
        expected = plan.analyse_hermitian(moved)
        for l in range(bandwidth + 1):
            np.testing.assert_allclose(
                mine[l, : l + 1], expected[l, : l + 1], atol=2e-5 * np.abs(expected).max()
            )


# ---------------------------------------------------------------- the grid


def small_grid(max_shift=2.0, step=1.0):
    return PoseGrid(shells=4, bandwidth=5, period=12, shift_step_voxels=step,
                    max_shift_voxels=max_shift)  # fmt: skip


def every_cell(grid):
    return grid.cells(np.arange(len(grid.lattice) * math.prod(grid.shape)))


def test_cells_tile_the_pose_space_at_every_level():
    grid = small_grid()
    cells = every_cell(grid)
    volume = len(grid.lattice) * grid.shift_step_voxels**3
    assert np.exp(grid.log_volumes(cells, 0)).sum() == pytest.approx(volume)
    still = cells[: math.prod(grid.shape)]  # at zero shift: none is cut by the radius
    for level in (0, 1):
        parts, parents = grid.halved(still, level)
        assert len(parts) == 64 * len(still)
        assert len(np.unique(parts, axis=0)) == len(parts)
        sums = np.bincount(parents, np.exp(grid.log_volumes(parts, level + 1)))
        np.testing.assert_allclose(sums, np.exp(grid.log_volumes(still, level)), rtol=1e-9)
        still = parts[:40]


def test_halves_lie_around_their_cell():
    grid = small_grid()
    cell = np.array([[0, 6, 4, 2, 0, -2]])  # at a pole
    for level in (0, 1, 2):
        parts, _ = grid.halved(cell, level)
        # The means of the parts are the whole, up to curvature.
        turn = grid.matrices(parts[:, :3], level + 1).mean(axis=0)
        np.testing.assert_allclose(turn, grid.matrices(cell[:, :3], level)[0], atol=0.2 / 4**level)
        move = grid.shifts(parts[:, 3:], level + 1).mean(axis=0)
        np.testing.assert_allclose(move, grid.shifts(cell[:, 3:], level)[0], atol=1e-12)
        cell = parts[:1]


def test_neighbours_are_the_cells_around_also_across_a_pole():
    grid = small_grid()
    every = np.indices(grid.shape).reshape(3, -1).T * np.array([1, 2, 2])
    spacing = np.rad2deg(grid.rotations.spacing_rad)
    for cell in ([0, 4, 22], [3, 0, 0], [5, 10, 6]):
        near = grid.near_rotations(np.array(cell), 0)
        assert {tuple(c) for c in near} <= {tuple(c) for c in every}
        assert tuple(cell) in {tuple(c) for c in near}
        assert len(near) == 27
        angles = rotation_angle_deg(grid.matrices(near, 0), grid.matrices(np.array([cell]), 0)[0])
        assert angles.max() < 2.6 * spacing
    rim = grid.near_shifts(np.array([4, 0, 0]), 0)
    assert np.linalg.norm(grid.shifts(rim, 0), axis=1).max() <= 2.0
    assert [4, 0, 0] in rim.tolist()


def test_level_zero_is_the_grid_of_the_correlation():
    grid = small_grid()
    points = np.arange(math.prod(grid.shape))
    index = np.stack(np.unravel_index(points, grid.shape), axis=1).astype(float)
    expected = Rotation.from_euler("ZYZ", grid.rotations.angles(index)).as_matrix()
    np.testing.assert_allclose(grid.matrices(grid.cells(points)[:, :3], 0), expected, atol=1e-12)


def test_shifts_stay_within_the_radius_and_none_is_lost():
    grid = small_grid(max_shift=1.0)
    assert np.linalg.norm(grid.translations, axis=1).max() <= 1.0
    cells = np.concatenate([np.zeros_like(grid.lattice), 2 * grid.lattice], axis=1)
    halves, parents = grid.halved(cells, 0)
    assert (np.linalg.norm(grid.shifts(halves[:, 3:], 1), axis=1) <= 1.0).all()
    assert set(parents) == set(range(len(cells)))
    still = small_grid(max_shift=0.0)
    alone, _ = still.halved(np.zeros((1, 6), np.int64), 0)
    assert len(alone) == 8
    np.testing.assert_array_equal(alone[:, 3:], 0)


def context(box=14, **search):
    defaults = {"max_shift_voxels": 2.0, "radius_voxels": 0.3 * box, "last_shell": box // 2 - 1}
    given = {name: search.pop(name, value) for name, value in defaults.items()}
    classes = search.pop("classes", 1)
    return SearchContext(config=SearchConfig(**search), box=box, seed=1, classes=classes, **given)


def test_steps_set_by_hand_are_the_grid():
    grid = pose_grid(
        context(64, angular_step_deg=7.5, shift_step_voxels=1.0, max_shift_voxels=5.0), 12
    )
    assert grid.period == 48
    assert grid.bandwidth <= 23
    assert len(grid.lattice) == 515
    padded = pose_grid(context(64, angular_step_deg=3.0), 12)
    assert (padded.period, padded.bandwidth) == (120, pose_grid(context(64), 12).bandwidth)


def test_default_grid_follows_resolution_and_radius():
    coarse, fine = pose_grid(context(64), 6), pose_grid(context(64), 31)
    assert (coarse.shells, fine.shells) == (6, 10)  # a sixth of a diameter of 38 voxels
    assert fine.period > coarse.period
    assert fine.shift_step_voxels == pytest.approx(64 / 30)
    assert pose_grid(context(64, search_shell=20), 31).shells == 20
    assert pose_grid(context(64, search_shell=20), 9).shells == 9
    assert pose_grid(context(64, search_shell=2), 9).shells == 2


def test_grids_that_cannot_be_afforded_are_refused_with_what_can():
    with pytest.raises(ConfigurationError, match=r"--angular-step \d.*--shift-step \d") as raised:
        check_affordable(context(64, angular_step_deg=2.0, shift_step_voxels=0.25,
                                 max_shift_voxels=8.0))  # fmt: skip
    message = str(raised.value)
    assert "CPU seconds per particle" in message
    assert "MB per thread" in message
    step = float(message.split("--shift-step ")[1].split()[0])
    check_affordable(
        context(64, angular_step_deg=2.0, shift_step_voxels=step, max_shift_voxels=8.0)
    )
    with pytest.raises(ConfigurationError, match="MB per thread"):
        check_affordable(context(64, angular_step_deg=0.4, max_shift_voxels=0.0))
    check_affordable(context(64))


# ---------------------------------------------------------------- brute force


def posed_problem(n, noise=0.5):
    particles, _ = simulated(n=n, count=2, noise=noise, weight=soft_weight(n), seed=3)
    grid = fourier_grid(n, 4, 5)
    return particle_at(particles, grid, 1), References(true_model(particles, noise), grid, 6)


@pytest.mark.parametrize("n", [14, 15])
def test_every_pose_equals_the_quadrature_summed_directly(n):
    """All rotations times all shifts of a small grid, CTF^2-like weights, asymmetric wedge."""
    particle, references = posed_problem(n)
    grid = PoseGrid(shells=4, bandwidth=6, period=14, shift_step_voxels=1.0, max_shift_voxels=1.5)
    size = len(grid.lattice) * math.prod(grid.shape)
    found = PhasedSearch(references, grid).best_poses(particle, size)
    assert len(found) == size
    assert found.log_total == pytest.approx(logsumexp(found.log_joint), abs=1e-3)
    direct = naive.phased_log_joint(particle, references, grid)
    cells = {tuple(cell): i for i, cell in enumerate(every_cell(grid))}
    order = [cells[tuple(cell)] for cell in found.cells]
    np.testing.assert_allclose(
        found.log_joint, direct[order], atol=2e-5 * np.abs(direct).max(), rtol=0
    )


def test_scores_are_the_maxima_over_all_shifts():
    particle, references = posed_problem(14)
    grid = PoseGrid(shells=4, bandwidth=6, period=14, shift_step_voxels=1.0, max_shift_voxels=1.5)
    search = PhasedSearch(references, grid)
    scores = search.scores(particle)[0]
    size = len(grid.lattice) * math.prod(grid.shape)
    every = search.best_poses(particle, size)
    joint = every.log_joint - grid.log_volumes(every.cells, 0)
    b, g, a = (every.cells[:, :3] // np.array([1, 2, 2])).T
    highest = np.full(grid.shape, -np.inf)
    np.maximum.at(highest, (b, g, a), joint)
    np.testing.assert_allclose(scores, highest, rtol=1e-4, atol=1e-2)


def test_a_body_centred_lattice_reaches_every_shift_with_fewer_points():
    """As far from the nearest point at most as with the cubic lattice."""
    grids = [
        pose_grid(context(48, max_shift_voxels=6.0), 10, body_centred=body_centred)
        for body_centred in (False, True)
    ]
    rng = np.random.default_rng(2)
    shifts = rng.uniform(-3.0, 3.0, (4000, 3))
    farthest = [cKDTree(grid.translations).query(shifts)[0].max() for grid in grids]
    assert farthest[1] < 1.01 * np.sqrt(0.75) * grids[0].shift_step_voxels
    assert farthest[0] == pytest.approx(farthest[1], rel=0.05)
    assert len(grids[1].translations) < 0.7 * len(grids[0].translations)
    np.testing.assert_array_equal(grids[1].translations[0], 0.0)
    fixed = pose_grid(context(48, shift_step_voxels=2.0), 10, body_centred=True)
    assert not fixed.body_centred


# ---------------------------------------------------------------- shifts ruled out beforehand


def noisy_problem(n=24, noise=2.0, index=1, classes=1):
    """A particle with a shift to 2 voxels whose posterior is broad, and ten shells to search."""
    particles, _ = simulated(n=n, count=3, noise=noise, weight=soft_weight(n), seed=5)
    grid = fourier_grid(n, 10, 11)
    model = true_model(particles, noise, classes, seeds=(0, 4))
    return particle_at(particles, grid, index), References(model, grid, 10)


def searches(references, n=24, **limits):
    """The search as it is, and one that looks at every shift."""
    grid = pose_grid(context(n, max_shift_voxels=4.0, search_shell=9, **limits), 10)
    assert grid.scout is not None
    return PhasedSearch(references, grid), PhasedSearch(references, replace(grid, scout=None))


def looked_at(search, monkeypatch):
    """Shifts whose correlation with all shells is made, class by class."""
    seen = []
    one_by_one = PhasedSearch._correlations

    def counted(self, particle, shifts):
        if self.grid.scout is not None:
            seen.append({k: int(chosen.sum()) for k, chosen in shifts.items()})
        return one_by_one(self, particle, shifts)

    monkeypatch.setattr(PhasedSearch, "_correlations", counted)
    return seen


@pytest.mark.parametrize(("index", "noise"), [(0, 1.0), (1, 2.0), (2, 3.0)])
def test_shifts_that_are_ruled_out_hold_no_mass(index, noise, monkeypatch):
    particle, references = noisy_problem(index=index, noise=noise)
    search, whole = searches(references)
    seen = looked_at(search, monkeypatch)
    found, every = search.best_poses(particle, 200), whole.best_poses(particle, 200)
    assert found.log_total == pytest.approx(every.log_total, abs=1e-3)
    assert (found.cells[0] == every.cells[0]).all()
    assert seen[0][0] < 0.9 * len(search.grid.lattice)
    mine, theirs = search.scores(particle)[0], whole.scores(particle)[0]
    high = theirs > theirs.max() - 8.0
    np.testing.assert_allclose(mine[high], theirs[high], atol=1e-2)


def test_classes_do_not_rule_out_each_others_shifts(monkeypatch):
    """The wrong class is far behind, yet each keeps the shifts that are its own best."""
    particle, references = noisy_problem(noise=0.7, classes=2)
    search, whole = searches(references, classes=2)
    particle = replace(particle, classes=(0, 1))
    seen = looked_at(search, monkeypatch)
    mine, theirs = search.scores(particle), whole.scores(particle)
    for k in (0, 1):
        assert 1 <= seen[0][k] < len(search.grid.lattice)
        assert mine[k].max() == pytest.approx(theirs[k].max(), abs=1e-2)


def test_local_searches_rule_out_by_the_rotations_they_allow():
    """The best shift of all rotations must not hide that of those allowed."""
    particle, references = noisy_problem(noise=0.7)
    search, whole = searches(references)
    best = whole.best_poses(particle, 1).cells[0, :3] // np.array([1, 2, 2])
    far = Rotation.from_quat(search.grid.quaternions[tuple(best)]) * Rotation.from_euler(
        "x", 130, degrees=True
    )
    near = np.abs(search.grid.quaternions @ far.as_quat()) > math.cos(math.radians(10))
    found, every = (each.best_poses(particle, 50, near) for each in (search, whole))
    assert found.log_total == pytest.approx(every.log_total, abs=1e-3)
    np.testing.assert_array_equal(found.cells[0], every.cells[0])


def test_coarser_grids_hold_the_neighbourhood_of_what_is_allowed():
    grid = pose_grid(context(24, search_shell=9), 10)
    rng = np.random.default_rng(4)
    allowed = np.zeros(grid.shape, dtype=bool)
    allowed.reshape(-1)[rng.choice(allowed.size, 60, replace=False)] = True
    coarse = _coarser(allowed, grid.scout.shape)
    assert 0 < coarse.sum() <= 60
    points = grid.scout.quaternions[coarse]
    spacing = grid.scout.rotations.spacing_rad
    for quaternion in grid.quaternions[allowed]:
        nearest = 2.0 * np.arccos(min(1.0, float(np.abs(points @ quaternion).max())))
        assert nearest < 1.5 * spacing


def test_few_shells_rule_nothing_out():
    assert pose_grid(context(24, search_shell=6), 10).scout is None
    grid = pose_grid(context(24, search_shell=9), 10)
    assert grid.scout.shells == 5
    np.testing.assert_array_equal(grid.scout.lattice, grid.lattice)
