"""What a run is predicted to take: laws, sizes as of real runs, measurement, command."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from runs import BOX, DATA, OPTIONS, SEARCH, VOXEL_ANGSTROM, settings, write_folder

import faml
from faml.cli.app import main
from faml.config import build_config
from faml.costs.iteration import cost_of_iteration
from faml.costs.job import Job
from faml.costs.laws import PowerLaw, constants_from, usual_constants
from faml.costs.run import RunCost
from faml.costs.sizes import (
    BLOCKS_PER_WORKER,
    IN_FLIGHT,
    assignment_bytes,
    items_of_pass,
    model_bytes,
    resident_bytes,
    saved_last_bytes,
    saved_running_bytes,
    saved_state_bytes,
    sums_bytes,
)
from faml.em.blocks import block_size, blocks_of
from faml.em.loop import EmRun
from faml.em.start import fixed_assignments
from faml.em.statistics import Statistics
from faml.em.workers import Threads
from faml.errors import ConfigurationError, InputDataError
from faml.io.dataset import open_particles
from faml.io.inspect import inspect_dataset
from faml.io.packs.writing import write_pack
from faml.io.star import read_star
from faml.planning.hints import hints_of, in_bytes, in_time
from faml.planning.measure import job_of, measure_constants
from faml.planning.particle_bytes import bytes_held
from faml.planning.plan import make_plan, plan_to_json
from faml.transforms.fourier import fourier_grid, full_resolution_shell

CONSTANTS = usual_constants(1, 50, 32)


def job(count, box=32, **em):
    return Job(build_config(em=em, threads=1), box, 0.3 * box, count)


def cost(count, workers, shell=8, iteration=20, constants=CONSTANTS, **em):
    return cost_of_iteration(job(count, **em), constants, workers, shell, iteration)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("particles"))


@pytest.fixture(scope="module")
def opened(folder):
    """A data set and the settings of a quick search."""
    config = build_config(
        data=DATA | {"inputs": (str(folder),)}, search=SEARCH, em={"chunk_size": 2}, threads=1
    )
    return open_particles(config.data, 0), config


@pytest.fixture(scope="module")
def constants(opened):
    return measure_constants(*opened)


# ---------------------------------------------------------------------- laws


def test_a_law_goes_through_its_points_as_powers():
    law = PowerLaw((4, 8, 16), (0.1, 0.4, 3.2))
    for shell, seconds in zip(law.shells, law.seconds, strict=True):
        assert law.at(shell) == pytest.approx(seconds, rel=1e-12)
    assert law.at(6) == pytest.approx(0.1 * 1.5**2)
    assert law.at(32) == pytest.approx(3.2 * 2**3)
    assert law.at(2) == pytest.approx(0.1 / 2**2)
    assert PowerLaw((10,), (1.0,), 2.0).at(20) == pytest.approx(4.0)


def test_chance_does_not_turn_a_law_round():
    """Two points that a busy machine has put the wrong way round."""
    law = PowerLaw((10, 12), (1.0, 0.5))
    assert law.at(30) == 0.5
    assert law.at(5) == 1.0
    steep = PowerLaw((10, 11), (1.0, 100.0))
    assert steep.at(22) == pytest.approx(100.0 * 2**4)


def test_visits_are_linear_in_particles_and_shared_by_workers():
    """With whole blocks for everyone; the M-step is not shared."""
    count = 5 * 64 * 256
    one, two, many = (cost(count, workers) for workers in (1, 2, 256))
    assert one.search_s == pytest.approx(2 * two.search_s) == pytest.approx(256 * many.search_s)
    assert one.averages_s == two.averages_s == many.averages_s > 0
    assert one.references_s == many.references_s
    twice = cost(2 * count, 2)
    assert twice.search_s == pytest.approx(2 * two.search_s)
    assert twice.network_in_bytes == 2 * two.network_in_bytes
    assert twice.read_bytes == 2 * two.read_bytes
    assert one.search_s == pytest.approx(count * CONSTANTS.visit.at(8))
    assert many.cpu_s > one.cpu_s  # everyone makes references
    slow = replace(CONSTANTS, adding_s=1.0)
    assert cost(count, 2, constants=slow).seconds > cost(count, 2, constants=slow).adding_s


def test_whoever_is_last_keeps_all_waiting():
    few = cost(80, 16)  # ten chunks of eight
    assert few.items == 10
    assert few.search_s == pytest.approx(8 * CONSTANTS.visit.at(8))
    assert cost(80, 160).search_s == few.search_s
    assert cost(80, 9).search_s == pytest.approx(2 * few.search_s)


def test_a_whole_run_is_its_iterations_and_what_comes_before_and_after():
    run = RunCost(job(1000), CONSTANTS, 4, 6, 12)
    shells = [part.shell for part in run.parts]
    first = job(1000).first_shell
    assert shells == [min(first + i, 12) for i in range(6)] + [12]
    assert run.seconds > sum(part.seconds for part in run.parts)
    assert run.parts[-1].written_bytes == 0
    assert run.written_bytes == sum(
        run.job.saved_bytes(i, run.shell(max(1, i)), CONSTANTS.name_bytes) for i in range(7)
    )
    assert RunCost(job(1000), CONSTANTS, 4, 0, 12).parts[-1].visited == 1000


def test_batches_leave_particles_out_and_several_classes_ask_for_a_sample():
    batched = job(10_000, batch=500)
    assert (batched.visited(1), batched.visited(1000)) == (500, 10_000)
    assert cost(10_000, 1, iteration=1, batch=500).search_s == pytest.approx(
        500 * CONSTANTS.visit.at(8)
    )
    early, late = (cost(1000, 1, iteration=i, classes=2) for i in (1, 20))
    assert early.cpu_s - late.cpu_s > 90 * CONSTANTS.visit.at(8)


def test_half_sets_and_folds_have_averages_of_their_own():
    plain, halves, single = job(1000), job(1000, half_sets=True), job(1000, folds=1)
    assert (plain.groups, halves.groups, single.groups) == (5, 10, 1)
    assert (plain.solves, halves.solves, single.solves) == ((1, 5), (5, 10), (1, 0))
    assert job(1000, half_sets=True, folds=1).solves == (5, 0)


# ---------------------------------------------------------------------- sizes


@pytest.mark.parametrize(("box", "align", "last"), [(16, 5, 7), (17, 4, 7), (32, 9, 12), (8, 3, 3)])
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("total", [True, False])
def test_sums_have_the_size_that_is_sent(box, align, last, classes, total):
    made = Statistics.zeros(classes, fourier_grid(box, align, last), total=total)
    arrays = [getattr(made, field.name) for field in fields(made)]
    size = sum(value.nbytes for value in arrays if isinstance(value, np.ndarray))
    assert sums_bytes(classes, last, total=total) == size


class Recording(Threads):
    """Keeps what comes back."""

    def __init__(self, *, whole):
        super().__init__(1)
        self.whole, self.sizes, self.blocks = whole, [], 0

    def take_whole_blocks(self, blocks):
        self.blocks = blocks
        return self.whole

    def begin(self, plan, particles, clock):
        return RecordingTasks(super().begin(plan, particles, clock), self.sizes)


class RecordingTasks:
    def __init__(self, tasks, sizes):
        self.tasks, self.sizes = tasks, sizes

    def map(self, task, items):
        for result in self.tasks.map(task, items):
            if isinstance(result, tuple) and isinstance(result[0], Statistics):
                parts = [getattr(each, f.name) for each in result for f in fields(each)]
                self.sizes.append(sum(p.nbytes for p in parts if isinstance(p, np.ndarray)))
            yield result


@pytest.mark.parametrize("whole", [True, False])
def test_what_comes_back_in_a_pass_is_what_is_predicted(opened, whole):
    dataset, config = opened
    # Every block has more than one chunk, of which alone it would be sent in single precision.
    em = config.em.model_copy(update={"chunk_size": 1, "folds": 3})
    config = config.model_copy(update={"em": em})
    workers = Recording(whole=whole)
    states = EmRun(dataset.particles, config, workers=workers).states()
    next(states)
    workers.sizes.clear()
    state = next(states)
    work = job_of(dataset, config, len(dataset.particles))
    # Four blocks are enough for one worker, three are not.
    predicted = cost_of_iteration(work, CONSTANTS, 1, state.align_shell, 1)
    if whole:
        sums = sums_bytes(1, work.sum_shell(state.align_shell), total=True)
        assert workers.sizes[0] == sums + assignment_bytes(1) * 3
    else:
        assert predicted.items == len(workers.sizes) == len(dataset.particles)
        assert predicted.network_in_bytes == sum(workers.sizes)


@pytest.mark.parametrize(("count", "folds"), [(7, 3), (640, 5), (1000, 5), (300_000, 10)])
def test_there_are_as_many_blocks_as_predicted(count, folds):
    groups = tuple(np.arange(count)[i::folds] for i in range(folds))
    before = fixed_assignments(
        np.zeros(count, dtype=np.int64), np.zeros((count, 3, 3)), np.zeros((count, 3)), 1
    )
    blocks = blocks_of(groups, 8, before)
    found, whole = items_of_pass(count, folds, 8, block_size(count, 8), 1)
    assert whole == (len(blocks) >= BLOCKS_PER_WORKER)
    assert found == (len(blocks) if whole else sum(len(block.chunks) for block in blocks))


def test_numbers_are_those_of_the_cluster():
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    from faml.cluster import dask_workers

    assert dask_workers._IN_FLIGHT == IN_FLIGHT
    assert dask_workers._BLOCKS_PER_WORKER == BLOCKS_PER_WORKER


@pytest.mark.parametrize(
    "em",
    [{}, {"half_sets": True, "folds": 3}, {"classes": 2, "folds": 1}, {"batch": 5, "folds": 1}],
    ids=str,
)
def test_a_checkpoint_has_the_size_that_is_predicted(folder, tmp_path, em):
    iterations = 2
    given = settings(iterations=iterations, **em)
    result = faml.run([str(folder)], tmp_path / "run", report=False, **given)
    config, names = result.config, [path.name for path in sorted(folder.iterdir())]
    work = Job(config, BOX, 0.3 * BOX, len(names))
    assert len(result.state.fold_models) == 0
    values = {"iterations": 0, "folds": 0, "halves": 0, "running": 0}

    def look(name, item):
        part = name.split("/")[0]
        if isinstance(item, h5py.Dataset) and part in values:
            values[part] += item.nbytes

    path = tmp_path / "run" / "run.h5"
    with h5py.File(path) as file:
        file.visititems(look)
        assert len(file["iterations"]) == iterations + 1
    each, _ = saved_state_bytes(BOX, work.classes, len(names), halves=work.halves > 0)
    assert values["iterations"] == (iterations + 1) * each
    folds = work.groups if work.groups > max(1, work.halves) else 0
    kept = saved_last_bytes(BOX, work.classes, folds, work.halves)
    assert values["folds"] + values["halves"] == kept
    running = work.groups * saved_running_bytes(work.classes, 7) if work.batched else 0
    assert values["running"] == running
    # HDF5 allots space in steps; settings as text come on top.
    mean = sum(map(len, names)) / len(names)
    size = path.stat().st_size
    assert work.saved_bytes(iterations, 7, mean) == pytest.approx(size, abs=8_000)


def test_models_and_assignments_have_their_size(opened):
    dataset, config = opened
    state = next(EmRun(dataset.particles, config).states())
    for value, size in (
        (state.model, model_bytes(BOX, 1)),
        (state.assignments, assignment_bytes(1) * len(dataset.particles)),
    ):
        arrays = [np.asarray(getattr(value, field.name)) for field in fields(value)]
        assert sum(array.nbytes for array in arrays) == size


def test_memory_is_that_of_faml_inspect(opened):
    """One model, not two; what differs is what was measured."""
    dataset, config = opened
    usual = usual_constants(1, 6, BOX)
    found = inspect_dataset(config)
    count = len(dataset.particles)
    assert found.memory_bytes == resident_bytes(
        box=BOX, classes=1, groups=5, count=count, threads=1, base=usual.base_bytes,
        per_particle=usual.dataset_bytes,
    )  # fmt: skip
    run = RunCost(job_of(dataset, config, count), usual, 1, 3, 7)
    assert run.memory_bytes == found.memory_bytes
    million = RunCost(job_of(dataset, config, 10**6), usual, 1, 3, 7)
    each = (million.memory_bytes - run.memory_bytes) / (10**6 - count)
    assert assignment_bytes(1) < each < 2000


def test_sums_that_wait_are_memory():
    few, many = (RunCost(job(10**7), CONSTANTS, w, 3, 12) for w in (16, 512))
    size = sums_bytes(1, full_resolution_shell(32), total=True)
    assert many.memory_bytes - few.memory_bytes == IN_FLIGHT * (512 - 16) * size
    assert few.worker_bytes == many.worker_bytes


# ---------------------------------------------------------------------- measurement


def test_constants_are_measured(constants, opened):
    dataset, _ = opened
    assert constants.visit.shells == (7,)  # the first is the last in so small a box
    assert constants.particles == (7,)
    numbers = [getattr(constants, field.name) for field in fields(constants)]
    assert all(math.isfinite(x) and x >= 0 for x in numbers if isinstance(x, int | float))
    assert min(constants.visit.seconds) > constants.references.at(7) * 0
    assert constants.volume_bytes == 1024 + 4 * BOX**3
    assert constants.name_bytes == np.mean([len(name) for name in dataset.particles.names])
    assert constants.weight_bytes == 0
    assert constants.base_bytes > 5e7
    assert not constants.packed


def test_a_march_is_measured_on_the_way(tmp_path):
    folder = write_folder(tmp_path / "p", count=5, box=24)
    config = build_config(
        data=DATA | {"inputs": (str(folder),)}, search=SEARCH,
        em={"chunk_size": 2, "first_shell": 4},
    )  # fmt: skip
    found = measure_constants(open_particles(config.data, 0), config)
    assert found.visit.shells == (4, 7, 11)
    assert found.averages.shells[-1] == 11
    assert len(found.averages.shells) >= 2


@pytest.mark.parametrize(
    "em",
    [
        {"classes": 2, "symmetry": "C2"},
        {"half_sets": True, "folds": 1},
        {"start": "average", "march": False, "update": "impute", "batch": 3},
    ],
    ids=str,
)
def test_settings_of_a_run_can_be_planned(opened, em):
    dataset, config = opened
    changed = build_config(data=config.data.model_dump(), search=SEARCH, em=em)
    found = measure_constants(dataset, changed)
    assert found.visit.at(7) > 0
    assert RunCost(job_of(dataset, changed, 100), found, 3, 4, 7).seconds > 0


def test_one_particle_can_be_planned(folder):
    config = build_config(
        data=DATA | {"inputs": (str(next(iter(sorted(folder.iterdir())))),)}, search=SEARCH
    )
    dataset = open_particles(config.data, 0)
    found = measure_constants(dataset, config)
    assert found.particles == (1,)
    assert RunCost(job_of(dataset, config, 1), found, 1, 2, 7).seconds > 0


def test_more_classes_than_particles_are_refused_as_by_a_run(opened):
    dataset, config = opened
    many = config.model_copy(update={"em": config.em.model_copy(update={"classes": 9})})
    with pytest.raises(ConfigurationError, match="9"):
        measure_constants(dataset, many)


def test_a_particle_that_is_gone_is_named(tmp_path):
    folder = write_folder(tmp_path / "p", count=3)
    config = build_config(data=DATA | {"inputs": (str(folder),)}, search=SEARCH)
    dataset = open_particles(config.data, 0)
    first = sorted(folder.iterdir())[0]
    first.unlink()
    with pytest.raises(InputDataError, match=first.stem):
        measure_constants(dataset, config)


def test_bytes_of_each_particle_are_counted_once(opened):
    dataset, _ = opened
    particles = dataset.particles
    count = len(particles)
    held = bytes_held(particles, count)
    arrays = [particles.weight_index, particles.offset, particles.scale, particles.source_index]
    least = sum(array.nbytes for array in arrays) / count
    assert held >= least + np.mean([len(name) for name in particles.names])
    assert held < bytes_held(dataset, count) < 4000
    # What a run keeps for a while is not part of it.
    wide = particles.within(1e8)
    wide.data_term(0)
    assert bytes_held(wide, count) == held
    assert bytes_held((np.zeros(count), np.zeros(count + 1)), count) == 8.0


def test_a_pack_says_what_it_has(opened, folder, tmp_path):
    _, config = opened
    for dtype, size in (("float32", 4), ("float16", 2)):
        path = tmp_path / f"{dtype}.h5"
        write_pack(config.data, path, dtype=dtype)
        packed = build_config(data={"inputs": (str(path),)}, search=SEARCH)
        found = measure_constants(open_particles(packed.data, 0), packed)
        assert found.packed
        assert found.volume_bytes == size * BOX**3


# ---------------------------------------------------------------------- plan and command


def test_hints_say_what_limits_a_run():
    large = replace(CONSTANTS, busy=True, adding_s=1e-10)
    made = make_plan(job(1), large, [10, 10**7], [1, 100, 100_000])
    text = " ".join(hints_of(made))
    for word in ("network link", "--batch 1000", "faml pack", "run.h5", "10 particles", "half"):
        assert word in text
    quiet = make_plan(job(1, batch=10, folds=1), replace(CONSTANTS, packed=True), [10], [1])
    assert hints_of(quiet) == ()
    slow = replace(CONSTANTS, adding_s=1e-6)
    assert "adding them" in hints_of(make_plan(job(1), slow, [10**6], [8]))[0]
    crowd = hints_of(make_plan(job(1), replace(large, adding_s=1e-9), [10**7], [4400]))
    assert any("more than 4,05" in hint and "instead of" in hint for hint in crowd)
    read = replace(CONSTANTS, volume_bytes=1e9)
    assert "every pass" in " ".join(hints_of(make_plan(job(1), read, [10**6], [8])))


def test_ranges_hold_the_number():
    for row in make_plan(job(1, iterations=3), CONSTANTS, [100, 10**6], [1, 64]).predictions:
        low, high = row.seconds_range
        assert low < row.usual.seconds < high
        assert row.usual.iterations == row.long.iterations == 3


def test_numbers_have_units():
    sizes = {10: "0.01 kB", 2e4: "20 kB", 1.5e6: "1.5 MB", 2.5e9: "2.5 GB", 3e13: "30 TB"}
    assert {size: in_bytes(size) for size in sizes} == sizes
    times = {0.5: "0.50 s", 90: "90 s", 130: "2.2 min", 7300: "2.0 h", 2e5: "2.3 days"}
    assert {time: in_time(time) for time in times} == times
    assert in_time(1e8) == "3.2 years"


def test_a_plan_is_json(constants, opened):
    dataset, config = opened
    made = make_plan(job_of(dataset, config, 7), constants, [100, 7, 7], [2, 1])
    found = json.loads(plan_to_json(made, ["a hint"]))
    rows = [(row["particles"], row["workers"]) for row in found["predictions"]]
    assert rows == [(7, 1), (7, 2), (100, 1), (100, 2)]
    assert found["hints"] == ["a hint"]
    assert constants_from(found["constants"]) == constants


def run_cli(*arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(each) for each in arguments])
    return caught.value.code


def test_command(folder, tmp_path, capsys):
    target = tmp_path / "plan.json"
    code = run_cli(
        "plan", folder, *OPTIONS, "--strategy", "fa", "--count", 1000, "--count", 2_000_000,
        "--workers", 1, "--workers", 64, "--json", target,
    )  # fmt: skip
    out = capsys.readouterr().out
    assert code == 0
    assert "measured here" in out
    assert "2,000,000" in out
    found = json.loads(target.read_text())
    assert len(found["predictions"]) == 4
    assert found["assumed"]["threads"] == 1
    assert found["predictions"][0]["run_s"] > found["predictions"][1]["run_s"]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--count", 0], 2, "--count: expected a number from 1"),
        (["--workers", -3], 2, "--workers: expected a number from 1"),
        (["--count", 10**12], 2, "found 1000000000000"),
        (["--json", "nowhere/plan.json"], 2, "found no nowhere"),
        (["--strategy", "best"], 2, "best"),
        (["--batch", 0], 2, "batch"),
        (["--classes", 100], 2, "100"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused(folder, capsys, options, code, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_cli("plan", folder, *OPTIONS, *options) == code
    assert words in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


def test_missing_input_and_wedge_are_refused(folder, capsys, tmp_path):
    assert run_cli("plan", tmp_path / "nothing.star") == 3
    assert run_cli("plan", folder) == 3
    assert "--tilt-range" in capsys.readouterr().err


def test_a_table_counts_among_what_is_held(tmp_path):
    write_folder(tmp_path / "p", count=4)
    names = "".join(f"p/particle_{i:05d}.mrc {i}\n" for i in range(1, 5))
    table = tmp_path / "p.star"
    table.write_text(f"data_particles\n\nloop_\n_rlnImageName #1\n_rlnRandom #2\n{names}")
    assert len(read_star(table).particles) == 4
    data = DATA | {"inputs": (str(table),), "voxel_size_angstrom": VOXEL_ANGSTROM}
    config = build_config(data=data)
    with_table = open_particles(config.data, 0)
    assert bytes_held(with_table, 4) > bytes_held(replace(with_table, star=None), 4)


def test_numbers_of_the_manual_are_those_that_were_measured():
    root = Path(__file__).resolve().parents[1]
    text = (root / "docs" / "howto" / "plan.md").read_text(encoding="utf-8")
    rows = json.loads((root / "bench" / "results" / "plan.json").read_text(encoding="utf-8"))[
        "rows"
    ]
    for row in rows:
        if row["what"] == "run":
            pairs = [("visits_s", 1), ("cpu_s", 1), ("peak_mb", 0), ("checkpoint_kb", 0)]
            cells = [
                f"{row[f'{name}_predicted']:.{digits}f} / {row[f'{name}_measured']:.{digits}f}"
                for name, digits in pairs
            ]
            cells = [f"{row['particles']:,}", *cells, f"{row['ms_per_visit']:.1f}"]
            assert f"| {' | '.join(cells)} |" in text
    (constants,) = (row["constants"] for row in rows if row["what"] == "constants")
    assert constants_from(constants).visit.at(20) > 0
