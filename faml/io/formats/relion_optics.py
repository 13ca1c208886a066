"""Optics groups of RELION's STAR files: made, kept, or put into the table of particles."""

from __future__ import annotations

import numpy as np
import pandas as pd

from faml.errors import ConfigurationError
from faml.io.formats.columns import (
    number_text,
    numbers_or_nan,
    with_columns,
    with_numbers,
)
from faml.io.formats.table import ParticleTable
from faml.io.star import per_particle, star_pixel_size
from faml.io.star_text import Block

__all__ = ["optics_columns", "with_optics", "with_pixel_size"]

_MAGNIFICATION = 10000.0
_ASSUMED = {
    "rlnVoltage": "300",
    "rlnSphericalAberration": "2.7",
    "rlnAmplitudeContrast": "0.1",
}
_SIZE = "rlnImagePixelSize"
_BOX = "rlnImageSize"
_SERIES = "rlnTomoTiltSeriesPixelSize"
_TOMO_FLAVOURS = {"relion4", "relion5"}
_GROUPS_ONLY = {
    _SIZE,
    _BOX,
    _SERIES,
    "rlnImageDimensionality",
    "rlnOpticsGroup",
    "rlnOpticsGroupName",
}


def optics_columns(
    frame: pd.DataFrame, table: ParticleTable
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Particles of a file without optics table, and notes.

    rlnDetectorPixelSize is in micrometres, so that at a magnification of 10 000 its number is the
    voxel size in Angstrom. RELION converts origins only where voltage, spherical aberration and
    amplitude contrast are there, too.
    """
    star = table.star
    if star is not None and star.optics is not None:
        for column in star.optics.columns:
            if column not in _GROUPS_ONLY and column not in frame:
                frame = _spread(frame, table, column)
    frame = frame.drop(columns=[name for name in ("rlnOpticsGroup",) if name in frame])
    count = len(table)
    assumed = {name: text for name, text in _ASSUMED.items() if name not in frame}
    frame = with_columns(frame, list(assumed), [[text] * count for text in assumed.values()])
    if table.voxel_size_angstrom is not None:
        values = np.tile([_MAGNIFICATION, table.voxel_size_angstrom], (count, 1))
        frame = with_numbers(frame, ["rlnMagnification", "rlnDetectorPixelSize"], values)
    return frame, _assumed_note(assumed)


def with_pixel_size(frame: pd.DataFrame, table: ParticleTable) -> pd.DataFrame:
    """Particles of a file without optics table, with the voxel size where that has changed."""
    size = table.voxel_size_angstrom
    before = None if table.star is None else star_pixel_size(table.star)
    if size is None or before is None or np.isclose(before, size, rtol=1e-6):
        return frame
    for name in ("rlnPixelSize", _SIZE):
        if name in frame:
            frame = with_numbers(frame, [name], np.full(len(table), size))
    if {"rlnDetectorPixelSize", "rlnMagnification"} <= set(frame.columns):
        magnification = numbers_or_nan(frame, "rlnMagnification")
        frame = with_numbers(frame, ["rlnDetectorPixelSize"], size * magnification / 1e4)
    return frame


def _assumed_note(assumed: dict[str, str]) -> tuple[str, ...]:
    words = ", ".join(f"{name} {text}" for name, text in assumed.items())
    return (f"assumed, since the table does not say: {words}",) if assumed else ()


def with_optics(
    frame: pd.DataFrame, table: ParticleTable, flavour: str
) -> tuple[pd.DataFrame, dict[str, Block], tuple[str, ...]]:
    """Particles with optics groups, the tables that go before them, and notes.

    Raises
    ------
    ConfigurationError
        The voxel size is not known.
    """
    same = table.format == flavour
    star = table.star
    if same and star is not None:
        blocks: dict[str, Block] = dict(star.blocks)
        if star.optics is None:
            return with_pixel_size(frame, table), blocks, ()
    else:
        blocks = {}
        if flavour == "relion5":
            blocks["general"] = {"rlnTomoSubTomosAre2DStacks": "0"}
        if star is not None and flavour in _TOMO_FLAVOURS:
            blocks |= {name: block for name, block in star.blocks.items() if name == "general"}
    notes: tuple[str, ...] = ()
    if star is None or star.optics is None:
        optics, notes = _new_optics(table, frame)
        frame = with_columns(frame, ["rlnOpticsGroup"], [["1"] * len(table)])
    else:
        optics = _kept_optics(table, star.optics, same=same)
        if flavour not in _TOMO_FLAVOURS and _SERIES in optics:
            # With it coordinates would be those of the unbinned tilt series.
            optics = optics.drop(columns=[_SERIES])
    if flavour in _TOMO_FLAVOURS and _SERIES not in optics:
        series = table.tilt_series_pixel_angstrom
        size = table.voxel_size_angstrom if series is None else float(series[0])
        optics = with_columns(optics, [_SERIES], [[number_text(size or 1.0)] * len(optics)])
        if series is None:
            notes += (
                f"{_SERIES} is set to the voxel size: correct it and the coordinates where the "
                "particles are binned",
            )
    blocks["optics"] = optics
    return frame, blocks, notes


def _new_optics(table: ParticleTable, frame: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """One optics group for particles that had none."""
    if table.voxel_size_angstrom is None:
        raise ConfigurationError(
            f"{table.path}: the voxel size is not known, which RELION needs; give --voxel-size in "
            "Angstrom"
        )
    optics = {
        "rlnOpticsGroup": "1",
        "rlnOpticsGroupName": "opticsGroup1",
        _SIZE: f"{table.voxel_size_angstrom:.6f}",
        **({} if table.box is None else {_BOX: str(table.box)}),
        "rlnImageDimensionality": "3",
    }
    assumed = {name: text for name, text in _ASSUMED.items() if name not in frame}
    for name, text in _ASSUMED.items():
        found = set(frame[name]) if name in frame else set()
        optics[name] = found.pop() if len(found) == 1 else text
    premultiplied = table.premultiplied is not None and bool(table.premultiplied.any())
    optics["rlnCtfDataAreCtfPremultiplied"] = str(int(premultiplied))
    notes = list(_assumed_note(assumed))
    if table.box is None and table.images is not None:
        notes.append(f"the box is not known: put {_BOX} into data_optics, which RELION needs")
    return pd.DataFrame([optics], dtype=object), tuple(notes)


def _kept_optics(table: ParticleTable, optics: pd.DataFrame, *, same: bool) -> pd.DataFrame:
    """The groups of the file, with another voxel size and box where they changed."""
    optics = optics.copy()
    before, after = star_pixel_size(table.star) if table.star else None, table.voxel_size_angstrom
    if after is not None and (before is None or not np.isclose(before, after, rtol=1e-6)):
        if before is not None and _BOX in optics:
            boxes = pd.to_numeric(optics[_BOX], errors="coerce") * table.box_factor
            optics[_BOX] = [str(round(box)) if np.isfinite(box) else "nan" for box in boxes]
        optics = with_columns(optics, [_SIZE], [[number_text(after)] * len(optics)])
    if not same and "rlnImageDimensionality" not in optics:
        optics = with_columns(optics, ["rlnImageDimensionality"], [["3"] * len(optics)])
    return optics


def _spread(frame: pd.DataFrame, table: ParticleTable, column: str) -> pd.DataFrame:
    """An optics column for every particle, if it holds numbers."""
    star = table.star
    if star is None or star.optics is None:
        return frame
    if pd.to_numeric(star.optics[column], errors="coerce").isna().any():
        return frame
    return with_numbers(frame, [column], per_particle(star, column))
