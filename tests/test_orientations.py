"""What orientations leave unobserved, against wedges whose share is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from phantoms import simulated
from runs import settings, write_folder
from scipy.spatial.transform import Rotation

import faml
from faml.conventions import matrices_to_relion_angles_deg
from faml.metrics.orientations import fourier_coverage, sphere_points, viewing_directions
from faml.particles import wedge_weight
from faml.symmetry import point_group

WEDGE = (-40.0, 60.0)
C1 = point_group("C1")


def particles_with(turns, tilt_range=WEDGE, n=32):
    weight = wedge_weight(n, tilt_range)
    return simulated(n=n, count=len(turns), weight=weight, turns=np.stack(turns), seed=1)[0]


def coverage_of(turns, symmetry=C1, shell=14, **kwargs):
    particles = particles_with(turns, **kwargs)
    everyone = np.arange(len(particles))
    return fourier_coverage(particles, np.stack(turns), everyone, shell, symmetry)


def test_sphere_points_are_even():
    points = sphere_points(1000)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1.0)
    # Second moments of the half-sphere are those of the sphere, and z is uniform.
    np.testing.assert_allclose(points.T @ points / 1000, np.eye(3) / 3, atol=0.003)
    np.testing.assert_allclose(np.sort(points[:, 2]), (np.arange(1000) + 0.5) / 1000)


def test_equal_poses_leave_their_common_wedge_unobserved():
    turn = Rotation.random(random_state=4).as_matrix()
    found = coverage_of([turn] * 3)
    # Tilts of 100 of 180 degrees about Y: the rest is the wedge.
    assert found.unobserved == pytest.approx(80 / 180, abs=0.03)
    # And it lies where the particle's wedge lies in the frame of the average, not elsewhere.
    k = found.directions @ turn.T
    tilt = np.rad2deg(np.arctan2(k[:, 2] * np.sign(k[:, 0]), np.abs(k[:, 0])))
    # Near the tilt axis the nearest component may lie on either side.
    clear = np.abs(k[:, 1]) < 0.8
    inside = clear & (tilt > WEDGE[0] + 6) & (tilt < WEDGE[1] - 6)
    outside = clear & ((tilt < WEDGE[0] - 6) | (tilt > WEDGE[1] + 6))
    assert (found.observed[:, inside] > 0.5).all()
    assert (found.observed[:, outside] < 0.05).all()


def test_random_poses_observe_everything():
    turns = list(Rotation.random(60, random_state=3).as_matrix())
    found = coverage_of(turns)
    assert found.unobserved == 0.0
    assert found.observed.mean() == pytest.approx(1.0)
    assert found.observed.min() > 0.5


def test_turns_about_the_tilt_axis_fill_the_wedge_and_about_the_beam_do_not():
    about_y = list(
        Rotation.from_euler("Y", np.arange(0, 180, 10)[:, None], degrees=True).as_matrix()
    )
    about_z = list(
        Rotation.from_euler("Z", np.arange(0, 180, 10)[:, None], degrees=True).as_matrix()
    )
    assert coverage_of(about_y, tilt_range=(-60.0, 60.0)).unobserved == 0.0
    # A cone of half-angle 30 degrees about the beam: 1 - cos 30 of the half-sphere.
    cone = coverage_of(about_z, tilt_range=(-60.0, 60.0)).unobserved
    assert cone == pytest.approx(1 - np.cos(np.deg2rad(30)), abs=0.03)


def test_symmetry_fills_what_its_axes_turn_away():
    turn = Rotation.from_euler("X", 70, degrees=True).as_matrix()
    alone = coverage_of([turn] * 2).unobserved
    assert alone > 0.3
    assert coverage_of([turn] * 2, symmetry=point_group("C4")).unobserved < 0.2 * alone


def test_only_members_count():
    about_y = list(
        Rotation.from_euler("Y", np.arange(0, 180, 10)[:, None], degrees=True).as_matrix()
    )
    particles = particles_with(about_y)
    turns = np.stack(about_y)
    one = fourier_coverage(particles, turns, np.array([3]), 12, C1)
    assert one.unobserved == pytest.approx(80 / 180, abs=0.03)
    with pytest.raises(ValueError, match="at least one particle"):
        fourier_coverage(particles, turns, np.array([], dtype=int), 12, C1)


def test_weights_of_each_particle_are_its_own():
    """Two wedges that complement each other, one per particle."""
    pair = np.stack([wedge_weight(32, (-90.0, 0.0)), wedge_weight(32, (0.0, 90.0))])
    particles = particles_with([np.eye(3)] * 2)
    particles = replace(
        particles,
        weights=type(particles.weights)(pair),
        weight_index=np.array([0, 1]),
    )
    turns = np.stack([np.eye(3)] * 2)
    assert fourier_coverage(particles, turns, np.arange(2), 14, C1).unobserved == 0.0
    assert fourier_coverage(particles, turns, np.array([1]), 14, C1).unobserved > 0.45


def test_viewing_directions_are_relions_rot_and_tilt():
    turns = Rotation.random(20, random_state=8).as_matrix()
    rot, tilt, _ = np.deg2rad(matrices_to_relion_angles_deg(turns)).T
    expected = np.stack(
        [np.cos(rot) * np.sin(tilt), np.sin(rot) * np.sin(tilt), np.cos(tilt)], axis=1
    )
    np.testing.assert_allclose(viewing_directions(turns), expected, atol=1e-9)


def test_run_draws_orientations_and_warns_of_a_common_wedge(tmp_path):
    folder = write_folder(tmp_path / "in", count=2)
    # Two particles cannot fill each other's wedge whatever their poses, but nearly so: fix them.
    result = faml.run(folder, tmp_path / "out", **settings(iterations=0, start="average"))
    assert (tmp_path / "out" / "orientations.png").stat().st_size > 5000
    (warning,) = (w for w in result.warnings if "observed" in w)
    assert "class 1: no particle has observed 3" in warning
    assert "orientations.png" in warning
