"""Makes the maps of this directory from entries of the Protein Data Bank.

    python experiments/models/make.py FOLDER

FOLDER holds groel_1oel.cif.gz (1OEL), ribosome70s_4v5d.cif.gz (4V5D) and groel_groes_1aon.pdb.gz
(1AON), as the Protein Data Bank has them (CC0). Maps are half-precision MRC, which keeps three
digits, low-passed to two voxels.
"""

from __future__ import annotations

import sys
from pathlib import Path

import mrcfile
import numpy as np

from faml.simulate.density import density_from_model

MAPS = {
    "groel_6A.mrc": ("groel_1oel.cif.gz", 64, 6.0),
    "ribosome70s_6A.mrc": ("ribosome70s_4v5d.cif.gz", 64, 6.0),
    "groel_12A.mrc": ("groel_1oel.cif.gz", 32, 12.0),
    "ribosome70s_12A.mrc": ("ribosome70s_4v5d.cif.gz", 32, 12.0),
    "groel_groes_12A.mrc": ("groel_groes_1aon.pdb.gz", 32, 12.0),
}

for name, (model, box, voxel_angstrom) in MAPS.items():
    density = density_from_model(Path(sys.argv[1]) / model, box, voxel_angstrom)
    with mrcfile.new(Path(__file__).parent / name, overwrite=True) as file:
        file.set_data(density.astype(np.float16))
        file.voxel_size = voxel_angstrom
        file.update_header_stats()
