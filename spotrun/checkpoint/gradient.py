"""Which gradients are part of the state.

Most loops clear gradients before they fill them again, so what is left after an optimizer's step is dead weight: a
third of a model with SGD. But a gradient that is being accumulated must be saved, and so must one that a loop keeps
beyond a step. Nobody tells us, so we watch the optimizers: a gradient is dead if the last thing that happened to it
was a step that consumed it, and if this loop has been seen to give gradients up between two steps. Until that has
been seen, and for parameters of no optimizer that we know, every gradient is saved.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from spotrun.checkpoint.model import Load
from spotrun.checkpoint.stored import StoredTensor
from spotrun.errors import CheckpointError

__all__ = ["GradientWatch", "prepare_gradients"]


class GradientWatch:
    """Watches optimizers to know which gradients a resume would need.

    Args:
        given_up: what was known of this loop when it was saved: whether it gives gradients up between steps.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.given_up: bool | None = None
        self.steps = 0  # optimizer steps seen
        self._consumed: dict[int, tuple[weakref.ref[torch.Tensor], int]] = {}
        self._hooks = [optimizer.register_step_pre_hook(self._before) for optimizer in optimizers]
        self._hooks += [optimizer.register_step_post_hook(self._after) for optimizer in optimizers]

    def close(self) -> None:
        """Takes the hooks off."""
        for hook in self._hooks:
            hook.remove()

    def needed(self, parameters: Mapping[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
        """The gradients that belong to the state now, by name."""
        return {
            name: parameter.grad
            for name, parameter in parameters.items()
            if parameter.grad is not None and not (self.given_up and self._is_consumed(parameter))
        }

    def _before(self, optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        for parameter in _parameters(optimizer):
            last = self._consumed.get(id(parameter))
            if last is None or parameter.grad is None:
                continue
            if last[0]() is parameter.grad:
                # The very tensor that the step before consumed. It may have been zeroed in place, or added to:
                # we cannot tell, so gradients count as kept from here on.
                self.given_up = False
                return
            if self.given_up is None:
                self.given_up = True

    def _after(self, optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        self.steps += 1
        for parameter in _parameters(optimizer):
            if parameter.grad is not None:
                self._consumed[id(parameter)] = (weakref.ref(parameter.grad), parameter.grad._version)

    def _is_consumed(self, parameter: torch.nn.Parameter) -> bool:
        last = self._consumed.get(id(parameter))
        return (
            last is not None
            and parameter.grad is not None
            and last[0]() is parameter.grad
            and last[1] == parameter.grad._version
        )


def prepare_gradients(
    parameters: Mapping[str, torch.nn.Parameter], saved: Mapping[str, torch.Tensor | StoredTensor]
) -> Load:
    """Checks that saved gradients fit, changing nothing, and returns the function that sets them.

    Raises:
        CheckpointError: a gradient belongs to no parameter of now, or has another shape.
    """
    for name, gradient in saved.items():
        if name not in parameters or parameters[name].shape != gradient.shape:
            raise CheckpointError(f"the checkpoint holds a gradient of {name}, which fits no parameter of this model")
        if isinstance(gradient, StoredTensor):
            gradient.place(parameters[name].device, like=parameters[name])

    def load() -> None:
        for name, parameter in parameters.items():
            gradient = saved.get(name)
            if isinstance(gradient, StoredTensor):
                parameter.grad = gradient.take()
            else:
                parameter.grad = None if gradient is None else gradient.to(parameter.device, copy=True)

    return load


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
