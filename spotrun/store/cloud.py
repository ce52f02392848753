"""Google's and Azure's object stores, through obstore: `gs://bucket/path`, `az://container/path`.

Both create an object only if it is absent, atomically, so the log holds there as it does on S3. Credentials are looked
up where the vendors' own tools do: application default credentials and `GOOGLE_*`, `AZURE_STORAGE_*`, workload and
managed identities.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import obstore
from obstore import exceptions
from obstore.store import AzureStore, GCSStore, from_url

from spotrun.errors import SpecError, StoreDenied, StoreError, StoreMissing, StoreUnavailable
from spotrun.store.digest import Part, size_of, views_of
from spotrun.store.key import checked
from spotrun.store.option import StoreOptions
from spotrun.store.traffic import Moved, Traffic

__all__ = ["CloudStore"]

_T = TypeVar("_T")

_MULTIPART_FROM_BYTES = 64 << 20
_PART_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 20  # of what is received, at least; copied to where it is wanted
_TRIES = 2  # of a request, before whoever asked decides
_CONFIG = {"connect_timeout": "10s", "timeout": "300s"}
_VENDORS = (exceptions.BaseError, OSError, ValueError, TypeError)
_QUERY = re.compile(r"\?[^\s,)]*")  # of a URL in a message; a shared access signature would be in it
_STATUS = re.compile(r"\b(?:status|status code|response)[^0-9]{0,12}([1-5]\d\d)\b", re.IGNORECASE)
_CREDENTIALS = re.compile(r"credential|metadata|token|unauthorized|oauth|service account", re.IGNORECASE)


class CloudStore:
    """A `BlobStore` in a bucket of Google's or a container of Azure's. Thread-safe; not to be used in a forked child.

    Raises:
        SpecError: the URL names no bucket, or the environment lacks what is needed to reach it.
    """

    exclusive = True

    def __init__(self, uri: str, options: StoreOptions | None = None) -> None:
        self.uri = uri
        self.traffic = Traffic()
        endpoint = (options or StoreOptions()).endpoint
        if uri.partition("://")[2][:1] in {"", "/"}:
            raise SpecError(f"{uri!r} names no bucket; write gs://bucket/path or az://container/path")
        try:
            self._store = _opened(uri, endpoint)
        except (exceptions.BaseError, ValueError) as err:
            raise SpecError(f"{uri} cannot be used: {_said(err)}") from err
        if not isinstance(self._store, (AzureStore, GCSStore)):
            raise SpecError(f"{uri} is neither Google's nor Azure's; write gs://bucket/path or az://container/path")

    @property
    def engine(self) -> str:
        """What moves the bytes, as a person would say it."""
        return f"obstore {obstore.__version__}"

    @property
    def moved(self) -> Moved:
        """Bytes that were sent and received since this store was opened."""
        return self.traffic.moved

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """See `BlobStore.read`."""
        name = checked(key)
        if end is not None and end <= start:
            return b""
        if start == 0 and end is None:
            return self._asked("read", key, lambda: bytes(obstore.get(self._store, name).bytes()))
        range_: Any = {"offset": start} if end is None else (start, end)
        return self._ranged(
            key, start, lambda: bytes(obstore.get(self._store, name, options={"range": range_}).bytes()), b""
        )

    def read_into(self, key: str, start: int, memories: Sequence[memoryview]) -> int:
        """See `BlobStore.read_into`."""
        name, views, size = checked(key), views_of(memories), size_of(memories)
        if not size:
            return 0

        def ask() -> int:
            reply = obstore.get(self._store, name, options={"range": (start, start + size)})
            first, last = reply.range
            if first != start or last > start + size:
                raise StoreUnavailable(f"{key!r} in {self.uri} was answered with bytes {first} to {last}")
            filled = 0
            for chunk in reply.stream(min_chunk_size=_CHUNK_BYTES):
                piece = memoryview(chunk)
                _scatter(piece, views, filled)
                filled += len(piece)
                self.traffic.add(received=len(piece))
            if filled != last - first:
                raise StoreUnavailable(f"{key!r} in {self.uri} ended after {filled} of {last - first} bytes")
            return filled

        return self._ranged(key, start, ask, 0)

    def write(self, key: str, parts: Sequence[Part]) -> None:
        """See `BlobStore.write`; large objects go up in parts, some at a time."""
        name, views, size = checked(key), views_of(parts), size_of(parts)
        many = size >= _MULTIPART_FROM_BYTES
        self._asked(
            "write",
            key,
            lambda: obstore.put(self._store, name, iter(views) if views else b"", use_multipart=many,
                                chunk_size=_PART_BYTES, max_concurrency=4),
        )  # fmt: skip
        self.traffic.add(sent=size)

    def create(self, key: str, data: bytes) -> bool:
        """See `BlobStore.create`."""
        name = checked(key)

        def ask() -> bool:
            try:
                obstore.put(self._store, name, data, mode="create", use_multipart=False)
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
                return False
            return True

        return self._asked("create", key, ask)

    def list(self, prefix: str) -> list[str]:
        """See `BlobStore.list`."""
        folder = prefix.rpartition("/")[0] or None  # a prefix in the middle of a name is no prefix there

        def ask() -> list[str]:
            pages = obstore.list(self._store, folder)
            return [str(item["path"]) for page in pages for item in page]

        return sorted(key for key in self._asked("list", prefix, ask) if key.startswith(prefix))

    def delete(self, key: str) -> None:
        """See `BlobStore.delete`."""
        name = checked(key)
        try:
            self._asked("delete", key, lambda: obstore.delete(self._store, name))
        except StoreMissing:
            return

    def _ranged(self, key: str, start: int, ask: Callable[[], _T], nothing: _T) -> _T:
        """What a ranged read gives, and `nothing` where the object ends before: that is an error like any other."""
        try:
            return self._asked("read", key, ask)
        except (StoreDenied, StoreMissing):
            raise
        except StoreError:
            if start < self._asked("look at", key, lambda: int(obstore.head(self._store, key)["size"])):
                raise
            return nothing

    def _asked(self, what: str, key: str, ask: Callable[[], _T]) -> _T:
        try:
            return ask()
        except _VENDORS as err:
            raise _translated(err, f"cannot {what} {key!r} in {self.uri}", key) from _Told(_said(err))


class _Told(Exception):
    """A vendor's exception, without the addresses in its text: a signature may be in them."""


def _opened(uri: str, endpoint: str | None) -> Any:
    client: Any = {**_CONFIG, "allow_http": True} if endpoint and endpoint.startswith("http://") else _CONFIG
    given: dict[str, Any] = {}
    if endpoint:
        given = {"base_url" if uri.lower().startswith(("gs:", "gcs:")) else "endpoint": endpoint.rstrip("/")}
    return from_url(
        uri.replace("gcs://", "gs://", 1),
        client_options=client,
        retry_config={"max_retries": _TRIES - 1, "retry_timeout": timedelta(seconds=30)},
        **given,
    )


def _scatter(piece: memoryview, views: Sequence[memoryview], at: int) -> None:
    """Copies a piece of the views' concatenation to its place in them."""
    for view in views:
        if at < len(view) and len(piece):
            count = min(len(view) - at, len(piece))
            view[at : at + count] = piece[:count]
            piece, at = piece[count:], at + count
        at -= len(view)
        if at < 0 or not len(piece):
            return


def _translated(err: Exception, what: str, key: str) -> StoreError:
    why = f"{what}: {_said(err)}"
    if "NoSuchBucket" in str(err) or "ContainerNotFound" in str(err):
        return StoreError(f"{what}: the bucket does not exist")
    match err:
        case exceptions.NotFoundError() | FileNotFoundError():
            return StoreMissing(key)
        case exceptions.PermissionDeniedError() | exceptions.UnauthenticatedError():
            return StoreDenied(why)
        case exceptions.InvalidPathError() | exceptions.NotSupportedError() | ValueError() | TypeError():
            return StoreError(why)
    status = _STATUS.search(str(err))
    code = int(status[1]) if status else 0
    if code in {401, 403} or (not code and _CREDENTIALS.search(str(err))):
        return StoreDenied(why)
    if 400 <= code < 500 and code not in {408, 409, 429}:
        return StoreError(why)
    return StoreUnavailable(why)


def _said(err: BaseException) -> str:
    """The first paragraph of a message, without what may be secret."""
    text = str(err).partition("\n\nDebug source")[0].strip() or type(err).__name__
    return _QUERY.sub("?...", " ".join(text.split()))[:500]
