"""Classes that lose their particles, and classes held alike while they form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from phantoms import DETAILED, simulated
from runs import EM, SEARCH

from faml.config import build_config
from faml.em.loop import EmRun
from faml.em.reseed import reseeded, reseeding, starved
from faml.em.schedule import attraction
from faml.em.start import fixed_assignments
from faml.metrics.fsc import pearson
from faml.metrics.labels import misclassified
from faml.particles import wedge_weight


def assignments(labels, evidences, classes):
    count = len(labels)
    found = fixed_assignments(
        np.asarray(labels), np.tile(np.eye(3), (count, 1, 1)), np.zeros((count, 3)), classes
    )
    return replace(found, log_evidences=np.asarray(evidences, dtype=float))


# ------------------------------------------------------------------ reseeding


def test_when_classes_may_be_reseeded():
    em = build_config(em={"classes": 2, "balance": 5, "exploration": 12}).em
    assert [i for i in range(1, 30) if reseeding(i, em)] == [8, 11]
    assert not any(reseeding(i, em.model_copy(update={"smallest_class": 0.0})) for i in range(30))
    assert not any(reseeding(i, em.model_copy(update={"classes": 1})) for i in range(30))
    assert not any(reseeding(i, em.model_copy(update={"start": "poses"})) for i in range(30))


def test_starved_classes_are_those_below_a_share_of_an_equal_share():
    em = build_config(em={"classes": 4, "smallest_class": 0.2}).em
    found = assignments([0] * 50 + [1] * 44 + [2] * 6, np.zeros(100), 4)
    assert starved(found, em).tolist() == [3]  # 6 % is more than a fifth of a quarter, 0 % is not
    em = em.model_copy(update={"smallest_class": 0.3})
    assert starved(found, em).tolist() == [2, 3]


def test_reseeded_classes_get_the_worst_explained():
    evidences = np.arange(24.0)[::-1]  # the last are the worst
    found = reseeded(assignments([0] * 24, evidences, 3), np.array([1, 2]))
    # Half of an equal share of 8 each, dealt in turn.
    assert found.classes[-8:].tolist() == [2, 1] * 4
    assert (found.classes[:-8] == 0).all()
    np.testing.assert_array_equal(found.class_probabilities, np.eye(3)[found.classes])


def test_a_lost_class_comes_back_with_the_structure_it_should_hold():
    weight = wedge_weight(24, (-50.0, 70.0))
    particles, _ = simulated(
        n=24, count=24, weight=weight, phantom_seeds=(0, 0, 5), noise=0.3, phantom=DETAILED, seed=2
    )
    truth = (np.arange(24) % 3 == 2).astype(int)

    def last(smallest_class):
        def begun(start):
            config = build_config(
                search=SEARCH | {"max_candidates": 12, "max_bandwidth": 10, "keep_previous": 9},
                em=EM | {"start": start, "classes": 2, "iterations": 6, "balance": 0,
                         "exploration": 4, "folds": 1, "smallest_class": smallest_class},
            )  # fmt: skip
            return EmRun(particles, config)

        # A run from nothing that has found the poses.
        first, run = next(begun("poses").states()), begun("random")

        volumes = first.model.volumes.copy()
        volumes[1] = 0.0
        fractions = np.array([1.0 - 1e-6, 1e-6])
        collapsed = replace(first.model, volumes=volumes, class_fractions=fractions)
        *_, state = run.states(replace(first, model=collapsed))
        return misclassified(truth, state.assignments.classes)

    assert last(0.0) == 8
    assert last(0.1) == 0


# ------------------------------------------------------------------ similarity


def test_attraction_falls_to_zero():
    em = build_config(em={"classes": 2, "similarity": 2.0, "exploration": 4}).em
    assert [attraction(i, em) for i in (1, 2, 3, 4, 5, 9)] == [2.0, 1.5, 1.0, 0.5, 0.0, 0.0]
    assert attraction(1, em.model_copy(update={"classes": 1})) == 0.0
    assert attraction(1, em.model_copy(update={"similarity": 0.0})) == 0.0


def test_similarity_draws_averages_together():
    """More so the stronger it is; the mean of all is what they are drawn to."""
    weight = wedge_weight(20, (-50.0, 70.0))
    particles, labels = simulated(
        n=20, count=12, weight=weight, phantom_seeds=(0, 5), noise=0.2, seed=2
    )

    def averages(similarity):
        config = build_config(
            search=SEARCH | {"max_candidates": 12, "max_bandwidth": 10, "max_shift_voxels": 3.0},
            em=EM | {"start": "poses", "classes": 2, "iterations": 1, "similarity": similarity},
        )
        run = EmRun(particles, config)
        first = next(run.states())
        # Begin from the right classes, which a pull must blur.
        known = replace(first.assignments, classes=labels, class_probabilities=np.eye(2)[labels])
        done = run._pass((first.model,), _grid(run, first), _fixed(run), known, 0)
        step = run._maximise(done, first.model, (), (), _grid(run, first), known_poses=True)
        begun = replace(first, model=step.step.model, assignments=done.assignments)
        *_, state = run.states(begun)
        return state.model.volumes

    alike = [pearson(*averages(similarity)) for similarity in (0.0, 1.0, 100.0)]
    assert alike[0] < alike[1] < alike[2]
    assert alike[2] > 0.99


def _grid(run, state):
    from faml.transforms.fourier import fourier_grid

    return fourier_grid(run.particles.box, state.align_shell, 9)


def _fixed(run):
    from faml.em.search import FixedPose

    return FixedPose(run._context)
