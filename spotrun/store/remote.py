"""Objects behind an fsspec file system: S3, this process's memory, and whatever else fsspec reaches.

Nothing is cached: what a listing or a read returns is what the service says now. Requests are made once; trying again
is `RetryingStore`'s business. On S3 all that a training asks for takes a faster way, `spotrun.store.s3`, past the file
system, which is made when somebody asks for dates: making s3fs and its event loop takes as long as a small resume.

S3 and memory create an object only if it is absent, in one step, which keeps two attempts apart; `Lineage.claim` checks
that the server keeps that promise. Of other file systems nothing of the kind is known: there it is a look and then a
write, `exclusive` is False, and a warning says what that means.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

import fsspec

from spotrun.errors import SpecError, StoreMissing
from spotrun.store.digest import Part, scatter, size_of
from spotrun.store.fault import BeyondEnd, Taken, has_expired, translated
from spotrun.store.key import checked
from spotrun.store.option import StoreOptions
from spotrun.store.s3 import S3Blobs, S3Limits, crc64nvme
from spotrun.store.session import sharing_models
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
_CREATE_LOCK = threading.Lock()  # the memory of a process is one, and creation there takes two steps
_ARN = re.compile(  # of an access point or of a bucket on an outpost, which hold slashes of their own
    r"(arn:aws[^/]*:s3(?:-outposts)?:[a-z0-9-]*:\d{12}:"
    r"(?:outpost[/:][\w-]+[/:](?:bucket|accesspoint)[/:][\w-]+|accesspoint[/:][^/]+))[/:]?(.*)",
    re.ASCII,
)
_READ_ONLY = {"http", "https", "data", "zip", "tar", "libarchive", "git", "github", "gist", "reference", "hf-mount",
              "cached", "blockcache", "filecache", "simplecache", "dir", "async_wrapper", "generic"}  # fmt: skip


class FsspecStore:
    """A `BlobStore` at a URL that fsspec understands.

    Raises:
        SpecError: the scheme is unknown or can only be read, a package is missing, or there is no bucket.
        StoreError: the place cannot be reached.
    """

    def __init__(self, uri: str, options: StoreOptions | None = None, *, limits: S3Limits | None = None) -> None:
        scheme = uri.partition("://")[0].lower()
        scheme = "s3" if scheme == "s3a" else scheme
        if scheme not in {*fsspec.available_protocols(), *fsspec.registry} or scheme in _READ_ONLY:
            raise SpecError(_refusal(uri, scheme))
        self.uri = uri
        self.exclusive = scheme in _OPTIONS
        options = options or StoreOptions()
        options.check(uri, scheme)
        self._pid = 0
        self._blobs: S3Blobs | None = None
        if scheme == "s3":
            self._root = uri.partition("://")[2].rstrip("/")
            if self._root[:1] in {"", "/"}:
                raise SpecError(f"{uri!r} names no bucket; write s3://bucket/path")
            arn = _ARN.fullmatch(self._root)
            bucket, root = arn.groups() if arn else self._root.partition("/")[::2]
            self._blobs = S3Blobs(bucket, root, uri=uri, options=options, limits=limits, crc64=crc64nvme())
        try:
            given = _s3_options(options) if scheme == "s3" else _foreign_options(uri, scheme)
            self._profile = options.profile
            self._arguments = {"protocol": scheme, **_OPTIONS.get(scheme, {}), **given}
            if scheme != "s3":
                self._root = str(self._fs._strip_protocol(uri)).rstrip("/")
        except (ImportError, TypeError, ValueError) as err:
            raise SpecError(f"{uri} cannot be used: {err}") from err
        except OSError as err:
            raise translated(err, f"cannot reach {uri}", "") from err

    @property
    def vouches(self) -> bool:
        """Whether every write is confirmed for as many bytes as were sent; so is S3's PUT, by its reply's tag."""
        return self._blobs is not None

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
        if self._blobs and end is not None:
            memory = memoryview(bytearray(end - start))
            return bytes(memory[: self._blobs.read_into(key, start, [memory])])
        if self._blobs:
            return self._blobs.read(key, start)
        try:
            return self._asked("read", key, lambda: bytes(self._fs.cat_file(path, start=start, end=end)))
        except BeyondEnd:
            return b""

    def read_into(self, key: str, start: int, memories: Sequence[memoryview]) -> int:
        """See `BlobStore.read_into`."""
        if self._blobs:
            return self._blobs.read_into(checked(key), start, memories)
        return scatter(self.read(key, start, start + size_of(memories)), memories)

    def write(self, key: str, parts: Sequence[Part]) -> None:
        """See `BlobStore.write`."""
        path = self._path(key)
        if self._blobs:
            self._blobs.write(key, parts)
        else:
            self._asked("write", key, lambda: self._put(path, b"".join(parts)))

    def create(self, key: str, data: bytes) -> bool:
        """See `BlobStore.create`."""
        path = self._path(key)
        if self._blobs:
            return self._blobs.create(key, data)
        try:
            with _CREATE_LOCK:
                self._asked("create", key, lambda: self._put_new(path, data))
        except Taken:
            return False
        return True

    def list(self, prefix: str) -> list[str]:
        """See `BlobStore.list`."""
        if self._blobs:
            return self._blobs.list(prefix)
        folder, _, start = prefix.rpartition("/")
        top = f"{self._root}/{folder}".rstrip("/") if folder else self._root

        def ask() -> Any:
            if not self.exclusive:
                self._fs.invalidate_cache()
                return self._fs.find(top)
            return self._fs.find(top, prefix=start) if start else self._fs.find(top)

        try:
            found = self._asked("list", prefix, ask)
        except StoreMissing:
            return []
        cut = len(self._root) + 1
        return sorted(key for path in found if (key := str(path)[cut:]).startswith(prefix))

    def modified(self, prefix: str) -> dict[str, datetime]:
        """See `spotrun.store.collection.Dated.modified`; what the file system does not date is left out."""
        top = f"{self._root}/{prefix.rpartition('/')[0]}".rstrip("/")
        try:
            found = self._asked("list", prefix, lambda: self._fs.find(top, detail=True))
        except StoreMissing:
            return {}
        cut = len(self._root) + 1
        times = {str(path)[cut:]: info.get("LastModified", info.get("last_modified")) for path, info in found.items()}
        return {
            key: at for key, at in times.items() if key.startswith(prefix) and isinstance(at, datetime) and at.tzinfo
        }

    def delete(self, key: str) -> None:
        """See `BlobStore.delete`."""
        path = self._path(key)
        if self._blobs:
            self._blobs.delete(key)
            return
        try:
            self._asked("delete", key, lambda: self._fs.rm_file(path))
        except StoreMissing:
            return

    def _put(self, path: str, data: bytes) -> None:
        if not self.exclusive:  # file systems with directories want them made
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        self._fs.pipe_file(path, data)
        if not self.exclusive and (held := self._fs.size(path)) != len(data):  # who knows what it acknowledges
            raise ConnectionError(f"{held} of {len(data)} bytes arrived")

    def _put_new(self, path: str, data: bytes) -> None:
        """In two steps, which a lock makes one for this process, and nothing for others."""
        if self._fs.exists(path):
            raise FileExistsError(path)
        self._put(path, data)

    @property
    def _fs(self) -> Any:
        """The file system, of this process: after a fork the parent's is of no use."""
        if self._pid != os.getpid():
            own = {}
            if self._blobs:
                from aiobotocore.session import AioSession  # noqa: PLC0415 - costs 0.3 s that trainings do not need

                # Of each its own: a session keeps the credentials that it has found.
                own = {"session": sharing_models(AioSession(profile=self._profile))}
            self._made: Any = fsspec.filesystem(**self._arguments, **own)
            self._made.retries = 1
            self._pid = os.getpid()
        return self._made

    def _path(self, key: str) -> str:
        return f"{self._root}/{checked(key)}"

    def _asked(self, what: str, key: str, ask: Callable[[], _T], *, renew: bool = True) -> _T:
        try:
            return ask()
        except Exception as err:  # vendors raise anything; this is where it becomes ours
            if renew and has_expired(err):
                self._pid = 0  # there may be newer credentials by now where these came from
                return self._asked(what, key, ask, renew=False)
            raise translated(err, f"cannot {what} {key!r} in {self.uri}", key) from err


def _s3_options(options: StoreOptions) -> dict[str, Any]:
    """The options in s3fs's words."""
    encryption = {"ServerSideEncryption": options.sse, "SSEKMSKeyId": options.kms_key}
    return {
        "endpoint_url": options.endpoint,
        "requester_pays": options.requester_pays,
        "client_kwargs": {"region_name": options.region} if options.region else {},
        "s3_additional_kwargs": {name: value for name, value in encryption.items() if value},
    }


def _foreign_options(uri: str, scheme: str) -> dict[str, Any]:
    """What the URL itself says: host, user, port."""
    if scheme in _OPTIONS:
        return {}
    kind: Any = fsspec.get_filesystem_class(scheme)
    return {**kind._get_kwargs_from_urls(uri), "skip_instance_cache": True}


def _refusal(uri: str, scheme: str) -> str:
    if scheme in _READ_ONLY:
        return f"{uri} cannot hold checkpoints: {scheme}:// is not written to; use s3://, gs://, az:// or a directory"
    return f"{uri} has a scheme that spotrun does not know; use s3://bucket/path, file:///path or a plain path"
