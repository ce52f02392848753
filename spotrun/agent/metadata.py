"""The instance metadata service, version 2: a token first, then any number of questions.

Source: Amazon EC2 User Guide, 'Use the Instance Metadata Service to access instance metadata' (seen 2026-11).
"""

from __future__ import annotations

import http.client
from datetime import datetime, timezone
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

__all__ = ["MetadataService"]

_TIMEOUT_WALL_S = 1.0  # link-local: an answer takes milliseconds, and none means that there is no such service
_TOKEN_TTL_S = 21600  # the longest that IMDSv2 allows
_ANSWER_BYTES_MAX = 1 << 16
_YEARS = range(1971, 9000)  # of an instant that can be reckoned with


class MetadataService:
    """The service at `base_url`. Asks it directly: no proxy of the environment may be in between."""

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        self._host = parts.hostname or ""
        self._port = parts.port or 80
        self._base = parts.path.rstrip("/")
        self._token: str | None = None

    def deadline(self) -> datetime | None:
        """When the instance is to be interrupted; None while nothing is announced. Never raises."""
        return _instant(self.get("spot/instance-action"), _InstanceAction)

    def recommended_at(self) -> datetime | None:
        """When it was recommended to move away from this instance; None while it was not. Never raises."""
        return _instant(self.get("events/recommendations/rebalance"), _Recommendation)

    def get(self, path: str) -> bytes | None:
        """What it says under `/latest/meta-data/<path>`; None if there is nothing or nobody answers. Never raises."""
        whole = f"/latest/meta-data/{path}"
        try:
            status, body = self._get(whole)
            if status == http.client.UNAUTHORIZED:  # the token has expired
                self._token = None
                status, body = self._get(whole)
        except (OSError, ValueError, http.client.HTTPException):  # ValueError: a token that no header can carry
            self._token = None
            return None
        return body if status == http.client.OK else None

    def text(self, path: str) -> str | None:
        """The same as one line of text; None for what is none."""
        body = self.get(path)
        text = "" if body is None else body.decode("utf-8", "replace").strip()
        return text if text and text.isprintable() else None

    def _get(self, path: str) -> tuple[int, bytes]:
        if self._token is None:
            ttl = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_TTL_S)}
            status, body = self._ask("PUT", "/latest/api/token", ttl)
            if status != http.client.OK:
                return http.client.NOT_FOUND, b""
            self._token = body.decode("latin-1").strip()
        return self._ask("GET", path, {"X-aws-ec2-metadata-token": self._token})

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=_TIMEOUT_WALL_S)
        try:
            connection.request(method, self._base + path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read(_ANSWER_BYTES_MAX)
        finally:
            connection.close()


class _InstanceAction(BaseModel):
    model_config = ConfigDict(extra="ignore")

    action: str  # terminate, stop or hibernate: to us they are one
    time: datetime


class _Recommendation(BaseModel):
    model_config = ConfigDict(extra="ignore")

    time: datetime = Field(alias="noticeTime")


def _instant(body: bytes | None, kind: type[_InstanceAction | _Recommendation]) -> datetime | None:
    try:
        told = None if body is None else kind.model_validate_json(body).time
    except ValidationError:
        return None
    if told is None or told.year not in _YEARS:
        return None
    return told.replace(tzinfo=timezone.utc) if told.tzinfo is None else told.astimezone(timezone.utc)
