"""``run.log``: what a run was given, what each iteration found, and what went wrong."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from faml.em.loop import EmRun
from faml.em.state import State
from faml.errors import FamlError, OutputError
from faml.io.checkpoint import software_versions
from faml.io.dataset import Dataset
from faml.io.output import refuse_links

__all__ = ["log_header", "log_state", "logged"]

_LOG = logging.getLogger("faml")


def log_header(em: EmRun, dataset: Dataset) -> None:
    """What was run on what, and settings that follow from the data."""
    particles, config = em.particles, em.config
    versions = ", ".join(f"{name} {number}" for name, number in software_versions().items())
    _LOG.info("%s", versions)
    _LOG.info(
        "%d particles of %d in %s; box %d, voxel size %g Angstrom, %d distinct weights (%s)",
        len(particles), dataset.available, ", ".join(config.data.inputs[:3]), particles.box,
        particles.voxel_size_angstrom, int(particles.weight_index.max()) + 1,
        dataset.weight_source,
    )  # fmt: skip
    _LOG.info(
        "strategy %s, %d classes, symmetry %s, start %s, seed %d, %d threads, particle radius "
        "%.1f voxels, shifts to %.1f voxels, %s",
        config.search.strategy, config.em.classes, config.em.symmetry, config.em.start,
        config.em.seed, config.threads, em.radius_voxels, em.max_shift_voxels,
        "one common average" if em.folds == 1
        else f"{em.folds} folds (log-likelihoods are cross-validated)",
    )  # fmt: skip
    _LOG.info("grey values: %s", dataset.normalisation.reason)


def log_state(state: State, dataset: Dataset, posterior_mass: float) -> None:
    """One iteration, and what in it a user should know."""
    found = state.assignments
    extent = dataset.particles.box * dataset.particles.voxel_size_angstrom
    changes = state.changes
    moved = (
        ""
        if changes is None
        else f"median movement {changes.median_angle_deg:.2f} degrees and "
        f"{changes.median_shift_voxels:.2f} voxel, "
    )
    _LOG.info(
        "iteration %d: log-likelihood %.1f, aligned to %.1f Angstrom, occupancies %s, effective "
        "poses %.2f, %snext shell %d",
        state.iteration,
        state.log_likelihood,
        extent / state.align_shell,
        " ".join(f"{f:.3f}" for f in state.model.class_fractions),
        float(found.effective_poses.mean()),
        moved,
        state.next_align_shell,
    )
    if found.fallbacks.any():
        _LOG.warning(
            "iteration %d: %d particles had no candidate pose and kept their previous one",
            state.iteration,
            int(found.fallbacks.sum()),
        )
    capped = found.kept_masses < posterior_mass
    if capped.any():
        _LOG.info(
            "iteration %d: %d of %d posteriors are broader than --max-poses allows; the poses "
            "kept hold %.3f of the mass on average, and stand for all of it",
            state.iteration,
            int(capped.sum()),
            len(found),
            float(found.kept_masses.mean()),
        )
    for k in state.empty_classes:
        _LOG.warning(
            "iteration %d: class %d is empty and keeps its average", state.iteration, k + 1
        )


class _LogFile(logging.FileHandler):
    """A log file that a full disk silences; the error that matters is raised elsewhere."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Drop the line instead of printing a stack trace."""


@contextmanager
def logged(directory: Path) -> Iterator[None]:
    """Send the log of the package, and errors, to ``run.log`` for the time of a run."""
    refuse_links(directory / "slices", directory / "run.log")
    try:
        (directory / "slices").mkdir(exist_ok=True)
        handler = _LogFile(directory / "run.log", encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"{directory}: cannot be written to ({error.strerror}); make it writable"
        ) from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = _LOG.level
    _LOG.addHandler(handler)
    _LOG.setLevel(logging.INFO)
    try:
        yield
    except FamlError as error:
        _LOG.error("%s", error)
        raise
    except Exception:
        _LOG.exception("unexpected failure")
        raise
    finally:
        _LOG.removeHandler(handler)
        _LOG.setLevel(level)
        with suppress(OSError):
            handler.close()
