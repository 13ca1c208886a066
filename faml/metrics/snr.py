"""Signal-to-noise ratio from aligned particles (Frank and Al-Ali 1975).

Two noisy images of one structure, aligned, correlate by ``rho = SNR / (1 + SNR)``: what they share
is signal. Particles with missing wedges share only what both have observed, so powers are taken
shell by shell and divided by what the weights let through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.fft
from scipy.ndimage import affine_transform

from faml.metrics.resample import Resampler
from faml.particles import ParticlePoses, ParticleSet, full_cube
from faml.transforms.fourier import (
    half_multiplicity,
    shell_indices,
    spectrum_of,
    sum_over_shells,
    volume_of,
)

__all__ = ["SignalToNoise", "measure_snr"]

_LEAST_OVERLAP = 1e-9
_FLIP = np.eye(3)[::-1]  # (x, y, z) vectors to [z, y, x] indices and back


@dataclass(frozen=True)
class SignalToNoise:
    """Of particles in their boxes.

    Attributes
    ----------
    of_particles : float
        Variance of signal over noise in the particles as they are.
    before_wedge : float or None
        The same, had all of Fourier space been observed: what ``faml simulate --noise white
        --snr`` sets. None where weights are more than a wedge.
    per_shell : (n // 2 + 1,) float64
        ``|A|^2 / sigma^2`` of components with weight one; NaN where nothing is shared.
    particles : int
        In classes of two or more, which make pairs.
    """

    of_particles: float
    before_wedge: float | None
    per_shell: npt.NDArray[np.float64]
    particles: int


def measure_snr(
    particles: ParticleSet,
    poses: ParticlePoses,
    classes: Sequence[npt.NDArray[np.integer]],
) -> SignalToNoise:
    """Signal and noise of particles whose poses are known, from all pairs of a class.

    Parameters
    ----------
    particles : ParticleSet
    poses : ParticlePoses
        Of all particles. Wrong ones hide signal; those fitted to this very noise align it, too,
        and find more than there is.
    classes : sequence of (M,) int
        Particles of each class; those with fewer than two are left out.

    Returns
    -------
    SignalToNoise

    Raises
    ------
    ValueError
        No class has two particles.
    """
    pairs = [members for members in classes if len(members) > 1]
    if not pairs:
        raise ValueError("expected a class of two particles or more, found none")
    n = particles.box
    shells, multiplicity = shell_indices(n), half_multiplicity(n)
    last = n // 2

    def per_shell(values: npt.NDArray[np.floating], top: int = last) -> npt.NDArray[np.float64]:
        return sum_over_shells(shells, multiplicity * values, top + 1)

    beyond = int(shells.max())
    components = per_shell(np.ones(shells.shape), beyond)
    plain = True
    signal, noise, whole_signal, whole_noise = 0.0, 0.0, 0.0, 0.0
    signals, noises = np.zeros(last + 1), np.zeros(last + 1)
    for members in pairs:
        shared = _Shared(n)
        power = np.zeros(shells.shape)  # of y,
        passed = np.zeros(shells.shape)  # of what a unit of signal is in y,
        weights = np.zeros(shells.shape)  # and a unit of noise
        index = particles.weight_index[members]
        for which in np.unique(index):
            alike = members[index == which]
            weight = particles.weight(int(which))
            plain = plain and bool(np.isin(weight, (0.0, 1.0)).all())
            passed += len(alike) * np.square(weight, dtype=np.float64)
            weights += len(alike) * weight.astype(np.float64)
            cube = full_cube(weight)
            for i in alike:
                data = particles.data_term(int(i))
                power += np.square(np.abs(data), dtype=np.float64)
                shared.add(volume_of(data, n), cube, poses.rotations[i], poses.translations[i])
        products, overlap = (per_shell(each) for each in shared.products())
        overlap[0] = 0.0  # the mean of a box is no datum
        common = overlap > _LEAST_OVERLAP * overlap.max()
        structure = np.divide(products, overlap, out=np.full(last + 1, np.nan), where=common)
        known = np.where(common, structure, 0.0)
        rest = per_shell(power, beyond)
        rest[: last + 1] -= known * per_shell(passed)
        passing = per_shell(weights, beyond)
        variance = np.divide(rest, passing, out=np.zeros(beyond + 1), where=passing > 0)
        signal += float(known @ per_shell(passed))
        noise += float(rest[1:].sum())
        whole_signal += len(members) * float(known @ components[: last + 1])
        whole_noise += len(members) * float(variance[1:] @ components[1:])
        signals += len(members) * structure
        noises += len(members) * variance[: last + 1]
    ratio = np.divide(signals, noises, out=np.full(last + 1, np.nan), where=noises > 0)
    return SignalToNoise(
        float(signal / noise),
        float(whole_signal / whole_noise) if plain else None,
        ratio,
        sum(len(members) for members in pairs),
    )


class _Shared:
    """What particles of one structure have in common, turned back to it."""

    def __init__(self, n: int) -> None:
        half = (n, n, n // 2 + 1)
        self._sum = np.zeros(half, dtype=np.complex128)
        self._own = np.zeros(half)
        self._weight_sum = np.zeros(half)
        self._weight_own = np.zeros(half)

    def add(
        self,
        volume: npt.NDArray[np.float32],
        cube: npt.NDArray[np.float32],
        rotation: npt.NDArray[np.float64],
        translation: npt.NDArray[np.float64],
    ) -> None:
        back = rotation.T
        turned = spectrum_of(Resampler(volume).place(back, -back @ translation))
        self._sum += turned
        self._own += np.square(np.abs(turned), dtype=np.float64)
        passing = _turned_weight(cube, back)
        self._weight_sum += passing
        self._weight_own += np.square(passing)

    def products(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """``conj(y_i) y_j`` and ``W_i W_j`` of every component, summed over all pairs i != j."""
        return (
            np.square(np.abs(self._sum)) - self._own,
            np.square(self._weight_sum) - self._weight_own,
        )


def _turned_weight(
    cube: npt.NDArray[np.float32], rotation: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """W turned as a volume, from a full cube to the half-spectrum grid."""
    n = cube.shape[0]
    matrix = _FLIP @ rotation.T @ _FLIP
    middle = np.full(3, n // 2)
    turned = affine_transform(
        cube,
        matrix,
        middle - matrix @ middle,
        output=np.float64,
        order=1,
        mode="nearest",
    )
    half: npt.NDArray[np.float64] = scipy.fft.ifftshift(turned)[:, :, : n // 2 + 1]
    return half
