"""A strategy of another package: the previous pose and a few random neighbours of it."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from faml.strategies.base import PoseSupport
from faml.transforms.rotations import rotations_within


class Neighbours:
    """Local search around the previous pose; translations and class stay as they are."""

    def __init__(self, context):
        self._count = max(1, context.config.max_candidates - 1)

    def support(self, particle, references, rng):
        previous = particle.previous
        centre = Rotation.from_matrix(previous.rotation)
        near = rotations_within(centre, references.rotation_plan.spacing_rad, self._count, rng)
        turns = Rotation.concatenate([centre, near]).as_matrix()
        return PoseSupport(
            classes=np.full(len(turns), previous.class_index, dtype=np.int64),
            rotations=turns,
            translations=np.tile(previous.translation, (len(turns), 1)),
            log_volumes=np.zeros(len(turns)),
        )
