"""A proxy before an S3 server that does to requests what networks do."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
ERRORS = {
    "503": (503, SLOW_DOWN),
    "500": (500, b"<Error><Code>InternalError</Code><Message>We encountered an error.</Message></Error>"),
    "409": (409, b"<Error><Code>ConditionalRequestConflict</Code><Message>Conflict</Message></Error>"),
    "403": (403, b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"),
    "skew": (403, b"<Error><Code>RequestTimeTooSkewed</Code><Message>Too skewed.</Message></Error>"),
}


class Proxy:
    """Passes requests on; those of `method` on a path that holds `part` suffer the next of `faults`, each once.

    Faults: a status of `ERRORS`; `lost request` and `lost reply` (the connection ends); `truncated` (half the body, all
    of its announced length); `flipped` (a bit of the body); `short` (half the body, and a length that says so).
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.method = ""
        self.part = ""
        self.faults: list[str] = []
        self.seen: list[str] = []
        self._lock = threading.Lock()

    def suffer(self, method: str, part: str, *faults: str) -> None:
        """What happens next."""
        self.method, self.part, self.faults = method, part, list(faults)

    def fault(self, method: str, path: str) -> str:
        """The fault of this request, or none."""
        with self._lock:
            self.seen.append(f"{method} {path}")
            if self.faults and method == self.method and self.part in path:
                return self.faults.pop(0)
            return ""

    @contextmanager
    def serving(self) -> Iterator[str]:
        """The URL of the proxy."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    protocol_version = "HTTP/1.1"
    timeout = 5  # an idle connection must not outlive the test

    def handle_any(self) -> None:
        body = self._body()
        fault = self.proxy.fault(self.command, self.path)
        if fault == "lost request":
            self.close_connection = True
        elif fault in ERRORS:
            status, data = ERRORS[fault]
            self._reply(status, [], data, len(data))
        else:
            status, headers, data = self._pass_on(body)
            if fault == "lost reply":
                self.close_connection = True
            elif fault == "truncated":
                self._reply(status, headers, data[: len(data) // 2], len(data))
                self.close_connection = True
            elif fault == "short":
                self._reply(status, headers, data[: len(data) // 2], len(data) // 2)
            elif fault == "flipped":
                self._reply(status, headers, data[:-1] + bytes([data[-1] ^ 1]), len(data))
            else:
                self._reply(status, headers, data, len(data))

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _pass_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = http.client.HTTPConnection(self.proxy.upstream, timeout=30)
        try:
            upstream.request(self.command, self.path, body=body, headers=dict(self.headers))
            reply = upstream.getresponse()
            return reply.status, reply.getheaders(), reply.read()
        finally:
            upstream.close()

    def _reply(self, status: int, headers: list[tuple[str, str]], data: bytes, length: int) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in {"content-length", "transfer-encoding", "connection"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Silent."""
