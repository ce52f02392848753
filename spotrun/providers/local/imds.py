"""The instance metadata service of a simulated machine: IMDSv2 on loopback, the paths that spot work needs.

Source: EC2 user guide, "Spot Instance interruption notices" and "Use IMDSv2" (2026-11): a token from `PUT
/latest/api/token` must come with every question (401 without), `spot/instance-action` is 404 until there is a notice.
"""

from __future__ import annotations

import json
import secrets
import threading
from datetime import datetime, timezone
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from spotrun.clock import SystemClock
from spotrun.market.offer import MarketKind

__all__ = ["MetadataServer"]

_TTL_S_MAX = 21600  # IMDSv2's own limit
_TOKENS_MAX = 10_000


class MetadataServer:
    """Serves the metadata of one machine from a daemon thread.

    Args:
        instance_id, zone, instance_type, market: of the machine.
    """

    def __init__(self, *, instance_id: str, zone: str, instance_type: str, market: MarketKind) -> None:
        self._facts = {
            "instance-id": instance_id,
            "instance-type": instance_type,
            "instance-life-cycle": "spot" if market is MarketKind.SPOT else "on-demand",
            "placement/availability-zone-id": zone,
        }
        self._tokens: dict[str, float] = {}
        self._clock = SystemClock()  # a token's life is a matter of the connection, not of the job
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The base URL, e.g. `http://127.0.0.1:34567`."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def publish_termination(self, at: datetime) -> None:
        """Tells from now on that the machine will be taken back at `at`; whole seconds, as on EC2, rounded down."""
        time = at.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._facts["spot/instance-action"] = json.dumps({"action": "terminate", "time": time})

    def close(self) -> None:
        """Stops serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def token(self, ttl: str | None) -> str | None:
        """A new token; None for a life that is no number of seconds from 1 to 21600."""
        if ttl is None or not ttl.isascii() or not ttl.isdigit() or not 1 <= int(ttl) <= _TTL_S_MAX:
            return None
        now = self._clock.monotonic()
        if len(self._tokens) >= _TOKENS_MAX:
            self._tokens = {token: until for token, until in self._tokens.items() if until > now}
        token = secrets.token_urlsafe(32)
        self._tokens[token] = now + int(ttl)
        return token

    def answer(self, path: str, token: str | None) -> tuple[HTTPStatus, str]:
        """Status and body for a GET."""
        if token is None or self._tokens.get(token, 0.0) <= self._clock.monotonic():
            return HTTPStatus.UNAUTHORIZED, ""
        fact = self._facts.get(path.removeprefix("/latest/meta-data/").rstrip("/"))
        return (HTTPStatus.NOT_FOUND, "") if fact is None else (HTTPStatus.OK, fact)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, metadata: MetadataServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.metadata = metadata


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5.0  # an idle connection holds a thread
    server: _Server

    def do_PUT(self) -> None:
        token = None
        if self.path == "/latest/api/token":
            token = self.server.metadata.token(self.headers.get("X-aws-ec2-metadata-token-ttl-seconds"))
        self._send(HTTPStatus.OK if token else HTTPStatus.BAD_REQUEST, token or "")

    def do_GET(self) -> None:
        status, body = self.server.metadata.answer(self.path, self.headers.get("X-aws-ec2-metadata-token"))
        self._send(status, body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        """Quiet: the host's log is for what goes wrong."""

    def _send(self, status: HTTPStatus, body: str) -> None:
        data = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
