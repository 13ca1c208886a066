"""Where in its tomogram each particle lies, from a STAR file's coordinates and a run's shifts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from faml.conventions import relion_angles_deg_to_matrices
from faml.errors import InputDataError
from faml.io.dataset import Dataset
from faml.io.star import RelionStar, numbers, per_particle
from faml.io.star_text import LazyBlocks

__all__ = ["particle_positions"]

_PIXELS = ("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ")
_CENTRED = ("rlnCenteredCoordinateXAngst", "rlnCenteredCoordinateYAngst",
            "rlnCenteredCoordinateZAngst")  # fmt: skip
_SUBTOMOGRAM = ("rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi")


def particle_positions(
    dataset: Dataset, translations: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Centres of the structures in their tomograms.

    Coordinates are RELION 5's rlnCenteredCoordinate, or rlnCoordinate in pixels of
    rlnTomoTiltSeriesPixelSize where the optics table has it (RELION 4), else of the particles'
    own. Shifts are those of the box, turned by rlnTomoSubtomogram angles where there are any.

    Parameters
    ----------
    dataset : Dataset
    translations : (N, 3) float64
        x, y, z in voxels.

    Returns
    -------
    (N, 3) float64
        Angstrom; the origin is that of the file's coordinates.

    Raises
    ------
    InputDataError
        No STAR file, no coordinates or no tomogram names in it, or a value is not a number.
    """
    star, rows = dataset.star, dataset.rows
    if star is None or dataset.particles.tomograms is None:
        raise InputDataError(
            "--min-distance: expected a STAR file with coordinates and rlnTomoName or "
            "rlnMicrographName, found none; leave it out"
        )
    size = dataset.particles.voxel_size_angstrom
    shifts = translations * size
    if set(_SUBTOMOGRAM) <= set(star.particles.columns):
        frames = relion_angles_deg_to_matrices(_columns(star, _SUBTOMOGRAM)[rows])
        shifts = np.einsum("nij,nj->ni", frames, shifts)
    found = _coordinates(star, size)[rows] + shifts
    if isinstance(star.blocks, LazyBlocks):
        star.blocks.forget()  # nobody asks again before the end of a run
    return found


def _coordinates(star: RelionStar, voxel_size_angstrom: float) -> npt.NDArray[np.float64]:
    columns = set(star.particles.columns)
    if set(_CENTRED) <= columns:
        return _columns(star, _CENTRED)
    if not set(_PIXELS) <= columns:
        raise InputDataError(
            f"{star.path}: --min-distance needs coordinates: expected {', '.join(_PIXELS)} or "
            f"{', '.join(_CENTRED)}, found neither; leave it out"
        )
    pixel = np.full(len(star), voxel_size_angstrom)
    if star.optics is not None and "rlnTomoTiltSeriesPixelSize" in star.optics:
        pixel = per_particle(star, "rlnTomoTiltSeriesPixelSize")
    return _columns(star, _PIXELS) * pixel[:, None]


def _columns(star: RelionStar, names: tuple[str, ...]) -> npt.NDArray[np.float64]:
    return np.stack([numbers(star, star.particles, name) for name in names], axis=1)
