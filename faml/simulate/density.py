"""Densities from atomic models, and the packaged GroEL."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import numpy.typing as npt
import scipy.fft

from faml.errors import ConfigurationError, InputDataError

__all__ = ["demo_density", "density_from_model"]


def demo_density() -> tuple[npt.NDArray[np.float32], float]:
    """The packaged GroEL (PDB 1OEL, CC0): volume ``(n, n, n)`` and voxel size in Angstrom."""
    with (
        resources.as_file(resources.files("faml.simulate") / "data" / "groel_1oel.mrc") as path,
        mrcfile.open(path, permissive=False) as file,
    ):
        return np.asarray(file.data, dtype=np.float32), float(file.voxel_size.x)


def density_from_model(
    path: str | Path,
    box: int,
    voxel_size_angstrom: float,
    resolution_angstrom: float | None = None,
) -> npt.NDArray[np.float32]:
    """Electrostatic-potential-like density of a PDB or mmCIF file.

    Electron scattering factors (gemmi), waters and hydrogens left out, first alternate conformer,
    centre of mass at voxel n // 2, Gaussian low-pass that falls to 1/e at the resolution.

    Parameters
    ----------
    path : path
        PDB or mmCIF, possibly gzipped.
    box : int
        Edge n in voxels.
    voxel_size_angstrom : float
    resolution_angstrom : float, optional
        Default two voxels.

    Returns
    -------
    (n, n, n) float32
        Standard deviation 1 over the box.

    Raises
    ------
    ConfigurationError
        gemmi is not installed, or the box is too small (the size needed is said).
    InputDataError
        The file cannot be read or holds no atoms.
    """
    try:
        import gemmi
    except ImportError as error:
        raise ConfigurationError(
            "reading atomic models needs gemmi: pip install 'faml[models]'"
        ) from error
    model = _model(gemmi, path)
    atoms = [site.atom for site in model.all()]
    if not atoms:
        raise InputDataError(f"{path}: expected a model with atoms, found none")
    positions = np.array([atom.pos.tolist() for atom in atoms])
    centre = np.average(positions, axis=0, weights=[atom.element.weight for atom in atoms])
    radius = float(np.linalg.norm(positions - centre, axis=1).max())
    needed = int(np.ceil(2.0 * radius / voxel_size_angstrom)) + 2
    if needed > box:
        raise ConfigurationError(
            f"{path}: the model is {2 * radius:.0f} Angstrom across and needs a box of at least "
            f"{needed} voxels at {voxel_size_angstrom:g} Angstrom, found {box}"
        )
    # Sampled at half the voxel size so that aliases are gone after the low-pass.
    fine_edge, fine = 2 * box, 0.5 * voxel_size_angstrom
    extent = fine_edge * fine
    calculator = gemmi.DensityCalculatorE()
    calculator.d_min = 2.0 * fine
    calculator.rate = 1.0
    calculator.grid.set_unit_cell(gemmi.UnitCell(extent, extent, extent, 90, 90, 90))
    calculator.grid.spacegroup = gemmi.SpaceGroup("P 1")
    calculator.grid.set_size(fine_edge, fine_edge, fine_edge)
    # Atoms are smeared at least as wide as the grid, or they would fall between its points.
    least = 8.0 * np.pi**2 * (0.6 * fine) ** 2
    middle = 0.5 * extent
    for atom, position in zip(atoms, positions - centre + middle, strict=True):
        atom.pos = gemmi.Position(*position)
        atom.b_iso = max(float(atom.b_iso), least)
    calculator.add_model_density_to_grid(model)
    values = np.array(calculator.grid, copy=True).transpose(2, 1, 0)
    return _lowpassed_crop(values, box, voxel_size_angstrom, resolution_angstrom)


def _model(gemmi: Any, path: str | Path) -> Any:
    try:
        structure = gemmi.read_structure(str(path))
    except (OSError, RuntimeError, ValueError) as error:
        raise InputDataError(f"{path}: cannot be read as PDB or mmCIF: {error}") from error
    if len(structure) == 0:
        raise InputDataError(f"{path}: expected a model with atoms, found none")
    structure.setup_entities()
    structure.remove_alternative_conformations()
    structure.remove_waters()
    structure.remove_hydrogens()
    return structure[0]


def _lowpassed_crop(
    fine: npt.NDArray[np.floating],
    box: int,
    voxel_size_angstrom: float,
    resolution_angstrom: float | None,
) -> npt.NDArray[np.float32]:
    edge = fine.shape[0]
    spectrum = scipy.fft.fftshift(scipy.fft.fftn(scipy.fft.ifftshift(fine)))
    start = edge // 2 - box // 2
    inner = slice(start, start + box)
    spectrum = spectrum[inner, inner, inner]
    k = (np.arange(box) - box // 2) / (box * voxel_size_angstrom)
    radius = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + k**2)
    resolution = resolution_angstrom or 2.0 * voxel_size_angstrom
    spectrum = spectrum * np.exp(-((radius * resolution) ** 2))
    spectrum[radius * voxel_size_angstrom >= 0.5] = 0.0
    volume = scipy.fft.fftshift(scipy.fft.ifftn(scipy.fft.ifftshift(spectrum)).real)
    volume -= np.median(volume)
    return (volume / volume.std()).astype(np.float32)
