"""The end of a batch job's time, or of its terminal, is dealt with like Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["ended_like_ctrl_c"]


@contextmanager
def ended_like_ctrl_c() -> Iterator[None]:
    """SIGTERM and SIGHUP raise KeyboardInterrupt, so that what is done is kept.

    Schedulers send the first before they kill a job, closed terminals the second. Without effect
    outside the main thread, where Python allows no handlers, and on a signal that is ignored
    (``nohup``) or that a program around Python deals with.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {}
    for each in (signal.SIGTERM, signal.SIGHUP):
        # None: a handler that was not made in Python, which could not be put back.
        if signal.getsignal(each) not in (signal.SIG_IGN, None):
            before[each] = signal.signal(each, signal.default_int_handler)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
