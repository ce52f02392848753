"""Names that people give to commits, each an object of its own beside the log: `tags/<name>.json`.

A tag is created once and names one commit until it is removed. Readers go by what it says, never by its key alone.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from pydantic import AwareDatetime, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from spotrun.errors import CheckpointCorrupt, CheckpointError, SpecError, StoreMissing
from spotrun.store.blob import BlobStore
from spotrun.store.content import read_manifest
from spotrun.store.digest import digest_of
from spotrun.store.key import ATTEMPT_MAX, BLOB_PREFIX, MANIFEST_KEY, STEP_MAX, TAG_PREFIX, tag_key
from spotrun.store.log import CommitEntry

__all__ = ["Tag", "add_tag", "find_tag", "read_tags", "remove_tag", "tags_by_manifest"]

_TAG = re.compile(r"tags/([A-Za-z0-9][A-Za-z0-9._-]{0,99})\.json", re.ASCII)
_TAGS_MAX = 10_000
_TAG_BYTES_MAX = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Tag:
    """A name of one commit; `at` is when it was given, `manifest` the commit's."""

    name: Annotated[str, StringConstraints(max_length=100)]
    manifest: Annotated[str, StringConstraints(pattern=MANIFEST_KEY)]
    step: Annotated[int, Field(ge=0, le=STEP_MAX)]
    attempt: Annotated[int, Field(ge=1, le=ATTEMPT_MAX)]
    at: AwareDatetime


Tag.__pydantic_config__ = ConfigDict(strict=True, extra="forbid")  # type: ignore[attr-defined]
_FORM: TypeAdapter[Tag] = TypeAdapter(Tag)


def add_tag(store: BlobStore, name: str, entry: CommitEntry, *, at: datetime) -> Tag:
    """Gives a commit a name, which retention respects from now on.

    Raises:
        SpecError: the name is taken or not fit.
        CheckpointError: the commit was removed while this ran; the name is free again.
        CheckpointCorrupt: its manifest is damaged.
        StoreError: the store failed.
    """
    tag = Tag(name=name, manifest=entry.manifest, step=entry.step, attempt=entry.attempt, at=at)
    key = tag_key(name)
    data = _encode(tag)
    if not store.create(key, data) and store.read(key) != data:
        raise SpecError(f"the tag {name} is given to another commit already; remove it first, or take another name")
    # A prune that had looked at the tags before this one was there may be at work: see that the commit outlived it.
    present = set(store.list(BLOB_PREFIX))
    try:
        whole = all(blob.key in present for blob in read_manifest(store, entry).blobs)
    except CheckpointCorrupt:
        store.delete(key)
        raise
    if not whole:
        store.delete(key)
        raise CheckpointError(f"step {entry.step} of attempt {entry.attempt} was removed meanwhile; nothing is tagged")
    return tag


def remove_tag(store: BlobStore, name: str) -> None:
    """Takes a name away; the commit stays until retention no longer asks for it.

    Raises:
        SpecError: there is no such tag.
        StoreError: the store failed.
    """
    key = tag_key(name)
    if key not in store.list(TAG_PREFIX):
        raise SpecError(f"there is no tag {name}")
    store.delete(key)


def find_tag(store: BlobStore, name: str) -> Tag | None:
    """The tag of this name; None if there is none.

    Raises:
        SpecError: the name is not fit for one.
        CheckpointCorrupt: it cannot be read.
        StoreError: the store failed.
    """
    key = tag_key(name)
    try:
        return _decode(key, store.read(key, 0, _TAG_BYTES_MAX + 1))
    except StoreMissing:
        return None


def read_tags(store: BlobStore) -> tuple[Tag, ...]:
    """All tags, by name.

    Raises:
        CheckpointCorrupt: one cannot be read, so nobody knows what it keeps.
        StoreError: the store failed.
    """
    keys = [key for key in store.list(TAG_PREFIX) if _TAG.fullmatch(key)]
    if len(keys) > _TAGS_MAX:
        raise CheckpointCorrupt(TAG_PREFIX, f"{len(keys)} tags are more than a run can have ({_TAGS_MAX})")
    tags = []
    for key in keys:
        try:
            tags.append(_decode(key, store.read(key, 0, _TAG_BYTES_MAX + 1)))
        except StoreMissing:
            continue  # removed since the listing
    return tuple(tags)


def tags_by_manifest(store: BlobStore) -> dict[str, frozenset[str]]:
    """The names of each commit that has any, by its manifest: see `read_tags`."""
    names: dict[str, frozenset[str]] = {}
    for tag in read_tags(store):
        names[tag.manifest] = names.get(tag.manifest, frozenset()) | {tag.name}
    return names


def _encode(tag: Tag) -> bytes:
    body: dict[str, Any] = {"format": 1, **_FORM.dump_python(tag, mode="json")}
    return _line(body | {"check": digest_of([_line(body)])})


def _decode(key: str, data: bytes) -> Tag:
    try:
        body = json.loads(data)
        if body.pop("format") != 1:
            raise CheckpointCorrupt(key, "it has a format that this version of spotrun does not know")
        check = body.pop("check")
        tag = _FORM.validate_json(json.dumps(body))
    except (ValidationError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointCorrupt(key, "it is not a tag") from None
    if check != digest_of([_line({"format": 1, **body})]) or tag_key(tag.name) != key:
        raise CheckpointCorrupt(key, "its bytes differ from its digest")
    return tag


def _line(body: dict[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode("ascii")
