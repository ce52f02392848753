"""What goes wrong around `attach`, each said in a sentence before it costs anything."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from spotrun.checkpoint.keeper import Keeper
from spotrun.checkpoint.report import Reporter, say
from spotrun.checkpoint.state import Components
from spotrun.errors import CheckpointError

__all__ = ["Strangers", "refuse_mistaken", "remember", "suspicions"]

# By place, as long as they live. Of the process, as signals are: a second attach knows nothing else of the first.
_ATTACHED: weakref.WeakValueDictionary[str, Keeper] = weakref.WeakValueDictionary()


def refuse_mistaken(given: Mapping[str, Any], misplaced: Sequence[Any] = ()) -> None:
    """Refuses things given to `attach` in the place of others.

    Args:
        misplaced: what was given without a name.

    Raises:
        TypeError: something was.
        CheckpointError: one of them; it says which, and what belongs there.
    """
    if misplaced:
        raise TypeError(
            f"attach takes names: attach(model=..., optimizer=..., ...); {len(misplaced)} given without, the first is a "
            f"{type(misplaced[0]).__qualname__}"
        )
    for path, model in _flat("model", given["model"]):
        if not isinstance(model, torch.nn.Module):
            raise _wrong(path, model, "a torch.nn.Module, or a dict of modules")
    for path, optimizer in _flat("optimizer", given["optimizer"]):
        if not isinstance(optimizer, torch.optim.Optimizer) and not _keeps_state(optimizer):
            raise _wrong(path, optimizer, "an optimizer, e.g. torch.optim.AdamW(model.parameters())")
        if isinstance(optimizer, torch.nn.Module):
            raise _wrong(path, optimizer, "an optimizer; a second model goes into model={...}")
    for name in ("scheduler", "scaler"):
        for path, item in _flat(name, given[name]):
            if isinstance(item, torch.nn.Module | torch.optim.Optimizer):
                raise _wrong(path, item, "an object with state_dict() and load_state_dict()")


def suspicions(components: Components) -> list[str]:
    """What is allowed, and most likely a mistake."""
    found = [
        f"{name} has taken steps before attach: a resume would lose or repeat them. Attach before the first step"
        for name, optimizer in components.optimizers.items()
        if any("step" in state or "momentum_buffer" in state for state in optimizer.state.values())
    ]
    if not components.models and (components.optimizers or components.states):
        found.append("no model was given to attach: its weights are not saved. Say attach(model=model, ...)")
    parameters = [parameter for model in components.models.values() for parameter in model.parameters()]
    if any(parameter.grad is not None for parameter in parameters):
        found.append("there are gradients before attach: a resume replaces them. Attach before the first backward()")
    return found


def remember(name: str, place: str, keeper: Keeper) -> None:
    """Says so if this process holds the run at this place already."""
    before = _ATTACHED.get(place)
    if before is not None and not before.done:
        say(
            f"{name} was attached before in this process, and that run is not over: it cannot commit any more, go on with "
            "the new one alone. For two runs side by side, give each a name: attach(name=...)"
        )
    _ATTACHED[place] = keeper


class Strangers:
    """Watches for optimizers that train what was given to `attach`, and were not given themselves."""

    def __init__(self, components: Components, reporter: Reporter) -> None:
        self._components = components
        self._reporter = reporter
        self._seen: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet(components.optimizers.values())
        this = weakref.ref(self)  # PyTorch keeps the hook, and must not keep the run

        def after(optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
            strangers = this()
            if strangers is not None and optimizer not in strangers._seen:
                strangers._judge(optimizer)

        self.close = weakref.finalize(self, register_optimizer_step_post_hook(after).remove)

    def _judge(self, optimizer: torch.optim.Optimizer) -> None:
        self._seen.add(optimizer)
        components = self._components
        if any(_holds(state, optimizer) for state in components.states.values()):
            return
        trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for name, model in components.models.items():
            if any(id(parameter) in trained for parameter in model.parameters()):
                self._reporter.warn(
                    f"an optimizer that was not given to attach ({type(optimizer).__name__}) trains {name}: its state is "
                    "not saved, and a resume will not be exact. Build it before attach, and say attach(optimizer=...)"
                )
                return


def _flat(path: str, value: Any) -> list[tuple[str, Any]]:
    if value is None:
        return []
    if isinstance(value, Mapping) and not _keeps_state(value):
        return [found for key, item in value.items() for found in _flat(f"{path}.{key}", item)]
    if isinstance(value, list | tuple):
        return [found for index, item in enumerate(value) for found in _flat(f"{path}[{index}]", item)]
    return [(path, value)]


def _wrong(path: str, value: Any, wanted: str) -> CheckpointError:
    return CheckpointError(f"attach({path}=...) was given a {type(value).__qualname__}; it takes {wanted}")


def _keeps_state(value: Any) -> bool:
    return (
        not isinstance(value, type)
        and callable(getattr(value, "state_dict", None))
        and callable(getattr(value, "load_state_dict", None))
    )


def _holds(state: object, optimizer: torch.optim.Optimizer) -> bool:
    """Whether this is the optimizer, or a wrapper that saves it."""
    return state is optimizer or any(value is optimizer for value in getattr(state, "__dict__", {}).values())
