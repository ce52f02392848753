"""Entries of a lineage's log, their form on the store, and reading them.

An entry is one line of JSON: members sorted by name, no spaces, ASCII, with a `check` that is the BLAKE3 digest of the
same line without it. A reader accepts exactly the bytes that a writer would have produced, so no flipped bit passes.

With a key there is a `mac` too, over the same line without `mac` and `check`: see `spotrun.store.signing`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Protocol

from pydantic import AwareDatetime, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from spotrun.errors import CheckpointCorrupt, StoreMissing
from spotrun.store.blob import BlobStore, readers_of
from spotrun.store.digest import digest_of
from spotrun.store.key import ATTEMPT_MAX, LOG_PREFIX, MANIFEST_KEY, SEQ_MAX, STEP_MAX, log_key, log_seq
from spotrun.store.parallel import in_parallel

__all__ = [
    "METRICS_MAX",
    "NAME_MAX",
    "ClaimEntry",
    "CommitEntry",
    "DamagedEntry",
    "Entry",
    "Signing",
    "decode_entry",
    "encode_entry",
    "list_log",
    "read_entries",
    "read_log",
]

METRICS_MAX = 32  # numbers in one entry
NAME_MAX = 100  # characters of the name of one
_ENTRY_BYTES_MAX = 16 << 10
_HOLES_MAX = 10_000  # more missing numbers than this is no log with a damaged entry, but another thing altogether
_READERS = 16  # threads: entries are tiny, so reading many is all waiting

_Seq = Annotated[int, Field(ge=1, le=SEQ_MAX)]
_Attempt = Annotated[int, Field(ge=1, le=ATTEMPT_MAX)]
_Text = Annotated[str, StringConstraints(max_length=1024)]
_Size = Annotated[int, Field(ge=0)]
_Mac = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None
_Metrics = Annotated[dict[Annotated[str, StringConstraints(max_length=NAME_MAX)], float], Field(max_length=METRICS_MAX)]
_OPTIONAL: dict[str, object] = {
    "mac": None,
    "metrics": {},
}  # members that a line lacks if they say nothing: older writers had none


@dataclass(frozen=True, kw_only=True, slots=True)
class ClaimEntry:
    """From here on the run belongs to this writer; whoever claimed before it is fenced.

    `token` is a random name of the very object that wrote the entry: by it a writer knows its own entries again.
    """

    seq: _Seq
    attempt: _Attempt
    writer: _Text
    token: _Text
    at: AwareDatetime
    mac: _Mac = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CommitEntry:
    """The checkpoint in `manifest` is committed: the run's state, until the next such entry.

    `metrics` are numbers that the training had logged by then, for the rules of retention.
    """

    seq: _Seq
    attempt: _Attempt
    writer: _Text
    token: _Text
    at: AwareDatetime
    step: Annotated[int, Field(ge=0, le=STEP_MAX)]
    manifest: Annotated[str, StringConstraints(pattern=MANIFEST_KEY)]  # its key
    manifest_size: _Size  # bytes
    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]  # of the manifest's bytes
    size: _Size  # bytes of all its blobs
    on_notice: bool = False
    metrics: _Metrics = field(default_factory=dict, hash=False)
    mac: _Mac = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DamagedEntry:
    """An entry that cannot be read, is gone, or is not to be believed. What it said is unknown: it may have been anyone's claim or commit."""

    seq: int
    reason: str
    refused: bool = False  # it can be read, but was not written with the run's key

    @property
    def key(self) -> str:
        """The key under which it was looked for."""
        return log_key(self.seq)

    @property
    def error(self) -> CheckpointCorrupt:
        """The error to raise by whoever cannot go on without this entry."""
        return CheckpointCorrupt(self.key, self.reason)


Entry = ClaimEntry | CommitEntry | DamagedEntry


class Signing(Protocol):
    """Who can tell entries that were written with the run's key from others. Never shows the key."""

    def sign(self, line: bytes) -> str:
        """The signature of an entry's line without `mac` and `check`: 64 hexadecimal digits.

        Raises:
            SpotrunError: the key cannot be used now.
        """

    def fault(self, line: bytes, mac: str | None) -> str | None:
        """Why this cannot be what the key's holder wrote, or None.

        Raises:
            SpotrunError: the key cannot be used now.
        """


_CONFIG = ConfigDict(strict=True, extra="forbid")
ClaimEntry.__pydantic_config__ = _CONFIG  # type: ignore[attr-defined]
CommitEntry.__pydantic_config__ = _CONFIG  # type: ignore[attr-defined]
_KINDS: dict[str, TypeAdapter[Any]] = {"claim": TypeAdapter(ClaimEntry), "commit": TypeAdapter(CommitEntry)}


def read_log(store: BlobStore, *, signing: Signing | None = None) -> tuple[Entry, ...]:
    """The whole log, oldest first; entry number n is at index n - 1. Damaged and missing entries are reported in place.

    Args:
        signing: reports entries as damaged that were not written with the run's key.

    Raises:
        CheckpointCorrupt: this cannot be a log: a number is beyond any log's length, or very many are missing.
        StoreError: the store failed.
    """
    present = list_log(store)
    return read_entries(store, range(1, present[-1] + 1 if present else 1), signing=signing)


def list_log(store: BlobStore) -> tuple[int, ...]:
    """The numbers of the entries that are there, ascending; other objects beside them are none of the log's.

    Raises:
        CheckpointCorrupt: as in `read_log`.
    """
    seqs = sorted(seq for key in store.list(LOG_PREFIX) if (seq := log_seq(key)) is not None)
    if seqs and (seqs[-1] > SEQ_MAX or seqs[-1] - len(seqs) > _HOLES_MAX):
        raise CheckpointCorrupt(log_key(seqs[-1]), f"its number does not follow the {len(seqs)} entries of this log")
    return tuple(seqs)


def read_entries(store: BlobStore, seqs: Iterable[int], *, signing: Signing | None = None) -> tuple[Entry, ...]:
    """The entries with these numbers, in this order; those that are not there are reported as damaged."""
    wanted = list(seqs)

    def read(seq: int) -> Entry:
        entry = _read_entry(store, seq, signing)
        # It may have happened on the way.
        return _read_entry(store, seq, signing) if isinstance(entry, DamagedEntry) else entry

    return tuple(in_parallel(lambda place: read(wanted[place]), len(wanted), threads=readers_of(store, _READERS)))


def encode_entry(entry: ClaimEntry | CommitEntry, *, signing: Signing | None = None) -> bytes:
    """The line that is stored for an entry, signed if there is a key."""
    body = _body(entry)
    if signing is not None:
        body["mac"] = signing.sign(_unsigned(body))
    return _line(body | {"check": digest_of([_line(body)])})


def decode_entry(seq: int, data: bytes) -> Entry:
    """The entry in `data`, found at number `seq`; a `DamagedEntry` for anything that no writer would have written."""
    if len(data) > _ENTRY_BYTES_MAX:
        return DamagedEntry(seq=seq, reason=f"{len(data)} bytes are more than an entry has")
    try:
        body = json.loads(data)
        kind = _KINDS[body.pop("kind")]
        if body.pop("format") != 1 or body.pop("check") is None:
            return DamagedEntry(seq=seq, reason="it has a format that this version of spotrun does not know")
        entry: ClaimEntry | CommitEntry = kind.validate_json(json.dumps(body))
    except ValidationError as err:
        first = err.errors(include_url=False, include_context=False, include_input=False)[0]
        return DamagedEntry(seq=seq, reason=f"{'.'.join(map(str, first['loc'])) or 'the entry'}: {first['msg']}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return DamagedEntry(seq=seq, reason="it is not an entry of a log")
    if encode_entry(entry) != data:
        return DamagedEntry(seq=seq, reason="its bytes differ from its digest")
    if entry.seq != seq:
        return DamagedEntry(seq=seq, reason=f"it is entry {entry.seq} in the wrong place")
    return entry


def _read_entry(store: BlobStore, seq: int, signing: Signing | None) -> Entry:
    try:
        entry = decode_entry(seq, store.read(log_key(seq)))
    except StoreMissing:
        return DamagedEntry(seq=seq, reason="it is missing")
    if signing is None or isinstance(entry, DamagedEntry):
        return entry
    fault = signing.fault(_unsigned(_body(entry)), entry.mac)
    return DamagedEntry(seq=seq, reason=fault, refused=True) if fault else entry


def _body(entry: ClaimEntry | CommitEntry) -> dict[str, Any]:
    body: dict[str, Any] = {"format": 1, "kind": "claim" if isinstance(entry, ClaimEntry) else "commit"}
    for name in entry.__slots__:
        value = getattr(entry, name)
        if name not in _OPTIONAL or value != _OPTIONAL[name]:
            body[name] = value.isoformat() if isinstance(value, datetime) else value
    return body


def _unsigned(body: Mapping[str, Any]) -> bytes:
    return _line({name: value for name, value in body.items() if name != "mac"})


def _line(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")
