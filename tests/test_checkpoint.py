"""Checkpoints: one set of tests over both backends, and what kills and full disks leave."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import h5py
import numpy as np
import pytest
from phantoms import simulated
from runs import EM, SEARCH, assert_states_equal

from faml.config import build_config
from faml.em.loop import EmRun
from faml.em.state import Changes, SymmetrySeen
from faml.errors import CheckpointError, ConfigurationError
from faml.io.checkpoint import FORMAT, HDF5Checkpoint, MemoryCheckpoint, read_run
from faml.particles import wedge_weight


@pytest.fixture(scope="module")
def job():
    """Particles, configuration and three states of a run."""
    particles, _ = simulated(n=16, count=5, weight=wedge_weight(16, (-60, 60)), seed=1)
    config = build_config(em=EM | {"iterations": 2, "classes": 2}, search=SEARCH)
    return particles, config, list(EmRun(particles, config).states())


@pytest.fixture(params=["memory", "hdf5"])
def backend(request, job, tmp_path):
    particles, config, _ = job
    if request.param == "memory":
        return MemoryCheckpoint()
    return HDF5Checkpoint(tmp_path / "run.h5", config, particles)


@pytest.fixture
def stored(job, tmp_path):
    """A file with all three iterations."""
    particles, config, states = job
    checkpoint = HDF5Checkpoint(tmp_path / "run.h5", config, particles)
    for state in states:
        checkpoint.save(state)
    return checkpoint.path


def test_last_is_the_state_saved_last(backend, job):
    for state in job[2]:
        backend.save(state)
        assert_states_equal(backend.last(), state)


def test_nothing_saved_is_an_error(backend):
    with pytest.raises(CheckpointError, match="no complete iteration"):
        backend.last()


def test_every_iteration_comes_back_bit_by_bit(job, tmp_path):
    particles, config, states = job
    checkpoint = HDF5Checkpoint(tmp_path / "run.h5", config, particles)
    for number, state in enumerate(states):
        checkpoint.save(state)
        read = read_run(checkpoint.path)
        assert_states_equal(read.state, state)
        assert read.iterations == tuple(range(number + 1))
    with h5py.File(checkpoint.path) as file:
        for state in states:
            volumes = file[f"iterations/{state.iteration:06d}/model/volumes"]
            assert volumes.dtype == np.float32
            np.testing.assert_array_equal(volumes[()], state.model.volumes)


def test_unusual_values_come_back(job, tmp_path):
    particles, config, states = job
    odd = replace(
        states[-1],
        iteration=12,
        log_likelihood=-1.0 / 3.0,
        changes=Changes(0.1, 2.0 / 3.0, 1.0),
        empty_classes=(0, 1),
        stop_reason="converged: 0.1° — still",
        best_log_likelihood=-7.0 / 3.0,
        stalled=3,
        symmetry_seen=(
            SymmetrySeen(0.9, 0.7, 0.25, 0.8),
            SymmetrySeen(0.0, 0.0, -1.0, 0.0),
        ),
    )
    checkpoint = HDF5Checkpoint(tmp_path / "run.h5", config, particles)
    checkpoint.save(odd)
    assert_states_equal(read_run(checkpoint.path).state, odd)


def test_a_file_from_before_sharp_posteriors_goes_on_without(stored, job):
    with h5py.File(stored, "a") as file:
        file.attrs["format"] = 4
        text = str(file.attrs["config"])
        kept = [line for line in text.splitlines() if not line.startswith("sharpness")]
        file.attrs["config"] = "\n".join(kept)
        for group in file["iterations"].values():
            del group.attrs["stalled"], group.attrs["best_log_likelihood"]
    read = read_run(stored)
    assert read.config.em.sharpness == 1.0
    assert (read.state.stalled, read.state.best_log_likelihood) == (0, -np.inf)


def test_a_run_goes_on_with_the_folds_it_was_begun_with(job):
    particles, config, states = job
    other = config.model_copy(update={"em": config.em.model_copy(update={"folds": 3})})
    with pytest.raises(ConfigurationError, match=r"has \d folds, expected 3; give --folds"):
        next(EmRun(particles, other).states(states[-1]))


def test_saving_an_iteration_again_replaces_it(stored, job):
    particles, config, states = job
    again = replace(states[-1], log_likelihood=1.25)
    HDF5Checkpoint(stored, config, particles).save(again)
    assert read_run(stored).state.log_likelihood == 1.25


def test_header_says_what_is_needed_to_repeat_the_run(stored, job):
    particles, config, _ = job
    read = read_run(stored)
    assert read.config == config
    assert read.names == particles.names
    assert (read.box, read.voxel_size_angstrom) == (16, 10.0)
    assert {"faml", "numpy", "scipy", "numba", "h5py", "python", "machine"} <= set(read.versions)
    with h5py.File(stored) as file:
        assert file.attrs["format"] == FORMAT
        assert file.attrs["seed"] == config.em.seed
        assert json.loads(file.attrs["versions"]) == read.versions


def test_configuration_of_thousands_of_files_fits(job, tmp_path):
    particles, config, states = job
    names = tuple(f"/data/project/extracted/subtomograms/tomo_{i:05d}.mrc" for i in range(3000))
    config = config.model_copy(update={"data": config.data.model_copy(update={"inputs": names})})
    checkpoint = HDF5Checkpoint(tmp_path / "run.h5", config, particles)
    checkpoint.save(states[0])
    assert read_run(checkpoint.path).config.data.inputs == names


def test_nothing_but_plain_numbers_and_names(stored):
    def check(name, item):
        if isinstance(item, h5py.Dataset) and name != "particles/names":
            assert item.dtype.kind in "biuf", name

    with h5py.File(stored) as file:
        file.visititems(check)


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match="found none; give the output directory"):
        read_run(tmp_path / "run.h5")


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.98])
def test_truncated_file(stored, keep):
    content = stored.read_bytes()
    stored.write_bytes(content[: int(keep * len(content)) if keep < 1 else keep])
    with pytest.raises(CheckpointError, match="cannot be read as a faml run"):
        read_run(stored)


def test_file_of_another_kind(tmp_path):
    path = tmp_path / "run.h5"
    path.write_text("not a run\n" * 100)
    with pytest.raises(CheckpointError, match="cannot be read as a faml run"):
        read_run(path)
    with h5py.File(path, "w") as file:
        file["something"] = 1
    with pytest.raises(CheckpointError, match="expected format version"):
        read_run(path)


def test_newer_format(stored):
    with h5py.File(stored, "a") as file:
        file.attrs["format"] = FORMAT + 1
    with pytest.raises(CheckpointError, match="update faml"):
        read_run(stored)


@pytest.mark.parametrize(
    "what",
    ["iterations/000002", "iterations", "particles/names", "iterations/000002/model/volumes"],
)
def test_missing_part(stored, what):
    with h5py.File(stored, "a") as file:
        del file[what]
    with pytest.raises(CheckpointError, match="cannot be read as a faml run"):
        read_run(stored)


def test_incomplete_iteration_is_not_seen(stored):
    """The counter is written last: what lies beyond it does not exist."""
    with h5py.File(stored, "a") as file:
        file.create_group("iterations/000003")
    assert read_run(stored).iterations == (0, 1, 2)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("unable to flush")]
)
def test_failed_save_keeps_the_iteration_before(stored, job, monkeypatch, error):
    particles, config, states = job
    checkpoint = HDF5Checkpoint(stored, config, particles)
    checkpoint.saved = [states[-1]]
    before = stored.read_bytes()

    def fail(*_):
        raise error

    monkeypatch.setattr("faml.io.checkpoint._write_state", fail)
    with pytest.raises(CheckpointError, match=r"iteration 2 is kept .* faml resume") as caught:
        checkpoint.save(replace(states[-1], iteration=3))
    assert caught.value.exit_code == 4
    assert stored.read_bytes() == before
    assert sorted(path.name for path in stored.parent.iterdir()) == ["run.h5"]
    assert checkpoint.last().iteration == 2


def test_first_save_that_fails_leaves_nothing(job, tmp_path, monkeypatch):
    particles, config, states = job

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("faml.io.checkpoint._write_state", fail)
    with pytest.raises(CheckpointError, match="nothing was written"):
        HDF5Checkpoint(tmp_path / "run.h5", config, particles).save(states[0])
    assert list(tmp_path.iterdir()) == []


SAVER = """
import resource, sys
from dataclasses import replace
from pathlib import Path
from faml.errors import CheckpointError
from faml.io.checkpoint import HDF5Checkpoint, read_run
from phantoms import simulated

path, room = Path(sys.argv[1]), int(sys.argv[2])
stored = read_run(path)
particles, _ = simulated(n=16, count=5, seed=1)
checkpoint = HDF5Checkpoint(path, stored.config, particles)
checkpoint.saved = [stored.state]
if room:
    size = path.stat().st_size + room
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
print("ready", flush=True)
for iteration in range(stored.state.iteration + 1, 10_000):
    try:
        checkpoint.save(replace(stored.state, iteration=iteration))
    except CheckpointError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
"""


def saver(path, room=0):
    folder = str(__file__).rpartition("/")[0]
    return subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {folder!r})\n{SAVER}",
         str(path), str(room)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_full_disk_keeps_the_last_complete_iteration(stored):
    """A real limit on the size of files: HDF5 meets it when it likes, even when it closes."""
    out, err = saver(stored, room=150_000).communicate(timeout=60)
    assert out.startswith("ready")
    last = read_run(stored).state.iteration
    assert f"iteration {last + 1} could not be saved" in err
    assert f"iteration {last} is kept" in err
    assert "faml resume" in err
    assert [path.name for path in stored.parent.iterdir()] == ["run.h5"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_killed_at_any_time_the_file_is_readable(stored):
    rng = np.random.default_rng(0)
    before = read_run(stored).state
    for _ in range(4):
        child = saver(stored)
        with contextlib.ExitStack() as stack:
            stack.callback(child.wait)
            stack.callback(child.kill)
            stack.enter_context(child.stdout)
            stack.enter_context(child.stderr)
            assert child.stdout.readline() == "ready\n"
            end = time.monotonic() + rng.uniform(0.01, 0.25)
            while time.monotonic() < end:
                read_run(stored)  # also while it is being replaced
            child.send_signal(signal.SIGKILL)
        read = read_run(stored)
        assert_states_equal(replace(read.state, iteration=2), before)
        assert read.iterations == tuple(range(read.state.iteration + 1))
    assert read.state.iteration > 2
