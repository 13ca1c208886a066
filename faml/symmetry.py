"""Point groups: rotations that leave a structure unchanged, with RELION's axes.

Rotations S of a group act in the structure's own frame: ``R S`` is as good a pose as ``R``.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from faml.errors import ConfigurationError

__all__ = ["PointGroup", "point_group"]

_LARGEST_ORDER = 200
_SAME = 1e-6  # of matrix elements; rounding of a chain of products stays far below
_GOLDEN = (1.0 + math.sqrt(5.0)) / 2.0
_Axis = tuple[float, float, float]
_X: _Axis = (1.0, 0.0, 0.0)
_Z: _Axis = (0.0, 0.0, 1.0)
_POLYHEDRAL: dict[str, tuple[tuple[int, _Axis], ...]] = {
    "T": ((3, _Z), (2, (0.0, math.sqrt(2.0 / 3.0), math.sqrt(1.0 / 3.0)))),
    "O": ((4, _Z), (3, (1.0, 1.0, 1.0))),
    "I": ((2, _Z), (5, (1.0, 0.0, _GOLDEN))),
    "I1": ((2, _Z), (5, (0.0, 1.0, _GOLDEN))),
    "I3": ((5, _Z), (5, (2.0, 0.0, -1.0))),
    "I4": ((5, _Z), (5, (2.0, 0.0, 1.0))),
}
"""Generators: order and axis."""
_GENERIC = Rotation.from_rotvec([0.31, -0.47, 0.23]).as_matrix()
"""Near the identity and on no symmetry axis, so that no two equivalents of a pose on a grid are
equally near to it."""


@dataclass(frozen=True)
class PointGroup:
    """A group of rotations.

    Attributes
    ----------
    name : str
        ``C1``, ``D7``, ``O``, ...
    rotations : (G, 3, 3) float64
        Active, the identity first.
    """

    name: str
    rotations: npt.NDArray[np.float64]

    @property
    def order(self) -> int:
        """Number G of rotations."""
        return len(self.rotations)

    def representatives(self, rotations: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """The equivalent ``R S`` in the asymmetric unit of each rotation.

        Parameters
        ----------
        rotations : (N, 3, 3) float

        Returns
        -------
        (N, 3, 3) float64
        """
        given = np.asarray(rotations, dtype=np.float64)
        if self.order == 1:
            return given
        chosen = self.rotations[np.argmax(self._nearness(given), axis=1)]
        return given @ chosen

    def in_unit(self, rotations: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
        """Which rotations (N, 3, 3) lie in the asymmetric unit, (N,) bool."""
        given = np.asarray(rotations, dtype=np.float64)
        return np.argmax(self._nearness(given), axis=1) == 0

    def angles_deg(
        self, a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]
    ) -> npt.NDArray[np.float64]:
        """Smallest angle between equivalents of two sets of rotations (N, 3, 3), (N,) degrees."""
        turn = np.swapaxes(a, -1, -2) @ b
        # ||a - b S||_F^2 = 2 (3 - trace): accurate for small angles, where arccos is not.
        norms = np.stack([((np.eye(3) - turn @ s) ** 2).sum(axis=(-2, -1)) for s in self.rotations])
        sines = np.sqrt(norms.min(axis=0) / 8.0)
        return np.rad2deg(2.0 * np.arcsin(np.clip(sines, 0.0, 1.0)))

    def _nearness(self, rotations: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """``trace(Q^T R S)`` for a generic Q, (N, G)."""
        turned = np.einsum("ij,skj->sik", _GENERIC, self.rotations)
        return rotations.reshape(-1, 9) @ turned.reshape(-1, 9).T


@lru_cache(maxsize=32)
def point_group(name: str) -> PointGroup:
    """The point group of a name.

    Axes are RELION's: the main axis on Z; D with a twofold axis on X; T with a threefold axis on Z
    and a twofold one in the YZ plane; O with fourfold axes on X, Y and Z; I (also I2) with twofold
    axes on X, Y and Z and a fivefold one in the XZ plane, I1 the same with it in the YZ plane; I3
    and I4 with a fivefold axis on Z.

    Parameters
    ----------
    name : str
        Upper or lower case.

    Raises
    ------
    ConfigurationError
        For any other name, or an order above 200.
    """
    wanted = name.strip().upper()
    wanted = "I" if wanted == "I2" else wanted
    if wanted in _POLYHEDRAL:
        return PointGroup(wanted, _closure(_POLYHEDRAL[wanted]))
    match = re.fullmatch(r"([CD])([1-9]\d{0,2})", wanted)
    if match is None:
        raise ConfigurationError(
            f"unknown symmetry {name!r}; expected C1, C2, ..., D2, D3, ..., T, O, I (= I2), I1, I3 "
            "or I4"
        )
    order = int(match[2])
    if order > _LARGEST_ORDER:
        raise ConfigurationError(
            f"symmetry {name!r}: expected an order up to {_LARGEST_ORDER}, found {order}"
        )
    generators: tuple[tuple[int, _Axis], ...] = ((order, _Z),)
    if match[1] == "D":
        generators = (*generators, (2, _X))
    return PointGroup(wanted, _closure(generators))


def _closure(generators: tuple[tuple[int, _Axis], ...]) -> npt.NDArray[np.float64]:
    """All products of the generators, (G, 3, 3), the identity first."""
    turns = [
        Rotation.from_rotvec(2.0 * np.pi / order * np.array(axis) / np.linalg.norm(axis))
        for order, axis in generators
    ]
    found = np.eye(3)[None]
    fresh = found
    while len(fresh):
        products = np.concatenate([fresh @ turn.as_matrix() for turn in turns])
        fresh = np.empty((0, 3, 3))
        for product in products:
            if np.abs(found - product).max(axis=(1, 2)).min() > _SAME:
                found = np.concatenate([found, product[None]])
                fresh = np.concatenate([fresh, product[None]])
    return found
