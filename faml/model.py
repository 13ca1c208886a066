"""The model: class averages, class fractions, noise and prior variances (method.md section 5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["ZETA2_FLOOR", "Model"]

ZETA2_FLOOR = 0.25
"""Smallest variance of the shifts, voxel^2; without it zeta collapses and never recovers."""


@dataclass(frozen=True)
class Model:
    """Parameters that EM estimates. Shells run from 0 to the last one below Nyquist.

    Attributes
    ----------
    volumes : (K, n, n, n) float32
        Class averages A_k, ``[z, y, x]``, grey values of the normalised particles.
    class_fractions : (K,) float64
        alpha_k, sum 1.
    noise_variance : (S,) float64
        sigma_r^2 per Fourier shell.
    signal_power : (K, S) float64
        tau_r^2, prior power of the structure per component and shell.
    shift_variance : float
        zeta^2 in voxel^2, per axis.
    """

    volumes: npt.NDArray[np.float32]
    class_fractions: npt.NDArray[np.float64]
    noise_variance: npt.NDArray[np.float64]
    signal_power: npt.NDArray[np.float64]
    shift_variance: float

    @property
    def classes(self) -> int:
        """K."""
        return self.volumes.shape[0]

    @property
    def box(self) -> int:
        """Edge n in voxels."""
        return self.volumes.shape[-1]
