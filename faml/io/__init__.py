"""The world outside: MRC and STAR files in, class averages and STAR files out."""

from faml.io.dataset import Dataset, open_particles, survey_particles
from faml.io.inspect import Inspection, inspect_dataset
from faml.io.mrc import MrcHeader, MrcVolume, read_header, read_volume, write_volume
from faml.io.output import (
    ParticleResults,
    prepare_output_directory,
    write_class_averages,
    write_particles,
)
from faml.io.star import RelionStar, read_star
from faml.io.wedge_files import TiltRangeWeight, VolumeWeights

__all__ = [
    "Dataset",
    "Inspection",
    "MrcHeader",
    "MrcVolume",
    "ParticleResults",
    "RelionStar",
    "TiltRangeWeight",
    "VolumeWeights",
    "inspect_dataset",
    "open_particles",
    "prepare_output_directory",
    "read_header",
    "read_star",
    "read_volume",
    "survey_particles",
    "write_class_averages",
    "write_particles",
    "write_volume",
]
