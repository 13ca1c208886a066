"""The missing wedge or CTF weight of each particle, from wherever the input gives it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from faml.config import DataConfig
from faml.errors import ConfigurationError, InputDataError
from faml.io.formats import TiltRange, Wedge
from faml.io.packs.content import Pack
from faml.io.particle_source import Source
from faml.io.stacks import TiltStacks
from faml.io.star import RelionStar
from faml.io.tilt_angles import read_tilt_angles
from faml.io.tilt_ranges import TiltRangeWeights, distinct_wedges
from faml.io.wedge_files import (
    TiltAnglesWeights,
    TiltRangeWeight,
    VolumeWeights,
    WeightSource,
    weight_power,
)
from faml.particles import WeightReader

__all__ = [
    "ParticleWeights",
    "WeightSource",
    "check_tilt_range",
    "how_to_give_wedge",
    "open_weights",
]

_TILTS = ("tilt range", "tilt angles")


@dataclass(frozen=True)
class ParticleWeights:
    """M distinct weights and which one each of N particles has.

    Attributes
    ----------
    source : WeightSource
    reader : WeightReader
    index : (N,) int64
    paths : tuple of M Path
        Weight volumes; empty where there are none.
    power : (N,) float64
        Noise variance per voxel relative to the others' (`weight_power`).
    warnings : tuple of str
    """

    source: WeightSource
    reader: WeightReader
    index: npt.NDArray[np.int64]
    paths: tuple[Path, ...]
    power: npt.NDArray[np.float64]
    warnings: tuple[str, ...]


def check_tilt_range(config: DataConfig) -> None:
    """Refuse a tilt range that is none.

    `RunConfig` checks this too, but a `DataConfig` can be made by itself.

    Raises
    ------
    ConfigurationError
    """
    if config.tilt_range_deg is None:
        return
    low, high = config.tilt_range_deg
    if not -90.0 <= low < high <= 90.0:
        raise ConfigurationError(
            f"tilt range must satisfy -90 <= MIN < MAX <= 90 degrees, found {low:g} {high:g}; "
            "give the smaller angle first"
        )


def how_to_give_wedge(star: RelionStar | None) -> str:
    """The options that say what was observed; a wedge list goes by the tomograms of a table."""
    if star is None:
        return "give --tilt-range MIN MAX or --tilt-angles FILE"
    return "give --tilt-range MIN MAX, --tilt-angles FILE or --wedge-list FILE"


def open_weights(
    config: DataConfig, source: Source, box: int, *, required: bool
) -> ParticleWeights:
    """Open the weights of particles of box ``box``.

    A pack has its own. Else weight volumes of the table come first, then ``--tilt-angles``,
    ``--tilt-range``, and what the table or a wedge list says.

    Raises
    ------
    InputDataError
        Weights that cannot be read, or none while they are ``required``.
    """
    if source.pack is not None:
        return _packed_weights(config, source, source.pack, required=required)
    if source.stacks is not None:
        return _stack_weights(config, source.stacks)
    if source.weight_paths is None:
        if config.tilt_angles_file is not None:
            return _tilt_angles_weights(config, config.tilt_angles_file, source, box)
        if source.wedges is not None and config.tilt_range_deg is None:
            return _wedge_weights(source, source.wedges, box, required=required)
        return _tilt_range_weight(config, source, box, required=required)
    distinct: dict[tuple[Path, bool], int] = {}
    index = np.array(
        [
            distinct.setdefault((path, bool(premultiplied)), len(distinct))
            for path, premultiplied in zip(source.weight_paths, source.premultiplied, strict=True)
        ],
        dtype=np.int64,
    )
    reader = VolumeWeights(
        paths=tuple(path for path, _ in distinct),
        premultiplied=tuple(premultiplied for _, premultiplied in distinct),
        box=box,
    )
    for which in range(len(distinct)):
        reader.check_header(which)
    # Reading each once finds an empty or negative one now and not in the middle of a run.
    powers = np.array([weight_power(reader.read(which)) for which in range(len(distinct))])
    power = np.ones(len(source.names))
    chosen = source.premultiplied
    if chosen.any():
        power[chosen] = powers[index[chosen]] / np.median(powers[index[chosen]])
    warnings: tuple[str, ...] = ()
    ignored = [
        name
        for name, given in (
            ("--tilt-range", config.tilt_range_deg),
            ("--tilt-angles", config.tilt_angles_file),
            ("--wedge-list", config.wedge_list),
        )
        if given is not None
    ]
    if ignored:
        warnings = (
            f"the STAR file gives weight volumes (rlnCtfImage): {' and '.join(ignored)} is ignored",
        )
    return ParticleWeights("volumes", reader, index, reader.paths, power, warnings)


def _packed_weights(
    config: DataConfig, source: Source, pack: Pack, *, required: bool
) -> ParticleWeights:
    """Weights of a pack, or the tilts of an option in place of those it was written with."""
    option = None
    if config.tilt_range_deg is not None or config.tilt_angles_file is not None:
        option = "--tilt-angles" if config.tilt_range_deg is None else "--tilt-range"
    warnings = pack.weight_warnings
    if option is not None and pack.weight_source in _TILTS:
        found = (
            _tilt_angles_weights(config, config.tilt_angles_file, source, pack.box)
            if config.tilt_angles_file is not None
            else _tilt_range_weight(config, source, pack.box, required=required)
        )
        replaced = f"{option} replaces the {pack.weight_source} that the pack was written with"
        return replace(found, warnings=(replaced, *found.warnings))
    if option is not None:
        ignored = f"the pack has weights from {pack.weight_source}: {option} is ignored"
        warnings = (*warnings, ignored)
    reader, index, which = pack.used_weights()
    power, of_each = np.ones(len(source.names)), pack.weight_power[which][index]
    if pack.weight_source == "tilt images":
        power = of_each / np.median(of_each)
    elif pack.weight_source == "volumes" and source.premultiplied.any():
        chosen = source.premultiplied
        power[chosen] = of_each[chosen] / np.median(of_each[chosen])
    paths = tuple(pack.weight_paths.take(which)) if len(pack.weight_paths) else ()
    return ParticleWeights(pack.weight_source, reader, index, paths, power, warnings)


def _stack_weights(config: DataConfig, stacks: TiltStacks) -> ParticleWeights:
    reader = stacks.weights
    power = np.array([weight_power(reader.read(which)) for which in range(len(stacks))])
    power /= np.median(power)
    warnings: tuple[str, ...] = ()
    if config.tilt_range_deg is not None or config.tilt_angles_file is not None:
        option = "--tilt-angles" if config.tilt_range_deg is None else "--tilt-range"
        warnings = (f"the particles are stacks of tilt images: {option} is ignored",)
    index = np.arange(len(stacks), dtype=np.int64)
    return ParticleWeights("tilt images", reader, index, (), power, warnings)


def _wedge_weights(
    source: Source, wedges: tuple[Wedge, ...], box: int, *, required: bool
) -> ParticleWeights:
    """A weight for each distinct wedge of a table or a wedge list."""
    unknown = [name for name, wedge in zip(source.names, wedges, strict=True) if not wedge]
    if unknown and required:
        raise InputDataError(
            f"the missing wedge of {len(unknown)} particles is unknown, the first is {unknown[0]}; "
            f"{how_to_give_wedge(source.star)}"
        )
    full: Wedge = (TiltRange(-90.0, 90.0),)
    distinct, index = distinct_wedges(tuple(wedge or full for wedge in wedges))
    return ParticleWeights(
        source="missing" if unknown else "tilt range",
        reader=TiltRangeWeights(box, distinct),
        index=index,
        paths=(),
        power=np.ones(len(wedges)),
        warnings=(),
    )


def _tilt_angles_weights(
    config: DataConfig, file: str, source: Source, box: int
) -> ParticleWeights:
    """One weight, or two where only some particles are CTF-premultiplied."""
    kinds, index = np.unique(source.premultiplied, return_inverse=True)
    reader = TiltAnglesWeights(
        box, read_tilt_angles(file), config.tilt_axis, tuple(bool(kind) for kind in kinds)
    )
    warnings: tuple[str, ...] = ()
    if source.wedges is not None and any(source.wedges):
        warnings = ("--tilt-angles replaces the tilts that the table or the wedge list gives",)
    power = np.ones(len(source.names))
    return ParticleWeights("tilt angles", reader, index.astype(np.int64), (), power, warnings)


def _tilt_range_weight(
    config: DataConfig, source: Source, box: int, *, required: bool
) -> ParticleWeights:
    if config.tilt_range_deg is None and required:
        what = (
            "the input has no weight volumes"
            if source.star is None
            else f"{source.star.path}: column rlnCtfImage is missing"
            if source.star.path.suffix.lower() == ".star"
            else f"{source.star.path} does not give tilts"
        )
        raise InputDataError(
            f"{what}, so the missing wedge is unknown; {how_to_give_wedge(source.star)}"
        )
    warnings = []
    if source.wedges is not None and any(source.wedges) and config.tilt_range_deg is not None:
        warnings.append("--tilt-range replaces the tilts that the table or the wedge list gives")
    if source.premultiplied.any():
        warnings.append(
            "the particles are CTF-premultiplied but no CTF volumes are given (rlnCtfImage): the "
            "tilt range alone is used and the averages keep the CTF's envelope"
        )
    count = len(source.names)
    return ParticleWeights(
        source="tilt range" if config.tilt_range_deg is not None else "missing",
        reader=TiltRangeWeight(box, config.tilt_range_deg or (-90.0, 90.0), config.tilt_axis),
        index=np.zeros(count, dtype=np.int64),
        paths=(),
        power=np.ones(count),
        warnings=tuple(warnings),
    )
