"""A module's state beyond `state_dict()`: also non-persistent buffers, training flags and `requires_grad`.

Parameters are written in place, so that the optimizer, tied weights and views keep pointing at them. Wrappers of
`torch.compile` do not show in names: a compiled and a plain run can load each other's checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from spotrun.checkpoint.stored import StoredTensor, put
from spotrun.errors import CheckpointError, NotCapturable

__all__ = ["Anatomy", "canonical", "capture_model", "named_parameters", "prepare_model"]

Load = Callable[[], None]
_Named = Iterable[tuple[str, Any]]


class Anatomy:
    """A model's modules and what they hold, all found in one walk.

    PyTorch walks over the whole model for each thing that it is asked for, and a save asks for eight while the training
    stands still. Names are canonical.

    Attributes:
        modules: each module once, under the first of its names.
        parameters: tied ones under each of their names.
        buffers: also those that are not persistent, tied ones under each of their names.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self._places: list[tuple[str, torch.nn.Module]] = []
        self._visit("", model)
        first: dict[int, tuple[str, torch.nn.Module]] = {}
        for prefix, module in self._places:
            first.setdefault(id(module), (prefix[:-1], module))
        self.modules = list(first.values())
        self.parameters: dict[str, torch.nn.Parameter] = self._held("named_parameters", "_parameters")
        self.buffers: dict[str, torch.Tensor] = self._held("named_buffers", "_buffers")

    @property
    def evaluating(self) -> list[str]:
        """The modules that are not training."""
        return [name for name, module in self.modules if not module.training]

    @property
    def transient(self) -> list[str]:
        """The buffers that `state_dict()` leaves out."""
        return sorted(
            prefix + name
            for prefix, module in self._places
            for name in module._non_persistent_buffers_set
            if module._buffers.get(name) is not None
        )

    def _visit(self, prefix: str, module: torch.nn.Module) -> None:
        self._places.append((canonical(prefix), module))
        for name, child in module._modules.items():
            if child is not None:
                self._visit(f"{prefix}{name}.", child)

    def _held(self, way: str, members: str) -> dict[str, Any]:
        if getattr(type(self.model), way) is not getattr(torch.nn.Module, way):  # a wrapper that has names of its own
            named: _Named = getattr(self.model, way)(remove_duplicate=False)
            return {canonical(name): value for name, value in named}
        return {
            prefix + name: value
            for prefix, module in self._places
            for name, value in getattr(module, members).items()
            if value is not None
        }


def canonical(name: str) -> str:
    """A parameter's or module's name without the wrappers of `torch.compile`."""
    return name.replace("_orig_mod.", "").removesuffix("._orig_mod").removesuffix("_orig_mod")


def named_parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """All parameters by canonical name, tied ones under each of their names."""
    return Anatomy(model).parameters


def capture_model(anatomy: Anatomy, path: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The state of a model, and apart from it the frozen parameters, which rarely change.

    Raises:
        NotCapturable: a parameter has no memory yet, or a module keeps state in a form of its own.
    """
    parameters = anatomy.parameters
    for name, value in parameters.items():
        if isinstance(value, torch.nn.UninitializedParameter):
            raise NotCapturable(f"{path}.{name}", "a lazy parameter without a shape", "Run one batch before attach.")
    _refuse_custom_state(anatomy, path)
    state = {
        "parameters": {name: value for name, value in parameters.items() if value.requires_grad},
        "buffers": anatomy.buffers,
        "extra": _extra_states(anatomy),
        "evaluating": anatomy.evaluating,
        "transient": anatomy.transient,  # an export leaves them out, too
    }
    return state, {name: value for name, value in parameters.items() if not value.requires_grad}


def prepare_model(model: torch.nn.Module, state: Mapping[str, Any], frozen: Mapping[str, Any], path: str) -> Load:
    """Checks that a saved state fits, changing nothing, and returns the function that loads it.

    Stored tensors are told to go into the model's own memory; they must be read before that function is called.

    Raises:
        CheckpointError: parameters or buffers differ in name, shape or dtype; it names them.
    """
    anatomy = Anatomy(model)
    parameters = anatomy.parameters
    saved = {**state["parameters"], **frozen}
    problems = _differences(path, parameters, saved)
    modules = dict(anatomy.modules)
    for name in state["buffers"]:
        owner, _, leaf = name.rpartition(".")
        if owner not in modules or leaf not in modules[owner]._buffers:
            problems.append(f"{path}.{name} was saved, but the model now has no such buffer")
    problems += [
        f"{path}.{name} is a buffer now, but none was saved"
        for name in anatomy.buffers.keys() - state["buffers"].keys()
    ]
    problems += [f"{path}.{name} has no set_extra_state now" for name in state["extra"] if name not in modules]
    if problems:
        raise CheckpointError("the checkpoint does not fit this model:\n  " + "\n  ".join(problems))
    for name, parameter in parameters.items():
        if isinstance(saved[name], StoredTensor):
            saved[name].offer(parameter)
    for name, value in state["buffers"].items():
        owner, _, leaf = name.rpartition(".")
        if isinstance(value, StoredTensor):
            _offer_buffer(modules[owner], leaf, value)

    def load() -> None:
        with torch.no_grad():
            for name, parameter in parameters.items():
                put(saved[name], parameter)
                if parameter.requires_grad is (name in frozen):
                    parameter.requires_grad_(name not in frozen)
            for name, value in state["buffers"].items():
                owner, _, leaf = name.rpartition(".")
                _set_buffer(modules[owner], leaf, value)
        for name, value in state["extra"].items():
            modules[name].set_extra_state(value)
        evaluating = set(state["evaluating"])
        for name, module in Anatomy(model).modules:
            module.training = name not in evaluating

    return load


def _differences(path: str, now: Mapping[str, torch.Tensor], saved: Mapping[str, torch.Tensor]) -> list[str]:
    problems = [
        f"{path}.{name} was saved, but the model now has no such parameter" for name in saved if name not in now
    ]
    for name, value in now.items():
        if name not in saved:
            problems.append(f"{path}.{name} is a parameter now, but none was saved")
        elif value.shape != saved[name].shape or value.dtype != saved[name].dtype:
            was = f"{saved[name].dtype} {list(saved[name].shape)}"
            problems.append(f"{path}.{name} was {was} when saved and is {value.dtype} {list(value.shape)} now")
    return problems


def _offer_buffer(module: torch.nn.Module, name: str, value: StoredTensor) -> None:
    now = module._buffers[name]
    if now is not None:
        value.offer(now)
    if not value.is_offered:
        value.place(_device_of_buffer(module, name, value.device))


def _set_buffer(module: torch.nn.Module, name: str, value: torch.Tensor | StoredTensor) -> None:
    now = module._buffers[name]
    if now is not None and now.shape == value.shape and now.dtype == value.dtype:
        put(value, now)
        return
    device = _device_of_buffer(module, name, value.device)
    module._buffers[name] = value.take().to(device) if isinstance(value, StoredTensor) else value.to(device).clone()


def _device_of_buffer(module: torch.nn.Module, name: str, otherwise: torch.device) -> torch.device:
    now = module._buffers[name]
    return now.device if now is not None else next((p.device for p in module.parameters()), otherwise)


def _extra_states(anatomy: Anatomy) -> dict[str, Any]:
    return {
        name: module.get_extra_state()
        for name, module in anatomy.modules
        if type(module).get_extra_state is not torch.nn.Module.get_extra_state
    }


def _refuse_custom_state(anatomy: Anatomy, path: str) -> None:
    if not any(_may_add_state(module) for _, module in anatomy.modules):
        return  # what state_dict() would give is known without the time that it takes
    for name in anatomy.model.state_dict():
        known = canonical(name) in anatomy.parameters or canonical(name) in anatomy.buffers
        if not known and not name.endswith("_extra_state"):
            raise NotCapturable(
                f"{path}.{name}", "state that a module keeps in a form of its own", "Use buffers or get_extra_state()."
            )


def _may_add_state(module: torch.nn.Module) -> bool:
    kind = type(module)
    return (
        kind.state_dict is not torch.nn.Module.state_dict
        or kind._save_to_state_dict is not torch.nn.Module._save_to_state_dict
        or bool(module._state_dict_hooks)
        or bool(module._state_dict_pre_hooks)
    )
