"""Small runs on disk that the tests of checkpoint, API and command line share."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
from phantoms import simulated

from faml.io.mrc import write_volume
from faml.particles import wedge_weight

BOX = 16
VOXEL_ANGSTROM = 10.0
DATA = {"tilt_range_deg": (-60.0, 60.0)}
SEARCH = {
    "search_shell": 5,
    "max_candidates": 6,
    "voronoi_samples": 200,
    "max_shift_voxels": 2.0,
    "max_bandwidth": 6,
    "keep_previous": 3,
}
EM = {"seed": 4, "chunk_size": 2}
OPTIONS = ["--tilt-range", "-60", "60", "--threads", "1", "--max-shift", "2"]


def settings(**em):
    """Keyword arguments of `faml.run` for a run of a second."""
    return {"data": dict(DATA), "search": dict(SEARCH), "em": EM | em}


def write_folder(folder, count=7, box=BOX):
    """MRC particles of a phantom with a wedge."""
    weight = wedge_weight(box, DATA["tilt_range_deg"])
    particles, _ = simulated(n=box, count=count, weight=weight, noise=0.5, seed=2)
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(particles.names):
        write_volume(folder / f"{name}.mrc", particles.volume(index), VOXEL_ANGSTROM)
    return folder


def assert_states_equal(a, b):
    """Every field, bit by bit."""
    for field in fields(a):
        mine, theirs = getattr(a, field.name), getattr(b, field.name)
        if field.name in ("fold_models", "half_models"):
            assert len(mine) == len(theirs)
            for one, other in zip(mine, theirs, strict=True):
                for part in fields(one):
                    np.testing.assert_array_equal(
                        getattr(one, part.name), getattr(other, part.name)
                    )
        elif field.name == "running":
            assert (mine is None) == (theirs is None)
            if mine is not None:
                assert (mine.steps, mine.sum_shell) == (theirs.steps, theirs.sum_shell)
                for name in ("weights", "squares", "batch"):
                    np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
                for one, other in zip(mine.means, theirs.means, strict=True):
                    np.testing.assert_array_equal(one.as_vector(), other.as_vector())
        elif field.name in ("model", "assignments"):
            for part in fields(mine):
                x, y = np.asarray(getattr(mine, part.name)), np.asarray(getattr(theirs, part.name))
                assert x.dtype == y.dtype, part.name
                np.testing.assert_array_equal(x, y, err_msg=part.name)
        elif isinstance(mine, np.ndarray):
            assert mine.dtype == theirs.dtype
            np.testing.assert_array_equal(mine, theirs, err_msg=field.name)
        else:
            assert mine == theirs, field.name
