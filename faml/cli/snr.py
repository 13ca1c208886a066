"""`faml snr`."""

from __future__ import annotations

from faml.cli.options import (
    Diameter,
    Inputs,
    Invert,
    ParticlesFolder,
    TiltAngles,
    TiltAxis,
    TiltRange,
    Tomograms,
    VoxelSize,
    WedgeList,
)
from faml.errors import InputDataError

__all__ = ["snr"]

_SHELLS_SHOWN = 12


def snr(
    inputs: Inputs,
    particles_folder: ParticlesFolder = None,
    wedge_list: WedgeList = None,
    tilt_range: TiltRange = None,
    tilt_angles: TiltAngles = None,
    tilt_axis: TiltAxis = None,
    tomograms: Tomograms = None,
    voxel_size: VoxelSize = None,
    particle_diameter: Diameter = None,
    invert: Invert = False,
) -> None:
    """Signal-to-noise ratio of particles whose poses are known (Frank and Al-Ali 1975).

    All pairs of particles of a class are compared: what aligned ones share is signal. Poses and
    classes are those of the STAR file; of simulated particles the true ones. Poses that were
    fitted to the noise of these particles align it, too, and find more signal than there is.
    """
    import numpy as np
    from rich.console import Console
    from rich.table import Table

    from faml.config import build_config
    from faml.io.dataset import open_particles
    from faml.io.star import ANGLE_COLUMNS, numbers
    from faml.io.truth import read_truth, true_column
    from faml.metrics.snr import measure_snr

    config = build_config(
        data={
            "inputs": tuple(inputs),
            "particles_folder": particles_folder,
            "wedge_list": wedge_list,
            "tilt_range_deg": tilt_range,
            "tilt_angles_file": tilt_angles,
            "tilt_axis": tilt_axis,
            "tomograms": tomograms,
            "voxel_size_angstrom": voxel_size,
            "particle_diameter_angstrom": particle_diameter,
            "invert": invert or None,
        }
    )
    dataset = open_particles(config.data, config.em.seed)
    particles, star = dataset.particles, dataset.star
    poses, labels = particles.poses, np.zeros(len(particles), dtype=np.int64)
    true = star is not None and true_column(ANGLE_COLUMNS[0]) in star.particles
    if star is not None and true:
        truth = read_truth(star, particles.voxel_size_angstrom)
        poses, labels = truth.poses, truth.labels
    elif star is not None and "rlnClassNumber" in star.particles:
        labels = numbers(star, star.particles, "rlnClassNumber").astype(np.int64)
    if poses is None:
        raise InputDataError(
            "expected a STAR file with poses (rlnAngleRot ...) or the truth of simulated "
            "particles, found neither; give the particles.star of a run"
        )
    members = [np.nonzero(labels == label)[0] for label in np.unique(labels)]
    if max(len(mine) for mine in members) < 2:
        raise InputDataError("expected a class of two particles or more, found none to compare")
    found = measure_snr(particles, poses, members)
    console = Console(highlight=False)
    console.print(
        f"{found.particles} particles in {len(members)} classes, {'true' if true else 'given'} "
        f"poses\nsignal-to-noise ratio of the subtomograms as they are: {found.of_particles:.4g}"
    )
    if found.before_wedge is not None:
        console.print(f"before the missing wedge: {found.before_wedge:.4g}")
    extent = particles.box * particles.voxel_size_angstrom
    table = Table("shell", "Å", "SNR of a component")
    for shell in range(1, min(_SHELLS_SHOWN, len(found.per_shell) - 1) + 1):
        table.add_row(str(shell), f"{extent / shell:.1f}", f"{found.per_shell[shell]:.4g}")
    console.print(table)
