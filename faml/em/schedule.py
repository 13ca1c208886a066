"""Resolution marching and convergence (method.md section 7)."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from faml.config import BLIND_STARTS, EmConfig
from faml.em.state import Assignments, Changes, State
from faml.metrics.fsc import FSC_THRESHOLD, ssnr_of_fsc
from faml.symmetry import PointGroup
from faml.transforms.fourier import full_resolution_shell

__all__ = [
    "GAIN_NATS",
    "LOOK_AHEAD",
    "SSNR_NEEDED",
    "attraction",
    "best_and_stalled",
    "classes_balanced",
    "exploration",
    "first_align_shell",
    "last_shell",
    "measure_changes",
    "measured_ssnr",
    "next_shell",
    "sharpness",
    "ssnr_needed",
    "stop_reason",
]

LOOK_AHEAD = 3
"""Shells beyond the E-step that are summed. No pose was fitted to them, so the SSNR measured there
is honest, and it alone drives the march."""
SSNR_NEEDED = 0.25
_FIRST_DETAIL = 1.0 / 6.0
_SMALLEST_FIRST = 4
_STEP = 1
_ANGLE_DEG = 0.5
_SHIFT_VOXELS = 0.1
_CLASS_SHARE = 0.01
GAIN_NATS = 0.02
"""Per particle; less is no gain."""
_PATIENCE = 5
"""Iterations without one. Searches draw at random, so that single ones say little."""
_CERTAIN = 1.5
"""Effective poses below which the most probable ones say all."""


def last_shell(box: int, config: EmConfig) -> int:
    """Largest shell the E-step may use."""
    full = full_resolution_shell(box)
    return full if config.max_shell is None else min(config.max_shell, full)


def first_align_shell(box: int, radius_voxels: float, config: EmConfig) -> int:
    """Shell of the first E-step.

    Unless given, `_FIRST_DETAIL` of the particle's diameter is resolved. Coarser starts know the
    envelope only: orientations that share it are fixed by chance before detail can tell them
    apart, and the run may end in a worse optimum.
    """
    last = last_shell(box, config)
    if not config.march:
        return last
    shell = config.first_shell
    if shell is None:
        shell = max(_SMALLEST_FIRST, math.ceil(box / (_FIRST_DETAIL * 2.0 * radius_voxels)))
    return min(shell, last)


def next_shell(align_shell: int, ssnr: npt.NDArray[np.float64], box: int, config: EmConfig) -> int:
    """The shell the next E-step may use.

    One shell more if the best class' SSNR just beyond the present one, where no pose was fitted,
    exceeds `ssnr_needed`; never fewer.
    """
    last = last_shell(box, config)
    if not config.march or align_shell >= last:
        return last if not config.march else align_shell
    measured = ssnr[:, align_shell + 1 : align_shell + 1 + _STEP].max(axis=0)
    grown = align_shell + int(np.cumprod(measured > ssnr_needed(config)).sum())
    return min(grown, last)


def measured_ssnr(
    ssnr: npt.NDArray[np.float64], fsc: npt.NDArray[np.float64] | None
) -> npt.NDArray[np.float64]:
    """SSNR of averages, (K, S): of the sums, or from half-sets' FSC (K, n // 2) if there is one."""
    if fsc is None:
        return ssnr
    measured = np.zeros_like(ssnr)
    shells = min(ssnr.shape[1], fsc.shape[1])
    measured[:, :shells] = ssnr_of_fsc(fsc[:, :shells])
    return measured


def ssnr_needed(config: EmConfig) -> float:
    """SSNR from which a shell is used: that of an FSC of 0.143 where half-sets measure it."""
    return float(ssnr_of_fsc(FSC_THRESHOLD)) if config.half_sets else SSNR_NEEDED


def exploration(iteration: int, config: EmConfig) -> float:
    """Probability that a particle's search disregards its previous pose.

    Falls linearly to zero: keeping poses from the first iterations on would freeze the random
    start. Poses that were given, or found on a reference, are kept from the beginning.
    """
    if config.exploration == 0 or not _blind(config):
        return 0.0
    return max(0.0, 1.0 - (iteration - 1) / config.exploration)


def sharpness(iteration: int, config: EmConfig) -> float:
    """Power of posteriors: above 1 while poses are explored.

    Averages of broad posteriors are blurred, and blurred averages leave posteriors broad: a ring
    that looks alike from all sides is an optimum that EM does not leave (GroEL at a
    signal-to-noise ratio of 0.003: r 0.83, and 0.90 with sharp first iterations).
    """
    return config.sharpness if exploration(iteration, config) > 0 else 1.0


def attraction(iteration: int, config: EmConfig) -> float:
    """Weight of the classes' common mean in each average; falls linearly to zero."""
    if config.similarity == 0 or config.classes == 1:
        return 0.0
    left = 1.0 - (iteration - 1) / max(config.exploration, 1)
    return config.similarity * max(0.0, left)


def classes_balanced(iteration: int, config: EmConfig) -> bool:
    """Whether no class may starve in this iteration (`em.balance`)."""
    return 1 <= iteration <= config.balance and config.classes > 1 and _blind(config)


def _blind(config: EmConfig) -> bool:
    """Whether the start knows nothing of the poses."""
    return config.start in BLIND_STARTS


def measure_changes(before: Assignments, after: Assignments, symmetry: PointGroup) -> Changes:
    """Median movement of the most probable poses; one to an equivalent pose is none."""
    angles = symmetry.angles_deg(before.rotations, after.rotations)
    shifts = np.linalg.norm(before.translations - after.translations, axis=1)
    return Changes(
        median_angle_deg=float(np.median(angles)),
        median_shift_voxels=float(np.median(shifts)),
        class_share=float(np.mean(before.classes != after.classes)),
    )


def stop_reason(previous: State, current: State, config: EmConfig) -> str:
    """Why the loop may stop, or an empty string.

    At unchanged resolution the likelihood must have stood still for a while, or poses and classes
    must where posteriors are sharp: broad ones change long after the best pose of a grid does not.
    """
    if exploration(current.iteration, config) > 0 or classes_balanced(current.iteration, config):
        return ""
    if current.changes is None or current.next_align_shell != current.align_shell:
        return ""
    if previous.align_shell != current.align_shell or previous.iteration == 0:
        return ""
    changes = current.changes
    still = (
        float(current.assignments.effective_poses.mean()) < _CERTAIN
        and changes.median_angle_deg < _ANGLE_DEG
        and changes.median_shift_voxels < _SHIFT_VOXELS
        and changes.class_share < _CLASS_SHARE
    )
    gain = (current.log_likelihood - previous.log_likelihood) / len(current.assignments)
    if still and abs(gain) < 10.0 * GAIN_NATS:
        return (
            f"converged: median pose change {changes.median_angle_deg:.2f} degrees and "
            f"{changes.median_shift_voxels:.2f} voxel, log-likelihood {gain:+.3f} per particle"
        )
    if current.stalled >= _PATIENCE:
        return (
            f"converged: log-likelihood has gained less than {GAIN_NATS:g} per particle in "
            f"{current.stalled} iterations"
        )
    return ""


def best_and_stalled(
    previous: State, log_likelihood: float, align_shell: int, config: EmConfig
) -> tuple[float, int]:
    """`State.best_log_likelihood` and `State.stalled` of the state after ``previous``.

    Nothing counts while poses are explored, nor the likelihood of the model that this has left.
    """
    begun = exploration(previous.iteration, config) == 0 and previous.iteration > 0
    if not begun or align_shell != previous.align_shell:
        return log_likelihood, 0
    best = previous.best_log_likelihood
    if log_likelihood > best + GAIN_NATS * len(previous.assignments):
        return log_likelihood, 0
    return best, previous.stalled + 1
