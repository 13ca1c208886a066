"""A set of particles that reads its volumes when asked and keeps none."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from threading import Lock
from typing import Protocol

import numpy as np
import numpy.typing as npt
import scipy.fft

from faml.errors import InputDataError
from faml.transforms.phases import random_phases

__all__ = ["MemoryReader", "ParticlePoses", "ParticleSet", "VolumeReader", "WeightReader"]

_WEIGHT_CACHE = 16
_PHASE_STREAM = 0xFA5E  # tells random phases' stream from the others


class VolumeReader(Protocol):
    """Reads particle volumes by index; safe to call from several threads."""

    def read(self, index: int) -> npt.NDArray[np.float32]:
        """Volume of one particle, ``(n, n, n)`` float32 ``[z, y, x]``, as it lies in the file."""
        ...


class WeightReader(Protocol):
    """Reads distinct weights by index; safe to call from several threads."""

    def read(self, index: int) -> npt.NDArray[np.float32]:
        """Weight W, ``(n, n, n // 2 + 1)`` float32 (`particles.wedge`)."""
        ...

    def amplitude(self, index: int) -> npt.NDArray[np.float32] | None:
        """C with y = C X and W = C^2 for data not premultiplied, or None where y is the file."""
        ...


@dataclass(frozen=True)
class MemoryReader:
    """Volumes or weights that already lie in memory (simulations, tests)."""

    arrays: npt.NDArray[np.float32]

    def read(self, index: int) -> npt.NDArray[np.float32]:
        """Array ``index``."""
        return self.arrays[index]

    def amplitude(self, index: int) -> npt.NDArray[np.float32] | None:
        """Binary wedges: masking y with W in {0, 1} is multiplying by C = W."""
        return None


@dataclass(frozen=True)
class RandomPhaseReader:
    """Volumes of another reader with random phases from a shell on, each time the same."""

    volumes: VolumeReader
    first_shell: int
    seed: int

    def read(self, index: int) -> npt.NDArray[np.float32]:
        """Volume ``index``."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, _PHASE_STREAM, index]))
        return random_phases(self.volumes.read(index), self.first_shell, rng).astype(np.float32)


@dataclass(frozen=True)
class ParticlePoses:
    """Poses of N particles as far as the input file knows them.

    Attributes
    ----------
    rotations : (N, 3, 3) float64
        Active rotations, reference to particle.
    translations : (N, 3) float64
        x, y, z in voxels.
    """

    rotations: npt.NDArray[np.float64]
    translations: npt.NDArray[np.float64]

    @property
    def are_zero(self) -> bool:
        """Whether no particle has an angle or a shift, as programs write that know none.

        One particle alone may lie as the reference does.
        """
        rest = np.broadcast_to(np.eye(3), self.rotations.shape)
        moved = self.translations.any() or not np.array_equal(self.rotations, rest)
        return len(self.rotations) > 1 and not moved


@dataclass(frozen=True)
class ParticleSet:
    """N particles of one box size with their Fourier weights.

    Attributes
    ----------
    names : tuple of N str
        Unique, used in messages and output.
    box : int
        Edge n in voxels.
    voxel_size_angstrom : float
    volumes : VolumeReader
    weights : WeightReader
    weight_index : (N,) int64
        Which distinct weight each particle has.
    offset, scale : (N,) float32
        Grey values are read as ``(value - offset) * scale`` (normalisation and contrast).
    poses : ParticlePoses or None
        Input poses.
    source_index : (N,) int64
        Index by which `volumes` knows each particle (differs after `subset`).
    tomograms : (N,) int64 or None
        Which tomogram each particle is from, where the input says so.
    """

    names: tuple[str, ...]
    box: int
    voxel_size_angstrom: float
    volumes: VolumeReader
    weights: WeightReader
    weight_index: npt.NDArray[np.int64]
    offset: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32]
    poses: ParticlePoses | None
    source_index: npt.NDArray[np.int64]
    tomograms: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "_weight_cache", OrderedDict())
        object.__setattr__(self, "_weight_lock", Lock())

    @classmethod
    def from_arrays(
        cls,
        volumes: npt.NDArray[np.float32],
        weights: npt.NDArray[np.float32],
        *,
        weight_index: npt.NDArray[np.int64] | None = None,
        voxel_size_angstrom: float = 1.0,
        poses: ParticlePoses | None = None,
        names: tuple[str, ...] | None = None,
    ) -> ParticleSet:
        """Particles from arrays: (N, n, n, n) volumes and (M, n, n, n // 2 + 1) weights."""
        count, box = volumes.shape[0], volumes.shape[-1]
        return cls(
            names=names or tuple(f"particle_{i + 1:05d}" for i in range(count)),
            box=box,
            voxel_size_angstrom=voxel_size_angstrom,
            volumes=MemoryReader(volumes),
            weights=MemoryReader(weights),
            weight_index=(
                np.zeros(count, dtype=np.int64) if weight_index is None else weight_index
            ),
            offset=np.zeros(count, dtype=np.float32),
            scale=np.ones(count, dtype=np.float32),
            poses=poses,
            source_index=np.arange(count, dtype=np.int64),
        )

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, indices: npt.NDArray[np.int64]) -> ParticleSet:
        """The particles at ``indices``, in that order."""
        poses = self.poses
        if poses is not None:
            poses = ParticlePoses(poses.rotations[indices], poses.translations[indices])
        return replace(
            self,
            names=tuple(self.names[i] for i in indices),
            weight_index=self.weight_index[indices],
            offset=self.offset[indices],
            scale=self.scale[indices],
            poses=poses,
            source_index=self.source_index[indices],
            tomograms=None if self.tomograms is None else self.tomograms[indices],
        )

    def with_random_phases(self, first_shell: int, seed: int) -> ParticleSet:
        """The same particles without structure from a shell on, but with all their power."""
        reader = RandomPhaseReader(self.volumes, first_shell, seed)
        return replace(self, volumes=reader)

    def volume(self, index: int) -> npt.NDArray[np.float32]:
        """Grey values after normalisation and contrast, ``(n, n, n)`` float32.

        Raises
        ------
        InputDataError
            If the file cannot be read, has another shape, or holds NaN or Inf.
        """
        raw = self.volumes.read(int(self.source_index[index]))
        if raw.shape != (self.box,) * 3:
            raise InputDataError(
                f"particle {self.names[index]}: expected a box of {(self.box,) * 3} voxels like "
                f"the others, found {raw.shape}"
            )
        if not np.isfinite(raw).all():
            raise InputDataError(
                f"particle {self.names[index]}: found NaN or Inf in the volume; "
                "remove it or extract it again"
            )
        return (raw - self.offset[index]) * self.scale[index]

    def weight(self, weight_index: int) -> npt.NDArray[np.float32]:
        """Distinct weight W, ``(n, n, n // 2 + 1)`` float32; recently used ones are kept."""
        cache: OrderedDict[int, npt.NDArray[np.float32]] = self._weight_cache  # type: ignore[attr-defined]
        with self._weight_lock:  # type: ignore[attr-defined]
            known = cache.get(weight_index)
            if known is not None:
                cache.move_to_end(weight_index)
                return known
        read = self.weights.read(weight_index)
        with self._weight_lock:  # type: ignore[attr-defined]
            cache[weight_index] = read
            while len(cache) > _WEIGHT_CACHE:
                cache.popitem(last=False)
        return read

    def data_term(self, index: int) -> npt.NDArray[np.complex64]:
        """Data term y of one particle, method.md section 2.

        Returns
        -------
        (n, n, n // 2 + 1) complex64
            ``y = C X`` (or X as it is where the file is premultiplied), zero where W is zero.
        """
        volume = self.volume(index)
        spectrum = scipy.fft.rfftn(scipy.fft.ifftshift(volume), norm="ortho")
        which = int(self.weight_index[index])
        amplitude = self.weights.amplitude(which)
        if amplitude is not None:
            spectrum *= amplitude
        spectrum[self.weight(which) == 0.0] = 0.0
        return spectrum.astype(np.complex64, copy=False)
