"""The signal-to-noise ratio that is set is the one that is measured."""

from __future__ import annotations

import numpy as np
import pytest
from phantoms import DETAILED, blobs

from faml.cli.app import main
from faml.io.mrc import write_volume
from faml.io.star import read_star, write_star
from faml.metrics.snr import measure_snr
from faml.particles import ParticlePoses
from faml.simulate.particles import simulate_particles
from faml.simulate.tilt_series import Imaging, TiltSeries

VOXEL = 6.0
RANGE = (-45.0, 62.0)


def particles(snr, count=40, n=32, series=None, densities=1, seed=2):
    return simulate_particles(
        [blobs(n, seed=4 + k, **DETAILED) for k in range(densities)],
        [count] * densities,
        snr=snr,
        tilt_range_deg=RANGE,
        max_shift_voxels=2.0,
        seed=seed,
        voxel_size_angstrom=VOXEL,
        tilt_series=series,
    )


def measured(made, poses=None):
    members = [np.nonzero(made.labels == k)[0] for k in np.unique(made.labels)]
    return measure_snr(made.particles, poses or made.poses, members)


@pytest.mark.parametrize(("snr", "tolerance"), [(0.1, 0.1), (0.03, 0.1), (0.01, 0.2)])
@pytest.mark.parametrize("n", [31, 32])
def test_white_noise_measures_what_was_set(snr, tolerance, n):
    """Wanted are 10 %. Orientations of so few particles take half, at 0.01 their noise the rest."""
    found = measured(particles(snr, n=n))
    assert found.before_wedge == pytest.approx(snr, rel=tolerance)
    assert found.particles == 40


@pytest.mark.slow
@pytest.mark.parametrize(
    "series", [TiltSeries(4.0), TiltSeries(4.0, (Imaging(defocus_um=2.0), Imaging(defocus_um=3.0)))]
)
def test_tilt_series_measure_what_was_set(series):
    found = measured(particles(0.03, series=series))
    assert found.of_particles == pytest.approx(0.03, rel=0.2)
    assert found.before_wedge is None


def test_the_mean_of_a_box_is_neither_signal_nor_noise():
    """The density has one; seen as noise it would leave a ratio of four."""
    assert measured(particles(5.0, count=20)).before_wedge == pytest.approx(5.0, rel=0.1)


def test_classes_are_not_mixed():
    made = particles(0.1, count=20, densities=2)
    apart = measured(made)
    together = measure_snr(made.particles, made.poses, [np.arange(40)])
    assert apart.before_wedge == pytest.approx(0.1, rel=0.1)
    assert together.before_wedge < 0.9 * apart.before_wedge


def test_wrong_poses_hide_the_signal():
    made = particles(0.1, count=20)
    shuffled = np.roll(np.arange(20), 1)
    wrong = ParticlePoses(made.rotations[shuffled], made.translations[shuffled])
    assert measured(made, wrong).before_wedge < 0.3 * measured(made).before_wedge


def test_lonely_particles_are_left_out():
    made = particles(0.1, count=4)
    found = measure_snr(made.particles, made.poses, [np.arange(3), np.array([3])])
    assert found.particles == 3
    with pytest.raises(ValueError, match="two particles"):
        measure_snr(made.particles, made.poses, [np.array([3])])


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, arguments)))
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def test_command(tmp_path, capsys):
    write_volume(tmp_path / "model.mrc", blobs(24, seed=4, **DETAILED), VOXEL)
    data = tmp_path / "data"
    call(
        capsys, "simulate", tmp_path / "model.mrc", "-o", data, "--box", 24, "--voxel-size", VOXEL,
        "--count", 30, "--snr", 0.1,
    )  # fmt: skip
    star = data / "particles.star"
    code, out, err = call(capsys, "snr", star)
    assert (code, err) == (0, "")
    assert "true poses" in out
    value = float(out.split("before the missing wedge: ")[1].split()[0])
    assert value == pytest.approx(0.1, rel=0.15)
    table = read_star(star)
    kept = table.particles[[c for c in table.particles if not c.startswith("famlTrue")]]
    write_star(data / "blind.star", {"optics": table.optics, "particles": kept}, 30001)
    code, out, err = call(capsys, "snr", data / "blind.star")
    assert code == 3
    assert "expected a STAR file with poses" in err
    few = table.particles.iloc[:1]
    write_star(data / "one.star", {"optics": table.optics, "particles": few}, 30001)
    code, out, err = call(capsys, "snr", data / "one.star")
    assert code == 3
    assert "two particles" in err
