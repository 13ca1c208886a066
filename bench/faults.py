"""Kill small runs at random instants until they are done, again and again.

    python bench/faults.py [--kills 200] [--seed 0] [--json FILE]

A run is begun, killed (SIGKILL) after a random time, resumed, killed again, until it ends; then the
next one, of another kind. What of it is on disk after a kill must hold every iteration that it had
reported by then. In the end checkpoint, maps and table must equal those of an undisturbed run of a
fresh process, bit by bit. Processes are forked from one that has everything imported, so that a
kill costs a second and seldom meets an import. Every eighth run draws its pictures and writes
its report; they take longer than all else of so small a run.

The work may be done in parts, of another seed each: FILE keeps a row per seed, and is written after
each run.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import record
from memory import write_particles

from faml import api
from faml.em.state import State
from faml.errors import FamlError
from faml.io.checkpoint import read_run
from faml.io.output import stored_starts

COUNT, BOX, ITERATIONS = 6, 12, 4
SETTINGS: dict[str, Any] = {
    "data": {"tilt_range_deg": (-60.0, 60.0)},
    "search": {
        "search_shell": 4, "max_bandwidth": 6, "max_candidates": 6, "voronoi_samples": 200,
        "max_shift_voxels": 2.0, "keep_previous": 3,
    },
    "em": {"iterations": ITERATIONS, "seed": 4, "chunk_size": 2},
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "half-sets": {"half_sets": True},
    "starts": {"starts": 2, "start_iterations": 2},
}
"""Settings under ``em`` that lead through the places where a run writes."""
PICTURES_EVERY = 8
_FRESH = """
import json, sys
from faml import api
folder, target, settings = sys.argv[1:]
api.run([folder], target, report=False, **json.loads(settings))
"""


def main() -> None:
    """Runs until there were enough kills."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    runs, different, lost = 0, 0, 0
    kills: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "particles"
        folder.mkdir()
        write_particles(folder, COUNT, BOX)
        wholes = {kind: Path(name) / f"whole_{number}" for number, kind in enumerate(KINDS)}
        for kind, whole in wholes.items():
            command = [
                sys.executable,
                "-c",
                _FRESH,
                str(folder),
                str(whole),
                json.dumps(settings(kind)),
            ]
            subprocess.run(command, check=True)
        # What is compiled or made once in this process its children find done.
        api.run([folder], Path(name) / "warm", report=False, **settings("plain"))
        usual = {kind: seconds(folder, Path(name) / f"timed_{kind}", kind) for kind in KINDS}
        while kills.total() < options.kills:
            kind = tuple(KINDS)[runs % len(KINDS)]
            pictures = runs % PICTURES_EVERY == PICTURES_EVERY - 1
            target = Path(name) / f"run_{runs}"
            within = usual[kind] * (3.0 if pictures else 1.0)
            met, gone = killed_until_done(folder, target, kind, within, rng, pictures=pictures)
            kills, lost = kills + met, lost + gone
            runs += 1
            wrong = differences(target, wholes[kind])
            different += bool(wrong)
            print(
                f"{runs} runs ({kind}), {kills.total()} kills, {different} differ, {lost} lost "
                f"{' '.join(wrong)}",
                flush=True,
            )
            row = {
                "seed": options.seed,
                "runs": runs,
                "kills": kills.total(),
                "kept when killed": ", ".join(f"{when}: {kills[when]}" for when in sorted(kills)),
                "iterations lost": lost,
                "runs that differ": different,
            }
            record.write(
                options.json, with_other_seeds(options.json, row), "python bench/faults.py"
            )
    sys.exit(different > 0 or lost > 0)


def settings(kind: str) -> dict[str, Any]:
    """Those of a run of a kind."""
    return SETTINGS | {"em": SETTINGS["em"] | KINDS[kind]}


def with_other_seeds(path: Path | None, row: dict[str, Any]) -> list[dict[str, Any]]:
    """The row, and those of other seeds that the file has already."""
    if path is None or not path.is_file():
        return [row]
    rows = [old for old in json.loads(path.read_text())["rows"] if old["seed"] != row["seed"]]
    return sorted([*rows, row], key=lambda each: each["seed"])


def seconds(folder: Path, target: Path, kind: str) -> float:
    """How long a run takes that nobody kills."""
    started = time.perf_counter()
    process, reports = forked(folder, target, kind, pictures=False)
    os.waitpid(process, 0)
    os.close(reports)
    return time.perf_counter() - started


def killed_until_done(
    folder: Path,
    target: Path,
    kind: str,
    within: float,
    rng: np.random.Generator,
    *,
    pictures: bool,
) -> tuple[Counter[str], int]:
    """Begin, kill ``within`` so many seconds, resume, until the run ends by itself.

    Returns how many kills met what, and how many iterations that were reported were lost.
    """
    kills: Counter[str] = Counter()
    lost = 0
    while True:
        process, reports = forked(folder, target, kind, pictures=pictures)
        instant = time.perf_counter() + float(rng.uniform(0.0, within))
        reached, ended = watched(reports, instant)
        if not ended:
            os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        reached += "".join(map(chr, os.read(reports, 4096)))
        os.close(reports)
        if os.WIFSIGNALED(status):
            kept = kept_iteration(target)
            kills[kept] += 1
            lost += bool(reached) and kept != "starts" and int(reached.split()[-1]) > int(kept)
            continue
        if os.waitstatus_to_exitcode(status) != 0:
            raise SystemExit(f"a run in {target} failed; see above")
        return kills, lost


def forked(folder: Path, target: Path, kind: str, *, pictures: bool) -> tuple[int, int]:
    """A process that begins the run or goes on with it; its id, and where it reports iterations."""
    reports, told = os.pipe()
    process = os.fork()
    if process:
        os.close(told)
        return process, reports
    code = 1
    try:
        os.close(reports)

        def tell(state: State, _: object) -> None:
            if (target / api.CHECKPOINT_NAME).exists():  # not of one of several starts
                os.write(told, f"{state.iteration} ".encode())

        if not pictures:
            for name in ("draw_classes", "draw_orientations"):
                setattr(api, name, lambda *_: ())
        if (target / api.CHECKPOINT_NAME).exists() or stored_starts(target):
            api.resume(target, iterations=ITERATIONS, on_state=tell, report=pictures)
        else:
            api.run([folder], target, on_state=tell, report=pictures, **settings(kind))
        code = 0
    except BaseException:  # noqa: BLE001 - the parent must not go on twice
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def watched(reports: int, until: float) -> tuple[str, bool]:
    """What a process has reported until an instant, and whether it has ended before."""
    told = ""
    while True:
        left = until - time.perf_counter()
        if left <= 0 or not select.select([reports], [], [], left)[0]:
            return told, False
        part = os.read(reports, 4096)
        if not part:
            return told, True
        told += part.decode()


def kept_iteration(target: Path) -> str:
    """What a killed run has on disk: the last iteration, `starts` or `nothing`."""
    if (target / api.CHECKPOINT_NAME).exists():
        try:
            return str(read_run(target / api.CHECKPOINT_NAME).state.iteration)
        except FamlError as error:
            raise SystemExit(f"unreadable after a kill: {error}") from error
    return "starts" if stored_starts(target) else "nothing"


def differences(target: Path, whole: Path) -> list[str]:
    """What of a run's results is not as it was without kills."""
    wrong = []
    names = sorted(
        path.name for path in whole.iterdir() if path.suffix in (".mrc", ".star", ".csv")
    )
    for file in names:
        found = (target / file).read_bytes().replace(bytes(target), bytes(whole))
        if found != (whole / file).read_bytes():
            wrong.append(file)
    mine, theirs = (read_run(folder / api.CHECKPOINT_NAME).state for folder in (target, whole))
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
