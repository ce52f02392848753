"""A state goes through a JSON document and raw tensors, and comes back the same: same types, same bits, same sharing."""

from __future__ import annotations

import json
import math
import struct
from collections import Counter, OrderedDict, deque
from typing import Any

import numpy as np
import pytest
import torch
from full_job import digest
from hypothesis import given, settings
from hypothesis import strategies as st

from spotrun.checkpoint.tensor import DTYPES
from spotrun.checkpoint.tree import flatten, unflatten
from spotrun.errors import CheckpointCorrupt, NotCapturable


def there_and_back(tree: Any) -> Any:
    flat = flatten(tree, "state")
    document = json.loads(json.dumps(flat.document, allow_nan=False))
    copies = {name: tensor.clone() for name, tensor in flat.tensors.items()}
    return unflatten(document, copies.__getitem__)


def same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor | np.ndarray):
        return digest(a) == digest(b) and a.dtype == b.dtype and tuple(a.shape) == tuple(b.shape)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple | deque):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float):
        return struct.pack(">d", a) == struct.pack(">d", b)
    if isinstance(a, complex) and not isinstance(a, np.generic):
        return same(a.real, b.real) and same(a.imag, b.imag)
    if isinstance(a, np.generic):
        return a.tobytes() == b.tobytes()
    return bool(a == b)


_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.binary()
    | st.complex_numbers()
    | st.floats(width=32).map(np.float32)
    | st.integers(-128, 127).map(np.int8)
)
_KEYS = st.text() | st.integers() | st.booleans() | st.floats(allow_nan=False) | st.tuples(st.integers(), st.text())
_TREES = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.lists(inner).map(lambda items: deque(items, maxlen=50))
        | st.dictionaries(st.text(), inner)
        | st.dictionaries(_KEYS, inner)
        | st.dictionaries(_KEYS, inner).map(OrderedDict)
        | st.dictionaries(st.text(), st.integers()).map(Counter)
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(_TREES)
def test_any_plain_state_comes_back_the_same(tree: Any) -> None:
    """Types, order of keys, not-a-numbers by their bits, numbers of any size."""
    assert same(there_and_back(tree), tree)


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_comes_back_the_same(name: str) -> None:
    """Every dtype that torch can hold densely, filled with every kind of bit pattern."""
    size = DTYPES[name].itemsize
    raw = torch.arange(16 * size, dtype=torch.uint8) * 37
    tensor = (raw[: 16 * size] % 2).bool()[:16] if name == "bool" else raw.view(DTYPES[name])
    for value in (tensor, tensor[3], tensor[:0], tensor.reshape(4, 4).t(), tensor[::3]):
        assert same(there_and_back([value])[0], value.contiguous())


def test_special_tensors_come_back_the_same() -> None:
    """Not-a-numbers keep their payload, and views that only look conjugated or negated become what they look like."""
    nans = torch.tensor([0x7FC00001, 0x7F800000, 0xFFC00000, 0x80000000], dtype=torch.uint32).view(torch.float32)
    conjugated = torch.complex(torch.arange(3.0), torch.ones(3)).conj()
    back = there_and_back({"nans": nans, "conjugated": conjugated.resolve_conj(), "big": torch.ones(2).expand(5, 2)})
    assert same(back["nans"], nans)
    assert torch.equal(back["conjugated"], conjugated)
    assert same(back["big"], torch.ones(5, 2))


def test_arrays_and_sizes_come_back_the_same() -> None:
    """NumPy arrays of any plain dtype and byte order, also empty ones; torch's own small types."""
    tree = {
        "matrix": np.arange(6, dtype=">i2").reshape(2, 3).T,
        "empty": np.empty((0, 3), dtype=np.float64),
        "text": np.array(["a", "longer"]),
        "dates": np.array(["2026-01-01"], dtype="datetime64[s]"),
        "zero": np.array(1.5),
        "size": torch.Size([2, 3]),
        "dtype": torch.bfloat16,
        "device": torch.device("cpu"),
    }
    back = there_and_back(tree)
    assert all(
        same(np.ascontiguousarray(back[k]), np.ascontiguousarray(tree[k]))
        for k in ("matrix", "empty", "text", "dates", "zero")
    )
    assert [back["size"], back["dtype"], back["device"]] == [torch.Size([2, 3]), torch.bfloat16, torch.device("cpu")]
    assert back["matrix"].flags.writeable


def test_a_shared_tensor_is_stored_once_and_stays_shared() -> None:
    """Two names for one tensor, or two views of the same memory of the same form."""
    tensor = torch.ones(3)
    flat = flatten({"a": tensor, "b": [tensor], "c": tensor.view(3), "d": tensor[:2], "e": torch.ones(3)})
    assert list(flat.tensors) == ["a", "d", "e"]
    back = unflatten(flat.document, flat.tensors.__getitem__)
    assert back["a"] is back["b"][0]


def test_paths_that_look_alike_do_not_collide() -> None:
    """A key with a dot in it, and keys that differ only in type."""
    tree = {"a.b": torch.zeros(1), "a": {"b": torch.ones(1)}, "n": {1: torch.zeros(2), "1": torch.ones(2)}}
    assert same(there_and_back(tree), tree)


class Thing:
    pass


class Renamed(dict):
    pass


def a_function() -> None:
    pass


@pytest.mark.parametrize(
    ("value", "path", "what"),
    [
        ({"a": [1, Thing()]}, "state.a[1]", "Thing"),
        ({"lambdas": [lambda step: step]}, "state.lambdas[0]", "a function"),
        ({"hook": a_function}, "state.hook", "a function (a_function)"),
        ({"seen": {1, 2}}, "state.seen", "a set"),
        ({"options": Renamed(a=1)}, "state.options", "Renamed"),
        ({"sparse": torch.eye(2).to_sparse()}, "state.sparse", "sparse"),
        ({"meta": torch.empty(2, device="meta")}, "state.meta", "without memory"),
        ({"objects": np.array([Thing()])}, "state.objects", "dtype object"),
        ({"fields": np.zeros(2, dtype=[("a", "i4")])}, "state.fields", "dtype"),
        ({torch.ones(1): 1}, "state[", "a tensor used as key"),
        ({(1, Thing()): 1}, "key of state", "Thing"),
    ],
)
def test_what_fits_nothing_is_refused_by_its_path(value: Any, path: str, what: str) -> None:
    """The user learns where it is and what to do."""
    with pytest.raises(NotCapturable) as refusal:
        flatten(value, "state")
    assert refusal.value.path.startswith(path)
    assert what in refusal.value.what


def test_cycles_and_bottomless_states_are_refused() -> None:
    """Neither can be written down."""
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(NotCapturable, match="inside itself"):
        flatten(loop)
    deep: list[Any] = []
    for _ in range(40):
        deep = [deep]
    with pytest.raises(NotCapturable, match="deeper"):
        flatten(deep)


@pytest.mark.parametrize(
    "document",
    [
        {"$": "object"},
        {"$": "int", "v": "not hex"},
        {"$": "float", "v": "00"},
        {"$": "tensor"},
        {"$": "tensor", "name": "missing"},
        {"$": "array", "name": "t", "dtype": "O", "shape": [1]},
        {"$": "array", "name": "t", "dtype": "<f4", "shape": [999]},
        {"$": "scalar", "dtype": "|O", "v": "00"},
        {"$": "dtype", "v": "load"},
        {"$": "dict", "v": [[[], 1]]},
    ],
)
def test_a_document_that_nobody_wrote_is_corrupt(document: Any) -> None:
    """Whatever is in it, reading it either works or says that it is damaged."""
    with pytest.raises(CheckpointCorrupt):
        unflatten(document, {"t": torch.ones(2)}.__getitem__)


def test_numbers_survive_json() -> None:
    """Written as text, read as the same number."""
    for number in (0.1, 1e-320, -0.0, math.pi, 2**53, -(2**80), 2**53 - 1):
        assert same(there_and_back([number])[0], number)
