"""Feeds broken files to every reader: none may do anything but read or refuse them.

    nice -n 5 python bench/fuzz.py --inputs 100000 --json bench/results/fuzz.json
    python bench/fuzz.py --reader star --seed 0 --only 4711     # one input again, with its trace

An input passes if the reader returns or raises a `FamlError`. A finding is any other exception, a
warning, a crash or more than `CPU_SECONDS` of work (both seen from outside, for inputs are read in
a child process), or memory that grows by more than `MEMORY_BYTES` where no input is larger than
128 KiB. Input k of a reader follows from the seed, the reader's name and k alone. Findings are
written into ``--findings``; `tests/test_hostile.py` keeps those that were, made small.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import psutil
import record
from fuzz_readers import Reader, readers

from faml.errors import FamlError

CPU_SECONDS = 10.0
WALL_SECONDS = 120.0
"""For readers that wait instead of work."""
MEMORY_BYTES = 64 << 20
_ADDRESS_BYTES = 4 << 30
"""What a child may map beyond what it has at the start; Arrow maps 1 GiB at once."""
_COUNTERS = struct.Struct("4q")
"""Input at work, inputs read, inputs refused, findings."""
_SLICE = 2500
"""Inputs after which what was found is written; the same command goes on from there."""
_GREW = 3
"""Exit status of a child whose memory has grown."""


@dataclass
class Tally:
    """What became of a reader's inputs."""

    inputs: int = 0
    read: int = 0
    refused: int = 0
    seconds: float = 0.0
    findings: Counter[str] = field(default_factory=Counter)
    first: dict[str, int] = field(default_factory=dict)
    """Number of the first input of each kind of finding."""

    def add(self, kind: str, number: int) -> None:
        """Count a finding."""
        self.findings[kind] += 1
        self.first.setdefault(kind, number)


def main() -> None:
    """Campaigns of the readers asked for, one after the other."""
    every = readers()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=2000, help="of each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", nargs="+", choices=sorted(every), default=list(every))
    parser.add_argument("--only", type=int, help="this input alone, in this process")
    parser.add_argument("--findings", type=Path, help="folder for the inputs that are findings")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.only is not None:
        _again(every[options.reader[0]], options.seed, options.only)
        return
    rows = _known_rows(options.json)
    for name in options.reader:
        tally = _continued(rows.get(name), options.seed)
        while tally.inputs < options.inputs:
            stop = min(options.inputs, tally.inputs + _SLICE)
            campaign(every[name], options.seed, stop, tally, options.findings)
            rows[name] = _row(name, options.seed, tally)
            ordered = [rows[key] for key in every if key in rows]
            record.write(options.json, ordered, "bench/fuzz.py --inputs 100000")
        print(rows[name], flush=True)
    sys.exit(any(rows[name]["findings"] for name in options.reader))


def _row(name: str, seed: int, tally: Tally) -> dict[str, Any]:
    row = {
        "reader": name, "seed": seed, "inputs": tally.inputs, "read": tally.read,
        "refused": tally.refused, "findings": sum(tally.findings.values()),
        "seconds": round(tally.seconds, 1),
    }  # fmt: skip
    return row | ({"kinds": dict(tally.findings)} if tally.findings else {})


def _continued(row: dict[str, Any] | None, seed: int) -> Tally:
    """What a campaign that was interrupted has done; one with findings begins anew."""
    if row is None or row["seed"] != seed or row["findings"]:
        return Tally()
    return Tally(row["inputs"], row["read"], row["refused"], row["seconds"])


def _known_rows(path: Path | None) -> dict[str, dict[str, Any]]:
    """Rows of readers that were fed before, which stay."""
    if path is None or not path.exists():
        return {}
    return {row["reader"]: row for row in json.loads(path.read_text())["rows"]}


def made(reader: Reader, seed: int, number: int) -> bytes:
    """Input ``number`` of a reader."""
    return reader.mutate(reader.seeds, Random(f"{seed}/{reader.name}/{number}"))


def campaign(
    reader: Reader, seed: int, stop: int, tally: Tally, findings: Path | None = None
) -> None:
    """Read the inputs up to ``stop`` in child processes, a new one after each that ends early."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=_memory_folder()) as name:
        folder = Path(name)
        for file, data in reader.beside.items():
            (folder / file).write_bytes(data)
        _read_whole(reader, folder)
        while tally.inputs < stop:
            tally.inputs = _batch(reader, seed, range(tally.inputs, stop), folder, tally)
    tally.seconds += time.perf_counter() - began
    for kind, number in tally.first.items():
        print(f"  {tally.findings[kind]} x {kind} (first {number})", flush=True)
        if findings is not None:
            findings.mkdir(parents=True, exist_ok=True)
            (findings / f"{reader.name}-{seed}-{number}").write_bytes(made(reader, seed, number))


def _memory_folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _batch(reader: Reader, seed: int, numbers: range, folder: Path, tally: Tally) -> int:
    """One child; returns the number of the input that is next."""
    shared = mmap.mmap(-1, _COUNTERS.size)
    shared[:] = _COUNTERS.pack(numbers.start, 0, 0, 0)
    log = folder.with_name(f"{folder.name}.log")
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _work(reader, seed, numbers, folder, shared, log)  # does not come back
    status, reason = _watched(child, shared)
    at, read, refused, _ = _COUNTERS.unpack(shared[:])
    tally.read, tally.refused = tally.read + read, tally.refused + refused
    for line in log.read_text().splitlines() if log.exists() else ():
        number, kind = line.split("\t", 1)
        tally.add(kind, int(number))
    log.unlink(missing_ok=True)
    if reason is None and os.WIFEXITED(status) and os.WEXITSTATUS(status) in {0, _GREW}:
        return int(at)
    if reason is None:
        killed = os.WIFSIGNALED(status)
        reason = f"signal {os.WTERMSIG(status)}" if killed else f"exit {status}"
    tally.add(f"crash: {reason}", int(at))
    return int(at) + 1


def _watched(child: int, shared: mmap.mmap) -> tuple[int, str | None]:
    """Wait for a child; its status, and why it had to be killed."""
    process = psutil.Process(child)
    at, spent, since = -1, 0.0, time.monotonic()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status, None
        now = _COUNTERS.unpack(shared[:])[0]
        times = process.cpu_times()
        if now != at:
            at, spent, since = now, times.user + times.system, time.monotonic()
        slow = times.user + times.system - spent > CPU_SECONDS
        if slow or time.monotonic() - since > WALL_SECONDS:
            os.kill(child, signal.SIGKILL)
            return os.waitpid(child, 0)[1], "no end of work" if slow else "no end of waiting"
        time.sleep(0.05)


def _work(
    reader: Reader, seed: int, numbers: range, folder: Path, shared: mmap.mmap, log: Path
) -> None:
    """Read every input; ends the process."""
    code = 1
    try:
        warnings.simplefilter("error")
        # What destructors raise is nobody's result; it counts all the same.
        unraisable: list[str] = []
        sys.unraisablehook = lambda found: unraisable.append(repr(found.exc_value))
        _limit_memory()
        code = _read_all(reader, seed, numbers, folder, shared, log, unraisable)
    except BaseException:  # noqa: BLE001 - the child has no caller
        traceback.print_exc()
    finally:
        os._exit(code)


def _read_whole(reader: Reader, folder: Path) -> None:
    """Whole files must be read, or broken ones test nothing; it loads what a reader needs, too."""
    path = folder / reader.file
    for number, data in enumerate(reader.seeds):
        path.write_bytes(data)
        try:
            reader.read(path)
        except FamlError as error:
            raise SystemExit(f"{reader.name}: whole file {number} is refused: {error}") from error


def _limit_memory() -> None:
    size = psutil.Process().memory_info().vms + _ADDRESS_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _read_all(
    reader: Reader,
    seed: int,
    numbers: range,
    folder: Path,
    shared: mmap.mmap,
    log: Path,
    unraisable: list[str],
) -> int:
    read = refused = found = 0
    path = folder / reader.file
    peak = 0
    with log.open("w") as stream:
        for number in numbers:
            shared[:] = _COUNTERS.pack(number, read, refused, found)
            path.write_bytes(made(reader, seed, number))
            before = max(peak, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
            kind = _outcome(reader, path)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            if unraisable:
                kind = f"unraisable {unraisable.pop()}"
            if (peak - before) * 1024 > MEMORY_BYTES:
                kind = f"memory: {(peak - before) >> 10} MiB"
            read, refused = read + (kind == "read"), refused + (kind == "refused")
            if kind not in {"read", "refused"}:
                found += 1
                stream.write(f"{number}\t{kind}\n")
                stream.flush()
            if kind.startswith("memory"):
                shared[:] = _COUNTERS.pack(number + 1, read, refused, found)
                return _GREW
    shared[:] = _COUNTERS.pack(numbers.stop, read, refused, found)
    return 0


def _outcome(reader: Reader, path: Path) -> str:
    """``read``, ``refused``, or what went wrong and where."""
    try:
        reader.read(path)
    except FamlError as error:
        return "refused" if str(error) else "refused without a word"
    except Exception as error:  # noqa: BLE001 - what is looked for
        return f"{type(error).__name__}: {str(error)[:100]!r} in {_place(error)}"
    return "read"


def _place(error: BaseException) -> str:
    """The innermost line of faml."""
    frames = traceback.extract_tb(error.__traceback__)
    inner = [frame for frame in frames if f"{os.sep}faml{os.sep}" in frame.filename] or frames[-1:]
    return f"{Path(inner[-1].filename).name}:{inner[-1].lineno} {inner[-1].name}"


def _again(reader: Reader, seed: int, number: int) -> None:
    """One input in this process, so that its trace is seen."""
    warnings.simplefilter("error")
    folder = Path(tempfile.mkdtemp(dir=_memory_folder()))
    try:
        for file, data in reader.beside.items():
            (folder / file).write_bytes(data)
        path = folder / reader.file
        path.write_bytes(made(reader, seed, number))
        found: Any = reader.read(path)
        print(found)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
