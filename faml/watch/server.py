"""A web server for one reader on one machine: the live report, and nothing else.

It listens on the loopback interface only, answers GET and HEAD only, and knows two paths, below a
random word that other users of the machine cannot guess. No file is served: a path never reaches
the file system.
"""

from __future__ import annotations

import errno
import hmac
import logging
import secrets
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from faml.errors import ConfigurationError
from faml.watch.live import LivePage

__all__ = ["ADDRESS", "WatchServer"]

_LOG = logging.getLogger("faml")
ADDRESS = "127.0.0.1"
_HOSTS = (ADDRESS, "localhost")
"""Names a browser may have asked for; any other one was pointed here by somebody else."""
_MOST_THREADS = 64
"""One reader needs a few; other users of the machine can open connections and say nothing."""
_HEADERS = {
    "Cache-Control": "no-store",
    # The page restricts itself further; what a page cannot say of itself is said here.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
        "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_LOST = "not found; use the address that faml watch printed\n"
_PLAIN = "text/plain; charset=utf-8"
_HTML = "text/html; charset=utf-8"


class WatchServer(ThreadingHTTPServer):
    """Serves a `LivePage` at `url`; ends like any `socketserver` by ``shutdown``.

    Parameters
    ----------
    live : LivePage
    port : int
        0 takes a free one.

    Raises
    ------
    ConfigurationError
        The port is in use, or may not be used.
    """

    daemon_threads = True

    def __init__(self, live: LivePage, port: int = 0) -> None:
        self.live = live
        self.token = secrets.token_urlsafe(24)
        self._ticket: str | None = None
        self._ticket_lock = threading.Lock()
        try:
            super().__init__((ADDRESS, port), _Handler)
        except (OSError, OverflowError) as error:
            used = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            reason = "is in use" if used else f"cannot be used ({error})"
            raise ConfigurationError(
                f"port {port} of {ADDRESS} {reason}; give another --port, or none for a free one"
            ) from error

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        """Address of the page, with the secret word."""
        return f"http://{ADDRESS}:{self.port}/{self.token}/"

    def invitation(self) -> str:
        """An address that leads to `url` once.

        For the command line of a browser, which other users of the machine can read.
        """
        ticket = secrets.token_urlsafe(24)
        with self._ticket_lock:
            self._ticket = ticket
        return f"http://{ADDRESS}:{self.port}/{ticket}/"

    def redeem(self, ticket: str) -> bool:
        """Whether this is the `invitation` that was not used yet; now it is."""
        with self._ticket_lock:
            valid = self._ticket is not None and hmac.compare_digest(
                ticket.encode(), self._ticket.encode()
            )
            if valid:
                self._ticket = None
        return valid

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own, as long as there are not far too many."""
        if threading.active_count() > _MOST_THREADS:
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away in the middle of an answer is no trouble; the rest is logged."""
        _LOG.debug("a request of %s failed", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: WatchServer
    server_version = "faml"
    sys_version = ""
    timeout = 30

    def do_GET(self) -> None:
        if not self._for_us():
            self._answer(HTTPStatus.FORBIDDEN, "this server answers to 127.0.0.1 only\n")
            return
        word, name = self._asked()
        if name == "" and self.command == "GET" and self.server.redeem(word):
            self._answer(HTTPStatus.SEE_OTHER, "", location=f"/{self.server.token}/")
        elif not hmac.compare_digest(word.encode(), self.server.token.encode()):
            self._answer(HTTPStatus.NOT_FOUND, _LOST)
        elif name == "":
            self._answer(HTTPStatus.OK, self.server.live.page(), _HTML)
        elif name == "version":
            self._answer(HTTPStatus.OK, self.server.live.version())
        else:
            self._answer(HTTPStatus.NOT_FOUND, _LOST)

    do_HEAD = do_GET  # noqa: N815 - the library looks for these names

    def _refuse(self) -> None:
        self._answer(HTTPStatus.METHOD_NOT_ALLOWED, "this server is read-only\n")

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse  # noqa: N815

    def _for_us(self) -> bool:
        """Whether the browser believes to speak with this machine (else: DNS rebinding)."""
        try:
            return urlsplit(f"//{self.headers.get('Host', '')}").hostname in _HOSTS
        except ValueError:
            return False

    def _asked(self) -> tuple[str, str]:
        """The secret word and the name below it; two empty texts for a path of another form."""
        parts = self.path.partition("?")[0].split("/")
        if len(parts) != 3 or parts[0]:
            return "", ""
        return parts[1], parts[2]

    def _answer(
        self, status: HTTPStatus, text: str, kind: str = _PLAIN, location: str = ""
    ) -> None:
        body = text.encode("utf-8", "replace")
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the library finds wrong in a request: the same headers, and no echo of it."""
        del message, explain
        self._answer(HTTPStatus(code), f"{HTTPStatus(code).phrase}\n")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Requests are nobody's business; the secret word must reach no log."""
