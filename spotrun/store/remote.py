"""Objects behind an fsspec file system: S3, and this process's memory.

Nothing is cached: what a listing or a read returns is what the service says now. Requests are made once; trying again
is `RetryingStore`'s business. Only file systems that are known to create exclusively are accepted, because the log
stands or falls with that; `Lineage.claim` checks besides that the server keeps the promise.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import botocore.exceptions
import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from spotrun.errors import SpecError, StoreDenied, StoreError, StoreMissing, StoreUnavailable
from spotrun.store.digest import Part, size_of, views_of
from spotrun.store.key import checked
from spotrun.store.multipart import upload

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
_MULTIPART_FROM_BYTES = 32 << 20
_MEMORY_LOCK = threading.Lock()  # that file system is one per process and creates in two steps

_BUSY_CODES = {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "ConditionalRequestConflict",
               "OperationAborted", "XAmzContentSHA256Mismatch", "IncompleteBody", "BadDigest"}  # fmt: skip
_DENIED_CODES = {"AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch",
                 "RequestTimeTooSkewed", "AccountProblem", "AllAccessDisabled", "TokenRefreshRequired"}  # fmt: skip
_NO_CREDENTIALS = (
    botocore.exceptions.NoCredentialsError,
    botocore.exceptions.PartialCredentialsError,
    botocore.exceptions.CredentialRetrievalError,
    botocore.exceptions.ProfileNotFound,
    botocore.exceptions.SSOError,
)


class FsspecStore:
    """A `BlobStore` at a URL that fsspec understands.

    Raises:
        SpecError: the scheme is unknown or lacks exclusive creation, a package is missing, or there is no bucket.
    """

    def __init__(self, uri: str) -> None:
        scheme = uri.partition("://")[0].lower()
        scheme = "s3" if scheme == "s3a" else scheme
        if scheme not in _OPTIONS:
            raise SpecError(_refusal(uri, scheme))
        self.uri = uri
        try:
            self._fs: Any = fsspec.filesystem(scheme, **_OPTIONS[scheme])
        except ImportError as err:
            raise SpecError(f"{uri} cannot be used: {err}") from err
        self._root = str(self._fs._strip_protocol(uri.replace("s3a://", "s3://", 1))).rstrip("/")
        if scheme == "s3":
            if uri.partition("://")[2][:1] in {"", "/"}:
                raise SpecError(f"{uri!r} names no bucket; write s3://bucket/path")
            self._fs.retries = 1

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """See `BlobStore.read`."""
        path = self._path(key)
        if end is not None and end <= start:
            return b""

        def ask() -> bytes:
            if start == 0 and end is None:
                data = self._fs.cat_file(path, max_concurrency=1)  # one request: no look at the size before
            else:
                data = self._fs.cat_file(path, start=start, end=end)
            return bytes(data)

        try:
            return self._asked("read", key, ask)
        except _BeyondEnd:
            return b""

    def read_into(self, key: str, start: int, memories: Sequence[memoryview]) -> int:
        """See `BlobStore.read_into`."""
        data = memoryview(self.read(key, start, start + size_of(memories)))
        filled = 0
        for memory in views_of(memories):
            piece = data[filled : filled + len(memory)]
            memory[: len(piece)] = piece
            filled += len(piece)
        return filled

    def write(self, key: str, parts: Sequence[Part]) -> None:
        """See `BlobStore.write`; large objects go up in parts, a few at a time."""
        path = self._path(key)
        if isinstance(self._fs, MemoryFileSystem) or size_of(parts) < _MULTIPART_FROM_BYTES:
            self._asked("write", key, lambda: self._fs.pipe_file(path, b"".join(parts)))
            return
        self._asked("write", key, lambda: upload(self._fs, path, parts))

    def create(self, key: str, data: bytes) -> bool:
        """See `BlobStore.create`."""
        path = self._path(key)
        try:
            if isinstance(self._fs, MemoryFileSystem):
                with _MEMORY_LOCK:
                    self._asked("create", key, lambda: self._fs.pipe_file(path, data, mode="create"))
            else:
                self._asked("create", key, lambda: self._fs.pipe_file(path, data, mode="create"))
        except _Taken:
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
            raise _translated(err, f"cannot {what} {key!r} in {self.uri}", key) from err


class _Taken(StoreError):
    """There is an object under the key that was to be created."""


class _BeyondEnd(StoreError):
    """The range starts at or after the end of the object."""


def _translated(err: Exception, what: str, key: str) -> StoreError:
    """What a file system's exception means to us."""
    vendor: Any = err if hasattr(err, "response") else err.__cause__ or err
    reply = getattr(vendor, "response", None) or {}
    code = str(reply.get("Error", {}).get("Code", ""))
    status = int(reply.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    why = f"{what}: {vendor or type(vendor).__name__}"
    if isinstance(err, FileExistsError) or status == 412 or code == "PreconditionFailed":
        return _Taken(why)
    if status == 416 or code == "InvalidRange":
        return _BeyondEnd(why)
    if code == "NoSuchBucket":
        return StoreError(f"{what}: the bucket does not exist")
    if isinstance(err, FileNotFoundError):
        return StoreMissing(key)
    if code in _DENIED_CODES or status in {401, 403} or isinstance(err, (PermissionError, *_NO_CREDENTIALS)):
        return StoreDenied(why)
    if code in _BUSY_CODES or status in {408, 409, 429} or status >= 500:
        return StoreUnavailable(why)
    if status or isinstance(err, (botocore.exceptions.ParamValidationError, TypeError, ValueError)):
        return StoreError(why)
    return StoreUnavailable(why)  # no reply at all: connection refused, reset, timed out, cut short


def _refusal(uri: str, scheme: str) -> str:
    if scheme in fsspec.available_protocols():
        return (
            f"{uri} cannot hold checkpoints: nothing is known of {scheme}:// that would keep two attempts from writing "
            "to one run (exclusive creation of an object); use s3://, file:// or a plain path"
        )
    return f"{uri} has a scheme that spotrun does not know; use s3://bucket/path, file:///path or a plain path"
