"""An optimizer's state by parameter name and shape, in its own dtypes.

`Optimizer.state_dict` numbers parameters by position and `load_state_dict` casts state to the parameter's dtype: two
same-shaped parameters in another order silently swap their moments, and float32 master weights of a bfloat16
parameter lose their digits. Neither can happen here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from spotrun.checkpoint.model import Load
from spotrun.errors import CheckpointError, NotCapturable

__all__ = ["capture_optimizer", "changed_defaults", "overrides_state", "prepare_optimizer"]

_FORMS = (int, float, bool, str, type(None))


def overrides_state(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer's class saves and loads in a way of its own, which is then used instead of ours."""
    kind = type(optimizer)
    return (
        kind.state_dict is not torch.optim.Optimizer.state_dict
        or kind.load_state_dict is not torch.optim.Optimizer.load_state_dict
    )


def capture_optimizer(optimizer: torch.optim.Optimizer, names: Mapping[int, str], path: str) -> dict[str, Any]:
    """The optimizer's state.

    Args:
        names: the name of a parameter by its `id`; parameters that it lacks are named by their position.
    """
    named = _named(optimizer, names)
    groups = []
    for group, members in zip(optimizer.param_groups, named, strict=True):
        options = {key: value for key, value in group.items() if key not in ("params", "param_names")}
        described = [
            {"name": name, "shape": list(parameter.shape), "device": parameter.device.type}
            for name, parameter in members.items()
        ]
        groups.append({"parameters": described, "options": options})
    everything = {name: parameter for members in named for name, parameter in members.items()}
    known = {id(parameter) for parameter in everything.values()}
    entries: dict[Any, Any] = optimizer.state  # the stubs know tensors as keys only
    for key in entries:
        if isinstance(key, torch.Tensor) and id(key) not in known:
            raise NotCapturable(f"{path}.state", "state of a tensor that is in no group", "Add it to a group.")
        if not isinstance(key, torch.Tensor) and type(key) is not str:
            raise NotCapturable(f"{path}.state", f"state under a key of type {type(key).__name__}", "Key it by a name.")
    return {
        "kind": type(optimizer).__qualname__,
        "defaults": {key: value for key, value in optimizer.defaults.items() if type(value) in _FORMS},
        "groups": groups,
        "state": {name: optimizer.state[value] for name, value in everything.items() if value in optimizer.state},
        "shared": {key: value for key, value in entries.items() if type(key) is str},
    }


def changed_defaults(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any], path: str) -> list[str]:
    """Options that the script now gives differently than when saved; the saved ones hold."""
    return [
        f"{path}: {key} is {optimizer.defaults[key]!r} in the script and was {value!r} when saved; the saved run goes on"
        for key, value in saved["defaults"].items()
        if key in optimizer.defaults and type(optimizer.defaults[key]) in _FORMS and optimizer.defaults[key] != value
    ]


def prepare_optimizer(
    optimizer: torch.optim.Optimizer, saved: Mapping[str, Any], names: Mapping[int, str], path: str
) -> Load:
    """Checks that a saved state fits, changing nothing, and returns the function that loads it.

    Raises:
        CheckpointError: the optimizer is of another class, or its groups hold other parameters; it names them.
    """
    named = _named(optimizer, names)
    problems = []
    if saved["kind"] != type(optimizer).__qualname__:
        problems.append(f"{path} was a {saved['kind']} when saved and is a {type(optimizer).__qualname__} now")
    if len(saved["groups"]) != len(named):
        problems.append(f"{path} had {len(saved['groups'])} parameter groups when saved and has {len(named)} now")
    else:
        for index, (was, members) in enumerate(zip(saved["groups"], named, strict=True)):
            problems += _group_differences(f"{path}.param_groups[{index}]", was, members)
    if problems:
        raise CheckpointError("the checkpoint does not fit this optimizer:\n  " + "\n  ".join(problems))

    def load() -> None:
        optimizer.state.clear()
        for group, was, members in zip(optimizer.param_groups, saved["groups"], named, strict=True):
            for key, value in was["options"].items():
                _set_option(group, key, value)
            devices = {entry["name"]: entry["device"] for entry in was["parameters"]}
            on_device = bool(group.get("capturable") or group.get("fused"))
            for name, parameter in members.items():
                if name in saved["state"]:
                    optimizer.state[parameter] = {
                        key: _placed(value, parameter, devices[name], stays=key == "step" and not on_device)
                        for key, value in saved["state"][name].items()
                    }
        entries: dict[Any, Any] = optimizer.state
        entries.update(saved["shared"])

    return load


def _named(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> list[dict[str, torch.Tensor]]:
    named: list[dict[str, torch.Tensor]] = []
    for index, group in enumerate(optimizer.param_groups):
        given = group.get("param_names", ())
        members = {}
        for place, parameter in enumerate(group["params"]):
            fallback = given[place] if place < len(given) else f"param_groups[{index}].params[{place}]"
            members[names.get(id(parameter), fallback)] = parameter
        named.append(members)
    return named


def _group_differences(path: str, saved: Mapping[str, Any], members: Mapping[str, torch.Tensor]) -> list[str]:
    was = {entry["name"]: entry["shape"] for entry in saved["parameters"]}
    problems = [f"{path} held {name} when saved and does not now" for name in was if name not in members]
    for name, parameter in members.items():
        if name not in was:
            problems.append(f"{path} holds {name} now and did not when saved")
        elif list(parameter.shape) != was[name]:
            problems.append(f"{path}: {name} had shape {was[name]} when saved and has {list(parameter.shape)} now")
    return problems


def _set_option(group: dict[str, Any], key: str, value: Any) -> None:
    now = group.get(key)
    if isinstance(now, torch.Tensor) and isinstance(value, torch.Tensor) and now.shape == value.shape:
        with torch.no_grad():
            now.copy_(value)  # in place: a graph that was captured reads the rate from this very tensor
    else:
        group[key] = value.clone() if isinstance(value, torch.Tensor) else value


def _placed(value: Any, parameter: torch.Tensor, device: str, *, stays: bool) -> Any:
    """A value of the state where the optimizer expects it: beside the parameter, as it was when saved."""
    if isinstance(value, torch.Tensor):
        beside = value.device.type != "cpu" or (device == "cpu" and not stays)
        return value.to(parameter.device, copy=True) if beside else value.clone()
    if isinstance(value, list):
        return [_placed(item, parameter, device, stays=stays) for item in value]
    if isinstance(value, tuple):
        return tuple(_placed(item, parameter, device, stays=stays) for item in value)
    if isinstance(value, dict):
        return {key: _placed(item, parameter, device, stays=stays) for key, item in value.items()}
    return value
