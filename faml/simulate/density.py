"""Densities from atomic models, and the packaged GroEL."""

from __future__ import annotations

import logging
from importlib import resources
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import numpy.typing as npt
import scipy.fft

from faml.errors import ConfigurationError, InputDataError
from faml.io.files import check_regular

__all__ = ["demo_density", "demo_model_path", "density_from_model"]

_LOG = logging.getLogger("faml")


def demo_model_path() -> Path:
    """File of the packaged GroEL, a map of 40^3 voxels of 6 Angstrom."""
    # The package is installed as files: numba could not cache its kernels otherwise.
    return Path(str(resources.files("faml.simulate") / "data" / "groel_1oel.mrc"))


def demo_density() -> tuple[npt.NDArray[np.float32], float]:
    """The packaged GroEL (PDB 1OEL, CC0): volume ``(n, n, n)`` and voxel size in Angstrom."""
    with mrcfile.open(demo_model_path(), permissive=False) as file:
        return np.asarray(file.data, dtype=np.float32), float(file.voxel_size.x)


def density_from_model(
    path: str | Path,
    box: int,
    voxel_size_angstrom: float,
    resolution_angstrom: float | None = None,
) -> npt.NDArray[np.float32]:
    """Electrostatic-potential-like density of a PDB or mmCIF file.

    Electron scattering factors (gemmi), first model, waters and hydrogens left out, first alternate
    conformer at full occupancy, centre of mass at voxel n // 2, Gaussian low-pass that falls to
    1/e at the resolution.

    Parameters
    ----------
    path : path
        PDB or mmCIF, possibly gzipped.
    box : int
        Edge n in voxels.
    voxel_size_angstrom : float
    resolution_angstrom : float, optional
        Default two voxels, which is also the finest that the voxels can carry.

    Returns
    -------
    (n, n, n) float32
        Standard deviation 1 over the box, median (solvent) 0, dense is positive.

    Raises
    ------
    ConfigurationError
        gemmi is not installed, the box is too small (the size needed is said), or the voxels are
        too coarse for the resolution.
    InputDataError
        The file cannot be read or holds no atoms.
    """
    try:
        import gemmi
    except ImportError as error:
        raise ConfigurationError(
            "reading atomic models needs gemmi: pip install 'faml[models]'"
        ) from error
    resolution = 2.0 * voxel_size_angstrom if resolution_angstrom is None else resolution_angstrom
    if not (box >= 2 and voxel_size_angstrom > 0):
        raise ConfigurationError(
            f"expected a box of 2 voxels or more and a voxel size above 0, found {box} and "
            f"{voxel_size_angstrom:g} Angstrom"
        )
    if resolution < 2.0 * voxel_size_angstrom * (1.0 - 1e-6):
        raise ConfigurationError(
            f"expected a resolution of two voxels ({2 * voxel_size_angstrom:g} Angstrom) or "
            f"coarser, found {resolution:g}; use smaller voxels or a lower resolution"
        )
    model = _model(gemmi, path)
    _centre(gemmi, model, path, box, voxel_size_angstrom)
    return _lowpassed_crop(
        _sampled(gemmi, model, box, voxel_size_angstrom), box, voxel_size_angstrom, resolution
    )


def _centre(gemmi: Any, model: Any, path: str | Path, box: int, voxel_size_angstrom: float) -> None:
    """Move the centre of mass to the middle of the box; ConfigurationError if that is too small."""
    atoms = [site.atom for site in model.all()]
    if not atoms:
        raise InputDataError(
            f"{path}: expected a model with atoms other than water and hydrogen, found none"
        )
    positions = np.array([atom.pos.tolist() for atom in atoms])
    if not np.isfinite(positions).all():
        raise InputDataError(f"{path}: found atoms without coordinates; correct the file")
    masses = np.array([atom.element.weight for atom in atoms])
    if not masses.sum() > 0:  # pseudo-atoms of no element
        masses = np.ones(len(atoms))
    positions -= np.average(positions, axis=0, weights=masses)
    radius = float(np.linalg.norm(positions, axis=1).max())
    needed = int(np.ceil(2.0 * radius / voxel_size_angstrom)) + 2
    if needed > box:
        raise ConfigurationError(
            f"{path}: the model is {2 * radius:.0f} Angstrom across and needs a box of at least "
            f"{needed} voxels at {voxel_size_angstrom:g} Angstrom, found {box}"
        )
    # The fine grid has 2 * box points of half a voxel; its middle, point box, is at this length.
    middle = 0.5 * box * voxel_size_angstrom
    for atom, position in zip(atoms, positions + middle, strict=True):
        atom.pos = gemmi.Position(*position)


def _sampled(
    gemmi: Any, model: Any, box: int, voxel_size_angstrom: float
) -> npt.NDArray[np.float32]:
    """Density on ``(2n, 2n, 2n)`` points of half a voxel, so that a low-pass leaves no aliases."""
    edge, fine = 2 * box, 0.5 * voxel_size_angstrom
    extent = edge * fine
    calculator = gemmi.DensityCalculatorE()
    calculator.d_min = 2.0 * fine
    calculator.rate = 1.0
    calculator.grid.set_unit_cell(gemmi.UnitCell(extent, extent, extent, 90, 90, 90))
    calculator.grid.spacegroup = gemmi.SpaceGroup("P 1")
    calculator.grid.set_size(edge, edge, edge)
    # Atoms are smeared at least as wide as the grid, or they would fall between its points.
    least = 8.0 * np.pi**2 * (0.6 * fine) ** 2
    for site in model.all():
        atom = site.atom
        # gemmi prefers anisotropic factors where there are any; they would escape the smearing.
        atom.aniso = gemmi.SMat33f(0, 0, 0, 0, 0, 0)
        atom.b_iso = max(float(atom.b_iso), least)
    calculator.add_model_density_to_grid(model)
    values: npt.NDArray[np.float32] = np.array(calculator.grid, copy=True).transpose(2, 1, 0)
    return values


def _place(site: Any) -> tuple[str, str, str]:
    """What the conformers of one atom share."""
    return site.chain.name, str(site.residue.seqid), site.atom.name


def _atom_count(model: Any) -> int:
    return sum(1 for _ in model.all())


def _model(gemmi: Any, path: str | Path) -> Any:
    check_regular(path)
    try:
        structure = gemmi.read_structure(str(path))
    except (OSError, RuntimeError, ValueError) as error:
        raise InputDataError(f"{path}: cannot be read as PDB or mmCIF: {error}") from error
    if len(structure) == 0:
        raise InputDataError(f"{path}: expected a model with atoms, found none")
    structure.setup_entities()
    model = structure[0]
    before = _atom_count(model)
    split = {_place(site) for site in model.all() if site.atom.has_altloc()}
    structure.remove_alternative_conformations()
    for site in model.all():
        if split and _place(site) in split:
            site.atom.occ = 1.0  # it stands for the conformers that were dropped
    structure.remove_waters()
    structure.remove_hydrogens()
    _LOG.info(
        "%s: %d atoms, after leaving out %d of waters, hydrogens and alternate conformers",
        path,
        _atom_count(model),
        before - _atom_count(model),
    )
    return model


def _lowpassed_crop(
    fine: npt.NDArray[np.floating],
    box: int,
    voxel_size_angstrom: float,
    resolution_angstrom: float,
) -> npt.NDArray[np.float32]:
    """Low-passed and on whole voxels, ``(n, n, n)``."""
    edge = fine.shape[0]
    spectrum = scipy.fft.fftshift(scipy.fft.fftn(scipy.fft.ifftshift(fine)))
    start = edge // 2 - box // 2
    inner = slice(start, start + box)
    spectrum = spectrum[inner, inner, inner]
    k = (np.arange(box) - box // 2) / (box * voxel_size_angstrom)
    radius = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + k**2)
    spectrum = spectrum * np.exp(-((radius * resolution_angstrom) ** 2))
    spectrum[radius * voxel_size_angstrom >= 0.5] = 0.0
    volume = scipy.fft.fftshift(scipy.fft.ifftn(scipy.fft.ifftshift(spectrum)).real)
    volume -= np.median(volume)
    return (volume / volume.std()).astype(np.float32)
