"""Particle tables of other programs, in and out, through one hub (`formats.table`)."""

from faml.io.formats.losses import Written
from faml.io.formats.registry import (
    FORMATS,
    detect_format,
    format_for_name,
    planned_files,
    read_table,
    write_table,
)
from faml.io.formats.table import ParticleTable, TiltRange, Wedge

__all__ = [
    "FORMATS",
    "ParticleTable",
    "TiltRange",
    "Wedge",
    "Written",
    "detect_format",
    "format_for_name",
    "planned_files",
    "read_table",
    "write_table",
]
