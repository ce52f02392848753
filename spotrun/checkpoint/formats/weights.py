"""Which of a commit's tensors are a model's weights, and what an optimizer's state is in PyTorch's own form."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from spotrun.checkpoint.stored import StoredTensor
from spotrun.errors import SpecError

__all__ = ["models_of", "optimizer_by_name", "optimizer_by_position", "plain", "weights_of"]


def models_of(tree: Mapping[str, Any]) -> list[str]:
    """The names of a commit's models.

    Raises:
        SpecError: it has none.
    """
    models = tree.get("models")
    if not isinstance(models, dict) or not models:
        raise SpecError(
            "this commit holds no model: it is of a folder, whose files `spotrun checkpoints show` lists, or of a "
            "training that gave none to attach"
        )
    return list(models)


def weights_of(tree: Mapping[str, Any], model: str) -> dict[str, StoredTensor]:
    """What the model's `state_dict()` would hold: parameters and buffers, without those that are not persistent."""
    state = tree["models"][model]
    transient = set(state.get("transient", ()))
    buffers = {name: value for name, value in state["buffers"].items() if name not in transient}
    everything = {**state["parameters"], **tree["frozen"][model], **buffers}
    return {name: value for name, value in everything.items() if isinstance(value, StoredTensor)}


def optimizer_by_name(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The state with parameters by name, as `torch.distributed.checkpoint.state_dict` keeps it."""
    groups = [
        {**plain(group["options"]), "params": [entry["name"] for entry in group["parameters"]]}
        for group in saved["groups"]
    ]
    return {"state": {name: plain(state) for name, state in saved["state"].items()}, "param_groups": groups}


def optimizer_by_position(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The state with parameters by number, as `Optimizer.state_dict()` gives it and `load_state_dict` takes it."""
    named = optimizer_by_name(saved)
    numbers: dict[str, int] = {}
    for group in named["param_groups"]:
        for name in group["params"]:
            numbers.setdefault(name, len(numbers))
    return {
        "state": {numbers[name]: state for name, state in named["state"].items() if name in numbers},
        "param_groups": [
            {**group, "params": [numbers[name] for name in group["params"]]} for group in named["param_groups"]
        ],
    }


def plain(value: Any) -> Any:
    """The same in types that PyTorch reads everywhere with `weights_only`: NumPy's become tensors and numbers."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, OrderedDict):
        return OrderedDict((key, plain(item)) for key, item in value.items())
    if isinstance(value, Counter | dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple) and type(value) is not torch.Size:
        return tuple(plain(item) for item in value)
    if isinstance(value, list | deque):
        return [plain(item) for item in value]
    return value
