"""Manifests: what one commit consists of, checked before anyone allocates memory for it.

A manifest names blobs, where each tensor lies in them, and everything else of the run's state as JSON. It is the only
thing a reader believes: names and listings carry no meaning that a manifest lacks. Reading one never executes
anything and never allocates more than the declared limits; a tensor whose shape, type and byte range disagree, a key
that spotrun would not have generated, or an unknown field makes the whole manifest refused.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.dataclasses import dataclass

from spotrun.errors import CheckpointCorrupt
from spotrun.store.key import ATTEMPT_MAX, BLOB_KEY, STEP_MAX
from spotrun.store.region import Box, Piece, Stored, filling_fault, whole_box

__all__ = ["DTYPE_SIZES", "MANIFEST_BYTES_MAX", "METRICS_MAX", "BlobRef", "Manifest", "TensorRef", "decode_manifest"]

MANIFEST_BYTES_MAX = 256 << 20  # a million tensors and the JSON state of a large data set's order
_BLOB_BYTES_MAX = 50 * 10**12  # the largest object S3 stores
_TENSOR_BYTES_MAX = 10**15  # in boxes, over any number of blobs
_BLOBS_MAX = 100_000
_TENSORS_MAX = 1_000_000
METRICS_MAX = 10_000  # lines: minutes of the fastest loops, and an agent that works ships them within seconds
_DIMENSIONS_MAX = 64  # torch's own limit
_DEPTH_MAX = 100  # of nested JSON state; the parser's own limit is 200

DTYPE_SIZES = {
    "bool": 1, "uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8, "int8": 1, "int16": 2, "int32": 4, "int64": 8,
    "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex32": 4, "complex64": 8, "complex128": 16,
    "float8_e4m3fn": 1, "float8_e4m3fnuz": 1, "float8_e5m2": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
}  # fmt: skip
"""Bytes of one element of each type that can be stored, by torch's name of it."""

_SCALARS = {int, float, bool, type(None)}
_WHOLE = {"of", "whole", "offset"}  # left out of a manifest without boxes

_STRICT = ConfigDict(strict=True, frozen=True, extra="forbid")
_Text = Annotated[str, StringConstraints(max_length=1024)]
_Natural = Annotated[int, Field(ge=0, le=_BLOB_BYTES_MAX)]
_Step = Annotated[int, Field(ge=0, le=STEP_MAX)]
_Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True, config=ConfigDict(strict=True, extra="forbid"))
class BlobRef:
    """A stored blob: its key, its size in bytes and the BLAKE3 digest of its bytes."""

    key: Annotated[str, StringConstraints(pattern=BLOB_KEY)]
    size: _Natural
    digest: _Digest


@dataclass(frozen=True, slots=True, config=ConfigDict(strict=True, extra="forbid"))
class TensorRef:
    """Where a tensor, or a box of a larger one, lies: bytes [start, end) of the manifest's blob number `blob`,
    little-endian, row-major.

    Attributes:
        of: the name of the tensor that this is a box of; None if it is whole and named by its own key.
        whole: that tensor's shape.
        offset: where in it the box begins, in each dimension.
    """

    blob: Annotated[int, Field(ge=0, lt=_BLOBS_MAX)]
    dtype: str
    shape: Annotated[tuple[_Natural, ...], Field(max_length=_DIMENSIONS_MAX)]
    start: _Natural
    end: _Natural
    of: _Text | None = None
    whole: Annotated[tuple[_Natural, ...], Field(max_length=_DIMENSIONS_MAX)] | None = None
    offset: Annotated[tuple[_Natural, ...], Field(max_length=_DIMENSIONS_MAX)] | None = None

    @property
    def box(self) -> Box:
        """The box of the tensor that lies here; all of it if it is whole."""
        return whole_box(self.shape) if self.offset is None else Box(self.offset, self.shape)

    def fault(self, blobs: tuple[BlobRef, ...]) -> str | None:
        """Why this range cannot hold such a tensor, or None."""
        if self.dtype not in DTYPE_SIZES:
            return f"{self.dtype!r} is no type that can be stored"
        if self.blob >= len(blobs):
            return f"blob {self.blob} is not among the {len(blobs)} listed"
        if not self.start <= self.end <= blobs[self.blob].size:
            return f"bytes {self.start}-{self.end} are outside of a blob of {blobs[self.blob].size}"
        if math.prod(self.shape) * DTYPE_SIZES[self.dtype] != self.end - self.start:
            return f"{self.dtype}{list(self.shape)} does not take {self.end - self.start} bytes"
        return self._box_fault()

    def _box_fault(self) -> str | None:
        if self.of is None and self.whole is None and self.offset is None:
            return None
        if self.of is None or self.whole is None or self.offset is None:
            return "a box of a tensor needs of, whole and offset"
        if not len(self.shape) == len(self.whole) == len(self.offset):
            return f"a box of {len(self.shape)} dimensions at {list(self.offset)} in {list(self.whole)}"
        ends = (start + length for start, length in zip(self.offset, self.shape, strict=True))
        if any(end > length for end, length in zip(ends, self.whole, strict=True)):
            return f"a box of {list(self.shape)} at {list(self.offset)} is not inside {list(self.whole)}"
        return None


class Manifest(BaseModel):
    """One checkpoint of one run, complete. Frozen; unknown fields are refused."""

    model_config = ConfigDict(**_STRICT, ser_json_inf_nan="constants")

    format: Literal[1] = 1
    job: _Text
    attempt: Annotated[int, Field(ge=1, le=ATTEMPT_MAX)]
    writer: _Text
    step: _Step
    captured_at: AwareDatetime  # the step boundary whose state this is, in job time
    blobs: Annotated[tuple[BlobRef, ...], Field(max_length=_BLOBS_MAX)] = ()
    tensors: Annotated[dict[_Text, TensorRef], Field(max_length=_TENSORS_MAX)] = {}
    state: Any = None  # JSON value: dict, list, str, int, float, bool, None and nothing that is merely like one
    fingerprint: Annotated[dict[_Text, _Text], Field(max_length=1000)] = {}
    on_notice: bool = False
    resumed_from: _Step | None = None  # the step this attempt started from
    metrics: Annotated[tuple[_Text, ...], Field(max_length=METRICS_MAX)] = ()  # lines that may be on no other medium
    spotrun_version: _Text = ""

    @property
    def size(self) -> int:
        """Bytes of all blobs together, shared ones included."""
        return sum(blob.size for blob in self.blobs)

    def stored(self) -> dict[str, Stored]:
        """Its tensors by name, each with the pieces that fill it."""
        found: dict[str, Stored] = {}
        boxes: dict[str, list[TensorRef]] = {}
        for name, ref in self.tensors.items():
            if ref.of is None:
                piece = Piece(ref.blob, ref.start, whole_box(ref.shape))
                found[name] = Stored(ref.dtype, DTYPE_SIZES[ref.dtype], ref.shape, (piece,))
            else:
                boxes.setdefault(ref.of, []).append(ref)
        for name, refs in boxes.items():
            pieces = tuple(Piece(ref.blob, ref.start, ref.box) for ref in refs)
            found[name] = Stored(refs[0].dtype, DTYPE_SIZES[refs[0].dtype], refs[0].whole or (), pieces)
        return found

    def to_bytes(self) -> bytes:
        """The manifest as JSON, UTF-8. NaN and infinities are written as Python's json writes them."""
        return self.model_dump_json(
            exclude={"tensors": {"__all__": _WHOLE}} if not self._has_boxes() else None
        ).encode()

    def _has_boxes(self) -> bool:
        return any(tensor.of is not None for tensor in self.tensors.values())

    @field_validator("state")
    @classmethod
    def _is_json(cls, state: Any, info: ValidationInfo) -> Any:
        if info.mode != "json" and not _is_surely_json(state) and (fault := _not_json(state)):
            raise ValueError(fault)
        return state

    @model_validator(mode="after")
    def _adds_up(self) -> Manifest:
        for number, blob in enumerate(self.blobs):
            if f"/{blob.digest}-" not in blob.key:
                raise ValueError(f"blob {number} is named {blob.key}, but its digest is {blob.digest}")
        for name, tensor in self.tensors.items():
            if fault := tensor.fault(self.blobs):
                raise ValueError(f"tensor {name!r}: {fault}")
        if fault := self._boxes_fault():
            raise ValueError(fault)
        return self

    def _boxes_fault(self) -> str | None:
        """Why the boxes are not those of whole tensors, or None."""
        boxes: dict[str, list[TensorRef]] = {}
        for ref in self.tensors.values():
            if ref.of is not None:
                boxes.setdefault(ref.of, []).append(ref)
        for name, refs in boxes.items():
            if name in self.tensors:
                return f"tensor {name!r} is there whole and in boxes"
            if len({(ref.dtype, ref.whole) for ref in refs}) > 1:
                return f"tensor {name!r}: its boxes are of different tensors"
            assert refs[0].whole is not None
            if math.prod(refs[0].whole) * DTYPE_SIZES[refs[0].dtype] > _TENSOR_BYTES_MAX:
                return f"tensor {name!r}: {list(refs[0].whole)} is larger than anything that is stored"
            if fault := filling_fault(refs[0].whole, [ref.box for ref in refs]):
                return f"tensor {name!r}: {fault}"
        return None


def decode_manifest(key: str, data: bytes) -> Manifest:
    """The manifest in `data`, found under `key`.

    Raises:
        CheckpointCorrupt: it is too large, no JSON, or not a manifest that adds up.
    """
    if len(data) > MANIFEST_BYTES_MAX:
        raise CheckpointCorrupt(key, f"{len(data)} bytes are more than a manifest may have ({MANIFEST_BYTES_MAX})")
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as err:
        first = err.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the manifest"
        raise CheckpointCorrupt(key, f"{where}: {first['msg']}") from None


def _is_surely_json(value: Any) -> bool:
    """Whether `_not_json` would find nothing; without a word of why not, in a tenth of the time."""
    level = [value]
    for _ in range(_DEPTH_MAX + 1):
        below: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is dict:
                if item and (set(map(type, item)) != {str} or not all(map(str.isascii, item))):
                    return False
                below += item.values()
            elif kind is list:
                below += item
            elif not (item.isascii() if kind is str else kind in _SCALARS):
                return False
        if not below:
            return True
        level = below
    return False


def _not_json(value: Any) -> str | None:
    """Why `value` would not come back from JSON as the same value, or None."""
    todo: list[tuple[str, Any, int]] = [("state", value, 0)]
    while todo:
        path, item, depth = todo.pop()
        kind = type(item)
        if depth > _DEPTH_MAX:
            return f"{path[:200]} is nested deeper than {_DEPTH_MAX}"
        if kind is dict:
            for key, member in item.items():
                if type(key) is not str:
                    return f"{path}[{key!r}] has a key that is {type(key).__name__}, not str"
                todo.append((path, key, depth))
                todo.append((f"{path}.{key}", member, depth + 1))
        elif kind is list:
            todo.extend((path, member, depth + 1) for member in item)
        elif kind is str:
            if not _is_utf8(item):
                return f"{path} holds text that is not Unicode"
        elif kind not in _SCALARS:
            return f"{path} is {kind.__name__}, which JSON would give back as something else"
    return None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
