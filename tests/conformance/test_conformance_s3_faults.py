"""S3 behind a network that fails: every outcome is right, or a typed error; never wrong data, never a false fence."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime, timezone

import pytest
from s3_proxy import Proxy

from spotrun.clock import SystemClock
from spotrun.errors import CheckpointCorrupt, StoreDenied, StoreError, StoreMissing, StoreUnavailable
from spotrun.store import (
    BlobStore,
    CommitEntry,
    Lineage,
    Manifest,
    Patience,
    RetryingStore,
    read_blob,
    read_log,
    verify,
    write_blob,
)
from spotrun.store.remote import FsspecStore


@pytest.fixture
def proxy(s3_endpoint: str, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy through which every client of the test goes."""
    proxy = Proxy(s3_endpoint)
    with proxy.serving() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        yield proxy


@pytest.fixture
def bare(proxy: Proxy, s3_bucket: str) -> BlobStore:
    """A store that asks once."""
    return FsspecStore(f"s3://{s3_bucket}/job-1")


@pytest.fixture
def store(bare: BlobStore) -> BlobStore:
    """A store with patience, in little time."""
    patience = Patience(total_s=20, first_s=0.01, longest_s=0.05)
    return RetryingStore(bare, patience=patience, dice=random.Random(1))


def save(store: BlobStore, lineage: Lineage, step: int) -> CommitEntry:
    attempt = lineage.attempt or 0
    blob = write_blob(store, attempt, [b"state of step %d" % step])
    at = datetime(2026, 1, 1, tzinfo=timezone.utc)
    return lineage.commit(
        Manifest(job="j", attempt=attempt, writer=lineage.writer, step=step, captured_at=at, blobs=(blob,))
    )


def test_a_create_whose_reply_is_lost_says_false_and_the_read_back_is_ours(proxy: Proxy, store: BlobStore) -> None:
    """The client asks again and meets its own object: 412 on our own write."""
    proxy.suffer("PUT", "log/", "lost reply")
    assert not store.create("log/00000001.json", b"mine")
    assert store.read("log/00000001.json") == b"mine"


@pytest.mark.parametrize("fault", ["lost request", "lost reply", "503", "500", "409"])
def test_a_run_comes_through_whatever_happens_to_a_write(proxy: Proxy, store: BlobStore, fault: str) -> None:
    """It happens twice to each kind of write. Nothing is fenced, nothing doubled, everything whole."""
    lineage = Lineage(store, attempt=1, writer="w", clock=SystemClock())
    proxy.suffer("PUT", "log/", fault, fault)
    lineage.claim()
    for step, part in enumerate(("blobs/", "manifests/", "log/"), start=1):
        assert not proxy.faults
        proxy.suffer("PUT", part, fault, fault)
        save(store, lineage, step)
    assert not proxy.faults
    found = [entry for entry in read_log(store) if isinstance(entry, CommitEntry)]
    assert [entry.step for entry in found] == [1, 2, 3]
    for entry in found:
        verify(store, entry)


@pytest.mark.parametrize("fault", ["lost request", "truncated", "503", "500"])
def test_a_resume_comes_through_whatever_happens_to_a_read(proxy: Proxy, store: BlobStore, fault: str) -> None:
    """It happens twice to each kind of read. A body cut short is an error that passes, never data."""
    lineage = Lineage(store, attempt=1, writer="w", clock=SystemClock())
    lineage.claim()
    save(store, lineage, 1)
    for attempt, part in enumerate(("list-type", "log/", "manifests/", "blobs/"), start=2):
        proxy.suffer("GET", part, fault, fault)
        newer = Lineage(store, attempt=attempt, writer="x", clock=SystemClock())
        found = newer.claim()
        assert [entry.step for entry in found] == [1]
        assert verify(store, found[-1]).step == 1
        assert not proxy.faults


@pytest.mark.parametrize("fault", ["short", "flipped"])
def test_damage_on_the_wire_is_an_error_not_data(proxy: Proxy, bare: BlobStore, store: BlobStore, fault: str) -> None:
    """A reply that is whole as far as HTTP can tell. Once, it costs a second read; always, it is told as damage, or as
    a store that cannot be read where the reply contradicts itself."""
    blob = write_blob(bare, 1, [b"state of step 2"])
    proxy.suffer("GET", "blobs/", fault)
    assert read_blob(store, blob) == b"state of step 2"
    assert not proxy.faults
    proxy.suffer("GET", "blobs/", *[fault] * 4)
    with pytest.raises((CheckpointCorrupt, StoreUnavailable)):
        read_blob(bare, blob)
    proxy.suffer("", "")
    lineage = Lineage(bare, attempt=1, writer="w", clock=SystemClock())
    lineage.claim()
    entry = save(bare, lineage, 1)
    for part in ("log/", "manifests/", "blobs/"):
        proxy.suffer("GET", part, fault)
        assert read_log(store)[1] == entry
        assert verify(store, entry).step == 1
        assert not proxy.faults


@pytest.mark.parametrize(("fault", "kind"), [("503", StoreUnavailable), ("500", StoreUnavailable), ("409", StoreUnavailable),
                                             ("lost request", StoreUnavailable), ("403", StoreDenied), ("skew", StoreDenied)])  # fmt: skip
def test_each_refusal_has_its_own_error(proxy: Proxy, bare: BlobStore, fault: str, kind: type[StoreError]) -> None:
    """For every operation; trying again is someone else's business."""
    bare.write("k", [b"x"])
    for method, ask in (
        ("GET", lambda: bare.read("k")),
        ("GET", lambda: bare.list("")),
        ("PUT", lambda: bare.write("k", [b"y"])),
        ("PUT", lambda: bare.create("new", b"y")),
        ("DELETE", lambda: bare.delete("k")),
    ):
        proxy.suffer(method, "", *[fault] * 4)
        with pytest.raises(kind) as caught:
            ask()
        assert type(caught.value) is kind
        assert "job-1" in str(caught.value)
        assert len(proxy.faults) >= 2  # the HTTP client itself may renew a connection once
        proxy.suffer("", "")


def test_a_bucket_that_does_not_exist_is_named_and_never_taken_for_a_missing_object(s3_bucket: str) -> None:
    """Else a resume would start from nothing because of a typing error."""
    absent = FsspecStore(f"s3://{s3_bucket}-absent/job")
    for ask in (
        lambda: absent.read("k"),
        lambda: absent.write("k", [b"x"]),
        lambda: absent.create("k", b"x"),
        lambda: absent.list(""),
        lambda: absent.list("log/"),
    ):
        with pytest.raises(StoreError, match="bucket") as caught:
            ask()
        assert not isinstance(caught.value, StoreMissing)


def test_a_machine_without_credentials_is_told_so(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    """As denied, at once."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", f"{tmp_path}/none")
    monkeypatch.setenv("AWS_CONFIG_FILE", f"{tmp_path}/none")
    with pytest.raises(StoreDenied, match="credentials"):
        FsspecStore(f"s3://{s3_bucket}/job").read("k")


def test_a_server_that_is_not_there_is_unavailable(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens on that port."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreUnavailable):
        FsspecStore(f"s3://{s3_bucket}/job").list("")
