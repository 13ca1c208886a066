"""`faml watch`: the local server lets nobody else in, and both views follow the run."""

from __future__ import annotations

import http.client
import io
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import h5py
import numpy as np
import pytest
from report_runs import checkpoint, state
from rich.console import Console

from faml.cli.app import main
from faml.config import build_config
from faml.errors import CheckpointError, ConfigurationError
from faml.io.checkpoint import HDF5Checkpoint, read_run
from faml.io.history import read_history
from faml.io.lock import only_one
from faml.report.run_data import load_run_data
from faml.watch.dashboard import dashboard, follow, iteration_line, sparkline
from faml.watch.live import WAITING, LivePage, RunWatcher, nothing_yet
from faml.watch.server import WatchServer

CLASSES, COUNT, BOX = 2, 9, 12


class Run:
    """A run that goes on when it is told to."""

    def __init__(self, directory):
        self.directory = directory
        self._kept = None

    def begin(self):
        checkpoint(self.directory, classes=CLASSES, count=COUNT, iterations=0, box=BOX)
        stored = read_run(self.directory / "run.h5")
        particles = _Particles(stored)
        config = build_config(data={"tilt_range_deg": (-50.0, 65.0)}, em={"classes": CLASSES})
        self._kept = HDF5Checkpoint(self.directory / "run.h5", config, particles)
        self.save(0)

    def save(self, iteration):
        self._kept.save(state(iteration, CLASSES, COUNT, BOX))


class _Particles:
    """What a checkpoint says of its particles."""

    def __init__(self, stored):
        self.names = stored.names
        self.box = stored.box
        self.voxel_size_angstrom = stored.voxel_size_angstrom

    def __len__(self):
        return len(self.names)


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run")


@pytest.fixture
def server(run):
    made = WatchServer(LivePage(run.directory, 1.0))
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def ask(server, path, method="GET", host=None):
    """Status, headers and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.putrequest(method, path, skip_host=True)
        if host != "":
            connection.putheader("Host", host or f"127.0.0.1:{server.port}")
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()
    finally:
        connection.close()


def below(server, name=""):
    return f"/{server.token}/{name}"


# ---------------------------------------------------------------------- who is let in


def test_only_the_address_with_the_token_is_answered(server, run):
    run.begin()
    assert ask(server, below(server, "version"))[::2] == (200, "0")
    wrong = server.token[:-1] + ("A" if server.token[-1] != "A" else "B")
    for path in (
        "/", "/version", f"/{server.token}", f"/{wrong}/version", f"/{wrong}/", "//version",
        f"/{server.token}/version/", f"/{server.token}//version", f"/{server.token.lower()}/", "*",
    ):  # fmt: skip
        status, _, body = ask(server, path)
        assert status == 404, path
        assert server.token not in body


def test_tokens_cannot_be_guessed_and_differ(run):
    tokens = set()
    for _ in range(3):
        with WatchServer(LivePage(run.directory, 1.0)) as made:
            tokens.add(made.token)
    assert len(tokens) == 3
    assert all(len(token) >= 32 for token in tokens)


def test_an_invitation_is_good_once(server, run):
    """What a browser is started with can be read by everyone who lists processes."""
    old, ticket = server.invitation(), server.invitation()
    assert server.token not in ticket
    path = ticket.partition(f":{server.port}")[2]
    assert ask(server, old.partition(f":{server.port}")[2])[0] == 404  # a newer one replaces it
    assert ask(server, path + "version")[0] == 404
    assert ask(server, path, "HEAD")[0] == 404
    assert ask(server, path, host="attacker.example")[0] == 403
    status, headers, _ = ask(server, path)
    assert (status, headers["Location"]) == (303, below(server))
    assert ask(server, path)[0] == 404
    assert ask(server, "//")[0] == 404


def test_browser_is_opened_where_there_is_a_screen(run, monkeypatch):
    import faml.watch.server as module

    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)

    def interrupted(self, poll_interval):
        raise KeyboardInterrupt

    monkeypatch.setattr(module.WatchServer, "serve_forever", interrupted)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    expected = [0, 0, 1] if sys.platform != "darwin" else [1, 0, 1]
    for screen, option, count in zip(("", ":0", ":0"), ("--browser", "--no-browser", "--browser"),
                                     expected, strict=True):  # fmt: skip
        opened.clear()
        monkeypatch.setenv("DISPLAY", screen)
        with pytest.raises(SystemExit) as caught:
            main(["watch", str(run.directory), option])
        assert caught.value.code == 0
        assert len(opened) == count


@pytest.mark.parametrize(
    "name",
    ["../../run.h5", "run.h5", "..%2f..%2frun.h5", "%2e%2e/run.h5", "config.toml",
     "version/../run.h5", "/etc/passwd", "....//run.h5", "..\\run.h5", "version%00"],
)  # fmt: skip
def test_no_file_is_served(server, run, name):
    run.begin()
    assert ask(server, below(server, name))[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_it_is_read_only(server, run, method):
    status, headers, _ = ask(server, below(server), method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


def test_unknown_methods_are_refused(server, run):
    assert ask(server, below(server), "STEAL")[0] == 501


@pytest.mark.parametrize(
    "host", ["attacker.example", "attacker.example:80", "127.0.0.1.attacker.example", "", "[::1",
             "localhost@attacker.example", "10.0.0.1"],
)  # fmt: skip
def test_other_hosts_are_refused(server, run, host):
    """A name of somebody else that leads to 127.0.0.1 lets a page of theirs read ours."""
    run.begin()
    status, _, body = ask(server, below(server, "version"), host=host)
    assert status == 403
    assert server.token not in body


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "LOCALHOST"])
def test_a_tunnel_may_have_another_port(server, run, host):
    assert ask(server, below(server, "version"), host=host)[0] == 200


def test_headers_protect_page_and_token(server, run):
    run.begin()
    for path in (below(server), below(server, "version"), "/nothing"):
        _, headers, _ = ask(server, path)
        assert headers["Cache-Control"] == "no-store"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "Python" not in headers["Server"]


def test_head_has_no_body(server, run):
    status, headers, body = ask(server, below(server), "HEAD")
    assert (status, body) == (200, "")
    assert int(headers["Content-Length"]) > 100


def test_silent_connections_do_not_pile_up(server, run, monkeypatch):
    import faml.watch.server as module

    monkeypatch.setattr(module, "_MOST_THREADS", threading.active_count() + 3)
    opened = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(12)]
    try:
        closed = select.select(opened, [], [], 60)[0]
        end = time.monotonic() + 60
        while len(closed) < 8 and time.monotonic() < end:
            closed = select.select(opened, [], [], 0.05)[0]
        assert len(closed) == 8
        assert threading.active_count() == module._MOST_THREADS + 1
    finally:
        for each in opened:
            each.close()
    while threading.active_count() > module._MOST_THREADS - 2:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert ask(server, below(server, "version"))[0] == 200


def test_it_listens_on_the_loopback_interface_only(server, run):
    assert server.server_address[0] == "127.0.0.1"
    assert server.socket.getsockname()[0] == "127.0.0.1"


def test_a_port_in_use_is_one_line(run, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port} of 127.0.0.1 is in use"):
            WatchServer(LivePage(run.directory, 1.0), port)
        with pytest.raises(SystemExit) as caught:
            main(["watch", str(run.directory), "--no-browser", "--port", str(port)])
    assert caught.value.code == 2
    assert re.fullmatch(r"error: port [^\n]+--port[^\n]+\n", capsys.readouterr().err)


# ---------------------------------------------------------------------- what is shown


def test_page_follows_the_run(server, run):
    status, _, page = ask(server, below(server))
    assert status == 200
    assert "has not begun yet" in page
    assert 'http-equiv="refresh"' in page
    assert ask(server, below(server, "version"))[2] == WAITING
    run.begin()
    pages = []
    for iteration in range(2):
        run.save(iteration)
        assert ask(server, below(server, "version"))[2] == str(iteration)
        _, headers, page = ask(server, below(server))
        assert headers["Content-Type"].startswith("text/html")
        assert "has not begun" not in page
        pages.append(page)
    assert len(set(pages)) == 2


def test_page_is_rendered_once_per_iteration(run, monkeypatch):
    import faml.watch.live as module

    calls = []
    monkeypatch.setattr(
        module, "render_page", lambda data, **_: calls.append(data.version) or data.version
    )
    live = LivePage(run.directory, 1.0)
    run.begin()
    for iteration in (0, 1):
        run.save(iteration)
        for _ in range(3):
            assert live.version() == live.page() == str(iteration)
    assert calls == ["0", "1"]


def test_directory_names_are_no_html(tmp_path):
    page = LivePage(tmp_path / "<script>alert(1)</script>", 1.0).page()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_a_damaged_run_is_told_and_read_again_when_mended(run):
    run.directory.mkdir()
    (run.directory / "run.h5").write_bytes(b"no hdf5")
    live = LivePage(run.directory, 1.0)
    assert live.version() == WAITING
    assert "cannot be read" in live.page()
    assert "run.h5" in live.page()
    (run.directory / "run.h5").unlink()
    run.begin()
    assert live.version() == "0"


def test_a_file_damaged_later_leaves_the_last_state(run):
    run.begin()
    watcher = RunWatcher(run.directory)
    assert watcher.latest().iteration == 0
    (run.directory / "run.h5").write_bytes(b"no hdf5")
    assert watcher.latest().iteration == 0
    assert "run.h5" in watcher.problem


LOG = """\
2026-01-02 03:04:05,000 INFO faml 0.1.0, python 3.11
2026-01-02 03:05:05,000 INFO iteration 0: log-likelihood -1.0, aligned to 3 Angstrom
"""
FAILED = "2026-01-02 03:06:05,000 ERROR iteration 1 could not be saved\n"


def test_a_run_that_fails_is_shown_as_one(run):
    """Its checkpoint does not change any more."""
    run.begin()
    (run.directory / "run.log").write_text(LOG)
    live = LivePage(run.directory, 1.0)
    assert live.version() == "0"
    assert "iteration 1 could not be saved" not in live.page()
    with (run.directory / "run.log").open("a") as file:
        file.write(FAILED)
    assert live.version() == "0-failed"
    assert "The run ended with an error: iteration 1 could not be saved" in live.page()


def test_what_cannot_be_drawn_is_told_and_tried_again(run, monkeypatch):
    import faml.watch.live as module

    def fail(data, **_):
        raise ValueError("<b>broken</b>")

    run.begin()
    live = LivePage(run.directory, 1.0)
    with monkeypatch.context() as broken:
        broken.setattr(module, "render_page", fail)
        page = live.page()
    assert "unexpected ValueError: &lt;b&gt;broken" in page
    assert 'http-equiv="refresh"' in page
    assert "What to do next" in live.page()


def test_what_cannot_be_read_is_told(run, monkeypatch):
    import faml.watch.live as module

    def fail(directory):
        raise ValueError("broken")

    run.begin()
    monkeypatch.setattr(module, "load_run_data", fail)
    watcher = RunWatcher(run.directory)
    assert watcher.latest() is None
    assert "unexpected ValueError: broken" in watcher.problem


# ---------------------------------------------------------------------- terminal


def test_names_do_not_command_the_terminal(run):
    run.begin()
    (run.directory / "run.log").write_text(
        LOG + "2026-01-02 03:06:05,000 WARNING a\x1b]0;title\x07.mrc is dark\n"
    )
    data = load_run_data(run.directory)
    out = Piped()
    Console(file=out, width=160).print(dashboard(data, problem="b\x1b[2J"))
    assert "\x1b" not in out.getvalue()
    assert r"a\x1b]0;title\x07.mrc is dark" in out.getvalue()
    assert r"b\x1b[2J" in out.getvalue()


def printed(picture, width=160):
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(picture)
    return console.export_text()


def test_dashboard_shows_the_numbers_of_the_checkpoint(run):
    run.begin()
    for iteration in range(1, 4):
        run.save(iteration)
    data = load_run_data(run.directory)
    text = printed(dashboard(data))
    history = read_history(run.directory / "run.h5")
    rows = [line.split() for line in text.splitlines() if re.match(r"\s*\d+ ", line)]
    assert [int(row[0]) for row in rows] == [0, 1, 2, 3]
    for row, record in zip(rows, history, strict=True):
        assert float(row[1]) == pytest.approx(record.log_likelihood, abs=0.05)
        assert f"{120 / record.align_shell:.1f}" in row  # a box of 12 voxels of 10 Angstrom
        assert f"{record.effective_poses:.2f}" in row
        shares = [f"{100 * share:.0f}" for share in record.class_fractions]
        assert " ".join(shares) in " ".join(row)
    assert "3 of at most 40" in text
    for k in range(CLASSES):
        assert f"{data.class_counts[k]} particles" in text
    # Only iterations 2 and 3 are aligned to the present shell.
    assert f"{sparkline([-85.0, -77.5])}  -77.5" in text


def test_dashboard_tells_the_last_warning_and_halves(run, monkeypatch):
    run.begin()
    good, bad = np.ones(6), np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    from dataclasses import replace

    run._kept.save(replace(state(1, CLASSES, COUNT, BOX), fsc=np.stack([bad, good])))
    (run.directory / "run.log").write_text(
        "2026-01-02 03:04:05,000 INFO faml 0.1.0, python 3.11\n"
        "2026-01-02 03:05:05,000 WARNING [first] of all\n"
        "2026-01-02 04:06:05,000 WARNING class 2 has lost its [bold] particles\n"
    )
    text = printed(dashboard(load_run_data(run.directory)))
    assert "last warning: class 2 has lost its [bold] particles" in text
    assert "1 h 2 min" in text
    first = re.search(r"class 1 .*halves agree to ([\d.]+) Angstrom", text)
    assert 30.0 < float(first[1]) <= 60.0  # between shells 2 and 3 of 120 Angstrom
    assert printed(dashboard(load_run_data(run.directory), problem="too [red] late"))


@pytest.mark.parametrize("classes", [2, 4, 7])
def test_dashboard_fits_a_terminal_of_80_columns(tmp_path, classes):
    directory = checkpoint(
        tmp_path / "run", classes=classes, count=40, em={"half_sets": True}, box=12
    )
    with h5py.File(directory / "run.h5", "a") as file:
        file["iterations/000003/fsc"] = np.ones((classes, 6))
        file["iterations/000003"].attrs["log_likelihood"] = -1414614.3
    data = load_run_data(directory)
    assert data.history[-1].log_likelihood == -1414614.3
    text = printed(dashboard(data), width=80)
    assert "…" not in text
    for word in ("iteration", "likelihood", "aligned to", "occupancy", "effective", "turned",
                 "moved", "halves", "-1414614.3"):  # fmt: skip
        assert word in text


def test_dashboard_knows_whether_a_process_is_at_work(run):
    run.begin()
    data = load_run_data(run.directory)
    assert "running, or stopped without notice" in printed(dashboard(data))
    with only_one(run.directory):
        assert re.search(r"^state +running *$", printed(dashboard(data)), re.M)
    assert "stopped without notice; faml resume continues" in printed(dashboard(data))
    with only_one(run.directory):  # looking has left no lock
        pass


def test_what_is_waited_for(tmp_path):
    directory = tmp_path / "run"
    assert nothing_yet(directory) == f"{directory}: not there yet; waiting for the run"
    directory.mkdir()
    assert nothing_yet(directory) == f"no run in {directory} yet; waiting"
    (directory / "run.log").write_text(LOG)
    assert nothing_yet(directory) == f"{directory}: no complete iteration yet; waiting"


def test_page_and_pipe_say_that_there_is_no_run(tmp_path, monkeypatch, capsys):
    def end(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(WatchServer, "serve_forever", end)
    with pytest.raises(SystemExit) as caught:
        main(["watch", str(tmp_path), "--no-browser"])
    assert caught.value.code == 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first == f"no run in {tmp_path} yet; waiting"
    assert second.startswith("http://127.0.0.1:")
    out = Piped()
    with pytest.raises(KeyboardInterrupt):
        follow(RunWatcher(tmp_path), Console(file=out), interval_seconds=1, pause=end)
    assert out.getvalue().startswith(f"no run in {tmp_path} yet; waiting")


def test_sparkline_spans_its_values():
    assert sparkline([1.0, 2.0, 3.0]) == "▁▅█"
    assert sparkline([5.0, 5.0]) == "▁▁"
    assert sparkline([]) == sparkline([float("nan")]) == ""
    assert sparkline([0.0, 1.0], "ab") == "ab"


class Piped(io.StringIO):
    encoding = "utf-8"


def test_piped_output_is_a_line_per_iteration(run):
    run.begin()
    out = Piped()
    steps = iter([lambda: run.save(1), lambda: None, lambda: (run.save(2), run.save(3))])

    def pause(seconds):
        assert seconds == 0.5
        step = next(steps, None)
        if step is None:
            raise KeyboardInterrupt
        step()

    with pytest.raises(KeyboardInterrupt):
        follow(RunWatcher(run.directory), Console(file=out), interval_seconds=0.5, pause=pause)
    lines = out.getvalue().splitlines()
    data = load_run_data(run.directory)
    assert lines == [iteration_line(record, data) for record in data.history]
    assert len(lines) == 4
    assert lines[3].startswith("iteration   3  log-likelihood -77.5  aligned to 30.0 Angstrom")


def test_piped_output_tells_an_error_once_per_iteration(run):
    run.begin()
    (run.directory / "run.log").write_text(LOG + FAILED)
    steps = iter([lambda: None, lambda: run.save(1)])
    out = Piped()

    def pause(seconds):
        step = next(steps, None)
        if step is None:
            raise KeyboardInterrupt
        step()

    with pytest.raises(KeyboardInterrupt):
        follow(RunWatcher(run.directory), Console(file=out), interval_seconds=1, pause=pause)
    lines = out.getvalue().splitlines()
    assert [line[:13] for line in lines[::2]] == ["iteration   0", "iteration   1"]
    assert lines[1] == "failed: iteration 1 could not be saved"
    assert len(lines) == 4


def test_terminal_is_drawn_anew_with_each_iteration(run):
    out = Piped()
    steps = iter([run.begin, lambda: run.save(1), lambda: None])

    def pause(seconds):
        step = next(steps, None)
        if step is None:
            raise KeyboardInterrupt
        step()

    console = Console(file=out, force_terminal=True, width=140)
    with pytest.raises(KeyboardInterrupt):
        follow(RunWatcher(run.directory), console, interval_seconds=1, pause=pause)
    text = out.getvalue()
    assert "not there yet; waiting" in text
    assert "0 of at most 40" in text
    assert "1 of at most 40" in text


def test_once_shows_and_ends(run, capsys):
    with pytest.raises(CheckpointError, match=r"expected a run with run\.h5, found none; give the"):
        follow(RunWatcher(run.directory), Console(), interval_seconds=1, once=True)
    with pytest.raises(SystemExit) as caught:
        main(["watch", str(run.directory), "--tui", "--once"])
    assert caught.value.code == 4
    assert re.fullmatch(r"error: [^\n]+\n", capsys.readouterr().err)
    run.begin()
    with pytest.raises(SystemExit) as caught:
        main(["watch", str(run.directory), "--tui", "--once"])
    assert caught.value.code == 0
    assert "0 of at most 40" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--once"], "--once is for --tui"), (["--tui", "--port", "1"], "--port is of the page"),
     (["--port", "99999"], "--port"), (["--interval", "0"], "interval")],
)  # fmt: skip
def test_options_that_do_not_go_together(run, capsys, options, message):
    with pytest.raises(SystemExit) as caught:
        main(["watch", str(run.directory), *options])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_both_views_see_the_end_of_a_run(finished_run):
    out = Piped()
    follow(RunWatcher(finished_run), Console(file=out), interval_seconds=1)  # returns by itself
    lines = out.getvalue().splitlines()
    assert [line[:13] for line in lines[:2]] == ["iteration   0", "iteration   1"]
    assert len(lines) == 3
    assert "halves agree to" in lines[1]
    assert LivePage(finished_run, 1.0).version() == "1-final"


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--no-browser"], ["--tui"]])
def test_ctrl_c_ends_it_cleanly(run, options):
    run.begin()
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "faml", "watch", str(run.directory), *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    ) as process:  # fmt: skip
        assert process.stdout.readline()
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")


# ---------------------------------------------------------------------- browser


def chromium():
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for path in map(shutil.which, names) if path), None)


@pytest.mark.slow
def test_browser_reloads_with_a_new_iteration(server, run):
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = chromium()
    if path is None:
        pytest.skip("no chromium on the PATH")
    run.begin()
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page()
        asked, told = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.set_default_timeout(180_000)  # the page is drawn when it is asked for
        page.goto(server.url)
        before = page.content()
        run.save(1)
        with page.expect_navigation():
            pass
        assert page.url == server.url
        assert page.content() != before
        assert sum(url == server.url for url in asked) == 2
        inside = f"http://127.0.0.1:{server.port}/{server.token}/"
        assert {url for url in asked if not url.startswith(("data:", "blob:"))} == {
            inside, inside + "version",
        }  # fmt: skip
        assert told == []
        colour = "getComputedStyle(document.getElementById('live'), '::before').backgroundColor"
        live = page.evaluate(colour)
        page.route("**/version", lambda route: route.abort())
        page.get_by_text("no connection to faml watch").wait_for()
        assert page.evaluate(colour) != live
        browser.close()
