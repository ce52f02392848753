"""The moment between two steps: the only one whose state is saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from spotrun.checkpoint.copying import Gate
from spotrun.checkpoint.model import Anatomy
from spotrun.checkpoint.position import Position
from spotrun.checkpoint.randomness import capture_generators, capture_global
from spotrun.checkpoint.state import Components

__all__ = ["Boundary", "Mark"]


@dataclass(frozen=True, slots=True)
class Boundary:
    """The state between two steps.

    Attributes:
        key: differs for states that differ.
        capture: gives the state, with live tensors.
        steady: gives the addresses of what will not change before an optimizer steps; None if what comes next may
            change anything, because it is not the next step of the loop.
    """

    step: int
    key: tuple[Any, ...] | None
    capture: Callable[[], Mapping[str, Any]]
    steady: Callable[[Gate], Mapping[int, int]] | None = None


class Mark:
    """What is needed later to save the state of this boundary, as long as nothing has been trained since.

    An evaluation draws random numbers, sets flags and reads batches: all that is kept here. It changes no tensor of the
    model or of an optimizer, which is checked by how often each of them was changed.
    """

    def __init__(self, components: Components, position: Position) -> None:
        self._components = components
        self._steps = components.watch.steps
        self._changes = self._count_changes()
        self.step = position.step
        self.key = position.key
        self._position = position.to_tree()
        self._randomness = capture_global()
        self._generators = capture_generators(components.generators)
        self._evaluating = {name: Anatomy(model).evaluating for name, model in components.models.items()}

    def is_intact(self, position: Position) -> bool:
        """Whether the state is still that of the boundary, but for what is kept here."""
        return (
            self.key == position.key
            and self._steps == self._components.watch.steps
            and self._changes == self._count_changes()
        )

    def capture(self) -> dict[str, Any]:
        """The state of the boundary, with live tensors."""
        tree = self._components.capture()
        for name, evaluating in self._evaluating.items():
            tree["models"][name]["evaluating"] = evaluating
        return {**tree, "randomness": self._randomness, "generators": self._generators, "position": self._position}

    def _count_changes(self) -> list[int]:
        changes = []
        for model in self._components.models.values():
            for parameter in model.parameters():
                gradient = parameter.grad
                changes += [_version(parameter), -1 if gradient is None else _version(gradient)]
            changes += [_version(buffer) for buffer in model.buffers()]
        return changes


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
