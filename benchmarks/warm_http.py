"""Memory that stays warm, and HTTP over it: what `fast_s3.py` stands on.

A body is received straight into blocks of one arena and sent from them, with no copy of our own. Whoever needs it holds
it; when the last lets go its blocks are used again.
"""

import ctypes
import mmap
import os
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

BLOCK = 1 << 20
SEGMENT = 64 << 20  # what the arena grows by
SMALL = 64 << 10  # bodies up to here live in objects of their own
HEAD_BYTES_MAX = 64 << 10

# --- memory -----------------------------------------------------------------------------------------------------------


class Arena:
    """Blocks of memory that stay warm."""

    def __init__(self) -> None:
        self._free: deque[memoryview] = deque()
        self._lock = threading.Lock()
        self._file = os.memfd_create("arena") if hasattr(os, "memfd_create") else None
        self._size = 0
        self._places: dict[int, tuple[int, int]] = {}  # of segments: by id, their address and their place in the file

    def warm(self, size: int) -> None:
        """Takes and touches this much memory now."""
        for _ in range(-(-size // SEGMENT)):
            self._grow(touch=True)

    def take(self, size: int) -> list[memoryview]:
        """Blocks for this many bytes."""
        wanted = -(-size // BLOCK)
        with self._lock:
            while len(self._free) < wanted:
                self._grow()
            return [self._free.pop() for _ in range(wanted)]

    def give(self, blocks: Iterable[memoryview]) -> None:
        """Takes blocks back; the newest are used first, they may still lie in a cache."""
        with self._lock:
            self._free.extend(blocks)

    def _grow(self, *, touch: bool = False) -> None:
        if self._file is None:
            segment = mmap.mmap(-1, SEGMENT)
        else:
            os.ftruncate(self._file, self._size + SEGMENT)
            segment = mmap.mmap(self._file, SEGMENT, offset=self._size)
            self._places[id(segment)] = (ctypes.addressof(ctypes.c_char.from_buffer(segment)), self._size)
            self._size += SEGMENT
        view = memoryview(segment)
        if touch:
            view[:: mmap.PAGESIZE] = bytes(SEGMENT // mmap.PAGESIZE)
        self._free.extend(view[start : start + BLOCK] for start in range(0, SEGMENT, BLOCK))

    def place_of(self, view: memoryview) -> tuple[int, int] | None:
        """The file and the offset in it at which a piece of a block lies; None for other memory."""
        place = self._places.get(id(view.obj))
        if place is None or self._file is None:
            return None
        base, start = place
        return self._file, start + ctypes.addressof(ctypes.c_char.from_buffer(view)) - base


class Body:
    """Bytes in memory, held by objects, uploads and replies; when the last lets go, the memory is used again."""

    def __init__(
        self, views: list[memoryview], *, blocks: Iterable[memoryview] = (), of: Iterable["Body"] = ()
    ) -> None:
        self.views = views
        self.size = sum(len(view) for view in views)
        self._blocks = blocks
        self._of = list(of)  # bodies in whose memory this one lies
        self._holders = 1
        for body in self._of:
            body.hold()

    def hold(self) -> "Body":
        with HOLDING:
            assert self._holders, "held after it was let go"
            self._holders += 1
        return self

    def drop(self) -> None:
        with HOLDING:
            self._holders -= 1
            if self._holders:
                return
        ARENA.give(self._blocks)
        for body in self._of:
            body.drop()

    def cut(self, start: int, end: int) -> list[memoryview]:
        """The bytes [start, end) where they lie."""
        found, at = [], 0
        for view in self.views:
            low, high = max(start - at, 0), min(end - at, len(view))
            if low < high:
                found.append(view[low:high])
            at += len(view)
            if at >= end:
                break
        return found


ARENA = Arena()
HOLDING = threading.Lock()


def joined(bodies: list[Body]) -> Body:
    return Body([view for body in bodies for view in body.views], of=bodies)


# --- one connection ---------------------------------------------------------------------------------------------------


class Gone(Exception):
    """The client hung up."""


class Wire:
    """Reads from and writes to one connection, at the speed that it is given."""

    def __init__(self, sock: socket.socket, bytes_per_s: float) -> None:
        self.sock = sock
        self._bytes_per_s = bytes_per_s
        self._early = memoryview(b"")  # received, not yet read
        self._whole = 0 if isinstance(sock, ssl.SSLSocket) else socket.MSG_WAITALL

    def head(self) -> list[str]:
        """The lines of a request's head."""
        data = bytes(self._early)
        while b"\r\n\r\n" not in data:
            if len(data) > HEAD_BYTES_MAX:
                raise Gone
            data += self._some()
        end = data.index(b"\r\n\r\n")
        self._early = memoryview(data)[end + 4 :]
        return data[:end].decode("latin-1").split("\r\n")

    def line(self) -> bytes:
        data = bytes(self._early)
        while b"\r\n" not in data:
            data += self._some()
        end = data.index(b"\r\n")
        self._early = memoryview(data)[end + 2 :]
        return data[:end]

    def fill(self, view: memoryview) -> None:
        began = time.perf_counter()
        done = min(len(view), len(self._early))
        view[:done] = self._early[:done]
        self._early = self._early[done:]
        while done < len(view):
            took = self.sock.recv_into(view[done:], 0, self._whole)
            if not took:
                raise Gone
            done += took
            self._pace(took, began)
            began = time.perf_counter() if self._bytes_per_s else began

    def send(self, head: bytes, views: list[memoryview]) -> None:
        self.sock.sendall(head)
        for view in views:
            began = time.perf_counter()
            place = ARENA.place_of(view) if self._whole else None
            if place is None:
                self.sock.sendall(view)
            else:
                self._send_file(*place, len(view))
            self._pace(len(view), began)

    def _send_file(self, file: int, start: int, size: int) -> None:
        """Pages go out where they lie. Whoever deletes an object while it is being read would read what comes next."""
        sent = 0
        while sent < size:
            took = os.sendfile(self.sock.fileno(), file, start + sent, size - sent)
            if not took:
                raise Gone
            sent += took

    def _some(self) -> bytes:
        data = self.sock.recv(HEAD_BYTES_MAX)
        if not data:
            raise Gone
        return data

    def _pace(self, count: int, began: float) -> None:
        if self._bytes_per_s:
            left_s = count / self._bytes_per_s - (time.perf_counter() - began)
            if left_s > 0:
                time.sleep(left_s)


class Chunked:
    """A body in chunks, as HTTP (`Transfer-Encoding: chunked`) and the SDKs (`aws-chunked`) frame it; they nest."""

    def __init__(self, source: "Wire | Chunked") -> None:
        self._source = source
        self._left = 0
        self._first = True
        self.trailer: list[bytes] = []
        self.ended = False

    def fill(self, view: memoryview) -> None:
        done = 0
        while done < len(view):
            if not self._left and not self._next():
                raise Gone
            count = min(self._left, len(view) - done)
            self._source.fill(view[done : done + count])
            self._left -= count
            done += count

    def line(self) -> bytes:
        data, byte = bytearray(), memoryview(bytearray(1))
        while not data.endswith(b"\r\n"):
            self.fill(byte)
            data += byte
        return bytes(data[:-2])

    def rest(self) -> bytes:
        """All that is left; also reads the end of the framing."""
        data = bytearray()
        while self._left or self._next():
            piece = memoryview(bytearray(self._left))
            self.fill(piece)
            data += piece
        return bytes(data)

    def _next(self) -> bool:
        if self.ended:
            return False
        if not self._first:
            self._source.line()
        self._first = False
        self._left = int(self._source.line().split(b";")[0], 16)
        if not self._left:
            self.ended = True
            while line := self._source.line():
                self.trailer.append(line)
        return not self.ended


@dataclass
class Request:
    method: str
    bucket: str
    key: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Body | None = None

    @property
    def text(self) -> bytes:
        return b"".join(self.body.views) if self.body else b""


@dataclass
class Reply:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    text: bytes = b""
    body: Body | None = None  # dropped once it is sent
    start: int = 0
    end: int = 0


def read_request(wire: Wire) -> Request:
    first, *lines = wire.head()
    method, target, _ = first.split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    url = urlsplit(target)
    path = unquote(url.path).lstrip("/")
    host = headers.get("host", "").rpartition(":")[0] or headers.get("host", "")
    if host.endswith(".localhost"):
        path = f"{host.removesuffix('.localhost')}/{path}"
    bucket, _, key = path.partition("/")
    query = dict(parse_qsl(url.query, keep_blank_values=True))
    request = Request(method, bucket, key, query, headers)
    if headers.get("expect", "").lower() == "100-continue":
        wire.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    if method in {"PUT", "POST"}:
        request.body = read_body(wire, headers)
    return request


def read_body(wire: Wire, headers: dict[str, str]) -> Body:
    chunked = "chunked" in headers.get("transfer-encoding", "")
    outer = Chunked(wire) if chunked else None
    if "x-amz-decoded-content-length" in headers:
        inner = Chunked(outer or wire)
        body = received(inner, int(headers["x-amz-decoded-content-length"]))
        inner.rest()
        for line in inner.trailer:
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        if outer:
            outer.rest()
        return body
    if outer:
        return Body([memoryview(outer.rest())])
    return received(wire, int(headers.get("content-length") or 0))


def received(source: Wire | Chunked, size: int) -> Body:
    if size <= SMALL:
        view = memoryview(bytearray(size))
        source.fill(view)
        return Body([view])
    blocks = ARENA.take(size)
    views = [block[: size - number * BLOCK] for number, block in enumerate(blocks)]
    try:
        for view in views:
            source.fill(view)
    except BaseException:
        ARENA.give(blocks)
        raise
    return Body(views, blocks=blocks)
