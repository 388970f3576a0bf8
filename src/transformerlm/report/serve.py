"""The page of a run that is going on, on this machine only: `transformerlm-report --serve RUN`.

The server answers GET requests from this machine that name it as their host (so that no page of another site
can read it, whatever name it gives to this address), for two paths: the page, and the records that are new.
A page asks for the bytes of metrics.jsonl from its own offset on; nobody reads the file again from its start.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, urlsplit

from transformerlm.errors import OutputError, TransformerLMError
from transformerlm.report.charts import QUALITY, details_of, recorded
from transformerlm.report.metrics import Metrics, MetricsReader
from transformerlm.report.page import report_html
from transformerlm.report.run import METRICS, Run, read_run

ADDRESS = "127.0.0.1"
HOSTS = ("127.0.0.1", "localhost")


class LiveRun:
    """A run whose metrics.jsonl grows, for several readers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = Lock()
        self._reader = MetricsReader(path / METRICS)

    def page(self) -> str:
        """Return the page of the run as it is now.

        Raises:
            ConfigError: the folder of the run is gone.
        """
        with self._lock:
            metrics = self._reader.read()
            position = {"offset": self._reader.offset, "generation": self._reader.generation}
        return report_html([dataclasses.replace(read_run(self.path), metrics=metrics)], live=position)

    def news(self, offset: int, generation: int) -> dict[str, Any]:
        """Return the records behind an offset, and the next one; or that the page has to be loaded again.

        Args:
            offset: bytes of metrics.jsonl that the page has.
            generation: of the file that they are of: a run that goes back to an earlier step replaces it.
        """
        with self._lock:
            metrics = self._reader.read()
            if generation != self._reader.generation or not 0 <= offset <= self._reader.offset:
                return {"reload": True}
            new = MetricsReader(self.path / METRICS, offset=offset, end=self._reader.offset)
            return {
                "offset": self._reader.offset,
                "series": _series(new.read(), metrics, read_run(self.path)),
            }


def _series(new: Metrics, metrics: Metrics, run: Run) -> dict[str, Any]:
    pairs = [pair for chart in (QUALITY, *details_of([run])) for pair in chart.series]
    return {key: recorded(new[name], metrics) for key, name in pairs if len(new[name])}


def serve_run(path: Path, port: int, say: Callable[[str], object]) -> None:
    """Serve the page of a run until Ctrl-C.

    Raises:
        ConfigError: it is not a run's folder.
        OutputError: the port is in use.
    """
    read_run(path)
    with make_server(path, port) as server:
        say(f"{path}: shown at http://{ADDRESS}:{server.server_port}/ on this machine, until Ctrl-C")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


class Server(ThreadingHTTPServer):
    """Server whose threads end with the process, and that says nothing of readers who go away."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore broken connections; print other errors, which are bugs, as usual."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def make_server(path: Path, port: int) -> Server:
    """Return a server that listens at a port (0: a free one) of this machine's own address.

    Raises:
        OutputError: the port is in use.
    """

    class RunHandler(Handler):
        run = LiveRun(path)

    try:
        server = Server((ADDRESS, port), RunHandler)
    except OSError as error:
        what = f"port {port} of {ADDRESS}: {error.strerror}"
        raise OutputError(f"{what}; choose another one with --report.port=") from None
    RunHandler.run_port = str(server.server_port)
    return server


class Handler(BaseHTTPRequestHandler):
    """Answers of the server: GET, two paths, and an error for anything else."""

    run: LiveRun
    run_port: str
    """The port that it is served at."""
    protocol_version = "HTTP/1.1"
    server_version = "transformerlm"
    sys_version = ""
    timeout = 30

    def do_GET(self) -> None:
        """Answer with the page or with new records."""
        host, _, port = self.headers.get("Host", "").rpartition(":")
        if host not in HOSTS or port != self.run_port:
            return self._send(HTTPStatus.FORBIDDEN, "text/plain", b"this server is for its own machine\n")
        url = urlsplit(self.path)
        if url.path == "/":
            return self._send_page()
        if url.path == "/records":
            return self._send_records(url.query)
        return self._send(HTTPStatus.NOT_FOUND, "text/plain", b"no such page\n")

    def _send_page(self) -> None:
        try:
            page = self.run.page()
        except TransformerLMError as error:
            return self._send(HTTPStatus.NOT_FOUND, "text/plain", f"{error}\n".encode("utf-8", "replace"))
        return self._send(HTTPStatus.OK, "text/html", page.encode("utf-8", "replace"))

    def _send_records(self, query: str) -> None:
        try:
            values = {key: int(value) for key, (value, *_) in parse_qs(query).items()}
            news = self.run.news(values["offset"], values["generation"])
        except (ValueError, LookupError):
            return self._send(HTTPStatus.BAD_REQUEST, "text/plain", b"expected offset= and generation=\n")
        return self._send(HTTPStatus.OK, "application/json", json.dumps(news, allow_nan=False).encode())

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", f"{kind}; charset=utf-8"),
            ("Content-Length", str(len(content))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Content-Security-Policy", "frame-ancestors 'none'"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Write nothing: requests are not worth a line."""
