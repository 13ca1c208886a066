"""Runs for tests of reports: a real small one, and checkpoints made by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
from phantoms import blobs, simulated
from runs import BOX, VOXEL_ANGSTROM, settings
from scipy.spatial.transform import Rotation

import faml
from faml.config import build_config
from faml.em.state import Assignments, Changes, State
from faml.io.checkpoint import HDF5Checkpoint
from faml.io.mrc import write_volume
from faml.io.star import write_star
from faml.model import Model
from faml.particles import ParticleSet, full_cube, wedge_weight

HOSTILE = "<script>alert(1)</script>"
TOMOGRAMS = (HOSTILE, "TS_01", "$x^2")


def write_star_folder(folder, count=12):
    """Particles of two phantoms in a STAR file that names tomograms and weights."""
    weight = wedge_weight(BOX, (-55, 60))
    particles, _ = simulated(
        n=BOX, count=count, weight=weight, noise=0.4, seed=3, phantom_seeds=(0, 5)
    )
    folder.mkdir(parents=True)
    for index in range(count):
        write_volume(folder / f"{index:02d}.mrc", particles.volume(index), VOXEL_ANGSTROM)
    write_volume(folder / "wedge.mrc", full_cube(weight), VOXEL_ANGSTROM)
    table = {
        "rlnImageName": [f"{index:02d}.mrc" for index in range(count)],
        "rlnCtfImage": ["wedge.mrc"] * count,
        "rlnTomoName": [TOMOGRAMS[index % 3] for index in range(count)],
        "rlnOpticsGroup": ["1"] * count,
    }
    optics = {"rlnOpticsGroup": ["1"], "rlnImagePixelSize": [str(VOXEL_ANGSTROM)]}
    blocks = {
        "optics": pd.DataFrame(optics, dtype=object),
        "particles": pd.DataFrame(table, dtype=object),
    }
    write_star(folder / "particles.star", blocks, 30001)
    return folder / "particles.star"


def finished_run(folder):
    """A run of two classes with half-sets, in a directory whose name is no HTML; its directory."""
    star = write_star_folder(folder / "in")
    chosen = settings(iterations=1, classes=2, half_sets=True)
    chosen["data"] = {"particle_diameter_angstrom": 110.0}
    return faml.run(star, folder / "run & <i>", report=False, **chosen).directory


def checkpoint(directory, *, classes, count, iterations=3, box=12, empty=(), constant=(), em=None):
    """A directory with nothing but a ``run.h5``, of particles seen from random orientations.

    Classes in ``empty`` have no particles, those in ``constant`` no structure.
    """
    directory.mkdir(parents=True, exist_ok=True)
    particles = ParticleSet.from_arrays(
        np.zeros((count, 1, 1, 1), np.float32),
        np.ones((1, 1, 1, 1), np.float32),
        voxel_size_angstrom=VOXEL_ANGSTROM,
        names=tuple(f"{HOSTILE}&'{i}\"" for i in range(count)),
    )
    object.__setattr__(particles, "box", box)
    config = build_config(
        data={"tilt_range_deg": (-50.0, 65.0), "inputs": (f"/data/</script>{HOSTILE}.mrc",)},
        em={"classes": classes} | (em or {}),
    )
    kept = HDF5Checkpoint(directory / "run.h5", config, particles)
    for iteration in range(iterations + 1):
        kept.save(state(iteration, classes, count, box, empty, constant))
    return directory


def state(iteration, classes, count, box, empty=(), constant=()):
    """An iteration with made-up numbers, the same each time."""
    rng = np.random.default_rng([iteration, classes, count])
    shells = (box - 1) // 2 + 1
    volumes = np.stack([blobs(box, seed=k) for k in range(classes)])
    volumes[list(constant)] = 0.0
    occupied = [k for k in range(classes) if k not in empty]
    labels = rng.choice(occupied, size=count)
    shares = np.bincount(labels, minlength=classes) / count
    members = rng.dirichlet(np.ones(classes), size=count)
    return State(
        iteration=iteration,
        model=Model(
            volumes=volumes,
            class_fractions=shares,
            noise_variance=np.ones(shells),
            signal_power=np.ones((classes, shells)),
            shift_variance=1.0,
        ),
        assignments=Assignments(
            classes=labels.astype(np.int64),
            rotations=Rotation.random(count, random_state=rng).as_matrix(),
            translations=rng.normal(size=(count, 3)),
            probabilities=rng.uniform(0.2, 1.0, count),
            class_probabilities=members,
            effective_poses=rng.uniform(1.0, 9.0, count),
            log_likelihoods=rng.normal(size=count),
            log_evidences=rng.normal(50.0, 5.0, count),
            fallbacks=np.zeros(count, dtype=bool),
            kept_masses=np.ones(count),
        ),
        align_shell=3 + iteration // 2,
        next_align_shell=4,
        log_likelihood=-100.0 + 7.5 * iteration,
        ssnr=np.ones((classes, shells)),
        changes=Changes(20.0 / iteration, 0.5, 0.1) if iteration else None,
        empty_classes=tuple(empty),
        stop_reason="",
    )
