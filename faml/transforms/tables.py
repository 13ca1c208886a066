"""Tables of the spherical transforms, made once by pyshtools and kept on disk.

pyshtools takes two seconds to import and its backend is not thread-safe, so it is imported here
alone, only when a table is missing, and never from a worker thread (SHTOOLS issue 385).
"""

from __future__ import annotations

import logging
import os
import tempfile
import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from faml.kernels._jit import kernel_cache_directory

__all__ = ["legendre_table", "wigner_table"]

_LOG = logging.getLogger(__name__)
_LOCK = Lock()
Table = dict[str, npt.NDArray[Any]]
_NEGLIGIBLE = 1e-15
_FORMAT = 1  # raise when the content of a table changes


def legendre_table(
    bandwidth: int, colatitudes: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """Gauss-Legendre nodes and quadrature-weighted Legendre functions of the northern hemisphere.

    Parameters
    ----------
    bandwidth : int
        Largest degree L.
    colatitudes : int
        Even number of Gauss-Legendre nodes on the whole sphere, > L.

    Returns
    -------
    cosines : (colatitudes / 2,) float64
        cos(theta) > 0.
    functions : (L + 1, L + 1, colatitudes / 2) float32
        ``[m, l, i]``: orthonormal P_lm(cos theta_i) with Condon-Shortley phase, times twice the
        quadrature weight.
    """
    return _legendre(bandwidth, colatitudes)


@lru_cache(maxsize=64)
def _legendre(
    bandwidth: int, colatitudes: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    def make() -> Table:
        import pyshtools

        nodes, weights = pyshtools.expand.SHGLQ(colatitudes - 1)
        half = colatitudes // 2
        functions = np.zeros((bandwidth + 1, bandwidth + 1, half), dtype=np.float32)
        degree, order = np.tril_indices(bandwidth + 1)
        for i in range(half):
            values = pyshtools.legendre.PlmON(bandwidth, nodes[i], csphase=-1, cnorm=1)
            functions[order, degree, i] = values * (2.0 * weights[i])
        return {"cosines": np.asarray(nodes[:half], dtype=np.float64), "functions": functions}

    table = _load_or_make(f"legendre-{bandwidth}-{colatitudes}", make)
    return table["cosines"], table["functions"]


@lru_cache(maxsize=16)
def wigner_table(
    bandwidth: int, colatitudes: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Wigner ``d^l_{m m'}(beta_j)`` at ``beta_j = (j + 1/2) pi / colatitudes``, 0 <= m, m' <= l.

    Made from ``Delta^l = d^l(pi/2)`` by the Risbo / Kovacs-Wriggers factorisation
    ``d^l_{m m'}(beta) = i^(m' - m) sum_h Delta_{h m} Delta_{h m'} exp(i h beta)``, which the
    symmetries of Delta in h turn into a cosine or a sine series.

    Returns
    -------
    rows : (R, colatitudes) float32
        Rows of one (m, m') lie together, l rising from max(m, m').
    offsets : (bandwidth + 1, bandwidth + 1) int64
        First row of (m, m').
    """

    def make() -> Table:
        import pyshtools

        # pyshtools' table is the transpose of d_{m h}(pi/2) of exp(-i beta J_y): [h, m] here.
        delta = np.asarray(pyshtools.rotate.djpi2(max(bandwidth, 1)))
        with threadpool_limits(limits=1):
            return {"rows": _wigner_rows(delta, bandwidth, colatitudes)}

    rows = _load_or_make(f"wigner-{bandwidth}-{colatitudes}", make)["rows"]
    # Near the poles most values are next to nothing; as denormal numbers they would triple the
    # time of the transforms that follow.
    rows[np.abs(rows) < _NEGLIGIBLE] = 0.0
    return rows, _wigner_offsets(bandwidth)


def _wigner_offsets(bandwidth: int) -> npt.NDArray[np.int64]:
    m, n = np.indices((bandwidth + 1, bandwidth + 1))
    lengths = bandwidth + 1 - np.maximum(m, n)
    return np.concatenate([[0], np.cumsum(lengths.ravel())[:-1]]).reshape(lengths.shape)


def _wigner_rows(
    delta: npt.NDArray[np.float64], bandwidth: int, colatitudes: int
) -> npt.NDArray[np.float32]:
    offsets = _wigner_offsets(bandwidth)
    beta = (np.arange(colatitudes) + 0.5) * np.pi / colatitudes
    h = np.arange(bandwidth + 1)
    cosine = np.cos(h[:, None] * beta) * np.where(h > 0, 2.0, 1.0)[:, None]
    sine = 2.0 * np.sin(h[:, None] * beta)
    rows = np.empty((int(offsets[-1, -1]) + 1, colatitudes), dtype=np.float32)
    for l in range(bandwidth + 1):
        m, n = (index.ravel() for index in np.indices((l + 1, l + 1)))
        # delta[h, m, l] for 0 <= h, m <= l
        products = delta[: l + 1, m, l].T * delta[: l + 1, n, l].T
        even = (m - n) % 2 == 0
        values = np.where(even[:, None], products @ cosine[: l + 1], products @ sine[: l + 1])
        # i^(n - m), times 1/i where the series is one of sines
        sign = np.where((n - m - (~even)) // 2 % 2 == 0, 1.0, -1.0)
        rows[offsets[m, n] + l - np.maximum(m, n)] = values * sign[:, None]
    return rows


def _load_or_make(name: str, make: Callable[[], Table]) -> Table:
    path = kernel_cache_directory().parent / f"tables-{_FORMAT}" / f"{name}.npz"
    with _LOCK:
        try:
            with np.load(path, allow_pickle=False) as stored:
                return dict(stored)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            _LOG.warning("table %s cannot be read (%s); it is made again", path, error)
        table = make()
        _store(path, table)
        return table


def _store(path: Path, table: Table) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as stream:
                np.savez(stream, allow_pickle=False, **table)
            Path(temporary).replace(path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        # Only speed is lost: the table is in memory.
        _LOG.warning("table %s cannot be kept on disk: %s", path, error)
