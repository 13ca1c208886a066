"""Densities of atomic models: what counts as an atom, where it lies, and what is refused."""

from __future__ import annotations

import gzip
import logging

import numpy as np
import pytest

from faml.cli.app import main
from faml.errors import ConfigurationError, InputDataError
from faml.metrics.fsc import pearson
from faml.simulate.density import density_from_model

pytest.importorskip("gemmi")
VOXEL, BOX = 4.0, 24
# An asymmetric handful of carbons, x, y, z in Angstrom.
PLACES = [(0, 0, 0), (14, 0, 0), (0, 10, 0), (0, 0, -18), (14, 10, 4), (-9, 3, 8)]


def line(
    number, place, *, name="CA", residue="ALA", element="C", occupancy=1.0, conformer=" ",
    record="ATOM",
):  # fmt: skip
    x, y, z = place
    return (
        f"{record:<6}{number:>5} {name:<4}{conformer}{residue:>3} A{number:>4}    "
        f"{x:8.3f}{y:8.3f}{z:8.3f}{occupancy:6.2f}{20.0:6.2f}          {element:>2}"
    )


def write(path, lines):
    path.write_text("\n".join([*lines, "END"]) + "\n")
    return path


def atoms(places=PLACES):
    return [line(i + 1, place) for i, place in enumerate(places)]


def centroid(volume):
    """x, y, z from voxel n // 2, of what stands out."""
    heights = np.clip(volume - 0.2 * volume.max(), 0.0, None).astype(np.float64)
    axes = np.indices(volume.shape) - volume.shape[0] // 2
    return np.array([(axis * heights).sum() for axis in axes[::-1]]) / heights.sum()


@pytest.mark.parametrize("box", [BOX, BOX + 1])
def test_atoms_lie_where_they_should(tmp_path, box):
    """Centred on voxel n // 2, x last in memory, mirrored nowhere."""
    volume = density_from_model(write(tmp_path / "m.pdb", atoms()), box, VOXEL, 16.0)
    assert volume.shape == (box,) * 3
    assert volume.dtype == np.float32
    assert volume.std() == pytest.approx(1.0, abs=1e-3)
    assert np.median(volume) == pytest.approx(0.0, abs=1e-2)
    np.testing.assert_allclose(centroid(volume), 0.0, atol=0.35)
    grid = (np.arange(box) - box // 2) * VOXEL
    places = np.array(PLACES, dtype=float)
    expected = np.zeros((box,) * 3)
    for x, y, z in places - places.mean(axis=0):
        square = (grid[:, None, None] - z) ** 2 + (grid[:, None] - y) ** 2 + (grid - x) ** 2
        expected += np.exp(-square / (2.0 * 4.0**2))
    assert pearson(volume, expected) > 0.95
    assert pearson(volume, expected[:, :, ::-1]) < 0.8


def test_water_hydrogen_and_second_conformers_are_left_out_and_said(tmp_path, caplog):
    plain = density_from_model(write(tmp_path / "plain.pdb", atoms()), BOX, VOXEL)
    split = atoms()
    split[1] = line(2, PLACES[1], conformer="A", occupancy=0.6)
    split += [
        line(2, (24, 0, 0), conformer="B", occupancy=0.4),
        line(90, (0, 24, 0), name="O", residue="HOH", element="O", record="HETATM"),
        line(91, (0, 0, 24), name="H", element="H"),
    ]
    with caplog.at_level(logging.INFO, logger="faml"):
        found = density_from_model(write(tmp_path / "split.pdb", split), BOX, VOXEL)
    np.testing.assert_allclose(found, plain, atol=1e-3)
    assert "6 atoms, after leaving out 3" in caplog.text


def test_files_may_be_compressed(tmp_path):
    path = write(tmp_path / "m.pdb", atoms())
    with gzip.open(tmp_path / "m.pdb.gz", "wb") as file:
        file.write(path.read_bytes())
    np.testing.assert_array_equal(
        density_from_model(path, BOX, VOXEL), density_from_model(tmp_path / "m.pdb.gz", BOX, VOXEL)
    )


def test_resolution_takes_detail(tmp_path):
    path = write(tmp_path / "m.pdb", atoms())
    fine, coarse = (density_from_model(path, BOX, VOXEL, r) for r in (8.0, 30.0))
    spectra = [np.abs(np.fft.fftn(volume)) for volume in (fine, coarse)]
    detail = [spectrum[8, 0, 0] / spectrum[2, 0, 0] for spectrum in spectra]
    assert detail[1] < 0.01 * detail[0]


def test_what_does_not_fit_is_refused_with_what_would(tmp_path):
    path = write(tmp_path / "m.pdb", atoms())
    with pytest.raises(
        ConfigurationError, match=r"across and needs a box of at least (\d+) voxels"
    ):
        density_from_model(path, 8, VOXEL)
    with pytest.raises(ConfigurationError, match=r"two voxels \(8 Angstrom\).*found 6"):
        density_from_model(path, BOX, VOXEL, 6.0)
    with pytest.raises(ConfigurationError, match="voxel size above 0"):
        density_from_model(path, BOX, 0.0)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "no"),
        ([line(1, (0, 0, 0), name="O", residue="HOH", element="O", record="HETATM")], "found none"),
    ],
)
def test_models_without_atoms_are_refused(tmp_path, lines, message):
    with pytest.raises(InputDataError, match=message) as found:
        density_from_model(write(tmp_path / "empty.pdb", lines), BOX, VOXEL)
    assert "empty.pdb" in str(found.value)


def test_the_command_takes_models_and_says_what_is_wrong(tmp_path, capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["simulate", *map(str, arguments)])
        return ended.value.code, capsys.readouterr().err

    path = write(tmp_path / "m.pdb", atoms())
    basic = ["-o", tmp_path / "data", "--voxel-size", VOXEL, "--count", 2, "--quiet"]
    code, err = call(path, *basic, "--box", 8)
    assert code == 2
    assert "at least" in err
    assert not (tmp_path / "data").exists()
    (tmp_path / "broken.cif").write_bytes(b"\x00nonsense")
    code, err = call(tmp_path / "broken.cif", *basic, "--box", BOX)
    assert code == 3
    assert "broken.cif" in err
    assert call(path, *basic, "--box", BOX) == (0, "")
    assert (tmp_path / "data" / "particles.star").is_file()
