"""Make the packaged GroEL density from the PDB entry 1OEL (CC0).

    python bench/make_demo_density.py groel_1oel.cif.gz

The model is the full 14-mer, as REMARK 350 of the entry builds it from its asymmetric unit (the
biological assembly file of the PDB). `faml.simulate.density.density_from_model` makes the density:
electron scattering factors, no waters or hydrogens, centre of mass at voxel 20, Gaussian low-pass
exp(-(14 A |k|)^2), cut at Nyquist, median 0, standard deviation 1. It is written as 40^3 voxels of
6 Angstrom in MRC mode 12 (float16): 129,024 bytes. Same file for same gemmi; a test compares.
"""

from __future__ import annotations

import sys
from pathlib import Path

import mrcfile
import numpy as np

from faml.simulate.density import density_from_model

BOX, VOXEL, RESOLUTION = 40, 6.0, 14.0
TARGET = Path(__file__).resolve().parents[1] / "faml" / "simulate" / "data" / "groel_1oel.mrc"


def main() -> None:
    """Write the file."""
    if len(sys.argv) != 2:
        sys.exit("usage: python bench/make_demo_density.py groel_1oel.cif.gz")
    density = density_from_model(sys.argv[1], BOX, VOXEL, RESOLUTION)
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    with mrcfile.new(TARGET, overwrite=True) as file:
        file.set_data(density.astype(np.float16))
        file.voxel_size = VOXEL
        file.set_volume()
    print(f"{TARGET.name}: {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
