"""`faml report`: what is read of a run in whatever state it is, and the page made of it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from phantoms import blobs
from report_runs import HOSTILE, TOMOGRAMS, checkpoint, state
from runs import settings, write_folder

import faml
from faml.errors import CheckpointError, InputDataError, OutputError
from faml.io.checkpoint import FORMAT, read_run
from faml.io.history import read_history
from faml.io.mrc import read_volume, write_volume
from faml.io.star import read_star, write_star
from faml.metrics.fsc import resolution_at
from faml.metrics.orientations import fourier_coverage
from faml.particles import ParticleSet, wedge_weight
from faml.report.class_figures import tomograms_figure
from faml.report.figures import convergence_figures, fsc_figure, posterior_figures
from faml.report.log_file import read_run_log
from faml.report.page import render_page, report_figures, write_report
from faml.report.run_data import FscCurves, load_run_data
from faml.report.style import inline_svg, printable
from faml.report.summary import duration_text, resolution_words, summarise
from faml.report.surface import surface_map
from faml.symmetry import point_group


class Page(HTMLParser):
    """Elements, texts and attributes of a page."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.links, self.handlers, self.scripts, self.text = [], [], [], [], ""
        self.policy, self._within = "", None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._within = tag
        values = dict(attrs)
        self.links += [values[n] for n in ("src", "href", "xlink:href", "data") if n in values]
        self.handlers += [name for name in values if name.startswith("on")]
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"]
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._within = None

    def handle_data(self, data):
        if self._within == "script":
            self.scripts[-1] += data
        elif self._within != "style":
            self.text += data

    @property
    def payload(self):
        return json.loads(self.scripts[0])


@pytest.fixture(scope="module")
def data(finished_run):
    return load_run_data(finished_run)


@pytest.fixture(scope="module")
def html(data):
    return render_page(data)


@pytest.fixture
def small(tmp_path):
    """A checkpoint of one class, for what takes long."""
    return checkpoint(tmp_path / "small", classes=1, count=3, iterations=1)


@pytest.fixture
def copy(finished_run, tmp_path):
    """A run of one's own to spoil."""
    return shutil.copytree(finished_run, tmp_path / "copy")


# ------------------------------------------------------------------- what is read


def test_a_finished_run_is_read_from_its_results(data, finished_run):
    star = read_star(finished_run / "particles.star").particles
    stored = read_run(finished_run / "run.h5")
    assert (data.final, data.log.ending, data.notes) == (True, "finished", ())
    assert data.version == f"{stored.state.iteration}-final"
    classes = star["rlnClassNumber"].astype(int).to_numpy() - 1
    np.testing.assert_array_equal(data.particles.classes, classes)
    np.testing.assert_array_equal(data.class_counts, np.bincount(classes, minlength=2))
    assert list(data.particles.tomograms) == list(star["rlnTomoName"])
    assert set(data.particles.tomograms) == set(TOMOGRAMS)
    for k in range(2):
        final = read_volume(finished_run / f"class_{k + 1:03d}.mrc").values
        np.testing.assert_array_equal(data.maps[k], final)
        assert not np.array_equal(final, stored.state.model.volumes[k])
        table = pd.read_csv(finished_run / f"fsc_class_{k + 1:03d}.csv")
        curve = table["fsc_corrected"].to_numpy()
        expected = resolution_at(curve, 0.143, data.box, data.voxel_size_angstrom)
        assert data.resolution_angstrom(k) == expected
        assert data.coverages[k] is None or data.coverages[k].observed.max() > 0


def test_history_holds_every_iteration(finished_run):
    history = read_history(finished_run / "run.h5")
    last = read_run(finished_run / "run.h5").state
    assert [record.iteration for record in history] == list(range(last.iteration + 1))
    assert history[0].median_angle_deg is None
    record = history[-1]
    assert record.log_likelihood == last.log_likelihood
    assert record.median_angle_deg == last.changes.median_angle_deg
    assert record.effective_poses == pytest.approx(last.assignments.effective_poses.mean())
    np.testing.assert_array_equal(record.fsc, last.fsc)
    np.testing.assert_array_equal(
        record.class_counts, np.bincount(last.assignments.classes, minlength=2)
    )


def _coverage(stored, rotations):
    """From the one weight that all particles have, through the run's own code."""
    weight = wedge_weight(stored.box, (-55, 60))
    particles = ParticleSet.from_arrays(
        np.zeros((len(rotations), 1, 1, 1), np.float32), weight[None]
    )
    every = np.arange(len(rotations))
    shell = stored.state.align_shell
    return fourier_coverage(particles, rotations, every, shell, point_group("C1")).observed


def test_a_run_that_goes_on_is_read_from_its_checkpoint(copy):
    """Results of an earlier end, left by a run that was resumed, are not those of now."""
    log = (copy / "run.log").read_text()
    with (copy / "run.log").open("a") as file:
        file.write("2030-01-01 10:00:00,000 INFO resumed after iteration 1\n")
    found = load_run_data(copy)
    stored = read_run(copy / "run.h5")
    assert (found.final, found.fsc, found.version) == (False, (), str(stored.state.iteration))
    np.testing.assert_array_equal(found.maps, stored.state.model.volumes)
    np.testing.assert_array_equal(found.particles.classes, stored.state.assignments.classes)
    # Tomograms and wedges come from the input.
    assert list(found.particles.tomograms) == [TOMOGRAMS[i % 3] for i in range(12)]
    rotations = stored.state.assignments.rotations
    for k, coverage in enumerate(found.coverages):
        members = np.nonzero(found.particles.classes == k)[0]
        expected = _coverage(stored, rotations[members])
        np.testing.assert_allclose(coverage.observed, expected)
    assert found.resolution_angstrom(0) == resolution_at(
        stored.state.fsc[0], 0.143, stored.box, stored.voxel_size_angstrom
    )
    assert f"faml watch {copy}" in [step.command for step in summarise(found).steps]
    # Without a log, what lies there is taken to belong together.
    (copy / "run.log").unlink()
    assert load_run_data(copy).final
    (copy / "run.log").write_text(log)
    assert load_run_data(copy).final


def test_an_input_that_is_gone_is_a_note(copy, finished_run, tmp_path):
    with h5py.File(copy / "run.h5", "a") as file:
        text = str(file.attrs["config"])
        file.attrs["config"] = text.replace(str(finished_run.parent / "in"), str(tmp_path / "no"))
    for name in ("particles.star", "class_001.mrc"):
        (copy / name).unlink()
    found = load_run_data(copy)
    assert (found.final, found.particles.tomograms, found.coverages) == (False, None, (None, None))
    (note,) = found.notes
    assert str(tmp_path / "no") in note
    assert set(found.notes) < set(summarise(found).warnings)


def test_results_of_another_run_are_not_shown(copy):
    lines = (copy / "particles.star").read_text().splitlines()
    row = max(i for i, line in enumerate(lines) if line.strip())
    (copy / "particles.star").write_text("\n".join(lines[:row]) + "\n")
    found = load_run_data(copy)
    assert not found.final
    assert len(found.particles) == 12
    assert re.search(r"holds 11 particles, the run 12", found.notes[0])


@pytest.mark.parametrize("written", [1, 2, 3, 4])
def test_runs_of_earlier_formats(tmp_path, written):
    directory = checkpoint(tmp_path / "old", classes=2, count=9)
    with h5py.File(directory / "run.h5", "a") as file:
        file.attrs["format"] = written
        text = str(file.attrs["config"])
        file.attrs["config"] = "\n".join(
            line for line in text.splitlines() if not line.startswith("sharpness")
        )
        for group in file["iterations"].values():
            del group.attrs["stalled"], group.attrs["best_log_likelihood"]
            if written < 4:
                del group["assignments/log_evidences"], group.attrs["symmetry"]
            if written < 2:
                del group["assignments/kept_masses"]
    found = load_run_data(directory)
    assert len(found.history) == 4
    assert "9 particles, 2 classes" in summarise(found).sentence
    if written == 1:
        text = Page(render_page(found)).text
        assert "9 particles, 2 classes" in text
        assert "Evidence for the structure" not in text  # it was not known then


def test_newer_and_damaged_checkpoints(tmp_path):
    directory = checkpoint(tmp_path / "run", classes=1, count=4, iterations=0)
    with h5py.File(directory / "run.h5", "a") as file:
        file.attrs["format"] = FORMAT + 1
    with pytest.raises(CheckpointError, match="expected format version"):
        load_run_data(directory)
    (directory / "run.h5").write_bytes(b"no HDF5")
    with pytest.raises(CheckpointError, match="cannot be read as a faml run"):
        load_run_data(directory)
    checkpoint(tmp_path / "other", classes=1, count=4, iterations=0)
    with h5py.File(tmp_path / "other" / "run.h5", "a") as file:
        del file["iterations/000000/model/class_fractions"]
    with pytest.raises(CheckpointError, match="expected the iterations of a faml run"):
        read_history(tmp_path / "other" / "run.h5")


def test_no_run_and_none_yet(tmp_path):
    with pytest.raises(CheckpointError, match="found none"):
        load_run_data(tmp_path / "absent")
    (tmp_path / "run.log").write_text("2030-01-01 10:00:00,000 INFO python 3.11\n")
    with pytest.raises(CheckpointError, match="wait for its first iteration"):
        load_run_data(tmp_path)
    (tmp_path / "starts").mkdir()
    (tmp_path / "starts" / "start_01.h5").write_bytes(b"")
    with pytest.raises(CheckpointError, match="random starts that are not done"):
        load_run_data(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("fsc_class_002.csv", "shell,fsc\n0,1\n", "fsc_class_002.csv: expected a table"),
        (
            "fsc_class_001.csv",
            "fsc_corrected,fsc_masked,fsc_unmasked,fsc_phase_randomised\n1,1,1,1\nnan,1,1,1\n",
            "fsc_class_001.csv: expected finite values",
        ),
        ("particles.star", "no table", "particles.star"),
        ("class_001.mrc", "short", "class_001.mrc"),
    ],
)
def test_damaged_results_are_named(copy, name, content, message):
    (copy / name).write_text(content)
    with pytest.raises(InputDataError, match=re.escape(message)):
        load_run_data(copy)


def test_a_map_of_another_box_is_refused(copy):
    write_volume(copy / "class_002.mrc", np.ones((8, 8, 8), np.float32), 10.0)
    with pytest.raises(InputDataError, match="expected a map of 16\\^3 voxels"):
        load_run_data(copy)


def test_an_interrupted_end_has_neither_final_maps_nor_the_fsc_of_an_earlier_one(copy):
    with (copy / "run.log").open("a") as file:
        file.write(
            "2030-01-01 10:00:00,000 INFO resumed after iteration 1\n"
            "2030-01-01 10:01:00,000 INFO 0 particles are outliers of their class (famlOutlier)\n"
            "2030-01-01 10:01:01,000 INFO interrupted; iteration 1 is kept\n"
        )
    found = load_run_data(copy)
    assert (found.final, found.fsc) == (True, ())
    assert found.resolution_angstrom(0) == resolution_at(
        found.state.fsc[0], 0.143, found.box, found.voxel_size_angstrom
    )
    text = Page(render_page(found)).text
    assert "Maps as they were when the run stopped, after iteration 1" in text
    assert "at full resolution" not in text
    # The run has a particle diameter, so its averages, and these curves, have a mask.
    assert "FSC 0.143, not corrected for the mask" in summarise(found).sentence
    assert "FSC 0.143, no mask" not in text


def _change(directory, path, change):
    with h5py.File(directory / "run.h5", "a") as file:
        group = file[f"iterations/{max(file['iterations'])}"]
        if path in group.attrs:
            group.attrs[path] = change
        else:
            values = change(group[path][()])
            del group[path]
            group[path] = values


def _with(index, value):
    def change(values):
        values[index] = value
        return values

    return change


@pytest.mark.parametrize(
    ("path", "change", "message"),
    [
        ("model/volumes", _with((0, 3, 3, 3), np.nan), "as averages of iteration 1"),
        ("model/class_fractions", _with(0, np.nan), "as class_fractions"),
        ("assignments/rotations", _with((0, 1, 1), np.nan), "as rotations"),
        ("assignments/log_evidences", _with(0, -np.inf), "as log_evidences"),
        ("assignments/effective_poses", _with(0, np.nan), "as effective_poses"),
        ("assignments/classes", _with(0, 7), "expected classes 0 to 0"),
        ("assignments/probabilities", lambda values: values[:2], "expected 3 values in prob"),
        ("log_likelihood", np.nan, "as log_likelihood"),
        ("align_shell", 0, "expected a shell of 1 or more"),
    ],
)  # fmt: skip
def test_what_is_no_number_is_no_report(small, path, change, message):
    _change(small, path, change)
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        load_run_data(small)
    assert "run.h5" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", ["0", "3", "1.5"])
def test_classes_that_there_are_not(copy, number):
    star = read_star(copy / "particles.star")
    table = star.particles.copy()
    table.loc[table.index[4], "rlnClassNumber"] = number
    write_star(copy / "particles.star", star.blocks | {star.particles_block: table}, 30001)
    with pytest.raises(InputDataError, match=f"from 1 to 2, found {number} in row 5"):
        load_run_data(copy)


LOG = """\
2026-01-01 10:00:00,000 INFO python 3.11.7, machine x86_64
2026-01-01 10:00:00,500 WARNING 3 particles are dark
2026-01-01 10:00:10,500 INFO iteration 0: log-likelihood -1.0, aligned to 3 Angstrom
2026-01-01 10:00:20,000 WARNING iteration 0: class 2 is empty and keeps its average
2026-01-01 10:00:40,500 INFO iteration 1: log-likelihood -1.0, aligned to 3 Angstrom
2026-01-01 10:00:41,000 WARNING iteration 1: class 2 is empty and keeps its average
2026-01-01 10:00:41,250 WARNING class 1: what only the first end had
2026-01-01 10:00:41,500 INFO 0 particles are outliers of their class (famlOutlier)
2026-01-01 10:00:42,000 INFO CPU seconds: candidates 12.5, averages 3.0
"""
RESUMED = """\
Traceback (most recent call last):
2026-01-02 08:00:00,000 INFO resumed after iteration 1
2026-99-02 08:00:00,000 INFO a line of a damaged disk
2026-01-02 08:01:00,000 INFO iteration 2: log-likelihood -1.0, aligned to 3 Angstrom
"""


@pytest.mark.parametrize(
    ("rest", "ending", "current"),
    [
        ("", "open", False),
        ("INFO 2 particles are outliers of their class (famlOutlier)", "open", False),
        ("INFO interrupted; iteration 2 is kept", "interrupted", False),
        ("ERROR run.h5: iteration 3 could not be saved", "failed", False),
        ("INFO CPU seconds: candidates 7.5, sums 1.0", "finished", False),
    ],
)
def test_the_log_tells_how_a_run_ended(tmp_path, rest, ending, current):
    (tmp_path / ".lock").touch()
    path = tmp_path / "run.log"
    path.write_text(LOG + RESUMED + (f"2026-01-02 08:02:00,000 {rest}\n" if rest else ""))
    log = read_run_log(path)
    assert (log.ending, log.results_current) == (ending, current)
    assert log.iteration_seconds == {0: 10.5, 1: 30.0, 2: 60.0}
    assert log.seconds == 42.0 + (120.0 if rest else 60.0)  # the night between does not count
    assert log.warnings == ("3 particles are dark",)
    assert log.error == (rest[6:] if ending == "failed" else "")
    cpu = {"candidates": 12.5, "averages": 3.0}
    if ending == "finished":
        cpu = {"candidates": 20.0, "averages": 3.0, "sums": 1.0}
    assert log.cpu_seconds == cpu


@pytest.mark.parametrize("text", ["stopped after 2 iterations", "converged: nothing moved"])
def test_logs_of_before_locks_do_not_say_when_all_is_done(tmp_path, text):
    path = tmp_path / "run.log"
    path.write_text(f"{LOG}{RESUMED}2026-01-02 08:02:00,000 INFO {text}\n")
    log = read_run_log(path)
    assert (log.ending, log.results_current) == ("finished", True)
    (tmp_path / ".lock").touch()  # it is still at work
    log = read_run_log(path)
    assert (log.ending, log.results_current) == ("open", False)


def test_a_repeated_warning_stands_once(tmp_path):
    (tmp_path / "run.log").write_text(LOG)
    log = read_run_log(tmp_path / "run.log")
    assert (log.ending, log.results_current) == ("finished", True)
    assert log.warnings == (
        "3 particles are dark",
        "iteration 1: class 2 is empty and keeps its average",
        "class 1: what only the first end had",
    )
    assert read_run_log(tmp_path / "none.log") is None
    (tmp_path / "run.log").write_text("no entry\n")
    assert read_run_log(tmp_path / "run.log").began is None


# -------------------------------------------------------------------- the page


def test_the_page_says_what_was_found(html, data):
    text = Page(html).text
    largest = int(np.argmax(data.class_counts))
    reached = data.resolution_angstrom(largest)
    assert (
        f"The run finished: 12 particles, 2 classes. The map of class {largest + 1}, the largest, "
        f"reaches {reached:.1f} Å" in text
    )
    for k, count in enumerate(data.class_counts):
        assert f"{count} particle" in text
        assert f"class_{k + 1:03d}.mrc" in text
    for warning in data.log.warnings:
        assert warning[1:] in text
    assert "half_sets = true" in text  # config.toml
    assert "faml resume" in text


def test_without_half_sets_the_page_says_how_to_measure(tmp_path):
    directory = checkpoint(tmp_path / "a run", classes=1, count=3)
    found = load_run_data(directory)
    summary = summarise(found)
    assert "not been measured: that takes a run with --half-sets" in summary.sentence
    assert "Iteration 3 is the last complete one" in summary.sentence
    assert summary.steps[-1].command == f"faml resume '{directory}'"
    assert np.isnan(found.resolution_angstrom(0))


def test_steps_after_the_end_fit_what_was_run(tmp_path, finished_run):
    commands = " ".join(step.command for step in summarise(load_run_data(finished_run)).steps)
    assert "--half-sets" not in commands
    assert "--classes" not in commands
    assert "--iterations 2" in commands
    assert f"'{finished_run}/class_001.mrc'" in commands  # the name has a space


def test_nothing_is_fetched_from_elsewhere(html):
    page = Page(html)
    assert page.links
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert not re.search(r"@import|url\((?!#|\"?#)", html)
    assert "connect-src 'none'" in page.policy
    assert "default-src 'none'" in page.policy
    assert len(html) < 6_000_000
    assert 'name="viewport"' in html
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


def test_only_the_scripts_of_the_page_may_run(html):
    page = Page(html)
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page.policy
    assert len(page.scripts) == 2


@pytest.mark.parametrize("which", ["finished", "unfinished"])
def test_hostile_names_stay_text(html, tmp_path, which):
    if which == "unfinished":
        directory = checkpoint(tmp_path / f"a{HOSTILE.replace('/', '')}", classes=1, count=40)
        with h5py.File(directory / "run.h5", "a") as file:  # one far outlier, to be listed
            file["iterations/000003/assignments/log_evidences"][5] = -1e4
        html = render_page(load_run_data(directory))
    page = Page(html)
    assert len(page.scripts) == 2
    assert page.tags.count("script") == 2
    assert page.handlers == []
    assert "<script>alert" not in html
    assert HOSTILE in page.text
    if which == "unfinished":
        assert f"{HOSTILE}&'5\"" in page.text
        assert f"/data/</script>{HOSTILE}.mrc" in page.text  # of the configuration


@pytest.mark.parametrize(
    ("classes", "count", "empty", "constant"),
    [(1, 700, (), ()), (6, 3, (1, 4), (4,))],
)
def test_many_shapes_of_runs(tmp_path, classes, count, empty, constant):
    directory = checkpoint(
        tmp_path / "run", classes=classes, count=count, empty=empty, constant=constant
    )
    found = load_run_data(directory)
    assert found.class_counts.sum() == count
    text = render_page(found)
    page = Page(text)
    assert [each is None for each in page.payload["maps"]] == [
        k in constant for k in range(classes)
    ]
    assert page.text.count("The average of this class is constant") == len(constant)
    for k in empty:
        assert re.search(rf"Class {k + 1}\s+empty", page.text)
    # Each figure is there once, and says what it shows.
    figures = [drawn for drawn in report_figures(found) if not _of_empty(drawn.name, found)]
    assert text.count('role="img" aria-label="') == len(figures) + classes - len(constant)
    assert len({drawn.name for drawn in figures}) == len(figures)


def _of_empty(name, data):
    """Directions of empty classes are drawn for papers, not shown."""
    number = re.fullmatch(r"directions_class_(\d+)", name)
    return bool(number) and data.class_counts[int(number.group(1)) - 1] == 0


def test_the_start_alone_is_enough(tmp_path):
    directory = checkpoint(tmp_path / "run", classes=2, count=5, iterations=0)
    text = Page(render_page(load_run_data(directory))).text
    assert "There is nothing but the start" in text


def _with_halves(directory, curves, iterations=1, **settings):
    """A checkpoint of half-sets, whose FSC is made up if it is there."""
    directory = checkpoint(directory, iterations=iterations, em={"half_sets": True}, **settings)
    if curves is not None:
        with h5py.File(directory / "run.h5", "a") as file:
            file[f"iterations/{iterations:06d}/fsc"] = np.array(curves)
    return load_run_data(directory)


def test_halves_that_were_not_compared_yet(tmp_path):
    found = _with_halves(tmp_path / "run", None, classes=1, count=4)
    assert "has not been measured yet." in summarise(found).sentence
    text = Page(render_page(found)).text
    assert "the halves have not been compared" in text
    assert "has no half-sets" not in text
    assert "run with --half-sets" not in text


def test_halves_that_agree_throughout_fall_nowhere(tmp_path):
    found = _with_halves(tmp_path / "run", [[1.0, 0.9, 0.8, 0.6, 0.4, 0.3]], classes=1, count=4)
    (each,) = summarise(found).classes
    assert each.resolution == "24.0 Å or better"  # 120 Angstrom at shell 5
    assert each.resolution_half == "34.3 Å"  # shell 3.5
    assert fsc_figure(found, 0).alt.endswith("falls below 0.5 at 34.3 Å and stays above 0.143.")
    assert "FSC 0.143, no mask" in summarise(found).sentence
    final = replace(found, fsc=(FscCurves(*[found.state.fsc[0]] * 4),))
    assert "its two halves agree throughout" in summarise(final).sentence


def _resolution(found):
    (fact,) = (each for each in summarise(found).facts if each.name.startswith("resolution"))
    return fact


def test_the_resolution_is_that_of_the_largest_class(tmp_path):
    """A class of a few particles may reach anything, an empty one has kept a map."""
    curves = [[1.0] * 6, [1.0, 0.9, 0.0, 0.0, 0.0, 0.0]]
    empty = _with_halves(tmp_path / "run", curves, iterations=4, classes=2, count=9, empty=(0,))
    few = replace(empty, particles=replace(empty.particles, classes=np.array([0] * 2 + [1] * 7)))
    for found in (empty, few):
        reached = f"{found.resolution_angstrom(1):.1f} Å"
        assert f"halves of class 2, the largest, agree to {reached}" in summarise(found).sentence
        assert _resolution(found).value == reached
        assert _resolution(found).note.startswith("class 2, the largest; half-sets")
    many = replace(empty, particles=replace(empty.particles, classes=np.array([0] * 7 + [1] * 2)))
    assert _resolution(many).value == f"{many.resolution_angstrom(0):.1f} Å"


@pytest.mark.parametrize(
    ("iterations", "start", "name", "value"),
    [(2, "random", "resolution", "not yet"), (3, "random", "resolution so far", "34.3 Å"),
     (1, "poses", "resolution so far", "34.3 Å")],
)  # fmt: skip
def test_first_iterations_from_nothing_have_no_large_resolution(
    tmp_path, iterations, start, name, value
):
    curve = [[1.0, 0.9, 0.643, 0.2425, 0.0435, 0.0]]  # 0.143 at shell 3.5 of 120 Angstrom
    found = _with_halves(tmp_path / "run", curve, iterations=iterations, classes=1, count=4)
    config = found.config.model_copy(
        update={"em": found.config.em.model_copy(update={"start": start})}
    )
    fact = _resolution(replace(found, config=config))
    assert (fact.name, fact.value) == (name, value)
    final = replace(found, config=config, fsc=(FscCurves(*[found.state.fsc[0]] * 4),))
    assert (_resolution(final).name, _resolution(final).value) == ("resolution", "34.3 Å")


def test_what_is_used_for_alignment_is_called_no_resolution(tmp_path):
    without = load_run_data(checkpoint(tmp_path / "run", classes=1, count=4))
    titles = {each.name: each.title for each in convergence_figures(without)}
    assert titles["convergence_resolution"] == "Aligned to"
    assert "no resolution of the map" in Page(render_page(without)).text
    curve = [[1.0, 0.9, 0.8, 0.0, 0.0, 0.0]]
    halves = _with_halves(tmp_path / "halves", curve, classes=1, count=4)
    assert halves.history[-1].fsc is not None
    titles = {each.name: each.title for each in convergence_figures(halves)}
    assert titles["convergence_resolution"] == "Resolution"
    assert "no resolution of the map" not in Page(render_page(halves)).text


@pytest.mark.parametrize("classes", [2, 8, 40])
def test_legends_hide_nothing(tmp_path, classes):
    curves = [[1.0, 0.9, 0.8, 0.0, 0.0, 0.0]] * classes
    found = _with_halves(tmp_path / "run", curves, classes=classes, count=60)
    odd = found.particles.outliers.copy()
    odd[0] = True
    found = replace(found, particles=replace(found.particles, outliers=odd))
    seen = set()
    for drawn in (*convergence_figures(found), *posterior_figures(found)):
        (axes,) = drawn.figure.axes
        legend = axes.get_legend()
        if legend is None:
            continue
        seen.add(drawn.name)
        drawn.figure.canvas.draw()
        placed = legend.get_window_extent()
        assert axes.get_position().height > 0.4, drawn.name
        assert placed.y0 >= axes.get_window_extent().y1, drawn.name
        assert placed.y1 <= drawn.figure.bbox.y1 + 1, drawn.name
        assert placed.x0 >= -1, drawn.name
        assert placed.x1 <= drawn.figure.bbox.x1 + 1, drawn.name
    assert {"convergence_resolution", "convergence_occupancy", "evidence"} <= seen


def test_many_outliers_are_no_large_page(tmp_path):
    directory = checkpoint(tmp_path / "run", classes=1, count=6000, iterations=0)
    with h5py.File(directory / "run.h5", "a") as file:
        file["iterations/000000/assignments/log_evidences"][:900] = -1e4
    found = load_run_data(directory)
    assert found.particles.outliers.sum() >= 900
    assert len(inline_svg(posterior_figures(found)[-1])) < 100_000


def test_a_live_page_asks_for_the_version(small, html):
    live = Page(render_page(load_run_data(small), refresh_seconds=2.5))
    assert (live.payload["refresh"], live.payload["version"]) == (2.5, "1")
    assert "connect-src 'self'" in live.policy
    assert "faml watch" not in live.text  # the reader does
    assert "faml resume" in live.text
    assert "faml watch" in Page(render_page(load_run_data(small))).text
    assert Page(html).payload["refresh"] is None


def test_uncertain_poses_and_empty_classes_are_told(tmp_path):
    directory = checkpoint(tmp_path / "run", classes=3, count=20, empty=(1,))
    with h5py.File(directory / "run.h5", "a") as file:
        file["iterations/000003/assignments/effective_poses"][...] = 75.0
    warnings = summarise(load_run_data(directory)).warnings
    assert any("class 2 had too few particles" in text for text in warnings)
    assert any("still fits 75 poses" in text for text in warnings)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (61, "1 min 1 s"), (7260, "2 h 1 min"), (359999, "99 h 59 min")],
)
def test_durations(seconds, text):
    assert duration_text(seconds) == text


def test_words_for_resolutions():
    assert resolution_words(12.345) == "12.3 Å"
    assert resolution_words(float("nan")) == "not measured"
    assert resolution_words(float("inf")) == "none: the halves have nothing in common"


# ------------------------------------------------------------------- surfaces


@pytest.mark.parametrize(("n", "largest"), [(20, 64), (21, 64), (16, 32), (40, 20), (42, 21)])
def test_a_surface_map_is_the_map(n, largest):
    volume = blobs(n, seed=4, spread=0.13, sigma=0.07) * 3.0 + 1.5
    found = surface_map(volume, 5.0, diameter_angstrom=None, largest_edge=largest)
    m = found.edge
    assert m == min(largest, 2 * n)
    assert found.voxel_size_angstrom * m == pytest.approx(5.0 * n)
    values = np.frombuffer(base64.b64decode(found.data), np.uint8).reshape((m, m, m)) / 255.0
    values = values * (found.high - found.low) + found.low
    # One grid has twice the spacing of the other, and both have voxel n // 2 in one place.
    axis = np.arange(-5, 6)
    here, there = (axis, 2 * axis) if m > n else (2 * axis, axis)
    here, there = here + n // 2, there + m // 2
    step = (found.high - found.low) / 255.0
    np.testing.assert_allclose(
        values[np.ix_(there, there, there)], volume[np.ix_(here, here, here)], atol=0.7 * step
    )
    assert volume.min() < found.level < volume.max()


def test_what_lies_beyond_the_particle_is_cropped():
    volume = blobs(40, seed=1, spread=0.08, sigma=0.04)
    found = surface_map(volume, 10.0, diameter_angstrom=100.0, largest_edge=64)
    assert found.voxel_size_angstrom * found.edge == pytest.approx(10.0 * (13 + 1 + 4))
    assert surface_map(np.full((8, 8, 8), 2.0, np.float32), 1.0, diameter_angstrom=None,
                       largest_edge=64) is None  # fmt: skip


def test_the_first_level_encloses_a_ball():
    """Otsu's threshold of a ball of density 1 in noise."""
    n, radius = 32, 8.0
    z, y, x = np.indices((n, n, n)) - n // 2
    ball = (z**2 + y**2 + x**2 < radius**2).astype(np.float32)
    noise = np.random.default_rng(0).normal(0.0, 0.08, ball.shape).astype(np.float32)
    found = surface_map(ball + noise, 1.0, diameter_angstrom=None, largest_edge=32)
    assert 0.3 < found.level < 0.7


# ------------------------------------------------------------------ files, commands


def test_the_same_run_makes_the_same_files(small, data):
    first = write_report(small).read_bytes()
    figures = {path.name: path.read_bytes() for path in (small / "figures").iterdir()}
    assert write_report(small).read_bytes() == first
    again = {path.name: path.read_bytes() for path in (small / "figures").iterdir()}
    assert figures == again
    names = {drawn.name for drawn in report_figures(load_run_data(small))}
    assert set(figures) == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    text = figures["convergence_angles.svg"].decode()
    assert ">median change (degrees)<" in text  # text stays text
    assert "<dc:date>" not in text
    more = {drawn.name for drawn in report_figures(data)}
    assert names < more
    assert {"fsc_class_001", "slices_class_002", "tomograms", "time"} <= more


def test_figures_use_the_colours_of_the_page(data, html):
    curve = inline_svg(fsc_figure(data, 1))
    assert "var(--ink)" in curve
    assert "var(--class-2)" in curve
    assert not re.search(r"#(1f2933|d55e00)", curve)
    bars = inline_svg(tomograms_figure(data))
    assert "<script" not in bars
    assert "&lt;script&gt;" in bars
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids)) > 20


def test_names_that_no_font_can_draw():
    assert printable("TS_01") == "TS_01"
    assert printable("a\nb\u4e2d") == "a?b?"
    assert printable("x" * 40 + "end") == "x" * 10 + "..." + "x" * 7 + "end"


def test_the_command_says_where_the_report_is(cli, small, tmp_path):
    code, out, err = cli("report", small, "--no-figures")
    assert (code, err) == (0, "")
    assert out == f"report: {small / 'report.html'}\n"
    assert (small / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert not (small / "figures").exists()
    code, out, _ = cli("report", small, "-o", tmp_path / "other.html")
    assert code == 0
    assert str(small / "figures") in out
    assert (tmp_path / "other.html").read_bytes() == (small / "report.html").read_bytes()


def test_the_command_on_what_is_no_run(cli, tmp_path, small):
    code, _, err = cli("report", tmp_path)
    assert code == 4
    assert re.fullmatch(r"error: [^\n]*expected a run with run.h5, found none[^\n]*\n", err)
    code, _, err = cli("report", small, "--no-figures", "-o", tmp_path / "no" / "page.html")
    assert code == 4
    assert len(err.splitlines()) == 1
    (small / "figures").write_text("in the way")
    code, _, err = cli("report", small)
    assert code == 4
    assert "figures: cannot be made" in err


def test_the_command_replaces_pages_only(cli, small, tmp_path):
    before = (small / "run.h5").read_bytes()
    code, _, err = cli("report", small, "--no-figures", "-o", small / "run.h5")
    assert code == 4
    assert re.fullmatch(r"error: [^\n]*run.h5: expected an HTML file[^\n]*\n", err)
    assert (small / "run.h5").read_bytes() == before
    (tmp_path / "page.HTML").write_text("of yesterday")
    assert cli("report", small, "--no-figures", "-o", tmp_path / "page.HTML")[0] == 0
    code, out, _ = cli("report", small / "run.h5", "-o", tmp_path / "other.html")
    assert f"figures: {small / 'figures'}\n" in out


def test_commands_on_the_page_hold_from_anywhere(copy, monkeypatch):
    monkeypatch.chdir(copy)
    steps = summarise(load_run_data(Path())).steps
    assert f"-o {copy}-starts --starts 6" in " ".join(step.command for step in steps)


def test_names_that_are_not_utf8(tmp_path):
    directory = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 \xc3\xa9"))
    try:
        checkpoint(directory, classes=1, count=3, iterations=0)
    except OSError:
        pytest.skip("the file system takes UTF-8 only")
    text = write_report(directory, figures=False).read_text(encoding="utf-8")
    assert "caf? é" in text


def test_a_run_leaves_its_report(reports, tmp_path):
    folder = write_folder(tmp_path / "in", count=4)
    result = faml.run(folder, tmp_path / "run", **settings(iterations=0))
    assert result.report == result.directory / "report.html"
    assert "The run finished: 4 particles" in Page(result.report.read_text()).text
    assert not (result.directory / "figures").exists()


@pytest.mark.parametrize("error", [OutputError("disk full"), ValueError("broken")])
def test_a_report_that_fails_loses_nothing(reports, tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("faml.results.write_report", fail)
    folder = write_folder(tmp_path / "in", count=4)
    result = faml.run(folder, tmp_path / "run", **settings(iterations=0))
    assert result.report is None
    assert result.star.is_file()
    assert result.maps[0].is_file()
    lines = (tmp_path / "run" / "run.log").read_text().splitlines()
    (line,) = [line for line in lines if "no report" in line]
    assert str(error) in line
    assert f"faml report {tmp_path / 'run'}" in line


def test_results_that_were_not_written_are_not_logged(tmp_path, monkeypatch):
    """A report would take those of an earlier end for them."""

    def fail(*_):
        raise OutputError("particles.star could not be written")

    monkeypatch.setattr("faml.results.write_particles", fail)
    folder = write_folder(tmp_path / "in", count=4)
    with pytest.raises(OutputError):
        faml.run(folder, tmp_path / "run", **settings(iterations=0))
    log = read_run_log(tmp_path / "run" / "run.log")
    assert (log.ending, log.results_current) == ("failed", False)


def test_ctrl_c_while_the_report_is_written(reports, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("faml.results.write_report", stop)
    folder = write_folder(tmp_path / "in", count=4)
    with pytest.raises(KeyboardInterrupt, match="all other results are complete"):
        faml.run(folder, tmp_path / "run", **settings(iterations=0))
    assert (tmp_path / "run" / "particles.star").is_file()


def test_states_of_the_tests_are_like_real_ones(finished_run):
    """The checkpoints made by hand have what a real one has."""
    real = read_run(finished_run / "run.h5").state
    made = state(1, 2, 12, 16)
    assert made.model.noise_variance.shape == real.model.noise_variance.shape
    assert made.ssnr.shape == real.ssnr.shape
