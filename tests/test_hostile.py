"""Broken and hostile files are refused in a sentence; the campaigns are those of bench/fuzz.py.

Each input here was a finding, or is the way out of a directory that must stay closed.
"""

from __future__ import annotations

import ast
import faulthandler
import os
import re
import signal
import struct
import sys
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_runs import checkpoint

import faml
from faml import api
from faml.compare.experiment import read_experiment
from faml.config import config_from_toml, config_to_toml, toml_values
from faml.errors import (
    CheckpointError,
    ConfigurationError,
    FamlError,
    InputDataError,
    OutputError,
)
from faml.io.checkpoint import read_run
from faml.io.em import read_em, write_em
from faml.io.files import check_memory, open_regular, read_head, read_text
from faml.io.formats import read_table
from faml.io.formats.table import ParticleTable, numbered_tomograms, tomogram_numbers
from faml.io.formats.wedge_lists import read_wedge_list
from faml.io.history import read_history
from faml.io.inputs import resolve_inputs
from faml.io.mrc import read_header, read_volume, write_volume
from faml.io.stacks import read_optimisation_set, read_tilt_series
from faml.io.star import read_star, resolve_images, star_pixel_size
from faml.io.star_text import _values, read_blocks
from faml.io.tilt_angles import read_tilt_angles
from faml.report.log_file import read_run_log
from faml.report.page import write_report
from faml.report.run_data import load_run_data
from faml.run_log import logged
from faml.simulate.density import density_from_model
from faml.starts import best_start
from faml.watch.live import at_work

sys.path.append(str(Path(__file__).resolve().parents[1] / "bench"))
import fuzz
import fuzz_readers
import fuzz_seeds

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 100
"""What hung or took minutes was never done in this; what is right takes milliseconds."""
TABLE = "data_particles\nloop_\n_rlnImageName\n"


@pytest.fixture(autouse=True)
def _ends():
    """A reader that hangs is a failure, not a test suite that hangs."""

    def stop(number, frame):
        raise AssertionError("a reader hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    # What hangs in a library sees no signal.
    faulthandler.dump_traceback_later(SECONDS + 20, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def text_file(folder, text, name="a.star"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# ------------------------------------------------------------------- kinds of files

READERS = {
    "mrc": read_header,
    "volume": read_volume,
    "em": read_em,
    "star": read_star,
    "blocks": read_blocks,
    "table": read_table,
    "wedge list": read_wedge_list,
    "tilt angles": read_tilt_angles,
    "tilt series": lambda path: read_tilt_series(path, ["TS_1"]),
    "optimisation set": read_optimisation_set,
    "log": read_run_log,
    "experiment": read_experiment,
    "checkpoint": read_run,
    "history": read_history,
    "input": lambda path: api.open_particles(
        faml.config.DataConfig(inputs=(str(path),), voxel_size_angstrom=1.0), 0
    ),
}


@pytest.mark.parametrize("reader", READERS)
def test_pipes_are_refused_and_not_waited_for(tmp_path, reader):
    path = tmp_path / "a.mrc"
    os.mkfifo(path)
    with pytest.raises(FamlError, match=r"found a pipe|expected a run"):
        READERS[reader](path)


@pytest.mark.parametrize("reader", READERS)
def test_devices_without_end_are_refused(reader):
    with pytest.raises(FamlError, match=r"found a device|expected a run"):
        READERS[reader](Path("/dev/zero"))


@pytest.mark.parametrize("reader", sorted(set(READERS) - {"log", "optimisation set"}))
def test_files_of_the_system_are_not_read(reader):
    """They are regular, of size 0, and may never end."""
    with pytest.raises(FamlError):
        READERS[reader](Path("/proc/self/environ"))
    with open_regular("/proc/self/environ") as stream:
        assert stream.read(1)  # there would be something
    assert read_text("/proc/self/environ", "nothing") == ""
    assert read_head("/proc/self/environ", 9) == b""


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "x/" * 3000])
def test_names_that_cannot_be(tmp_path, name):
    with pytest.raises(InputDataError, match=r"cannot be read|does not exist"):
        open_regular(tmp_path / name)


def test_what_takes_the_place_of_a_file_later_is_refused_too(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    os.mkfifo(path)
    monkeypatch.setattr("faml.io.files.check_regular", lambda path: None)
    with pytest.raises(InputDataError, match="found a pipe"):
        open_regular(path)


def test_line_ends_and_byte_order_mark_of_text(tmp_path):
    path = text_file(tmp_path, b"\xef\xbb\xbfa\r\nb\rc\n")
    assert read_text(path, "text") == "a\nb\nc\n"
    with pytest.raises(InputDataError, match=r"binary data, not text; expected a list$"):
        read_text(text_file(tmp_path, b"\xff\xfe\0"), "a list")


def test_files_with_holes_are_not_larger_than_memory(tmp_path):
    path = tmp_path / "a.mrc"
    write_volume(path, np.zeros((2, 2, 2), np.float32), 1.0)
    data = bytearray(path.read_bytes())
    struct.pack_into("<3i", data, 0, 32768, 32768, 1024)
    path.write_bytes(data)
    with pytest.raises(InputDataError, match="truncated: expected 4398046512128 bytes"):
        read_header(path)
    try:
        os.truncate(path, 1024 + 4 * 32768**2 * 1024)
    except OSError:
        pytest.skip("the file system has no files of 4 TB")
    with pytest.raises(InputDataError, match=r"fits into memory, found 4.4e.03 GB"):
        read_volume(path)
    check_memory(path, 1 << 31)


# ------------------------------------------------------------------- names in tables


def test_names_of_a_table_lead_to_files_only(tmp_path):
    os.mkfifo(tmp_path / "pipe.mrc")
    (tmp_path / "folder.mrc").mkdir()
    for name, words in (
        ("pipe.mrc", r"pipe\.mrc: cannot be read: expected a file, found a pipe"),
        ("/dev/zero", "/dev/zero: cannot be read: expected a file, found a device"),
        ("folder.mrc", "not found: folder.mrc"),
        ("/etc/", "not found: /etc/"),
        ("''", "not found"),
    ):
        star = read_star(text_file(tmp_path, f"{TABLE}{name}\n"))
        with pytest.raises(InputDataError, match=words):
            resolve_images(star, "rlnImageName")


def test_a_project_may_name_what_lies_beside_it(tmp_path):
    """RELION's tables do: to read, `..` is a name like others; nothing is written there."""
    (tmp_path / "b.mrc").write_bytes(b"")
    (tmp_path / "project").mkdir()
    star = read_star(text_file(tmp_path / "project", f"{TABLE}../b.mrc\n"))
    assert resolve_images(star, "rlnImageName") == (tmp_path / "b.mrc",)


def test_an_optimisation_set_names_files_only(tmp_path):
    os.mkfifo(tmp_path / "pipe.star")
    path = text_file(tmp_path, "data_\n_rlnTomoParticlesFile pipe.star\n")
    with pytest.raises(InputDataError, match="found a pipe"):
        read_optimisation_set(path)


def test_superscripts_in_names_of_files_are_no_numbers(tmp_path):
    for name in ("1\u00b22.mrc", "1\u00b210.mrc"):
        write_volume(tmp_path / name, np.zeros((2, 2, 2), np.float32), 1.0)
    found = resolve_inputs([str(tmp_path)]).volumes
    assert [path.name for path in found] == ["1\u00b22.mrc", "1\u00b210.mrc"]


def test_nothing_is_written_where_a_table_says(tmp_path):
    """`faml convert` writes what it is told to write, whatever the table names."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    name = "../../../escaped"
    table = text_file(
        tmp_path / "in",
        f"{TABLE}_rlnTomoName\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnCoordinateZ\n"
        f"{name}.mrc {name} 1 2 3\n{tmp_path}/absolute.mrc {tmp_path}/absolute 1 2 3\n",
    )
    from faml.io.formats.conversion import Conversion, convert

    for target in ("a.tbl", "a.em", "a.star"):
        convert(Conversion(table, tmp_path / "out" / target, voxel_size_angstrom=1.0))
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {
        *("in/a.star", "out/a.tbl", "out/a.doc", "out/a.em", "out/a.em.doc", "out/a.star"),
    }


# ------------------------------------------------------------------- text


def star_rows(*rows):
    return TABLE + "".join(f"{row}\n" for row in rows)


def digits(count):
    return "9" * count


@pytest.mark.parametrize("number", [digits(12), digits(5000)])
def test_a_version_that_is_no_number_of_ours(tmp_path, number):
    found = read_blocks(text_file(tmp_path, f"# version {number}\ndata_\n_a b\n"))
    assert found.version == 30001


def test_lines_of_quotes_and_tables_of_labels_take_no_square_of_their_length(tmp_path):
    text = "data_a\n_b '" + ' "x' * 150_000 + " '\n"
    with pytest.raises(InputDataError, match=r"expected one value of b, found 150001|malformed"):
        read_blocks(text_file(tmp_path, text.replace(" '\n", "\n")))
    assert read_blocks(text_file(tmp_path, text)).blocks["a"]["b"].startswith(' "x "x')
    labels = "".join(f"_{index}\n" for index in range(150_000))
    assert len(read_blocks(text_file(tmp_path, f"data_a\nloop_\n{labels}")).blocks["a"].columns)


BLANK = r"[ \t\r\f\v]"
OLD = re.compile(
    rf"""(?<![^ \t\r\f\v])(?:"(.*?)"(?={BLANK}|$)|'(.*?)'(?={BLANK}|$)|(#.*)|([^ \t\r\f\v]+))"""
)


@given(st.text(alphabet="\"'# \tab\u00e4\x0b", max_size=30))
def test_values_of_a_line_are_those_of_the_grammar(line):
    expected = []
    for match in OLD.finditer(line):
        double, single, comment, bare = match.groups()
        if comment is not None:
            break
        expected.append(next(text for text in (double, single, bare) if text is not None))
    assert _values(line) == expected


def test_many_wedges_do_not_read_the_file_as_often(tmp_path, monkeypatch):
    columns = "".join(
        f"_dynamo_{name}\n" for name in ("ftype", "ymintilt", "ymaxtilt", "xmintilt", "xmaxtilt")
    )
    rows = [f"{k}.mrc 1 -60 {k / 100} 0 0" for k in range(200)]
    path = text_file(tmp_path, TABLE + columns + "\n".join(rows) + "\n")
    asked = []
    monkeypatch.setattr("faml.io.formats.relion.line_of_row", lambda *where: asked.append(where))
    assert len(set(read_table(path).wedges)) == 200
    assert not asked
    bad = path.read_text().replace(f" -60 {100 / 100} ", " 60 -60 ")
    with pytest.raises(InputDataError, match="row 101, column dynamo_ftype: expected a tilt range"):
        read_table(text_file(tmp_path, bad))


def test_numbers_of_tomograms_that_are_none(tmp_path):
    (tmp_path / "a.tbl").write_text("1 1 1 0 0 0 10 20 30" + " 0" * 10 + " 1\n")
    text_file(tmp_path, f"{digits(5000)} name\n", "a.doc")
    with pytest.raises(InputDataError, match="line 1: expected the number of a tomogram"):
        read_table(tmp_path / "a.tbl")
    for name in (digits(20), digits(5000), f"TS_{digits(5000)}"):
        table = ParticleTable(tmp_path, "relion3.1", np.ones(1, np.int64), None, tomograms=(name,))
        object.__setattr__(table, "own", read_blocks(text_file(tmp_path, star_rows("a"))).blocks)
        assert tomogram_numbers(table, "av3").tolist() == [1]
        with pytest.raises(InputDataError, match="has no number of its own"):
            numbered_tomograms(table)


@pytest.mark.parametrize("column", ["Proj", "Y"])
def test_tilt_series_without_tilts(tmp_path, column):
    text = fuzz_seeds.tomograms()[2 if column == "Proj" else 1].decode()
    assert len(read_tilt_series(text_file(tmp_path, text), ["TS_1"])["TS_1"]) == 3
    head, _, rows = text.rpartition("PreExposure\n")
    assert rows
    with pytest.raises(InputDataError, match="expected the tilts of a tomogram in data_TS_1"):
        read_tilt_series(text_file(tmp_path, f"{head}PreExposure\n"), ["TS_1"])


@pytest.mark.parametrize(
    ("values", "found"),
    [("0", "inf"), ("1e-305", "inf"), ("1e-20", "1e.24"), ("1e400", "1e400"), ("-1", "-10000")],
)
def test_pixel_sizes_are_those_of_microscopes(tmp_path, values, found):
    """None is infinite, and nothing overflows where it divides."""
    text = f"{TABLE}_rlnMagnification\n_rlnDetectorPixelSize\na.mrc {values} 1\n"
    star = read_star(text_file(tmp_path, text))
    with pytest.raises(InputDataError, match=f"expected .*found '?{found}"):
        star_pixel_size(star)


@pytest.mark.parametrize("size", ["0", "1e-30", "-1"])
def test_pixel_sizes_of_tilt_series_are_those_of_microscopes(tmp_path, size):
    text = (
        "data_optics\n_rlnTomoTiltSeriesPixelSize {}\n"
        + TABLE
        + "".join(f"_rlnCoordinate{axis}\n" for axis in "XYZ")
    )
    with pytest.raises(InputDataError, match=r"expected a pixel size above zero"):
        read_table(text_file(tmp_path, text.format(size) + "a.mrc 1 2 3\n"))
    for column, value in (("rlnVoltage", "300.0"), ("rlnTomoTiltSeriesPixelSize", "1.35")):
        tomograms = fuzz_seeds.tomograms()[1].decode().replace(f" {value}", f" {size}")
        with pytest.raises(InputDataError, match=f"a number above zero in column {column}"):
            read_tilt_series(text_file(tmp_path, tomograms), ["TS_1"])


def test_pixel_sizes_that_differ_in_a_list_of_positions(tmp_path):
    text = "data_particles\nloop_\n_rlnCoordinateX\n_rlnImagePixelSize\n1 2\n1 3\n"
    text = text.replace("X\n", "X\n_rlnCoordinateY\n_rlnCoordinateZ\n").replace("\n1 ", "\n1 1 1 ")
    with pytest.raises(InputDataError, match=r"different pixel sizes, 2 A \(1\) and 3 A \(2\)"):
        read_table(text_file(tmp_path, text))


def test_numbers_that_would_overflow_are_none(tmp_path):
    text = f"{TABLE}_rlnPixelSize\n" + "".join(
        f"_rlnCenteredCoordinate{axis}Angst\n" for axis in "XYZ"
    )
    for number in ("1e307", "-1e31"):
        with pytest.raises(InputDataError, match=f"expected numbers in column .*{number}"):
            read_table(text_file(tmp_path, f"{text}a.mrc 0.5 {number} 0 0\n"))


# ------------------------------------------------------------------- numbers in volumes


def with_values(data, kind, values):
    """An EM file of one value type, of values that numpy would not write."""
    header = bytearray(data[:512])
    header[3] = kind
    return bytes(header) + values


def test_values_that_are_no_numbers_or_too_large_are_refused_without_warnings(tmp_path):
    path = tmp_path / "a.em"
    write_em(path, np.zeros((2, 2, 2)))
    whole = path.read_bytes()
    signalling = struct.pack("<I", 0x7F800001) * 8
    path.write_bytes(with_values(whole, 5, signalling))
    assert np.isnan(read_em(path)).all()
    for kind, values in ((5, signalling), (9, struct.pack("<8d", *[1e300] * 8))):
        path.write_bytes(with_values(whole, kind, values))
        with pytest.raises(InputDataError, match="found NaN or Inf"):
            read_volume(path)


# ------------------------------------------------------------------- TOML


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"threads = {digits(5000)}", "not valid TOML: Exceeds the limit"),
        (f"threads = {digits(30)}", "64 bits"),
        ("threads = 0x" + "f" * 5000, "64 bits, found one of 20000 bits"),
        ("a = " + "[" * 5000, "nested too deeply"),
        (".".join("a" * 20_000) + " = 1", "nested too deeply"),
        ("[em]\nseed = 9223372036854775808", "64 bits, found one of 64 bits"),
    ],
)
def test_toml_that_python_cannot_hold(tmp_path, text, words):
    with pytest.raises(ConfigurationError, match=words):
        config_from_toml(text)
    with pytest.raises(ConfigurationError, match=words):
        read_experiment(text_file(tmp_path, text))


@pytest.mark.parametrize("key", ["a.", "'a'. ", '"a" .', "[[a.", "x = {a."])
def test_names_of_many_parts_are_not_even_parsed(monkeypatch, key):
    """It takes the square of their number."""
    start = key[: key.rfind("a")].rstrip("'\"")
    part = key[len(start) :]
    text = start + part * 500 + "b"
    monkeypatch.setattr("tomllib.loads", lambda text: pytest.fail("parsed"))
    with pytest.raises(ConfigurationError, match="nested too deeply"):
        toml_values(text)


def test_the_largest_whole_number_is_one():
    text = "[em]\nseed = 9223372036854775807\n"
    assert toml_values(text) == {"em": {"seed": 2**63 - 1}}
    assert "9223372036854775807" in config_to_toml(config_from_toml(text))


@pytest.fixture
def experiment(tmp_path):
    (tmp_path / "model.mrc").write_bytes(fuzz_seeds.mrc((4, 4, 4)))
    return text_file(tmp_path, fuzz_seeds.experiments()[0], "e.toml")


def test_an_experiment_has_so_many_runs(experiment):
    _, tasks = read_experiment(experiment)
    assert len(tasks) == 20
    values = ", ".join(str(1 + k / 10) for k in range(10))
    sweeps = "".join(
        f"{name} = [{values}]\n"
        for name in ("max_shift_voxels", "resolution_angstrom", "voltage_kv", "dose_per_tilt")
    )
    text = experiment.read_text().replace("[sweep]\n", f"[sweep]\n{sweeps}")
    experiment.write_text(text)
    with pytest.raises(ConfigurationError, match="up to 100000 runs, found 240000 combinations"):
        read_experiment(experiment)


@pytest.mark.parametrize(
    ("model", "words"), [("pipe", "found a pipe"), ("/dev/zero", "a device"), ("a\\u0000b", "null")]
)
def test_models_of_an_experiment_are_files(experiment, model, words):
    os.mkfifo(experiment.parent / "pipe")
    experiment.write_text(experiment.read_text().replace("model.mrc", model))
    with pytest.raises(InputDataError, match=words):
        read_experiment(experiment)


@pytest.mark.parametrize("argument", ["--o", "--o=/tmp/x", "--i"])
def test_experiments_do_not_say_where_relion_writes(experiment, argument):
    text = f'\n[methods.relion]\nkind = "relion"\narguments = ["--norm", "{argument}"]\n'
    experiment.write_text(experiment.read_text() + text)
    with pytest.raises(ConfigurationError, match=r"method relion: --[io] of RELION is"):
        read_experiment(experiment)


# ------------------------------------------------------------------- checkpoints

NAMES = "particles/names"
MODEL = "iterations/000001/model"
FOUND = "iterations/000001/assignments"


@pytest.fixture
def run(tmp_path):
    """A whole checkpoint, and another beside it that nobody may look into."""
    reader = fuzz_readers.readers()["checkpoint"]
    path = tmp_path / "run.h5"
    path.write_bytes(reader.seeds[0])
    for name, data in reader.beside.items():
        (tmp_path / name).write_bytes(data)
    return path


def replaced(name, make):
    """A change of a file: the object ``name`` is made anew."""

    def change(file):
        del file[name]
        parent, _, last = name.rpartition("/")
        make(file[parent] if parent else file, last)

    return change


def linked(name, link):
    return replaced(name, lambda parent, last: parent.__setitem__(last, link))


def data(name, values):
    return replaced(name, lambda parent, last: parent.create_dataset(last, data=values))


def huge(name, shape, dtype="f4", **options):
    return replaced(name, lambda parent, last: parent.create_dataset(last, shape, dtype, **options))


def attribute(group, name, value):
    def change(file):
        del file[group].attrs[name]
        file[group].attrs[name] = value

    return change


def virtual(parent, last):
    layout = h5py.VirtualLayout(shape=(2,), dtype="f8")
    layout[...] = h5py.VirtualSource("secret.h5", "values", shape=(2,))
    parent.create_virtual_dataset(last, layout)


def outside(parent, last):
    parent.create_dataset(last, (2,), "f8", external=[("secret.h5", 0, 64)])


def itself(file):
    del file[FOUND]
    file["iterations/000001/assignments"] = file["iterations/000001"]


BROKEN = {
    "external link": (linked(f"{MODEL}", h5py.ExternalLink("secret.h5", MODEL)), "elsewhere"),
    "external names": (linked(NAMES, h5py.ExternalLink("secret.h5", NAMES)), "elsewhere"),
    "link to a pipe": (linked(NAMES, h5py.ExternalLink("pipe", NAMES)), "elsewhere"),
    "soft link": (linked(FOUND, h5py.SoftLink("/iterations/000000/assignments")), "elsewhere"),
    "soft link nowhere": (linked(FOUND, h5py.SoftLink("/nowhere")), "elsewhere"),
    "virtual": (replaced(f"{MODEL}/class_fractions", virtual), "stored elsewhere"),
    "external storage": (replaced(f"{MODEL}/class_fractions", outside), "stored elsewhere"),
    "a group in itself": (itself, "no such object|doesn't exist|expected values"),
    "huge": (huge(f"{FOUND}/classes", (1 << 40,), "i8"), "bytes of"),
    "huge in chunks": (huge(f"{FOUND}/classes", (1 << 40,), "i8", chunks=True), "bytes of"),
    "huge names": (huge(NAMES, (1 << 40,), h5py.string_dtype(), chunks=(64,)), "bytes of"),
    "compressed": (
        replaced(
            f"{FOUND}/classes",
            lambda parent, last: parent.create_dataset(
                last, data=np.zeros(3, np.int64), compression="gzip", chunks=(3,)
            ),
        ),
        "compressed",
    ),
    "references": (
        replaced(
            f"{FOUND}/classes",
            lambda parent, last: parent.create_dataset(
                last, data=[parent.ref] * 3, dtype=h5py.ref_dtype
            ),
        ),
        "whole numbers",
    ),
    "a class there is not": (data(f"{FOUND}/classes", [0, 1, 1 << 50]), "classes 0 to 1, found"),
    "a class below none": (data(f"{FOUND}/classes", [0, 1, -1]), "classes 0 to 1, found -1"),
    "other types": (data(f"{FOUND}/classes", np.zeros(3)), "whole numbers"),
    "longer types": (data(f"{FOUND}/effective_poses", np.zeros(3, "f16")), "expected numbers"),
    "texts": (data(f"{FOUND}/effective_poses", ["a", "b", "c"]), "expected numbers"),
    "compounds": (
        data(f"{FOUND}/effective_poses", np.zeros(3, [("a", "f4"), ("b", "f4")])),
        "expected numbers",
    ),
    "fewer particles": (data(f"{FOUND}/effective_poses", np.ones(2)), "expected 3 values"),
    "no particles": (data(f"{FOUND}/effective_poses", np.ones(0)), "expected 3 values"),
    "one number": (data(f"{FOUND}/classes", 1), "expected 3 values"),
    "no values": (data(f"{FOUND}/classes", h5py.Empty("i8")), "expected values"),
    "a type": (linked(f"{FOUND}/classes", np.dtype("f8")), "expected values"),
    "a group": (
        replaced(f"{FOUND}/classes", lambda parent, last: parent.create_group(last)),
        "expected values",
    ),
    "values for groups": (data("iterations/000001", np.zeros(2)), "expected a group"),
    "values for all groups": (data("iterations", np.zeros(2)), "expected a group"),
    "a type for a group": (linked("iterations", np.dtype("f8")), "expected a group"),
    "odd iterations": (
        lambda file: file["iterations"].create_group("x" * 100),
        "expected numbers of iterations, found 'xxx",
    ),
    "an empty class there is not": (
        data("iterations/000001/empty_classes", [7]),
        "some of 2 classes as empty",
    ),
    "other classes": (
        attribute("/", "config", "[em]\nclasses = 3\n"),
        r"expected 3 values|expected 3 x",
    ),
    "a box of another size": (attribute("/", "box", 1 << 40), "expected|bytes of"),
    "no box": (attribute("/", "box", 0), "of box 0"),
    "a box that is no number": (attribute("/", "box", float("inf")), "one value as box"),
    "boxes": (attribute("/", "box", np.array([4, 4])), "one value as box"),
    "a box in a list": (attribute("/", "box", np.array([4])), "one value as box"),
    "a reference": (
        lambda file: file.attrs.create("last_iteration", file.ref, dtype=h5py.ref_dtype),
        "one value as last_iteration",
    ),
    "no last iteration": (attribute("/", "last_iteration", h5py.Empty("i8")), "one value as last"),
    "a shell beyond the box": (
        attribute("iterations/000001", "align_shell", 5),
        "expected a shell of a box of 4 as align_shell, found 5",
    ),
    "a likelihood in words": (
        attribute("iterations/000001", "log_likelihood", "good"),
        "one value as log_likelihood",
    ),
}
OF_RUN = {
    "folds of nothing": (data("folds/volumes", 1.0), "expected"),
    "folds in a link": (linked("folds", h5py.SoftLink("/halves")), "elsewhere"),
    "no folds": (
        replaced("folds", lambda parent, last: parent.create_group(last)),
        "folds|object|exist",
    ),
    "fewer folds": (
        lambda file: [data(f"folds/{part}", file[f"folds/{part}"][:3])(file) for part in
                      ("volumes", "signal_power")],
        "as many folds of each half, found 3",
    ),
    "versions of depth": (attribute("/", "versions", "[" * 100_000), "versions of software"),
    "versions in a list": (attribute("/", "versions", "[1]"), "versions of software"),
    "no voxel size": (attribute("/", "voxel_size", 0.0), "voxel size above zero"),
    "endless voxel size": (attribute("/", "voxel_size", np.inf), "voxel size above zero"),
    "bytes that are no text": (attribute("/", "versions", b"\xff\xfe"), r"text \(UTF-8\) as"),
    "a symmetry there is not": (
        attribute("iterations/000001", "symmetry", "C99999999"),
        "unknown symmetry",
    ),
    "shells of another box": (
        data(f"{MODEL}/noise_variance", np.ones(1000)),
        "expected shells of a box of 4",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN | OF_RUN)
def test_checkpoints_that_lead_elsewhere_or_are_not_what_they_should_be(run, what):
    change, words = (BROKEN | OF_RUN)[what]
    os.mkfifo(run.with_name("pipe"))
    assert read_run(run).names == ("0.mrc", "1.mrc", "2.mrc")
    assert len(read_history(run)) == 2
    with h5py.File(run, "r+") as file:
        change(file)
    with pytest.raises(FamlError, match=words):
        read_run(run)
    # The history needs neither names nor models, folds or versions.
    readable = {*OF_RUN, "external names", "link to a pipe", "huge names", "external link"}
    if what not in readable:
        with pytest.raises(FamlError, match=words):
            read_history(run)


def test_names_that_share_one_long_text_do_not_fill_the_memory(run):
    """Each of N names may point to the same text: N times the file."""
    with h5py.File(run, "r+") as file:
        del file[NAMES]
        names = ["x" * 4000, *map(str, range(299))]
        file.create_dataset(NAMES, data=names, dtype=h5py.string_dtype())
        start = file[NAMES].id.get_offset()
    content = bytearray(run.read_bytes())
    content[start : start + 16 * 300] = content[start : start + 16] * 300
    run.write_bytes(content)
    with h5py.File(run) as file:
        assert set(file[NAMES].asstr()[:]) == {"x" * 4000}
    with pytest.raises(CheckpointError, match="expected texts of the file's size at most in parti"):
        read_run(run)


@pytest.mark.parametrize("length", [0, 8, 1 << 40])
def test_a_damaged_heap_of_texts_is_seen_before_hdf5_hangs(run, length):
    """Zeros where a part of the file was lost: HDF5 adds a size of 0 until it is killed."""
    content = bytearray(run.read_bytes())
    at = content.find(b"GCOL\x01")
    where = at + 16
    while struct.unpack_from("<H", content, where)[0]:
        where += 16 + (struct.unpack_from("<Q", content, where + 8)[0] + 7) // 8 * 8
    struct.pack_into("<Q", content, where + 8, length)
    run.write_bytes(content)
    for read in (read_run, read_history):
        with pytest.raises(CheckpointError, match=f"a heap of texts is damaged at byte {at}"):
            read(run)


def test_a_heap_is_found_wherever_a_piece_of_the_file_ends(run, monkeypatch):
    content = run.read_bytes().replace(b"GCOL\x01", b"GCOL\x01")
    at = content.find(b"GCOL\x01")
    broken = content[: at + 16] + bytes(64) + content[at + 80 :]
    run.write_bytes(broken)
    for piece in (at + 1, at + 3, at + 5):
        monkeypatch.setattr("faml.io.hdf5._PIECE_BYTES", piece)
        with pytest.raises(CheckpointError, match=f"damaged at byte {at}"):
            read_run(run)


def test_truth_values_are_two(run):
    with h5py.File(run, "r+") as file:
        start = file[f"{FOUND}/fallbacks"].id.get_offset()
    content = bytearray(run.read_bytes())
    content[start : start + 3] = b"\x00\x07\x01"
    run.write_bytes(content)
    assert read_run(run).state.assignments.fallbacks.view(np.uint8).tolist() == [0, 1, 1]


def test_numbers_of_another_byte_order_are_the_same(run):
    with h5py.File(run, "r+") as file:
        values = file[f"{FOUND}/probabilities"][()]
        data(f"{FOUND}/probabilities", values.astype(">f8"))(file)
    found = read_run(run).state.assignments.probabilities
    assert found.dtype == np.dtype("<f8")
    np.testing.assert_array_equal(found, values)


# ------------------------------------------------------------------- a stranger's directory


def test_a_report_waits_for_nothing_that_a_checkpoint_names(tmp_path):
    """What a stranger's settings name is read as particles or tilts, if at all."""
    for number, settings in enumerate((
        {"inputs": (str(tmp_path / "pipe"),)},
        {"inputs": ("/dev/zero",)},
        {"inputs": ("/proc/self/environ",)},
        {"tilt_angles_file": str(tmp_path / "pipe"), "tilt_range_deg": None},
    )):  # fmt: skip
        directory = checkpoint(tmp_path / str(number), classes=1, count=3, iterations=0)
        if number == 0:
            os.mkfifo(tmp_path / "pipe")
        with h5py.File(directory / "run.h5", "r+") as file:
            config = config_from_toml(str(file.attrs["config"]))
            changed = config.data.model_copy(update=settings)
            file.attrs["config"] = config_to_toml(config.model_copy(update={"data": changed}))
        found = load_run_data(directory)
        assert any("the input cannot be read again" in note for note in found.notes)


@pytest.mark.parametrize("name", ["run.log", "config.toml", "particles.star", "class_001.mrc"])
def test_a_report_waits_for_no_pipe_in_the_directory(tmp_path, name):
    directory = checkpoint(tmp_path / "run", classes=1, count=3, iterations=0)
    os.mkfifo(directory / name)
    try:
        found = load_run_data(directory)
    except FamlError as error:
        assert "found a pipe" in str(error)  # noqa: PT017
    else:
        assert not found.final


def test_a_report_is_not_written_through_links(tmp_path):
    directory = checkpoint(tmp_path / "run", classes=1, count=3, iterations=0)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (directory / "figures").symlink_to(elsewhere)
    with pytest.raises(OutputError, match=r"figures: expected a file or folder of faml, found a l"):
        write_report(directory)
    assert not list(elsewhere.iterdir())
    (tmp_path / "mine").write_text("kept")
    (directory / "report.html").symlink_to(tmp_path / "mine")
    write_report(directory, figures=False)
    assert (tmp_path / "mine").read_text() == "kept"
    assert not (directory / "report.html").is_symlink()


@pytest.mark.parametrize("name", ["slices", "run.log"])
def test_a_run_goes_on_through_no_links(tmp_path, name):
    (tmp_path / "run").mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir() if name == "slices" else elsewhere.write_text("kept")
    (tmp_path / "run" / name).symlink_to(elsewhere)
    with pytest.raises(OutputError, match="found a link"), logged(tmp_path / "run"):
        pytest.fail("went on")
    (tmp_path / "run" / name).unlink()
    os.mkfifo(tmp_path / "run" / name)
    with pytest.raises(OutputError, match="special file"), logged(tmp_path / "run"):
        pytest.fail("went on")


def test_starts_are_not_written_through_links(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "starts").symlink_to(tmp_path)

    class Nothing:
        run = type("run", (), {"config": None})

    with pytest.raises(OutputError, match=r"starts: .*found a link"):
        best_start(Nothing, None, tmp_path / "run", None, None)


def test_a_look_at_the_lock_waits_for_no_pipe(tmp_path):
    os.mkfifo(tmp_path / ".lock")
    assert at_work(tmp_path) is False


def test_structures_are_files(tmp_path):
    pytest.importorskip("gemmi")
    os.mkfifo(tmp_path / "a.pdb")
    for path in (tmp_path / "a.pdb", "/dev/zero"):
        with pytest.raises(InputDataError, match=r"expected a file, found a"):
            density_from_model(path, 16, 6.0)


# ------------------------------------------------------------------- all of it


def test_no_module_can_run_what_a_file_holds():
    """Neither pickle nor what is like it; numpy's own is switched off wherever it could be on."""
    for path in (ROOT / "faml").rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            loads = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
            assert not {name.partition(".")[0] for name in names} & loads, path
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"eval", "exec", "pd.read_pickle", "np.memmap"}, path
                allowed = [word.value for word in node.keywords if word.arg == "allow_pickle"]
                if called in {"np.load", "numpy.load"}:
                    assert allowed, path
                assert all(isinstance(a, ast.Constant) and a.value is False for a in allowed), path


SMOKE = {name: 40 if reader.file == "run.h5" else 100 for name, reader in
         fuzz_readers.readers().items()}  # fmt: skip


@pytest.mark.parametrize("name", SMOKE)
def test_broken_files_are_read_or_refused(tmp_path, name):
    """A little of the campaigns of bench/fuzz.py, of other inputs."""
    reader = fuzz_readers.readers()[name]
    for file, content in reader.beside.items():
        (tmp_path / file).write_bytes(content)
    path = tmp_path / reader.file
    for whole in reader.seeds:
        path.write_bytes(whole)
        reader.read(path)
    outcomes = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(SMOKE[name]):
            path.write_bytes(fuzz.made(reader, 12, number))
            outcomes.setdefault(fuzz._outcome(reader, path), number)
    assert set(outcomes) <= {"read", "refused"}, outcomes
