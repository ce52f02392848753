"""Which gradients belong to the state: those that a resume would need, in any kind of loop."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from full_job import digest
from torch import nn

import spotrun

Loop = Callable[[nn.Module, torch.optim.Optimizer, int], None]


def backward(model: nn.Module) -> None:
    model(torch.randn(4, 3)).square().mean().backward()


def clears_first(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    optimizer.zero_grad()
    backward(model)
    optimizer.step()


def clears_last(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    backward(model)
    optimizer.step()
    optimizer.zero_grad()


def zeroes_in_place(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    optimizer.zero_grad(set_to_none=False)
    backward(model)
    optimizer.step()


def accumulates(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    backward(model)
    if number % 3 == 2:
        optimizer.step()
        optimizer.zero_grad()


def accumulates_and_clears_first(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    if number % 3 == 0:
        optimizer.zero_grad()
    backward(model)
    if number % 3 == 2:
        optimizer.step()


def steps_without_clearing(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    """Odd, but a training: each step uses the sum of all gradients since the last clearing, four steps ago."""
    if number % 4 == 0:
        optimizer.zero_grad()
    backward(model)
    optimizer.step()


def train(loop: Loop, *, until: int | None = None) -> tuple[spotrun.Run, nn.Module]:
    torch.manual_seed(until or 0)
    model = nn.Linear(3, 3)
    if until is None:
        torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    run = spotrun.attach(model=model, optimizer=optimizer, name="x")
    for number in run.steps(12):
        if number == until:
            run._parts.keeper.abandon()
            break
        loop(model, optimizer, number)
        if until is not None and number == until - 1:
            run.save(wait=True)
    return run, model


@pytest.mark.parametrize("until", range(1, 12))
@pytest.mark.parametrize(
    "loop",
    [clears_first, clears_last, zeroes_in_place, accumulates, accumulates_and_clears_first, steps_without_clearing],
)
def test_every_kind_of_loop_goes_on_exactly(loop: Loop, until: int, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """Gradients that matter are saved wherever the run stops, whoever clears them when."""
    torch.manual_seed(until)
    model = nn.Linear(3, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for number in range(12):
        loop(model, optimizer, number)
    train(loop, until=until)
    run, resumed = train(loop)
    assert run.resumed_from == until
    assert digest(list(resumed.parameters())) == digest(list(model.parameters()))


def test_dead_gradients_are_not_saved() -> None:
    """Once the loop is known to clear them, a model's worth of bytes is spared."""
    model = nn.Linear(50, 50)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = spotrun.attach(model=model, optimizer=optimizer, name="x")
    sizes = []
    for _ in run.steps(4):
        optimizer.zero_grad()
        model(torch.randn(4, 50)).sum().backward()
        optimizer.step()
        run.save(wait=True)
        commit = run._parts.reporter.progress.last_commit
        sizes.append(commit.size_bytes if commit else 0)
    # The first save knows nothing of the loop, the second has seen one step only.
    assert sizes[1] > sizes[2] + 10_000
    assert sizes[2] == sizes[3]
