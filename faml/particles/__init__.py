"""Particles: subtomograms as the data model sees them, ``y = W A + noise``."""

from faml.particles.particle_set import (
    MemoryReader,
    ParticlePoses,
    ParticleSet,
    VolumeReader,
    WeightReader,
)
from faml.particles.wedge import (
    full_cube,
    tilt_angles_weight,
    wedge_weight,
    weight_from_volume,
)

__all__ = [
    "MemoryReader",
    "ParticlePoses",
    "ParticleSet",
    "VolumeReader",
    "WeightReader",
    "full_cube",
    "tilt_angles_weight",
    "wedge_weight",
    "weight_from_volume",
]
