"""Make the packaged GroEL density from the PDB entry 1OEL (CC0).

    python bench/make_demo_density.py groel_1oel.cif.gz

40^3 voxels of 6 Angstrom at 14 Angstrom resolution as MRC mode 12 (float16), below 200 KB.
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
    density = density_from_model(sys.argv[1], BOX, VOXEL, RESOLUTION)
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    with mrcfile.new(TARGET, overwrite=True) as file:
        file.set_data(density.astype(np.float16))
        file.voxel_size = VOXEL
        file.set_volume()
    print(f"{TARGET.name}: {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
