"""Pictures: right size, atomically written, no global state, hard inputs."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from matplotlib.image import imread
from phantoms import blobs

from faml.errors import OutputError
from faml.report.slices import round_length, write_class_slices


def volumes(count=2, n=16):
    return np.stack([blobs(n, seed=k) for k in range(count)])


@pytest.mark.parametrize("count", [1, 4])
def test_a_picture_with_one_row_per_class(tmp_path, count):
    path = tmp_path / "slices.png"
    write_class_slices(path, volumes(count), 8.0, title="iteration 3, 24.0 Å")
    height, width = imread(path).shape[:2]
    assert 650 < width < 900
    assert 0.25 * count * width < height < 0.45 * (count + 1) * width
    assert [p.name for p in tmp_path.iterdir()] == ["slices.png"]


def test_planes_are_the_ones_named(tmp_path):
    """A bright spot at x = +5, y = +2, z = -4 lights the right corner of each panel."""
    volume = np.zeros((1, 17, 17, 17), np.float32)
    volume[0, 8, 8, 8] = 0.1
    z, y, x = np.indices((17, 17, 17)) - 8
    for (px, py), plane in (((5, 2), z == 0), ((5, -4), y == 0), ((2, -4), x == 0)):
        a, b = {0: (x, y), 1: (x, z), 2: (y, z)}[[(5, 2), (5, -4), (2, -4)].index((px, py))]
        volume[0] += plane * np.exp(-((a - px) ** 2 + (b - py) ** 2) / 2.0)
    path = tmp_path / "p.png"
    write_class_slices(path, volume, 8.0, labels=[""])
    grey = imread(path)[..., :3].min(axis=2)  # the yellow of the scale bar has little blue
    width = grey.shape[1]
    for column, (right, up) in enumerate([(5, 2), (5, -4), (2, -4)]):
        panel = grey[-width // 3 :, column * width // 3 : (column + 1) * width // 3]
        row, col = np.unravel_index(panel.argmax(), panel.shape)
        edge = len(panel)
        assert (col - edge / 2) / edge * 17 == pytest.approx(right, abs=1.0)
        assert (edge / 2 - row) / edge * 17 == pytest.approx(up, abs=1.0)


def test_constant_sparse_and_plain_text_labels(tmp_path):
    hard = np.zeros((3, 15, 15, 15), np.float32)
    hard[1, 7, 7, 7] = 1.0  # fewer voxels than any percentile sees
    hard[2] = 1e-30 * blobs(15)
    labels = ["$not math", "100 % {x_", ""]
    write_class_slices(tmp_path / "s.png", hard, 1000.0, title="$a_b $", labels=labels)
    picture = imread(tmp_path / "s.png")
    assert np.ptp(picture[..., 0]) > 0.5


def test_no_pyplot_is_loaded():
    # Pyplot picks a backend by looking for a screen and keeps figures alive.
    from subprocess import run

    code = (
        "import sys, numpy as np, tempfile, pathlib\n"
        "from faml.report.slices import write_class_slices\n"
        "d = pathlib.Path(tempfile.mkdtemp())\n"
        "write_class_slices(d / 'a.png', np.random.rand(1, 8, 8, 8), 1.0)\n"
        "sys.exit('matplotlib.pyplot' in sys.modules)\n"
    )
    assert run([sys.executable, "-c", code], check=False).returncode == 0


def test_bad_input_writes_nothing(tmp_path):
    path = tmp_path / "s.png"
    with pytest.raises(ValueError, match="K >= 1"):
        write_class_slices(path, blobs(8), 1.0)
    with pytest.raises(ValueError, match="labels"):
        write_class_slices(path, volumes(2), 1.0, labels=["one"])
    assert not list(tmp_path.iterdir())
    with pytest.raises(OutputError, match="could not be written"):
        write_class_slices(tmp_path / "absent" / "s.png", volumes(1), 1.0)


def test_picture_is_the_same_every_time(tmp_path):
    for name in "ab":
        write_class_slices(tmp_path / f"{name}.png", volumes(1), 3.0, title="t")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("about", "length"), [(1.0, 1), (1.99, 1), (2, 2), (49, 20), (50, 50), (999, 500), (0.3, 0.2)]
)
def test_scale_bar_is_a_round_length_not_above(about, length):
    assert round_length(about) == pytest.approx(length)
