"""Several random starts: their ranking, and what a run with them leaves on disk."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
from phantoms import DETAILED, simulated
from runs import EM, SEARCH, assert_states_equal, settings, write_folder
from scipy.spatial.transform import Rotation

import faml
from faml.cli.app import main
from faml.config import build_config
from faml.em.loop import EmRun
from faml.em.start import start_seed
from faml.em.trials import Trials
from faml.errors import ConfigurationError
from faml.io.checkpoint import read_run
from faml.metrics.resample import transform_volume
from faml.particles import wedge_weight

STARTS = {"starts": 3, "start_iterations": 2, "iterations": 4}


def planted(count=12, noise=0.5):
    weight = wedge_weight(24, (-50.0, 70.0))
    return simulated(n=24, count=count, weight=weight, noise=noise, phantom=DETAILED, seed=3)[0]


def configured(**em):
    search = SEARCH | {"max_candidates": 12, "max_bandwidth": 10, "keep_previous": 9}
    return build_config(search=search, em=EM | {"exploration": 2} | STARTS | em)


def test_first_start_is_that_of_a_run_without_others():
    assert start_seed(7, 1) == 7
    assert len({start_seed(7, number) for number in range(1, 50)}) == 49
    assert start_seed(7, 2) != start_seed(8, 2)
    particles = planted()
    config = configured(folds=4)
    trial = Trials(EmRun(particles, config))
    alone = configured(folds=4, starts=1, iterations=2)
    for mine, theirs in zip(trial.states(1), EmRun(particles, alone).states(), strict=True):
        assert_states_equal(mine, theirs)


def test_ranking_prefers_the_true_structure_to_one_that_fits_its_own_noise():
    particles = planted()
    config = configured(folds=4)
    run = EmRun(particles, config)
    trials = Trials(run)
    poses = config.model_copy(
        update={"em": config.em.model_copy(update={"start": "poses", "starts": 1, "iterations": 1})}
    )
    *_, true = EmRun(particles, poses).states()
    *_, first = trials.states(1)
    # A start that has found something else: the mirror images of the true averages, whose hand
    # no rotation changes.
    rng = np.random.default_rng(1)
    wrong = tuple(
        replace(
            model,
            volumes=transform_volume(
                model.volumes[0],
                Rotation.from_quat(rng.normal(size=4)).as_matrix(),
                np.zeros(3),
            )[None, :, ::-1],
        )
        for model in true.fold_models
    )
    shell = min(first.align_shell, true.align_shell)
    good = run.held_out_log_likelihood(true, shell)
    bad = run.held_out_log_likelihood(replace(true, fold_models=wrong), shell)
    assert good > bad + len(particles)


def test_likelihood_is_of_particles_held_out():
    """A particle's own noise in what it is compared to would raise it, and does without folds."""
    particles = planted(count=8)
    config = configured(folds=4)
    *_, state = Trials(EmRun(particles, config)).states(1)
    run = EmRun(particles, config)
    held_out = run.held_out_log_likelihood(state, state.align_shell)
    common = EmRun(particles, configured(folds=1))
    own = common.held_out_log_likelihood(replace(state, fold_models=()), state.align_shell)
    assert own > held_out + len(particles)


def test_best_start_goes_on_and_is_ranked_first():
    trials = Trials(EmRun(planted(), configured(folds=1)))
    seen = []
    ranking = trials.best(on_state=lambda number, state: seen.append((number, state.iteration)))
    assert seen == [(number, i) for number in (1, 2, 3) for i in (0, 1, 2)]
    scores = [each.log_likelihood for each in ranking.starts]
    assert scores == sorted(scores, reverse=True)
    assert sorted(each.number for each in ranking.starts) == [1, 2, 3]
    assert ranking.best.correlation == 1.0
    assert all(-1.0 <= each.correlation < 1.0 for each in ranking.starts[1:])
    assert len(ranking.best.state.fold_models) == 5
    # The run has one common average, so nothing is held out of what it goes on with.
    assert trials.continued(ranking.best.state).references == (ranking.best.state.model,)


def test_a_run_with_folds_goes_on_with_those_of_its_best_start():
    trials = Trials(EmRun(planted(), configured(start_iterations=1, starts=2)))
    state = trials.best().best.state
    assert len(state.fold_models) == 5
    assert trials.continued(state).references == state.fold_models


def test_iterate_goes_on_after_the_starts():
    states = list(faml.iterate(planted(), configured()))
    assert [state.iteration for state in states] == [2, 3, 4]


def test_starts_of_classes_and_half_sets():
    weight = wedge_weight(20, (-60.0, 60.0))
    particles, _ = simulated(n=20, count=12, weight=weight, phantom_seeds=(0, 5), seed=3)
    config = configured(classes=2, half_sets=True, folds=1)
    trials = Trials(EmRun(particles, config))
    ranking = trials.best()
    best = ranking.best.state.assignments.classes
    for each in ranking.starts:
        same = (each.state.assignments.classes == best).all()
        swapped = (each.state.assignments.classes == 1 - best).all()
        assert (each.rand_index == 1.0) == (same or swapped)
    # Five folds in each of two halves: what is compared knows neither particle nor other half.
    assert len(ranking.best.state.fold_models) == 10
    going_on = trials.continued(ranking.best.state)
    assert len(going_on.references) == 2
    *_, last = EmRun(particles, config).states(going_on)
    assert last.iteration == 4


@pytest.mark.parametrize("strategy", ["faml", "exhaustive"])
def test_starts_without_their_symmetry_yet_are_ranked_without_it(strategy):
    """The axes of such averages lie anywhere: only a search of all poses says what they explain."""
    config = configured(symmetry="D3", folds=4, exploration=4)
    search = config.search.model_copy(update={"strategy": strategy, "oversampling": 1})
    config = config.model_copy(update={"search": search})
    run = EmRun(planted(count=8), config)
    *_, state = Trials(run).states(1)
    assert state.symmetry == "C1"
    alone = run.again(
        config.model_copy(update={"em": config.em.model_copy(update={"symmetry": "C1"})})
    )
    shell = state.align_shell
    assert run.held_out_log_likelihood(state, shell) == alone.held_out_log_likelihood(state, shell)


@pytest.mark.parametrize(("half_sets", "count"), [(False, 2), (True, 5)])
def test_too_few_particles_to_hold_any_out(half_sets, count):
    with pytest.raises(ConfigurationError, match="at least 3 particles"):
        Trials(EmRun(planted(count=count), configured(half_sets=half_sets)))


def test_too_few_particles_are_said_before_anything_is_written(tmp_path):
    folder = write_folder(tmp_path / "in", count=2)
    with pytest.raises(ConfigurationError, match="at least 3 particles"):
        faml.run(folder, tmp_path / "out", **settings(**STARTS))
    assert not (tmp_path / "out").exists()


def test_starts_need_a_random_start():
    with pytest.raises(ConfigurationError, match="random orientations only, found --start poses"):
        build_config(em={"starts": 2, "start": "poses"})


def test_run_writes_the_ranking_and_continues_the_best(tmp_path):
    folder = write_folder(tmp_path / "in")
    said = []
    result = faml.run(folder, tmp_path / "out", on_message=said.append, **settings(**STARTS))
    with (tmp_path / "out" / "starts.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["start"] for row in rows) == ["1", "2", "3"]
    assert float(rows[0]["per_particle_below_best"]) == 0.0
    assert said[:3] == ["start 1 of 3", "start 2 of 3", "start 3 of 3"]
    assert f"{rows[0]['start']} is best" in said[3]
    best = tmp_path / "out" / "starts" / f"start_{int(rows[0]['start']):02d}.h5"
    assert best.with_suffix(".png").stat().st_size > 1000
    stored = read_run(tmp_path / "out" / "run.h5")
    assert stored.iterations == (2, 3, 4)
    assert read_run(best).iterations == (2,)
    assert result.state.iteration == 4


def test_interrupted_starts_are_resumed_to_the_same_result(tmp_path):
    folder = write_folder(tmp_path / "in")
    whole = faml.run(folder, tmp_path / "whole", **settings(**STARTS))
    seen = []

    def stop(state, dataset):
        seen.append(state)
        if len(seen) == 5:  # in the middle of the second start
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="continue with: faml resume"):
        faml.run(folder, tmp_path / "out", on_state=stop, **settings(**STARTS))
    again = []
    done = faml.resume(
        tmp_path / "out", on_state=lambda state, _: again.append(state.iteration), threads=2
    )
    assert again[0] == 2  # the second start went on where it was
    assert_states_equal(done.state, whole.state)
    assert (tmp_path / "out" / "starts.csv").read_text() == (
        tmp_path / "whole" / "starts.csv"
    ).read_text()


def test_directory_with_starts_holds_a_run(tmp_path, capsys):
    folder = write_folder(tmp_path / "in")
    with pytest.raises(KeyboardInterrupt):
        faml.run(folder, tmp_path / "out", on_state=_interrupt, **settings(**STARTS))
    with pytest.raises(SystemExit) as raised:
        main(["run", str(folder), "-o", str(tmp_path / "out"), "--tilt-range", "-60", "60"])
    assert raised.value.code == 4
    said = " ".join(capsys.readouterr().err.split())
    assert "holds another run (starts/start_01.h5)" in said


def _interrupt(state, dataset):
    raise KeyboardInterrupt
