"""Keys: which ones a store accepts, and the ones the lineage generates.

Two fences against a hostile or mistaken key. Every store refuses, through `checked`, a key that could name anything
outside its root. And whatever is read from a manifest or a log entry must match the exact form in which spotrun
generates such a key (`MANIFEST_KEY`, `BLOB_KEY`): it is compared, never joined from parts of data.

Keys of manifests and blobs end in a nonce, so none is ever used twice: a deletion that was asked for long ago and
arrives late can not hit an object that was written since.
"""

from __future__ import annotations

import re
import secrets

from spotrun.errors import SpecError, StoreError

__all__ = [
    "ATTEMPT_MAX",
    "BLOB_KEY",
    "BLOB_PREFIX",
    "LOG_PREFIX",
    "MANIFEST_KEY",
    "MANIFEST_PREFIX",
    "SEQ_MAX",
    "STEP_MAX",
    "TAG_PREFIX",
    "TEMPORARY",
    "attempt_of",
    "blob_key",
    "blob_prefix",
    "checked",
    "log_key",
    "log_seq",
    "manifest_key",
    "tag_key",
]

LOG_PREFIX = "log/"
MANIFEST_PREFIX = "manifests/"
BLOB_PREFIX = "blobs/"
TAG_PREFIX = "tags/"
ATTEMPT_MAX = 999_999  # six digits, so that keys sort as numbers do
STEP_MAX = 999_999_999_999
SEQ_MAX = 1_000_000  # entries of a log: a commit a minute for two years

MANIFEST_KEY = r"^manifests/[0-9]{12}-[0-9]{6}-[0-9a-f]{8}\.json$"  # \d would take the digits of any script
BLOB_KEY = r"^blobs/[0-9]{6}/[0-9a-f]{64}-[0-9a-f]{8}$"
TEMPORARY = ".spotrun-tmp"  # where a FileStore keeps files that are not finished; no key may name it

_TAG_NAME = re.compile(r"(?!latest$|[0-9-]+$)[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)  # never like a step
_LOG_KEY = re.compile(r"log/(\d{8})\.json", re.ASCII)
_ATTEMPT = re.compile(r"(?:manifests/\d{12}-|blobs/)(\d{6})(?:[-./].*)?", re.ASCII)
_KEY_BYTES_MAX = 1024  # S3's limit
_NAME_BYTES_MAX = 255  # of most file systems, for each part between slashes


def checked(key: str) -> str:
    """The key itself, once it is sure to stay below the root of any store.

    Raises:
        StoreError: it is empty, too long, absolute, leads upwards or holds control characters.
    """
    parts = key.split("/")
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        raise StoreError(f"{key!r} is no key: it is not UTF-8") from None
    if len(encoded) > _KEY_BYTES_MAX or any(len(part.encode()) > _NAME_BYTES_MAX for part in parts):
        raise StoreError(f"{key[:80]!r}... is no key: it is longer than {_KEY_BYTES_MAX} bytes, or a part of it is "
                         f"longer than {_NAME_BYTES_MAX}")  # fmt: skip
    if any(part in {"", ".", "..", TEMPORARY} for part in parts) or "\\" in key or not key.isprintable():
        raise StoreError(
            f"{key!r} is no key: use printable names separated by single slashes, none of them '.', '..' or {TEMPORARY}"
        )
    return key


def log_key(seq: int) -> str:
    """The key of entry `seq` of the log, numbered from 1."""
    return f"{LOG_PREFIX}{seq:08d}.json"


def log_seq(key: str) -> int | None:
    """The number of a log entry's key, or None for what is no such key."""
    match = _LOG_KEY.fullmatch(key)
    return int(match[1]) if match and int(match[1]) > 0 else None


def manifest_key(step: int, attempt: int) -> str:
    """A new key for a manifest of an attempt at a step."""
    return f"{MANIFEST_PREFIX}{step:012d}-{attempt:06d}-{secrets.token_hex(4)}.json"


def blob_prefix(attempt: int) -> str:
    """What the keys of all blobs of an attempt start with."""
    return f"{BLOB_PREFIX}{attempt:06d}/"


def blob_key(attempt: int, digest: str) -> str:
    """A new key for a blob with this digest."""
    return f"{blob_prefix(attempt)}{digest}-{secrets.token_hex(4)}"


def tag_key(name: str) -> str:
    """The key of a tag.

    Raises:
        SpecError: the name is not fit for one.
    """
    if _TAG_NAME.fullmatch(name) is None:
        raise SpecError(
            f"{name[:120]!r} is no tag: use 1 to 100 letters, digits, '.', '-' and '_', beginning with a letter or "
            "digit, and not only digits or 'latest'"
        )
    return f"{TAG_PREFIX}{name}.json"


def attempt_of(key: str) -> int | None:
    """The attempt that wrote a manifest or blob, or None for any other key."""
    match = _ATTEMPT.fullmatch(key)
    return int(match[1]) if match else None
