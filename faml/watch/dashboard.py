"""A run in the terminal: a table of its iterations, drawn anew with each of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from faml.errors import CheckpointError
from faml.io.history import IterationRecord
from faml.metrics.fsc import FSC_THRESHOLD, resolution_at
from faml.report.run_data import RunData, load_run_data
from faml.report.summary import duration_text
from faml.watch.live import RunWatcher, at_work, nothing_yet

__all__ = ["dashboard", "follow", "iteration_line", "sparkline"]

_BARS = "▁▂▃▄▅▆▇█"
_ASCII_BARS = "_.-~=+*#"
_ROWS = 12
"""Iterations in the table; older ones are in the report."""
_HEADS = (
    "\niteration", "log-\nlikelihood", "aligned to\nAngstrom", "occupancy\n%", "effective\nposes",
    "turned\ndeg", "moved\nvoxel", "halves\nAngstrom",
)  # fmt: skip
_OCCUPANCY = 3
_ENDINGS = {
    "finished": "finished",
    "interrupted": "interrupted; faml resume continues",
    "failed": "failed",
    "open": "running, or stopped without notice",
}


def sparkline(values: Sequence[float], bars: str = _BARS) -> str:
    """One character per finite value, the lowest and the highest as the first and last bar."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    low, extent = min(finite), max(finite) - min(finite)
    top = len(bars) - 1
    steps = [0.0 if extent == 0 else (value - low) / extent for value in finite]
    return "".join(bars[round(step * top)] for step in steps)


def iteration_line(record: IterationRecord, data: RunData) -> str:
    """One iteration as a line of plain text."""
    cells = _cells(record, data)
    moved = f"  moved {cells[5]} deg {cells[6]} voxel" if cells[5] else ""
    agreed = f"  halves agree to {_angstrom(_agreement(record, data))}" if cells[7] else ""
    return (
        f"iteration {record.iteration:3d}  log-likelihood {cells[1]}  aligned to {cells[2]} "
        f"Angstrom  occupancy {cells[3]} %  effective poses {cells[4]}{moved}{agreed}"
    )


def dashboard(data: RunData, *, problem: str = "", ascii_only: bool = False) -> RenderableType:
    """The whole picture.

    Parameters
    ----------
    data : RunData
    problem : str
        Why it is not the present state, if it is not.
    ascii_only : bool
        For terminals without other characters.
    """
    log = data.log
    head = Table.grid(padding=(0, 2))
    head.add_column(style="bold")
    head.add_column(overflow="fold")
    head.add_row("run", escape(_plain(str(data.directory))))
    head.add_row("state", escape(_state(data)))
    strategy = escape(_plain(data.config.search.strategy))
    head.add_row("particles", f"{len(data.names)}, classes {data.classes}, strategy {strategy}")
    head.add_row("iteration", f"{data.iteration} of at most {data.config.em.iterations}")
    if log.seconds:
        last = log.iteration_seconds.get(data.iteration)
        each = f", {duration_text(last)} the last iteration" if last else ""
        head.add_row("elapsed", f"{duration_text(log.seconds)}{each}")
    alike = [r.log_likelihood for r in data.history if r.align_shell == data.state.align_shell]
    bars = _ASCII_BARS if ascii_only else _BARS
    head.add_row(
        "log-likelihood",
        f"{sparkline(alike, bars)}  {data.state.log_likelihood:.1f} at "
        f"{_angstrom(data.extent_angstrom / data.state.align_shell)}",
    )
    for k in range(data.classes):
        head.add_row(f"class {k + 1}", _class_text(data, k))
    warning = log.error or (log.warnings[-1] if log.warnings else "")
    parts: list[RenderableType] = [head, "", _table(data)]
    if warning:
        parts.append(Text(_plain(f"last warning: {warning}"), style="yellow"))
    if problem:
        parts.append(Text(_plain(f"not up to date: {problem}"), style="red"))
    return Group(*parts)


def follow(
    watcher: RunWatcher,
    console: Console,
    *,
    interval_seconds: float,
    once: bool = False,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Show a run until its results are written; a line per iteration where output is piped.

    Parameters
    ----------
    watcher : RunWatcher
    console : Console
    interval_seconds : float
        Between two looks at the directory.
    once : bool
        Show what there is and return.
    pause : callable
        Waits for so many seconds.

    Raises
    ------
    CheckpointError
        If ``once``, and there is nothing to show; as `load_run_data`.
    """
    if once:
        data = watcher.latest()
        if data is None and watcher.problem:
            raise CheckpointError(watcher.problem)
        # What says best why there is nothing is reading it.
        console.print(_drawn(data or load_run_data(watcher.directory), watcher, console))
    elif console.is_terminal:
        _follow_live(watcher, console, interval_seconds, pause)
    else:
        _follow_lines(watcher, console, interval_seconds, pause)


def _follow_live(
    watcher: RunWatcher, console: Console, interval_seconds: float, pause: Callable[[float], None]
) -> None:
    shown: tuple[str, str, str] | None = None
    with Live(_waiting(watcher.directory), console=console, auto_refresh=False) as live:
        while True:
            data = watcher.latest()
            now = ("", watcher.problem, "")
            if data is not None:
                now = (data.version, watcher.problem, _state(data))
            if now != shown:
                shown = now
                picture = (
                    Text(_plain(watcher.problem or _waiting(watcher.directory)))
                    if data is None
                    else _drawn(data, watcher, console)
                )
                live.update(picture, refresh=True)
            if data is not None and data.final:
                return
            pause(interval_seconds)


def _follow_lines(
    watcher: RunWatcher, console: Console, interval_seconds: float, pause: Callable[[float], None]
) -> None:
    told = -1
    problem = ended = ""
    if watcher.latest() is None and not watcher.problem:
        _say(console, _waiting(watcher.directory))
    while True:
        data = watcher.latest()
        if watcher.problem and watcher.problem != problem:
            _say(console, f"warning: {watcher.problem}")
        problem = watcher.problem
        if data is not None:
            # A run that began anew in the same directory counts from the start again.
            told = -1 if data.iteration < told else told
            for record in data.history:
                if record.iteration > told:
                    _say(console, iteration_line(record, data))
            told = data.iteration
            if data.final:
                _say(console, data.state.stop_reason or _ENDINGS[data.log.ending])
                return
            if data.log.ending != "open" and data.version != ended:
                why = f": {data.log.error}" if data.log.error else ""
                _say(console, f"{_ENDINGS[data.log.ending]}{why}")
            ended = data.version
        pause(interval_seconds)


def _say(console: Console, text: str) -> None:
    console.print(_plain(text), markup=False, soft_wrap=True)


def _plain(text: str) -> str:
    """A text that may hold names of files: what a terminal would obey is shown as it is written."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _drawn(data: RunData, watcher: RunWatcher, console: Console) -> RenderableType:
    plain = not console.encoding.lower().startswith("utf")
    return dashboard(data, problem=watcher.problem, ascii_only=plain)


def _waiting(directory: Path) -> str:
    return f"{nothing_yet(directory)} (Ctrl-C ends)"


def _state(data: RunData) -> str:
    """How the run ended, or whether a process is at work on it."""
    if data.log.ending == "open" and not data.state.stop_reason:
        working = at_work(data.directory)
        if working is not None:
            return "running" if working else "stopped without notice; faml resume continues"
    return data.state.stop_reason or _ENDINGS[data.log.ending]


def _table(data: RunData) -> Table:
    rows = [_cells(record, data) for record in data.history[-_ROWS:]]
    # 80 columns hold all of it for four classes; with more, their shares go on a second line.
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    used = [i for i in range(len(_HEADS)) if any(row[i] for row in rows)]
    for i in used:
        table.add_column(_HEADS[i], justify="right", no_wrap=i != _OCCUPANCY)
    for row in rows:
        table.add_row(*(row[i] for i in used))
    return table


def _cells(record: IterationRecord, data: RunData) -> tuple[str, ...]:
    """Texts below `_HEADS`; empty where there is nothing to say."""
    turned, moved = record.median_angle_deg, record.median_shift_voxels
    agreed = _agreement(record, data)
    return (
        str(record.iteration),
        f"{record.log_likelihood:.1f}",
        f"{data.extent_angstrom / record.align_shell:.1f}",
        " ".join(f"{100 * share:.0f}" for share in record.class_fractions),
        f"{record.effective_poses:.2f}",
        "" if turned is None else f"{turned:.1f}",
        "" if moved is None else f"{moved:.2f}",
        "" if math.isnan(agreed) else "none" if math.isinf(agreed) else f"{agreed:.1f}",
    )


def _agreement(record: IterationRecord, data: RunData) -> float:
    """Angstrom to which the halves of the best class agree; NaN where that was not measured.

    A class without particles has kept averages of earlier on.
    """
    if record.fsc is None:
        return math.nan
    return min(
        resolution_at(curve, FSC_THRESHOLD, data.box, data.voxel_size_angstrom)
        for curve, count in zip(record.fsc, record.class_counts, strict=True)
        if count
    )


def _class_text(data: RunData, class_index: int) -> str:
    share = 100 * float(data.state.model.class_fractions[class_index])
    resolution = data.resolution_angstrom(class_index)
    measured = "" if math.isnan(resolution) else f", halves agree to {_angstrom(resolution)}"
    return f"{share:.0f} %, {int(data.class_counts[class_index])} particles{measured}"


def _angstrom(value: float) -> str:
    return f"{value:.1f} Angstrom" if math.isfinite(value) else "nothing"
