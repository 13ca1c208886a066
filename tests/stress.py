"""Whole runs of which every state is looked at; for tests at the edges of numbers."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from phantoms import simulated

from faml.config import build_config
from faml.em.loop import EmRun
from faml.particles import ParticleSet, wedge_weight

TILTS = (-40.0, 60.0)
STRATEGIES = ("fa", "faml", "exhaustive")
SEARCH = {"search_shell": 5, "max_candidates": 6, "voronoi_samples": 200, "max_bandwidth": 6,
          "keep_previous": 3}  # fmt: skip
EM = {"iterations": 2, "seed": 4, "chunk_size": 2}

strategies = pytest.mark.parametrize("strategy", STRATEGIES)


def box_of(n, count=4, weight=None, **options):
    """Particles with random rotations and shifts, behind an asymmetric wedge."""
    weight = wedge_weight(n, TILTS) if weight is None else weight
    options = {"noise": 0.3, "seed": 2} | options
    return simulated(n=n, count=count, weight=weight, **options)[0]


def of_volumes(volumes):
    volumes = np.asarray(volumes, dtype=np.float32)
    return ParticleSet.from_arrays(volumes, wedge_weight(volumes.shape[-1], TILTS)[None])


def volumes_of(particles):
    return np.stack([particles.volume(i) for i in range(len(particles))])


def assert_sound(state):
    """Nothing that is not finite, and what must sum to one does."""
    for model in (state.model, *state.fold_models, *state.half_models):
        for field in fields(model):
            assert np.isfinite(getattr(model, field.name)).all(), field.name
        assert (model.noise_variance > 0).all()
        assert (model.signal_power >= 0).all()
        assert model.class_fractions.sum() == pytest.approx(1.0)
    found = state.assignments
    for field in fields(found):
        assert np.isfinite(getattr(found, field.name)).all(), field.name
    np.testing.assert_allclose(found.class_probabilities.sum(axis=1), 1.0, atol=1e-9)
    assert np.isfinite(state.log_likelihood)
    assert np.isfinite(state.ssnr).all()
    assert state.fsc is None or np.isfinite(state.fsc).all()


def whole(particles, strategy="faml", begun=None, search=None, **em):
    """All iterations and the last pass, each of them sound; the last state."""
    config = build_config(
        search=SEARCH | {"strategy": strategy} | (search or {}),
        em=EM | em, data={"tilt_range_deg": TILTS},
    )  # fmt: skip
    run = EmRun(particles, config)
    last = begun
    for last in run.states(begun):
        assert_sound(last)
    last = run.finish(last)
    assert_sound(last)
    return last
