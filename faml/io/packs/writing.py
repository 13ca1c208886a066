"""Write a pack: many particle files as one, which a run reads by range.

A pack is an HDF5 file (written so that HDF5 1.10 and later read it) with everything that a run
needs of its particles. Grey values are those of the files: contrast, normalisation and the
particle's diameter remain choices of the run. Format version 1::

    /                       attrs: kind ("faml particle pack"), format, box, voxel_size (Angstrom),
                            versions (JSON), source_digest (SHA-256 of the list of files)
    /description            JSON as bytes: input_format, modes, header_sizes, weight_source, wedges,
                            warnings, weight_warnings, pose_warnings
    /particles/values       (N, n, n, n) float32 or float16, [z, y, x]; chunks of whole particles,
                            one of them or as many as 256 KiB hold; Fletcher-32
               values_crc32 (N,) of each particle's bytes
               mean, deviation      (N,) float32; with float16 values only, which are
                                    (value - mean) / deviation
               names, paths         (N,) UTF-8: as the table names them, and where they were
               weight_index         (N,) which weight each has
               premultiplied        (N,) by its CTF
               rotations, translations  (N, 3, 3) and (N, 3) in voxels; where the input has poses
               tomograms            (N,) numbers, where the input names them
    /weights/values         (M, n, n, n // 2 + 1) float32: W, DC at 0, the particles' half-spectra
            values_crc32, power     (M,) checksum and mean of each over all n^3 components
            amplitude_index         (M,) which amplitude each has, -1 for none
            amplitudes, amplitudes_crc32  C with y = C X, for data that are not premultiplied
            paths                   (M,) the weight volumes, where the input has such
    /grey/0, 1 ...          attrs: radius_voxels; statistics of the N particles (`GreyValues`)
    /table                  the whole input table as STAR text (gzip), attrs: path, version,
                            particles_block; absent where loose files were packed

Checksums are of the bytes as they lie in the file (little-endian). Particles stand in the order of
the input. Nothing in a pack points to other files that would be read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import numpy.typing as npt

from faml.config import DataConfig
from faml.errors import OutputError
from faml.io.atomic import atomic_path
from faml.io.checkpoint import software_versions
from faml.io.dataset import Listing, list_particles, radius_voxels
from faml.io.formats.table import TiltRange, Wedge
from faml.io.grey_values import DEFAULT_RADIUS, GreyGauge, GreyValues
from faml.io.inspect import described_format
from faml.io.packs.readers import PackedWeights, singles_of_halves
from faml.io.packs.reading import FORMAT, KIND
from faml.io.packs.storing import ArrayWriter, Sink, write_column
from faml.io.packs.texts import encoded
from faml.io.star_text import star_text
from faml.io.tilt_ranges import TiltRangeWeights
from faml.io.wedge_files import TiltRangeWeight, weight_power

__all__ = ["Precision", "write_pack"]

Precision = Literal["float32", "float16"]
_SPARE = 1.02
"""Space for what is beside the arrays."""
_MARGIN_BYTES = 1 << 20
_LIBRARIES = ("v110", "v110")


def write_pack(
    config: DataConfig,
    path: str | Path,
    *,
    dtype: Precision = "float32",
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Listing:
    """Pack the particles of a configuration.

    Half precision takes half the space and keeps values to 2^-11 of their distance from the
    particle's mean (at least 2^-25 of its deviation), whatever the scale; single precision keeps
    them as they are, so that runs are the same bit by bit.

    Parameters
    ----------
    config : DataConfig
        Which particles. What says how they are read (``invert``, ``normalise``, ``subset``) has
        no effect.
    path : path
    dtype : {"float32", "float16"}
    force : bool
        Replace a file that exists.
    progress : callable, optional
        Called with (particles written, particles in all).

    Returns
    -------
    Listing
        What was packed.

    Raises
    ------
    ConfigurationError, InputDataError
        As `open_particles`.
    OutputError
        The file exists (without ``force``), is one of the input, or cannot be written. Nothing is
        left of what was begun.
    """
    path = Path(path)
    if os.path.lexists(path) and not force:
        raise OutputError(f"{path}: exists already; choose another name, or replace it (--force)")
    found = list_particles(config.model_copy(update={"subset": None}), 0)
    _refuse_input(path, found)
    # What a radius leaves no background for is found before anything is written.
    radii = dict.fromkeys((
        DEFAULT_RADIUS * found.boxes.box,
        radius_voxels(config, found.boxes.box, found.boxes.voxel_size_angstrom),
    ))  # fmt: skip
    gauges = {radius: GreyGauge(found.boxes.box, radius) for radius in radii}
    _require_space(path, found, dtype)
    with atomic_path(path) as temporary, Sink(temporary, "w+b") as sink:
        try:
            with h5py.File(sink, "w", libver=_LIBRARIES) as file:
                _write_values(file, found, dtype, gauges, sink.check, progress)
                _write_weights(file, found, sink.check)
                _write_columns(file, found)
                _write_header(file, found)
        finally:
            sink.check()
    return found


def _refuse_input(path: Path, found: Listing) -> None:
    source, place = found.source, path.resolve()
    table = () if source.star is None else (source.star.path,)
    packs = () if source.pack is None else (source.pack.path,)
    for file in (*table, *packs, *source.paths, *found.weights.paths):
        if file.name == place.name and file.resolve() == place:
            raise OutputError(f"{path}: is part of the input; choose another name for the pack")


def _require_space(path: Path, found: Listing, dtype: Precision) -> None:
    """Find a disk that is too small before the first minutes are spent."""
    count, n = len(found.source.names), found.boxes.box
    distinct = int(found.weights.index.max()) + 1
    amplitudes = sum(_amplitude(found, which) is not None for which in range(min(distinct, 1)))
    halves = distinct * (1 + amplitudes) * n * n * (n // 2 + 1) * 4
    needed = _SPARE * (count * n**3 * np.dtype(dtype).itemsize + halves) + _MARGIN_BYTES
    try:
        free = shutil.disk_usage(path.absolute().parent).free
    except OSError as error:
        raise OutputError(
            f"{path}: its folder cannot be used ({error.strerror}); choose one that exists"
        ) from error
    if needed > free:
        raise OutputError(
            f"{path}: expected {needed / 1e9:.1f} GB of free space for the pack, found "
            f"{free / 1e9:.1f} GB; free some space or choose another folder"
        )


def _write_values(
    file: h5py.File,
    found: Listing,
    dtype: Precision,
    gauges: dict[float, GreyGauge],
    check: Callable[[], None],
    progress: Callable[[int, int], None] | None,
) -> None:
    """Volumes, and statistics of what will be read of them."""
    names, n = found.source.names, found.boxes.box
    count = len(names)
    group = file.create_group("particles")
    arrays = ArrayWriter(group, "values", count, (n, n, n), dtype)
    scales = np.zeros((2, count), dtype="<f4")
    statistics = {radius: np.empty((8, count)) for radius in gauges}
    for index, name in enumerate(names):
        values = found.boxes.volumes.read(index)
        if dtype == "float16":
            scales[:, index] = values.mean(dtype=np.float64), values.std(dtype=np.float64) or 1.0
            mean, deviation = scales[:, index]
            stored = arrays.add((values.astype(np.float64) - mean) / deviation)
            values = singles_of_halves(stored)
            values *= deviation
            values += mean
        else:
            arrays.add(values)
        for radius, gauge in gauges.items():
            statistics[radius][:, index] = gauge.measure(values, name)
        check()
        if progress is not None:
            progress(index + 1, count)
    if dtype == "float16":
        for column, scale in zip(("mean", "deviation"), scales, strict=True):
            write_column(group, column, scale)
    for number, (radius, table) in enumerate(statistics.items()):
        grey = file.create_group(f"grey/{number}")
        grey.attrs["radius_voxels"] = radius
        for field, statistic in zip(fields(GreyValues)[1:], table, strict=True):
            write_column(grey, field.name, statistic)


def _amplitude(found: Listing, which: int) -> npt.NDArray[np.float32] | None:
    return found.weights.reader.amplitude(which)


def _write_weights(file: h5py.File, found: Listing, check: Callable[[], None]) -> None:
    n, reader = found.boxes.box, found.weights.reader
    distinct = int(found.weights.index.max()) + 1
    group = file.create_group("weights")
    shape = (n, n, n // 2 + 1)
    weights = ArrayWriter(group, "values", distinct, shape, "float32")
    power = np.empty(distinct)
    for which in range(distinct):
        power[which] = weight_power(weights.add(reader.read(which)))
        check()
    write_column(group, "power", power)
    own = [which for which in range(distinct) if _amplitude(found, which) is not None]
    index = np.full(distinct, -1, dtype="<i8")
    index[own] = np.arange(len(own))
    write_column(group, "amplitude_index", index)
    if own:
        amplitudes = ArrayWriter(group, "amplitudes", len(own), shape, "float32")
        for which in own:
            amplitude = _amplitude(found, which)
            assert amplitude is not None
            amplitudes.add(amplitude)
            check()
    if found.weights.paths:
        write_column(group, "paths", encoded(map(os.path.abspath, found.weights.paths)))


def _write_columns(file: h5py.File, found: Listing) -> None:
    """What is known of each particle, and the table."""
    source, group = found.source, file["particles"]
    write_column(group, "names", encoded(source.names))
    write_column(group, "paths", encoded(map(os.path.abspath, source.paths)))
    write_column(group, "weight_index", found.weights.index)
    write_column(group, "premultiplied", source.premultiplied)
    if found.poses is not None:
        write_column(group, "rotations", found.poses.rotations)
        write_column(group, "translations", found.poses.translations)
    if found.tomograms is not None:
        write_column(group, "tomograms", found.tomograms)
    star = source.star
    if star is not None:
        text = star_text(star.blocks, star.version).encode("utf-8", "surrogateescape")
        write_column(file, "table", np.frombuffer(text, dtype=np.uint8))
        file["table"].attrs["path"] = _fixed(os.path.abspath(star.path))
        file["table"].attrs["version"] = star.version
        file["table"].attrs["particles_block"] = _fixed(star.particles_block)


def _write_header(file: h5py.File, found: Listing) -> None:
    source, boxes = found.source, found.boxes
    listing = "\0".join(os.path.abspath(path) for path in source.paths)
    file.attrs["kind"] = _fixed(KIND)
    file.attrs["format"] = FORMAT
    file.attrs["box"] = boxes.box
    file.attrs["voxel_size"] = boxes.voxel_size_angstrom
    file.attrs["versions"] = _fixed(json.dumps(software_versions()))
    file.attrs["source_digest"] = _fixed(hashlib.sha256(os.fsencode(listing)).hexdigest())
    description = json.dumps(
        {
            "input_format": (
                described_format(source.star, source.paths, found.weights.source)
                if source.pack is None
                else source.pack.input_format
            ),
            "modes": boxes.modes,
            "header_sizes": boxes.header_sizes,
            "weight_source": found.weights.source,
            "wedges": _wedges(found),
            "warnings": (*source.warnings, *boxes.warnings),
            "weight_warnings": found.weights.warnings,
            "pose_warnings": found.pose_warnings,
        }
    )
    write_column(file, "description", np.frombuffer(description.encode(), dtype=np.uint8))


def _fixed(text: str) -> np.bytes_:
    """A text of fixed length: those of variable length are in a heap that has no checksum."""
    return np.bytes_(text.encode("utf-8", "surrogateescape"))


def _wedges(found: Listing) -> tuple[Wedge, ...] | None:
    """Tilt ranges of the distinct weights, where they are of such."""
    reader = found.weights.reader
    if isinstance(reader, TiltRangeWeights | PackedWeights):
        return reader.wedges
    if isinstance(reader, TiltRangeWeight):
        return ((TiltRange(*reader.tilt_range_deg, reader.tilt_axis),),)
    return None
