"""A proxy before an S3 server that does to requests what networks do."""

from __future__ import annotations

import http.client
import ssl
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
    of its announced length); `flipped` (a bit of the body); `short` (half the body, and a length that says so); `hung`
    (nothing comes); `half hung` (half the body comes); `trickle` (it comes byte by byte); `deaf` (the request is not
    read); `cut off` (the connection ends before it is read); `shifted` (the body says that it is of another range).
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.method = ""
        self.part = ""
        self.faults: list[str] = []
        self.seen: list[str] = []
        self.keys: list[str] = []
        self.sums: list[str] = []
        self.dates: dict[str, str] = {}
        self.over = threading.Event()
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

    def translated(self, headers: dict[str, str]) -> dict[str, str]:
        """The headers of a request as they are passed on."""
        return headers

    def target(self, path: str) -> str:
        """The path of a request as it is passed on."""
        return path.partition(self.upstream)[2] if path.startswith("http") else path

    @contextmanager
    def serving(self, context: ssl.SSLContext | None = None) -> Iterator[str]:
        """The URL of the proxy; of https with a context."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"{'https' if context else 'http'}://127.0.0.1:{server.server_port}"
        finally:
            self.over.set()
            server.shutdown()
            server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    protocol_version = "HTTP/1.1"
    timeout = 5  # an idle connection must not outlive the test

    def handle_any(self) -> None:
        self.proxy.keys.append(self.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0])
        if sent := self.headers.get("x-amz-checksum-crc64nvme"):
            self.proxy.sums.append(sent)
        fault = self.proxy.fault(self.command, self.path)
        if fault == "deaf":
            self.proxy.over.wait(30)
        body = self._body() if fault not in {"deaf", "cut off"} else b""
        if fault in {"lost request", "deaf", "cut off"}:
            self.close_connection = True
        elif fault == "hung":
            self.proxy.over.wait(30)
            self.close_connection = True
        elif fault in ERRORS:
            status, data = ERRORS[fault]
            self._reply(status, [], data, len(data))
        else:
            status, headers, data = self._pass_on(body)
            if "uploads" in self.path:
                for old, new in self.proxy.dates.items():
                    data = data.replace(old.encode(), new.encode())
            if fault == "lost reply":
                self.close_connection = True
            elif fault == "truncated":
                self._reply(status, headers, data[: len(data) // 2], len(data))
                self.close_connection = True
            elif fault == "half hung":
                self._reply(status, headers, data[: len(data) // 2], len(data))
                self.proxy.over.wait(30)
                self.close_connection = True
            elif fault == "trickle":
                self._trickle(status, headers, data)
            elif fault == "shifted":
                headers = [(name, value.replace("bytes 1", "bytes 2")) for name, value in headers]
                self._reply(status, headers, data, len(data))
            elif fault == "short":
                self._reply(status, headers, data[: len(data) // 2], len(data) // 2)
            elif fault == "flipped":
                self._reply(status, headers, data[:-1] + bytes([data[-1] ^ 1]), len(data))
            else:
                self._reply(status, headers, data, len(data))

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

    def _trickle(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
        self._reply(status, headers, b"", len(data))
        for byte in data:
            try:
                self.wfile.write(bytes([byte]))
            except OSError:
                break
            if self.proxy.over.wait(0.01):
                break
        self.close_connection = True

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            return self._chunks()
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _chunks(self) -> bytes:
        """A body in chunks, as it came."""
        raw = b""
        while True:
            line = self.rfile.readline()
            size = int(line.split(b";")[0], 16)
            raw += line + self.rfile.read(size + 2)
            if size == 0:
                return raw

    def _pass_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = http.client.HTTPConnection(self.proxy.upstream, timeout=30)
        try:
            upstream.request(
                self.command, self.proxy.target(self.path), body=body, headers=self.proxy.translated(dict(self.headers))
            )
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
