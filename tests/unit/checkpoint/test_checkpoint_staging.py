"""The memory of a snapshot: it knows what it holds, and what seems not to change lies apart."""

from __future__ import annotations

import pytest
import torch

from spotrun.checkpoint import address, staging
from spotrun.checkpoint.pack import Packing
from spotrun.checkpoint.sample import Sampling
from spotrun.checkpoint.staging import Staging
from spotrun.checkpoint.still import Stillness


def group(name: str) -> str:
    return name.partition(".")[0]


def test_a_blob_keeps_its_digest_until_one_byte_of_it_changes() -> None:
    """Compared byte by byte, whatever PyTorch counts: so an unchanged blob is neither copied nor hashed again."""
    tensors = {"a.one": torch.randn(3, 1000), "a.two": torch.randn(7), "b.three": torch.randn(50).bfloat16()}
    plan, memory = Packing(group).plan(tensors), Staging()
    memory.fill(plan, tensors)
    memory.note(0, "first"), memory.note(1, "second")
    memory.fill(plan, tensors)
    assert [memory.digest(0), memory.digest(1)] == ["first", "second"]
    tensors["a.two"].data[3] += 1
    memory.fill(plan, tensors)
    assert [memory.digest(0), memory.digest(1)] == [None, "second"]


def test_only_what_differs_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two tensors in one blob the first has changed, and that is known before the second is looked at."""
    copied: list[int] = []
    monkeypatch.setattr(
        staging, "copy", lambda to, source, size: (copied.append(size), address.copy(to, source, size))[0]
    )
    tensors = {"a": torch.zeros(100), "b": torch.zeros(10)}
    plan, memory = Packing(lambda name: name).plan(tensors), Staging()
    memory.fill(plan, tensors)
    memory.note(0, "a"), memory.note(1, "b")
    copied.clear()
    tensors["b"][9] = 1
    memory.fill(plan, tensors)
    assert copied == [40]
    assert bytes(memory.parts()[1])[-4:] == b"\0\0\x80\x3f"


def test_another_plan_forgets_what_was_there() -> None:
    """The same bytes may lie in other places now: everything is copied and hashed."""
    tensors = {"a": torch.randn(100), "b": torch.randn(100)}
    packing, memory = Packing(group), Staging()
    memory.fill(packing.plan(tensors), tensors)
    memory.note(0, "first")
    memory.fill(packing.plan(tensors, apart=frozenset({"b"})), tensors)
    assert memory.digest(0) is None
    assert bytes(memory.parts()[1])[-400:] == tensors["b"].numpy().tobytes()


def test_samples_find_any_change_of_a_whole_tensor() -> None:
    """Of every size and type; also in a copy that was cut in two."""
    sampling = Sampling()
    for dtype in (torch.float32, torch.bfloat16, torch.int8, torch.float64):
        for count in (1 << 14, (1 << 14) + 1, 100_003):
            tensor = torch.ones(count, dtype=dtype)
            if tensor.nbytes < 16 << 10:
                continue
            before = sampling.take({"x": tensor})
            copy = tensor.clone()
            half = tensor.nbytes // 16 * 8
            whole = [("x", copy.data_ptr(), 0, tensor.nbytes)]
            cut = [("x", copy.data_ptr(), 0, half), ("x", copy.data_ptr() + half, half, tensor.nbytes - half)]
            assert before.differing(whole) == before.differing(cut) == []
            assert sampling.take({"x": tensor}).compared(before) == {"x": False}
            copy.mul_(2)
            assert before.differing(whole) == ["x"]
            assert before.differing(cut) == ["x", "x"]
            assert sampling.take({"x": copy}).compared(before) == {"x": True}


def test_a_tensor_is_still_after_a_save_and_moving_once_it_was_seen_to_move() -> None:
    """What came and went has to be still for longer the next time, so that packing anew does not go on for ever."""
    still, sampling = Stillness(lambda name: name.startswith("frozen")), Sampling()
    tensors = {name: torch.zeros(5000) for name in ("frozen.a", "b", "c")}

    def observe(*changed: str) -> frozenset[str]:
        for name in changed:
            tensors[name].add_(1)
        still.observe(tensors, sampling.take(tensors))
        return still.apart

    assert observe() == frozenset()
    assert observe("b") == {"c"}
    assert observe("b") == {"c"}
    assert observe("b", "c") == frozenset()
    assert [observe("b") for _ in range(4)] == [frozenset()] * 3 + [{"c"}]


def test_little_is_not_packed_anew() -> None:
    """A tensor that is next to nothing of the state stays where it is: moving it would upload all of its group."""
    still, sampling = Stillness(lambda name: False), Sampling()
    tensors = {"large": torch.zeros(1_000_000), "little": torch.zeros(4096)}
    for _ in range(3):
        tensors["large"].add_(1)
        still.observe(tensors, sampling.take(tensors))
    assert still.apart == frozenset()
