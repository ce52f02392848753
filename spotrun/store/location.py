"""From a URL to the store behind it."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from spotrun.errors import SpecError
from spotrun.store.blob import BlobStore
from spotrun.store.file import FileStore
from spotrun.store.retry import RetryingStore

__all__ = ["open_store"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+)://")


def open_store(uri: str) -> BlobStore:
    """The store at a URL, patient with passing failures.

    A plain path or `file://` is a directory, made if need be; `memory://` is this process's memory; `s3://bucket/path`
    is S3 with the credentials, region and endpoint that boto would use; further schemes are those fsspec knows, as long
    as their file systems can create an object only if it is absent.

    Raises:
        SpecError: the URL is wrong, or its scheme is unknown, cannot create exclusively, or needs a package.
        StoreError: the place cannot be used.
    """
    match = _SCHEME.match(uri)
    if not uri or "\0" in uri:
        raise SpecError(f"{uri!r} is not a place for checkpoints; give a directory, or a URL like s3://bucket/path")
    if match is None:
        return RetryingStore(FileStore(Path(uri).expanduser()))
    if match[1].lower() != "file":
        from spotrun.store.remote import FsspecStore  # noqa: PLC0415 - costs 0.3 s that files do not need

        return RetryingStore(FsspecStore(uri))
    parts = urlsplit(uri)
    if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
        raise SpecError(f"{uri!r} names a file on another machine; write file:///absolute/path")
    return RetryingStore(FileStore(unquote(parts.path)))
