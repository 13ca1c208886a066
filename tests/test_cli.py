"""The command line: what it prints, exit codes, bad input, Ctrl-C."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from runs import OPTIONS, write_folder

import faml
from faml.cli import demo as demo_module
from faml.cli.display import RunDisplay
from faml.cli.run import merged_settings
from faml.em.loop import EmRun
from faml.errors import ConfigurationError
from faml.io.checkpoint import read_run

TOML = """
[search]
max_candidates = 6
voronoi_samples = 200
max_bandwidth = 6
keep_previous = 3

[em]
seed = 4
iterations = 2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("particles"), count=6)


@pytest.fixture
def options(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text(TOML)
    return [*OPTIONS, "--config", path]


def one_line(err):
    """The error, which must be one line and no stack trace."""
    assert re.fullmatch(r"error: [^\n]+\n", err), err
    return err


def left(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "settings.toml")


# ---------------------------------------------------------------------- help


def test_help_tells_commands_and_exit_codes(cli):
    code, out, _ = cli("--help")
    assert code == 0
    for word in ("run", "resume", "inspect", "strategies", "demo", "Exit codes", "130"):
        assert word in out


@pytest.mark.parametrize(
    "command",
    [
        "run",
        "resume",
        "inspect",
        "symmetry",
        "simulate",
        "evaluate",
        "report",
        "snr",
        "compare",
        "demo",
        "strategies",
    ],
)
def test_help_of_commands(cli, command):
    code, out, err = cli(command, "--help")
    assert (code, err) == (0, "")
    assert "Usage" in out


def test_options_of_run_are_those_promised(cli):
    _, out, _ = cli("run", "--help")
    for option in (
        "--output", "--tilt-range", "--tilt-axis", "--voxel-size", "--classes", "--strategy",
        "--iterations",
        "--seed", "--threads", "--max-shift", "--particle-diameter", "--start", "--start-lowpass",
        "--preset", "--local-angle", "--subset", "--invert", "--normalise", "--max-candidates",
        "--update", "--max-shell", "--max-resolution", "--config", "--quiet",
        "--refine", "--no-refine", "--proposal", "--folds", "--angular-step", "--shift-step",
        "--oversampling", "--posterior-mass", "--max-poses",
    ):  # fmt: skip
        assert option in out, option


def test_version(cli):
    assert cli("--version") == (0, f"faml {faml.__version__}\n", "")


def test_help_does_not_import_what_is_slow():
    program = (
        "import sys\n"
        "sys.argv = ['faml', 'run', '--help']\n"
        "import runpy\n"
        "try: runpy.run_module('faml', run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0\n"
        "slow = {'numba', 'pyshtools', 'scipy', 'h5py', 'matplotlib', 'pandas'}\n"
        "slow &= set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_strategies_are_listed(cli):
    code, out, _ = cli("strategies")
    assert code == 0
    assert re.search(r"fa\b.*faml 0", out)
    assert "FastAlignmentMaximumLikelihood" in out


# ---------------------------------------------------------------------- runs


def test_run_says_what_it_does(cli, folder, options, tmp_path):
    code, out, err = cli("run", folder, "-o", tmp_path / "run", *options)
    assert (code, out) == (0, "")
    told = err.splitlines()
    # Six particles with one wedge do leave something unobserved.
    assert sum(line.startswith("warning") for line in told) <= 1
    lines = [line for line in told if not line.startswith("warning")]
    for number in range(3):
        assert lines[number].startswith(f"iteration   {number}  log-likelihood")
    words = ("aligned to", "Å", "occupancy 100 %", "effective poses", "moved", "deg", "voxel")
    assert all(word in lines[2] for word in words)
    assert "stopped after 2 iterations, not converged; continue with: faml resume" in lines[3]
    assert lines[4].endswith("class_001.mrc, particles.star, run.h5; pictures in slices.png")


def test_run_without_any_option_but_the_wedge(cli, folder, tmp_path):
    """All defaults: nothing but iterations is limited here."""
    code, _, err = cli(
        "run", folder, "-o", tmp_path / "run", "--tilt-range", -60, 60, "--iterations", 1
    )
    assert code == 0, err
    assert read_run(tmp_path / "run" / "run.h5").config.em.start == "random"


def test_every_option_arrives(cli, folder, tmp_path):
    code, _, err = cli(
        "run", folder, "-o", tmp_path / "run", "--tilt-range", -60, 60, "--tilt-axis", "x",
        "--voxel-size", 8, "--classes", 2, "--strategy", "fa", "--iterations", 0, "--seed", 9,
        "--threads", 2,
        "--max-shift", 1.5, "--particle-diameter", 100, "--start", "average", "--start-lowpass", 40,
        "--preset", "paper", "--update", "ratio", "--max-candidates", 7, "--max-shell", 6,
        "--subset", 4, "--invert", "--normalise", "never", "--refine",
        "--proposal", "phase", "--folds", 3, "--angular-step", 20, "--shift-step", 0.7,
        "--oversampling", 1, "--posterior-mass", 0.9, "--max-poses", 70,
    )  # fmt: skip
    assert code == 0, err
    config = read_run(tmp_path / "run" / "run.h5").config
    data, search, em = config.data, config.search, config.em
    assert (config.preset, config.threads) == ("paper", 2)
    assert (data.tilt_range_deg, data.tilt_axis) == ((-60, 60), "x")
    assert (data.voxel_size_angstrom, data.particle_diameter_angstrom) == (8, 100)
    assert (data.invert, data.normalise, data.subset) == (True, "never", 4)
    assert (search.strategy, search.max_shift_voxels, search.max_candidates) == ("fa", 1.5, 7)
    assert (search.voronoi_measure, search.refine) == ("euler", True)
    assert (em.classes, em.iterations, em.seed, em.start) == (2, 0, 9, "average")
    assert (em.start_lowpass_angstrom, em.update, em.max_shell) == (40, "ratio", 6)
    assert em.noise == "scalar"
    assert (search.proposal, search.angular_step_deg, search.shift_step_voxels) == (
        "phase",
        20,
        0.7,
    )
    assert (search.oversampling, search.posterior_mass, search.max_poses) == (1, 0.9, 70)
    assert em.folds == 3


def test_quiet_prints_nothing(cli, folder, options, tmp_path):
    assert cli("run", folder, "-o", tmp_path / "run", "--quiet", *options) == (0, "", "")
    assert cli("resume", tmp_path / "run", "-q", "--iterations", 3) == (0, "", "")
    assert cli("resume", tmp_path / "run", "-q") == (0, "", "")


def test_resume(cli, folder, options, tmp_path):
    assert cli("run", folder, "-o", tmp_path / "run", "-q", *options)[0] == 0
    code, _, err = cli("resume", tmp_path / "run")
    assert code == 0
    assert "nothing to continue: iteration 2 is done" in err
    assert "--iterations with more than 2" in err
    code, _, err = cli("resume", tmp_path / "run", "--iterations", 3, "--threads", 2)
    assert code == 0
    assert err.startswith("iteration   3")


def test_a_run_is_repeated_from_its_configuration(cli, folder, options, tmp_path):
    assert cli("run", folder, "-o", tmp_path / "a", "-q", *options)[0] == 0
    config = tmp_path / "a" / "config.toml"
    assert cli("run", "--config", config, "-o", tmp_path / "b", "-q")[0] == 0
    maps = [(tmp_path / name / "class_001.mrc").read_bytes()[1024:] for name in "ab"]
    assert maps[0] == maps[1]


def test_options_win_over_the_configuration(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text(
        'preset = "paper"\nthreads = 63\n[em]\nseed = 4\nclasses = 3\n[data]\ninvert = true\n'
    )
    empty = {"data": {}, "search": {}, "em": {"seed": None, "classes": None}}
    values = merged_settings(path, preset=None, threads=None, **empty)
    assert (values["preset"], values["em"]) == ("paper", {"seed": 4, "classes": 3})
    assert values["data"] == {"invert": True}
    assert values["threads"] != 63
    given = empty | {"em": {"seed": 0, "classes": 2}}
    values = merged_settings(path, preset="robust", threads=2, **given)
    assert (values["preset"], values["em"]) == ("robust", {"seed": 0, "classes": 2})
    assert values["threads"] == 2
    assert merged_settings(None, preset=None, threads=1, **empty)["preset"] == "robust"
    path.write_text("em = 3\n")
    with pytest.raises(ConfigurationError, match=r"expected a table \[em\]"):
        merged_settings(path, preset=None, threads=None, **empty)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("progress = 3", "unknown setting progress; settings stand in the tables [data]"),
        ('[data]\ninputs = "boxes"', "data.inputs: expected a list of paths, found 'boxes'"),
        ("[em]\nclasse = 2", "unknown setting em.classe"),
        ("em = 3", "expected a table [em], found 3"),
        ("[data]\nvoxel_size_angstrom = inf", "voxel_size_angstrom"),
    ],
)
def test_configuration_that_is_not_one(cli, tmp_path, text, message):
    (tmp_path / "c.toml").write_text(text)
    arguments = [] if "inputs" in text else ["particles"]
    code, _, err = cli("run", *arguments, "-o", tmp_path / "run", "--config", tmp_path / "c.toml")
    assert code == 2
    assert message in " ".join(err.split())


def test_progress_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with RunDisplay(quiet=False) as display:
        for done in (2, 4):
            time.sleep(0.02)
            display.progress(done, 6)
            display._bar.refresh()
        display.progress(6, 6)
        assert not display._bar.tasks
    err = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert re.search(r"start .*4/6 \d+\.\d particles/s \d:\d\d:\d\d", err)


def test_no_bar_where_there_is_no_terminal(capsys):
    with RunDisplay(quiet=False) as display:
        display.progress(2, 6)
    assert capsys.readouterr().err == ""


def test_inspect(cli, folder):
    code, out, err = cli("inspect", folder, "--tilt-range", -60, 60)
    assert (code, err) == (0, "")
    for word in (
        "particles", "16^3 voxels", "10 Angstrom", "grey values", "tilts -60 to 60", "memory",
        "s per iteration", "conventions assumed", "RELION angles",
    ):  # fmt: skip
        assert word in out
    code, out, _ = cli("inspect", folder, "--subset", 3)
    assert code == 0
    assert "3 of 6" in out
    assert "give --tilt-range MIN MAX" in out


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--classes", "7"], 2, "7 classes for 6 particles"),
        (
            ["--strategy", "nonsense"],
            2,
            "unknown strategy 'nonsense'; installed are: exhaustive, fa, faml",
        ),
        (["--tilt-range", "60", "-60"], 2, "MIN < MAX"),
        (["--tilt-range", "10", "10"], 2, "MIN < MAX"),
        (["--classes", "0"], 2, "greater than or equal to 1, found 0"),
        (["--threads", "0"], 2, "threads"),
        (["--iterations", "-1"], 2, "iterations"),
        (["--preset", "nonsense"], 2, "expected one of paper, robust"),
        (["--update", "nonsense"], 2, "update"),
        (["--start", "nonsense"], 2, "unknown start 'nonsense'"),
        (["--start", "poses"], 3, "use --start random"),
        (["--start", "absent.mrc"], 3, "absent.mrc"),
        (["--local-angle", "10"], 3, "expected a STAR file"),
        (["--max-shift", "8"], 2, "lower --max-shift"),
        (["--max-resolution", "0"], 2, "finest resolution"),
        (["--particle-diameter", "1000"], 2, "exceeds the box"),
        (["--particle-diameter", "30"], 2, "at least 4 voxels (40 Angstrom), found 30"),
        (["--config", "absent.toml"], 2, "absent.toml: the file does not exist"),
        (["--classes", "many"], 2, "run --help"),
        (["--nonsense"], 2, "--nonsense"),
        (["--folds", "100"], 2, "at most as many folds as particles"),
        (["--folds", "2"], 2, "at least 3 folds"),
        (["--strategy", "exhaustive", "--angular-step", "0.3"], 2, "MB per thread, expected at"),
        (["--proposal", "nonsense"], 2, "unknown proposal 'nonsense'; known are: amplitude"),
        (["--max-poses", "0"], 2, "search.max_poses"),
        (["--posterior-mass", "1.5"], 2, "search.posterior_mass"),
    ],
)
def test_bad_settings(cli, folder, tmp_path, arguments, code, message):
    found, out, err = cli("run", folder, "-o", tmp_path / "run", *OPTIONS, *arguments)
    assert (found, out) == (code, "")
    assert message in one_line(err)
    assert left(tmp_path) == []


def test_bad_input(cli, folder, options, tmp_path):
    target = tmp_path / "run"
    code, _, err = cli("run", folder, "-o", target, "--config", options[-1])
    assert code == 3
    assert "give --tilt-range MIN MAX" in one_line(err)
    code, _, err = cli("run", tmp_path / "absent.mrc", "-o", target, *options)
    assert code == 3
    assert "absent.mrc" in one_line(err)
    code, _, err = cli("run", "-o", target, *options)
    assert code == 2
    assert "expected particles, found none" in one_line(err)
    code, _, err = cli("run", folder, *options)
    assert code == 2
    assert "--output" in one_line(err)
    code, _, err = cli("inspect", tmp_path / "absent")
    assert code == 3
    one_line(err)
    code, _, err = cli("nonsense")
    assert code == 2
    assert "nonsense" in one_line(err)
    bad = tmp_path / "settings.toml"
    bad.write_text("[em\n")
    code, _, err = cli("run", folder, "-o", target, *options)
    assert code == 2
    assert "not valid TOML" in one_line(err)
    bad.write_text("[em]\nnonsense = 1\n")
    code, _, err = cli("run", folder, "-o", target, *options)
    assert code == 2
    assert "em.nonsense" in one_line(err)
    assert left(tmp_path) == []


def test_truncated_particle_is_named(cli, options, tmp_path):
    folder = write_folder(tmp_path / "particles", count=3)
    broken = sorted(folder.iterdir())[1]
    broken.write_bytes(broken.read_bytes()[:-100])
    code, _, err = cli("run", folder, "-o", tmp_path / "run", *options)
    assert code == 3
    assert broken.name in one_line(err)
    assert left(tmp_path) == ["particles"]


def test_directory_of_another_run(cli, folder, options, tmp_path):
    assert cli("run", folder, "-o", tmp_path / "run", "-q", *options)[0] == 0
    before = (tmp_path / "run" / "run.h5").read_bytes()
    code, _, err = cli("run", folder, "-o", tmp_path / "run", *options)
    assert code == 4
    assert "holds another run" in one_line(err)
    assert (tmp_path / "run" / "run.h5").read_bytes() == before
    code, _, err = cli("resume", tmp_path)
    assert code == 4
    assert "found none" in one_line(err)
    (tmp_path / "run" / "run.h5").write_bytes(before[:1000])
    code, _, err = cli("resume", tmp_path / "run")
    assert code == 4
    one_line(err)


def test_full_disk(cli, folder, options, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("faml.io.checkpoint._write_state", fail)
    code, _, err = cli("run", folder, "-o", tmp_path / "run", *options)
    assert code == 4
    assert "No space left" in one_line(err)


def test_a_bug_is_one_line_with_its_traceback_in_the_log(
    cli, folder, options, tmp_path, monkeypatch
):
    def bug(*_, **__):
        raise ZeroDivisionError("a\nbug")

    monkeypatch.setattr(EmRun, "finish", bug)
    code, _, err = cli("run", folder, "-o", tmp_path / "run", "--iterations", 0, *options)
    assert code == 1
    last = err.splitlines()[-1]
    assert last.startswith("error: unexpected ZeroDivisionError: a bug; this is a bug")
    assert "Traceback" not in err
    assert "Traceback" in (tmp_path / "run" / "run.log").read_text()
    monkeypatch.setenv("FAML_DEBUG", "1")
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    code, _, err = cli("run", folder, "-o", tmp_path / "again", "--iterations", 0, *options)
    assert code == 1
    assert "Traceback" in err


def test_warnings_are_plain_words(cli, folder, options, tmp_path):
    name = tmp_path / "odd [name]"
    code, _, err = cli("run", folder, "-o", name, "--invert", "--iterations", 0, *options)
    assert code == 0
    (line,) = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert "--invert" in line
    assert "odd [name]" in err  # brackets are no markup


def test_reader_that_has_seen_enough(folder):
    """`faml inspect | head -1`."""
    done = subprocess.run(
        f"{sys.executable} -m faml inspect {folder} | head -1",
        shell=True, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.stderr == ""


# ---------------------------------------------------------------------- Ctrl-C


def test_interruption_before_a_run(cli, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("faml.io.inspect.inspect_dataset", interrupt)
    code, _, err = cli("inspect", "x")
    assert code == 130
    assert err.strip() == "stopped: interrupted before anything was written"


# Background jobs of a shell ignore Ctrl-C, and so would what they start.
_WITH_CTRL_C = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from faml.cli.app import main; main(sys.argv[1:])"
)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
def test_ctrl_c_then_resume(cli, folder, options, tmp_path):
    # No run ends while poses are explored: it must not be over before the signal arrives.
    (tmp_path / "long.toml").write_text("[em]\nexploration = 100000\n")
    child = subprocess.Popen(
        [sys.executable, "-c", _WITH_CTRL_C, "run", folder, "-o", tmp_path / "run",
         *options, "--iterations", "1000", "--config", tmp_path / "long.toml"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"COLUMNS": "200"},
    )  # fmt: skip
    lines = []
    with child:
        for line in child.stderr:
            lines.append(line)
            if line.startswith("iteration   1"):
                child.send_signal(signal.SIGINT)
    assert child.returncode == 130
    last = lines[-1]
    assert "Traceback" not in "".join(lines)
    found = re.fullmatch(
        r"stopped: interrupted; iteration (\d+) is kept; .* faml resume .*\n", last
    )
    assert found, last
    kept = int(found.group(1))
    assert read_run(tmp_path / "run" / "run.h5").state.iteration == kept
    assert (tmp_path / "run" / "class_001.mrc").exists()
    code, _, err = cli("resume", tmp_path / "run", "--iterations", kept + 1)
    assert code == 0
    assert err.startswith(f"iteration {kept + 1:3d}")


# ---------------------------------------------------------------------- demo


def test_demo(cli, tmp_path, monkeypatch):
    """The packaged density at a quarter of its box, six particles."""
    density, size = demo_module.demo_density()
    step = density.shape[0] // 16
    monkeypatch.setattr(
        demo_module, "demo_density", lambda: (density[::step, ::step, ::step].copy(), size * step)
    )
    monkeypatch.setattr(demo_module, "_COUNT", 6)
    monkeypatch.setattr(demo_module, "_SNR", 0.5)
    code, out, err = cli("demo", "-o", tmp_path / "demo", "--threads", 1)
    assert (code, out) == (0, ""), err
    assert re.search(r"faml from nothing\s+r 0\.\d+\s+FSC 0.5 at [\d.]+ Å", err)
    assert re.search(r"true poses\s+r 0\.\d+\s+FSC 0.5 at [\d.]+ Å", err)
    assert (tmp_path / "demo" / "run" / "truth.png").exists()
    assert (tmp_path / "demo" / "particles" / "particles.star").exists()
    code, _, err = cli("demo", "-o", tmp_path / "demo")
    assert code == 4
    assert "already holds a demo" in one_line(err)


def test_a_second_demo_takes_the_next_directory(tmp_path):
    from faml.cli.demo import free_directory

    assert free_directory(tmp_path / "faml-demo").name == "faml-demo"
    (tmp_path / "faml-demo").mkdir()
    (tmp_path / "faml-demo-2").mkdir()
    assert free_directory(tmp_path / "faml-demo").name == "faml-demo-3"
