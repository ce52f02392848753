"""Objects behind an fsspec file system: S3, and this process's memory.

Nothing is cached: what a listing or a read returns is what the service says now. Requests are made once; trying again
is `RetryingStore`'s business. Blobs of S3 take a faster way, `spotrun.store.s3`, past the file system. Only file systems
that are known to create exclusively are accepted, because the log stands or falls with that; `Lineage.claim` checks
besides that the server keeps the promise.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from spotrun.errors import SpecError, StoreMissing
from spotrun.store.digest import Part, size_of, views_of
from spotrun.store.fault import BeyondEnd, Taken, translated
from spotrun.store.key import checked
from spotrun.store.option import StoreOptions
from spotrun.store.s3 import S3Blobs, S3Limits, crc64nvme
from spotrun.store.traffic import Moved

__all__ = ["FsspecStore"]

_T = TypeVar("_T")

_OPTIONS: dict[str, dict[str, Any]] = {
    "memory": {},
    "s3": {
        "skip_instance_cache": True,  # else an endpoint or credentials that changed since would be ignored
        "use_listings_cache": False,
        "config_kwargs": {
            "connect_timeout": 10,
            "read_timeout": 60,
            "retries": {"total_max_attempts": 1},
            "response_checksum_validation": "when_required",  # every reader checks digests, which cover ranges, too
        },
    },
}
_RANGE_FROM_BYTES = 1 << 20  # of which a read takes the fast way; below, what a request costs in all counts more
_MEMORY_LOCK = threading.Lock()  # that file system is one per process and creates in two steps


class FsspecStore:
    """A `BlobStore` at a URL that fsspec understands.

    Raises:
        SpecError: the scheme is unknown or lacks exclusive creation, a package is missing, or there is no bucket.
    """

    def __init__(self, uri: str, options: StoreOptions | None = None, *, limits: S3Limits | None = None) -> None:
        scheme = uri.partition("://")[0].lower()
        scheme = "s3" if scheme == "s3a" else scheme
        if scheme not in _OPTIONS:
            raise SpecError(_refusal(uri, scheme))
        self.uri = uri
        options = options or StoreOptions()
        options.check(uri, scheme)
        given = _s3_options(options) if scheme == "s3" else {}
        try:
            self._fs: Any = fsspec.filesystem(scheme, **_OPTIONS[scheme], **given)
        except ImportError as err:
            raise SpecError(f"{uri} cannot be used: {err}") from err
        self._root = str(self._fs._strip_protocol(uri.replace("s3a://", "s3://", 1))).rstrip("/")
        self._blobs: S3Blobs | None = None
        if scheme == "s3":
            if uri.partition("://")[2][:1] in {"", "/"}:
                raise SpecError(f"{uri!r} names no bucket; write s3://bucket/path")
            self._fs.retries = 1
            bucket, root, _ = self._fs.split_path(self._root)
            self._blobs = S3Blobs(bucket, root, uri=uri, options=options, limits=limits, crc64=crc64nvme())

    @property
    def engine(self) -> str:
        """What moves the bytes of blobs, as a person would say it."""
        return self._blobs.engine if self._blobs else "fsspec"

    @property
    def moved(self) -> Moved:
        """Bytes of blobs that were sent and received since this store was opened."""
        return self._blobs.traffic.moved if self._blobs else Moved()

    def abort_leftovers(self, *, before: datetime) -> int:
        """Aborts uploads in parts that were begun here before an instant and never completed; tells how many.

        Raises:
            StoreError: they cannot be listed or aborted.
        """
        return self._blobs.abort_leftovers(before=before) if self._blobs else 0

    def close(self) -> None:
        """Closes idle connections for blobs; the store can be used again."""
        if self._blobs:
            self._blobs.close()

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """See `BlobStore.read`."""
        path = self._path(key)
        if end is not None and end <= start:
            return b""
        if self._blobs and end is not None and end - start >= _RANGE_FROM_BYTES:
            memory = bytearray(end - start)
            return bytes(memoryview(memory)[: self._blobs.read_into(key, start, [memoryview(memory)])])

        def ask() -> bytes:
            if start == 0 and end is None:
                data = self._fs.cat_file(path, max_concurrency=1)  # one request: no look at the size before
            else:
                data = self._fs.cat_file(path, start=start, end=end)
            return bytes(data)

        try:
            return self._asked("read", key, ask)
        except BeyondEnd:
            return b""

    def read_into(self, key: str, start: int, memories: Sequence[memoryview]) -> int:
        """See `BlobStore.read_into`."""
        if self._blobs:
            return self._blobs.read_into(checked(key), start, memories)
        data = memoryview(self.read(key, start, start + size_of(memories)))
        filled = 0
        for memory in views_of(memories):
            piece = data[filled : filled + len(memory)]
            memory[: len(piece)] = piece
            filled += len(piece)
        return filled

    def write(self, key: str, parts: Sequence[Part]) -> None:
        """See `BlobStore.write`."""
        path = self._path(key)
        if self._blobs:
            self._blobs.write(key, parts)
        else:
            self._asked("write", key, lambda: self._fs.pipe_file(path, b"".join(parts)))

    def create(self, key: str, data: bytes) -> bool:
        """See `BlobStore.create`."""
        path = self._path(key)
        try:
            if isinstance(self._fs, MemoryFileSystem):
                with _MEMORY_LOCK:
                    self._asked("create", key, lambda: self._fs.pipe_file(path, data, mode="create"))
            else:
                self._asked("create", key, lambda: self._fs.pipe_file(path, data, mode="create"))
        except Taken:
            return False
        return True

    def list(self, prefix: str) -> list[str]:
        """See `BlobStore.list`."""
        folder, _, start = prefix.rpartition("/")
        top = f"{self._root}/{folder}".rstrip("/") if folder else self._root
        found = self._asked("list", prefix, lambda: self._fs.find(top, prefix=start) if start else self._fs.find(top))
        cut = len(self._root) + 1
        return sorted(key for path in found if (key := str(path)[cut:]).startswith(prefix))

    def delete(self, key: str) -> None:
        """See `BlobStore.delete`."""
        path = self._path(key)
        try:
            self._asked("delete", key, lambda: self._fs.rm_file(path))
        except StoreMissing:
            return

    def _path(self, key: str) -> str:
        return f"{self._root}/{checked(key)}"

    def _asked(self, what: str, key: str, ask: Callable[[], _T]) -> _T:
        try:
            return ask()
        except Exception as err:  # vendors raise anything; this is where it becomes ours
            raise translated(err, f"cannot {what} {key!r} in {self.uri}", key) from err


def _s3_options(options: StoreOptions) -> dict[str, Any]:
    """The options in s3fs's words."""
    encryption = {"ServerSideEncryption": options.sse, "SSEKMSKeyId": options.kms_key}
    return {
        "profile": options.profile,
        "endpoint_url": options.endpoint,
        "requester_pays": options.requester_pays,
        "client_kwargs": {"region_name": options.region} if options.region else {},
        "s3_additional_kwargs": {name: value for name, value in encryption.items() if value},
    }


def _refusal(uri: str, scheme: str) -> str:
    if scheme in fsspec.available_protocols():
        return (
            f"{uri} cannot hold checkpoints: nothing is known of {scheme}:// that would keep two attempts from writing "
            "to one run (exclusive creation of an object); use s3://, file:// or a plain path"
        )
    return f"{uri} has a scheme that spotrun does not know; use s3://bucket/path, file:///path or a plain path"
