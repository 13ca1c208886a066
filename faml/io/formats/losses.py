"""What a target format cannot hold, in words: nothing is lost silently."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from faml.io.formats.table import ParticleTable
from faml.io.star_text import Block

__all__ = ["Written", "base_columns", "listed", "losses", "unread_columns"]

_SHOWN = 12
_WORDS = {
    "images": "names of the particle files",
    "weight_images": "weight volumes",
    "halves": "half-sets",
    "tomograms": "names of the tomograms",
    "coordinates_voxels": "coordinates",
    "scores": "scores",
    "classes": "classes",
    "voxel_size_angstrom": "voxel size",
    "wedges": "missing wedges, which --wedge-list-out FILE writes apart",
    "frames": "the axes of the boxes (poses are those in the tomogram)",
}
_SECOND = (
    ("rlnMaxValueProbDistribution", "rlnAutopickFigureOfMerit"),
    ("rlnTomoName", "rlnMicrographName"),
)
_TOLD = {
    "dynamo": frozenset(
        {"tag", "tomo", "apix", "ftype", "ymintilt", "ymaxtilt", "xmintilt", "xmaxtilt"}
    ),
    "av3": frozenset({"number", "tomogram"}),
    "stopgap": frozenset({"motl_idx", "subtomo_num", "tomo_num"}),
}
"""Columns of which the fields of the hub tell."""


@dataclass(frozen=True)
class Written:
    """What a writer did.

    Attributes
    ----------
    files : tuple of Path
        The table first, then what belongs to it.
    lost : tuple of str
        What the format cannot hold, one thing each.
    notes : tuple of str
        What the user has to know or do.
    """

    files: tuple[Path, ...]
    lost: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def losses(
    table: ParticleTable, target: str, held: Collection[str], mapped: frozenset[str]
) -> tuple[str, ...]:
    """What of a table a format without room for further columns cannot hold.

    Parameters
    ----------
    table : ParticleTable
    target : str
        Name of the format.
    held : collection of str
        Fields of `ParticleTable` that it holds.
    mapped : frozenset of str
        Columns of the source that its fields stand for.
    """
    lost = [
        f"{words} ({len(table)} particles)"
        for name, words in _WORDS.items()
        if name not in held and getattr(table, name) is not None and not _empty(table, name)
    ]
    told = (mapped | _TOLD.get(table.format, frozenset())) - unread_columns(table)
    own = [] if table.format == target else [c for c in table.own if c not in told]
    own = [column for column in own if not _zeros(table.own[column])]
    lost += [listed("columns", own)] if own else []
    for source, columns in table.foreign.items():
        if source != target and len(columns.columns):
            names = [
                f"{source}_{column}"
                for column in columns
                if column not in _TOLD[source] and not _zeros(columns[column])
            ]
            lost += [listed("columns", names)] if names else []
    if table.star is not None:
        lost += [
            _block_words(name, block)
            for name, block in table.star.blocks.items()
            if name != table.star.particles_block
        ]
    return tuple(lost)


def unread_columns(table: ParticleTable) -> frozenset[str]:
    """Columns of a table that its fields could stand for and do not.

    Half-sets that are not all first or second, and the second of two columns for one thing.
    """
    unread = {name for name in ("rlnRandomSubset", "halfset") if table.halves is None}
    for first, second in _SECOND:
        if {first, second} <= set(table.own) and not table.own[first].equals(table.own[second]):
            unread.add(second)
    return frozenset(unread)


def _block_words(name: str, block: Block) -> str:
    columns = list(block) if isinstance(block, dict) else list(block.columns)
    return f"table data_{name} ({listed('columns', columns)})"


def base_columns(table: ParticleTable, target: str) -> pd.DataFrame | None:
    """The target's own columns, from the file itself or carried along by a STAR file."""
    if table.format == target:
        return table.own
    return table.foreign.get(target)


def listed(what: str, names: list[str]) -> str:
    """The first names, and how many there are."""
    shown = ", ".join(names[:_SHOWN])
    more = f", ... {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {what}: {shown}{more}"


def _zeros(column: pd.Series) -> bool:
    """Whether a column says nothing: programs without a name for "not said" write 0."""
    return not pd.to_numeric(column, errors="coerce").fillna(1.0).any()


def _empty(table: ParticleTable, name: str) -> bool:
    """Whether a field says nothing: wedges of which none is known, classes that are all 0."""
    if name == "wedges":
        return not any(table.wedges or ())
    value = getattr(table, name)
    return isinstance(value, np.ndarray) and name in {"scores", "classes"} and not value.any()
