"""Tilts of tables that have weight volumes, for formats that hold tilts only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from faml.conventions import rotation_angle_deg
from faml.errors import InputDataError
from faml.io.formats.columns import numbers_or_nan
from faml.io.formats.dynamo import WEDGE_COLUMNS
from faml.io.formats.table import ParticleTable, TiltRange, Wedge
from faml.io.mrc import read_header
from faml.io.star import resolve_images
from faml.io.wedge_files import VolumeWeights, single_axis_range_deg

__all__ = ["with_weight_tilts"]

_FILES_READ = 100
"""Of more weight volumes one is read for each tomogram, all of which has the same tilts."""
_TURNED_DEG = 0.01


def with_weight_tilts(table: ParticleTable) -> ParticleTable:
    """The table with tilt ranges about Y as its weight volumes look, where it gives none itself.

    Boxes that were turned out of the tomogram's axes (rlnTomoSubtomogram angles) and weights that
    look like no wedge about Y stay without. What was done is in the notes.
    """
    carried = table.foreign.get("dynamo")
    known = carried is not None and numbers_or_nan(carried, WEDGE_COLUMNS[0]).any()
    if table.wedges is not None or table.weight_images is None or table.star is None or known:
        return table
    unknown = "the tilts cannot be estimated from the weight volumes"
    if table.frames is not None:
        turned = rotation_angle_deg(np.broadcast_to(np.eye(3), table.frames.shape), table.frames)
        if (turned > _TURNED_DEG).any():
            reason = "the boxes are turned against the tomogram"
            return replace(table, notes=(*table.notes, f"{unknown}: {reason}"))
    try:
        wedges = _wedges(table, resolve_images(table.star, "rlnCtfImage"))
    except InputDataError as error:  # a table can be converted without its volumes
        return replace(table, notes=(*table.notes, f"{unknown}: {error}"))
    found = sum(map(bool, wedges))
    if not found:
        reason = "they do not look like a missing wedge about Y"
        return replace(table, notes=(*table.notes, f"{unknown}: {reason}"))
    low = min(wedge[0].low_deg for wedge in wedges if wedge)
    high = max(wedge[0].high_deg for wedge in wedges if wedge)
    note = (
        f"the tilts of {found} particles, {low:g} to {high:g} degrees about Y, are estimated from "
        "the weight volume"
    )
    if found < len(wedges):
        note += f"; those of {len(wedges) - found} others do not look like a missing wedge about Y"
    return replace(table, wedges=wedges, notes=(*table.notes, note))


def _wedges(table: ParticleTable, paths: tuple[Path, ...]) -> tuple[Wedge, ...]:
    keys: tuple[str, ...] = tuple(map(str, paths))
    if len(set(keys)) > _FILES_READ and table.tomograms is not None:
        keys = table.tomograms
    first = {key: row for row, key in reversed(list(enumerate(keys)))}
    known = {key: _wedge(table, paths[row], row) for key, row in first.items()}
    return tuple(known[key] for key in keys)


def _wedge(table: ParticleTable, path: Path, row: int) -> Wedge:
    premultiplied = table.premultiplied is not None and bool(table.premultiplied[row])
    box = read_header(path).shape[1]  # in all layouts
    tilts = single_axis_range_deg(VolumeWeights((path,), (premultiplied,), box).read(0))
    return () if tilts is None else (TiltRange(round(tilts[0], 1), round(tilts[1], 1), "y"),)
