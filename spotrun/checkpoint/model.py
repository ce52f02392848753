"""A module's state beyond `state_dict()`: also non-persistent buffers, training flags and `requires_grad`.

Parameters are written in place, so that the optimizer, tied weights and views keep pointing at them. Wrappers of
`torch.compile` do not show in names: a compiled and a plain run can load each other's checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from spotrun.checkpoint.stored import StoredTensor, put
from spotrun.errors import CheckpointError, NotCapturable

__all__ = ["canonical", "capture_model", "named_parameters", "prepare_model"]

Load = Callable[[], None]


def canonical(name: str) -> str:
    """A parameter's or module's name without the wrappers of `torch.compile`."""
    return name.replace("_orig_mod.", "").removesuffix("._orig_mod").removesuffix("_orig_mod")


def named_parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """All parameters by canonical name, tied ones under each of their names."""
    return {canonical(name): value for name, value in model.named_parameters(remove_duplicate=False)}


def capture_model(model: torch.nn.Module, path: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The state of a model, and apart from it the frozen parameters, which rarely change.

    Raises:
        NotCapturable: a parameter has no memory yet, or a module keeps state in a form of its own.
    """
    parameters = named_parameters(model)
    for name, value in parameters.items():
        if isinstance(value, torch.nn.UninitializedParameter):
            raise NotCapturable(f"{path}.{name}", "a lazy parameter without a shape", "Run one batch before attach.")
    buffers = _named_buffers(model)
    extra = _extra_states(model)
    _refuse_custom_state(model, path, {*parameters, *buffers})
    state = {
        "parameters": {name: value for name, value in parameters.items() if value.requires_grad},
        "buffers": buffers,
        "extra": extra,
        "evaluating": [canonical(name) for name, module in model.named_modules() if not module.training],
        "transient": sorted(_transient(model)),  # buffers that state_dict() leaves out, and so does an export
    }
    return state, {name: value for name, value in parameters.items() if not value.requires_grad}


def prepare_model(model: torch.nn.Module, state: Mapping[str, Any], frozen: Mapping[str, Any], path: str) -> Load:
    """Checks that a saved state fits, changing nothing, and returns the function that loads it.

    Stored tensors are told to go into the model's own memory; they must be read before that function is called.

    Raises:
        CheckpointError: parameters or buffers differ in name, shape or dtype; it names them.
    """
    parameters = named_parameters(model)
    saved = {**state["parameters"], **frozen}
    problems = _differences(path, parameters, saved)
    modules = {canonical(name): module for name, module in model.named_modules()}
    for name in state["buffers"]:
        owner, _, leaf = name.rpartition(".")
        if owner not in modules or leaf not in modules[owner]._buffers:
            problems.append(f"{path}.{name} was saved, but the model now has no such buffer")
    problems += [
        f"{path}.{name} is a buffer now, but none was saved"
        for name in _named_buffers(model).keys() - state["buffers"].keys()
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
        for name, module in model.named_modules():
            module.training = canonical(name) not in evaluating

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


def _named_buffers(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {canonical(name): value for name, value in model.named_buffers(remove_duplicate=False)}


def _offer_buffer(module: torch.nn.Module, name: str, value: StoredTensor) -> None:
    now = module._buffers[name]
    if now is not None:
        value.offer(now)
    if not value.is_offered:
        value.place(_device_of_buffer(module, name, value.device))


def _transient(model: torch.nn.Module) -> set[str]:
    return {
        canonical(f"{prefix}.{name}" if prefix else name)
        for prefix, module in model.named_modules(remove_duplicate=False)
        for name in module._non_persistent_buffers_set
        if module._buffers.get(name) is not None
    }


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


def _extra_states(model: torch.nn.Module) -> dict[str, Any]:
    return {
        canonical(name): module.get_extra_state()
        for name, module in model.named_modules()
        if type(module).get_extra_state is not torch.nn.Module.get_extra_state
    }


def _refuse_custom_state(model: torch.nn.Module, path: str, known: set[str]) -> None:
    if not any(map(_may_add_state, model.modules())):
        return  # what state_dict() would give is known without the time that it takes
    for name in model.state_dict():
        if canonical(name) not in known and not name.endswith("_extra_state"):
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
