"""Notices of interruption: from the instance metadata service (IMDSv2), and from the agent's own SIGTERM.

Source: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html (2026-11): `GET
/latest/meta-data/spot/instance-action` answers 404 while there is none, then `{"action": ..., "time": ...}`; AWS
recommends a look every 5 seconds. The notice is best effort and may never come.
"""

from __future__ import annotations

import http.client
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from spotrun.agent.bell import Bell
from spotrun.agent.config import Timing, at_least
from spotrun.clock import Clock

__all__ = ["MetadataService", "Notice", "NoticeBoard", "NoticeWatcher"]

_TIMEOUT_WALL_S = 1.0  # link-local: an answer takes milliseconds, and none means that there is no such service
_TOKEN_TTL_S = 21600  # the longest that IMDSv2 allows
_ANSWER_BYTES_MAX = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """The machine may be gone at `deadline`. `first` is False when only the deadline of a known one became exact."""

    deadline: datetime
    first: bool


class NoticeBoard:
    """Where notices are put up, and where each is taken from exactly once. Thread-safe."""

    def __init__(self, *, bell: Bell, notice_s: float) -> None:
        self._bell = bell
        self._notice = timedelta(seconds=notice_s)
        self._lock = threading.Lock()
        self._published: datetime | None = None  # newest deadline that the metadata service told
        self._taken: datetime | None = None  # the one of those that was taken last
        self._signalled = False
        self._deadline: datetime | None = None
        self._guessed = False

    def publish(self, deadline: datetime) -> None:
        """The metadata service tells this deadline; telling it again changes nothing."""
        with self._lock:
            if deadline == self._published:
                return
            self._published = deadline
        self._bell.ring()

    def signalled(self) -> None:
        """The agent got SIGTERM. Fit for a signal handler: takes no lock; the signal itself rings the bell."""
        self._signalled = True

    def take(self, now: datetime) -> Notice | None:
        """The notice that was not taken before, if there is one. Main thread only."""
        signalled = self._signalled
        if signalled:  # only then: a signal that comes between these lines must not be forgotten
            self._signalled = False
        with self._lock:
            known = self._deadline is not None and now < self._deadline
            if self._published is not None and self._published != self._taken:
                self._taken = self._deadline = self._published
                first = not (known and self._guessed)
                self._guessed = False
                return Notice(deadline=self._deadline, first=first)
            if signalled and not known:
                self._deadline = now + self._notice
                self._guessed = True
                return Notice(deadline=self._deadline, first=True)
            return None

    @property
    def deadline(self) -> datetime | None:
        """The deadline of the notice taken last; None before the first."""
        with self._lock:
            return self._deadline


class MetadataService:
    """The instance metadata service at `base_url`. Asks it directly: no proxy of the environment may be in between."""

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        self._host = parts.hostname or ""
        self._port = parts.port or 80
        self._base = parts.path.rstrip("/")
        self._token: str | None = None

    def deadline(self) -> datetime | None:
        """When the instance is to be interrupted; None while nothing is announced or nobody answers. Never raises."""
        try:
            status, body = self._get("/latest/meta-data/spot/instance-action")
            if status == http.client.UNAUTHORIZED:  # the token has expired
                self._token = None
                status, body = self._get("/latest/meta-data/spot/instance-action")
        except (OSError, ValueError, http.client.HTTPException):  # ValueError: a token that no header can carry
            self._token = None
            return None
        return _deadline(body) if status == http.client.OK else None

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


class NoticeWatcher:
    """Looks at the metadata service again and again, until told to stop."""

    def __init__(self, service: MetadataService, board: NoticeBoard, *, clock: Clock, timing: Timing) -> None:
        self._service = service
        self._board = board
        self._clock = clock
        self._period_s = at_least(clock, timing.poll_s, timing.poll_wall_s)
        self._stopped = threading.Event()

    def run(self) -> None:
        """Watches until `stop`; for a thread of its own."""
        while not self._stopped.is_set():
            due_s = self._clock.monotonic() + self._period_s
            deadline = self._service.deadline()
            if deadline is not None:
                self._board.publish(deadline)
            self._stopped.wait(max(0.0, self._clock.wall(due_s - self._clock.monotonic())))

    def stop(self) -> None:
        """Ends `run` within the metadata service's time-out."""
        self._stopped.set()


class _InstanceAction(BaseModel):
    model_config = ConfigDict(extra="ignore")

    action: str  # terminate, stop or hibernate: to us they are one
    time: datetime


def _deadline(body: bytes) -> datetime | None:
    try:
        told = _InstanceAction.model_validate_json(body).time
    except ValidationError:
        return None
    return told.replace(tzinfo=timezone.utc) if told.tzinfo is None else told.astimezone(timezone.utc)
