"""The order in which `DistributedDataParallel` adds gradients up, which a resume must not change.

DDP sums gradients in buckets. It lays them out anew after its first iteration, in the order in which gradients became
ready in it; with three processes or more another layout sums in another order, and the first step after a resume would
differ in its last bits. So that order is kept with the state, and a resume lets DDP lay its buckets out by it before
the first step: gradients of zero are made ready in that order, as a first iteration would. No sample and no forward
pass is needed for that, no parameter changes, and it is the reducer's own code that lays them out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from spotrun.errors import NotCapturable

__all__ = ["bucket_orders", "replicated", "unwrapped", "warm_buckets"]

_FLATTENED = frozenset({"FullyShardedDataParallel", "ZeroRedundancyOptimizer"})


def unwrapped(value: Any, path: str) -> Any:
    """What was given to `attach`, its modules without the wrapper of DDP, also inside compiled ones.

    Raises:
        NotCapturable: it is sharded in a way that keeps no names or shapes of parameters.
    """
    kinds = {type(module).__name__ for module in value.modules()} if isinstance(value, torch.nn.Module) else set()
    if kinds.union((type(value).__name__,)).intersection(_FLATTENED):
        raise NotCapturable(
            path, "sharded over flattened parameters", "Use torch.distributed.fsdp.fully_shard and a plain optimizer."
        )
    while isinstance(value, torch.nn.Module):
        inner = getattr(value, "_orig_mod", value)
        if not isinstance(inner, DistributedDataParallel):
            return value
        value = inner.module
    # A dict of plain values is restored in place, so it must stay the same dict.
    if isinstance(value, dict) and any(isinstance(item, torch.nn.Module) for item in value.values()):
        return {key: unwrapped(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [unwrapped(item, f"{path}[{index}]") for index, item in enumerate(value)]
    return value


def replicated(given: Mapping[str, Any]) -> dict[str, DistributedDataParallel]:
    """The modules wrapped by DDP among what was given to `attach`, by a name of theirs."""
    found: dict[str, DistributedDataParallel] = {}
    todo = list(given.items())
    while todo:
        name, value = todo.pop(0)
        if isinstance(value, torch.nn.Module):
            for path, module in value.named_modules():
                if isinstance(module, DistributedDataParallel):
                    found[f"{name}.{path}" if path else name] = module
        elif isinstance(value, Mapping):
            todo += [(f"{name}.{key}", item) for key, item in value.items()]
        elif isinstance(value, list | tuple):
            todo += [(f"{name}[{index}]", item) for index, item in enumerate(value)]
    return found


def bucket_orders(modules: Mapping[str, DistributedDataParallel]) -> dict[str, list[int]]:
    """The order of parameters, by number, in which each module's buckets are or will be laid out, as far as known."""
    orders = {name: _order(module) for name, module in modules.items()}
    return {name: order for name, order in orders.items() if order}


def warm_buckets(modules: Mapping[str, DistributedDataParallel], orders: Mapping[str, Sequence[int]]) -> list[str]:
    """Lays the buckets out as they were when saved. Every process calls it, before the first step.

    Returns:
        Warnings: modules for which that was not possible.
    """
    warnings = []
    for name, module in modules.items():
        order = orders.get(name)
        if order is None or not _rebuilds(module):
            continue
        try:
            _warm(module, order)
        except (AttributeError, RuntimeError, TypeError, ValueError) as err:
            warnings.append(
                f"{name}: the buckets of DistributedDataParallel could not be laid out as they were ({err}); the first "
                "steps are correct, but not bit-exact with three processes or more"
            )
    return warnings


def _warm(module: DistributedDataParallel, order: Sequence[int]) -> None:
    parameters = [parameter for parameter in module.parameters() if _is_reduced(module, parameter)]
    if any(getattr(parameter, "_post_accumulate_grad_hooks", None) for parameter in parameters):
        raise ValueError("hooks act on gradients as they come")
    if sorted(order) != list(range(len(parameters))):
        raise ValueError(f"{len(order)} parameters were saved and {len(parameters)} are there")
    kept = [parameter.grad for parameter in parameters]
    reducer: Any = module.reducer
    with torch.enable_grad():
        for parameter in parameters:
            parameter.grad = None
        reducer.prepare_for_forward()
        reducer.prepare_for_backward([])
        for number in order:
            (parameters[number] * 0).sum().backward()  # type: ignore[no-untyped-call]
        reducer._rebuild_buckets()
    for parameter, gradient in zip(parameters, kept, strict=True):
        parameter.grad = gradient


def _rebuilds(module: DistributedDataParallel) -> bool:
    """Whether it lays buckets out anew after its first iteration, and our way of doing so fits."""
    return not (module.find_unused_parameters or module.static_graph or getattr(module, "_has_rebuilt_buckets", False))


def _order(module: DistributedDataParallel) -> list[int]:
    tell: Callable[[], Mapping[str, Any]] | None = getattr(module, "_get_ddp_logging_data", None)
    logger: Any = getattr(module, "logger", None)
    if tell is None or logger is None or not _lays_out(module):
        return []
    logger.set_runtime_stats_and_log()
    known = tell()
    text = known.get("rebuilt_per_bucket_param_indices") or known.get("prev_iteration_grad_ready_order_indices") or ""
    return [int(word) for word in str(text).replace(",", " ").split()]


def _lays_out(module: DistributedDataParallel) -> bool:
    return not (module.find_unused_parameters or module.static_graph)


def _is_reduced(module: DistributedDataParallel, parameter: torch.nn.Parameter) -> bool:
    ignored: set[str] = getattr(module, "parameters_to_ignore", set())
    names = {id(value): name for name, value in module.module.named_parameters()}
    return parameter.requires_grad and names.get(id(parameter)) not in ignored
