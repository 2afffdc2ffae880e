"""The HTTP port of a job pod: `/progress` for the operator, `/metrics`, and `/livez`."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from finetune_api import names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True)
class Answers:
    """What the port answers; each is asked anew for every request."""

    progress: Callable[[], bytes]
    metrics: Callable[[], bytes]
    alive: Callable[[], bool] = lambda: True


@contextmanager
def progress_port(answers: Answers) -> Iterator[int]:
    """Serve the port until the block ends; yields the number it listens on.

    The number comes from FINETUNE_PORT; without it any free port is taken.
    """
    wanted = int(os.environ.get(names.PORT_ENV, "0"))
    server = ThreadingHTTPServer(("", wanted), _handler(answers))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="progress-port", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(answers: Answers) -> type[BaseHTTPRequestHandler]:
    pages = {
        "/progress": (answers.progress, "application/json"),
        "/metrics": (answers.metrics, "text/plain; version=0.0.4; charset=utf-8"),
    }

    class Handler(BaseHTTPRequestHandler):
        """Answers GET requests; logs nothing."""

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/livez":
                self._send(200 if answers.alive() else 503, "text/plain", b"")
            elif path in pages:
                body, kind = pages[path]
                self._send(200, kind, body())
            else:
                self._send(404, "text/plain", b"")

        def log_message(self, *_: object) -> None:
            """Keep requests out of the log: they come every few seconds."""

        def _send(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler
