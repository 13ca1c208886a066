"""A set of particles that reads its volumes when asked and keeps none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import scipy.fft

from faml.errors import InputDataError
from faml.particles.kept import FirstKept, LastKept
from faml.transforms.phases import random_phases

__all__ = ["MemoryReader", "ParticlePoses", "ParticleSet", "VolumeReader", "WeightReader"]

_WEIGHTS_KEPT = 16
"""Where nothing is said about memory."""
_WEIGHTS_SHARE = 0.25
"""Of the memory for what is kept, at most; the rest is for particles."""
_VIEWS_PER_WEIGHT = 12
"""Sizes of W that W and all that `ParticleViews` makes of it take at the finest resolution."""
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

    It can be pickled where its readers can; what it keeps in memory is not part of that.

    Attributes
    ----------
    names : sequence of N str
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
    weights_kept : int
        Distinct weights that stay in memory, the last used.
    kept : FirstKept or None
        Data terms that stay in memory, by `source_index`; shared with subsets.
    """

    names: Sequence[str]
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
    weights_kept: int = _WEIGHTS_KEPT
    kept: FirstKept | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_last_weights", LastKept(self.weights_kept))

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
        return replace(self, volumes=reader, kept=None)  # what is kept is not theirs

    def within(self, memory_bytes: float) -> ParticleSet:
        """The same particles, with so much memory for what is kept of them.

        A quarter, or less where there are few distinct weights, is for weights; the rest for data
        terms, the first that are asked for. No result depends on it.
        """
        half = self.box**2 * (self.box // 2 + 1)
        per_weight = 4 * half * _VIEWS_PER_WEIGHT
        distinct = int(self.weight_index.max()) + 1
        count = max(1, min(distinct, int(_WEIGHTS_SHARE * memory_bytes / per_weight)))
        rest = max(0, int(memory_bytes - count * per_weight))
        return replace(self, weights_kept=count, kept=FirstKept(rest))

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
        kept: LastKept[npt.NDArray[np.float32]] = self._last_weights  # type: ignore[attr-defined]
        return kept.get(weight_index, lambda: self.weights.read(weight_index))

    def data_term(self, index: int) -> npt.NDArray[np.complex64]:
        """Data term y of one particle, method.md section 2.

        Returns
        -------
        (n, n, n // 2 + 1) complex64
            ``y = C X`` (or X as it is where the file is premultiplied), zero where W is zero. Not
            to be written to.
        """
        if self.kept is None:
            return self._data_term(index)
        return self.kept.get(int(self.source_index[index]), lambda: self._data_term(index))

    def _data_term(self, index: int) -> npt.NDArray[np.complex64]:
        volume = self.volume(index)
        spectrum = scipy.fft.rfftn(scipy.fft.ifftshift(volume), norm="ortho")
        which = int(self.weight_index[index])
        amplitude = self.weights.amplitude(which)
        if amplitude is not None:
            spectrum *= amplitude
        spectrum[self.weight(which) == 0.0] = 0.0
        return spectrum.astype(np.complex64, copy=False)
