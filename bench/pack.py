"""Reading particles: loose MRC files against packs in single and half precision.

    python bench/pack.py [--folder DIR] [--out bench/results/pack.json]

Particles are noise in a RELION table with 25 columns. What is timed: `open_particles`; a pass in
the order of the files; the pass of a run, fold by fold, and the same with chunks of the folds in
turns. States of a pass: cold (`posix_fadvise` has put the files out of the system's page cache;
``dropped`` says whether it has), first (they are in the page cache, but this reader has not read
them yet, so that checksums of packs are looked at, as they are when cold) and warm. Seconds are the
best of the repetitions, CPU seconds those of that one. The order makes no difference to loose
files, which are read in one only. Opening is timed once, after packing has read all files.
"""

from __future__ import annotations

import argparse
import os
import pickle
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from record import write

from faml.config import DataConfig
from faml.em.folds import split_into_folds
from faml.io.dataset import Dataset, open_particles
from faml.io.mrc import write_volume
from faml.io.packs.writing import write_pack

SIZES = ((16, 20_000), (64, 500))
QUICK = ((16, 500), (32, 50))
TINY = (8, 2000)
"""For the memory that a data set takes once it is open."""
COLUMNS = 20
CHUNK = 8
HEADER = 1024


def main() -> None:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="for 2 GB of data; default: temporary")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = memory(arguments.folder)
    for box, count in QUICK if arguments.quick else SIZES:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            for row in measured(Path(folder), box, count, arguments.repeats):
                print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
                rows.append(row)
    write(arguments.out, rows, "python bench/pack.py --out bench/results/pack.json")


def measured(folder: Path, box: int, count: int, repeats: int) -> Iterator[dict[str, Any]]:
    """Rows of one size."""
    star = loose_files(folder, box, count)
    inputs = {"loose": star}
    for dtype in ("float32", "float16"):
        inputs[dtype] = folder / f"{dtype}.h5"
        seconds, cpu = timed(partial(write_pack, given(star), inputs[dtype], dtype=dtype))
        yield row("pack", dtype, box, count, seconds, cpu, inputs[dtype].stat().st_size)
    for kind, path in inputs.items():
        dataset, seconds, cpu = opened(path)
        yield row("open", kind, box, count, seconds, cpu)
        files = [path] if kind != "loose" else [*dataset.paths]
        size = sum(file.stat().st_size for file in files)
        for order, indices in orders(count).items():
            if kind == "loose" and order != "in order":
                continue
            for state in ("cold", "first", "warm"):
                yield passed(dataset, files, size, kind, order, indices, state, repeats)


def passed(
    dataset: Dataset,
    files: list[Path],
    size: int,
    kind: str,
    order: str,
    indices: npt.NDArray[np.int64],
    state: str,
    repeats: int,
) -> dict[str, Any]:
    """The row of a pass over all particles."""
    volumes, count, box = dataset.particles.volumes, len(indices), dataset.particles.box
    best, from_device = (np.inf, np.inf), 0
    for _ in range(repeats):
        fresh = pickle.loads(pickle.dumps(volumes))  # noqa: S301 - our own
        work = partial(everything, fresh.read, indices)
        if state == "cold":
            forget(files)
        if state == "warm":
            work()
        before = device_bytes()
        best = min(best, timed(work))
        from_device = device_bytes() - before
    found = row(f"read {order}", kind, box, count, *best, size) | {"state": state}
    if state == "cold":
        found["dropped"] = bool(from_device > 0.5 * size)
        found["device_MB"] = round(from_device / 1e6, 1)
    return found


def everything(read: Callable[[int], npt.NDArray[np.float32]], indices: Iterable[np.int64]) -> None:
    """Read particles, one after the other."""
    for index in indices:
        read(int(index))


def orders(count: int) -> dict[str, npt.NDArray[np.int64]]:
    """Particles in the order of the files, fold by fold, and with the folds' chunks in turns."""
    folds = split_into_folds(count, 5, 0)
    chunks = [[fold[i : i + CHUNK] for i in range(0, len(fold), CHUNK)] for fold in folds]
    turns = [each[i] for i in range(max(map(len, chunks))) for each in chunks if i < len(each)]
    return {
        "in order": np.arange(count),
        "by folds": np.concatenate(folds),
        "in turns": np.concatenate(turns),
    }


def loose_files(folder: Path, box: int, count: int) -> Path:
    """MRC files of noise, and a table of them."""
    rng = np.random.default_rng(0)
    first = folder / "first.mrc"
    write_volume(first, np.zeros((box,) * 3), 8.0)
    header = first.read_bytes()[:HEADER]
    names = [f"Extract/job012/subtomograms/TS_{i % 40:03d}/{i:06d}_data.mrc" for i in range(count)]
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(header + rng.standard_normal(box**3, dtype=np.float32).tobytes())
    columns = ["rlnImageName", "rlnTomoName", "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
    columns += [f"rlnExample{i}" for i in range(COLUMNS)]
    lines = ["data_particles", "", "loop_", *(f"_{column}" for column in columns)]
    for index, name in enumerate(names):
        numbers = " ".join(f"{value:.6f}" for value in rng.uniform(0, 180, 3 + COLUMNS))
        lines.append(f"{name} TS_{index % 40:03d} {numbers}")
    star = folder / "particles.star"
    star.write_text("\n".join(lines) + "\n")
    os.sync()
    return star


def given(path: Path) -> DataConfig:
    """The configuration of an input."""
    return DataConfig(
        inputs=(str(path),), tilt_range_deg=None if path.suffix == ".h5" else (-60.0, 60.0)
    )


def memory(folder: Path | None) -> list[dict[str, Any]]:
    """Bytes that an open data set keeps of each particle."""
    box, count = TINY
    rows = []
    with tempfile.TemporaryDirectory(dir=folder) as place:
        star = loose_files(Path(place), box, count)
        write_pack(given(star), Path(place) / "p.h5")
        for kind, path in (("loose", star), ("float32", Path(place) / "p.h5")):
            open_particles(given(path), 0)  # whatever is loaded once
            tracemalloc.start()
            dataset = open_particles(given(path), 0)
            kept = tracemalloc.get_traced_memory()[0] / len(dataset.particles)
            tracemalloc.stop()
            found = {"what": "memory", "input": kind, "box": box, "particles": count}
            rows.append(found | {"bytes_per_particle": round(kept)})
            print(rows[-1], flush=True)
    return rows


def opened(path: Path) -> tuple[Dataset, float, float]:
    """A data set and what opening it took."""
    found: list[Dataset] = []
    seconds, cpu = timed(lambda: found.append(open_particles(given(path), 0)))
    return found[0], seconds, cpu


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds and CPU seconds."""
    began, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - cpu


def forget(files: Iterable[Path]) -> None:
    """Ask the system to put files out of its page cache."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def device_bytes() -> int:
    """Bytes that this process has made the system fetch from the device."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("read_bytes:"):
            return int(line.split()[1])
    return 0


def row(
    what: str, kind: str, box: int, count: int, seconds: float, cpu: float, size: int = 0
) -> dict[str, Any]:
    """A row of the result."""
    return {
        "what": what,
        "input": kind,
        "box": box,
        "particles": count,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu, 3),
        "us_per_particle": round(1e6 * seconds / count, 1),
        "file_MB": round(size / 1e6, 1) if size else None,
        "MB_per_s": round(size / seconds / 1e6) if size else None,
        "state": None,
        "dropped": None,
        "device_MB": None,
    }


if __name__ == "__main__":
    main()
