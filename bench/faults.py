"""Kill a small run at random instants until it is done, again and again.

    python bench/faults.py [--kills 200] [--json FILE]

A run is begun, killed (SIGKILL) after a random time, resumed, killed again, until it ends; then the
next one. Checkpoint, maps and table of each must equal those of an undisturbed run, bit by bit.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import record
from memory import write_particles

from faml.em.state import State
from faml.io.checkpoint import read_run

COUNT, BOX, ITERATIONS = 6, 16, 6
SETTINGS: dict[str, Any] = {
    "data": {"tilt_range_deg": (-60.0, 60.0)},
    "search": {"max_candidates": 6, "voronoi_samples": 200, "max_shift_voxels": 2.0},
    "em": {"iterations": ITERATIONS, "seed": 4, "chunk_size": 2},
}
_CHILD = """
import json, sys
from pathlib import Path
from faml import api
folder, target, settings = sys.argv[1:]
if (Path(target) / "run.h5").exists():
    api.resume(target, iterations=json.loads(settings)["em"]["iterations"])
else:
    api.run([folder], target, **json.loads(settings))
"""


def main() -> None:
    """Runs until there were enough kills."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    runs, kills, different = 0, 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "particles"
        folder.mkdir()
        write_particles(folder, COUNT, BOX)
        whole = Path(name) / "whole"
        started = time.perf_counter()
        subprocess.run(command(folder, whole), check=True, stderr=subprocess.PIPE)
        usual = time.perf_counter() - started
        while kills < options.kills:
            target = Path(name) / f"run_{runs}"
            kills += killed_until_done(folder, target, usual, rng)
            runs += 1
            wrong = differences(target, whole)
            different += bool(wrong)
            print(f"{runs} runs, {kills} kills, {different} differ {' '.join(wrong)}", flush=True)
    row = {"runs": runs, "kills": kills, "different": different}
    record.write(options.json, [row], f"bench/faults.py --kills {options.kills}")
    sys.exit(different > 0)


def command(folder: Path, target: Path) -> list[str]:
    """A process that begins the run, or goes on with it."""
    return [sys.executable, "-c", _CHILD, str(folder), str(target), json.dumps(SETTINGS)]


def killed_until_done(folder: Path, target: Path, usual: float, rng: np.random.Generator) -> int:
    """Begin, kill, resume until the run ends by itself; how many kills that took."""
    kills = 0
    while True:
        child = subprocess.Popen(command(folder, target), stderr=subprocess.PIPE)
        # Much of the time of so small a run is that of imports.
        try:
            _, said = child.communicate(timeout=float(rng.uniform(0.2, 1.2)) * usual)
        except subprocess.TimeoutExpired:
            child.kill()
            _, said = child.communicate()
        if child.returncode == -signal.SIGKILL:
            kills += 1
            continue
        if child.returncode != 0:
            raise SystemExit(f"a resumed run failed: {said.decode()}")
        return kills


def differences(target: Path, whole: Path) -> list[str]:
    """What of a run's results is not as it was without kills."""
    wrong = []
    for file in ("class_001.mrc", "particles.star", "wedge.mrc"):
        found = (target / file).read_bytes().replace(bytes(target), bytes(whole))
        if found != (whole / file).read_bytes():
            wrong.append(file)
    mine, theirs = (read_run(folder / "run.h5").state for folder in (target, whole))
    wrong += [
        part for part in _parts(theirs) if not _same(_parts(mine)[part], _parts(theirs)[part])
    ]
    leftovers = [path.name for path in target.rglob(".*.tmp")]
    return wrong + leftovers


def _parts(state: State) -> dict[str, object]:
    found: dict[str, object] = {"log_likelihood": state.log_likelihood, "ssnr": state.ssnr}
    for name in ("model", "assignments"):
        value = getattr(state, name)
        found |= {f"{name}.{field.name}": getattr(value, field.name) for field in fields(value)}
    return found


def _same(a: object, b: object) -> bool:
    return bool(np.array_equal(np.asarray(a), np.asarray(b)))


if __name__ == "__main__":
    main()
