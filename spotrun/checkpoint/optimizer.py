"""An optimizer's state by parameter name and shape, in its own dtypes.

`Optimizer.state_dict` numbers parameters by position and `load_state_dict` casts state to the parameter's dtype: two
same-shaped parameters in another order silently swap their moments, and float32 master weights of a bfloat16
parameter lose their digits. Neither can happen here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from spotrun.checkpoint.model import Load
from spotrun.checkpoint.stored import StoredArray, StoredTensor, stored_in
from spotrun.checkpoint.tree import Verbatim
from spotrun.errors import CheckpointError, NotCapturable

__all__ = [
    "Descriptions",
    "added_parameters",
    "capture_optimizer",
    "changed_defaults",
    "overrides_state",
    "prepare_optimizer",
]

_SHOWN_MAX = 4
_FORMS = (int, float, bool, str, type(None))


def overrides_state(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer's class saves and loads in a way of its own, which is then used instead of ours."""
    kind = type(optimizer)
    return (
        kind.state_dict is not torch.optim.Optimizer.state_dict
        or kind.load_state_dict is not torch.optim.Optimizer.load_state_dict
    )


class Descriptions:
    """What documents say of the members of optimizers' groups, made anew only where something differs."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[list[Any], Verbatim]] = {}

    def of(self, path: str, members: Mapping[str, torch.Tensor]) -> Verbatim:
        """Of the members of the group that is found there, by name."""
        parameters = members.values()
        forms = [*members, *(one.shape for one in parameters), *(one.device for one in parameters)]
        known = self._known.get(path)
        if known is None or known[0] != forms:
            told = [
                {"name": name, "shape": list(parameter.shape), "device": parameter.device.type}
                for name, parameter in members.items()
            ]
            known = self._known[path] = (forms, Verbatim(told))
        return known[1]


def capture_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[int, str], path: str, descriptions: Descriptions | None = None
) -> dict[str, Any]:
    """The optimizer's state.

    Args:
        names: the name of a parameter by its `id`; parameters that it lacks are named by their position.
        descriptions: kept from save to save.
    """
    descriptions = descriptions or Descriptions()
    named = _named(optimizer, names)
    groups = []
    for index, (group, members) in enumerate(zip(optimizer.param_groups, named, strict=True)):
        options = {key: value for key, value in group.items() if key not in ("params", "param_names")}
        groups.append({"parameters": descriptions.of(f"{path}[{index}]", members), "options": options})
    everything = {name: parameter for members in named for name, parameter in members.items()}
    known = {id(parameter) for parameter in everything.values()}
    entries: dict[Any, Any] = optimizer.state  # the stubs know tensors as keys only
    states = {id(key): state for key, state in entries.items()}  # hashing a tensor takes a microsecond
    for key in entries:
        if isinstance(key, torch.Tensor) and id(key) not in known:
            raise NotCapturable(f"{path}.state", "state of a tensor that is in no group", "Add it to a group.")
        if not isinstance(key, torch.Tensor) and type(key) is not str:
            raise NotCapturable(f"{path}.state", f"state under a key of type {type(key).__name__}", "Key it by a name.")
    return {
        "kind": type(optimizer).__qualname__,
        "defaults": {key: value for key, value in optimizer.defaults.items() if type(value) in _FORMS},
        "groups": groups,
        "state": {name: states[id(value)] for name, value in everything.items() if id(value) in states},
        "shared": {key: value for key, value in entries.items() if type(key) is str},
    }


def changed_defaults(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any], path: str) -> list[str]:
    """Options that the script now gives differently than when saved; the saved ones hold."""
    return [
        f"{path}: {key} is {optimizer.defaults[key]!r} in the script and was {value!r} when saved; the saved run goes on"
        for key, value in saved["defaults"].items()
        if key in optimizer.defaults and type(optimizer.defaults[key]) in _FORMS and optimizer.defaults[key] != value
    ]


def added_parameters(
    optimizer: torch.optim.Optimizer, saved: Mapping[str, Any], parameters: Mapping[str, torch.Tensor], path: str
) -> list[str]:
    """Says which parameters the optimizer was given while the run went on, and is given again."""
    names = _names_of(parameters)
    was = {entry["name"] for group in saved["groups"] for entry in group["parameters"]}
    added = sorted(was.difference(*_named(optimizer, names)))
    if not added:
        return []
    shown = ", ".join(added[:_SHOWN_MAX]) + (", ..." if len(added) > _SHOWN_MAX else "")
    return [f"{path} gets {len(added)} parameters again that were added to it during the run: {shown}"]


def prepare_optimizer(
    optimizer: torch.optim.Optimizer, saved: Mapping[str, Any], parameters: Mapping[str, torch.Tensor], path: str
) -> Load:
    """Checks that a saved state fits, changing nothing, and returns the function that loads it.

    An optimizer to which groups or parameters were added while the run went on gets them again, if it is otherwise as
    it was built then.

    Args:
        parameters: all parameters of the models by name.

    Stored tensors are told to go into the state's own memory, or beside the parameters where there is none yet; they
    must be read before that function is called.

    Raises:
        CheckpointError: the optimizer is of another class, or its groups hold other parameters; it names them.
    """
    names = _names_of(parameters)
    named = _grown(_named(optimizer, names), saved["groups"], parameters)
    problems = _differences(optimizer, saved, named, path)
    if problems:
        raise CheckpointError(
            "the checkpoint does not fit this optimizer:\n  "
            + "\n  ".join(problems)
            + "\nBuild it with the groups that it "
            "had when the run began; what was added to it later is added by the resume, and must not be added before."
        )
    groups = [*optimizer.param_groups, *({"params": []} for _ in named[len(optimizer.param_groups) :])]

    entries = [
        _Entry(
            parameter=parameter,
            saved=saved["state"][name],
            now=optimizer.state.get(parameter, {}),
            device=device,
            step_on_device=bool(options.get("capturable") or options.get("fused")),
        )
        for group, was, members in zip(groups, saved["groups"], named, strict=True)
        for options in ({**group, **was["options"]},)
        for device, (name, parameter) in zip(_devices(was, members), members.items(), strict=True)
        if name in saved["state"]
    ]
    for entry in entries:
        entry.expect()

    def load() -> None:
        states = [(entry.parameter, entry.loaded()) for entry in entries]
        optimizer.state.clear()
        optimizer.state.update(states)
        optimizer.param_groups[:] = groups
        for group, was, members in zip(groups, saved["groups"], named, strict=True):
            if len(group["params"]) != len(members):
                group["params"] = list(members.values())
            for key, value in was["options"].items():
                _set_option(group, key, value)
        everything: dict[Any, Any] = optimizer.state
        everything.update(saved["shared"])

    return load


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    """The state of one parameter.

    Attributes:
        saved: what was saved.
        now: what the optimizer has now, if anything.
        device: the type of device that the parameter was on when saved.
        step_on_device: whether the optimizer wants its count of steps beside the parameter.
    """

    parameter: torch.Tensor
    saved: Mapping[str, Any]
    now: Mapping[str, Any]
    device: str
    step_on_device: bool

    def expect(self) -> None:
        """Tells stored tensors where they belong."""
        for key, value in self.saved.items():
            now = self.now.get(key)
            for stored in stored_in(value):
                target = self._device(stored, key)
                if stored is value and isinstance(now, torch.Tensor) and now.device == target:
                    stored.offer(now)
                stored.place(target, like=self.parameter if target == self.parameter.device else None)

    def loaded(self) -> dict[str, Any]:
        """The state with every tensor where the optimizer expects it: beside the parameter, as it was when saved."""
        return {key: self._loaded(value, key) for key, value in self.saved.items()}

    def _loaded(self, value: Any, key: str) -> Any:
        if isinstance(value, StoredTensor):
            now = self.now.get(key)
            return value.take(now if isinstance(now, torch.Tensor) else None)
        if isinstance(value, StoredArray):
            return value.array()
        if isinstance(value, torch.Tensor):
            return value.to(self._device(value, key), copy=True)
        if isinstance(value, list):
            return [self._loaded(item, key) for item in value]
        if isinstance(value, tuple):
            return tuple(self._loaded(item, key) for item in value)
        if isinstance(value, dict):
            return {name: self._loaded(item, key) for name, item in value.items()}
        return value

    def _device(self, value: torch.Tensor | StoredTensor, key: str) -> torch.device:
        stays = key == "step" and not self.step_on_device
        beside = value.device.type != "cpu" or (self.device == "cpu" and not stays)
        return self.parameter.device if beside else value.device


def _devices(saved: Mapping[str, Any], members: Mapping[str, torch.Tensor]) -> list[str]:
    devices = {entry["name"]: entry["device"] for entry in saved["parameters"]}
    return [devices[name] for name in members]


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


def _names_of(parameters: Mapping[str, torch.Tensor]) -> dict[int, str]:
    names: dict[int, str] = {}
    for name, parameter in parameters.items():
        names.setdefault(id(parameter), name)
    return names


def _differences(
    optimizer: torch.optim.Optimizer, saved: Mapping[str, Any], named: Sequence[Mapping[str, torch.Tensor]], path: str
) -> list[str]:
    problems = []
    if saved["kind"] != type(optimizer).__qualname__:
        problems.append(f"{path} was a {saved['kind']} when saved and is a {type(optimizer).__qualname__} now")
    if len(saved["groups"]) != len(named):
        problems.append(f"{path} had {len(saved['groups'])} parameter groups when saved and has {len(named)} now")
        return problems
    for index, (was, members) in enumerate(zip(saved["groups"], named, strict=True)):
        problems += _group_differences(f"{path}.param_groups[{index}]", was, members)
    return problems


def _grown(
    named: list[dict[str, torch.Tensor]], saved: Sequence[Mapping[str, Any]], parameters: Mapping[str, torch.Tensor]
) -> list[dict[str, torch.Tensor]]:
    """The members of the groups, with those that were saved besides, if nothing else differs."""
    grown = []
    for index, group in enumerate(saved):
        now = named[index] if index < len(named) else {}
        was = [entry["name"] for entry in group["parameters"]]
        members = {name: now.get(name, parameters.get(name)) for name in was}
        if not now.keys() <= members.keys() or any(parameter is None for parameter in members.values()):
            return named
        grown.append(
            now if len(now) == len(was) else {name: value for name, value in members.items() if value is not None}
        )
    return grown if len(named) <= len(saved) else named


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
