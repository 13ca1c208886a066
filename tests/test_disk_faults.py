"""Disks that are full, fail or go away under a run; checkpoints cut short; clocks set back."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import h5py
import numpy as np
import pytest
from phantoms import blobs
from runs import VOXEL_ANGSTROM, assert_states_equal, settings, write_folder

import faml
from faml.config import build_config
from faml.errors import CheckpointError, InputDataError, OutputError
from faml.io import atomic
from faml.io.checkpoint import HDF5Checkpoint, read_run
from faml.io.em import read_em, write_em
from faml.io.files import read_values
from faml.io.lock import LOCK_NAME, only_one
from faml.io.mrc import read_volume, write_volume
from faml.report.log_file import read_run_log

BOX, ITERATIONS = 12, 2
SETTINGS = settings(iterations=ITERATIONS)
SETTINGS["search"] |= {"search_shell": 4, "max_candidates": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("particles"), count=4, box=BOX)


@pytest.fixture(scope="module")
def expected(folder, tmp_path_factory):
    """A run that nothing has happened to."""
    return faml.run(folder, tmp_path_factory.mktemp("whole") / "run", **SETTINGS)


@pytest.fixture(autouse=True)
def _quick_pictures(monkeypatch):
    """Drawn pictures take longer than these runs; what stands for them is written like them."""

    def picture(path, *_, **__):
        with atomic.atomic_path(Path(path)) as temporary:
            temporary.write_bytes(b"a picture")

    monkeypatch.setattr("faml.results.write_class_slices", picture)
    monkeypatch.setattr("faml.results.write_orientation_plot", picture)


def run(folder, target, **more):
    return faml.run(folder, target, **SETTINGS | more)


class Disk:
    """Takes the first ``room`` files of a process and refuses the others."""

    def __init__(self, monkeypatch, room, number=errno.ENOSPC):
        self.room, self.written = room, []
        real = os.fsync

        def fsync(descriptor):
            if len(self.written) >= self.room:
                raise OSError(number, os.strerror(number))
            self.written.append(descriptor)
            real(descriptor)

        monkeypatch.setattr(atomic.os, "fsync", fsync)


# ------------------------------------------------------------------ no room


def test_a_disk_that_fills_up_at_any_file_costs_no_iteration(
    folder, expected, tmp_path, monkeypatch
):
    """Wherever it is full from, what is said holds, and the run goes on once there is room."""
    disk = Disk(monkeypatch, room=10**6)
    run(folder, tmp_path / "count")
    files = len(disk.written)
    assert files > 3 * ITERATIONS
    for room in range(files):
        target = tmp_path / f"room_{room}"
        disk.room, disk.written = room, []
        said = ""
        try:
            run(folder, target)
        except OutputError as error:
            said = str(error)
            assert "No space left on device" in said
            assert "free some space" in said
        disk.room = 10**6
        assert not list(target.rglob(".*.tmp"))
        if (target / "run.h5").exists():
            kept = read_run(target / "run.h5").state.iteration
            if said:
                assert f"iteration {kept} is kept in" in said
                assert f"faml resume {target}" in said
            again = faml.resume(target)
        else:
            again = run(folder, target)
        assert_states_equal(again.state, expected.state)
        assert {"class_001.mrc", "particles.star", "wedge.mrc"} <= {
            path.name for path in target.iterdir()
        }


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
# mrcfile does not close a file that it cannot write to.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["text.star", "map.mrc", "list.em"])
def test_a_device_without_room(tmp_path, monkeypatch, name):
    """What the kernel says at the last moment, when buffers are emptied."""
    monkeypatch.setattr(atomic.secrets, "token_hex", lambda _: "0" * 8)
    temporary = tmp_path / f".{name}.{os.getpid()}.{'0' * 8}.tmp"
    temporary.symlink_to("/dev/full")
    write = {
        "text.star": lambda path: atomic.write_text_atomic(path, "x" * 100),
        "map.mrc": lambda path: write_volume(path, blobs(12), VOXEL_ANGSTROM),
        "list.em": lambda path: write_em(path, blobs(12)),
    }[name]
    with pytest.raises(OutputError, match=r"No space left on device\); free some space"):
        write(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.EROFS, "make it writable"), (errno.EDQUOT, "free some space"),
     (errno.EIO, "choose another output directory")],
)  # fmt: skip
def test_the_advice_fits_the_fault(folder, tmp_path, monkeypatch, number, advice):
    Disk(monkeypatch, room=3, number=number)
    with pytest.raises(CheckpointError) as caught:
        run(folder, tmp_path / "run")
    assert os.strerror(number) in str(caught.value)
    assert advice in str(caught.value)
    assert "is kept in" in str(caught.value)


def test_a_directory_that_goes_away_is_not_said_to_be_kept(folder, tmp_path):
    target = tmp_path / "run"

    def remove(state, _):
        if state.iteration == 1:
            shutil.rmtree(target)

    with pytest.raises(CheckpointError) as caught:
        run(folder, target, on_state=remove)
    said = str(caught.value)
    assert "iteration 2 could not be saved (No such file or directory)" in said
    assert f"{target} is gone" in said
    assert f"iteration 1 was kept in {target / 'run.h5'}, which is gone" in said
    assert "faml resume" not in said


# ------------------------------------------------------------------ read errors


@pytest.mark.skipif(
    not Path("/proc/self/mem").exists(), reason="needs a file that fails to be read"
)
def test_an_error_of_the_disk_is_no_end_of_the_file():
    """`numpy.fromfile` takes one for the other."""
    with open("/proc/self/mem", "rb") as stream, pytest.raises(OSError, match=f"Errno {errno.EIO}"):
        read_values(stream, "<f4", 100)


@pytest.mark.parametrize("suffix", [".mrc", ".em"])
def test_read_errors_name_file_and_reason(tmp_path, monkeypatch, suffix):
    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path = tmp_path / f"a{suffix}"
    (write_em if suffix == ".em" else lambda *a: write_volume(*a, 1.0))(path, blobs(12))
    monkeypatch.setattr(f"faml.io.{suffix[1:]}.read_values", fail)
    with pytest.raises(InputDataError, match=rf"a\{suffix}: cannot be read \(Input/output error"):
        (read_em if suffix == ".em" else read_volume)(path)


def test_a_read_error_in_a_pass_keeps_the_iteration_before(folder, expected, tmp_path, monkeypatch):
    import faml.io.mrc as module

    real, target = module.read_values, tmp_path / "run"

    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def break_disk(state, _):
        if state.iteration == 1:
            monkeypatch.setattr(module, "read_values", fail)

    with pytest.raises(InputDataError) as caught:
        run(folder, target, on_state=break_disk)
    said = str(caught.value)
    assert any(str(path) in said for path in folder.iterdir())
    assert "cannot be read (Input/output error)" in said
    assert (
        f"iteration 1 is kept in {target / 'run.h5'}; continue with: faml resume {target}" in said
    )
    assert said in (target / "run.log").read_text()
    monkeypatch.setattr(module, "read_values", real)
    assert_states_equal(faml.resume(target).state, expected.state)


# ------------------------------------------------------------------ what others have changed


def test_particles_that_have_changed_are_noticed(folder, tmp_path):
    mine = shutil.copytree(folder, tmp_path / "particles")
    run(mine, tmp_path / "run", em=SETTINGS["em"] | {"iterations": 0})
    third = sorted(mine.iterdir())[2]
    before = third.read_bytes()
    write_volume(third, read_volume(third).values * 1.01, VOXEL_ANGSTROM)
    with pytest.raises(CheckpointError, match=rf"other grey values in 1 of them.*{third.stem}"):
        faml.resume(tmp_path / "run", iterations=1)
    third.write_bytes(before[:-4])
    with pytest.raises(InputDataError, match="truncated"):
        faml.resume(tmp_path / "run", iterations=1)
    third.write_bytes(before)
    assert faml.resume(tmp_path / "run", iterations=1).state.iteration == 1


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    """Of the last holder of the lock only: another may be writing a report there."""
    (tmp_path / "slices").mkdir()
    process = 2**22 + 1  # more than Linux gives
    left = [tmp_path / f".run.h5.{process}.0123abcd.tmp",
            tmp_path / "slices" / f".iteration_001.png.{process}.0123abcd.tmp"]  # fmt: skip
    others = [tmp_path / ".report.html.77.0123abcd.tmp", tmp_path / f"mine.{process}.tmp"]
    for path in (*left, *others):
        path.write_bytes(b"half")
    (tmp_path / LOCK_NAME).write_text(f"process {process} on here")
    with only_one(tmp_path):
        pass
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in others)


# ------------------------------------------------------------------ checkpoints cut short


def test_a_checkpoint_cut_at_any_byte_is_refused(folder, tmp_path):
    run(folder, tmp_path / "run")
    path = tmp_path / "run" / "run.h5"
    content = path.read_bytes()
    with h5py.File(path) as file:
        found = []
        file.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) else 0)
        starts = [item.id.get_offset() for item in found if item.id.get_offset()]
    rng = np.random.default_rng(0)
    lengths = {0, 1, 8, 96, 511, 512, 2048, len(content) - 1, len(content) - 8}
    lengths |= {start + step for start in starts for step in (-1, 0, 1)}
    lengths |= set(rng.integers(0, len(content), 200).tolist())
    for length in sorted(lengths):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="cannot be read as a faml run") as caught:
            read_run(path)
        assert "restore it from a copy or start the run again" in str(caught.value)
    with pytest.raises(CheckpointError, match="cannot be read"):
        faml.resume(tmp_path / "run")
    path.write_bytes(content)
    assert read_run(path).state.iteration == ITERATIONS


# ------------------------------------------------------------------ clocks and hashes


@pytest.mark.parametrize("seed", ["0", "1"])
def test_hash_seeds_change_nothing(folder, expected, tmp_path, seed):
    """That of this process is another again."""
    tests = Path(__file__).parent
    text = (
        f"import sys; sys.path.insert(0, {str(tests)!r})\n"
        "import faml\nfrom test_disk_faults import SETTINGS\n"
        "faml.run(sys.argv[1], sys.argv[2], report=False, **SETTINGS)\n"
    )
    subprocess.run(
        [sys.executable, "-c", text, str(folder), str(tmp_path / "run")],
        check=True, env=os.environ | {"PYTHONHASHSEED": seed},
    )  # fmt: skip
    found, wanted = (read_run(each / "run.h5") for each in (tmp_path / "run", expected.directory))
    assert_states_equal(found.state, wanted.state)
    for name in ("class_001.mrc", "wedge.mrc"):
        mine = (tmp_path / "run" / name).read_bytes()
        assert mine == (expected.directory / name).read_bytes()


def test_a_clock_that_goes_backwards_changes_nothing(folder, expected, tmp_path, monkeypatch):
    """An hour per look, and input files from the future."""
    import logging.handlers  # noqa: F401 - before time stops
    import time

    mine = shutil.copytree(folder, tmp_path / "particles")
    for path in mine.iterdir():
        os.utime(path, (4e9, 4e9))
    now = [2e9]

    def backwards():
        now[0] -= 3600.0
        return now[0]

    with monkeypatch.context() as changed:
        changed.setattr(time, "time", backwards)
        changed.setattr("logging.time.time", backwards)
        found = run(mine, tmp_path / "run")
    np.testing.assert_array_equal(found.state.model.volumes, expected.state.model.volumes)
    log = read_run_log(tmp_path / "run" / "run.log")
    assert log.began > log.ended  # the clock did go back
    assert log.seconds == 0.0
    assert set(log.iteration_seconds.values()) == {0.0}


def test_time_before_a_clock_was_set_back_counts(tmp_path):
    lines = [("10:00:00", "python 3.11"), ("10:00:10", "iteration 0: log-likelihood 1"),
             ("09:00:20", "iteration 1: log-likelihood 2"),
             ("09:00:50", "iteration 2: log-likelihood 3")]  # fmt: skip
    day = datetime(2026, 1, 2).date()
    text = "".join(f"{day} {when},000 INFO {what}\n" for when, what in lines)
    (tmp_path / "run.log").write_text(text)
    log = read_run_log(tmp_path / "run.log")
    assert log.seconds == 40.0
    assert log.iteration_seconds == {0: 10.0, 1: 0.0, 2: 30.0}


def test_no_word_of_what_is_kept_where_nothing_is(tmp_path):
    checkpoint = HDF5Checkpoint(tmp_path / "run.h5", build_config(), None)
    error = InputDataError("a fault")
    checkpoint.explain(error)
    assert str(error) == "a fault"
