"""MRC in and out: every mode and layout that is read, every file that is refused."""

import mrcfile
import numpy as np
import pytest
from mrcfile.dtypes import HEADER_DTYPE

from faml.errors import InputDataError, OutputError
from faml.io.mrc import read_header, read_volume, write_volume

RNG = np.random.default_rng(7)


def write_raw(path, values, voxel_size=3.5):
    """A file by mrcfile itself, in the mode that belongs to the dtype."""
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(values)
        file.set_volume()
        file.voxel_size = voxel_size


def patch(path, **fields):
    """Overwrite header fields of a little-endian file."""
    raw = bytearray(path.read_bytes())
    header = np.frombuffer(raw[:1024], dtype=HEADER_DTYPE).copy()
    for name, value in fields.items():
        header[0][name] = value
    path.write_bytes(header.tobytes() + bytes(raw[1024:]))


@pytest.fixture
def volume(tmp_path):
    path = tmp_path / "particle_1.mrc"
    write_raw(path, RNG.normal(size=(6, 5, 4)).astype(np.float32))
    return path


@pytest.mark.parametrize(
    ("dtype", "mode"), [("i1", 0), ("i2", 1), ("f4", 2), ("u2", 6), ("f2", 12)]
)
def test_modes_are_read_as_float32(tmp_path, dtype, mode):
    values = RNG.integers(0 if dtype == "u2" else -100, 100, size=(6, 5, 4)).astype(dtype)
    write_raw(tmp_path / "a.mrc", values)
    read = read_volume(tmp_path / "a.mrc")
    assert read.header.mode == mode
    assert read.values.dtype == np.float32
    assert read.values.flags.c_contiguous
    assert read.header.shape == (6, 5, 4)
    assert read.header.voxel_size_angstrom == pytest.approx(3.5)
    assert read.header.notes == ()
    np.testing.assert_array_equal(read.values, values.astype(np.float32))


@pytest.mark.parametrize("dtype", ["i2", "f4", "u2", "f2"])
def test_byte_swapped_file(tmp_path, dtype):
    values = RNG.integers(0, 100, size=(6, 5, 4)).astype(dtype)
    path = tmp_path / "big.mrc"
    write_raw(path, values.astype(np.dtype(dtype).newbyteorder(">")))
    raw = path.read_bytes()
    if raw[212] != 0x11:  # mrcfile follows the byte order of the values
        pytest.fail("the test file is not big-endian")
    np.testing.assert_array_equal(read_volume(path).values, values.astype(np.float32))
    assert read_header(path).voxel_size_angstrom == pytest.approx(3.5)


def test_wrong_byte_order_stamp_is_tolerated_and_said(volume):
    expected = read_volume(volume).values
    patch(volume, machst=[0x11, 0x11, 0, 0])
    read = read_volume(volume)
    np.testing.assert_array_equal(read.values, expected)
    assert any("stamp" in note for note in read.header.notes)


def test_missing_map_identifier_is_tolerated_only_where_the_size_fits(volume):
    expected = read_volume(volume).values
    patch(volume, map=b"\0\0\0\0", machst=[0, 0, 0, 0])
    read = read_volume(volume)
    np.testing.assert_array_equal(read.values, expected)
    assert any("MAP" in note for note in read.header.notes)
    with volume.open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(InputDataError, match="not an MRC file"):
        read_header(volume)


def test_longer_file_is_tolerated_and_said(volume):
    with volume.open("ab") as stream:
        stream.write(b"abc")
    assert any("3 bytes longer" in note for note in read_volume(volume).header.notes)


def test_extended_header_is_skipped(tmp_path):
    values = RNG.normal(size=(4, 4, 4)).astype(np.float32)
    path = tmp_path / "extended.mrc"
    with mrcfile.new(path) as file:
        file.set_data(values)
        file.set_extended_header(np.zeros(256, dtype="u1"))
    np.testing.assert_array_equal(read_volume(path).values, values)


@pytest.mark.parametrize("how", ["imod", "maximum"])
def test_unsigned_mode_zero(tmp_path, how):
    values = RNG.integers(0, 256, size=(4, 4, 4)).astype(np.uint8)
    path = tmp_path / "bytes.mrc"
    write_raw(path, values.view(np.int8))
    if how == "imod":
        extra = np.zeros(84, dtype="u1")
        extra[40:44] = np.array([1146047817], dtype="<i4").view("u1")
        patch(path, extra2=extra.tobytes())
    else:
        patch(path, dmin=0, dmax=255)
    read = read_volume(path)
    np.testing.assert_array_equal(read.values, values.astype(np.float32))
    assert any("unsigned" in note for note in read.header.notes)


@pytest.mark.parametrize("axes", [(1, 2, 3), (3, 2, 1), (2, 1, 3), (2, 3, 1), (3, 1, 2), (0, 0, 0)])
def test_axis_order_is_transposed_to_z_y_x(tmp_path, axes):
    values = RNG.normal(size=(6, 5, 4)).astype(np.float32)  # z, y, x
    order = axes if any(axes) else (1, 2, 3)
    columns, rows, sections = (3 - axis for axis in order)
    path = tmp_path / "axes.mrc"
    write_raw(path, np.ascontiguousarray(values.transpose(sections, rows, columns)))
    patch(path, mapc=axes[0], mapr=axes[1], maps=axes[2], mx=4, my=5, mz=6)
    read = read_volume(path)
    assert read.header.shape == (6, 5, 4)
    np.testing.assert_array_equal(read.values, values)


def test_impossible_axis_order(volume):
    patch(volume, mapc=1, mapr=1, maps=3)
    with pytest.raises(InputDataError, match=r"particle_1\.mrc.*mapc, mapr, maps"):
        read_header(volume)


@pytest.mark.parametrize("size", [0.0, -1.0, np.nan])
def test_absent_voxel_size_is_none(volume, size):
    patch(volume, cella=(size, size, size))
    assert read_header(volume).voxel_size_angstrom is None


def test_different_voxel_sizes_along_the_axes_are_none(volume):
    patch(volume, cella=(4.0, 10.0, 6.0))
    assert read_header(volume).voxel_size_angstrom is None


def test_missing(tmp_path):
    with pytest.raises(InputDataError, match=r"gone\.mrc: the file does not exist; check the path"):
        read_volume(tmp_path / "gone.mrc")


def test_folder(tmp_path):
    with pytest.raises(InputDataError, match="cannot be read"):
        read_volume(tmp_path)


def test_empty(tmp_path):
    path = tmp_path / "empty.mrc"
    path.write_bytes(b"")
    with pytest.raises(InputDataError, match=r"empty\.mrc: the file is empty .*extract it again"):
        read_header(path)


@pytest.mark.parametrize("kept", [500, 1024, 1200])
def test_truncated(volume, kept):
    volume.write_bytes(volume.read_bytes()[:kept])
    with pytest.raises(InputDataError, match=r"particle_1\.mrc: .*truncated.*extract it again"):
        read_header(volume)


def test_not_mrc(tmp_path):
    path = tmp_path / "notes.mrc"
    path.write_text("this is no volume\n" * 200)
    with pytest.raises(InputDataError, match=r"notes\.mrc: not an MRC file.*mode 0, 1, 2, 6 or 12"):
        read_header(path)


@pytest.mark.parametrize(("mode", "kind"), [(4, "complex"), (101, "packed"), (7, "unknown")])
def test_modes_without_real_values(volume, mode, kind):
    patch(volume, mode=mode)
    with pytest.raises(InputDataError, match=rf"mode {mode} \({kind}.*convert the file to mode 2"):
        read_header(volume)


def test_two_dimensional(tmp_path):
    path = tmp_path / "image.mrc"
    with mrcfile.new(path) as file:
        file.set_data(np.ones((8, 8), dtype=np.float32))
    with pytest.raises(InputDataError, match=r"image\.mrc: .*2-D image.*3-D subtomograms"):
        read_header(path)


def test_stack_of_volumes(tmp_path):
    path = tmp_path / "four.mrc"
    with mrcfile.new(path) as file:
        file.set_data(RNG.normal(size=(3, 4, 4, 4)).astype(np.float32))
    with pytest.raises(InputDataError, match=r"four\.mrc: .*3 volumes \(4-D\); split it"):
        read_header(path)


def test_stack_by_suffix(volume):
    stack = volume.rename(volume.with_suffix(".mrcs"))
    with pytest.raises(InputDataError, match=r"particle_1\.mrcs: .*stack of images"):
        read_header(stack)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(volume, bad):
    raw = bytearray(volume.read_bytes())
    raw[1024 + 40 : 1024 + 44] = np.float32(bad).tobytes()
    volume.write_bytes(raw)
    with pytest.raises(InputDataError, match=r"particle_1\.mrc: found NaN or Inf.*extract it"):
        read_volume(volume)


def test_round_trip(tmp_path):
    values = RNG.normal(size=(8, 8, 8))
    path = tmp_path / "class_001.mrc"
    write_volume(path, values, 2.5)
    read = read_volume(path)
    np.testing.assert_array_equal(read.values, values.astype(np.float32))
    assert read.header.voxel_size_angstrom == pytest.approx(2.5)
    with mrcfile.open(path) as file:
        assert file.is_volume()
        assert int(file.header.mode) == 2
        assert file.header.origin.item() == (0.0, 0.0, 0.0)
    assert mrcfile.validate(path)
    again = tmp_path / "again.mrc"
    write_volume(again, values, 2.5)
    assert again.read_bytes() == path.read_bytes()


def test_writing_replaces_whole_files_only(tmp_path, monkeypatch):
    path = tmp_path / "class_001.mrc"
    write_volume(path, np.ones((4, 4, 4)), 2.5)
    before = path.read_bytes()

    def full(self, values):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mrcfile.mrcmemmap.MrcFile, "set_data", full)
    with pytest.raises(OutputError, match=r"class_001\.mrc: .*No space left.*free some space"):
        write_volume(path, np.zeros((4, 4, 4)), 2.5)
    assert path.read_bytes() == before
    assert [child.name for child in tmp_path.iterdir()] == ["class_001.mrc"]


def test_writing_refuses_what_is_no_volume(tmp_path):
    with pytest.raises(OutputError, match="finite 3-D volume"):
        write_volume(tmp_path / "a.mrc", np.full((4, 4, 4), np.nan), 1.0)
    with pytest.raises(OutputError, match="finite 3-D volume"):
        write_volume(tmp_path / "a.mrc", np.ones((4, 4)), 1.0)
    assert not list(tmp_path.iterdir())
