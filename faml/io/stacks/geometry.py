"""Planes and transfer functions of one particle's tilt images, for `kernels.tilt_planes`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from faml.io.stacks.metadata import TiltSeries

__all__ = ["tilt_axes", "tilt_optics", "wavelength_angstrom"]


def tilt_axes(
    projections: npt.NDArray[np.float64], subtomogram: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Axes of every image in the frame of the subtomogram.

    Parameters
    ----------
    projections : (T, 3, 3) float64
        P, tomogram to image.
    subtomogram : (3, 3) float64
        A_subtomogram, subtomogram to tomogram.

    Returns
    -------
    (T, 3, 3) float64
        Rows: the image's x, its y, and the unit normal of its plane in Fourier space.
    """
    axes = projections @ subtomogram
    normals = np.cross(axes[:, 0], axes[:, 1])
    axes[:, 2] = normals / np.linalg.norm(normals, axis=1, keepdims=True)
    return axes


def tilt_optics(
    series: TiltSeries,
    frames: npt.NDArray[np.int64],
    position_angstrom: npt.NDArray[np.float64],
    extent_angstrom: float,
) -> npt.NDArray[np.float64]:
    """Coefficients of C for `kernels.tilt_planes.transfer`, (F, 9) float64.

    Parameters
    ----------
    series : TiltSeries
    frames : (F,) int64
        Which of its images.
    position_angstrom : (3,) float64
        x, y, z of the particle from the middle of the tomogram.
    extent_angstrom : float
        Edge of the box: image frequencies count in steps of its inverse.
    """
    depth = series.projections[frames, 2] @ position_angstrom * series.depth_sign
    u, v = series.defocus_u_angstrom[frames] + depth, series.defocus_v_angstrom[frames] + depth
    azimuth = np.deg2rad(series.defocus_angle_deg[frames])
    cosine, sine = np.cos(azimuth), np.sin(azimuth)
    wavelength = wavelength_angstrom(series.voltage_kv)
    quadratic = np.pi * wavelength / extent_angstrom**2
    aberration = 1e7 * series.spherical_aberration_mm
    quartic = 0.5 * np.pi * aberration * wavelength**3 / extent_angstrom**4
    decay = series.b_factor_angstrom2[frames]
    exposure = series.exposure[frames]
    if series.exposure_b_factor > 0.0:
        decay = decay + series.exposure_b_factor * exposure
        exposure = np.zeros_like(exposure)
    columns = (
        quadratic * (u * cosine**2 + v * sine**2),
        quadratic * 2.0 * (u - v) * sine * cosine,
        quadratic * (u * sine**2 + v * cosine**2),
        np.full_like(u, quartic),
        np.deg2rad(series.phase_shift_deg[frames]) + np.arcsin(series.amplitude_contrast),
        series.scale[frames],
        0.25 * decay / extent_angstrom**2,
        exposure,
        np.full_like(u, extent_angstrom),
    )
    return np.stack(columns, axis=1)


def wavelength_angstrom(voltage_kv: float) -> float:
    """Of electrons, relativistic."""
    volts = 1e3 * voltage_kv
    return float(12.2643247 / np.sqrt(volts * (1.0 + 0.978466e-6 * volts)))
