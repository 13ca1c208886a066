"""Particles visited by Dask workers: the same bits, whoever dies, hangs or never comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import cluster_plans as plans
import numpy as np
import psutil
import pytest
from phantoms import simulated
from runs import EM, SEARCH, assert_states_equal, settings, write_folder
from typer.testing import CliRunner

import faml
from faml.cli.app import app
from faml.clock import StageClock
from faml.cluster import check_cluster, connected, dask_workers, remote
from faml.cluster.connect import BatchSystem
from faml.config import build_config
from faml.em.loop import EmRun
from faml.em.workers import Threads
from faml.errors import ClusterError, ConfigurationError, InputDataError
from faml.io.checkpoint import read_run
from faml.particles import wedge_weight

distributed = pytest.importorskip("distributed")
# Processes that end do so with sockets open.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)

ITEMS = range(8)
SQUARES = [item * item for item in ITEMS]


@pytest.fixture(scope="module")
def workers():
    with connected("local:2") as found:
        yield found


@pytest.fixture
def marks(tmp_path):
    return plans.Marks(tmp_path)


def particles(count, box=16, seed=2):
    weight = wedge_weight(box, (-60.0, 45.0))
    return simulated(n=box, count=count, weight=weight, noise=0.5, seed=seed)[0]


def mapped(workers, plan, task, items=ITEMS, clock=None):
    return list(workers.begin(plan, PARTICLES, clock or StageClock()).map(task, items))


PARTICLES = particles(1, box=8)


@pytest.mark.parametrize(("whole", "half_sets"), [(False, True), (True, False)])
def test_same_bits_as_threads(workers, whole, half_sets, monkeypatch):
    """Three blocks in a group, two classes with balanced fractions, odd number of particles."""
    some = particles(23)
    em = EM | {"iterations": 2, "classes": 2, "chunk_size": 1, "folds": 1, "half_sets": half_sets}
    config = build_config(search=SEARCH, em=em)
    monkeypatch.setattr(type(workers), "take_whole_blocks", lambda *_: whole)
    here, there = EmRun(some, config), EmRun(some, config, workers=workers)
    a, b = list(here.states()), list(there.states())
    for mine, theirs in zip(a, b, strict=True):
        assert_states_equal(mine, theirs)
    assert_states_equal(here.finish(a[-1]), there.finish(b[-1]))


def test_threads_do_not_matter_to_blocks():
    some = particles(21)
    config = build_config(search=SEARCH, em=EM | {"iterations": 1, "chunk_size": 1, "folds": 1})
    states = [list(EmRun(some, config, workers=Threads(n)).states()) for n in (1, 3)]
    for mine, theirs in zip(*states, strict=True):
        assert_states_equal(mine, theirs)


def test_time_of_workers_is_counted(workers, marks):
    clock = StageClock()
    assert mapped(workers, marks, plans.square, clock=clock) == SQUARES
    assert set(clock.seconds) == {"beginning"}


def test_no_items_no_results(workers, marks):
    assert mapped(workers, marks, plans.square, items=()) == []


def test_what_dies_with_a_worker_is_done_again(workers, marks):
    """Also what workers shared: each is killed, in turn."""
    assert mapped(workers, marks, plans.die_once) == SQUARES
    assert len(list(marks.folder.iterdir())) == 3


def test_particles_that_kill_every_worker_are_given_up(marks, monkeypatch):
    monkeypatch.setattr(dask_workers, "_DEATHS", 0)
    monkeypatch.setattr("faml.cluster.connect._ALLOWED_FAILURES", 0)
    with (
        connected("local:1") as found,
        pytest.raises(ClusterError, match="workers died 1 times over the same particles"),
    ):
        mapped(found, marks, plans.die, items=[1])


def test_what_takes_too_long_is_sent_out_once_more(workers, marks, monkeypatch):
    """The first try hangs until the others are done, which they are with the second."""
    monkeypatch.setattr(dask_workers, "_SLOW_S", 0.5)
    assert mapped(workers, marks, plans.hang_once) == SQUARES
    (marks.folder / "go on").touch()


def test_errors_say_which_particle_and_which_worker(workers, marks):
    with pytest.raises(InputDataError, match=r"^particle three: .+ \(on worker "):
        mapped(workers, marks, plans.refuse)
    with pytest.raises(ClusterError, match=r"worker on .+Input/output error: 'particles.h5'"):
        mapped(workers, marks, plans.lose_the_disk)
    assert mapped(workers, marks, plans.square) == SQUARES


def test_unreadable_particles_are_named(workers):
    broken = particles(6)
    broken.volumes.arrays[4, 0, 0, 0] = np.nan
    config = build_config(search=SEARCH, em=EM | {"iterations": 1})
    with pytest.raises(InputDataError, match=r"particle_00005: found NaN .+ \(on worker "):
        list(EmRun(broken, config, workers=workers).states())


def test_workers_of_another_version_are_refused(workers, marks, monkeypatch):
    versions = (*remote.fingerprint()[1:], ("faml", "99.1"))
    parcel = remote.Parcel

    def newer(key, value):
        return replace(parcel(key, value), fingerprint=versions)

    monkeypatch.setattr(dask_workers, "Parcel", newer)
    with pytest.raises(ClusterError, match=r"expected faml 99.1 .+ found .+ install the same"):
        mapped(workers, marks, plans.square)


def test_no_worker_no_end(marks):
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as cluster,
        distributed.Client(cluster) as client,
        pytest.raises(ClusterError, match=r"there has been no worker for \d+ s; start some"),
    ):
        mapped(dask_workers.DaskWorkers(client, 1.5), marks, plans.square)


def test_a_scheduler_that_is_gone(marks):
    with distributed.LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as cluster:
        client = distributed.Client(cluster)
        found = dask_workers.DaskWorkers(client, 60.0)
    with pytest.raises(ClusterError, match="scheduler is lost"):
        mapped(found, marks, plans.square)
    client.close()


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ("here", "expected local:N, the address of a scheduler"),
        ("local:0", "number of processes from 1"),
        ("local:two", "number of processes from 1"),
        ("local:", "number of processes from 1"),
        ("none.toml", "expected a file, found none"),
        ("none.json", "expected a file, found none"),
        ("http://host", "expected local:N"),
    ],
)
def test_what_is_no_cluster(cluster, message):
    with pytest.raises(ConfigurationError, match=message):
        check_cluster(cluster)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jobs = 2\nadapt = [1, 2]", "found both"),
        ("[options]\ncores = 1", "found neither"),
        ("jobs = 0", "jobs: .+ found 0"),
        ("kind = 'cron'\njobs = 1", "kind: .+ found 'cron'"),
        ("job = 3", "unknown setting job in"),
        ("jobs = ", "not readable as TOML"),
    ],
)
def test_batch_systems_that_are_none(text, message, tmp_path):
    path = tmp_path / "slurm.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        check_cluster(str(path))


def test_options_of_a_batch_system_that_do_not_suit_it(tmp_path):
    path = tmp_path / "slurm.toml"
    path.write_text("jobs = 1\n[options]\ncolours = 3\ncores = 1\nmemory = '1GB'")
    with pytest.raises(ConfigurationError, match=r"do not suit SLURMCluster: .*colours"):  # noqa: SIM117
        with connected(str(path)):
            pass


def test_batch_systems_have_their_classes():
    import dask_jobqueue

    from faml.cluster.connect import _BATCH_CLASSES

    kinds = BatchSystem.model_fields["kind"].annotation.__args__
    assert set(kinds) == set(_BATCH_CLASSES)
    assert all(hasattr(dask_jobqueue, name) for k, name in _BATCH_CLASSES.items() if k != "local")


def test_no_scheduler_at_an_address():
    import dask

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(ClusterError, match="no scheduler or no worker could be reached"),
        connected("tcp://127.0.0.1:9"),
    ):
        pass


def test_dask_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(ConfigurationError, match=r"pip install 'faml\[cluster\]'"),
        connected("local:1"),
    ):
        pass


def _no_faml():
    raise ModuleNotFoundError("No module named 'faml'")


def test_workers_without_faml(monkeypatch):
    monkeypatch.setattr("faml.cluster.connect.processor", _no_faml)
    with (
        pytest.raises(ClusterError, match="No module named 'faml'; install faml with its extra"),
        connected("local:1"),
    ):
        pass


def test_command_line_refuses_what_is_no_cluster(tmp_path):
    folder = write_folder(tmp_path / "particles", count=3)
    said = CliRunner().invoke(
        app, ["run", str(folder), "-o", str(tmp_path / "run"), "--cluster", "cloud"]
    )
    assert said.exit_code != 0
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_jobs_of_a_batch_system(tmp_path, marks, monkeypatch):
    tests = str(__file__).rpartition("/")[0]
    monkeypatch.setenv("PYTHONPATH", tests, prepend=os.pathsep)  # for plans of this test alone
    path = tmp_path / "local.toml"
    path.write_text(
        "kind = 'local'\njobs = 1\nwait_minutes = 2\n"
        "[options]\ncores = 1\nprocesses = 1\nmemory = '1GB'\n"
    )
    with connected(str(path)) as found:
        assert mapped(found, marks, plans.square) == SQUARES


_CHILD = """
import sys
sys.path.insert(0, {tests!r})
import faml
from runs import settings
if __name__ == "__main__":
    faml.run([sys.argv[1]], sys.argv[2], cluster="local:1", **settings(iterations=1000))
"""


@pytest.mark.slow
def test_end_of_walltime_leaves_a_run_to_resume_and_no_worker(tmp_path):
    folder, target = write_folder(tmp_path / "particles", count=6), tmp_path / "run"
    script = tmp_path / "child.py"
    script.write_text(_CHILD.format(tests=str(__file__).rpartition("/")[0]))
    with subprocess.Popen(
        [sys.executable, script, folder, target], stderr=subprocess.PIPE, text=True
    ) as process:
        end = time.monotonic() + 240
        while not (target / "run.h5").exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < end
            time.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.send_signal(signal.SIGTERM)
        said = process.stderr.read()
        process.wait()
    assert "is kept; continue with: faml resume" in said
    assert not psutil.wait_procs(children, timeout=60)[1]
    kept = read_run(target / "run.h5").state.iteration
    resumed = faml.resume(target, iterations=kept + 1)
    whole = faml.run([folder], tmp_path / "whole", **settings(iterations=kept + 1))
    assert_states_equal(resumed.state, whole.state)
