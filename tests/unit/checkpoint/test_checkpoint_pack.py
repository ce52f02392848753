"""Tensors in blobs: any safetensors reader can open them, equal layers give equal blobs, memory is kept."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from full_job import digest

from spotrun.checkpoint import pack
from spotrun.checkpoint.pack import Packing, Plan
from spotrun.checkpoint.staging import Staging
from spotrun.checkpoint.tensor import DTYPES, safetensors_name, view_bytes


def packed(tensors: dict[str, torch.Tensor]) -> tuple[Plan, list[bytes]]:
    staging, plan = Staging(), Packing(lambda name: name.partition(".")[0]).plan(tensors)
    assert staging.fill(plan, tensors) == []
    return plan, [bytes(part) for part in staging.parts()]


@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_every_blob_is_a_safetensors_file() -> None:
    """Also of dtypes the format does not know: those are there as bytes."""
    tensors = {f"a.{name}": (torch.arange(6) % 2).to(dtype) for name, dtype in DTYPES.items()}
    tensors |= {
        "b.scalar": torch.tensor(1.5),
        "b.empty": torch.empty(0, 3),
        "b.turned": torch.arange(6.0).view(2, 3).t(),
    }
    plan, blobs = packed(tensors)
    assert len(blobs) == 2
    read = {name: tensor for blob in blobs for name, tensor in safetensors.torch.load(blob).items()}
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        if safetensors_name(str(tensor.dtype).removeprefix("torch.")):
            assert digest(read[name]) == digest(tensor.contiguous())
        else:
            assert read[name].dtype == torch.uint8
    for layout, blob in zip(plan.layouts, blobs, strict=True):
        memory = torch.frombuffer(bytearray(blob), dtype=torch.uint8)
        for slot in layout.slots:
            view = view_bytes(memory, start=slot.start, dtype=slot.dtype, shape=slot.shape, key="")
            assert digest(view) == digest(tensors[slot.name].contiguous())


def test_blobs_keep_to_their_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that several can be sent at once: up to twice the limit a tensor has a blob of its own, above it is cut."""
    monkeypatch.setattr(pack, "_limit", lambda size: 1200)
    tensors = {f"a.{number}": torch.zeros(100) for number in range(10)}
    tensors |= {"a.large": torch.zeros(500), "a.huge": torch.zeros(250, 4), "a.row": torch.zeros(1, 1000)}
    tensors |= {"a.rows": torch.zeros(2, 1000)}  # rows that are larger than the limit stay together
    plan, _ = packed(tensors)
    sizes = [sum(slot.end - slot.start for slot in layout.slots) for layout in plan.layouts]
    assert sum(sizes) == sum(tensor.nbytes for tensor in tensors.values())
    assert sorted(sizes)[-2:] == [2000, 8000]
    assert max(sorted(sizes)[:-2]) == 1200
    boxes = [ref for ref in plan.refs().values() if ref.of == "a.huge"]
    assert [(ref.offset, ref.shape) for ref in boxes] == [
        ((0, 0), (75, 4)), ((75, 0), (75, 4)), ((150, 0), (75, 4)), ((225, 0), (25, 4))
    ]  # fmt: skip
    assert [(ref.offset, ref.shape) for ref in plan.refs().values() if ref.of == "a.row"] == [
        ((0, 0), (1, 300)), ((0, 300), (1, 300)), ((0, 600), (1, 300)), ((0, 900), (1, 100))
    ]  # fmt: skip


def test_the_same_layers_give_the_same_bytes() -> None:
    """A group that has not changed is found again by its digest, whatever the other groups do."""
    frozen = {"frozen.a": torch.randn(5), "frozen.b": torch.randn(2, 2).bfloat16()}
    _, first = packed(frozen | {"models.c": torch.zeros(3)})
    _, second = packed(frozen | {"models.c": torch.ones(3)})
    assert first[0] == second[0]
    assert first[1] != second[1]


def test_staging_memory_is_kept_and_independent_of_the_tensors() -> None:
    """A second fill of the same layout uses the same memory; changing a tensor afterwards changes nothing."""
    tensor = torch.arange(8.0)
    plan = Packing(lambda name: name).plan({"a": tensor})
    staging = Staging()
    staging.fill(plan, {"a": tensor})
    before = staging.parts()[0]
    kept = bytes(before)
    tensor.zero_()
    assert bytes(before) == kept
    staging.fill(plan, {"a": tensor})
    assert address_of(staging.parts()[0]) == address_of(before)
    assert bytes(before) != kept


def address_of(view: memoryview) -> int:
    return torch.frombuffer(view, dtype=torch.uint8).data_ptr()


def test_every_tensor_lies_at_a_multiple_of_its_words() -> None:
    """Counters of four bytes between large tensors of an odd number of words, as optimizers have them, are put last:
    else every second tensor could not be looked into word by word, and would be copied while the loop stands still."""
    tensors = {}
    for number in range(5):
        tensors |= {f"a.{number}.step": torch.tensor(1.0), f"a.{number}.moment": torch.zeros(2 * number + 1, 2)}
        tensors |= {
            f"a.{number}.half": torch.zeros(number, dtype=torch.bfloat16),
            f"a.{number}.flag": torch.tensor(True),
        }
    plan, _ = packed(tensors)
    for _, start, size, slot in plan.slots:
        itemsize = DTYPES[slot.dtype].itemsize
        assert start % itemsize == 0
        assert size % 8 or start % 8 == 0
