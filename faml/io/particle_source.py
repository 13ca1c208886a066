"""What the inputs of a run list: names, files, table and wedges, before any volume is opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from faml.config import DataConfig
from faml.errors import ConfigurationError, InputDataError
from faml.io.formats import Wedge
from faml.io.inputs import InputFiles, resolve_inputs
from faml.io.packs.content import Pack
from faml.io.packs.reading import open_pack
from faml.io.stacks import TiltStacks, open_stacks, read_optimisation_set, unmodelled
from faml.io.star import RelionStar, read_star, resolve_images, star_premultiplied
from faml.io.star_text import can_hold
from faml.io.table_source import check_table_options, open_table, star_wedges

__all__ = ["Source", "list_source"]


@dataclass(frozen=True)
class Source:
    """What the inputs list, before any volume is opened.

    Attributes
    ----------
    names : sequence of N str
    paths : sequence of N Path
    star : RelionStar or None
        The table, that of another program in RELION's terms.
    weight_paths : tuple of N Path, or None
        Weight volumes.
    premultiplied : (N,) bool
    warnings : tuple of str
    stacks : TiltStacks or None
        Where each particle is a stack of tilt images.
    wedges : tuple of N Wedge, or None
        Tilts that a table or a wedge list gives.
    pack : Pack or None
        Where the particles are from one, which has their weights and all else.
    """

    names: Sequence[str]
    paths: Sequence[Path]
    star: RelionStar | None
    weight_paths: tuple[Path, ...] | None
    premultiplied: npt.NDArray[np.bool_]
    warnings: tuple[str, ...]
    stacks: TiltStacks | None = None
    wedges: tuple[Wedge, ...] | None = None
    pack: Pack | None = None

    def take(self, rows: npt.NDArray[np.int64]) -> Source:
        """The particles of a subset; the STAR table stays whole."""
        if self.pack is not None:
            return _packed_source(self.pack.take(rows))
        weights = self.weight_paths
        return Source(
            names=tuple(self.names[i] for i in rows),
            paths=tuple(self.paths[i] for i in rows),
            star=self.star,
            weight_paths=None if weights is None else tuple(weights[i] for i in rows),
            premultiplied=self.premultiplied[rows],
            warnings=self.warnings,
            stacks=None if self.stacks is None else self.stacks.take(rows),
            wedges=None if self.wedges is None else tuple(self.wedges[i] for i in rows),
        )


def list_source(config: DataConfig) -> Source:
    """List the particles of a configuration.

    Raises
    ------
    ConfigurationError, InputDataError
        No input, inputs that do not go together, a table that is malformed, or files that are
        missing or listed twice.
    """
    files = resolve_inputs(config.inputs)
    if files.pack is not None:
        _check_pack_options(config, files.pack)
        return _packed_source(open_pack(files.pack))
    check_table_options(config, table=files.table is not None, star=files.star is not None)
    if files.table is not None:
        return _nameable(_table_source(files.table, config))
    if files.star is None:
        return _nameable(_volumes_source(files))
    optimisation_set = read_optimisation_set(files.star)
    star = read_star(optimisation_set.particles if optimisation_set else files.star)
    paths = resolve_images(star, "rlnImageName")
    names = tuple(star.particles["rlnImageName"].astype(str))
    repeated = [path for path, times in Counter(paths).items() if times > 1]
    if repeated:
        raise InputDataError(
            f"{star.path}: {repeated[0].name} is listed {Counter(paths)[repeated[0]]} times in "
            "rlnImageName; every particle must be one file of its own: remove duplicates"
        )
    stacks = None
    if star.holds_tilt_stacks:
        named = optimisation_set.tomograms if optimisation_set else None
        stacks = open_stacks(star, config.tomograms or named)
    with_weights = "rlnCtfImage" in star.particles and stacks is None
    return Source(
        names=names,
        paths=paths,
        star=star,
        weight_paths=resolve_images(star, "rlnCtfImage") if with_weights else None,
        premultiplied=star_premultiplied(star),
        warnings=files.warnings + (() if stacks is None else unmodelled(star)),
        stacks=stacks,
        wedges=None if stacks is not None else star_wedges(star, config),
    )


def _packed_source(pack: Pack) -> Source:
    """Particles of a pack."""
    return Source(
        names=pack.names,
        paths=pack.paths,
        star=pack.star,
        weight_paths=None,
        premultiplied=pack.premultiplied,
        warnings=pack.warnings,
        pack=pack,
    )


def _check_pack_options(config: DataConfig, path: Path) -> None:
    """Refuse what is for files, of which a pack has taken all there is to know."""
    for option, given in (
        ("--particles", config.particles_folder),
        ("--wedge-list", config.wedge_list),
        ("--tomograms", config.tomograms),
    ):
        if given is not None:
            raise ConfigurationError(
                f"{option} is for tables of loose particles, {path} is a pack of them; leave it "
                "out, or give it to faml pack"
            )


def _volumes_source(files: InputFiles) -> Source:
    """Files without a table."""
    return Source(
        names=tuple(str(path) for path in files.volumes),
        paths=tuple(path.absolute() for path in files.volumes),
        star=None,
        weight_paths=None,
        premultiplied=np.zeros(len(files.volumes), dtype=np.bool_),
        warnings=files.warnings,
    )


def _nameable(source: Source) -> Source:
    """Refuse names now that would keep a run from writing its particles.star in the end."""
    for path in source.paths:
        if not can_hold(str(path)):
            raise InputDataError(
                f"{str(path)!r}: expected names that a STAR file can hold, found line breaks or "
                "quotes of both kinds before blanks; rename the file or folder"
            )
    return source


def _table_source(path: Path, config: DataConfig) -> Source:
    """Particles of another program's table."""
    found = open_table(path, config)
    return Source(
        names=tuple(map(str, found.paths)),
        paths=found.paths,
        star=found.star,
        weight_paths=None,
        premultiplied=np.zeros(len(found.paths), dtype=np.bool_),
        warnings=found.warnings,
        wedges=found.wedges,
    )
