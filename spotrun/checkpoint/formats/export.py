"""A commit in another form: written beside its destination, and given that name only when all of it is there.

Every byte is checked against its digest on the way. Weights go from the store straight into the memory of the files.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch

from spotrun.checkpoint.distributed.document import of_rank
from spotrun.checkpoint.formats.pickled import write_dcp, write_torch
from spotrun.checkpoint.formats.safetensors import INDEX_NAME, Outline, divide, map_file, plan_file
from spotrun.checkpoint.formats.weights import models_of, optimizer_by_name, optimizer_by_position, plain, weights_of
from spotrun.checkpoint.reading import fill
from spotrun.checkpoint.restore import Opened, open_commit
from spotrun.checkpoint.stored import StoredTensor, materialized, stored_in
from spotrun.checkpoint.tensor import dtype_name
from spotrun.errors import SpecError
from spotrun.store import BlobStore, CommitEntry

__all__ = ["Exported", "Form", "export"]

SHARD_BYTES = 5 * 10**9  # as Hugging Face's hub does
_KINDS = ("optimizers", "states", "values")  # what is exported beside models


class Form(str, Enum):
    """The forms that are known."""

    SAFETENSORS = "safetensors"
    TORCH = "torch"
    DCP = "dcp"
    HF = "hf"


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What was written: files, tensors in them, bytes of these, and what was left out because the form has no place for it."""

    files: tuple[Path, ...]
    tensors: int
    size: int
    left_out: tuple[str, ...]


def export(
    store: BlobStore,
    entry: CommitEntry,
    destination: Path,
    *,
    form: Form,
    model: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Exported:
    """Writes a commit in another form.

    `safetensors` and `hf` hold the weights of one model, or of all with the model's name put before theirs; a
    destination that ends in `.safetensors` is one file, any other a directory. `torch` is one file and `dcp` a directory
    with models, optimizers, and what else was given to `attach`.

    Args:
        destination: must not be there yet.
        model: which one; all of them by default.
        shard_bytes: the most that one file of a directory may hold, of weights.

    Raises:
        SpecError: the destination is taken, or the commit has no such model.
        CheckpointCorrupt: the commit is damaged; nothing is left at the destination.
        StoreError: the store failed; likewise.
    """
    if destination.exists() or destination.is_symlink():
        raise SpecError(f"{destination} is there already, and an export overwrites nothing: name another place")
    opened = open_commit(store, entry, document=lambda state: of_rank(state, 0))
    names = models_of(opened.tree)
    if model is not None and model not in names:
        raise SpecError(f"this commit has no model {model!r}; it has {', '.join(names)}")
    chosen = [model] if model is not None else names
    partial = destination.with_name(f".{destination.name}.{secrets.token_hex(4)}.partial")
    _try_place(partial, destination)
    try:
        match form:
            case Form.SAFETENSORS | Form.HF:
                told = _write_weights(store, opened, chosen, partial, _single(destination, form), shard_bytes)
            case Form.TORCH:
                told = _write_state(store, opened, chosen, partial, write=write_torch, optimizer=optimizer_by_position)
            case Form.DCP:
                told = _write_state(store, opened, chosen, partial, write=write_dcp, optimizer=optimizer_by_name)
        _sync(partial)
        partial.rename(destination)
    except OSError as err:
        raise _unwritable(destination, err) from err
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)
    files = sorted(file for file in destination.rglob("*") if file.is_file()) if destination.is_dir() else [destination]
    return Exported(files=tuple(files), tensors=told[0], size=told[1], left_out=told[2])


def _try_place(partial: Path, destination: Path) -> None:
    """Finds out whether anything can be written there: torch's own words for what is wrong are no sentence."""
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.touch(exist_ok=False)
        partial.unlink()
    except OSError as err:
        raise _unwritable(destination, err) from err


def _unwritable(destination: Path, err: OSError) -> SpecError:
    return SpecError(f"{destination} cannot be written ({err.strerror or type(err).__name__}); nothing is left there")


def _single(destination: Path, form: Form) -> bool:
    return form is Form.SAFETENSORS and destination.suffix == ".safetensors"


_Told = tuple[int, int, tuple[str, ...]]


def _write_weights(
    store: BlobStore, opened: Opened, models: list[str], path: Path, single: bool, shard_bytes: int
) -> _Told:
    weights = {
        name if len(models) == 1 else f"{model}.{name}": tensor
        for model in models
        for name, tensor in weights_of(opened.tree, model).items()
    }
    outlines = {name: Outline(dtype_name(tensor.dtype), tuple(tensor.shape)) for name, tensor in weights.items()}
    if single:
        memory = map_file(path, plan_file(outlines))
    else:
        path.mkdir()
        memory = _map_shards(path, outlines, shard_bytes)
    _read_into(store, opened, weights, memory)
    size = sum(outline.size for outline in outlines.values())
    rest = [kind for kind in (*_KINDS, "gradients") if opened.tree.get(kind)]
    extra = [f"{model}'s extra state" for model in models if opened.tree["models"][model].get("extra")]
    return len(outlines), size, (*rest, "randomness", "position in the data", *extra)


def _map_shards(directory: Path, outlines: Mapping[str, Outline], limit: int) -> dict[str, torch.Tensor]:
    parts = divide(outlines, limit=limit)
    if len(parts) <= 1:
        return map_file(directory / "model.safetensors", plan_file(dict(outlines)))
    memory: dict[str, torch.Tensor] = {}
    places: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        name = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        memory |= map_file(directory / name, plan_file(part))
        places |= dict.fromkeys(part, name)
    total = sum(outline.size for outline in outlines.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (directory / INDEX_NAME).write_text(json.dumps(index, indent=2), encoding="utf-8")
    return memory


def _read_into(
    store: BlobStore, opened: Opened, weights: Mapping[str, StoredTensor], memory: Mapping[str, torch.Tensor]
) -> None:
    for name, tensor in weights.items():
        tensor.offer(memory[name])  # tied weights are one stored tensor: the first name's memory takes it
    unique = {id(tensor): tensor for tensor in weights.values()}
    fill(store, opened.manifest.blobs, list(unique.values()))
    for name, tensor in weights.items():
        read = tensor.targets[0].tensor
        if read.data_ptr() != memory[name].data_ptr():
            memory[name].copy_(read)


def _write_state(
    store: BlobStore,
    opened: Opened,
    models: list[str],
    path: Path,
    *,
    write: Callable[[Mapping[str, Any], Path], None],
    optimizer: Callable[[Mapping[str, Any]], dict[str, Any]],
) -> _Told:
    tree = opened.tree
    wanted = {kind: tree.get(kind, {}) for kind in _KINDS}
    weights = {model: weights_of(tree, model) for model in models}
    tensors = {id(tensor): tensor for tensor in (*stored_in(wanted), *stored_in(weights))}
    fill(store, opened.manifest.blobs, list(tensors.values()))
    memo: dict[int, torch.Tensor] = {}
    content: dict[str, Any] = materialized(weights, memo)
    read = materialized(wanted, memo)
    content |= {name: optimizer(saved) for name, saved in read["optimizers"].items()}
    content |= {name: plain(saved) for kind in ("states", "values") for name, saved in read[kind].items()}
    position = tree.get("position")
    content["spotrun"] = {
        "step": opened.entry.step,
        "epoch": position.get("epoch", 0) if isinstance(position, dict) else 0,
        "attempt": opened.entry.attempt,
        "job": opened.manifest.job,
    }
    write(content, path)
    size = sum(tensor.nbytes for tensor in tensors.values())
    return len(tensors), size, ("randomness", "position in the data")


def _sync(path: Path) -> None:
    for each in [*path.rglob("*"), path] if path.is_dir() else [path]:
        descriptor = os.open(each, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
