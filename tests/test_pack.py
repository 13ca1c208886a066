"""Packs: the same particles as the loose files, bit by bit, and clear errors for what is none."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import tilt_stacks
from runs import BOX, DATA, assert_states_equal, settings, write_folder

import faml
from faml.cli.app import main
from faml.config import DataConfig, build_config
from faml.errors import ConfigurationError, InputDataError, OutputError
from faml.io.checkpoint import read_run
from faml.io.dataset import open_particles, survey_particles
from faml.io.formats.conversion import Conversion, convert
from faml.io.inspect import inspect_dataset
from faml.io.mrc import read_volume, write_volume
from faml.io.packs import ranges
from faml.io.packs.readers import singles_of_halves
from faml.io.packs.reading import open_pack
from faml.io.packs.texts import Paths, Texts, encoded
from faml.io.packs.writing import write_pack
from faml.io.star import compacted, read_star
from faml.io.star_text import LazyBlocks
from faml.particles import full_cube, wedge_weight
from faml.particles.kept import FirstKept, LastKept
from faml.particles.view import ParticleViews
from faml.report.coverage import class_coverages, run_input


def config(*inputs, **options):
    return DataConfig(inputs=tuple(map(str, inputs)), **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("loose") / "in")


@pytest.fixture(scope="module")
def pack(folder):
    path = folder.parent / "particles.h5"
    write_pack(config(folder, **DATA), path)
    return path


def ctf_like(seed, n=BOX):
    """A Friedel symmetric amplitude of both signs, as a full cube."""
    z, y, x = np.indices((n, n, n)) - n // 2
    return np.cos(0.1 * (1 + seed) * (x * x + y * y + z * z)).astype(np.float32) * full_cube(
        wedge_weight(n, (-50.0 - seed, 60.0))
    )


def star_project(path, *, premultiplied):
    """A table with poses, tomograms, weight volumes shared by particles and columns of others."""
    write_folder(path / "boxes", count=9)
    for kind in range(3):
        volume = ctf_like(kind)
        write_volume(path / f"ctf {kind}.mrc", volume**2 if premultiplied else volume, 10.0)
    lines = ["# version 30001", "data_optics", "", "loop_", "_rlnOpticsGroup",
             "_rlnImagePixelSize", "_rlnCtfDataAreCtfPremultiplied"]  # fmt: skip
    lines += [f"1 10.0 {int(premultiplied)}", "", "data_other", "", "_rlnThing 'a # b'", ""]
    lines += ["data_particles", "", "loop_"]
    names = ["rlnImageName", "rlnCtfImage", "rlnOpticsGroup", "rlnTomoName", "rlnAngleRot",
             "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst",
             "rlnOriginZAngst", "rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ",
             "wrpNote"]  # fmt: skip
    lines += [f"_{name}" for name in names]
    rng = np.random.default_rng(0)
    order = [4, 0, 8, 1, 7, 2, 6, 3, 5]  # not that of the names
    for row, which in enumerate(order):
        numbers = " ".join(f"{value:.3f}" for value in rng.uniform(-9, 9, 9))
        lines.append(
            f"boxes/particle_{which + 1:05d}.mrc 'ctf {(row + 2) % 3}.mrc' 1 TS_{row % 2:02d} "
            f'{numbers} "it\'s {row}"'
        )
    (path / "particles.star").write_text("\n".join(lines) + "\n")
    return path / "particles.star"


INPUTS = ("folder", "angles", "amplitudes", "premultiplied", "stacks")


@pytest.fixture(scope="module", params=INPUTS)
def pair(request, tmp_path_factory, folder):
    """A configuration of loose files, and the same with their pack."""
    place = tmp_path_factory.mktemp(request.param)
    if request.param == "folder":
        loose = config(folder, **DATA)
    elif request.param == "angles":
        (place / "a.tlt").write_text("\n".join(map(str, range(-60, 61, 6))))
        loose = config(folder, tilt_angles_file=str(place / "a.tlt"), tilt_axis="x")
    elif request.param == "stacks":
        series = tilt_stacks.tomograms()
        made = tilt_stacks.particles(4, series, seed=4)
        loose = config(
            tilt_stacks.write_project(place, tilt_stacks.Blobs(BOX), made, series, noise=0.3)
        )
    else:
        star = star_project(place, premultiplied=request.param == "premultiplied")
        loose = config(star)
    path = place / "pack.h5"
    write_pack(loose, path)
    return loose, config(path)


def assert_same_dataset(mine, theirs):
    """What a run sees of particles, bit by bit."""
    assert theirs.warnings == mine.warnings
    for field in fields(mine.grey):
        np.testing.assert_array_equal(
            getattr(theirs.grey, field.name), getattr(mine.grey, field.name), err_msg=field.name
        )
    assert theirs.normalisation.reason == mine.normalisation.reason
    for name in ("modes", "weight_source", "weight_paths", "available", "paths"):
        assert getattr(theirs, name) == getattr(mine, name), name
    if mine.available == len(mine.rows):  # headers of a pack were read when it was written
        assert theirs.header_sizes == mine.header_sizes
    np.testing.assert_array_equal(theirs.rows, mine.rows)
    np.testing.assert_array_equal(theirs.premultiplied, mine.premultiplied)
    a, b = mine.particles, theirs.particles
    assert a.names == b.names
    assert b.names == a.names
    assert (a.box, a.voxel_size_angstrom) == (b.box, b.voxel_size_angstrom)
    for name in ("weight_index", "offset", "scale", "source_index"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
        assert getattr(a, name).dtype == getattr(b, name).dtype, name
    assert (a.poses is None) == (b.poses is None)
    if a.poses is not None:
        np.testing.assert_array_equal(a.poses.rotations, b.poses.rotations)
        np.testing.assert_array_equal(a.poses.translations, b.poses.translations)
    assert (a.tomograms is None) == (b.tomograms is None)
    if a.tomograms is not None:
        np.testing.assert_array_equal(a.tomograms, b.tomograms)
    for index in range(len(a)):
        np.testing.assert_array_equal(a.data_term(index), b.data_term(index))
        which = int(a.weight_index[index])
        np.testing.assert_array_equal(a.weight(which), b.weight(which))
        mine_c, theirs_c = a.weights.amplitude(which), b.weights.amplitude(which)
        assert (mine_c is None) == (theirs_c is None)
        if mine_c is not None:
            np.testing.assert_array_equal(mine_c, theirs_c)


# ---- the same as loose files


@pytest.mark.parametrize(
    "options",
    [{}, {"subset": 3}, {"particle_diameter_angstrom": 80.0, "invert": True},
     {"normalise": "always", "voxel_size_angstrom": 12.0}],
)  # fmt: skip
def test_a_pack_is_its_files_bit_by_bit(pair, options):
    loose, packed = pair
    mine = open_particles(loose.model_copy(update=options), 5)
    theirs = open_particles(packed.model_copy(update=options), 5)
    if "voxel_size_angstrom" in options:
        assert any("of the pack" in text for text in theirs.warnings)
        keep = [text for text in mine.warnings if "--voxel-size" not in text]
        assert [text for text in theirs.warnings if "--voxel-size" not in text] == keep
        object.__setattr__(theirs, "warnings", mine.warnings)
    assert_same_dataset(mine, theirs)


def test_inspection_finds_the_same(pair):
    loose, packed = pair
    mine = inspect_dataset(build_config(data=loose.model_dump()))
    theirs = inspect_dataset(build_config(data=packed.model_dump()))
    for field in fields(mine):
        if field.name not in {"input_format", "tilt_range_origin", "tilt_range_deg"}:
            assert getattr(theirs, field.name) == getattr(mine, field.name), field.name
    assert theirs.input_format == f"particle pack in single precision, of: {mine.input_format}"
    assert theirs.tilt_range_origin in {mine.tilt_range_origin, "estimated"}


def test_runs_and_what_they_write_are_the_same(pair, tmp_path):
    loose, packed = pair
    results = []
    for name, data in (("loose", loose), ("packed", packed)):
        given = settings(iterations=1) | {"data": data.model_dump()}
        results.append(faml.run(list(data.inputs), tmp_path / name, **given))
    mine, theirs = results
    assert_states_equal(mine.state, theirs.state)
    mine_star, theirs_star = (
        result.star.read_text().replace(str(result.directory), "RUN") for result in results
    )
    assert theirs_star == mine_star
    assert theirs.warnings == mine.warnings


@pytest.mark.parametrize("pair", ["stacks"], indirect=True)
def test_a_report_finds_the_weights_of_a_pack(pair, tmp_path, reports):
    given = settings(iterations=0) | {"data": {}}
    run = faml.run(list(pair[1].inputs), tmp_path / "run", **given)
    assert run.report is not None
    assert "no report" not in (run.directory / "run.log").read_text()
    stored = read_run(run.directory / "run.h5")
    found = run.state.assignments
    mine, theirs = (
        class_coverages(
            stored,
            found.classes,
            found.rotations,
            None,
            run_input(replace(stored, config=build_config(data=data.model_dump()))),
        )
        for data in pair
    )
    np.testing.assert_array_equal(mine[0].observed, theirs[0].observed)


def test_a_run_on_a_pack_is_resumed(folder, pack, tmp_path):
    whole = faml.run(folder, tmp_path / "loose", **settings(iterations=3))
    given = settings(iterations=1) | {"data": {}}
    faml.run(pack, tmp_path / "packed", **given)
    resumed = faml.resume(tmp_path / "packed", iterations=3, memory_gb=0.5)
    assert_states_equal(whole.state, resumed.state)
    assert resumed.config.memory_gb == 0.5
    assert read_run(tmp_path / "packed" / "run.h5").config.memory_gb == 0.5


def test_a_pack_of_a_pack_is_the_same(pair, tmp_path):
    loose, packed = pair
    write_pack(packed, tmp_path / "again.h5")
    assert_same_dataset(open_particles(loose, 0), open_particles(config(tmp_path / "again.h5"), 0))


def test_opening_reads_no_volume(pair, monkeypatch):
    _, packed = pair
    counts = []
    monkeypatch.setattr(
        ranges.RangeFile, "read", lambda self, offset, count: counts.append(count) or b""
    )
    open_particles(packed, 0)
    survey_particles(packed.model_copy(update={"subset": 2, "invert": True}))
    assert counts == []
    with pytest.raises(InputDataError, match="damaged"):  # another radius has to be measured
        open_particles(packed.model_copy(update={"particle_diameter_angstrom": 90.0}), 0)


def test_statistics_are_kept_for_the_diameter_that_packing_knew(folder, tmp_path, monkeypatch):
    options = DATA | {"particle_diameter_angstrom": 90.0}
    write_pack(config(folder, **options), tmp_path / "p.h5")
    mine = open_particles(config(folder, **options), 0)
    monkeypatch.setattr(ranges.RangeFile, "read", None)
    for diameter in (90.0, None):
        theirs = open_particles(config(tmp_path / "p.h5", particle_diameter_angstrom=diameter), 0)
        if diameter:
            np.testing.assert_array_equal(theirs.grey.inside_mean, mine.grey.inside_mean)


def test_any_hdf5_program_reads_a_pack(pack, folder):
    with h5py.File(pack) as file:
        values = file["particles/values"]
        assert values.fletcher32
        assert values.dtype == "<f4"
        names = file["particles/names"].asstr()[:]
        for index, path in enumerate(file["particles/paths"].asstr()[:]):
            np.testing.assert_array_equal(values[index], read_volume(path).values)
            assert names[index] == path
        assert len(names) == 7
        offsets = ranges.StoredArrays.of_dataset(
            file["particles"], "values", ranges.RangeFile(pack, (pack.stat().st_size, 0))
        ).offsets
        slow = [values.id.get_chunk_info(i).byte_offset for i in range(values.id.get_num_chunks())]
        assert offsets.tolist() == slow


@pytest.mark.parametrize("count", [1, 15, 16, 17, 40])
def test_several_particles_to_a_chunk(tmp_path, count):
    rng = np.random.default_rng(count)
    volumes = rng.normal(size=(count, 16, 16, 16)).astype(np.float32)
    (tmp_path / "in").mkdir()
    for index, volume in enumerate(volumes):
        write_volume(tmp_path / "in" / f"p{index}.mrc", volume, 5.0)
    write_pack(config(tmp_path / "in", **DATA), tmp_path / "p.h5")
    reader = open_pack(tmp_path / "p.h5").volumes
    assert reader.arrays.per_chunk == min(16, count)
    for index in reversed(range(count)):
        np.testing.assert_array_equal(reader.read(index), volumes[index])


# ---- half precision


def test_halves_become_singles_exactly():
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    found = singles_of_halves(finite)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.view(np.int32), finite.astype(np.float32).view(np.int32))


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (-3e4, 7.0), (1e-12, 1e-15),
                                                 (2e15, 1e14), (5.0, 1e-3)])  # fmt: skip
def test_half_precision_at_any_scale(tmp_path, mean, deviation):
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(5, 16, 16, 16))
    noise[:, 0, 0, 0] = 60.0  # an outlier, such as a bead
    volumes = (mean + deviation * noise).astype(np.float32)
    (tmp_path / "in").mkdir()
    for index, volume in enumerate(volumes):
        write_volume(tmp_path / "in" / f"p{index}.mrc", volume, 5.0)
    write_pack(config(tmp_path / "in", **DATA), tmp_path / "p.h5", dtype="float16")
    reader = open_pack(tmp_path / "p.h5").volumes
    for index, volume in enumerate(volumes.astype(np.float64)):
        error = np.abs(reader.read(index) - volume)
        centred = np.abs(volume - volume.mean())
        single = np.finfo(np.float32).eps * np.abs(volume).max()  # of mean, product and sum
        bound = 2.0**-11 * centred + 2.0**-25 * volume.std() + 3.0 * single
        assert (error <= bound * (1 + 1e-6)).all()
    assert open_particles(config(tmp_path / "p.h5"), 0).grey.minimum[0] == reader.read(0).min()


# ---- what is none


def rewritten(pack, tmp_path, change):
    """A copy of a pack whose HDF5 was changed."""
    path = tmp_path / "changed.h5"
    shutil.copy(pack, path)
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def flip(path, offset):
    with path.open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)
        stream.seek(offset)
        stream.write(bytes([byte[0] ^ 0x10]))


def test_a_damaged_particle_is_named(pack, tmp_path):
    path = tmp_path / "p.h5"
    shutil.copy(pack, path)
    arrays = open_pack(path).arrays
    flip(path, int(arrays.offsets[0]) + 3 * 4 * BOX**3 + 77)
    particles = open_particles(config(path), 0).particles
    for index in (0, 1, 2, 4):
        particles.data_term(index)
    for _ in range(2):  # a failure is not taken for a check
        with pytest.raises(InputDataError, match=r"particle_00004\.mrc is damaged.*faml pack"):
            particles.data_term(3)
    with pytest.raises(InputDataError, match=r"particle_00004\.mrc is damaged"):
        faml.run(path, tmp_path / "run", **(settings(iterations=1) | {"data": {}}))


def test_a_damaged_weight_is_named(pack, tmp_path):
    path = tmp_path / "p.h5"
    shutil.copy(pack, path)
    flip(path, int(open_pack(path).weights.weights.offsets[0]) + 5)
    with pytest.raises(InputDataError, match="weight 1 is damaged"):
        open_particles(config(path), 0).particles.weight(0)


def test_truncated_packs(pack, tmp_path):
    whole = pack.read_bytes()
    for length in (100, 2000, len(whole) // 2, len(whole) - 1):
        path = tmp_path / f"{length}.h5"
        path.write_bytes(whole[:length])
        with pytest.raises(InputDataError, match=r"cannot be read as a particle pack.*faml pack"):
            open_particles(config(path), 0)


def test_a_pack_that_changes_under_a_run(pack, tmp_path):
    path = tmp_path / "p.h5"
    shutil.copy(pack, path)
    particles = open_particles(config(path), 0).particles
    path.write_bytes(pack.read_bytes()[:-4])
    with pytest.raises(InputDataError, match="changed since it was opened"):
        particles.data_term(0)
    path.unlink()
    with pytest.raises(InputDataError, match="cannot be read"):
        particles.data_term(0)


def _links(kind):
    def change(file):
        del file["particles/names"]
        if kind == "external link":
            file["particles/names"] = h5py.ExternalLink("/etc/passwd", "/x")
        elif kind == "soft link":
            file["particles/names"] = h5py.SoftLink("/particles/paths")
        elif kind == "external data":
            file["particles"].create_dataset("names", (7,), "S8", external=[("/etc/passwd", 0, 56)])
        else:
            layout = h5py.VirtualLayout((7,), "S8")
            layout[:] = h5py.VirtualSource("/etc/x.h5", "y", (7,))
            file["particles"].create_virtual_dataset("names", layout)

    return change


@pytest.mark.parametrize("kind", ["external link", "soft link", "external data", "virtual data"])
def test_nothing_outside_of_a_pack_is_read(pack, tmp_path, kind):
    path = rewritten(pack, tmp_path, _links(kind))
    with pytest.raises(InputDataError, match=r"/particles/names (is a link|lie in another file)"):
        open_particles(config(path), 0)


def test_groups_within_themselves_end(pack, tmp_path):
    def change(file):
        file["particles/again"] = file["particles"]

    with pytest.raises(InputDataError, match="lies deeper than anything in a pack does"):
        open_particles(config(rewritten(pack, tmp_path, change)), 0)


def _compressed(file):
    values = file["particles/values"][()]
    del file["particles/values"]
    file["particles"].create_dataset("values", data=values, chunks=(1, *values.shape[1:]),
                                     compression="gzip")  # fmt: skip


def _replaced(name, value):
    def change(file):
        del file[name]
        file[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda file: file.attrs.__setitem__("format", 2), "format 1 to 1, found 2; update faml"),
        (lambda file: file.attrs.__setitem__("kind", np.bytes_("x")), "another HDF5 file"),
        (lambda file: file.attrs.__setitem__("kind", "x"), "kind is of type object"),
        (lambda file: file.attrs.__delitem__("kind"), "another HDF5 file"),
        (lambda file: file.attrs.__delitem__("box"), "cannot be read as a particle pack"),
        (lambda file: file.attrs.__setitem__("box", 15), "box of another size"),
        (lambda file: file.attrs.__setitem__("voxel_size", np.nan), "no voxel size"),
        (_replaced("description", np.frombuffer(b"{", np.uint8)), "cannot be read as"),
        (lambda file: file.__delitem__("weights"), "cannot be read as a particle pack"),
        (_compressed, "without compression"),
        (_replaced("particles/weight_index", np.full(7, 3)), "weights that are not there"),
        (_replaced("particles/weight_index", np.zeros(6, int)), "cannot be read as"),
        (_replaced("particles/names", np.zeros(7)), "no list of texts"),
        (_replaced("particles/names", np.zeros(7, "S20000")), "no list of texts"),
        (_replaced("weights/amplitude_index", np.array([0])), "amplitudes that are not there"),
        (_replaced("grey/0/minimum", np.zeros(3)), "has the shape"),
    ],
)
def test_packs_that_are_none(pack, tmp_path, change, says):
    path = rewritten(pack, tmp_path, change)
    with pytest.raises(InputDataError, match=says):
        open_particles(config(path), 0)


def test_a_checkpoint_is_no_input(folder, tmp_path):
    run = faml.run(folder, tmp_path / "run", report=False, **settings(iterations=0))
    with pytest.raises(InputDataError, match=r"found the checkpoint of a run.*faml resume"):
        open_particles(config(run.directory / "run.h5"), 0)


def test_damage_anywhere_is_an_error_or_harmless(pack, tmp_path):
    """Bits that flip in what HDF5 itself wrote: an error of ours, or what was written."""
    rng = np.random.default_rng(1)
    whole = pack.read_bytes()
    reference = open_particles(config(pack), 0).particles
    volumes = int(open_pack(pack).arrays.offsets[0])
    places = [*rng.integers(0, volumes, 40), *rng.integers(volumes, len(whole), 40)]
    for number, place in enumerate(places):
        path = tmp_path / f"{number}.h5"
        path.write_bytes(whole)
        flip(path, int(place))
        try:
            particles = open_particles(config(path), 0).particles
            for index in range(len(particles)):
                np.testing.assert_array_equal(
                    particles.data_term(index), reference.data_term(index)
                )
        except InputDataError:
            pass
        path.unlink()


def test_packs_have_no_texts_in_heaps(pack):
    """HDF5 keeps texts of variable length in heaps without checksums; damage there hung it."""
    with h5py.File(pack) as file:
        names = []
        file.visititems(lambda name, item: names.append(name))
        items = [file, *(file[name] for name in names)]
        for item in items:
            kinds = {item.attrs.get_id(name).dtype.kind for name in item.attrs}
            assert kinds <= set("iufS"), item.name
            if isinstance(item, h5py.Dataset):
                assert item.dtype.kind in "biufS", item.name
    assert b"GCOL" not in pack.read_bytes()


# ---- packs as inputs


def test_a_pack_is_known_by_its_content(pack, tmp_path):
    for name in ("particles.mrc", "particles.star", "particles"):
        shutil.copy(pack, tmp_path / name)
        assert len(open_particles(config(tmp_path / name), 0).particles) == 7
    (tmp_path / "text.h5").write_text("no HDF5\n")
    with pytest.raises(InputDataError, match=r"unknown kind of file \.h5"):
        open_particles(config(tmp_path / "text.h5", **DATA), 0)


def test_a_pack_is_given_alone(pack, folder):
    with pytest.raises(ConfigurationError, match="expected one particle pack"):
        open_particles(config(pack, folder, **DATA), 0)
    for option in ("particles_folder", "wedge_list", "tomograms"):
        with pytest.raises(ConfigurationError, match="is a pack of them"):
            open_particles(config(pack, **{option: str(folder)}), 0)


def test_tilts_of_a_run_replace_those_of_the_pack(folder, pack, tmp_path):
    options = {"tilt_range_deg": (-40.0, 50.0), "tilt_axis": "x"}
    mine, theirs = (open_particles(config(each, **options), 0) for each in (folder, pack))
    assert "--tilt-range replaces the tilt range that the pack" in theirs.warnings[0]
    np.testing.assert_array_equal(mine.particles.weight(0), theirs.particles.weight(0))
    star = star_project(tmp_path, premultiplied=False)
    write_pack(config(star), tmp_path / "p.h5")
    kept = open_particles(config(tmp_path / "p.h5", **options), 0)
    assert "the pack has weights from volumes: --tilt-range is ignored" in kept.warnings
    assert kept.weight_source == "volumes"


def test_shifts_follow_a_voxel_size_that_the_table_does_not_say(tmp_path):
    star = star_project(tmp_path, premultiplied=False)
    lines = star.read_text().replace("_rlnImagePixelSize\n", "").replace("1 10.0 0", "1 0")
    star.write_text(lines)
    write_pack(config(star), tmp_path / "p.h5")
    options = {"voxel_size_angstrom": 5.0}
    mine, theirs = (open_particles(config(each, **options), 0).particles.poses
                    for each in (star, tmp_path / "p.h5"))  # fmt: skip
    np.testing.assert_array_equal(mine.translations, theirs.translations)


def test_the_originals_may_be_gone(pair, tmp_path):
    loose, packed = pair
    moved = tmp_path / "moved.h5"
    shutil.copy(packed.inputs[0], moved)
    mine = open_particles(loose, 0)
    theirs = open_particles(config(moved), 0)
    assert theirs.files == (moved,)
    if mine.star is not None:
        assert list(theirs.star.blocks) == list(mine.star.blocks)
        for name, block in mine.star.blocks.items():
            if isinstance(block, dict):
                assert theirs.star.blocks[name] == block
            else:
                assert theirs.star.blocks[name].equals(block)


@pytest.mark.parametrize("pair", ["folder", "amplitudes", "stacks"], indirect=True)
def test_the_table_of_a_pack_is_converted(pair, tmp_path):
    loose, packed = pair
    source = Path(packed.inputs[0])
    if open_pack(source).star is None:
        with pytest.raises(InputDataError, match="a pack of loose files"):
            convert(Conversion(source, tmp_path / "a.star"))
        return
    for place in ("0", "1"):
        (tmp_path / place).mkdir()
    for name in ("a.star", "a.tbl"):
        for number, each in enumerate((Path(loose.inputs[0]), source)):
            target = tmp_path / str(number) / name
            done = convert(Conversion(each, target, tomogram_size=(250.0, 200.0, 100.0)))
            assert done.count == len(open_pack(source).names)
        assert (tmp_path / "0" / name).read_text() == (tmp_path / "1" / name).read_text()


@pytest.mark.parametrize("pair", ["amplitudes", "stacks"], indirect=True)
def test_the_table_of_loose_files_comes_back_from_memory(pair):
    """It is kept as compressed text while a run goes on."""
    given = read_star(pair[0].inputs[0])
    kept = open_particles(pair[0], 0).star
    assert isinstance(kept.blocks, LazyBlocks)
    for _ in range(2):
        assert list(kept.blocks) == list(given.blocks)
        for name, block in given.blocks.items():
            found = kept.blocks[name]
            assert block == found if isinstance(block, dict) else block.equals(found), name
        kept.blocks.forget()
    awkward = given.particles.assign(x=["two\nlines"] * len(given))
    blocks = {**given.blocks, given.particles_block: awkward}
    star = replace(given, blocks=blocks)
    assert compacted(star) is star


# ---- writing


def test_packs_are_not_written_over_anything(folder, pack, tmp_path):
    before = pack.read_bytes()
    with pytest.raises(OutputError, match=r"exists already.*--force"):
        write_pack(config(folder, **DATA), pack)
    first = sorted(folder.iterdir())[0]
    with pytest.raises(OutputError, match="part of the input"):
        write_pack(config(folder, **DATA), first, force=True)
    with pytest.raises(OutputError, match="part of the input"):
        write_pack(config(pack), pack, force=True)
    assert pack.read_bytes() == before
    write_pack(config(folder, **DATA), tmp_path / "p.h5")
    write_pack(config(folder, **DATA), tmp_path / "p.h5", dtype="float16", force=True)
    assert open_pack(tmp_path / "p.h5").mean is not None


def test_nothing_is_left_of_a_pack_that_was_not_finished(folder, tmp_path, monkeypatch):
    def interrupt(done, count):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_pack(config(folder, **DATA), tmp_path / "p.h5", progress=interrupt)
    assert list(tmp_path.iterdir()) == []
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OutputError, match="free space"):
        write_pack(config(folder, **DATA), tmp_path / "p.h5")
    with pytest.raises(InputDataError, match="missing wedge is unknown"):
        write_pack(config(folder), tmp_path / "p.h5")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("room", [0, 700, 60_000, 130_000])
def test_a_full_disk_is_one_error(folder, tmp_path, room):
    code = (
        "import resource, signal, sys\n"
        "from faml.cli.app import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))\n"
        "main(sys.argv[1:])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "pack", str(folder), "-o", str(tmp_path / "p.h5"),
         "--tilt-range", "-60", "60"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 4
    assert len(done.stderr.strip().splitlines()) == 1
    assert "could not be written" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_constant_particles_are_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "in")
    write_volume(tmp_path / "in" / "particle_00003.mrc", np.ones((BOX,) * 3, np.float32), 10.0)
    with pytest.raises(InputDataError, match=r"particle_00003\.mrc: the volume is constant"):
        write_pack(config(tmp_path / "in", **DATA), tmp_path / "p.h5", dtype="float16")
    assert not (tmp_path / "p.h5").exists()


# ---- processes and memory


def _term(particles, index):
    return particles.data_term(index)


def test_particles_can_be_sent_elsewhere(pair):
    for each in pair:
        particles = open_particles(each, 0).particles
        before = particles.data_term(1)
        for copy in (particles, particles.within(1e6)):
            sent = pickle.loads(pickle.dumps(copy))
            np.testing.assert_array_equal(sent.data_term(1), before)
            assert sent.names == particles.names
            assert (sent.kept is None) == (copy.kept is None)
            assert sent.subset(np.array([2, 1])).names[0] == particles.names[2]


def test_a_pickle_is_small_and_holds_nothing_that_was_read(pack):
    particles = open_particles(config(pack), 0).particles.within(1e9)
    fresh = len(pickle.dumps(particles))
    for index in range(7):
        particles.data_term(index)
    assert len(particles.kept) == 7
    assert len(pickle.dumps(particles)) == fresh < 20_000


def test_a_fork_and_threads_read_the_same_file(pack):
    particles = open_particles(config(pack), 0).particles
    want = [particles.data_term(index) for index in range(7)]
    with ThreadPoolExecutor(4) as pool:
        order = [index % 7 for index in range(200)]
        for index, found in zip(order, pool.map(particles.data_term, order), strict=True):
            np.testing.assert_array_equal(found, want[index])
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(_term, (particles, 4)), want[4])
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # libraries have threads
        child = os.fork()
    if child == 0:  # nothing but plain calls: threads do not survive a fork
        try:
            same = np.array_equal(particles.volumes.read(3), particles.volumes.read(3))
            os.write(writer, b"1" if same else b"0")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    np.testing.assert_array_equal(particles.data_term(3), want[3])
    assert os.read(reader, 1) == b"1"
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("pair", ["amplitudes"], indirect=True)
def test_memory_changes_no_result(pair, tmp_path):
    _, packed = pair
    given = settings(iterations=1) | {"data": packed.model_dump()}
    plain = faml.run(list(packed.inputs), tmp_path / "plain", report=False, **given)
    for name, memory in (("none", 1e-9), ("some", 3e-4), ("all", 1.0)):
        run = faml.run(
            list(packed.inputs), tmp_path / name, report=False, memory_gb=memory, **given
        )
        assert_states_equal(run.state, plain.state)


def test_what_is_kept_stays_within_the_memory(pack, monkeypatch):
    each = 8 * BOX * BOX * (BOX // 2 + 1)
    particles = open_particles(config(pack), 0).particles
    reads = []
    read = type(particles.volumes).read
    monkeypatch.setattr(
        type(particles.volumes), "read", lambda self, i: reads.append(i) or read(self, i)
    )
    weights = 12 * each // 2
    limited = particles.within(weights + 3.5 * each)
    assert limited.weights_kept == 1
    for _ in range(3):
        for index in range(7):
            limited.subset(np.arange(7)).data_term(index)
    assert len(limited.kept) == 3
    assert limited.kept.bytes <= 3.5 * each
    assert sorted(reads) == sorted([0, 1, 2, *3 * [3, 4, 5, 6]])
    with pytest.raises(ValueError, match="read-only"):
        limited.data_term(0)[...] = 0
    other = limited.with_random_phases(3, 0)
    assert not np.array_equal(other.data_term(0), limited.data_term(0))


def test_views_fit_what_is_counted_for_a_weight():
    """`within` counts the size of W times 12 for each weight that is kept."""
    from faml.particles import ParticleSet
    from faml.transforms.fourier import fourier_grid

    for n in (16, 33, 40):
        last = (n - 1) // 2
        weight = np.ones((1, n, n, n // 2 + 1), np.float32)
        particles = ParticleSet.from_arrays(np.ones((1, n, n, n), np.float32), weight)
        view = ParticleViews(particles, fourier_grid(n, last, last)).weight(0)
        made = view.values.nbytes + view.cube.nbytes + view.padded.nbytes
        assert made + weight.nbytes <= 12 * weight.nbytes


def test_last_kept_forgets_what_was_used_longest_ago():
    kept, made = LastKept(2), []
    for index in (1, 2, 1, 3, 1, 2):
        assert kept.get(index, lambda i=index: made.append(i) or f"v{i}") == f"v{index}"
    assert made == [1, 2, 3, 2]
    assert len(kept) == 2


def test_first_kept_does_not_grow_under_threads():
    kept = FirstKept(1000)

    def visit(index):
        return int(kept.get(index % 30, lambda: np.full(25, index % 30, np.int32))[0])

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(visit, range(3000)))
    assert found == [index % 30 for index in range(3000)]
    assert kept.bytes == 1000 == 100 * len(kept)


def test_texts_are_as_a_tuple():
    given = ("a", "", "Größe", "x" * 90, "b\udcff")
    texts = Texts(encoded(given))
    assert texts == given
    assert given == texts
    assert texts != given[:-1]
    assert texts != (*given[:-1], "y")
    assert hash(texts) == hash(given)
    assert texts[1:3] == given[1:3]
    assert list(texts.take(np.array([3, 0]))) == ["x" * 90, "a"]
    assert texts != 3
    assert Texts(encoded(())) == ()
    assert [path.name for path in Paths(encoded(["/a/b.mrc"]))] == ["b.mrc"]


def _tiny_pack(place, count, box=8):
    """A pack of many tiny particles, written by its format alone."""
    (place / "in").mkdir(parents=True)
    rng = np.random.default_rng(0)
    columns = "".join(f"_famlColumn{i}\n" for i in range(20))
    lines = ["data_particles", "", "loop_", f"_rlnImageName\n{columns}"]
    for index in range(count):
        name = f"in/some_longer_name_of_a_tomogram_{index:06d}.mrc"
        write_volume(place / name, rng.normal(size=(box,) * 3).astype(np.float32), 9.0)
        lines.append(f"{name} " + " ".join(f"{index + i:.4f}" for i in range(20)))
    (place / "t.star").write_text("\n".join(lines) + "\n")
    write_pack(config(place / "t.star", **DATA), place / "p.h5")
    return place / "p.h5"


def test_a_pack_takes_little_memory_per_particle(tmp_path):
    paths = {count: _tiny_pack(tmp_path / str(count), count) for count in (50, 450)}
    open_particles(config(paths[50]), 0)  # whatever is loaded once
    sizes = {}
    for count, path in paths.items():
        tracemalloc.start()
        dataset = open_particles(config(path), 0)
        sizes[count] = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert len(dataset.particles) == count
    # Two names of some 80 bytes, statistics of 64, and some numbers.
    assert (sizes[450] - sizes[50]) / 400 < 400
    assert len(dataset.star) == 450  # the table is there when it is asked for


# ---- command line


def test_commands(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = [str(folder), "-o", "p.h5", "--tilt-range", "-60", "60"]
    for wanted, code in (([*options, "--dtype", "float8"], 2), (options, 0), (options, 4),
                         ([*options, "--force", "--dtype", "float16", "-q"], 0)):  # fmt: skip
        with pytest.raises(SystemExit) as ended:
            main(["pack", *wanted])
        assert ended.value.code == code
    said = capsys.readouterr().err
    assert "expected float32 or float16" in said
    assert "p.h5: 7 particles of 16^3 voxels, 10 Angstrom per voxel, weights from tilt" in said
    assert "exists already" in said
    with pytest.raises(SystemExit) as ended:
        main(["inspect", "p.h5"])
    assert ended.value.code == 0
    assert "particle pack in half precision" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["run", "p.h5", "-o", "run", "--memory", "0.01", "--iterations", "0", "--threads",
              "1", "-q", "--no-report"])  # fmt: skip
    assert ended.value.code == 0
    assert read_run(tmp_path / "run" / "run.h5").config.memory_gb == 0.01
    assert list(read_star(tmp_path / "run" / "particles.star").particles["rlnImageName"]) == [
        str(path) for path in sorted(folder.iterdir())
    ]
