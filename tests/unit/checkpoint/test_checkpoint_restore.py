"""What a resume leaves in memory: each tensor with memory of its own, and nothing at all of a damaged checkpoint."""

from __future__ import annotations

from typing import Any

import torch
from full_job import digest
from torch import nn

import spotrun


class Keeping:
    """Keeps the very tensors that it is given, as many objects do."""

    def __init__(self) -> None:
        self.kept = {"large": torch.randn(50, 50), "small": torch.ones(3)}

    def state_dict(self) -> dict[str, Any]:
        return self.kept

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.kept = state


class Stateful(nn.Linear):
    """A module with extra state, which it keeps as it is given."""

    extra = torch.arange(5.0)

    def get_extra_state(self) -> torch.Tensor:
        return self.extra

    def set_extra_state(self, state: torch.Tensor) -> None:
        self.extra = state


class Shared(torch.optim.SGD):
    """An optimizer that keeps state under a name of its own."""


def built() -> tuple[nn.Module, torch.optim.Optimizer, Keeping]:
    model = nn.Sequential(Stateful(8, 8), nn.BatchNorm1d(8))
    return model, Shared(model.parameters(), lr=0.1, momentum=0.9), Keeping()


def trained() -> tuple[nn.Module, torch.optim.Optimizer, Keeping]:
    torch.manual_seed(1)
    model, optimizer, keeping = built()
    run = spotrun.attach(model=model, optimizer=optimizer, keeping=keeping, name="x")
    for _ in run.steps(3):
        model(torch.randn(4, 8)).square().mean().backward()
        optimizer.step()
        optimizer.state["shared"] = {"history": torch.ones(4)}  # type: ignore[index]
    return model, optimizer, keeping


def tensors_of(model: nn.Module, optimizer: torch.optim.Optimizer, keeping: Keeping) -> list[torch.Tensor]:
    moments = [optimizer.state[parameter]["momentum_buffer"] for parameter in model.parameters()]
    return [
        *model.parameters(),
        *model.buffers(),
        *(parameter.grad for parameter in model.parameters()),
        model[0].extra,
        *moments,
        optimizer.state["shared"]["history"],  # type: ignore[index]
        *keeping.kept.values(),
    ]


def test_every_restored_tensor_has_memory_of_its_own() -> None:
    """Whoever writes to one changes no other, and keeping a small one does not keep a whole blob in memory."""
    before = [digest(tensor) for tensor in tensors_of(*trained())]
    model, optimizer, keeping = built()
    spotrun.attach(model=model, optimizer=optimizer, keeping=keeping, name="x")
    restored = tensors_of(model, optimizer, keeping)
    assert [digest(tensor) for tensor in restored] == before
    for tensor in restored:
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
    assert len({tensor.untyped_storage().data_ptr() for tensor in restored}) == len(restored)
