"""Manifests: what is refused, what comes back, and that no input does anything else."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from store_run import AT

from spotrun.errors import CheckpointCorrupt
from spotrun.store import BlobRef, Manifest, TensorRef
from spotrun.store.manifest import DTYPE_SIZES, decode_manifest

DIGEST = "ab" * 32
BLOB = BlobRef(key=f"blobs/000003/{DIGEST}-01234567", size=1000, digest=DIGEST)


def manifest(**changed: Any) -> Manifest:
    fields: dict[str, Any] = {
        "job": "gpt-1",
        "attempt": 3,
        "writer": "host:12",
        "step": 40,
        "captured_at": AT,
        "blobs": (BLOB,),
        "tensors": {"model.weight": TensorRef(blob=0, dtype="float32", shape=(5, 10), start=0, end=200)},
        "state": {"rng": [1, 2, 3]},
        "fingerprint": {"torch": "2.6"},
        "resumed_from": 30,
    }
    return Manifest(**(fields | changed))


def document(**changed: Any) -> bytes:
    """The JSON of a good manifest with some members replaced; a name may lead into it, with double underscores."""
    body = json.loads(manifest().to_bytes())
    for name, value in changed.items():
        place, *path = body, *name.split("__")
        for part in path[:-1]:
            place = place[int(part) if isinstance(place, list) else part.replace("/", ".")]
        last = path[-1]
        place[int(last) if isinstance(place, list) else last] = value
    return json.dumps(body).encode()


def test_a_manifest_comes_back_as_it_was() -> None:
    """Including numbers that other formats lose: NaN, infinities, the sign of zero, 128-bit integers, the last bit."""
    state = {
        "floats": [0.1 + 0.2, -0.0, math.inf, -math.inf, 5e-324],
        "big": 2**127 + 1,
        "text": "ü\u2028\0😀",
        "": [{}, []],
    }
    before = manifest(state=state)
    after = decode_manifest("k", before.to_bytes())
    assert after == before
    assert after.to_bytes() == before.to_bytes()
    assert math.copysign(1, after.state["floats"][1]) == -1
    assert math.isnan(decode_manifest("k", manifest(state=math.nan).to_bytes()).state)


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({"a": (1, 2)}, "state.a is tuple"),
        ({"a": [{1: 2}]}, "key that is int"),
        ({"a": {"b": b"x"}}, "state.a.b is bytes"),
        ({"a": "\ud800"}, "not Unicode"),
        ({"\ud800": 1}, "not Unicode"),
        (type("F", (float,), {})(1.5), "state is F"),
        (AT, "state is datetime"),
    ],
)
def test_state_that_json_would_change_is_refused_by_its_path(state: object, told: str) -> None:
    """A resume must get back what was saved, not something like it."""
    with pytest.raises(ValidationError, match=told):
        manifest(state=state)


def test_state_that_is_nested_without_end_is_refused_when_written_and_when_read() -> None:
    """No recursion limit is reached."""
    deep: list[Any] = []
    for _ in range(50_000):
        deep = [deep]
    with pytest.raises(ValidationError, match="deeper"):
        manifest(state=deep)
    with pytest.raises(CheckpointCorrupt):
        decode_manifest("k", document().replace(b'"resumed_from": 30', b'"resumed_from": ' + b"[" * 100_000))


HOSTILE: list[tuple[str, dict[str, Any]]] = [
    ("a key that leads upwards", {"blobs__0__key": f"blobs/000003/../../{DIGEST}-01234567"}),
    ("an absolute key", {"blobs__0__key": "/etc/passwd"}),
    ("a key with a newline", {"blobs__0__key": f"blobs/000003/{DIGEST}-01234567\n"}),
    ("a key with digits of another script", {"blobs__0__key": f"blobs/٠٠٠٠٠٣/{DIGEST}-01234567"}),
    ("a key of another blob", {"blobs__0__key": f"blobs/000003/{'cd' * 32}-01234567"}),
    ("a size beyond any object", {"blobs__0__size": 10**18}),
    ("a negative size", {"blobs__0__size": -1}),
    ("a size that is text", {"blobs__0__size": "1000"}),
    ("a size that is a float", {"blobs__0__size": 1000.0}),
    ("a digest too short", {"blobs__0__digest": "ab"}),
    ("a shape without bytes: a bomb", {"tensors__model/weight__shape": [10**12]}),
    ("a shape with a zero to hide a bomb's size", {"tensors__model/weight__shape": [0, 10**12]}),
    ("a negative dimension", {"tensors__model/weight__shape": [-5, -10]}),
    ("too many dimensions", {"tensors__model/weight__shape": [1] * 65}),
    ("a range beyond the blob", {"tensors__model/weight__start": 900, "tensors__model/weight__end": 1100}),
    ("a range that ends before it starts", {"tensors__model/weight__start": 400, "tensors__model/weight__end": 200}),
    ("a blob that is not listed", {"tensors__model/weight__blob": 1}),
    ("a negative blob", {"tensors__model/weight__blob": -1}),
    ("a type that is none", {"tensors__model/weight__dtype": "object"}),
    ("a boolean for a number", {"step": True}),
    ("a step that is negative", {"step": -1}),
    ("a step beyond its key", {"step": 10**12}),
    ("an attempt that is none", {"attempt": 0}),
    ("another format", {"format": 2}),
    ("a field that nobody knows", {"pickle": "gASV"}),
    ("an instant without a zone", {"captured_at": "2026-01-01T00:00:00"}),
    ("a name without end", {"job": "x" * 5000}),
    ("a fingerprint that is no text", {"fingerprint__torch": 2}),
]


@pytest.mark.parametrize("changed", [case[1] for case in HOSTILE], ids=[case[0] for case in HOSTILE])
def test_a_hostile_manifest_is_refused_before_anything_is_read_or_allocated(changed: dict[str, Any]) -> None:
    """The error names the object."""
    decode_manifest("good", document())
    with pytest.raises(CheckpointCorrupt, match=r"manifests/x\.json is damaged"):
        decode_manifest("manifests/x.json", document(**changed))


def test_every_type_takes_the_bytes_that_its_name_says() -> None:
    """And one byte more or less is refused."""
    for dtype, size in DTYPE_SIZES.items():
        manifest(tensors={"t": TensorRef(blob=0, dtype=dtype, shape=(3,), start=1, end=1 + 3 * size)})
        with pytest.raises(ValidationError, match="does not take"):
            manifest(tensors={"t": TensorRef(blob=0, dtype=dtype, shape=(3,), start=0, end=1 + 3 * size)})


def test_a_manifest_is_frozen() -> None:
    """Nothing committed is rewritten, in memory neither."""
    with pytest.raises(ValidationError):
        manifest().step = 41  # type: ignore[misc]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200) | st.text(max_size=100).map(lambda t: t.encode("utf-8", "replace")))
def test_bytes_that_are_no_manifest_raise_only_the_typed_error(data: bytes) -> None:
    """Any bytes at all."""
    with pytest.raises(CheckpointCorrupt):
        decode_manifest("k", data)


@settings(max_examples=300, deadline=None)
@given(
    path=st.sampled_from(["blobs", "tensors", "state", "fingerprint", "step", "attempt", "captured_at", "blobs__0", "job",
                          "blobs__0__size", "tensors__model.weight__shape", "tensors__model.weight", "format"]),
    value=json_values,
)  # fmt: skip
def test_a_manifest_with_any_member_replaced_is_read_or_refused(path: str, value: Any) -> None:
    """Whatever is read again is a manifest that adds up."""
    body = json.loads(manifest().to_bytes())
    place: Any = body
    *way, last = path.split("__")
    for part in way:
        place = place[int(part) if isinstance(place, list) else part]
    place[int(last) if isinstance(place, list) else last] = value
    try:
        found = decode_manifest("k", json.dumps(body).encode())
    except CheckpointCorrupt:
        return
    assert decode_manifest("k", found.to_bytes()).to_bytes() == found.to_bytes()


@settings(max_examples=200, deadline=None)
@given(state=json_values)
def test_any_json_state_comes_back_bit_for_bit(state: Any) -> None:
    """What is accepted is preserved."""
    try:
        before = manifest(state=state)
    except ValidationError:
        return
    after = decode_manifest("k", before.to_bytes())
    assert repr(after.state) == repr(before.state)
