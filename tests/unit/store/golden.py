"""A small run whose every byte is fixed: what format 1 looks like. `python tests/unit/store/golden.py` writes it anew.

It may be written anew only to add members that older readers were always told to expect: see docs/format.md.
"""

from __future__ import annotations

import hashlib
import itertools
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from unittest import mock

from spotrun.store import BlobStore, Lineage, Manifest, MemoryStore, TensorRef, write_blob
from spotrun.store.signing import KeySigning
from spotrun.store.tag import add_tag

FORMAT_1 = Path(__file__).parent / "format-1"
KEY = b"the key of the golden run, not a secret"
AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone.utc)


class Ticking:
    """A clock that is a second later each time it is asked."""

    def __init__(self) -> None:
        self._count = itertools.count()

    def now(self) -> datetime:
        return AT + timedelta(seconds=next(self._count))

    def monotonic(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        raise AssertionError(seconds)

    def wall(self, seconds: float) -> float:
        return seconds


@contextmanager
def fixed_nonces() -> Iterator[None]:
    """What is random otherwise is counted."""
    count = itertools.count()

    def token_hex(length: int) -> str:
        return hashlib.sha256(str(next(count)).encode()).hexdigest()[: 2 * length]

    with mock.patch.object(secrets, "token_hex", token_hex):
        yield


def write(store: BlobStore, *, signed: bool) -> None:
    """Two attempts and three commits: a blob that is taken over, boxes, every kind of value; and a tag."""
    clock = Ticking()
    signing = KeySigning(KEY, run="golden") if signed else None
    with fixed_nonces():
        first = Lineage(store, attempt=1, writer="one", clock=clock, signing=signing)
        first.claim()
        whole = write_blob(store, 1, [bytes(range(48))])
        first.commit(_manifest(first, 10, clock, whole=whole), metrics={"loss": 1.5, "accuracy": 0.25})
        second = Lineage(store, attempt=2, writer="zwei ü", clock=clock, signing=signing)
        second.claim()
        boxes = [write_blob(store, 2, [bytes([number]) * 16]) for number in (1, 2)]
        entry = second.commit(_manifest(second, 20, clock, whole=whole, boxes=boxes, on_notice=True))
        add_tag(store, "release", entry, at=clock.now())


def _manifest(lineage: Lineage, step: int, clock: Ticking, *, whole, boxes=(), on_notice=False) -> Manifest:  # type: ignore[no-untyped-def]
    assert lineage.attempt is not None
    tensors = {
        "models.model.parameters.weight": TensorRef(blob=0, dtype="float32", shape=(2, 3), start=0, end=24),
        "models.model.buffers.scale": TensorRef(blob=0, dtype="bfloat16", shape=(4,), start=24, end=32),
        "randomness.torch": TensorRef(blob=0, dtype="uint8", shape=(16,), start=32, end=48),
    }
    for number in range(len(boxes)):
        tensors[f"models.model.parameters.sharded#{number}"] = TensorRef(
            blob=1 + number, dtype="int64", shape=(1, 2), start=0, end=16,
            of="models.model.parameters.sharded", whole=(2, 2), offset=(number, 0),
        )  # fmt: skip
    return Manifest(
        job="golden",
        attempt=lineage.attempt,
        writer=lineage.writer,
        step=step,
        captured_at=clock.now(),
        blobs=(whole, *boxes),
        tensors=tensors,
        state={"position": {"step": step, "epoch": 0}, "values": [1, -0.0, 1e300, float("inf"), True, None, "é\n"]},
        fingerprint={"torch": "2.13.0", "threads": "1"},
        on_notice=on_notice,
        resumed_from=10 if lineage.attempt == 2 else None,
        metrics=('{"step": 9, "loss": 1.5}',),
        spotrun_version="0.1.0",
    )


if __name__ == "__main__":
    for name, signed in (("plain", False), ("signed", True)):
        store = MemoryStore()
        write(store, signed=signed)
        for key in store.list(""):
            path = FORMAT_1 / name / "golden" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(store.read(key))
    sys.stdout.write(f"{FORMAT_1}\n")
