"""S3 requests: botocore makes and signs them and reads the replies; the bytes between travel on our own wire.

botocore knows credentials and their refreshing, endpoints, addressing, regions, encryption, redirects to the right
region and what an error means. All of that stays with it: every request goes through an ordinary botocore client,
signed anew at each try, with the credentials of that moment. Only the sending is taken out of its hands, by its own
`before-send` event. Where the wire cannot do what the environment asks for (a proxy), botocore sends after all.

After a fork nothing of this is shared: the child makes its own client and connections at its first request.
"""

from __future__ import annotations

import os
import re
import ssl
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import botocore
import botocore.exceptions
import botocore.session
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.config import Config
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies

from spotrun.clock import Clock
from spotrun.store.digest import Part, size_of, views_of
from spotrun.store.fault import has_expired
from spotrun.store.landing import Landing
from spotrun.store.option import StoreOptions
from spotrun.store.pace import Pace
from spotrun.store.s3_wire import Call, Wire, WireLimits
from spotrun.store.session import sharing_models

__all__ = ["Body", "Requests"]

_UNREAD = {"last-modified", "expires"}  # nobody asks, and botocore takes long to make dates of them
_DATED = re.compile(rb"<LastModified>[^<]*</LastModified>")
_HEAD_BYTES = 200  # in which a listing says what it is


class Body:
    """The parts of a request as botocore wants to see them: with a length, and readable should it send them itself."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.views = views_of(parts)
        self._size = size_of(parts)
        self._at = 0

    def __len__(self) -> int:
        return self._size

    def __bool__(self) -> bool:
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves there."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = min(max(base + offset, 0), self._size)
        return self._at

    def read(self, size: int = -1) -> bytes:
        """The next bytes, copied; only for a request that botocore sends."""
        end = self._size if size < 0 else min(self._at + size, self._size)
        pieces, start = [], 0
        for view in self.views:
            stop = start + len(view)
            if start < end and stop > self._at:
                pieces.append(view[max(self._at - start, 0) : end - start])
            start = stop
        self._at = max(end, self._at)
        return b"".join(pieces)


class _Job(threading.local):
    """What the request of this thread is about, for the handler that sends it."""

    landing: Landing | None = None
    pace: Pace | None = None


@dataclass(frozen=True, slots=True)
class _Here:
    """What belongs to this process."""

    pid: int
    client: Any
    wire: Wire
    proxied: bool
    job: _Job = field(default_factory=_Job)


class Requests:
    """A way to ask S3. Thread-safe.

    Args:
        options: how to reach it.
        limits: of the connections.
        clock: wall time.
    """

    def __init__(self, options: StoreOptions, *, limits: WireLimits, clock: Clock) -> None:
        self._options = options
        self._limits = limits
        self._clock = clock
        self._made: _Here | None = None
        self._locks: dict[int, threading.Lock] = {}

    def ask(self, operation: str, *, pace: Pace, landing: Landing | None = None, **parameters: Any) -> dict[str, Any]:
        """Makes one request and gives what botocore reads from the reply. Credentials that the service calls expired are
        looked up anew, once.

        Args:
            operation: botocore's name for it, like `put_object`.
            pace: cuts it when it stalls.
            landing: where the body of the reply goes, if it is wanted in memory of the caller's.
            parameters: what botocore takes; `Body` may be a `Body`.

        Raises:
            botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError: as always.
            OSError: no reply, or one cut short; `Stalled` and `BadReply` among them.
        """
        here = self._here()
        try:
            return self._ask(here, operation, pace, landing, parameters)
        except botocore.exceptions.ClientError as err:
            if not has_expired(err):
                raise
            if self._made is here:  # else another thread has seen to it
                self._made = None
            return self._ask(self._here(), operation, pace, landing, parameters)

    def _ask(
        self, here: _Here, operation: str, pace: Pace, landing: Landing | None, parameters: dict[str, Any]
    ) -> dict[str, Any]:
        here.job.landing, here.job.pace = landing, pace
        try:
            reply: dict[str, Any] = getattr(here.client, operation)(**parameters)
        finally:
            here.job.landing = here.job.pace = None
        if here.proxied and landing is not None:
            _fill(landing, reply, pace)
        return reply

    @property
    def proxied(self) -> bool:
        """Whether botocore itself sends, because a proxy stands between."""
        return self._here().proxied

    def close(self) -> None:
        """Closes all connections of this process; the next request makes new ones."""
        made, self._made = self._made, None
        if made is not None and made.pid == os.getpid():
            made.wire.close()
            made.client.close()

    def _here(self) -> _Here:
        made = self._made
        if made is not None and made.pid == os.getpid():
            return made
        # A lock for each process: one that another thread of the parent held at the fork would never be released.
        with self._locks.setdefault(os.getpid(), threading.Lock()):
            made = self._made
            if made is None or made.pid != os.getpid():
                made = self._made = self._make()
            return made

    def _make(self) -> _Here:
        options = self._options
        session = sharing_models(botocore.session.Session(profile=options.profile))
        client = session.create_client(
            "s3",
            region_name=options.region,
            endpoint_url=options.endpoint,
            config=Config(
                connect_timeout=self._limits.connect_s,
                read_timeout=self._limits.reply_s,
                retries={"total_max_attempts": 1},  # trying again is decided elsewhere
                parameter_validation=False,  # it refuses views of memory
                user_agent=f"spotrun/{version('spotrun')} botocore/{botocore.__version__}",  # else composed twice a request
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",  # every reader checks digests, which cover ranges, too
                s3={"payload_signing_enabled": False},
            ),
        )
        verify = session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE") or True
        wire = Wire(tls=lambda: _context(verify), limits=self._limits, clock=self._clock)
        proxied = bool(get_environ_proxies(client.meta.endpoint_url))
        here = _Here(os.getpid(), client, wire, proxied)
        if not proxied:
            client.meta.events.register("before-send.s3", _sender(wire, here.job))
        return here


def _sender(wire: Wire, job: _Job) -> Any:
    def send(request: AWSPreparedRequest, **_: Any) -> AWSResponse | None:
        pace = job.pace
        if pace is None:
            return None
        body = request.body
        reply = wire.exchange(
            Call(
                method=request.method,
                url=request.url,
                headers={name: _text(value) for name, value in request.headers.items()},
                parts=body.views if isinstance(body, Body) else views_of([_bytes(body)]),
                landing=job.landing if request.method == "GET" else None,  # botocore may ask for a region between
                pace=pace,
            )
        )
        headers = {name: value for name, value in reply.headers.items() if name not in _UNREAD}
        return AWSResponse(request.url, reply.status, headers, _Raw(_undated(reply.body)))

    return send


def _undated(body: bytes) -> bytes:
    """A listing without dates, which take most of the time to read it."""
    return _DATED.sub(b"", body) if b"<ListBucketResult" in body[:_HEAD_BYTES] else body


class _Raw:
    """A reply's body in the form that botocore reads."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self, *_: Any, **__: Any) -> Iterator[bytes]:
        """All of it."""
        yield self._body

    def read(self, *_: Any, **__: Any) -> bytes:
        """All of it, once."""
        body, self._body = self._body, b""
        return body


def _fill(landing: Landing, reply: dict[str, Any], pace: Pace) -> None:
    """The body of a reply that botocore received."""
    meta = reply["ResponseMetadata"]
    body = reply["Body"]
    try:
        left = landing.expected(meta["HTTPStatusCode"], meta["HTTPHeaders"])
        for view in landing.views:
            done = 0
            while done < len(view) and left and (count := body.readinto(view[done : done + left])):
                done, left = done + count, left - count
                landing.filled += count
                pace.moved(count)
        if left:
            raise ConnectionResetError(f"the reply ended {left} bytes early")
    finally:
        body.close()


def _context(verify: str | bool) -> ssl.SSLContext:
    bundle = get_cert_path(verify)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks certificates and names
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if os.path.isdir(bundle):  # noqa: PTH112 - as botocore asks
        context.load_verify_locations(capath=bundle)
    else:
        context.load_verify_locations(cafile=bundle)
    return context


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _bytes(body: Any) -> bytes:
    if body is None:
        return b""
    if isinstance(body, str):
        return body.encode()
    return body if isinstance(body, bytes) else bytes(body.read())
