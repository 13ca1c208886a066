"""Experiments: what follows from a file, what is run, and what is made of the results."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from phantoms import DETAILED, blobs

from faml.cli.app import main
from faml.compare.campaign import Failure, jobs_that_fit, missing, results, run_tasks
from faml.compare.experiment import read_experiment
from faml.compare.page import results_page, section_of, summary
from faml.compare.pictures import draw_pictures
from faml.compare.table import tidy, write_tables
from faml.compare.work import carry_out, make_data
from faml.errors import FamlError, InputDataError, OutputError
from faml.io.lock import only_one
from faml.io.mrc import write_volume

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
VOXEL = 6.0
TEXT = """
title = "Two ways"
section = "3.0"
seeds = [1, 2]
symmetries = ["C1"]
paper = [{ method = "FAML", r = 0.5 }]

[data]
models = ["model.mrc"]
counts = [4]
box = 20
voxel_size_angstrom = 6.0
max_shift_voxels = 1.0

[sweep]
snr = [0.5, 0.2]

[methods.faml]
em = { iterations = 1, folds = 1 }
search = { max_shift_voxels = 2.0, max_candidates = 5 }

[methods.oracle]
kind = "oracle"
only = { snr = [0.5] }

[quick]
seeds = [1]

[quick.sweep]
snr = [0.5]
"""


@pytest.fixture
def experiment(tmp_path):
    write_volume(tmp_path / "model.mrc", blobs(20, seed=4, **DETAILED), VOXEL)
    (tmp_path / "ways.toml").write_text(TEXT)
    return tmp_path / "ways.toml"


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["compare", *map(str, arguments)])
    out, err = capsys.readouterr()
    return ended.value.code, out, err


# ------------------------------------------------------------------------------------ experiments


def test_all_combinations_are_run_and_no_others(experiment):
    what, tasks = read_experiment(experiment)
    assert what.title == "Two ways"
    assert len(tasks) == 2 * 2 + 2
    assert [t.name for t in tasks].count("oracle") == 2
    assert len({t.key for t in tasks}) == 6
    assert len({t.data.key for t in tasks}) == 4
    assert tasks[0].data.simulation.seed == 1


def test_quick_variant_replaces_what_it_says(experiment):
    _, tasks = read_experiment(experiment, quick=True)
    assert [(t.name, t.data.simulation.seed) for t in tasks] == [("faml", 1), ("oracle", 1)]


def test_keys_change_with_what_makes_a_result(experiment):
    before = [t.key for t in read_experiment(experiment)[1]]
    assert before == [t.key for t in read_experiment(experiment)[1]]
    experiment.write_text(TEXT.replace("max_candidates = 5", "max_candidates = 6"))
    method = [t.key for t in read_experiment(experiment)[1]]
    assert [a == b for a, b in zip(before, method, strict=True)] == [
        "faml" not in key for key in before
    ]
    experiment.write_text(TEXT)
    write_volume(experiment.parent / "model.mrc", blobs(20, seed=5, **DETAILED), VOXEL)
    model = [t.key for t in read_experiment(experiment)[1]]
    assert not set(before) & set(model)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds = [1, 2]", "seeds = []", "seeds"),
        ("[data]", "[data]\nseed = 3", "give `seeds`"),
        ('title = "Two ways"', "title = ", "not valid TOML"),
        ("box = 20", "boks = 20", "boks"),
        ('["C1"]', '["X9"]', "X9"),
        ('["C1"]', '["C1", "C1"]', "one per model"),
        ("max_candidates = 5", "candidates = 5", "method faml: unknown setting search.candidates"),
        ('kind = "oracle"', 'kind = "oracle"\nminutes = 3', "minutes does not belong"),
        ("only = { snr", "only = { angle", "does not vary"),
        ('kind = "oracle"', 'kind = "oracle"\nweights = "wedge"', "weights does not belong"),
        ("snr = [0.5, 0.2]", "snr = []", "not empty"),
        ("snr = [0.5, 0.2]", "snr = [0.5, -1.0]", "above 0, found -1"),
        ("snr = [0.5, 0.2]", "snr = [0.5, 0.5]", "found faml, snr 0.5, seed 1 twice"),
        ("seeds = [1, 2]", "seeds = [1, 1]", "twice"),
        ("only = { snr = [0.5] }", "only = { snr = [0.4] }", "leaves nothing"),
        ("folds = 1 }", "folds = 1, seed = 3 }", "are the experiment's"),
        ("search = {", "iterations = 5\nsearch = {", "iterations does not belong"),
        ("[methods.faml]", '[methods."a/b"]', "should match pattern"),
        ("[sweep]", "[[cases]]\nbox = 24\n[sweep]", "cases.0.name"),
        ("[sweep]", '[[cases]]\nname = "a"\n[[cases]]\nname = "a"\n[sweep]', "name of its own"),
        ("max_shift_voxels = 1.0", "max_shift_voxels = 1.0\ncounts = [0]", "not valid TOML"),
    ],
)
def test_wrong_experiments_are_refused_at_once(experiment, old, new, message, capsys):
    assert TEXT.count(old) >= 1
    experiment.write_text(TEXT.replace(old, new, 1))
    code, _, err = call(capsys, experiment)
    assert code == 2
    assert message in err
    assert "ways.toml" in err
    assert not (experiment.parent / "results").exists()


def test_missing_files_are_named(experiment, capsys):
    (experiment.parent / "model.mrc").unlink()
    code, _, err = call(capsys, experiment)
    assert code == 3
    assert "model.mrc" in err
    code, _, err = call(capsys, experiment.parent / "none.toml")
    assert code == 3
    assert "none.toml" in err


def test_unknown_methods_and_seeds_are_refused(experiment, capsys):
    assert call(capsys, experiment, "--method", "fa")[0] == 2
    code, _, err = call(capsys, experiment, "--seed", 7)
    assert code == 2
    assert "expected seeds of these experiments, 1, 2, found 7" in err


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.toml")), ids=lambda p: p.stem)
@pytest.mark.parametrize("quick", [False, True])
def test_shipped_experiments_are_whole(path, quick):
    experiment, tasks = read_experiment(path, quick=quick)
    assert experiment.about
    assert {t.name for t in tasks} == set(experiment.methods)
    assert len({t.key for t in tasks}) == len(tasks)


def test_as_many_runs_as_fit(experiment):
    _, tasks = read_experiment(experiment)
    assert jobs_that_fit(tasks, 1) == 1
    assert jobs_that_fit(tasks, 2) == 2
    assert jobs_that_fit([], 3) == 1


@pytest.mark.slow
def test_a_shipped_experiment_runs(tmp_path, capsys):
    path = EXPERIMENTS / "ctf.toml"
    chosen = ["--method", "without-weights", "--method", "oracle"]
    code, _, err = call(capsys, path, "--quick", *chosen, "-o", tmp_path)
    assert (code, err) == (0, "")
    table = pd.read_csv(tmp_path / "ctf-quick" / "table.csv")
    assert set(table["method"]) == {"without-weights", "oracle"}
    assert (table["r"] > 0.3).all()


# ------------------------------------------------------------------------------------------- runs


def test_runs_are_kept_and_not_repeated(experiment, capsys):
    """Every run is a process of its own."""
    code, out, err = call(capsys, experiment, "--seed", 1, "--method", "faml", "--jobs", 2)
    assert (code, err) == (0, "")
    assert "2 of 2 runs to do" in out
    directory = experiment.parent / "results" / "ways"
    assert not (directory / "work").exists()
    assert {p.name for p in directory.glob("*.png")} == {"quality.png", "fsc.png", "time.png"}
    rows = sorted((directory / "rows").iterdir())
    assert len(rows) == 2
    before = [row.read_bytes() for row in rows]
    page = experiment.parent / "page.md"
    code, out, err = call(capsys, experiment, "--seed", 1, "--method", "faml", "--page", page)
    assert (code, err) == (0, "")
    assert "to do" not in out
    assert [row.read_bytes() for row in rows] == before
    table = pd.read_csv(directory / "table.csv")
    assert list(table["method"]) == ["faml", "faml"]
    assert (table["r"] > 0.2).all()
    assert {"stage_candidates", "stage_averages", "memory_mb", "cpu_s"} <= set(table)
    text = page.read_text()
    assert "1 of 2" in text
    assert "| FAML | 0.5 |" in text


def test_oracle_is_the_average_at_the_true_poses(experiment, tmp_path):
    _, tasks = read_experiment(experiment)
    task = next(t for t in tasks if t.name == "oracle")
    make_data(task, tmp_path / "data")
    found = carry_out(task, tmp_path / "data", tmp_path / "scratch")
    (each,) = found["classes"]
    assert each["median_error_deg"] < 0.01
    assert each["r"] > 0.7
    assert not (tmp_path / "scratch").exists()
    json.dumps(found)


def test_failures_are_told_and_tried_again(experiment, tmp_path):
    _, tasks = read_experiment(experiment, quick=True)
    (experiment.parent / "model.mrc").write_bytes(b"nothing")
    told = []
    failures = run_tasks(tasks, tmp_path / "out", jobs=1, on_done=lambda *what: told.append(what))
    assert [f.exit_code for f in failures] == [3, 3]
    assert all("model.mrc" in f.message for f in failures)
    assert all(isinstance(outcome, Failure) for _, outcome in told)
    assert len(missing(tasks, tmp_path / "out")) == 2


def test_a_run_that_breaks_keeps_no_other_from_its_end(experiment, tmp_path, monkeypatch):
    """A program that runs but leaves nothing that can be read, and then a run that works."""
    program = tmp_path / "bin" / "relion_refine"
    program.parent.mkdir()
    program.write_text("#!/nowhere/at/all\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    experiment.write_text(TEXT + '[methods.relion]\nkind = "relion"\n')
    _, tasks = read_experiment(experiment, quick=True)
    chosen = [t for t in tasks if t.name != "faml"]
    failures = run_tasks(chosen, tmp_path / "out", jobs=1, on_done=lambda *what: None)
    (failure,) = failures
    assert "FileNotFoundError" in failure.message
    assert failure.exit_code == 1
    assert [t.name for t in missing(chosen, tmp_path / "out")] == ["relion"]


def test_two_commands_in_one_directory_are_one_too_many(experiment, tmp_path):
    _, tasks = read_experiment(experiment, quick=True)
    (tmp_path / "work").mkdir()
    with (
        only_one(tmp_path / "work"),
        pytest.raises(OutputError, match=f"another faml .process {os.getpid()} on"),
    ):
        run_tasks(tasks, tmp_path, jobs=1, on_done=lambda *what: None)


def test_places_that_cannot_be_written_are_named_before_any_run(experiment, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    code, _, err = call(capsys, experiment, "--page", tmp_path / "file" / "page.md")
    assert code == 4
    assert "give another --page" in err
    assert not (tmp_path / "results").exists()
    code, _, err = call(capsys, experiment, "-o", tmp_path / "file")
    assert code == 4
    assert "choose another with --output" in err


def test_titles_are_no_markup_and_nothing_run_is_said(experiment, capsys):
    experiment.write_text(TEXT.replace("Two ways", "Two [/b] ways"))
    code, out, err = call(capsys, experiment, "--tables-only")
    assert (code, err) == (0, "")
    assert "Two [/b] ways: no results in" in out


def test_a_result_that_is_none_is_named(experiment, tmp_path):
    _, tasks = read_experiment(experiment, quick=True)
    row = tmp_path / "rows" / f"{tasks[0].key}.json"
    row.parent.mkdir()
    row.write_text("{")
    with pytest.raises(FamlError, match=r"faml-seed1.*remove it"):
        results(tasks, tmp_path)


# ----------------------------------------------------------------------------------------- RELION

FAKE = """#!/bin/sh
if [ "$1" = "--version" ]; then echo "RELION version: 3.1.3"; exit; fi
while [ $# -gt 0 ]; do
  case "$1" in --o) out=$2;; --slow) slow=1;; esac
  shift
done
if [ -n "$slow" ]; then touch "${out}_it_begun"; exec sleep 6071; fi
for it in 000 001 002; do
  cp MAP "${out}_it${it}_class001.mrc"
  cp RESULT "${out}_it${it}_data.star"
done
rm "${out}_it002_class001.mrc"
echo "ERROR: zero sum of weights"
exit 1
"""


@pytest.fixture
def fake_relion(experiment, tmp_path, monkeypatch):
    """A program that ends with an error in its second iteration."""
    _, tasks = read_experiment(experiment, quick=True)
    oracle = next(t for t in tasks if t.name == "oracle")
    data = tmp_path / "data"
    make_data(oracle, data)
    star = (data / "particles.star").read_text().replace("famlTrue", "rln")
    (tmp_path / "result.star").write_text(star)
    text = FAKE.replace("MAP", str(data / "truth" / "class_001.mrc"))
    text = text.replace("RESULT", str(tmp_path / "result.star"))
    program = tmp_path / "bin" / "relion_refine"
    program.parent.mkdir()
    program.write_text(text)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    experiment.write_text(TEXT + '[methods.relion]\nkind = "relion"\nminutes = 1\n')
    _, tasks = read_experiment(experiment, quick=True)
    return next(t for t in tasks if t.name == "relion"), data


def test_what_relion_has_reached_counts(fake_relion, tmp_path):
    task, data = fake_relion
    found = carry_out(task, data, tmp_path / "scratch")
    assert found["cost"]["status"] == "failed with code 1: ERROR: zero sum of weights"
    assert found["cost"]["iterations"] == 1
    assert found["cost"]["relion_version"] == "3.1.3"
    assert found["classes"][0]["r"] > 0.99
    assert found["classes"][0]["median_error_deg"] < 0.01


def test_relion_is_stopped_when_its_time_is_over(fake_relion, tmp_path):
    task, data = fake_relion
    method = task.method.model_copy(update={"arguments": ("--slow",), "minutes": 0.01})
    slow = type(task)(**{**task.__dict__, "method": method})
    found = carry_out(slow, data, tmp_path / "scratch")
    assert found["cost"]["status"] == "stopped after 0.01 minutes"
    assert found["cost"]["iterations"] == 0
    assert "classes" not in found
    assert tidy([(slow, found)]).shape[0] == 1


def test_without_relion_its_rows_are_left_out(experiment, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    experiment.write_text(TEXT + '[methods.relion]\nkind = "relion"\n')
    code, out, err = call(capsys, experiment, "--method", "relion")
    assert (code, err) == (0, "")
    assert "relion_refine is not on the PATH" in out


def test_weights_may_be_kept_from_a_method(experiment, tmp_path):
    """CTF^2 volumes are there; without them particles are read as if behind a plain wedge."""
    series = 'noise = "tilt-series"\ntilt_step_deg = 6.0\ndefocus_um = [4.0]\n[sweep]'
    text = TEXT.replace("[sweep]", series).replace("snr = [0.5]", "snr = [5.0]")
    text = text.replace("box = 20", 'box = 20\ntilt_axis = "x"')
    text = text.replace("snr = [0.5, 0.2]", "snr = [5.0]")
    text += '[methods.blind]\nweights = "wedge"\nem = { start = "poses", iterations = 0 }\n'
    experiment.write_text(text)
    _, tasks = read_experiment(experiment, quick=True)
    oracle, blind = (next(t for t in tasks if t.name == name) for name in ("oracle", "blind"))
    make_data(oracle, tmp_path / "data")
    best = carry_out(oracle, tmp_path / "data", tmp_path / "a")
    # Poses are the true ones: what is worse is worse for want of weights.
    star = tmp_path / "data" / "particles.star"
    (tmp_path / "data" / "oracle_1.star").replace(star)
    found = carry_out(blind, tmp_path / "data", tmp_path / "b")
    assert found["classes"][0]["r"] < best["classes"][0]["r"] - 0.02


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_what_is_done_and_ends_what_is_not(fake_relion, experiment, number):
    """RELION's process, too."""
    text = experiment.read_text().replace("minutes = 1", 'arguments = ["--slow"]')
    experiment.write_text(text)
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from faml.cli.app import main; main()"
    )
    command = ["compare", str(experiment), "--quick", "--jobs", "1", "--method", "oracle"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *command, "--method", "relion"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    work = experiment.parent / "results" / "ways-quick" / "work"
    while not list(work.glob("relion*/found/run_it_begun")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "1 of 2 runs are done and kept; the same command goes on" in err
    assert "Traceback" not in err
    assert len(list((work.parent / "rows").iterdir())) == 1
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert "sleep 6071" not in left.stdout


# ---------------------------------------------------------------------------- tables and pictures


def invented(tasks, classes=1):
    """Results that no run has made."""
    rng = np.random.default_rng(0)
    found = []
    for task in tasks:
        each = [
            {
                "structure": k + 1, "class": k + 1, "particles": 4, "r": float(rng.uniform(0.5, 1)),
                "median_error_deg": 1.0, "f1": 0.5, "fsc": [1.0, 0.9, 0.3],
                "resolution_fsc_0.5_angstrom": None,
            }
            for k in range(classes)
        ]  # fmt: skip
        found.append(
            (
                task,
                {
                    "made_with": {"faml_version": "1", "machine": "a"},
                    "cost": {
                        "wall_s": 1.0, "cpu_s": 2.0, "iterations": 3, "status": "converged",
                        "stages": {"candidates": 1.0, "averages": 0.5},
                    },
                    "classes": each,
                    "confusion": (4 * np.eye(classes, dtype=int)).tolist(),
                    "misclassified": 0,
                    "adjusted_rand_index": 1.0,
                },
            )
        )  # fmt: skip
    return found


def test_the_table_is_tidy_and_hdf5_has_the_curves(experiment, tmp_path):
    _, tasks = read_experiment(experiment)
    found = invented(tasks, classes=2)
    table = write_tables(found, tmp_path)
    assert len(table) == 2 * len(tasks)
    again = pd.read_csv(tmp_path / "table.csv")
    np.testing.assert_allclose(again["r"], table["r"])
    with h5py.File(tmp_path / "table.h5") as file:
        np.testing.assert_allclose(file["table/r"], table["r"])
        assert file["table/method"].asstr()[0] == table["method"][0]
        assert file["fsc"].shape == (len(table), 3)
    before = (tmp_path / "table.csv").read_bytes()
    write_tables(found, tmp_path)
    assert (tmp_path / "table.csv").read_bytes() == before


def test_seeds_are_summed_up_by_mean_and_worst(experiment):
    what, tasks = read_experiment(experiment)
    found = invented(tasks)
    table = tidy(found)
    shown = summary(table, list(what.sweep), 2)
    assert list(shown["method"]) == ["faml", "oracle", "faml"]
    assert list(shown["seeds"]) == ["2", "2", "2"]
    mine = table[(table["method"] == "faml") & (table["snr"] == 0.2)]["r"]
    assert shown["r mean"][2] == f"{mine.mean():.3f}"
    assert shown["r worst"][2] == f"{mine.min():.3f}"
    assert "F1 mean" not in shown  # one structure
    assert "Å at FSC 0.5" not in shown  # none has reached it
    assert list(summary(table[:1], list(what.sweep), 2)["seeds"]) == ["1 of 2"]


def test_two_structures_have_rows_and_classes_of_their_own(experiment, tmp_path):
    what, tasks = read_experiment(experiment, quick=True)
    found = invented(tasks, classes=2)
    table = tidy(found)
    shown = summary(table, list(what.sweep), 1)
    assert list(shown["structure"]) == ["1", "2", "1", "2"]
    assert "F1 mean" in shown
    pictures = draw_pictures(found, table, list(what.sweep), tmp_path)
    assert [p.name for p in pictures] == ["quality.png", "fsc.png", "time.png", "confusion.png"]
    assert all(p.stat().st_size > 1000 for p in pictures)


def test_the_page_says_what_was_not_run_and_what_failed(experiment, tmp_path):
    what, tasks = read_experiment(experiment)
    found = invented(tasks)
    found[0][1]["cost"]["status"] = "failed: out of luck"
    table = tidy(found)
    page = tmp_path / "docs" / "results.md"
    text = section_of(what, table, [tmp_path / "a" / "quality.png"], page, "faml compare x")
    assert "1 run failed: out of luck" in text
    assert "![quality](../a/quality.png)" in text
    assert "## Two ways (paper, 3.0)" in text
    none = section_of(what, pd.DataFrame(), [], page, "faml compare x")
    assert "Not run yet." in none
    whole = results_page([text, none], "faml compare --page")
    assert whole.count("## Two ways") == 2


def test_ranges_and_names_can_be_swept(experiment, tmp_path):
    """They are text in a table, and places on an axis."""
    text = TEXT.replace("snr = [0.5, 0.2]", "tilt_range_deg = [[-60, 60], [-40.5, 40]]", 1)
    text = text.replace("only = { snr = [0.5] }", 'only = { models = [["model.mrc"]] }')
    text = text.replace("[sweep]\n", '[sweep]\nmodels = [["model.mrc"]]\n', 1)
    experiment.write_text(text)
    what, tasks = read_experiment(experiment)
    assert tasks[0].label == "faml, models model.mrc, tilt_range_deg -60 to 60, seed 1"
    found = invented(tasks)
    table = tidy(found)
    assert list(dict.fromkeys(table["tilt_range_deg"])) == ["-60 to 60", "-40.5 to 40"]
    draw_pictures(found, table, ["tilt_range_deg", "models"], tmp_path)
    assert list(summary(table, list(what.sweep), 2)["tilt_range_deg"]) == [
        "-60 to 60", "-60 to 60", "-40.5 to 40", "-40.5 to 40",
    ]  # fmt: skip
    write_tables(found, tmp_path)


def test_what_a_result_was_varied_in_may_change(experiment):
    """A setting that becomes a sweep of one value makes the same results."""
    _, before = read_experiment(experiment)
    text = TEXT.replace("max_shift_voxels = 1.0\n", "", 1)
    experiment.write_text(text.replace("[sweep]", "[sweep]\nmax_shift_voxels = [1.0]", 1))
    what, after = read_experiment(experiment)
    assert {t.key for t in before} == {t.key for t in after}
    results_before = {t.key: result for t, result in invented(before)}
    table = tidy([(t, results_before[t.key]) for t in after])
    assert set(table["max_shift_voxels"]) == {1.0}
    assert len(summary(table, list(what.sweep), 2)) == 3


def test_no_results_make_no_pictures(tmp_path):
    assert draw_pictures([], pd.DataFrame(), [], tmp_path) == []


def test_errors_of_the_package():
    with pytest.raises(InputDataError):
        read_experiment(Path("nowhere.toml"))
    with pytest.raises(InputDataError, match="binary data, not text; expected an experiment"):
        read_experiment(EXPERIMENTS / "models" / "groel_12A.mrc")
