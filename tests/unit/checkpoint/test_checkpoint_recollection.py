"""What a save remembers of the one before: used where nothing differs, and never where something does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from spotrun.checkpoint.pack import Packing
from spotrun.checkpoint.recollection import Recollection, renewed
from spotrun.checkpoint.staging import Staging
from spotrun.checkpoint.tree import flatten


def state() -> dict[str, Any]:
    """A model's parameters and an optimizer's state, with tied ones and counts of steps."""
    tied = torch.randn(40, 3)
    return {
        "models": {"a": torch.randn(7, 5), "b": torch.randn(300)},
        "complex": {"c": torch.zeros(2, dtype=torch.complex64)},
        "tied": {"one": tied, "two": torch.randn(3), "other": tied},
        "views": {"whole": tied, "part": tied[:2]},
        "state": {name: {"step": torch.tensor(3.0), "exp_avg": torch.randn(50, 7)} for name in ("a", "b", "c")},
        "rate": {"lr": 0.1},
    }


def swap_memory(tree: dict[str, Any]) -> None:
    tree["state"]["b"]["exp_avg"].data = torch.randn(50, 7)


def reshape_in_place(tree: dict[str, Any]) -> None:
    tree["models"]["b"].resize_(30, 10)


def retype(tree: dict[str, Any]) -> None:
    tree["models"]["a"].data = tree["models"]["a"].data.view(torch.int32)


def replace(tree: dict[str, Any]) -> None:
    tree["state"]["a"]["exp_avg"] = torch.randn(50, 7)


def add(tree: dict[str, Any]) -> None:
    tree["state"]["c"]["max"] = torch.randn(4)


def take_away(tree: dict[str, Any]) -> None:
    del tree["state"]["b"]


def reorder(tree: dict[str, Any]) -> None:
    tree["models"] = dict(reversed(tree["models"].items()))


def tie(tree: dict[str, Any]) -> None:
    tree["state"]["b"]["exp_avg"] = tree["state"]["a"]["exp_avg"]


def tie_before(tree: dict[str, Any]) -> None:
    tree["models"] = {"tie": tree["state"]["c"]["exp_avg"], **tree["models"]}


def turn_into_a_number(tree: dict[str, Any]) -> None:
    tree["state"]["a"]["step"] = 4


def step(tree: dict[str, Any]) -> None:
    for part in tree["state"].values():
        part["step"] += 1
        part["exp_avg"].mul_(2)


CHANGES = [swap_memory, reshape_in_place, retype, replace, add, take_away, reorder, tie, tie_before, turn_into_a_number,
           step]  # fmt: skip


def same(one: Any, other: Any) -> None:
    """Two walks have found the same: documents, names, order, and memory in the same form."""
    assert one.document == other.document
    assert list(one.tensors) == list(other.tensors)
    for mine, theirs in zip(one.tensors.values(), other.tensors.values(), strict=True):
        assert mine.is_set_to(theirs)
        assert mine.dtype is theirs.dtype


@pytest.mark.parametrize("change", CHANGES)
def test_a_walk_that_remembers_finds_what_one_finds_that_does_not(change: Callable[[dict[str, Any]], None]) -> None:
    """Before, after and long after a change, whatever it was."""
    tree, recollection = state(), Recollection()
    for _ in range(3):
        same(flatten(tree, recollection=recollection), flatten(tree))
    change(tree)
    for _ in range(3):
        same(flatten(tree, recollection=recollection), flatten(tree))


def test_what_is_the_same_is_not_walked_over_again() -> None:
    """The tensors are the very objects of the time before, so that all that follows from them holds."""
    tree, recollection = state(), Recollection()
    first = flatten(tree, recollection=recollection)
    second = flatten(tree, recollection=recollection)
    assert set(recollection.found) == {"models", "tied", "state"}
    assert renewed(first.tensors, second.tensors) == ["complex.c", "views.part"]
    assert renewed(first.tensors, flatten({**tree, "more": torch.ones(1)}).tensors) is None


@pytest.mark.parametrize("change", CHANGES)
def test_memory_that_is_filled_again_holds_the_state(change: Callable[[dict[str, Any]], None]) -> None:
    """Numbers in one call, the rest one by one; what was to be copied later is so again, until something differs."""
    tree, recollection, staging, packing = (
        state(),
        Recollection(),
        Staging(),
        Packing(lambda name: name.partition(".")[0]),
    )
    later: dict[str, int] = {}
    before: dict[str, torch.Tensor] = {}
    for turn in range(6):
        if turn == 3:
            change(tree)
        flat = flatten(tree, recollection=recollection)
        new = renewed(before, flat.tensors)
        before = flat.tensors
        now = {name: tensor.data_ptr() for name, tensor in flat.tensors.items() if "exp_avg" in name}
        later = later if now == later else now
        plan = packing.plan(flat.tensors, renewed=new)
        assert plan.layouts == Packing(lambda name: name.partition(".")[0]).plan(flat.tensors).layouts
        for item in staging.fill(plan, flat.tensors, steady=later, renewed=new):
            staging.update(item.blob, item.target, item.address, item.size)
        parts = staging.parts()
        for number, _, _, slot in plan.slots:
            held = bytes(parts[number][slot.start : slot.end])
            assert held == flat.tensors[slot.tensor].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            staging.note(number, "noted")
        step(tree) if "max" not in tree["state"].get("c", {}) and turn < 2 else None
