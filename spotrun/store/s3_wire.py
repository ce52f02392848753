"""HTTP/1.1 on connections of our own: bytes go from and to the caller's memory, without a copy between.

botocore's HTTP client copies what it reads and takes a third to two thirds more processor time for what it sends. Here
a request's parts are given to the socket where they lie, and a reply's body is received where it is wanted. Everything
else is as plain as can be: one request at a time on a connection, kept for the next one; no redirects, no proxies, no
compression, no decision about errors. A connection that the server closed while it was idle is replaced once, without
a word. A connection is never shared with a forked child: the owner makes a new `Wire` there.
"""

from __future__ import annotations

import http.client
import select
import socket
import ssl
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from spotrun.clock import Clock
from spotrun.store.landing import BadReply, Landing
from spotrun.store.pace import Pace, Stalled

__all__ = ["Call", "Reply", "Wire", "WireLimits"]

_BUFFER_BYTES = 64 << 10  # of each connection, for headers and small pieces
_SEND_BYTES = 1 << 20  # at once, so that progress and time-outs are seen
_LOOK_BYTES = 128 << 10  # between two looks at the clock; TLS gives and takes no more than 16 KiB at a time
_DRIP_BYTES = 4 << 10  # so little at a time is looked at in any case
_BODY_BYTES_MAX = 64 << 20  # of a reply that is kept in memory: a listing or an error
_LINE_BYTES_MAX = 64 << 10
_CLOSED = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)


@dataclass(frozen=True, kw_only=True, slots=True)
class WireLimits:
    """How long to wait, and how much to keep."""

    connect_s: float = 10.0
    reply_s: float = 60.0  # for the first byte of a reply; completing a large upload takes that long
    kept: int = 32  # idle connections
    kept_s: float = 15.0  # S3 closes them at about 20 s


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A request, ready to be sent; and what its bytes are counted by."""

    method: str
    url: str = field(repr=False)  # may be signed
    headers: Mapping[str, str] = field(repr=False)
    parts: Sequence[memoryview] = field(repr=False)
    landing: Landing | None
    pace: Pace


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """An answer; its body is empty when it went to a landing."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    keep: bool  # whether the connection may be used again


class Wire:
    """Connections, as many as there are requests at a time.

    Args:
        tls: makes the context for https, when it is first needed.
        limits: bounds.
        clock: for the age of connections.
    """

    def __init__(self, *, tls: Callable[[], ssl.SSLContext], limits: WireLimits, clock: Clock) -> None:
        self._tls = tls
        self._context: ssl.SSLContext | None = None
        self._limits = limits
        self._clock = clock
        self._idle: list[tuple[float, _Connection]] = []
        self._lock = threading.Lock()
        self._closer = weakref.finalize(self, _close_all, self._idle)

    def exchange(self, call: Call) -> Reply:
        """Sends a request and receives its reply.

        Raises:
            OSError: no connection, no reply, or one cut short.
            Stalled: it hardly moved.
            BadReply: what came is not what was asked for.
        """
        place = _place(call.url)
        connection = self._kept(place)
        if connection is not None:
            try:
                return self._on(connection, call)
            except _CLOSED:
                if connection.answered:
                    raise
        return self._on(self._connected(place), call)

    def close(self) -> None:
        """Closes idle connections; the wire can be used again."""
        with self._lock:
            _close_all(self._idle)

    def _on(self, connection: _Connection, call: Call) -> Reply:
        try:
            reply = connection.exchange(call, self._limits.reply_s)
        except BaseException:
            connection.close()
            raise
        with self._lock:
            if reply.keep and len(self._idle) < self._limits.kept:
                self._idle.append((self._clock.monotonic(), connection))
                return reply
        connection.close()
        return reply

    def _kept(self, place: tuple[str, str, int]) -> _Connection | None:
        oldest = self._clock.monotonic() - self._limits.kept_s
        with self._lock:
            found = [item for item in self._idle if item[0] < oldest or item[1].is_readable()]
            for item in found:
                self._idle.remove(item)
                item[1].close()
            for item in reversed(self._idle):
                if item[1].place == place:
                    self._idle.remove(item)
                    return item[1]
        return None

    def _connected(self, place: tuple[str, str, int]) -> _Connection:
        scheme, host, port = place
        sock = socket.create_connection((host, port), timeout=self._limits.connect_s)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if scheme == "https":
                with self._lock:
                    if self._context is None:
                        self._context = self._tls()
                sock = self._context.wrap_socket(sock, server_hostname=host)
        except BaseException:
            sock.close()
            raise
        return _Connection(sock, place)


class _Connection:
    """One connection, with what was received but not yet used."""

    def __init__(self, sock: socket.socket, place: tuple[str, str, int]) -> None:
        self.place = place
        self.answered = False
        self._sock = sock
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._start = self._end = 0

    def close(self) -> None:
        self._sock.close()

    def is_readable(self) -> bool:
        """Whether something came, or the end, while nothing was asked."""
        try:
            poll = select.poll()
            poll.register(self._sock, select.POLLIN)
            ready = bool(poll.poll(0))
        except (OSError, ValueError):
            return True
        # A TLS server may send session tickets at any time; reading the next reply takes them in.
        return ready and not isinstance(self._sock, ssl.SSLSocket)

    def exchange(self, call: Call, reply_s: float) -> Reply:
        self.answered = False
        self._sock.settimeout(call.pace.limits.idle_s)
        try:
            self._send(call)
        except _CLOSED as err:
            return self._refused(call, err)
        except TimeoutError:
            raise Stalled(f"nothing was taken for {call.pace.limits.idle_s:g} s") from None
        self._sock.settimeout(reply_s)
        try:
            self._fill()
        except TimeoutError:
            raise Stalled(f"no reply within {reply_s:g} s") from None
        self._sock.settimeout(call.pace.limits.idle_s)
        return self._receive(call)

    def _refused(self, call: Call, err: OSError) -> Reply:
        """The reply of a server that closed before it took all: it may say why."""
        try:
            reply = self._receive(call)
        except OSError:
            raise err from None
        if reply.status < 300:
            raise BadReply("the server answered before it had taken the request") from err
        return Reply(status=reply.status, headers=reply.headers, body=reply.body, keep=False)

    def _send(self, call: Call) -> None:
        head = _head(call)
        small = sum(len(part) for part in call.parts) <= _BUFFER_BYTES
        if small:
            self._sock.sendall(b"".join([head, *call.parts]))
            call.pace.moved(sum(len(part) for part in call.parts))
            return
        self._sock.sendall(head)
        for chunk in _chunks(call.parts):
            sent = told = 0
            while sent < len(chunk):
                sent += self._sock.send(chunk[sent:])
                if sent - told >= _LOOK_BYTES or sent == len(chunk):
                    call.pace.moved(sent - told)
                    told = sent

    def _receive(self, call: Call) -> Reply:
        try:
            status, headers, keep = self._receive_head()
            landing = call.landing
            if landing is not None and status in {200, 206}:
                if "chunked" in headers.get("transfer-encoding", "").lower():
                    raise BadReply("the server does not say how long its reply is")
                self._land(landing, landing.expected(status, headers), call.pace)
                return Reply(status=status, headers=headers, body=b"", keep=keep)
            body = self._receive_body(call.method, status, headers)
            framed = "content-length" in headers or "transfer-encoding" in headers or status == 204
            return Reply(status=status, headers=headers, body=body, keep=keep and framed)
        except TimeoutError:
            raise Stalled(f"nothing came for {call.pace.limits.idle_s:g} s in the middle of a reply") from None

    def _receive_head(self) -> tuple[int, dict[str, str], bool]:
        while True:
            line = self.readline().split(None, 2)
            if len(line) < 2 or not line[0].startswith(b"HTTP/1.") or not line[1].isdigit():
                raise BadReply("what answered does not speak HTTP")
            message = http.client.parse_headers(self)
            status = int(line[1])
            if status >= 200:
                break
        headers = {name.lower(): value for name, value in message.items()}
        keep = line[0] != b"HTTP/1.0" and "close" not in headers.get("connection", "").lower()
        return status, headers, keep

    def _receive_body(self, method: str, status: int, headers: Mapping[str, str]) -> bytes:
        if method == "HEAD" or status in {204, 304}:
            return b""
        body = bytearray()
        if "chunked" in headers.get("transfer-encoding", "").lower():
            while size := _hexadecimal(self.readline()):
                body += self._bytes(size, len(body))
                self.readline()
            while self.readline().strip():
                pass
            return bytes(body)
        length = headers.get("content-length", "")
        if length.isdecimal():
            return self._bytes(int(length), 0)
        while self._start < self._end or self._fill(end_allowed=True):
            body += self._bytes(self._end - self._start, len(body))
        return bytes(body)

    def _bytes(self, size: int, before: int) -> bytes:
        if before + size > _BODY_BYTES_MAX:
            raise BadReply(f"a reply of more than {_BODY_BYTES_MAX} bytes to a question of a few")
        data = bytearray(size)
        done = 0
        while done < size:
            done += self._take(memoryview(data)[done:])
        return bytes(data)

    def _land(self, landing: Landing, size: int, pace: Pace) -> None:
        """Receives `size` bytes into the memories: large pieces without a copy, small ones through the buffer."""
        for memory in landing.views:
            view = memory[: size - landing.filled]
            done = told = 0
            while done < len(view):
                if self._start == self._end and len(view) - done >= _BUFFER_BYTES:
                    count = self._sock.recv_into(view[done:])
                    if not count:
                        raise ConnectionResetError(f"the reply ended after {landing.filled} of {size} bytes")
                else:
                    count = self._take(view[done:])
                done += count
                landing.filled += count
                if done - told >= _LOOK_BYTES or done == len(view) or count < _DRIP_BYTES:
                    pace.moved(done - told)
                    told = done

    def _take(self, view: memoryview) -> int:
        """Moves what is buffered to `view`, once there is something."""
        if self._start == self._end:
            self._fill()
        count = min(len(view), self._end - self._start)
        view[:count] = self._buffer[self._start : self._start + count]
        self._start += count
        return count

    def _fill(self, *, end_allowed: bool = False) -> bool:
        if self._start < self._end:
            return True
        self._start = 0
        self._end = self._sock.recv_into(self._buffer)
        if not self._end and not end_allowed:
            raise ConnectionResetError("the server closed the connection")
        self.answered = self.answered or self._end > 0
        return self._end > 0

    def readline(self, limit: int = _LINE_BYTES_MAX) -> bytes:
        """A line with its end; the form that `http.client.parse_headers` reads from."""
        line = bytearray()
        while not line.endswith(b"\n"):
            self._fill()
            window = self._buffer[self._start : self._end].tobytes()
            cut = window.find(b"\n") + 1 or len(window)
            line += window[:cut]
            self._start += cut
            if len(line) > limit:
                raise BadReply("a reply with an endless line")
        return bytes(line)


def _close_all(idle: list[tuple[float, _Connection]]) -> None:
    while idle:
        idle.pop()[1].close()


def _place(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise BadReply("an endpoint must be an http or https URL")
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def _head(call: Call) -> bytes:
    parts = urlsplit(call.url)
    target = parts.path or "/"
    if parts.query:
        target = f"{target}?{parts.query}"
    scheme, _, port = _place(call.url)
    host = parts.netloc.rpartition("@")[2]
    if (scheme, port) in {("https", 443), ("http", 80)}:
        host = host.removesuffix(f":{port}")  # as it was signed
    headers = {name.lower(): value for name, value in call.headers.items()}
    headers.setdefault("host", host)
    headers.pop("expect", None)  # its round trip costs more than a refused body now and then
    if call.method in {"PUT", "POST"}:
        headers["content-length"] = str(sum(len(part) for part in call.parts))
    lines = [f"{call.method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if any("\r" in line or "\n" in line for line in lines):
        raise BadReply("a header with a line break")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _chunks(parts: Sequence[memoryview]) -> Iterator[memoryview]:
    """The parts in pieces of at most `_SEND_BYTES`; runs of small ones are joined, since each send is a system call."""
    run: list[memoryview] = []
    size = 0
    for part in parts:
        small = len(part) < _BUFFER_BYTES
        if run and (not small or size >= _SEND_BYTES):
            yield memoryview(b"".join(run))
            run, size = [], 0
        if small:
            run.append(part)
            size += len(part)
        else:
            yield from (part[start : start + _SEND_BYTES] for start in range(0, len(part), _SEND_BYTES))
    if run:
        yield memoryview(b"".join(run))


def _hexadecimal(line: bytes) -> int:
    try:
        return int(line.split(b";")[0], 16)
    except ValueError:
        raise BadReply("a reply in chunks of no size") from None
