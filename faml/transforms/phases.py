"""Volumes whose fine detail is replaced by noise of the same power (Chen et al. 2013)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from faml.transforms.fourier import shell_indices

__all__ = ["random_phases"]


def random_phases(
    volume: npt.NDArray[np.floating], first: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """The volume (n, n, n) with the phases of white noise, which are Hermitian, from a shell on."""
    spectrum = np.fft.rfftn(volume)
    noise = np.fft.rfftn(rng.normal(size=volume.shape))
    beyond = shell_indices(volume.shape[0]) >= first
    spectrum[beyond] = np.abs(spectrum[beyond]) * noise[beyond] / np.abs(noise[beyond])
    return np.fft.irfftn(spectrum, s=volume.shape, axes=(0, 1, 2))
