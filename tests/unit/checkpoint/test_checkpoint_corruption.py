"""Whatever happens to the objects of a run, no resume loads anything but the whole state of one of its commits.

`make soak` damages ten thousand times instead.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from full_job import digest
from stored_state import Shelf
from torch import nn

from spotrun.checkpoint.restore import refuse_lost, resume
from spotrun.checkpoint.state import Components, sort_components
from spotrun.clock import SystemClock
from spotrun.errors import SpotrunError
from spotrun.store import Lineage, MemoryStore

COUNT = int(os.environ.get("SOAK_DAMAGES", "1200"))
STEPS = (1, 2, 3)

Objects = dict[str, bytes]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 5)
        self.norm = nn.BatchNorm1d(5)
        self.frozen = nn.Linear(5, 2).requires_grad_(False)
        self.last = nn.Linear(5, 2)
        self.last.weight = nn.Parameter(self.frozen.weight.detach().clone().t().contiguous().t())  # not contiguous


def built(seed: int) -> Components:
    torch.manual_seed(seed)
    model = Net()
    counts = {"seed": seed, "seen": torch.randn(7)}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    return sort_components({"model": model, "optimizer": optimizer, "counts": counts})


def trained(components: Components, step: int) -> None:
    (model,), (optimizer,) = components.models.values(), components.optimizers.values()
    torch.manual_seed(step)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    model.norm.running_mean.normal_()
    components.values["counts"].update(step=step, seen=torch.randn(7))


def state_of(components: Components) -> str:
    tree = components.capture()
    return digest({name: tree[name] for name in ("models", "frozen", "optimizers", "values")})


def checkpoints() -> tuple[Objects, dict[int, str]]:
    """The objects of a run with three commits, whose tensors lie in many blobs, and the state of each."""
    shelf = Shelf(MemoryStore())
    components, states = built(0), {}
    for step in STEPS:
        trained(components, step)
        states[step] = state_of(components)
        shelf.commit(step, {**components.capture(), "randomness": {}}, rows=3)
    return {key: shelf.store.read(key) for key in shelf.store.list("")}, states


def flipped(objects: Objects, dice: random.Random) -> None:
    key = dice.choice(sorted(objects))
    data = bytearray(objects[key])
    if data:
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    objects[key] = bytes(data)


def cut(objects: Objects, dice: random.Random) -> None:
    key = dice.choice(sorted(objects))
    objects[key] = objects[key][: dice.randrange(len(objects[key]) + 1)]


def grown(objects: Objects, dice: random.Random) -> None:
    objects[dice.choice(sorted(objects))] += dice.randbytes(dice.randint(1, 9))


def zeroed(objects: Objects, dice: random.Random) -> None:
    key = dice.choice(sorted(objects))
    start, size = dice.randrange(len(objects[key]) + 1), dice.randint(1, 64)
    objects[key] = (objects[key][:start] + bytes(size) + objects[key][start + size :])[: len(objects[key])]


def swapped(objects: Objects, dice: random.Random) -> None:
    one, other = (dice.choice(sorted(objects)) for _ in range(2))
    objects[one], objects[other] = objects[other], objects[one]


def swapped_alike(objects: Objects, dice: random.Random) -> None:
    """Of the same kind and size, as a store that mixes up two objects gives them."""
    one = dice.choice(sorted(objects))
    alike = [key for key in objects if key[:4] == one[:4] and len(objects[key]) == len(objects[one])]
    other = dice.choice(sorted(alike))
    objects[one], objects[other] = objects[other], objects[one]


def rolled_back(objects: Objects, dice: random.Random) -> None:
    """One object is what another of its kind, an older one, was."""
    one = dice.choice(sorted(objects))
    objects[one] = objects[dice.choice(sorted(key for key in objects if key[:4] == one[:4]))]


def missing(objects: Objects, dice: random.Random) -> None:
    del objects[dice.choice(sorted(objects))]


DAMAGES: list[Callable[[Objects, random.Random], None]] = [
    flipped, flipped, cut, grown, zeroed, swapped, swapped_alike, rolled_back, missing,
]  # fmt: skip


def resumed(objects: Objects) -> tuple[str, int | None, Components]:
    """How a resume from these objects ends: refused, fresh or resumed; from which step; and what is in memory then."""
    store = MemoryStore()
    for key, data in objects.items():
        store.write(key, [data])
    components = built(99)
    try:
        lineage = Lineage(store, attempt=None, writer="next", clock=SystemClock())
        commits = lineage.claim()
        refuse_lost(store, lineage.log)
        restored = resume(store, commits, components)
    except SpotrunError:
        return "refused", None, components
    return ("fresh", None, components) if restored is None else ("resumed", restored.entry.step, components)


def test_no_damage_is_ever_loaded() -> None:
    """Random bits, lengths, contents, names: found each time, and what is loaded instead is an older commit, whole."""
    whole, states = checkpoints()
    assert len(whole) > 25
    how, step, components = resumed(whole)
    assert (how, step, state_of(components)) == ("resumed", 3, states[3])
    ends: Counter[Any] = Counter()
    for number in range(COUNT):
        dice = random.Random(number)
        objects = dict(whole)
        for _ in range(dice.choice([1, 1, 1, 2, 5])):
            dice.choice(DAMAGES)(objects, dice)
        how, step, components = resumed(objects)
        ends[how, step] += 1
        if how == "resumed":
            assert step is not None
            assert state_of(components) == states[step], f"seed {number}"
    # All ends are reached, or this would show nothing; nobody starts from nothing.
    assert {end for end in ends if end[0] == "resumed"} == {("resumed", step) for step in STEPS}
    assert ends["refused", None]
    assert not ends["fresh", None]


def test_damage_anywhere_in_the_newest_commit_leads_to_the_one_before_it() -> None:
    """Object by object, in the first byte, in the last, and in one between."""
    whole, states = checkpoints()
    log = [key for key in whole if key.startswith("log/")]
    newest = resumed({key: data for key, data in whole.items() if key != max(log)})
    assert newest[:2] == ("resumed", 2)
    only_newest = [
        key for key in whole if key not in log and resumed({k: d for k, d in whole.items() if k != key})[1] == 2
    ]
    assert len(only_newest) > 5
    for key in only_newest:
        for place in (0, len(whole[key]) // 2, -1):
            data = bytearray(whole[key])
            data[place] ^= 0x10
            how, step, components = resumed({**whole, key: bytes(data)})
            assert (how, step) == ("resumed", 2), key
            assert state_of(components) == states[2], key
