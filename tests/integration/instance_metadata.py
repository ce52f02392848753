"""The instance metadata service (version 2) on loopback, and how these tests wait."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PATIENCE_S = 150.0


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of `condition`, within the patience of these tests."""
    pause = threading.Event()
    for _ in range(int(PATIENCE_S / 0.02)):
        value = condition()
        if value:
            return value
        pause.wait(0.02)
    raise AssertionError(f"waited {PATIENCE_S} s in vain for {what}")


class Metadata(ThreadingHTTPServer):
    """What is in `facts`, below `/latest/meta-data/`; announces `deadline` once it is set. `/never` never answers."""

    daemon_threads = True

    def __init__(self, **facts: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.facts = facts
        self.deadline: datetime | None = None
        self.closing = threading.Event()
        self._thread = threading.Thread(target=lambda: self.serve_forever(poll_interval=0.01))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fact(self, name: str) -> str | None:
        """What is told under this name, if anything is."""
        if name == "spot/instance-action" and self.deadline is not None:
            return json.dumps({"action": "terminate", "time": self.deadline.isoformat()})
        return self.facts.get(name)

    def close(self) -> None:
        self.closing.set()
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Metadata

    def log_message(self, *_: object) -> None:
        """Silent."""

    def do_PUT(self) -> None:
        self._answer(200, b"token")

    def do_GET(self) -> None:
        if self.path == "/never":
            self.server.closing.wait(PATIENCE_S)
            return
        fact = self.server.fact(self.path.removeprefix("/latest/meta-data/"))
        authorised = self.headers["X-aws-ec2-metadata-token"] == "token"
        self._answer(401 if not authorised else 404 if fact is None else 200, (fact or "").encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
