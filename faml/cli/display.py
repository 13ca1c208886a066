"""What a run shows on the terminal: a bar per iteration and a line when it is done."""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from faml.em.state import State
    from faml.io.dataset import Dataset

__all__ = ["RunDisplay"]


class RunDisplay:
    """Progress bar and summary lines on standard error; silent if ``quiet``.

    Use as a context manager and hand `progress` and `state` to `faml.api.run`.

    Attributes
    ----------
    iterations : int
        States shown.
    """

    def __init__(self, *, quiet: bool) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=quiet or not self.console.is_terminal,
        )
        self._task: TaskID | None = None
        self._label = "start"
        self._began = time.monotonic()
        self.iterations = 0
        self._handler = _ConsoleHandler(self.console)

    def __enter__(self) -> RunDisplay:
        self._began = time.monotonic()
        self._bar.start()
        logging.getLogger("faml").addHandler(self._handler)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        logging.getLogger("faml").removeHandler(self._handler)
        self._bar.stop()

    def say(self, text: str) -> None:
        """One line as it is: paths may hold brackets, which are markup to rich."""
        self.console.print(text, markup=False, soft_wrap=True)

    def progress(self, done: int, count: int) -> None:
        """Particles done in the present pass."""
        if self._task is None:
            self._task = self._bar.add_task(self._label, total=count, rate="")
        elapsed = max(time.monotonic() - self._began, 1e-6)
        self._bar.update(self._task, completed=done, rate=f"{done / elapsed:.1f} particles/s")
        if done >= count:
            self._bar.remove_task(self._task)
            self._task = None
            self._began = time.monotonic()

    def state(self, state: State, dataset: Dataset) -> None:
        """One line per iteration."""
        extent = dataset.particles.box * dataset.particles.voxel_size_angstrom
        fractions = " ".join(f"{100 * f:.0f}" for f in state.model.class_fractions)
        moved = ""
        if state.changes is not None:
            moved = (
                f"  moved {state.changes.median_angle_deg:5.1f} deg "
                f"{state.changes.median_shift_voxels:4.2f} voxel"
            )
        agreed = ""
        if state.fsc is not None:
            from faml.metrics.fsc import FSC_THRESHOLD, resolution_at
            from faml.results import resolution_text

            particles = dataset.particles
            best = min(
                resolution_at(curve, FSC_THRESHOLD, particles.box, particles.voxel_size_angstrom)
                for curve in state.fsc
            )
            agreed = f"  halves agree to {resolution_text(best)}"
        self.iterations += 1
        # Saving and drawing belong to no pass.
        self._began = time.monotonic()
        self.say(
            f"iteration {state.iteration:3d}  log-likelihood {state.log_likelihood:14.1f}  "
            f"aligned to {extent / state.align_shell:6.1f} Å  occupancy {fractions} %  "
            f"effective poses {state.assignments.effective_poses.mean():5.2f}{moved}{agreed}"
        )
        self._label = f"iteration {state.iteration + 1:3d}"
        if state.stop_reason:
            self._label = "final maps"
            self.say(state.stop_reason)


class _ConsoleHandler(logging.Handler):
    """Warnings of the package, in plain words, among the lines."""

    def __init__(self, console: Console) -> None:
        super().__init__(level=logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        # Errors end the command, which says them itself.
        if record.levelno < logging.ERROR:
            self._console.print(
                f"warning: {record.getMessage()}", style="yellow", markup=False, soft_wrap=True
            )
