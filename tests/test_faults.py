"""Processes that are killed, ended by a scheduler, or started twice in one directory."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from runs import assert_states_equal, settings, write_folder

import faml
from faml.errors import OutputError
from faml.interrupts import ended_like_ctrl_c
from faml.io.checkpoint import read_run
from faml.io.lock import LOCK_NAME, only_one

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals and locks")

ITERATIONS = 4

# Hundreds of kills are in bench/faults.py.
_CHILD = """
import sys
sys.path.insert(0, {tests!r})
import faml
from runs import settings
from pathlib import Path
folder, target, iterations = sys.argv[1:]
if (Path(target) / "run.h5").exists():
    faml.resume(target, iterations=int(iterations))
else:
    faml.run([folder], target, **settings(iterations=int(iterations)))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("particles"), count=6)


def child(folder, target, iterations=ITERATIONS):
    tests = str(__file__).rpartition("/")[0]
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD.format(tests=tests), folder, target, str(iterations)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(path, process):
    end = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.01)


def test_killed_runs_end_like_one_that_was_not(folder, tmp_path):
    whole = faml.run([folder], tmp_path / "whole", **settings(iterations=ITERATIONS))
    rng = np.random.default_rng(3)
    target = tmp_path / "killed"
    kills = 0
    for _ in range(2):
        with child(folder, target) as process:
            wait_for(target / LOCK_NAME, process)
            time.sleep(rng.uniform(0.0, 1.0))
            process.kill()
            kills += process.wait() == -signal.SIGKILL
    assert kills > 0  # a fast machine may finish first
    with child(folder, target) as process:
        assert process.wait() == 0, process.stderr.read()
    assert_states_equal(
        read_run(target / "run.h5").state, read_run(tmp_path / "whole" / "run.h5").state
    )
    for name in ("class_001.mrc", "particles.star"):
        found = (target / name).read_bytes()
        found = found.replace(bytes(target), bytes(whole.directory))
        assert found == (whole.directory / name).read_bytes()
    assert not list(target.glob(".*.tmp"))


def test_two_processes_in_one_directory_are_one_too_many(folder, tmp_path):
    target = tmp_path / "run"
    with child(folder, target, iterations=1000) as process:
        wait_for(target / "run.h5", process)
        with pytest.raises(OutputError, match=f"another faml .process {process.pid} on .+ at work"):
            faml.resume(target)
        process.kill()
    faml.resume(target, iterations=read_run(target / "run.h5").state.iteration)


def test_end_of_a_batch_job_leaves_a_run_to_resume(folder, tmp_path):
    target = tmp_path / "run"
    with child(folder, target, iterations=1000) as process:
        wait_for(target / "run.h5", process)
        process.terminate()
        process.wait()
        said = process.stderr.read()
    assert "is kept; continue with: faml resume" in said
    assert (target / "class_001.mrc").exists()
    kept = read_run(target / "run.h5").state.iteration
    assert faml.resume(target, iterations=kept + 1).state.iteration == kept + 1


def test_hang_up_is_ignored_where_it_was(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_like_ctrl_c():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_are_left_alone_outside_the_main_thread():
    seen = []

    def look():
        with ended_like_ctrl_c():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]


def test_lock_ends_with_its_block_and_its_file_stays(tmp_path):
    with only_one(tmp_path), pytest.raises(OutputError, match="at work"), only_one(tmp_path):
        pass
    with only_one(tmp_path):
        pass
    assert (tmp_path / LOCK_NAME).exists()


def test_lock_ends_though_a_forked_child_lives_on(tmp_path, monkeypatch):
    """A child has a copy of the descriptor, as this process has here."""
    copies = []
    real = fcntl.flock
    with monkeypatch.context() as watched:
        watched.setattr(fcntl, "flock", lambda fd, how: copies.append(os.dup(fd)) or real(fd, how))
        with only_one(tmp_path):
            pass
    try:
        with only_one(tmp_path):
            pass
    finally:
        for each in copies:
            os.close(each)


@pytest.mark.parametrize(
    ("call", "number", "message"),
    [("flock", errno.EIO, "cannot be locked"), ("pwrite", errno.ENOSPC, "cannot be written to")],
)
def test_a_lock_that_fails_is_not_somebody_elses(tmp_path, monkeypatch, call, number, message):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl if call == "flock" else os, call, fail)
    with pytest.raises(OutputError, match=message) as caught, only_one(tmp_path):
        pass
    assert os.strerror(number) in str(caught.value)
    assert "another faml" not in str(caught.value)


def test_a_lock_that_is_a_link_overwrites_nothing(tmp_path):
    (tmp_path / "other").write_text("of somebody")
    (tmp_path / LOCK_NAME).symlink_to(tmp_path / "other")
    with pytest.raises(OutputError, match=LOCK_NAME), only_one(tmp_path):
        pass
    assert (tmp_path / "other").read_text() == "of somebody"


def test_handlers_that_python_did_not_make_stay(monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as foreign:
        foreign.setattr(signal, "getsignal", lambda _: None)
        with ended_like_ctrl_c():
            foreign.undo()
            assert signal.getsignal(signal.SIGTERM) is before


def test_a_look_at_the_lock_is_waited_for(tmp_path):
    with only_one(tmp_path):
        pass
    with (tmp_path / LOCK_NAME).open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        threading.Timer(0.05, fcntl.flock, (file, fcntl.LOCK_UN)).start()
        with only_one(tmp_path):
            pass


def test_file_systems_that_cannot_lock_are_worked_on(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with only_one(tmp_path):
        pass
    assert "cannot lock (No locks available)" in caplog.text


def test_places_without_room_for_a_lock_are_named(tmp_path):
    with pytest.raises(OutputError, match="cannot be written to"), only_one(tmp_path / "absent"):
        pass
