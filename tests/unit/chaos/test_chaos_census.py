"""What a census finds in a script's memory, under the names that the script has for it."""

from __future__ import annotations

import random
import sys
from typing import Any

import torch

from spotrun.chaos.census import Found, Kind, find, take


class Trainer:
    """Of the script: its attributes are looked through."""

    def __init__(self) -> None:
        self.model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 1)

    def look(self, batch: torch.Tensor) -> Found:
        self.model(batch).sum().backward()
        return find(sys._getframe(), {"order": random.Random(1), "__name__": "__main__"})


def looked() -> tuple[Found, dict[str, set[str]]]:
    trainer, count = Trainer(), 3
    found = trainer.look(torch.ones(4, 2))
    kinds: dict[str, set[str]] = {}
    for entry in take(found):
        kinds.setdefault(entry.kind, set()).add(entry.name)
    assert count == 3
    return found, kinds


def test_everything_with_a_state_is_found_by_name() -> None:
    """In main, in the functions that are running, in objects of the script's classes."""
    _, kinds = looked()
    assert kinds[Kind.WEIGHTS] == {"trainer.model"}
    assert kinds[Kind.STATISTICS] == kinds[Kind.GRADIENTS] == {"trainer.model"}
    assert kinds[Kind.OPTIONS] == {"trainer.optimizer"}
    assert kinds[Kind.SCHEDULER] == {"trainer.scheduler"}
    assert kinds[Kind.GENERATOR] == {"order"}
    assert kinds[Kind.DATA] == {"batch"}
    assert "count" in kinds[Kind.NUMBER]
    assert {"torch", "Python's random"} <= kinds[Kind.RANDOMNESS]


def test_two_variables_of_one_name_are_two() -> None:
    """The inner one says where it is."""

    def inner() -> Found:
        batch = torch.zeros(1)
        assert batch.numel() == 1
        return find(sys._getframe(), {"batch": torch.ones(1)})

    assert {name for name in inner() if name.startswith("batch")} == {"batch", "batch in inner"}


def test_digests_tell_bytes_apart() -> None:
    """Minus zero is not zero, NaN is itself, and the type counts."""

    def digest(value: Any) -> str:
        return next(entry.digest for entry in take({"x": value}) if entry.name == "x")

    assert digest(torch.tensor([0.0])) != digest(torch.tensor([-0.0]))
    assert digest(torch.tensor([float("nan")])) == digest(torch.tensor([float("nan")]))
    assert digest(torch.zeros(2)) != digest(torch.zeros(2, dtype=torch.bfloat16))
    assert digest(random.Random(1)) != digest(random.Random(2))
