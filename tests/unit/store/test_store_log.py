"""The log's entries: their one form, damage, and what is no entry."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_run import AT, begin, save

from spotrun.errors import CheckpointCorrupt
from spotrun.store import ClaimEntry, CommitEntry, DamagedEntry, MemoryStore, read_log, verify
from spotrun.store.digest import digest_of
from spotrun.store.log import decode_entry, encode_entry

CLAIM = ClaimEntry(seq=1, attempt=2, writer="höst:1", token="t", at=AT)
COMMIT = CommitEntry(
    seq=2, attempt=2, writer="w", token="t", at=AT, step=7, manifest="manifests/000000000007-000002-01234567.json",
    manifest_size=321, digest="ab" * 32, size=10**9, on_notice=True,
)  # fmt: skip


@pytest.mark.parametrize("entry", [CLAIM, COMMIT])
def test_an_entry_comes_back_as_it_was(entry: ClaimEntry | CommitEntry) -> None:
    """One line of ASCII."""
    line = encode_entry(entry)
    assert line.isascii()
    assert b"\n" not in line
    assert decode_entry(entry.seq, line) == entry


@pytest.mark.parametrize("entry", [CLAIM, COMMIT])
def test_every_flipped_bit_and_every_truncation_is_detected(entry: ClaimEntry | CommitEntry) -> None:
    """Each of the bits, in turn."""
    line = encode_entry(entry)
    for position in range(len(line)):
        assert isinstance(decode_entry(entry.seq, line[:position]), DamagedEntry)
        for bit in range(8):
            flipped = bytearray(line)
            flipped[position] ^= 1 << bit
            assert isinstance(decode_entry(entry.seq, bytes(flipped)), DamagedEntry)


@pytest.mark.parametrize(
    "changed",
    [
        {"manifest": "../../etc/passwd"},
        {"manifest": "manifests/000000000007-000002-01234567.json\n"},
        {"manifest": "blobs/000001/" + "ab" * 32},
        {"digest": "xyz"},
        {"step": -1},
        {"step": "7"},
        {"attempt": 0},
        {"attempt": True},
        {"seq": 3},
        {"at": "yesterday"},
        {"at": "2026-01-01T00:00:00"},
        {"kind": "lease"},
        {"format": 2},
        {"extra": 1},
        {"manifest_size": -1},
        {"writer": "x" * 2000},
    ],
    ids=str,
)
def test_an_entry_that_no_writer_would_write_is_damage_even_with_a_right_check(changed: dict[str, Any]) -> None:
    """The check proves transport, not sense."""
    body = json.loads(encode_entry(COMMIT)) | changed
    del body["check"]
    line = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    body["check"] = digest_of([line])
    whole = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    assert isinstance(decode_entry(COMMIT.seq, whole), DamagedEntry)


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=300) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace")))
def test_bytes_that_are_no_entry_are_damage_and_nothing_else(data: bytes) -> None:
    """Any bytes at all."""
    assert isinstance(decode_entry(1, data), DamagedEntry)


@pytest.mark.parametrize(
    "data",
    [b"[" * 15_000, b'{"kind":"claim","seq":' + b"9" * 10_000 + b"}", b'{"kind":[]}', b'{"kind":"claim"}', b"null", b"{" * 15_000,
     b'{"kind":"commit","format":1,"check":1,"seq":NaN}', b"x" * 20_000, b'{"kind":"claim","kind":"commit"}'],
    ids=range(9),
)  # fmt: skip
def test_inputs_made_to_break_a_parser_are_damage_and_nothing_else(data: bytes) -> None:
    """Deep nesting, endless numbers, wrong kinds."""
    assert isinstance(decode_entry(1, data), DamagedEntry)


def test_a_log_is_read_in_order_with_damage_and_holes_reported_in_place() -> None:
    """Nothing that can be read is lost because of something that cannot."""
    store = MemoryStore()
    lineage = begin(store)
    lineage.claim()
    for step in range(1, 5):
        save(store, lineage, step)
    store.write("log/00000003.json", [b"{}"])
    store.delete("log/00000004.json")
    store.write("log/README.txt", [b"not an entry"])
    store.write("log/00000000.json", [b"not an entry either"])
    log = read_log(store)
    assert [type(entry) for entry in log] == [ClaimEntry, CommitEntry, DamagedEntry, DamagedEntry, CommitEntry]
    assert isinstance(log[3], DamagedEntry)
    assert log[3].key == "log/00000004.json"
    assert "missing" in str(log[3].error)
    assert [entry.seq for entry in log] == [1, 2, 3, 4, 5]
    assert read_log(MemoryStore()) == ()


@pytest.mark.parametrize("number", [99_999_999, 50_000])
def test_a_number_that_cannot_follow_is_refused_before_its_holes_are_counted(number: int) -> None:
    """One hostile name must not make a reader ask for a hundred million entries."""
    store = MemoryStore()
    begin(store).claim()
    store.write(f"log/{number:08d}.json", [b"{}"])
    with pytest.raises(CheckpointCorrupt, match="does not follow"):
        read_log(store)


def test_a_log_is_continued_without_reading_it_again() -> None:
    """A writer that commits a thousand times must not read a million entries."""

    class Counting(MemoryStore):
        reads = 0

        def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
            self.reads += key.startswith("log/")
            return super().read(key, start, end)

    store = Counting()
    first = begin(store)
    first.claim()
    for step in range(1, 21):
        save(store, first, step)
    assert store.reads == 0
    second = begin(store)
    assert len(second.claim()) == 20
    assert store.reads == 21
    for step in range(21, 31):
        save(store, second, step)
    assert store.reads == 21


def test_random_damage_of_any_object_of_a_run_is_detected_or_harmless() -> None:
    """Bits flip in claims, commits, manifests and blobs; a reader sees the damage, never other data."""
    dice = random.Random(20260101)
    store = MemoryStore()
    lineage = begin(store)
    lineage.claim()
    for step in range(1, 4):
        save(store, lineage, step)
    keys = store.list("")
    truth = {key: store.read(key) for key in keys}
    states = {entry.seq: verify(store, entry) for entry in read_log(store) if isinstance(entry, CommitEntry)}
    whole = read_log(store)
    caught = dict.fromkeys(("log", "manifests", "blobs"), 0)
    for _ in range(1500):
        key = dice.choice(keys)
        damaged = bytearray(truth[key])
        damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
        store.write(key, [damaged])
        log = read_log(store)
        hurt = [entry for entry in log if isinstance(entry, DamagedEntry)]
        assert [entry.key for entry in hurt] == ([key] if key.startswith("log/") else [])
        assert all(entry in whole for entry in log if entry not in hurt)
        failed = 0
        for entry in log:
            if isinstance(entry, CommitEntry):
                try:
                    assert verify(store, entry) == states[entry.seq]
                except CheckpointCorrupt as err:
                    failed += err.key == key
        kind = key.partition("/")[0]
        assert failed >= (kind != "log")
        caught[kind] += 1
        store.write(key, [truth[key]])
    assert min(caught.values()) > 200


def test_an_entry_in_anothers_place_is_damage() -> None:
    """Copied by hand, or a listing gone wrong."""
    assert decode_entry(1, encode_entry(COMMIT)) == DamagedEntry(seq=1, reason="it is entry 2 in the wrong place")
    assert decode_entry(3, encode_entry(replace(COMMIT, seq=3))) == replace(COMMIT, seq=3)
