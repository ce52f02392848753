"""Starting from a commit that was imported: it has weights, and everything else begins afresh.

Weights are matched by name with the model's parameters and persistent buffers, all of them or none. Another type of
number is converted and told; another shape, a missing or an unknown name is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from spotrun.checkpoint.model import canonical, named_parameters
from spotrun.checkpoint.stored import StoredTensor, put
from spotrun.errors import CheckpointError

__all__ = ["is_imported", "prepare_imported"]


def is_imported(tree: Mapping[str, Any]) -> bool:
    """Whether this state came from elsewhere."""
    return isinstance(tree.get("imported"), dict)


def prepare_imported(models: Mapping[str, torch.nn.Module], saved: Mapping[str, Any]) -> Callable[[], list[str]]:
    """Checks that imported weights fit the models, changing nothing, and returns the function that loads them.

    That function returns warnings. The weights must be read before it is called.

    Raises:
        CheckpointError: something does not fit, by name.
    """
    problems: list[str] = []
    converted: list[str] = []
    pairs: list[tuple[torch.Tensor, StoredTensor]] = []
    for name, state in saved["models"].items():
        if name not in models:
            problems.append(f"weights for {name} were imported, and attach is given {', '.join(models) or 'no model'}")
            continue
        fresh = _homes(models[name])
        weights = state["parameters"]
        problems += [f"{name} has no {key}, which was imported" for key in weights if key not in fresh]
        known = {id(fresh[key]) for key in weights if key in fresh}
        problems += [f"{name}.{key} was not imported" for key, home in fresh.items() if id(home) not in known]
        for key, value in weights.items():
            home = fresh.get(key)
            if home is None:
                continue
            if home.shape != value.shape:
                problems.append(f"{name}.{key} was imported as {list(value.shape)} and is {list(home.shape)} now")
                continue
            if home.dtype != value.dtype:
                converted.append(f"{name}.{key} from {value.dtype} to {home.dtype}")
            memory = home.detach()
            value.offer(memory)
            pairs.append((memory, value))
    if problems:
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise CheckpointError("the imported weights do not fit:\n  " + "\n  ".join(problems[:20]) + more)

    def load() -> list[str]:
        with torch.no_grad():
            for memory, value in pairs:
                put(value, memory)
        first = (
            f"this run starts from weights that were imported from {saved['imported'].get('format', 'elsewhere')}; "
            "optimizer, data position and randomness start fresh"
        )
        told = [first]
        if converted:
            more = f" and {len(converted) - 3} more" if len(converted) > 3 else ""
            told.append(f"imported weights were converted: {', '.join(converted[:3])}{more}")
        return told

    return load


def _homes(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Where weights go: parameters, tied ones under each of their names, and persistent buffers."""
    homes: dict[str, torch.Tensor] = dict(named_parameters(model))
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                homes[canonical(f"{prefix}.{name}" if prefix else name)] = buffer
    return homes
