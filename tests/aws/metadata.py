"""The instance metadata service of one machine, on loopback: IMDSv2, with what EC2 tells of an instance.

Source: EC2 user guide, "Instance metadata categories" and "Spot Instance interruption notices" (2026-11).
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_TTL_S_MAX = 21600


def instant_text(instant: datetime) -> str:
    """As EC2 writes it: whole seconds, UTC."""
    return instant.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, kw_only=True, slots=True)
class Role:
    """The role of the instance profile, and where its keys come from."""

    name: str
    keys: Callable[[], Mapping[str, str]]


class Metadata:
    """Answers for one instance until closed.

    Args:
        facts: by path below `/latest/meta-data/`.
        identity: the identity document.
        user_data: of the instance.
        role: None for an instance without a profile.
        token_required: False lets IMDSv1 in as well.
    """

    def __init__(
        self,
        *,
        facts: Mapping[str, str],
        identity: Mapping[str, Any],
        user_data: bytes,
        role: Role | None,
        token_required: bool,
    ) -> None:
        self._facts = dict(facts)
        self._identity = dict(identity)
        self._user_data = user_data
        self._role = role
        self._token_required = token_required
        self._tokens: dict[str, float] = {}
        self.asked: set[str] = set()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """As for `AWS_EC2_METADATA_SERVICE_ENDPOINT`."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/"

    def announce(self, deadline: datetime) -> None:
        """The notice of an interruption at `deadline`."""
        self._facts["spot/instance-action"] = json.dumps({"action": "terminate", "time": instant_text(deadline)})
        self._facts["spot/termination-time"] = instant_text(deadline)

    def recommend(self, at: datetime) -> None:
        """The recommendation to rebalance."""
        self._facts["events/recommendations/rebalance"] = json.dumps({"noticeTime": instant_text(at)})

    def close(self) -> None:
        """Answers no more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def token(self, ttl: str | None) -> str | None:
        """A new token; None for a life that IMDSv2 does not give."""
        if ttl is None or not ttl.isdigit() or not 1 <= int(ttl) <= _TTL_S_MAX:
            return None
        token = secrets.token_urlsafe(32)
        self._tokens[token] = time.monotonic() + int(ttl)
        return token

    def answer(self, path: str, token: str | None) -> tuple[int, str | bytes]:
        """Status and body."""
        valid = self._tokens.get(token or "", 0.0) > time.monotonic()
        if not valid and (token is not None or self._token_required):
            return 401, ""
        self.asked.add(path)
        found = self._find(path)
        return (404, "") if found is None else (200, found)

    def _find(self, path: str) -> str | bytes | None:
        if path == "/latest/user-data":
            return self._user_data or None
        if path == "/latest/dynamic/instance-identity/document":
            return json.dumps(self._identity)
        name = path.removeprefix("/latest/meta-data/").rstrip("/")
        if self._role is not None and name == "iam/security-credentials":
            return self._role.name
        if self._role is not None and name == f"iam/security-credentials/{self._role.name}":
            return self._keys(self._role)
        return self._facts.get(name)

    def _keys(self, role: Role) -> str:
        keys = role.keys()
        now = datetime.now(timezone.utc)  # noqa: TID251 - the world has its own clock
        return json.dumps(
            {
                "Code": "Success",
                "LastUpdated": instant_text(now),
                "Type": "AWS-HMAC",
                "AccessKeyId": keys["AWS_ACCESS_KEY_ID"],
                "SecretAccessKey": keys["AWS_SECRET_ACCESS_KEY"],
                "Token": keys["AWS_SESSION_TOKEN"],
                "Expiration": instant_text(now + timedelta(hours=6)),
            }
        )


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, metadata: Metadata) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.metadata = metadata


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10.0
    server: _Server

    def do_PUT(self) -> None:
        token = None
        if self.path == "/latest/api/token":
            token = self.server.metadata.token(self.headers.get("X-aws-ec2-metadata-token-ttl-seconds"))
        self._send(200 if token else 400, token or "")

    def do_GET(self) -> None:
        self._send(*self.server.metadata.answer(self.path, self.headers.get("X-aws-ec2-metadata-token")))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        """Says nothing."""

    def _send(self, status: int, body: str | bytes) -> None:
        data = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
