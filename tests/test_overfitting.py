"""Random phases beyond a shell, and what half-sets make of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from phantoms import DETAILED, simulated
from runs import EM, SEARCH, settings, write_folder

import faml
from faml.config import build_config
from faml.em.loop import EmRun
from faml.em.overfitting import Overfitting, check_overfitting
from faml.errors import ConfigurationError
from faml.metrics.fsc import fourier_shell_correlation
from faml.particles import wedge_weight
from faml.transforms.fourier import shell_indices

FIRST = 4


def spectra(particles, index):
    volume = particles.volume(index)
    return np.fft.rfftn(volume), shell_indices(volume.shape[0])


@pytest.mark.parametrize("n", [15, 16])
def test_phases_are_random_beyond_a_shell_and_power_stays(n):
    particles, _ = simulated(n=n, count=2, noise=0.3, seed=1)
    changed = particles.with_random_phases(FIRST, 3)
    (before, shells), (after, _) = spectra(particles, 0), spectra(changed, 0)
    kept = shells < FIRST
    scale = np.abs(before).max()
    np.testing.assert_allclose(after[kept], before[kept], atol=1e-5 * scale)
    np.testing.assert_allclose(np.abs(after), np.abs(before), atol=1e-5 * scale)
    fsc = fourier_shell_correlation(particles.volume(0), changed.volume(0))
    assert np.abs(fsc[FIRST:]).max() < 0.3
    # The same each time they are read, and not the same for every particle.
    np.testing.assert_array_equal(changed.volume(0), changed.volume(0))
    twins = replace(changed, source_index=np.array([0, 1]))
    ratio = [np.angle(spectra(twins, i)[0] / spectra(particles, i)[0])[~kept] for i in (0, 1)]
    assert abs(np.corrcoef(*ratio)[0, 1]) < 0.2


def test_half_sets_agree_in_structure_and_not_in_random_phases():
    weight = wedge_weight(20, (-50.0, 70.0))
    particles, _ = simulated(n=20, count=16, weight=weight, noise=0.3, phantom=DETAILED, seed=3)
    config = build_config(
        search=SEARCH | {"max_candidates": 12, "max_bandwidth": 10, "max_shift_voxels": 3.0},
        em=EM | {"start": "poses", "iterations": 2, "half_sets": True},
    )
    run = EmRun(particles, config)
    *_, state = run.states()
    # As if the halves had stopped agreeing at shell 4, where they have not.
    curve = state.fsc.copy()
    assert curve[0, FIRST : FIRST + 3].min() > 0.5
    curve[:, FIRST:] = 0.5
    found = check_overfitting(run, replace(state, fsc=curve))
    assert found.first_shell == FIRST
    assert found.fsc[0, 1 : FIRST - 1].min() > 0.8
    assert abs(found.fsc[0, FIRST + 2]) < 0.25
    assert abs(found.agreement[0]) < 0.143
    assert found.suspicious == ()
    # It goes on for three iterations also where the run has ended for standing still.
    settled = replace(state, fsc=curve, stalled=9, best_log_likelihood=0.0, stop_reason="converged")
    np.testing.assert_array_equal(check_overfitting(run, settled).fsc, found.fsc)


def test_agreement_in_noise_is_suspicious():
    fsc = np.array([[1.0, 1, 0.9, 0.3, 0.3, 0.2, 0.0, 0.0], [1.0, 1, 0.9, 0.1, 0, -0.1, 0.9, 0.9]])
    assert Overfitting(first_shell=1, last_shell=5, fsc=fsc).suspicious == (0,)


def test_nothing_is_left_to_test_where_halves_agree_throughout():
    particles, _ = simulated(n=16, count=8, noise=0.05, shifts=1.0)
    config = build_config(
        search=SEARCH, em=EM | {"start": "poses", "iterations": 0, "half_sets": True}
    )
    run = EmRun(particles, config)
    (state,) = run.states()
    assert check_overfitting(run, replace(state, fsc=np.ones_like(state.fsc))) is None


def test_needs_half_sets():
    with pytest.raises(ConfigurationError, match="--check-overfitting is for half-sets"):
        build_config(em={"check_overfitting": True})
    particles, _ = simulated(n=16, count=4)
    run = EmRun(particles, build_config(search=SEARCH, em={"iterations": 0}))
    (state,) = run.states()
    with pytest.raises(ConfigurationError, match="give --half-sets"):
        check_overfitting(run, state)


def test_run_writes_the_curves(tmp_path):
    folder = write_folder(tmp_path / "in", count=8)
    chosen = settings(iterations=1, half_sets=True, check_overfitting=True)
    faml.run(folder, tmp_path / "out", **chosen)
    lines = (tmp_path / "out" / "overfitting.csv").read_text().splitlines()
    assert lines[0] == "class,shell,fsc,fsc_random_phases"
    assert len(lines) == 1 + 8


def test_agreement_of_random_phases_is_found():
    """The same particles in both halves: what is random in one is as random in the other."""
    weight = wedge_weight(20, (-50.0, 70.0))
    particles, _ = simulated(n=20, count=8, weight=weight, noise=0.3, phantom=DETAILED, seed=3)
    twice = particles.subset(np.tile(np.arange(8), 2))
    twice = replace(
        twice,
        names=tuple(f"p{i}" for i in range(16)),
        tomograms=np.repeat([0, 1], 8),
    )
    config = build_config(
        search=SEARCH | {"max_candidates": 12, "max_bandwidth": 10, "max_shift_voxels": 3.0},
        em=EM | {"start": "poses", "iterations": 1, "half_sets": True, "split_by": "tomogram"},
    )
    run = EmRun(twice, config)
    *_, state = run.states()
    curve = state.fsc.copy()
    curve[:, FIRST:] = 0.5
    found = check_overfitting(run, replace(state, fsc=curve))
    assert found.suspicious == (0,)


def test_nothing_is_left_to_test_beyond_what_was_aligned():
    particles, _ = simulated(n=20, count=8, noise=0.1, shifts=1.0)
    config = build_config(
        search=SEARCH,
        em=EM | {"start": "poses", "iterations": 0, "half_sets": True, "max_shell": 4},
    )
    run = EmRun(particles, config)
    (state,) = run.states()
    curve = np.zeros_like(state.fsc)
    curve[:, :4] = 0.9  # falls within two shells of the last that was aligned
    assert check_overfitting(run, replace(state, fsc=curve)) is None
