"""What ``run.log`` knows and no other file does: times, warnings, and how the run ended."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Literal

from faml.errors import InputDataError
from faml.io.files import open_regular
from faml.io.lock import LOCK_NAME

__all__ = ["Ending", "RunLog", "read_run_log"]

Ending = Literal["finished", "interrupted", "failed", "open"]

_LINE = re.compile(
    r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}) (DEBUG|INFO|WARNING|ERROR|CRITICAL) (.*)"
)
_ITERATION = re.compile(r"iteration (\d+): (.*)", re.DOTALL)
_BEGUN = re.compile(r"python \d|resumed after ")
_WRITTEN = "outliers of their class (famlOutlier)"
_ENDED = "CPU seconds: "
_STOPPED = ("stopped after ", "converged: ")


@dataclass(frozen=True)
class RunLog:
    """Times and warnings of a run; everything is empty where there is no ``run.log``.

    Attributes
    ----------
    ending : {"finished", "interrupted", "failed", "open"}
        ``open``: it goes on, or was killed without notice.
    results_current : bool
        Maps and ``particles.star`` were written after the last iteration, and nothing is still
        being written.
    began, ended : datetime or None
        First and last entry, local time of the machine that ran it.
    seconds : float
        From first to last entry of each session, so pauses between sessions do not count. Nor does
        what a clock was set back meanwhile.
    iteration_seconds : dict of int to float
        Wall time of each iteration.
    warnings : tuple of str
        Each once, in order; of a repeated one with an iteration's number the last.
    error : str
        What a failed run said last.
    cpu_seconds : dict of str to float
        Of each stage of the work, summed over sessions that ended.
    """

    ending: Ending = "open"
    results_current: bool = False
    began: datetime | None = None
    ended: datetime | None = None
    seconds: float = 0.0
    iteration_seconds: dict[int, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    error: str = ""
    cpu_seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Entry:
    when: datetime
    level: str
    text: str

    @property
    def iteration(self) -> int | None:
        """Whose summary line it is."""
        found = _ITERATION.match(self.text) if self.level == "INFO" else None
        return int(found.group(1)) if found and "log-likelihood" in self.text else None


def read_run_log(path: Path) -> RunLog | None:
    """Read ``run.log``; None if there is none.

    Lines that are no entries (a traceback, a line cut off by a full disk) are passed over.

    Raises
    ------
    InputDataError
        The file exists but cannot be read.
    """
    if not os.path.lexists(path):
        return None
    try:
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            text = stream.read(size).decode("utf-8", errors="replace")
    except OSError as error:
        raise InputDataError(f"{path}: cannot be read ({error.strerror})") from error
    found = (_LINE.fullmatch(line) for line in text.splitlines())
    every = (_entry(match) for match in found if match is not None)
    entries = [entry for entry in every if entry is not None]
    if not entries:
        return RunLog()
    sessions = _sessions(entries)
    # The first versions held no lock, and did not say when they were done.
    early = not path.with_name(LOCK_NAME).exists()
    ending, current, fault = _ending(sessions[-1], early=early)
    return RunLog(
        ending=ending,
        results_current=current,
        began=entries[0].when,
        ended=entries[-1].when,
        seconds=sum(_passed(a, b) for part in sessions for a, b in pairwise(part)),
        iteration_seconds=_iteration_seconds(sessions),
        warnings=_warnings(sessions),
        error=fault,
        cpu_seconds=_cpu_seconds(entries),
    )


def _entry(match: re.Match[str]) -> _Entry | None:
    """None for what looks like an entry but has no date."""
    try:
        when = datetime.strptime(match.group(1), "%Y-%m-%d %H:%M:%S")
    except ValueError:
        return None
    microsecond = 1000 * int(match.group(2))
    return _Entry(when.replace(microsecond=microsecond), match.group(3), match.group(4))


def _sessions(entries: list[_Entry]) -> list[list[_Entry]]:
    """Entries of the run and of each time it was resumed."""
    sessions: list[list[_Entry]] = []
    for entry in entries:
        if not sessions or _BEGUN.match(entry.text):
            sessions.append([])
        sessions[-1].append(entry)
    return sessions


def _ending(session: list[_Entry], *, early: bool) -> tuple[Ending, bool, str]:
    """How a session ended, whether its results were written, and the error that ended it."""
    last_iteration = max((i for i, e in enumerate(session) if e.iteration is not None), default=-1)
    rest = session[last_iteration + 1 :]
    written = any(_WRITTEN in entry.text for entry in rest)
    errors = [entry.text for entry in rest if entry.level == "ERROR"]
    if errors:
        return "failed", written, errors[-1]
    if any(entry.text.startswith("interrupted") for entry in rest):
        return "interrupted", written, ""
    if any(entry.text.startswith(_ENDED) for entry in rest):
        return "finished", written, ""
    if early and any(entry.text.startswith(_STOPPED) for entry in rest):
        return "finished", True, ""
    return "open", False, ""


def _passed(before: _Entry, after: _Entry) -> float:
    """Seconds between two entries, none where the clock was set back (or summer time ended)."""
    return max(0.0, (after.when - before.when).total_seconds())


def _iteration_seconds(sessions: list[list[_Entry]]) -> dict[int, float]:
    seconds: dict[int, float] = {}
    for session in sessions:
        before = session[0]
        for entry in session:
            number = entry.iteration
            if number is not None:
                seconds[number] = _passed(before, entry)
                before = entry
    return seconds


def _warnings(sessions: list[list[_Entry]]) -> tuple[str, ...]:
    """Of the input once, of the results as the last session left them."""
    kept: dict[str, str] = {}
    for number, session in enumerate(sessions, start=1):
        first = next((i for i, e in enumerate(session) if e.iteration is not None), len(session))
        chosen = session if number == len(sessions) else session[:first]
        for entry in chosen:
            if entry.level == "WARNING":
                repeated = _ITERATION.match(entry.text)
                kept[repeated.group(2) if repeated else entry.text] = entry.text
    return tuple(kept.values())


def _cpu_seconds(entries: list[_Entry]) -> dict[str, float]:
    total: dict[str, float] = {}
    for entry in entries:
        if entry.text.startswith(_ENDED):
            parts = re.findall(r"([^,]+?) (\d+(?:\.\d+)?)(?:, |$)", entry.text[len(_ENDED) :])
            for stage, value in parts:
                total[stage] = total.get(stage, 0.0) + float(value)
    return total
