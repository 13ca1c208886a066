"""Shared fixtures, phantoms and hypothesis strategies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "faml",
    deadline=None,  # the first example compiles
    derandomize=True,
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "faml"))

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def shared_data():
    """Folder of the shared data; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the shared data folder is not beside this checkout")
    return SHARED


@pytest.fixture(autouse=True)
def _few_reports(request, monkeypatch):
    """Runs of single tests leave no report.html, which takes longer than they do.

    Those that are about it ask for the fixture `reports`.
    """
    if "reports" not in request.fixturenames:
        monkeypatch.setattr("faml.api.leave_report", lambda directory: None)


@pytest.fixture
def reports():
    """Runs of this test write ``report.html``."""


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """Directory of a finished run of two classes with half-sets; not to be changed."""
    from report_runs import finished_run as make

    return make(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def cli(capsys, monkeypatch):
    """Run a command in this process: exit code, standard output, standard error."""
    from faml.cli.app import main

    monkeypatch.delenv("FAML_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "300")

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return call
