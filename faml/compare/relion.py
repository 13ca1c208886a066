"""RELION's de novo subtomogram averaging, as one more method."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from faml.errors import ConfigurationError, FamlError

__all__ = ["find_relion", "run_relion"]

_PROGRAM = "relion_refine"
_DATA = re.compile(r"run_it(\d+)_data\.star$")
_VERSION = re.compile(r"RELION version:?\s*([^\s,]+)")
_LAST_WORDS = 200
_GRACE_SECONDS = 20


def find_relion() -> str | None:
    """Path of ``relion_refine``, or None where it is not installed."""
    return shutil.which(_PROGRAM)


def run_relion(
    data: Path,
    output: Path,
    *,
    classes: int,
    iterations: int,
    arguments: Sequence[str],
    seed: int,
    threads: int,
    minutes: float | None,
) -> dict[str, Any]:
    """Run RELION from random orientations and leave maps and poses as a run of faml would.

    Parameters
    ----------
    data : Path
        Directory with ``particles.star``, whose image names are relative to it.
    output : Path
        Made here; gets ``class_001.mrc`` ... and ``particles.star`` of the last whole iteration,
        or nothing if there is none.
    classes, iterations, seed, threads : int
    arguments : sequence of str
        Passed on.
    minutes : float or None
        After which it is stopped.

    Returns
    -------
    dict
        ``status``, ``iterations`` done, ``s_per_iteration`` with what comes before the first,
        ``relion_version``.

    Raises
    ------
    ConfigurationError
        RELION is not installed.
    FamlError
        It failed before an iteration was whole.
    """
    program = find_relion()
    if program is None:
        raise ConfigurationError(
            f"{_PROGRAM} is not on the PATH; install RELION or leave the method out"
        )
    output.mkdir(parents=True)
    command = [
        program, "--i", "particles.star", "--o", str(output.resolve() / "run"),
        "--denovo_3dref", "--K", str(classes), "--iter", str(iterations), "--ctf",
        "--random_seed", str(seed), "--j", str(threads), *arguments,
    ]  # fmt: skip
    began = time.perf_counter()
    log = output / "relion.log"
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, cwd=data, stdout=file, stderr=subprocess.STDOUT)
        try:
            code: int | None = process.wait(None if minutes is None else 60.0 * minutes)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _stop(process)
    seconds = time.perf_counter() - began
    done = _last_whole_iteration(output, classes)
    if code is None:
        status = f"stopped after {minutes:g} minutes"
    elif code != 0 and not done:
        raise FamlError(f"{_PROGRAM} has failed with code {code}: {_last_words(log)}")
    elif code != 0:
        status = f"failed with code {code}: {_last_words(log)}"
    else:
        status = "all iterations done"
    if done:
        stem = output / f"run_it{done:03d}"
        for k in range(1, classes + 1):
            shutil.copy(f"{stem}_class{k:03d}.mrc", output / f"class_{k:03d}.mrc")
        shutil.copy(f"{stem}_data.star", output / "particles.star")
    return {
        "status": status,
        "iterations": done,
        "s_per_iteration": round(seconds / done, 3) if done else None,
        "relion_version": _version(program),
    }


def _stop(process: subprocess.Popen[Any]) -> None:
    """See to it that nothing runs on."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _last_whole_iteration(output: Path, classes: int) -> int:
    """The last with all maps and poses; 0 if there is none."""
    done = 0
    for path in output.iterdir():
        match = _DATA.search(path.name)
        if match and all(
            (output / f"run_it{match[1]}_class{k:03d}.mrc").exists() for k in range(1, classes + 1)
        ):
            done = max(done, int(match[1]))
    return done


def _version(program: str) -> str:
    """As it says itself; its log does not."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    match = _VERSION.search(said.stdout)
    return match[1] if match else "unknown"


def _last_words(log: Path) -> str:
    """What it said at the end, or the line that names an error."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "ERROR" in line]
    return (errors or lines or ["nothing was said"])[-1][:_LAST_WORDS]
