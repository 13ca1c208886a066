"""The report of a run as it is now; rendered once per iteration."""

from __future__ import annotations

import fcntl
import html
import logging
import os
import threading
from dataclasses import dataclass
from pathlib import Path

from faml.errors import FamlError
from faml.io.lock import LOCK_NAME
from faml.io.output import CHECKPOINT_NAME, stored_starts
from faml.report.log_file import read_run_log
from faml.report.page import render_page
from faml.report.run_data import RunData, load_run_data

__all__ = ["WAITING", "LivePage", "RunWatcher", "at_work", "nothing_yet"]

_LOG = logging.getLogger("faml")
WAITING = "waiting"
"""Version of a run that has no complete iteration yet."""
_WAITING_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="refresh" content="{seconds:g}">
<title>faml: waiting</title>
<style>body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 40rem; margin: 4rem auto;
padding: 0 1rem }}</style></head>
<body><h1>{title}</h1><p>{text}</p></body></html>
"""

_Print = tuple[tuple[int, int, int] | str | None, ...]


def nothing_yet(directory: Path) -> str:
    """What is waited for in a directory without a complete iteration."""
    if not directory.exists():
        return f"{directory}: not there yet; waiting for the run"
    if (directory / "run.log").is_file() or stored_starts(directory):
        return f"{directory}: no complete iteration yet; waiting"
    return f"no run in {directory} yet; waiting"


def at_work(directory: Path) -> bool | None:
    """Whether a process holds the lock of a run; None where that cannot be told."""
    try:
        # Not to wait for a pipe that somebody has put there.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(directory / LOCK_NAME, flags)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:  # this file system cannot lock
        return None
    finally:
        os.close(descriptor)
    return False


class RunWatcher:
    """Reads a run again when its files have changed. Not for several threads at once.

    Attributes
    ----------
    problem : str
        Why there is nothing to read, or why what was read last is not the present state; empty
        where all is well.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.problem = ""
        self._seen: _Print | None = None
        self._data: RunData | None = None

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint."""
        return (self.directory / CHECKPOINT_NAME).is_file()

    def latest(self) -> RunData | None:
        """What the run's directory holds; None before the first complete iteration.

        A file that cannot be read, or not yet, leaves what was read before; `problem` says why.
        """
        seen = self._fingerprint()
        if seen == self._seen:
            return self._data
        self._seen = seen
        if not self.begun:
            self.problem = ""
            return self._data
        try:
            self._data = load_run_data(self.directory)
            self.problem = ""
        except FamlError as error:
            self.problem = str(error)
            _LOG.debug("%s", error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next look may go well
            self.problem = _unexpected(error)
            _LOG.debug("%s", self.directory, exc_info=True)
        return self._data

    def _fingerprint(self) -> _Print:
        names = [CHECKPOINT_NAME, "particles.star"]
        if _stat(self.directory / names[-1]) is not None:
            # Whether results are those of the last iteration, the log says.
            names.append("run.log")
        return (*(_stat(self.directory / name) for name in names), self._ending())

    def _ending(self) -> str:
        """How the run ended, as its log has it: one that failed has no new iteration."""
        try:
            log = read_run_log(self.directory / "run.log")
        except FamlError:
            return ""  # reading the run will say it
        return "" if log is None else log.ending


def _unexpected(error: Exception) -> str:
    return f"unexpected {type(error).__name__}: {error} (FAML_DEBUG=1 shows the details)"


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class _Rendered:
    version: str
    page: str


class LivePage:
    """The page of a run and its version, for several threads.

    Parameters
    ----------
    directory : Path
        Of the run; need not exist yet.
    refresh_seconds : float
        How often the page asks for the version.
    """

    def __init__(self, directory: Path, refresh_seconds: float) -> None:
        self._watcher = RunWatcher(directory)
        self._refresh_seconds = refresh_seconds
        self._lock = threading.Lock()
        self._rendered: _Rendered | None = None

    def version(self) -> str:
        """What the page would be of: an iteration, or `WAITING`."""
        with self._lock:
            data = self._watcher.latest()
        return WAITING if data is None else data.version

    def page(self) -> str:
        """The report, or a page that says what is waited for and loads itself again."""
        with self._lock:
            data = self._watcher.latest()
            if data is None:
                return self._waiting()
            if self._rendered is None or self._rendered.version != data.version:
                try:
                    page = render_page(data, refresh_seconds=self._refresh_seconds)
                except Exception as error:  # noqa: BLE001 - the page says it and asks again
                    _LOG.debug("page of %s", self._watcher.directory, exc_info=True)
                    return self._waiting(_unexpected(error))
                self._rendered = _Rendered(data.version, page)
            return self._rendered.page

    def _waiting(self, problem: str = "") -> str:
        where = html.escape(str(self._watcher.directory.absolute()))
        problem = html.escape(problem or self._watcher.problem)
        return _WAITING_PAGE.format(
            seconds=self._refresh_seconds,
            title="This run cannot be read" if problem else "The run has not begun yet",
            text=problem
            or f"Nothing to see in {where}; the report comes with its first iteration.",
        )
