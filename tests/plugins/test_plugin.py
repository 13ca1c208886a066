"""A strategy of another package is found by its entry point alone."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from runs import OPTIONS, write_folder

from faml.io.checkpoint import read_run

PACKAGE = Path(__file__).parent / "faml_plugin_example"


@pytest.fixture
def installed(tmp_path):
    """The package as pip would install it, without a network: modules and a dist-info."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())
    name, version = project["project"]["name"], project["project"]["version"]
    site = tmp_path / "site"
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for group, entries in project["project"]["entry-points"].items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    for module in project["tool"]["setuptools"]["py-modules"]:
        (site / f"{module}.py").write_text((PACKAGE / f"{module}.py").read_text())
    return site


def faml(site, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "faml", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(site), "COLUMNS": "200"},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_strategy_of_a_plugin_is_listed_and_used(installed, tmp_path):
    done = faml(installed, "strategies")
    assert done.returncode == 0, done.stderr
    assert "neighbours" in done.stdout
    assert "faml-plugin-example 1.2.3" in done.stdout
    folder = write_folder(tmp_path / "particles", count=4)
    done = faml(
        installed, "run", folder, "-o", tmp_path / "run", *OPTIONS, "--iterations", 2,
        "--strategy", "neighbours", "--max-candidates", 5,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    state = read_run(tmp_path / "run" / "run.h5").state
    assert state.iteration == 2
    assert not state.assignments.fallbacks.any()
    assert (state.assignments.translations == 0).all()  # this strategy searches no shifts


def test_plugin_that_cannot_be_imported_is_one_clear_line(installed, tmp_path):
    (installed / "faml_plugin_example.py").write_text("import a_module_that_is_absent\n")
    folder = write_folder(tmp_path / "particles", count=2)
    done = faml(
        installed, "run", folder, "-o", tmp_path / "run", *OPTIONS, "--strategy", "neighbours"
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "cannot be loaded" in line
    assert "a_module_that_is_absent" in line
    assert not (tmp_path / "run").exists()
