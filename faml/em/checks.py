"""What can be wrong with settings and particles together, found before a run begins."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from faml.config import DRAWN_MASKS, RunConfig
from faml.em.start import REFERENCE_FREE_STARTS
from faml.errors import ConfigurationError, InputDataError
from faml.particles import ParticleSet
from faml.transforms.fourier import full_resolution_shell

__all__ = ["check_run", "largest_shift", "whole_tomograms"]

_DEFAULT_SHIFT = 1.0 / 8.0
"""Largest shift searched as a fraction of the box."""
_SHIFT_MARGIN_VOXELS = 2.0
"""How far beyond the largest input shift is searched."""
_SHIFT_ROUNDING_VOXELS = 1e-3  # of shifts written to a file and read again


def check_run(
    particles: ParticleSet,
    config: RunConfig,
    reference: npt.NDArray[np.float32] | None,
    mask: npt.NDArray[np.float32] | None,
) -> None:
    """Raise ConfigurationError or InputDataError for what does not fit the particles."""
    box = particles.box
    full = full_resolution_shell(box)
    if full < 2:
        raise InputDataError(f"expected boxes of at least 5 voxels, found {box}")
    shift = config.search.max_shift_voxels
    if shift is not None and shift >= box / 2:
        raise ConfigurationError(
            f"expected a largest shift below half the box ({box / 2:g} voxels), found "
            f"{shift:g}; lower --max-shift"
        )
    em = config.em
    if em.start not in REFERENCE_FREE_STARTS and reference is None:
        raise ConfigurationError(
            f"unknown start {em.start!r}; expected {', '.join(REFERENCE_FREE_STARTS)} or the "
            "path of an MRC file"
        )
    if mask is None and em.mask not in DRAWN_MASKS:
        raise ConfigurationError(
            f"unknown mask {em.mask!r}; expected {', '.join(DRAWN_MASKS)} or the path of an "
            "MRC file"
        )
    if mask is not None and mask.shape != (box,) * 3:
        raise InputDataError(
            f"mask {em.mask}: expected the particles' box {(box,) * 3}, found "
            f"{mask.shape}; rescale it"
        )
    if reference is not None and reference.shape != (box,) * 3:
        raise InputDataError(
            f"reference {em.start}: expected the particles' box {(box,) * 3}, found "
            f"{reference.shape}; rescale it"
        )


def whole_tomograms(particles: ParticleSet, config: RunConfig) -> npt.NDArray[np.int64] | None:
    """What half-sets are split by, beyond particles."""
    if config.em.split_by == "particle":
        return None
    if particles.tomograms is None:
        raise InputDataError(
            "--split-by tomogram: expected a STAR file with rlnTomoName or rlnMicrographName, "
            "found none; leave it out"
        )
    return particles.tomograms


def largest_shift(particles: ParticleSet, config: RunConfig) -> float:
    """Largest |t| to search; reaches every input pose where the run begins from them."""
    box, search = particles.box, config.search
    limit = search.max_shift_voxels
    default = _DEFAULT_SHIFT * box
    poses = particles.poses
    if poses is None or (config.em.start != "poses" and search.local_angle_deg is None):
        return default if limit is None else limit
    lengths = np.linalg.norm(poses.translations, axis=1)
    worst = int(np.argmax(lengths))
    found = f"particle {particles.names[worst]}: found an input shift of "
    if lengths[worst] + _SHIFT_MARGIN_VOXELS >= box / 2:
        raise InputDataError(
            f"{found}{lengths[worst]:.1f} voxels, expected at most "
            f"{box / 2 - _SHIFT_MARGIN_VOXELS:g}; extract the particles again at their "
            "refined positions"
        )
    if limit is None:
        return max(default, float(lengths[worst]) + _SHIFT_MARGIN_VOXELS)
    if lengths[worst] > limit + _SHIFT_ROUNDING_VOXELS:
        raise ConfigurationError(
            f"{found}{lengths[worst]:.1f} voxels, expected at most {limit:g} (--max-shift); "
            "raise it or leave it out"
        )
    return limit
