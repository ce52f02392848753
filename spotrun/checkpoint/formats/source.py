"""Weights from elsewhere: by which names a model knows them, whatever form they come in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from spotrun.checkpoint.formats.export import Form
from spotrun.checkpoint.formats.pickled import read_dcp, read_torch
from spotrun.checkpoint.formats.safetensors import read_files
from spotrun.checkpoint.model import canonical
from spotrun.checkpoint.tensor import DTYPES, dtype_name
from spotrun.errors import SpecError

__all__ = ["read_weights"]

_KEYS = ("model", "state_dict", "model_state_dict", "module")  # what people keep a model's state under
_NAME_LENGTH_MAX = 900


def read_weights(source: Path, form: Form, *, key: str | None = None) -> dict[str, torch.Tensor]:
    """The weights at `source` by the names that `model.state_dict()` has for them.

    Args:
        key: what the weights lie under, for `torch` and `dcp`; by default themselves, or `model`, `state_dict` and the like.

    Raises:
        SpecError: it cannot be read, is not of this form, or holds something that could run code.
    """
    if not source.exists():
        raise SpecError(f"there is no {source}")
    match form:
        case Form.SAFETENSORS | Form.HF:
            found: Mapping[str, Any] = read_files(source)
        case Form.TORCH:
            found = _chosen(read_torch(source), source, key)
        case Form.DCP:
            found = _below(read_dcp(source), source, key)
    weights = {_name(name): value for name, value in found.items() if isinstance(value, torch.Tensor)}
    others = [name for name, value in found.items() if not isinstance(value, torch.Tensor)]
    if not weights:
        raise SpecError(f"{source} holds no tensors" + (f" under {key!r}" if key else ""))
    if others and form is Form.TORCH:
        raise SpecError(
            f"{source}: {others[0][:80]!r} is no tensor, so this is no state of a model; name its part with --key"
        )
    for name, tensor in weights.items():
        if tensor.layout is not torch.strided or tensor.is_quantized or dtype_name(tensor.dtype) not in DTYPES:
            raise SpecError(f"{source}: {name[:200]!r} is {tensor.dtype}, {tensor.layout}, which cannot be imported")
        if not 0 < len(name) <= _NAME_LENGTH_MAX:
            raise SpecError(f"{source}: {name[:80]!r}... is too long a name")
    return weights


def _name(name: str) -> str:
    """Without what wrappers put before it."""
    return canonical(name.removeprefix("module."))


def _chosen(content: Any, source: Path, key: str | None) -> Mapping[str, Any]:
    if isinstance(content, Mapping):
        if key is not None:
            if not isinstance(content.get(key), Mapping):
                raise SpecError(f"{source} has no {key!r}; it has {', '.join(map(str, list(content)[:8]))}")
            content = content[key]
        elif not any(isinstance(value, torch.Tensor) for value in content.values()):
            inner = [name for name in _KEYS if isinstance(content.get(name), Mapping)]
            if not inner:
                raise SpecError(
                    f"{source} holds no tensors at its top, but {', '.join(map(str, list(content)[:8]))}: name with --key "
                    "where the model's state is"
                )
            content = content[inner[0]]
        if all(isinstance(name, str) for name in content):
            return dict(content)
    raise SpecError(f"{source} holds no state of a model: names with tensors")


def _below(tensors: Mapping[str, torch.Tensor], source: Path, key: str | None) -> Mapping[str, torch.Tensor]:
    for prefix in (key,) if key is not None else _KEYS:
        below = {name[len(prefix) + 1 :]: value for name, value in tensors.items() if name.startswith(f"{prefix}.")}
        if below:
            return below
    if key is not None:
        raise SpecError(f"{source} has no tensors under {key!r}; it has {', '.join(list(tensors)[:8])}")
    return tensors
