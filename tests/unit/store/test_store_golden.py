"""Format 1 to the byte: what is written today is what was written then, and what was written then is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import golden
import pytest

from spotrun.store import CommitEntry, DamagedEntry, FileStore, MemoryStore, TensorRef, read_log, read_manifest, verify
from spotrun.store.signing import KeySigning
from spotrun.store.tag import read_tags

PAGE = (Path(__file__).parents[3] / "docs" / "format.md").read_text()


def files(name: str) -> dict[str, bytes]:
    root = golden.FORMAT_1 / name / "golden"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("name", "signed"), [("plain", False), ("signed", True)])
def test_every_byte_is_as_it_was(name: str, signed: bool) -> None:
    """Log entries, manifests, blobs, tags. If this fails, older readers may refuse what is written now."""
    store = MemoryStore()
    golden.write(store, signed=signed)
    assert {key: store.read(key) for key in store.list("")} == files(name)


@pytest.mark.parametrize("name", ["plain", "signed"])
def test_what_was_written_then_is_read(name: str, tmp_path: Path) -> None:
    """All of it, with the key and without."""
    shutil.copytree(golden.FORMAT_1 / name / "golden", tmp_path / "golden")
    store = FileStore(tmp_path / "golden")
    signing = KeySigning(golden.KEY, run="golden") if name == "signed" else None
    log = read_log(store, signing=signing)
    assert not [entry for entry in log if isinstance(entry, DamagedEntry)]
    first, second = (verify(store, entry) for entry in log if isinstance(entry, CommitEntry))
    assert (first.step, second.step, second.on_notice, second.resumed_from) == (10, 20, True, 10)
    assert second.blobs[0] == first.blobs[0]
    assert second.tensors["models.model.parameters.weight"] == TensorRef(0, "float32", (2, 3), 0, 24)
    assert [len(each.pieces) for each in second.stored().values()] == [1, 1, 1, 2]
    assert second.state["values"] == [1, -0.0, 1e300, float("inf"), True, None, "é\n"]
    commits = [entry for entry in log if isinstance(entry, CommitEntry)]
    assert [dict(entry.metrics) for entry in commits] == [{"accuracy": 0.25, "loss": 1.5}, {}]
    assert [tag.name for tag in read_tags(store)] == ["release"]


def test_a_later_format_is_not_taken_for_damage_that_one_may_repair() -> None:
    """An entry of format 2 says so; nobody overwrites it or takes its place."""
    store = MemoryStore()
    golden.write(store, signed=False)
    body = json.loads(store.read("log/00000004.json")) | {"format": 2}
    store.write("log/00000004.json", [json.dumps(body).encode()])
    (found,) = [entry for entry in read_log(store) if isinstance(entry, DamagedEntry)]
    assert "a format that this version of spotrun does not know" in found.reason
    assert read_manifest(store, next(entry for entry in read_log(store) if isinstance(entry, CommitEntry))).step == 10


def test_the_promise_is_on_the_page() -> None:
    """With the members that may be missing."""
    assert "every later version of spotrun reads format 1" in PAGE.lower()
    for member in ("mac", "metrics"):
        assert f"| `{member}` |" in PAGE
