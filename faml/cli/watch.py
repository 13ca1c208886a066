"""`faml watch`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from faml.errors import ConfigurationError

__all__ = ["watch"]


def watch(
    directory: Annotated[
        Path, typer.Argument(metavar="RUN", help="Output directory of a run; may be yet to come.")
    ],
    tui: Annotated[
        bool, typer.Option("--tui", help="A table in the terminal instead of a page.")
    ] = False,
    once: Annotated[bool, typer.Option("--once", help="--tui: show it once and end.")] = False,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Of the page, on 127.0.0.1. Default: a free one."),
    ] = None,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")
    ] = True,
    interval: Annotated[
        float, typer.Option(min=0.2, max=3600, help="Seconds between two looks at the run.")
    ] = 2.0,
) -> None:
    """Show a run while it goes on: its report in a browser, or a table in the terminal."""
    if once and not tui:
        raise ConfigurationError("--once is for --tui; give that as well or leave it out")
    if tui and port is not None:
        raise ConfigurationError("--port is of the page, which --tui has not; leave it out")
    if directory.exists() and not directory.is_dir():
        raise ConfigurationError(f"{directory}: expected the directory of a run, found a file")
    if tui:
        _terminal(directory, interval, once=once)
    else:
        _page(directory, port or 0, interval, browser=browser)


def _terminal(directory: Path, interval: float, *, once: bool) -> None:
    from rich.console import Console

    from faml.interrupts import ended_like_ctrl_c
    from faml.watch.dashboard import follow
    from faml.watch.live import RunWatcher

    try:
        with ended_like_ctrl_c():
            follow(
                RunWatcher(directory),
                Console(highlight=False),
                interval_seconds=interval,
                once=once,
            )
    except KeyboardInterrupt:
        return  # the usual way to end it


def _has_screen() -> bool:
    """Whether a browser would have a window; without one, some take over the terminal."""
    return sys.platform == "darwin" or any(
        os.environ.get(n) for n in ("DISPLAY", "WAYLAND_DISPLAY")
    )


def _page(directory: Path, port: int, interval: float, *, browser: bool) -> None:
    import webbrowser

    from rich.console import Console

    from faml.interrupts import ended_like_ctrl_c
    from faml.watch.live import LivePage, RunWatcher, nothing_yet
    from faml.watch.server import ADDRESS, WatchServer

    console = Console(highlight=False)
    with WatchServer(LivePage(directory, interval), port) as server:
        try:
            with ended_like_ctrl_c():
                if not RunWatcher(directory).begun:
                    console.print(nothing_yet(directory), markup=False, soft_wrap=True)
                console.print(
                    f"{server.url}\nfrom another machine: ssh -L {server.port}:{ADDRESS}:"
                    f"{server.port} THIS-MACHINE, then the same address there; Ctrl-C ends",
                    markup=False, soft_wrap=True,
                )  # fmt: skip
                if browser and _has_screen():
                    webbrowser.open(server.invitation())
                server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            return  # the usual way to end it
