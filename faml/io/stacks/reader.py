"""Particles from stacks of tilt images: volumes and weights made when asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.fft

from faml.conventions import relion_angles_deg_to_matrices
from faml.errors import InputDataError
from faml.io.mrc import MrcHeader, read_header, read_volume
from faml.io.stacks.geometry import tilt_axes, tilt_optics
from faml.io.stacks.metadata import TiltSeries, find_tomograms, read_tilt_series
from faml.io.star import (
    RelionStar,
    numbers,
    per_particle,
    resolve_images,
    star_pixel_size,
    star_premultiplied,
)
from faml.kernels.tilt_planes import add_tilt_images, add_tilt_weights
from faml.particles.kept import LastKept
from faml.particles.wedge import WEIGHT_FLOOR

__all__ = ["TiltStackWeights", "TiltStacks", "open_stacks", "unmodelled"]

_KEPT = 8
"""Weights in memory: a particle's data term and its weight are asked for one after the other."""
_VISIBLE = "rlnTomoVisibleFrames"
_SUBTOMOGRAM = ("rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi")
_UNMODELLED = ("rlnEvenZernike", "rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11")
_CENTRED = ("rlnCenteredCoordinateXAngst", "rlnCenteredCoordinateYAngst",
            "rlnCenteredCoordinateZAngst")  # fmt: skip
_PIXELS = ("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ")
_WeightAndGain: TypeAlias = "tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]"
_AGAIN = "extract the particles again with relion_tomo_subtomo --stack2d"


@dataclass(frozen=True)
class TiltStacks:
    """Stacks of tilt images as volumes (`particles.VolumeReader`); see the package for the format.

    Attributes
    ----------
    names : tuple of N str
    paths : tuple of N Path
    series : tuple of TiltSeries
    series_index : (N,) int64
        Which tilt series each particle is from.
    frames : tuple of N (F,) int64
        Which of its images the stack holds.
    positions_angstrom : (N, 3) float64
        x, y, z from the middle of the tomogram, where the images were cut out.
    subtomograms : (N, 3, 3) float64
        A_subtomogram.
    premultiplied : (N,) bool
    box : int
        Edge of the images in pixels.
    pixel_size_angstrom : float
        Of the images.
    """

    names: tuple[str, ...]
    paths: tuple[Path, ...]
    series: tuple[TiltSeries, ...]
    series_index: npt.NDArray[np.int64]
    frames: tuple[npt.NDArray[np.int64], ...]
    positions_angstrom: npt.NDArray[np.float64]
    subtomograms: npt.NDArray[np.float64]
    premultiplied: npt.NDArray[np.bool_]
    box: int
    pixel_size_angstrom: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "_weights", LastKept(_KEPT))

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: npt.NDArray[np.int64]) -> TiltStacks:
        """The particles of a subset, in that order."""
        return replace(
            self,
            names=tuple(self.names[i] for i in rows),
            paths=tuple(self.paths[i] for i in rows),
            series_index=self.series_index[rows],
            frames=tuple(self.frames[i] for i in rows),
            positions_angstrom=self.positions_angstrom[rows],
            subtomograms=self.subtomograms[rows],
            premultiplied=self.premultiplied[rows],
        )

    @property
    def weights(self) -> TiltStackWeights:
        """The weight of every particle; they all differ."""
        return TiltStackWeights(self)

    def header(self, index: int) -> MrcHeader:
        """Header of the stack, with the shape of the volume made of it.

        Raises
        ------
        InputDataError
            Unreadable, another number of images than visible frames, or images of another size.
        """
        header = read_header(self.paths[index], stack=True)
        expected = (len(self.frames[index]), self.box, self.box)
        if header.shape != expected:
            images, rows, columns = header.shape
            raise InputDataError(
                f"particle {self.names[index]}: expected {expected[0]} images ({_VISIBLE}) of "
                f"{self.box} x {self.box} pixels in {header.path}, found {images} of {columns} x "
                f"{rows}; {_AGAIN}"
            )
        return replace(header, shape=(self.box,) * 3)

    def read(self, index: int) -> npt.NDArray[np.float32]:
        """Volume whose unitary spectrum is y, ``(n, n, n)`` float32.

        Raises
        ------
        InputDataError
            As `header`, or NaN or Inf in an image.
        """
        self.header(index)
        images = read_volume(self.paths[index], stack=True).values
        n = self.box
        spectrum = np.zeros((n, n, n // 2 + 1), dtype=np.complex64)
        axes, optics = self._geometry(index)
        premultiplied = bool(self.premultiplied[index])
        add_tilt_images(_padded_spectra(images), axes, optics, premultiplied, 0.5 * n, spectrum)
        spectrum *= self._weight_and_gain(index)[1]
        return scipy.fft.fftshift(scipy.fft.irfftn(spectrum, s=(n, n, n), norm="ortho"))

    def _geometry(self, index: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        series, frames = self.series[self.series_index[index]], self.frames[index]
        extent = self.box * self.pixel_size_angstrom
        return (
            tilt_axes(series.projections[frames], self.subtomograms[index]),
            tilt_optics(series, frames, self.positions_angstrom[index], extent),
        )

    def _weight_and_gain(self, index: int) -> _WeightAndGain:
        """W, and what images put in are multiplied by to become y; (n, n, n // 2 + 1) float32."""
        kept: LastKept[_WeightAndGain] = self._weights  # type: ignore[attr-defined]
        return kept.get(index, lambda: self._make_weight(index))

    def _make_weight(self, index: int) -> _WeightAndGain:
        n = self.box
        signal, noise = np.zeros((2, n, n, n // 2 + 1), dtype=np.float32)
        axes, optics = self._geometry(index)
        add_tilt_weights(axes, optics, bool(self.premultiplied[index]), 0.5 * n, signal, noise)
        gain = np.divide(signal, noise, out=noise, where=noise > 0.0)
        signal *= gain
        if not signal.max() > 0.0:
            raise InputDataError(
                f"particle {self.names[index]}: its contrast transfer is zero everywhere; check "
                f"rlnCtfScalefactor and the exposures of tomogram "
                f"{self.series[self.series_index[index]].name}"
            )
        signal[signal < WEIGHT_FLOOR * signal.max()] = 0.0
        gain[signal == 0.0] = 0.0
        return signal, gain


@dataclass(frozen=True)
class TiltStackWeights:
    """Weights of tilt stacks (`particles.WeightReader`)."""

    stacks: TiltStacks

    def read(self, index: int) -> npt.NDArray[np.float32]:
        """Weight W of particle ``index``, ``(n, n, n // 2 + 1)`` float32."""
        return self.stacks._weight_and_gain(index)[0]

    def amplitude(self, index: int) -> npt.NDArray[np.float32] | None:
        """None: `TiltStacks.read` gives y."""
        return None


def open_stacks(star: RelionStar, tomograms: str | Path | None = None) -> TiltStacks:
    """The particles of a RELION 5 table of 2-D stacks.

    Parameters
    ----------
    star : RelionStar
    tomograms : str or Path, optional
        tomograms.star; by default that of the optimisation set beside the table that names it.

    Raises
    ------
    InputDataError
        Tomograms, images or a column are missing, or values that make no sense.
    """
    found = find_tomograms(star.path.absolute()) if tomograms is None else Path(tomograms)
    if found is None:
        raise InputDataError(
            f"{star.path}: the particles are stacks of tilt images, whose projections stand in "
            "tomograms.star; give that with --tomograms FILE, or RELION's optimisation_set.star "
            "as the input"
        )
    table = star.particles
    for column in ("rlnTomoName", _VISIBLE):
        if column not in table:
            raise InputDataError(
                f"{star.path}: the particles are stacks of tilt images but have no column "
                f"{column}; {_AGAIN}"
            )
    _refuse_corrected(star)
    tomogram_names, series_index = np.unique(
        table["rlnTomoName"].astype(str).to_numpy(), return_inverse=True
    )
    known = read_tilt_series(found, tomogram_names)
    series = tuple(known[name] for name in tomogram_names)
    paths = resolve_images(star, "rlnImageName")
    pixel_size = star_pixel_size(star)
    if pixel_size is None:
        raise InputDataError(f"{star.path}: column rlnImagePixelSize is missing; {_AGAIN}")
    return TiltStacks(
        names=tuple(table["rlnImageName"].astype(str)),
        paths=paths,
        series=series,
        series_index=series_index.astype(np.int64),
        frames=_frames(star, series, series_index),
        positions_angstrom=_positions(star, series, series_index),
        subtomograms=_subtomograms(star),
        premultiplied=star_premultiplied(star),
        box=_box(paths[0]),
        pixel_size_angstrom=pixel_size,
    )


def unmodelled(star: RelionStar) -> tuple[str, ...]:
    """Warnings about optics of the table that the weights leave out."""
    optics = star.optics
    found = [] if optics is None else [column for column in _UNMODELLED if column in optics]
    if not found:
        return ()
    return (
        f"{star.path}: {', '.join(found)} of the optics groups are not part of the weights made of "
        "the tilt series; with strong aberrations or anisotropic magnification the finest shells "
        "suffer",
    )


def _refuse_corrected(star: RelionStar) -> None:
    column = "rlnCtfDataAreCtfCorrected"
    if star.optics is not None and column in star.optics and (per_particle(star, column) > 0).any():
        raise InputDataError(
            f"{star.path}: the images are projections of CTF-corrected subtomograms ({column} 1), "
            f"whose noise is unknown; {_AGAIN}"
        )


def _box(path: Path) -> int:
    _, rows, columns = read_header(path, stack=True).shape
    if rows != columns or rows % 2:
        raise InputDataError(
            f"{path}: expected square images with an even number of pixels, as RELION writes, "
            f"found {columns} x {rows}; {_AGAIN}"
        )
    return rows


def _frames(
    star: RelionStar, series: tuple[TiltSeries, ...], series_index: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], ...]:
    """Indices of the visible images of every particle."""
    names = star.particles["rlnImageName"].astype(str)
    frames = []
    known: dict[str, npt.NDArray[np.int64]] = {}
    for row, text in enumerate(star.particles[_VISIBLE].astype(str)):
        flags = [part.strip() for part in text.strip().strip("[]").split(",")]
        if not set(flags) <= {"0", "1"}:
            raise InputDataError(
                f"{star.path}: particle {names.iloc[row]}: expected [1,0,...] in {_VISIBLE}, found "
                f"{text!r}"
            )
        tilts = series[series_index[row]]
        if len(flags) != len(tilts):
            raise InputDataError(
                f"{star.path}: particle {names.iloc[row]}: {_VISIBLE} has {len(flags)} flags, but "
                f"the tilt series of tomogram {tilts.name} has {len(tilts)} images; give the "
                "tomograms file of the job that extracted the particles"
            )
        if "1" not in flags:
            raise InputDataError(
                f"{star.path}: particle {names.iloc[row]} is visible in no image; remove it"
            )
        if text not in known:
            known[text] = np.flatnonzero(np.array(flags) == "1").astype(np.int64)
        frames.append(known[text])
    return tuple(frames)


def _positions(
    star: RelionStar, series: tuple[TiltSeries, ...], series_index: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Where the images were cut out, in angstrom from the middle of the tomogram, (N, 3)."""
    table = star.particles
    if all(column in table for column in _CENTRED):
        return np.stack([numbers(star, table, column) for column in _CENTRED], axis=1)
    if not all(column in table for column in _PIXELS):
        raise InputDataError(
            f"{star.path}: the particles have neither {_CENTRED[0]}, ... nor {_PIXELS[0]}, ..., so "
            f"their defocus is unknown; {_AGAIN}"
        )
    for tilts in series:
        if tilts.size_pixels is None:
            raise InputDataError(
                f"{star.path}: coordinates are in pixels, but tomogram {tilts.name} has no "
                "rlnTomoSizeX, Y, Z in the tomograms file; add its size"
            )
    middles = np.stack(
        [0.5 * tilts.size_pixels for tilts in series if tilts.size_pixels is not None]
    )
    pixels = np.array([tilts.pixel_size_angstrom for tilts in series])
    coordinates = np.stack([numbers(star, table, column) for column in _PIXELS], axis=1)
    return (coordinates - middles[series_index]) * pixels[series_index, None]


def _subtomograms(star: RelionStar) -> npt.NDArray[np.float64]:
    """A_subtomogram of every particle, (N, 3, 3); identity where the table has none."""
    table = star.particles
    if not any(column in table for column in _SUBTOMOGRAM):
        return np.broadcast_to(np.eye(3), (len(table), 3, 3))
    for column in _SUBTOMOGRAM:
        if column not in table:
            raise InputDataError(
                f"{star.path}: column {column} is missing while others of "
                f"{', '.join(_SUBTOMOGRAM)} are there; give all or none"
            )
    angles = np.stack([numbers(star, table, column) for column in _SUBTOMOGRAM], axis=1)
    return relion_angles_deg_to_matrices(angles)


def _padded_spectra(images: npt.NDArray[np.float32]) -> npt.NDArray[np.complex64]:
    """Half-spectra of twofold padded images, (T, 2n, n + 1) complex64.

    Scaled so that a projection of a density has the components of the density's unitary spectrum,
    and compensated for bilinear interpolation, which fades images by sinc^2 along each axis.
    """
    count, n, _ = images.shape
    compensation = (1.0 / np.sinc((np.arange(n) - n // 2) / (2.0 * n)) ** 2).astype(np.float32)
    padded = np.zeros((count, 2 * n, 2 * n), dtype=np.float32)
    # Quarters go where the transform has its origin, in a corner.
    half = n // 2
    faded = images * (compensation[:, None] * compensation * np.float32(n**-1.5))
    padded[:, :half, :half] = faded[:, half:, half:]
    padded[:, :half, -half:] = faded[:, half:, :half]
    padded[:, -half:, :half] = faded[:, :half, half:]
    padded[:, -half:, -half:] = faded[:, :half, :half]
    return scipy.fft.rfft2(padded)
