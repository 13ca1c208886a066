"""Half-sets: two halves of the particles that never see each other (the gold standard).

Each half is aligned to its own averages only, with its own noise and prior, so agreement between
the two is evidence. From a blind start their averages form in two frames and with classes in
another order; what is measured between them, and put together from both, has to be brought into
one frame first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from faml.conventions import rotation_angle_deg
from faml.em.state import Assignments
from faml.errors import ConfigurationError
from faml.metrics.align import Alignment, align_volume
from faml.metrics.fsc import fourier_shell_correlation, pearson
from faml.metrics.resample import crop_fourier, transform_volume
from faml.model import Model
from faml.transforms.fourier import even_fast_length

__all__ = [
    "Agreement",
    "agreement",
    "assignments_in_frame",
    "frame_reach",
    "in_frame",
    "split_into_halves",
    "unmoved",
]

_STREAM = 0x4A1F  # tells the split's random stream from the others
_FEWEST = 4
_SAME_DEG = 0.5
_SAME_VOXELS = 0.1
"""Frames nearer than this are one: turning a map costs a little of its finest detail."""
_SEARCH_SHELL = 8
_FRAME_SHIFT = 0.05


def split_into_halves(
    count: int, seed: int, tomograms: npt.NDArray[np.int64] | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """A random split of particles into two halves that differ in size by one at most.

    Parameters
    ----------
    count, seed : int
    tomograms : (N,) int64, optional
        Whole tomograms go into one half; halves are then as even as that allows.

    Raises
    ------
    ConfigurationError
        Fewer than two particles in a half, or one tomogram only.
    """
    if count < _FEWEST:
        raise ConfigurationError(
            f"half-sets need at least {_FEWEST} particles, found {count}; leave out --half-sets"
        )
    rng = np.random.default_rng(np.random.SeedSequence([seed, _STREAM]))
    if tomograms is None:
        first = rng.permutation(np.arange(count) % 2) == 0
    else:
        names, sizes = np.unique(tomograms, return_counts=True)
        if len(names) < 2:
            raise ConfigurationError(
                "half-sets of whole tomograms need at least two of them, found 1; leave out "
                "--split-by tomogram"
            )
        # Largest first into the smaller half, equal ones in random order.
        order = rng.permutation(len(names))
        order = order[np.argsort(-sizes[order], kind="stable")]
        filled, chosen = [0, 0], []
        for k in order:
            half = int(filled[1] < filled[0])
            filled[half] += int(sizes[k])
            if half == 0:
                chosen.append(names[k])
        first = np.isin(tomograms, chosen)
        if min(filled) < 2:
            raise ConfigurationError(
                f"expected at least 2 particles in each half, found {min(filled)}; the tomograms "
                "are too uneven, leave out --split-by tomogram"
            )
    return np.nonzero(first)[0], np.nonzero(~first)[0]


@dataclass(frozen=True)
class Agreement:
    """How to put the averages of the second half onto the first's.

    Attributes
    ----------
    order : (K,) int64
        Class of the second half that matches each of the first.
    rotations : (K, 3, 3) float64
    translations : (K, 3) float64
        x, y, z in voxels: a matched average, rotated then shifted, lies on the first half's.
    """

    order: npt.NDArray[np.int64]
    rotations: npt.NDArray[np.float64]
    translations: npt.NDArray[np.float64]

    @property
    def moved(self) -> bool:
        """Whether that changes anything."""
        return bool(
            (self.order != np.arange(len(self.order))).any()
            or (self.rotations != np.eye(3)).any()
            or self.translations.any()
        )

    def placed(self, volumes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Averages (K, n, n, n) of the second half in the first's order and frame."""
        placed = volumes[self.order].copy()
        for k, (turn, shift) in enumerate(zip(self.rotations, self.translations, strict=True)):
            if shift.any() or (turn != np.eye(3)).any():
                placed[k] = transform_volume(placed[k], turn, shift)
        return placed

    def fsc(
        self,
        first: npt.NDArray[np.float32],
        second: npt.NDArray[np.float32],
        mask: npt.NDArray[np.float32] | None,
    ) -> npt.NDArray[np.float64]:
        """Fourier shell correlation (K, n // 2) of averages (K, n, n, n) of the halves."""
        pairs = zip(first, self.placed(second), strict=True)
        return np.stack([fourier_shell_correlation(a, b, mask) for a, b in pairs])


def unmoved(classes: int) -> Agreement:
    """Halves whose averages are in one order and frame already."""
    return Agreement(
        np.arange(classes),
        np.broadcast_to(np.eye(3), (classes, 3, 3)).copy(),
        np.zeros((classes, 3)),
    )


def agreement(
    first: Model, second: Model, align_shell: int, max_shift_voxels: float, *, one_frame: bool
) -> Agreement:
    """Compare the averages of two halves.

    Parameters
    ----------
    first, second : Model
    align_shell : int
        Last shell of the E-step.
    max_shift_voxels : float
    one_frame : bool
        Poses were given or come from one reference: averages are matched as they lie and none is
        aligned, so that the halves cannot be made to agree.
    """
    count = first.classes
    found = unmoved(count)
    if count > 1:
        shift = None if one_frame else max_shift_voxels
        found = replace(found, order=_matched(first.volumes, second.volumes, align_shell, shift))
    for k in range(0 if one_frame else count):
        fixed, moving = first.volumes[k], second.volumes[found.order[k]]
        if not (np.ptp(fixed) > 0 and np.ptp(moving) > 0):
            continue  # an empty class has no frame
        aligned = _aligned(moving, fixed, align_shell, max_shift_voxels)
        turn = float(rotation_angle_deg(aligned.rotation, np.eye(3)))
        if turn > _SAME_DEG or float(np.linalg.norm(aligned.translation)) > _SAME_VOXELS:
            found.rotations[k], found.translations[k] = aligned.rotation, aligned.translation
    return found


def frame_reach(box: int, max_shift_voxels: float) -> float:
    """How far apart, in voxels, the frames of averages from independent starts are searched."""
    return min(max_shift_voxels, _FRAME_SHIFT * box)


def in_frame(model: Model, found: Agreement) -> Model:
    """A model of the second half, or of one of its folds, in the first's order and frame."""
    return replace(
        model,
        volumes=found.placed(model.volumes),
        class_fractions=model.class_fractions[found.order],
        signal_power=model.signal_power[found.order],
    )


def assignments_in_frame(
    assignments: Assignments, members: npt.NDArray[np.int64], found: Agreement
) -> Assignments:
    """Assignments with those of the second half, ``members``, in the first's frame.

    With A_1 = (G, s) A_2, the pose (R, t) on A_2 is ``(R G^T, t - R G^T s)`` on A_1.
    """
    before = assignments.classes[members]
    renamed = np.argsort(found.order)[before]
    turns = assignments.rotations[members] @ np.swapaxes(found.rotations[renamed], 1, 2)
    shifts = np.einsum("nij,nj->ni", turns, found.translations[renamed])
    classes, rotations = assignments.classes.copy(), assignments.rotations.copy()
    translations = assignments.translations.copy()
    probabilities = assignments.class_probabilities.copy()
    classes[members], rotations[members] = renamed, turns
    translations[members] -= shifts
    probabilities[members] = probabilities[np.ix_(members, found.order)]
    return replace(
        assignments,
        classes=classes,
        rotations=rotations,
        translations=translations,
        class_probabilities=probabilities,
    )


def _aligned(
    moving: npt.NDArray[np.floating],
    reference: npt.NDArray[np.floating],
    align_shell: int,
    max_shift_voxels: float,
) -> Alignment:
    shell = min(align_shell, _SEARCH_SHELL)
    return align_volume(moving, reference, max_shift_voxels=max_shift_voxels, max_shell=shell)


def _matched(
    first: npt.NDArray[np.float32],
    second: npt.NDArray[np.float32],
    align_shell: int,
    max_shift_voxels: float | None,
) -> npt.NDArray[np.int64]:
    """Class of the second half that each of the first is most like, each once (Hungarian).

    Without a largest shift the averages are compared as they lie.
    """
    n = first.shape[-1]
    edge = min(n, even_fast_length(3 * min(align_shell, _SEARCH_SHELL)))
    small = [[crop_fourier(volume, edge) for volume in volumes] for volumes in (first, second)]
    scores = np.zeros((len(first), len(second)))
    for i, a in enumerate(small[0]):
        for j, b in enumerate(small[1]):
            if max_shift_voxels is None:
                scores[i, j] = pearson(a, b)
            elif np.ptp(a) > 0 and np.ptp(b) > 0:
                shift = max_shift_voxels * edge / n
                scores[i, j] = _aligned(b, a, align_shell, shift).correlation
    return linear_sum_assignment(-scores)[1].astype(np.int64)
