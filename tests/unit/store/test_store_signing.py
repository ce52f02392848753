"""Signed logs: what the key's holder wrote is believed, and nothing else; and nothing shows the key."""

from __future__ import annotations

import io
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from moto import mock_aws
from store_run import begin, manifest_of, save

from spotrun.clock import SystemClock
from spotrun.errors import CheckpointCorrupt, CheckpointError, SpecError, StoreError
from spotrun.store import CommitEntry, DamagedEntry, Lineage, MemoryStore, read_log
from spotrun.store.digest import digest_of
from spotrun.store.log import encode_entry
from spotrun.store.signing import KeySigning, KmsSigning, open_signing, signing_key

CANARY = "canary-4f1b9c7d2e8a6530"


def key(run: str = "gpt-1", secret: str = CANARY) -> KeySigning:
    return KeySigning(secret.encode(), run=run)


def signed(store: MemoryStore, *, attempt: int | None = 1, signing: Any = None) -> Lineage:
    return Lineage(store, attempt=attempt, writer=f"w{attempt}", clock=SystemClock(), signing=signing or key())


def saved(steps: int = 3) -> tuple[MemoryStore, Lineage]:
    store = MemoryStore()
    lineage = signed(store)
    lineage.claim()
    for step in range(1, steps + 1):
        save(store, lineage, step)
    return store, lineage


def refused(store: MemoryStore, signing: KeySigning) -> list[int]:
    return [entry.seq for entry in read_log(store, signing=signing) if isinstance(entry, DamagedEntry)]


def test_a_signed_log_is_read_with_the_key_and_without_it() -> None:
    """Who has no key can still read, and is told by nobody what to believe."""
    store, _ = saved()
    assert refused(store, key()) == []
    assert all(not isinstance(entry, DamagedEntry) and entry.mac for entry in read_log(store))
    successor = signed(store, attempt=2)
    assert [entry.step for entry in successor.claim()] == [1, 2, 3]


def test_every_changed_member_is_found() -> None:
    """Also where somebody has put the digest of the line right again."""
    store, lineage = saved(1)
    (entry,) = lineage.commits
    (stored,) = [each for each in read_log(store) if isinstance(each, CommitEntry)]
    for change in (
        {"step": 2}, {"manifest": entry.manifest.replace("01-", "02-", 1)}, {"digest": "0" * 64}, {"size": 1},
        {"attempt": 2}, {"on_notice": True}, {"metrics": {"loss": 0.0}}, {"manifest_size": 1}, {"writer": "x"},
    ):  # fmt: skip
        store.write(entry_key(2), [encode_entry(replace(stored, **change))])
        assert refused(store, key()) == [2], change
    (found,) = [each for each in read_log(store, signing=key()) if isinstance(each, DamagedEntry)]
    assert "tampered" in found.reason


def test_an_entry_of_another_place_in_the_log_or_of_another_run_is_refused() -> None:
    """A line is good at its own number of its own run only."""
    store, _ = saved(3)
    lines = {seq: store.read(entry_key(seq)) for seq in (2, 3)}
    store.write(entry_key(2), [lines[3]])
    store.write(entry_key(3), [lines[2]])
    assert refused(store, key()) == [2, 3]
    store, _ = saved(1)
    assert refused(store, key(run="gpt-2")) == [1, 2]


def test_an_unsigned_entry_is_refused_and_fences_whoever_writes() -> None:
    """Somebody without the key has written to the log: no one goes on by it."""
    store, lineage = saved(1)
    stranger = Lineage(store, attempt=9, writer="stranger", clock=SystemClock())
    stranger.claim()
    with pytest.raises(CheckpointCorrupt, match="no signature"):
        lineage.commit(manifest_of(lineage, 5))
    newcomer = signed(store, attempt=2)
    assert [entry.step for entry in newcomer.claim()] == [1]


def test_a_log_of_which_nothing_is_believed_is_no_fresh_run() -> None:
    """A wrong key, or one where there was none: starting from nothing would be the worst answer, and nothing is written."""
    for lineage in (signed(MemoryStore()), begin(MemoryStore(), attempt=1)):
        store = lineage._store
        lineage.claim()
        save(store, lineage, 1)
        before = store.list("")
        with pytest.raises(CheckpointError, match="none of the 2 entries"):
            signed(store, attempt=2, signing=key(secret="another-key-of-32-characters-000")).claim()
        assert store.list("") == before


def test_the_key_is_in_nothing_that_is_written_or_shown(tmp_path: Path) -> None:
    """Objects, texts of errors, reprs; and it cannot be pickled away."""
    store, lineage = saved(2)
    everything = b"".join(store.read(each) for each in store.list("")).decode("latin-1")
    shown = [everything, repr(key()), repr(lineage), str(vars(lineage))]
    file = tmp_path / "key"
    file.write_text(CANARY + "\n")
    for where, environment in (
        ({"key_env": "MISSING"}, {"OTHER": CANARY}),
        ({"key_env": "SHORT"}, {"SHORT": CANARY[:9]}),
        ({"key_file": str(tmp_path / "none")}, {}),
        ({"key_env": "A", "kms": "b"}, {"A": CANARY}),
    ):
        with pytest.raises(SpecError) as error:
            open_signing(where, run="gpt-1", environment=environment)
        shown.append(str(error.value))
    with pytest.raises(SpecError) as error:
        signing_key(CANARY)  # somebody has put the key where its place belongs
    shown.append(str(error.value))
    opened = open_signing({"key_file": str(file)}, run="gpt-1", environment={})
    assert opened is not None
    assert refused(store, opened) == []  # type: ignore[arg-type]
    assert all(CANARY[:9] not in text for text in shown)
    with pytest.raises(TypeError, match="not copied"):
        pickle.dump(key(), io.BytesIO())


def test_signing_is_named_in_a_variable() -> None:
    """As attempts inherit it."""
    assert signing_key("") is None
    assert open_signing(None, run="a", environment={}) is None
    assert signing_key("key_env=A_KEY") == {"key_env": "A_KEY"}
    assert signing_key("kms=alias/a=b") == {"kms": "alias/a=b"}


class Kms:
    """A stand-in for KMS, as far as signing asks of it."""

    def __init__(self) -> None:
        self.inner = key(secret="the key that never leaves KMS")
        self.asked: list[dict[str, Any]] = []

    def generate_mac(self, **arguments: Any) -> dict[str, Any]:
        self.asked.append(arguments)
        return {"Mac": bytes.fromhex(self.inner.sign(arguments["Message"]))}

    def verify_mac(self, **arguments: Any) -> dict[str, Any]:
        if bytes.fromhex(self.inner.sign(arguments["Message"])) != arguments["Mac"]:
            raise ClientError({"Error": {"Code": "KMSInvalidMacException", "Message": ""}}, "VerifyMac")
        return {"MacValid": True}


def test_a_key_in_kms_signs_and_checks() -> None:
    """Its messages have one size, whatever the entry's."""
    store, kms = MemoryStore(), Kms()
    lineage = signed(store, signing=KmsSigning(kms, "alias/gpt", run="gpt-1"))
    lineage.claim()
    save(store, lineage, 1)
    assert {len(asked["Message"]) for asked in kms.asked} == {32}
    assert {asked["MacAlgorithm"] for asked in kms.asked} == {"HMAC_SHA_256"}
    again = KmsSigning(kms, "alias/gpt", run="gpt-1")
    assert not [entry for entry in read_log(store, signing=again) if isinstance(entry, DamagedEntry)]
    other = KmsSigning(kms, "alias/gpt", run="gpt-2")
    assert len([entry for entry in read_log(store, signing=other) if isinstance(entry, DamagedEntry)]) == 2


def test_signing_with_kms_as_boto3_speaks_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The requests are such as the service's own model takes, and what it signed it finds right."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        made = boto3.client("kms").create_key(KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")
        signing = open_signing({"kms": made["KeyMetadata"]["KeyId"]}, run="gpt-1", environment={})
        assert isinstance(signing, KmsSigning)
        store = MemoryStore()
        lineage = signed(store, signing=signing)
        lineage.claim()
        save(store, lineage, 1)
        assert not [entry for entry in read_log(store, signing=signing) if isinstance(entry, DamagedEntry)]
        (entry,) = lineage.commits
        store.write(entry_key(2), [encode_entry(replace(entry, step=7, mac="0" * 64))])
        assert [entry.seq for entry in read_log(store, signing=signing) if isinstance(entry, DamagedEntry)] == [2]
        with pytest.raises(StoreError, match="NotFound"):
            read_log(store, signing=open_signing({"kms": "alias/none"}, run="gpt-1", environment={}))


def test_kms_that_refuses_or_is_away_is_an_error_and_no_damage() -> None:
    """Nobody falls back to an older commit because a permission is missing."""

    class Away(Kms):
        def __init__(self, error: Exception) -> None:
            super().__init__()
            self.error = error

        def verify_mac(self, **arguments: Any) -> dict[str, Any]:
            raise self.error

    store, _ = saved(1)
    for error in (
        ClientError({"Error": {"Code": "AccessDeniedException", "Message": ""}}, "VerifyMac"),
        ClientError({"Error": {"Code": "ThrottlingException", "Message": ""}}, "VerifyMac"),
        EndpointConnectionError(endpoint_url="https://kms"),
    ):
        with pytest.raises(StoreError, match="KMS"):
            read_log(store, signing=KmsSigning(Away(error), "alias/gpt", run="gpt-1"))


def test_a_signed_entry_whose_check_is_wrong_is_damaged_not_forged() -> None:
    """A flipped bit is told as one."""
    store, _ = saved(1)
    body = json.loads(store.read(entry_key(2)))
    body["mac"] = "0" * 64
    del body["check"]
    line = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    good = json.dumps(body | {"check": digest_of([line])}, sort_keys=True, separators=(",", ":")).encode()
    store.write(entry_key(2), [good])
    assert refused(store, key()) == [2]
    store.write(entry_key(2), [good.replace(b"0" * 64, b"1" + b"0" * 63)])
    (found,) = [entry for entry in read_log(store, signing=key()) if isinstance(entry, DamagedEntry)]
    assert "digest" in found.reason


def entry_key(seq: int) -> str:
    return f"log/{seq:08d}.json"
