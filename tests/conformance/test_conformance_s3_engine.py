"""Blobs on the fast way to and from S3, behind a network that fails: right bytes or a typed error, and nothing left."""

from __future__ import annotations

import base64
import gc
import logging
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import boto3
import pytest
from s3_certificate import certified
from s3_proxy import Proxy
from store_contract import StoreContract

from spotrun.errors import CheckpointCorrupt, StoreDenied, StoreError, StoreMissing, StoreUnavailable
from spotrun.store import BlobStore, Patience, RetryingStore, StoreOptions, read_blob, write_blob
from spotrun.store.pace import PaceLimits
from spotrun.store.remote import FsspecStore
from spotrun.store.s3 import S3Limits
from spotrun.store.s3_wire import WireLimits

MIB = 1 << 20
LARGE = random.Random(1).randbytes(17 * MIB)
QUICK = S3Limits(
    multipart_from_bytes=6 * MIB,
    part_bytes=5 * MIB,
    pause_s=0.01,
    pause_s_max=0.05,
    pace=PaceLimits(idle_s=0.3, window_s=0.5, floor_bytes_per_s=2000),
    wire=WireLimits(reply_s=1.5),
)
FORKING = """
import os, sys
from spotrun.store.remote import FsspecStore
store = FsspecStore(sys.argv[1])
store.write("k", [bytes(range(256)) * 4096])
def check():
    for _ in range(20):
        memory = bytearray(1 << 20)
        assert store.read_into("k", 0, [memoryview(memory)]) == 1 << 20
        assert memory == bytes(range(256)) * 4096
    assert store.list("") == ["k"]
check()
child = os.fork()
check()
if child == 0:
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print("whole")
"""


@pytest.fixture
def proxy(s3_endpoint: str, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy through which every client of the test goes."""
    proxy = Proxy(s3_endpoint)
    with proxy.serving() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        yield proxy


@pytest.fixture
def bare(proxy: Proxy, s3_bucket: str) -> Iterator[FsspecStore]:
    """A store that asks once, and is quick to lose patience."""
    store = FsspecStore(f"s3://{s3_bucket}/job-1", limits=QUICK)
    yield store
    store.close()


@pytest.fixture
def store(bare: FsspecStore) -> BlobStore:
    """The same, with patience."""
    return RetryingStore(bare, patience=Patience(total_s=20, first_s=0.01, longest_s=0.05), dice=random.Random(1))


def read(store: BlobStore, key: str, size: int, start: int = 0) -> bytes:
    memory = bytearray(size)
    return bytes(memory[: store.read_into(key, start, [memoryview(memory)])])


def uploads(bucket: str) -> int:
    client = boto3.client("s3")
    try:
        return len(client.list_multipart_uploads(Bucket=bucket).get("Uploads", ()))
    finally:
        client.close()


class TestInParts(StoreContract):
    """Every object that is not empty goes up in parts."""

    @pytest.fixture
    def store(self, s3_bucket: str) -> BlobStore:
        return FsspecStore(f"s3://{s3_bucket}/runs", limits=S3Limits(multipart_from_bytes=1))


def exercise(store: BlobStore) -> None:
    """All operations, once or twice."""
    content = random.Random(5).randbytes(200_000)
    store.write("a/b", [content, memoryview(b"end")])
    assert read(store, "a/b", 300_000) == content + b"end"
    assert read(store, "a/b", 10, 199_995) == content[-5:] + b"end"
    assert read(store, "a/b", 10, 200_003) == b""
    assert store.read("a/b") == content + b"end"
    store.write("a/b", [])
    assert read(store, "a/b", 10) == b""
    with pytest.raises(StoreMissing):
        read(store, "a", 10)
    assert store.create("c+d e%", b"x")
    assert not store.create("a/b", b"x")
    assert store.list("") == ["a/b", "c+d e%"]
    store.delete("a/b")
    assert store.list("a") == []


def test_a_whole_bucket_may_be_the_place(s3_bucket: str) -> None:
    """No path at all."""
    exercise(FsspecStore(f"s3://{s3_bucket}"))


def test_behind_a_proxy_of_the_users_botocore_sends(
    s3_endpoint: str, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else changes; large objects still go up in parts. What it is can be asked."""
    proxy = Proxy(s3_endpoint)
    with proxy.serving() as url:
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, url)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        store = FsspecStore(f"s3://{s3_bucket}/runs", limits=QUICK)
        assert "proxy" in store.engine
        exercise(store)
        store.write("large", [bytes(3 * MIB), bytes(4 * MIB)])
        assert read(store, "large", 8 * MIB) == bytes(7 * MIB)
        proxy.suffer("GET", "large", "truncated")
        with pytest.raises(StoreUnavailable):
            read(store, "large", 8 * MIB)
        store.close()
    assert any(line.startswith("PUT http://") for line in proxy.seen)


def test_tls_is_trusted_by_the_bundle_that_botocore_would_use(
    s3_endpoint: str, s3_bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All operations over TLS, also when the server closes the connection between or in the middle."""
    context, authority = certified(tmp_path)
    proxy = Proxy(s3_endpoint)
    with proxy.serving(context) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
        bare = FsspecStore(f"s3://{s3_bucket}/runs", limits=QUICK)
        assert bare.engine.startswith("own connections")
        exercise(bare)
        store = RetryingStore(bare, patience=Patience(total_s=20, first_s=0.01, longest_s=0.05))
        for method, fault in (("PUT", "cut off"), ("PUT", "lost reply"), ("PUT", "503"), ("GET", "lost request"),
                              ("GET", "truncated"), ("GET", "half hung")):  # fmt: skip
            proxy.suffer(method, "blobs/x", fault)
            store.write("blobs/x", [memoryview(LARGE)])
            assert read(store, "blobs/x", len(LARGE)) == LARGE
            assert not proxy.faults
        bare.close()


def test_a_server_whose_certificate_nobody_vouches_for_is_refused_for_good(
    s3_endpoint: str, s3_bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No retry would help, and nothing is sent."""
    context, _ = certified(tmp_path)
    proxy = Proxy(s3_endpoint)
    with proxy.serving(context) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        store = FsspecStore(f"s3://{s3_bucket}/runs")
        with pytest.raises(StoreError, match="certificate") as caught:
            store.write("k", [b"x"])
        assert not isinstance(caught.value, StoreUnavailable)
        assert proxy.seen == []


@pytest.mark.parametrize("fault", ["lost request", "lost reply", "500", "503", "409", "truncated", "half hung", "hung",
                                   "trickle", "shifted", "short"])  # fmt: skip
def test_a_read_comes_through_whatever_happens_to_it(proxy: Proxy, store: BlobStore, fault: str) -> None:
    """The right bytes, in the end; what came before is overwritten."""
    content = random.Random(1).randbytes(300_000)
    store.write("blobs/x", [content])
    proxy.suffer("GET", "blobs/x", fault, fault)
    assert read(store, "blobs/x", 200_000, 1000) == content[1000:201_000]
    assert not proxy.faults


@pytest.mark.parametrize("fault", ["lost request", "lost reply", "500", "503", "409", "hung", "cut off"])
@pytest.mark.parametrize("size", [0, 1000, 3 * MIB])
def test_a_write_comes_through_whatever_happens_to_it(proxy: Proxy, store: BlobStore, fault: str, size: int) -> None:
    """Written twice or not at all before, it is there once, whole."""
    content = random.Random(1).randbytes(size)
    proxy.suffer("PUT", "blobs/x", fault, fault)
    store.write("blobs/x", [memoryview(content)[: size // 3], memoryview(content)[size // 3 :]])
    assert not proxy.faults
    assert read(store, "blobs/x", size + 1) == content
    assert store.list("") == ["blobs/x"]


def test_a_write_that_nobody_takes_is_cut_and_sent_again(proxy: Proxy, bare: FsspecStore) -> None:
    """The server's buffers are full, and it reads no more: the next connection reaches one that does."""
    content = bytes(24 * MIB)
    proxy.suffer("PUT", "partNumber=2", "deaf")
    bare.write("blobs/x", [content])
    assert bare.moved.cut == 1
    assert bare.moved.sent > 24 * MIB
    assert bare.list("") == ["blobs/x"]


@pytest.mark.parametrize("fault", ["hung", "half hung", "trickle"])
def test_a_read_that_stalls_is_cut_by_the_store_itself(proxy: Proxy, bare: FsspecStore, fault: str) -> None:
    """At once on another connection; it gives up when every one of them stalls."""
    content = random.Random(2).randbytes(100_000)
    bare.write("blobs/x", [content])
    proxy.suffer("GET", "blobs/x", fault)
    assert read(bare, "blobs/x", 100_000) == content
    assert bare.moved.cut == 1
    proxy.suffer("GET", "blobs/x", *[fault] * 3)
    with pytest.raises(StoreUnavailable):
        read(bare, "blobs/x", 100_000)
    assert bare.moved.cut == 4
    assert not proxy.faults


def test_damage_on_the_wire_is_found_by_the_digest(proxy: Proxy, bare: FsspecStore) -> None:
    """The store moves bytes; who reads them knows what they should be."""
    blob = write_blob(bare, 1, [bytes(2 * MIB)])
    proxy.suffer("GET", "blobs/", "flipped")
    assert read_blob(bare, blob) == bytes(2 * MIB)
    assert not proxy.faults
    proxy.suffer("GET", "blobs/", "flipped", "flipped")
    with pytest.raises(CheckpointCorrupt):
        read_blob(bare, blob)


class TestLarge:
    """Objects of several parts."""

    content = LARGE

    def write(self, store: BlobStore) -> None:
        pieces = [memoryview(self.content)[at : at + 3_000_001] for at in range(0, len(self.content), 3_000_001)]
        store.write("blobs/big", pieces)

    @pytest.mark.parametrize("fault", ["500", "503", "lost request", "lost reply", "cut off"])
    @pytest.mark.parametrize("part", ["partNumber=1", "partNumber=4"])
    def test_a_part_that_fails_is_sent_again_alone(
        self, proxy: Proxy, bare: FsspecStore, s3_bucket: str, fault: str, part: str
    ) -> None:
        """The others are not."""
        proxy.suffer("PUT", part, fault, fault)
        self.write(bare)
        assert not proxy.faults
        assert read(bare, "blobs/big", len(self.content) + 1) == self.content
        assert sum("partNumber=2" in line for line in proxy.seen) == 1
        assert uploads(s3_bucket) == 0

    def test_parts_that_keep_failing_end_the_upload_and_leave_nothing(
        self, proxy: Proxy, bare: FsspecStore, s3_bucket: str
    ) -> None:
        """No object, no parts to pay for; a later write is not harmed."""
        proxy.suffer("PUT", "partNumber=3", *["500"] * QUICK.tries)
        with pytest.raises(StoreUnavailable):
            self.write(bare)
        assert bare.list("") == []
        assert uploads(s3_bucket) == 0
        self.write(bare)
        assert read(bare, "blobs/big", len(self.content) + 1) == self.content

    def test_an_abort_that_fails_is_tried_again(self, proxy: Proxy, bare: FsspecStore, s3_bucket: str) -> None:
        """Storage that nobody sees is billed."""
        proxy.suffer("PUT", "partNumber=3", "403")
        bare.write("k", [b"x"])

        def deny(method: str, path: str) -> str:
            if method == "PUT" and "partNumber=3" in path:
                return "skew"
            if method == "DELETE" and len(aborts) < 2:
                aborts.append(path)
                return "503"
            return ""

        aborts: list[str] = []
        proxy.fault = deny  # type: ignore[method-assign]
        with pytest.raises(StoreDenied):
            self.write(bare)
        assert len(aborts) == 2
        assert uploads(s3_bucket) == 0

    @pytest.mark.parametrize("fault", ["500", "lost request", "lost reply"])
    @pytest.mark.parametrize("step", ["uploads", "uploadId"])
    def test_beginning_and_completing_survive_lost_replies(
        self, proxy: Proxy, bare: FsspecStore, s3_bucket: str, fault: str, step: str
    ) -> None:
        """An upload that was completed without our knowing is gone when it is asked for again: the object tells."""
        proxy.suffer("POST", step, fault)
        self.write(bare)
        assert not proxy.faults
        assert read(bare, "blobs/big", len(self.content) + 1) == self.content
        assert bare.list("") == ["blobs/big"]

    def test_what_a_killed_process_left_is_aborted_by_age(
        self, proxy: Proxy, bare: FsspecStore, s3_bucket: str
    ) -> None:
        """Below this root only, and never what may still be in the making."""
        client = boto3.client("s3")
        for key in ("job-1/blobs/a", "job-1/blobs/b", "job-10/blobs/c"):
            client.create_multipart_upload(Bucket=s3_bucket, Key=key)
        client.close()
        now = datetime.now(timezone.utc)  # noqa: TID251 - the server's time
        assert bare.abort_leftovers(before=now) == 0  # moto dates them in 2010, which nobody should believe
        proxy.dates = {"2010-11-10": f"{now - timedelta(days=2):%F}"}
        assert bare.abort_leftovers(before=now - timedelta(days=3)) == 0
        assert uploads(s3_bucket) == 3
        self.write(bare)  # the first upload in parts of a store looks for what is a day old
        assert uploads(s3_bucket) == 1
        assert bare.list("") == ["blobs/big"]

    def test_progress_is_counted(self, bare: FsspecStore) -> None:
        """For whoever shows it."""
        self.write(bare)
        assert bare.moved.sent >= len(self.content)
        read(bare, "blobs/big", len(self.content))
        assert bare.moved.received == len(self.content)
        assert (bare.moved.cut, bare.moved.retried) == (0, 0)


def test_credentials_are_fetched_anew_in_the_middle_of_an_upload(
    proxy: Proxy, s3_bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They last an hour, an upload may last longer: each part is signed with those of its moment."""
    script = tmp_path / "credentials.py"
    script.write_text(
        "import json, pathlib, datetime\n"
        f"count = pathlib.Path({str(tmp_path / 'count')!r})\n"
        "count.write_text((count.read_text() if count.exists() else '') + '.')\n"
        "end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=1)\n"
        "print(json.dumps({'Version': 1, 'AccessKeyId': f'key{len(count.read_text())}', 'SecretAccessKey': 's',\n"
        "                  'SessionToken': 't', 'Expiration': end.isoformat()}))\n"
    )
    config = tmp_path / "config"
    config.write_text(f"[profile fresh]\ncredential_process = {sys.executable} {script}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    store = FsspecStore(f"s3://{s3_bucket}/job-1", StoreOptions(profile="fresh"), limits=QUICK)
    store.write("blobs/x", [bytes(11 * MIB)])
    assert len(set(proxy.keys)) >= 3
    assert all(key.startswith("key") for key in proxy.keys)
    assert store.list("") == ["blobs/x"]
    store.close()


def test_credentials_that_were_replaced_on_disk_are_found_once_the_old_ones_expire(
    proxy: Proxy, s3_bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A tool that renews the file is no reason to lose a training; blobs and small objects alike."""
    file = tmp_path / "credentials"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    file.write_text("[default]\naws_access_key_id = old\naws_secret_access_key = s\n")
    store = FsspecStore(f"s3://{s3_bucket}/job-1", limits=QUICK)
    store.write("blobs/x", [b"x"])
    assert store.create("log/1", b"x")
    asks = {"new": lambda: store.write("blobs/y", [b"y"]), "newest": lambda: store.create("log/2", b"y")}
    before = "old"
    for name, ask in asks.items():
        file.write_text(f"[default]\naws_access_key_id = {name}\naws_secret_access_key = s\n")
        proxy.suffer("PUT", "", "403")
        ask()
        assert proxy.keys[-2:] == [before, name]
        before = name
    assert store.list("") == ["blobs/x", "blobs/y", "log/1", "log/2"]
    store.close()


def test_no_secret_is_ever_told(
    proxy: Proxy, s3_bucket: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the secret key nor the session's token nor a signature, in no error, its causes, or our log."""
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, "spotrun")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-of-the-key")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "canary-of-the-token")
    store = FsspecStore(f"s3://{s3_bucket}/job-1", limits=QUICK)
    store.write("k", [b"x" * 1000])
    told = [repr(store), store.engine]
    for method, fault in [
        ("GET", fault) for fault in ("403", "500", "lost request", "truncated", "hung", "shifted")
    ] + [("PUT", fault) for fault in ("403", "skew", "503", "lost reply", "cut off")]:
        proxy.suffer(method, "", *[fault] * 4)
        with pytest.raises(StoreError) as caught:
            read(store, "k", 900, 1) if method == "GET" else store.write("k", [b"y" * 1000])
        error: BaseException | None = caught.value
        while error is not None:
            told.append(f"{error!r} {error}")
            error = error.__cause__ or error.__context__
        proxy.suffer("", "")
    store.close()
    said = "\n".join([*told, caplog.text])
    assert "canary" not in said
    assert "Signature" not in said
    assert "AWS4-HMAC" not in said


def test_a_forked_child_uses_connections_of_its_own(s3_bucket: str) -> None:
    """Loader workers are forked while the parent saves: both read at once, and neither gets the other's bytes."""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING, f"s3://{s3_bucket}/fork"],
        capture_output=True, text=True, timeout=120, check=False, env=dict(os.environ),
    )  # fmt: skip
    assert (ended.stdout.strip(), ended.returncode) == ("whole", 0), ended.stderr


def test_connections_are_kept_and_closed(proxy: Proxy, s3_bucket: str) -> None:
    """One for many requests in a row; none left when the store is forgotten, which a warning would tell."""
    store = FsspecStore(f"s3://{s3_bucket}/job-1", limits=QUICK)
    for turn in range(10):
        store.write(f"k{turn}", [b"x" * 100_000])
        assert read(store, f"k{turn}", 100_000) == b"x" * 100_000
    wire = store._blobs._requests._here().wire  # type: ignore[union-attr]
    assert len(wire._idle) == 1
    del wire, store
    gc.collect()


def test_encryption_and_payer_are_asked_for(proxy: Proxy, s3_bucket: str) -> None:
    """On one PUT, on parts, and on small objects alike."""
    options = StoreOptions(sse="aws:kms", kms_key="alias/training", requester_pays=True)
    store = FsspecStore(f"s3://{s3_bucket}/job-1", options, limits=QUICK)
    store.write("small", [b"x"])
    store.write("large", [bytes(7 * MIB)])
    assert store.create("log", b"x")
    store.close()
    client = boto3.client("s3")
    for key in ("small", "large", "log"):
        head = client.head_object(Bucket=s3_bucket, Key=f"job-1/{key}")
        assert head["ServerSideEncryption"] == "aws:kms"
        assert head["SSEKMSKeyId"] == "alias/training"
    client.close()


def test_a_checksum_is_sent_where_it_can_be_computed(
    proxy: Proxy, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 then verifies what it received; that the header is right is all that can be seen here."""
    asked: list[int] = []

    def crc64(data: memoryview, before: int) -> int:
        asked.append(len(data))
        return (before + sum(data[:64])) & (2**64 - 1)

    monkeypatch.setattr("spotrun.store.remote.crc64nvme", lambda: crc64)
    store = FsspecStore(f"s3://{s3_bucket}/job-1", limits=QUICK)
    store.write("small", [b"abc", b"de"])
    store.write("large", [bytes(7 * MIB)])
    assert sum(asked) == 5 + 7 * MIB
    assert "checksums" in store.engine
    store.close()
    small, *parts = proxy.sums
    assert small == base64.b64encode(sum(b"abcde").to_bytes(8, "big")).decode()
    assert len(parts) == 2


def test_memory_above_the_callers_is_small(s3_bucket: str) -> None:
    """A large blob goes up and comes down from and into the memory where it lies."""
    probe = """
import resource, sys
from spotrun.store.remote import FsspecStore
store = FsspecStore(sys.argv[1])
data = bytearray(b"x" * (96 << 20))
store.write("warm", [memoryview(data)[: 1 << 20]])
store.read_into("warm", 0, [memoryview(data)[: 1 << 20]])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
store.write("k", [memoryview(data)])
store.read_into("k", 0, [memoryview(data)])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""
    ended = subprocess.run(
        [sys.executable, "-c", probe, f"s3://{s3_bucket}/memory"],
        capture_output=True, text=True, timeout=120, check=True, env=dict(os.environ),
    )  # fmt: skip
    assert int(ended.stdout) <= 16, "MiB above the caller's own"
