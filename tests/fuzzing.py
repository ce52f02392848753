"""What tests throw at readers of data from outside: documents that were bent, and bytes that were damaged.

A random document is refused at its first member. One that is right but for a member or two reaches the code behind.
`FUZZ_EXAMPLES` says how many examples each test tries; `make soak` tries many.
"""

from __future__ import annotations

import copy
import json
import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "40"))

fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

ODD = st.sampled_from(
    [
        None, True, 0, -1, 1, 10**18, 10**400, 0.5, -0.0, 1e308, float("inf"), float("nan"), "", " ", "0", "-1", "1e999", "NaN",
        "x" * 5000, "\0", "\ud800", "é", "../../etc/passwd", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "2026-03-01T12:00:00",
        "9999-12-31T23:59:59Z", "9999-12-31T23:59:59-23:59", "2026-02-30T00:00:00Z", "spot", "save", "completed", [], {}, [[]], {"": ""},
    ]
)  # fmt: skip

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | ODD,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def bent(draw: st.DrawFn, document: Any, *, most: int = 3, values: st.SearchStrategy[Any] = JSON) -> Any:
    """The document, of which up to `most` members are gone, there twice, or something else."""
    found = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, most))):
        node, key = draw(st.sampled_from(_places(found) or [(None, None)]))
        if node is None:
            return draw(values)
        match draw(st.sampled_from(["replace", "replace", "remove", "double"])):
            case "replace":
                node[key] = copy.deepcopy(draw(values))  # what is drawn may be changed by the next turn
            case "remove":
                del node[key]
            case "double" if isinstance(node, list):
                node.append(copy.deepcopy(node[key]))
            case _:
                node[f"{key}2"] = copy.deepcopy(node[key])
    return found


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes: cut, grown, with bits flipped, with a piece there twice, or others altogether."""
    place = draw(st.integers(0, len(data)))
    match draw(st.sampled_from(["cut", "flip", "insert", "double", "nested", "random"])):
        case "cut":
            return data[:place]
        case "flip" if data:
            other = bytearray(data)
            other[place % len(data)] ^= 1 << draw(st.integers(0, 7))
            return bytes(other)
        case "insert":
            return data[:place] + draw(st.binary(min_size=1, max_size=20)) + data[place:]
        case "double":
            return data + data[place:]
        case "nested":
            return draw(st.sampled_from([b"[", b'{"a":', b"- ", b"&a [*a,"])) * draw(
                st.sampled_from([50, 5000, 100_000])
            )
        case _:
            return draw(st.binary(max_size=200))


def as_json(document: Any) -> bytes:
    """The document as whoever writes to us might: NaN, lone surrogates and all."""
    return json.dumps(document).encode("utf-8", "surrogatepass")


def _places(node: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    keys = node.keys() if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for key in keys:
        found += [(node, key), *_places(node[key])]
    return found
