"""From a URL to the store behind it."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from spotrun.errors import SpecError
from spotrun.store.blob import BlobStore
from spotrun.store.file import FileStore
from spotrun.store.option import StoreOptions
from spotrun.store.retry import RetryingStore

__all__ = ["OPTIONS_VARIABLE", "open_store"]

OPTIONS_VARIABLE = "SPOTRUN_STORE_OPTIONS"  # JSON; how a job's options reach its agent and its training

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+)://")
_TORN = re.compile(  # as paths these would silently be directories of odd names
    r"(file|local|memory|s3a?|gs|gcs|az|azure|adl|abfss?|https?|s?ftp|ssh|hdfs):/?(?!/)", re.IGNORECASE
)
_LOOSE = (
    "{uri} goes through fsspec: slower, and {scheme}:// is not known to create an object only if it is absent, so two "
    "attempts that run at once are not kept apart there. Use s3://, gs://, az:// or a directory where that may happen."
)
_SAME = {"s3a": "s3", "gcs": "gs", "azure": "az", "adl": "az", "abfs": "az", "abfss": "az", "local": "file"}


def open_store(
    uri: str, options: StoreOptions | Mapping[str, Any] | None = None, *, looking: bool = False
) -> BlobStore:
    """The store at a URL, patient with passing failures.

    A plain path or `file://` is a directory, made if need be; `memory://` is this process's memory; `s3://bucket/path`
    is S3 with the credentials, region and endpoint that boto would use; `gs://bucket/path` and `az://container/path`
    are Google's and Azure's stores. Further schemes are those that fsspec knows; with them, two attempts at once are
    not kept apart (`exclusive` of the store is False), and a warning says so.

    Args:
        uri: the place.
        options: what the URL does not say; None for those of the environment (`SPOTRUN_STORE_OPTIONS`), of which those
            that mean nothing to this kind of place are left out.
        looking: nothing is made before the first write, so that a place can be looked at that may not be written.

    Raises:
        SpecError: the URL or an option is wrong, or the scheme is unknown, can only be read, or needs a package.
        StoreError: the place cannot be used.
    """
    match = _SCHEME.match(uri)
    if not uri or "\0" in uri:
        raise SpecError(f"{uri!r} is not a place for checkpoints; give a directory, or a URL like s3://bucket/path")
    if torn := _TORN.match(uri):
        rest = uri[torn.end() :]
        url = f"{torn[1].lower()}://" + (f"/{rest}" if torn[1].lower() in {"file", "local"} else rest)
        raise SpecError(f"{uri!r} is neither a URL nor a plain path; write {url} (a directory of that name: ./{uri})")
    scheme = match[1].lower() if match else "file"
    scheme = _SAME.get(scheme, scheme)
    if options is None:
        chosen = StoreOptions.read(os.environ.get(OPTIONS_VARIABLE)).fit(scheme)
    else:
        chosen = StoreOptions.read(options)
        chosen.check(uri, scheme)
    if scheme == "file":
        path = Path(uri).expanduser() if match is None else _path_of(uri)
        return RetryingStore(FileStore(path, looking=looking))
    return RetryingStore(_opened(uri, scheme, chosen))


def _opened(uri: str, scheme: str, options: StoreOptions) -> BlobStore:
    if scheme in {"gs", "az"}:
        from spotrun.store.cloud import CloudStore  # noqa: PLC0415 - costs time that files do not need

        return CloudStore(uri, options)
    from spotrun.store.remote import FsspecStore  # noqa: PLC0415 - costs 0.3 s that files do not need

    store = FsspecStore(uri, options)
    if not store.exclusive:
        warnings.warn(_LOOSE.format(uri=uri, scheme=scheme), stacklevel=3)
    return store


def _path_of(uri: str) -> Path:
    parts = urlsplit(uri)
    if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
        raise SpecError(f"{uri!r} names a file on another machine; write file:///absolute/path")
    return Path(unquote(parts.path))
