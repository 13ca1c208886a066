"""Tilt series of tomograms.star, and where that file is."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.spatial.transform import Rotation

from faml.errors import InputDataError
from faml.io.files import check_regular, read_head
from faml.io.star_text import LARGEST_NUMBER, Block, line_of_row, read_blocks

__all__ = [
    "OptimisationSet",
    "TiltSeries",
    "find_tomograms",
    "locate",
    "read_optimisation_set",
    "read_tilt_series",
]

_ANGLES = ("rlnTomoXTilt", "rlnTomoYTilt", "rlnTomoZRot")
_MATRIX = ("rlnTomoProjX", "rlnTomoProjY", "rlnTomoProjZ")
_SIZES = ("rlnTomoSizeX", "rlnTomoSizeY", "rlnTomoSizeZ")
_SMALLEST = 1e-3
"""Of pixel sizes in Angstrom and voltages in kV."""
_HEAD = 1 << 16
"""Bytes in which an optimisation set, a short file, says what it is."""
_ROTATION_TOLERANCE = 0.05
"""Of a projection matrix' first two rows: refined magnification may differ by a few percent."""


@dataclass(frozen=True)
class OptimisationSet:
    """RELION's list of the files that belong together.

    Attributes
    ----------
    path, particles : Path
    tomograms : Path or None
    """

    path: Path
    particles: Path
    tomograms: Path | None


@dataclass(frozen=True)
class TiltSeries:
    """Geometry and optics of T tilt images; arrays are (T,) float64 unless said otherwise.

    Attributes
    ----------
    name : str
        rlnTomoName.
    projections : (T, 3, 3)
        P: rows are the image's x, its y, and the depth along the beam, in the tomogram's axes.
    defocus_u_angstrom, defocus_v_angstrom, defocus_angle_deg, phase_shift_deg
    scale : rlnCtfScalefactor
    b_factor_angstrom2 : rlnCtfBfactor
    exposure : electrons per square angstrom before each image
    exposure_b_factor : float
        rlnCtfBfactorPerElectronDose; 0 for the usual decay.
    pixel_size_angstrom, voltage_kv, spherical_aberration_mm, amplitude_contrast : float
    depth_sign : float
        rlnTomoHand times rlnTomoDefocusSlope.
    size_pixels : (3,) or None
        x, y, z of the tomogram in pixels of the tilt series.
    """

    name: str
    projections: npt.NDArray[np.float64]
    defocus_u_angstrom: npt.NDArray[np.float64]
    defocus_v_angstrom: npt.NDArray[np.float64]
    defocus_angle_deg: npt.NDArray[np.float64]
    phase_shift_deg: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]
    b_factor_angstrom2: npt.NDArray[np.float64]
    exposure: npt.NDArray[np.float64]
    exposure_b_factor: float
    pixel_size_angstrom: float
    voltage_kv: float
    spherical_aberration_mm: float
    amplitude_contrast: float
    depth_sign: float
    size_pixels: npt.NDArray[np.float64] | None

    def __len__(self) -> int:
        return len(self.exposure)


def read_optimisation_set(path: str | Path) -> OptimisationSet | None:
    """What an optimisation set names, None if the STAR file is none.

    Raises
    ------
    InputDataError
        Missing or malformed, or a file it names is nowhere.
    """
    path = Path(path)
    if b"rlnTomoParticlesFile" not in read_head(path, _HEAD):
        return None
    for block in read_blocks(path).blocks.values():
        table = _table(block)
        if "rlnTomoParticlesFile" not in table or not len(table):
            continue
        particles = locate(table["rlnTomoParticlesFile"].iloc[0], path, "rlnTomoParticlesFile")
        tomograms = None
        if "rlnTomoTomogramsFile" in table:
            name = table["rlnTomoTomogramsFile"].iloc[0]
            tomograms = locate(name, path, "rlnTomoTomogramsFile")
        return OptimisationSet(path, particles, tomograms)
    return None


def find_tomograms(particles: Path) -> Path | None:
    """The tomograms file of the optimisation set beside a particle file that names it.

    RELION writes ``optimisation_set.star`` or ``run_optimisation_set.star`` there. None if there
    is none, or none that names these particles.
    """
    for path in sorted(particles.parent.glob("*optimisation_set.star")):
        try:
            found = read_optimisation_set(path)
        except InputDataError:  # of other particles, moved since
            continue
        if found and found.tomograms and found.particles.resolve() == particles.resolve():
            return found.tomograms
    return None


def locate(name: str, beside: Path, column: str) -> Path:
    """A file that a STAR file names, relative to its directory, its parents or the current one.

    Raises
    ------
    InputDataError
        It is at none of them.
    """
    directory = beside.absolute().parent
    for base in (directory, *directory.parents, Path.cwd()):
        candidate = base / name
        if os.path.isfile(candidate):  # no, too, if its name is too long
            return candidate
        if os.path.exists(candidate) and not os.path.isdir(candidate):
            check_regular(candidate)  # which says what it is
    raise InputDataError(
        f"{beside}: {column} names {name}, which is not found relative to this file's directory, "
        "its parents or the current directory; run from RELION's project directory"
    )


def read_tilt_series(path: str | Path, names: Iterable[str]) -> dict[str, TiltSeries]:
    """The tilt series of some tomograms of tomograms.star, by rlnTomoName.

    Raises
    ------
    InputDataError
        No such tomogram, or geometry or optics are missing or no numbers; names file and column.
    """
    path = Path(path)
    blocks = read_blocks(path).blocks
    if "global" not in blocks or "rlnTomoName" not in _table(blocks["global"]):
        raise InputDataError(
            f"{path}: expected RELION's tomograms.star with a table data_global that has "
            f"rlnTomoName, found {', '.join(f'data_{name}' for name in blocks)}"
        )
    table = _table(blocks["global"])
    rows = {str(name): row for row, name in enumerate(table["rlnTomoName"])}
    found = {}
    for name in names:
        if name not in rows:
            raise InputDataError(
                f"{path}: the particles are from tomogram {name}, which is not in data_global; "
                "give the tomograms file of the job that extracted them"
            )
        tilts_path, tilts = _tilt_table(path, blocks, table, rows[name])
        found[name] = _tilt_series(
            name, _Table(path, "global", table, rows[name]), _Table(tilts_path, name, tilts)
        )
    return found


@dataclass(frozen=True)
class _Table:
    """A table, or one row of it, and where it stands, for messages."""

    path: Path
    block: str
    values: pd.DataFrame
    row: int | None = None

    def __contains__(self, column: str) -> bool:
        return column in self.values

    def column(
        self, name: str, default: float | None = None, remedy: str = ""
    ) -> npt.NDArray[np.float64]:
        """Column ``name``, or that row of it, (n,) float64."""
        count = len(self.values) if self.row is None else 1
        if name not in self.values:
            if default is not None:
                return np.full(count, default)
            raise InputDataError(
                f"{self.path}: expected column {name} in data_{self.block}, found none"
                f"{remedy or '; give the tomograms file of the job that extracted the particles'}"
            )
        chosen = self.values[name] if self.row is None else self.values[name].iloc[[self.row]]
        values = pd.to_numeric(chosen, errors="coerce").to_numpy(dtype=np.float64)
        bad = np.flatnonzero(~(np.abs(values) <= LARGEST_NUMBER))
        if bad.size:
            self.refuse(name, "a number", str(chosen.iloc[int(bad[0])]), int(bad[0]))
        return values

    def one(self, name: str, default: float | None = None) -> float:
        """The value in this row."""
        return float(self.column(name, default)[0])

    def refuse(self, name: str, expected: str, found: str, row: int) -> None:
        """Raise InputDataError about a value."""
        row = row if self.row is None else self.row
        line = line_of_row(self.path, self.block, row)
        where = f"row {row + 1}" if line is None else f"line {line}"
        raise InputDataError(
            f"{self.path}: expected {expected} in column {name} of data_{self.block}, found "
            f"{found!r} in {where}"
        )


def _table(block: Block) -> pd.DataFrame:
    return pd.DataFrame([block]) if isinstance(block, dict) else block


def _tilt_table(
    path: Path, blocks: dict[str, Block], table: pd.DataFrame, row: int
) -> tuple[Path, pd.DataFrame]:
    """The table of a tomogram's tilts, in a file of its own or in the same one."""
    name = str(table["rlnTomoName"].iloc[row])
    if "rlnTomoTiltSeriesStarFile" in table:
        column = "rlnTomoTiltSeriesStarFile"
        path = locate(str(table[column].iloc[row]), path, column)
        blocks = read_blocks(path).blocks
    if name not in blocks:
        raise InputDataError(
            f"{path}: expected a table data_{name} with the tilt series of that tomogram, found "
            f"{', '.join(f'data_{block}' for block in blocks)}"
        )
    tilts = _table(blocks[name])
    if not len(tilts):
        raise InputDataError(f"{path}: expected the tilts of a tomogram in data_{name}, found none")
    return path, tilts


def _tilt_series(name: str, tomogram: _Table, tilts: _Table) -> TiltSeries:
    hand = tomogram.one("rlnTomoHand")
    if abs(hand) != 1.0:
        tomogram.refuse("rlnTomoHand", "1 or -1", f"{hand:g}", 0)
    size = None
    if all(column in tomogram for column in _SIZES):
        size = np.array([tomogram.one(column) for column in _SIZES])
    remedy = "; estimate the CTF of the tilt series and extract the particles again"
    positive = ("rlnTomoTiltSeriesPixelSize", "rlnVoltage")
    pixel_size, voltage = (_above_zero(tomogram, column) for column in positive)
    contrast = tomogram.one("rlnAmplitudeContrast")
    if not 0.0 <= contrast <= 1.0:
        tomogram.refuse("rlnAmplitudeContrast", "a number from 0 to 1", f"{contrast:g}", 0)
    return TiltSeries(
        name=name,
        projections=_projections(tilts),
        defocus_u_angstrom=tilts.column("rlnDefocusU", remedy=remedy),
        defocus_v_angstrom=tilts.column("rlnDefocusV", remedy=remedy),
        defocus_angle_deg=tilts.column("rlnDefocusAngle", remedy=remedy),
        phase_shift_deg=tilts.column("rlnPhaseShift", 0.0),
        scale=tilts.column("rlnCtfScalefactor", 1.0),
        b_factor_angstrom2=tilts.column("rlnCtfBfactor", 0.0),
        exposure=tilts.column("rlnMicrographPreExposure"),
        exposure_b_factor=tomogram.one("rlnCtfBfactorPerElectronDose", 0.0),
        pixel_size_angstrom=pixel_size,
        voltage_kv=voltage,
        spherical_aberration_mm=tomogram.one("rlnSphericalAberration"),
        amplitude_contrast=contrast,
        depth_sign=hand * tomogram.one("rlnTomoDefocusSlope", 1.0),
        size_pixels=size,
    )


def _above_zero(table: _Table, column: str) -> float:
    value = table.one(column)
    if value < _SMALLEST:
        table.refuse(column, "a number above zero", f"{value:g}", 0)
    return value


def _projections(tilts: _Table) -> npt.NDArray[np.float64]:
    """P of every tilt, (T, 3, 3) float64."""
    if all(column in tilts for column in _MATRIX):
        matrices = np.stack([_vectors(tilts, column) for column in _MATRIX], axis=1)
        products = np.einsum("tik,tjk->tij", matrices[:, :2], matrices[:, :2])
        off = np.abs(products - np.eye(2)).max(axis=(1, 2))
        if (off > _ROTATION_TOLERANCE).any():
            row = int(np.argmax(off > _ROTATION_TOLERANCE))
            tilts.refuse("rlnTomoProjX", "rows of a rotation (orthogonal, of length 1)",
                         f"{tilts.values['rlnTomoProjX'].iloc[row]}", row)  # fmt: skip
        return matrices
    if not all(column in tilts for column in _ANGLES[1:]):
        raise InputDataError(
            f"{tilts.path}: data_{tilts.block} has neither rlnTomoYTilt and rlnTomoZRot nor "
            "rlnTomoProjX, Y, Z, so it is unknown how the images were projected; give the "
            "tomograms file of the job that extracted the particles (--tomograms)"
        )
    # Turned about X first, Z last: capital letters are axes that turn along, from last to first.
    x, y, z = (tilts.column(column, 0.0) for column in _ANGLES)
    return Rotation.from_euler("ZYX", np.stack([z, y, x], axis=1), degrees=True).as_matrix()


def _vectors(tilts: _Table, column: str) -> npt.NDArray[np.float64]:
    """First three numbers of every ``[a,b,c,d]``, (T, 3) float64."""
    rows = []
    for row, text in enumerate(tilts.values[column].astype(str)):
        try:
            values = [float(part) for part in text.strip("[]").split(",")]
        except ValueError:
            values = []
        if len(values) != 4 or not (np.abs(values) <= LARGEST_NUMBER).all():
            tilts.refuse(column, "[a,b,c,d]", text, row)
        rows.append(values[:3])
    return np.array(rows, dtype=np.float64).reshape(-1, 3)
