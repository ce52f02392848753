"""A commit of a run, as DCP reads it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch.distributed.checkpoint._nested_dict import flatten_state_dict
from torch.distributed.checkpoint._traverse import set_element
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.storage import StorageReader
from torch.futures import Future

from spotrun.checkpoint.distributed.document import of_rank
from spotrun.checkpoint.formats.weights import optimizer_by_name, weights_of
from spotrun.checkpoint.reading import fill
from spotrun.checkpoint.restore import Opened, open_commit
from spotrun.checkpoint.stored import StoredTensor, Target
from spotrun.errors import CheckpointError
from spotrun.store import Box, CommitEntry, open_store, read_log
from spotrun.store.log import Signing

__all__ = ["SpotrunReader"]


class SpotrunReader(StorageReader):
    """Reads a commit, whoever saved it: `spotrun.attach` with any number of processes, or `SpotrunWriter`.

    Names are those of `torch.distributed.checkpoint.state_dict`: under `model` what the model's `state_dict()` has,
    under `optimizer` its state by parameter name, or under the names that these had in `attach`. Every tensor can also
    be read by its name in the manifest. Values that are no tensors are JSON in the commit; nothing is unpickled.

    Args:
        place: the run's place: the URI of the checkpoints and the run's name.
        step: which commit; None for the newest. A `checkpoint_id` given to `dcp.load` is the same.
        signing: checks the log, see `spotrun.store.signing.open_signing`.
    """

    def __init__(self, place: str, step: int | None = None, *, signing: Signing | None = None) -> None:
        self._store = open_store(place)
        self._place = place
        self._step = step
        self._signing = signing
        self._opened: Opened | None = None
        self._known: dict[str, Any] = {}

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """See `StorageReader.reset`."""
        if checkpoint_id is not None:
            self._step = _step_of(checkpoint_id)
        self._opened = None

    def read_metadata(self, *_args: Any, **_kwargs: Any) -> Metadata:
        """What the commit holds, as DCP's planners want to know it.

        Raises:
            CheckpointError: there is no such commit, or it is damaged.
            StoreError: the store failed.
        """
        self._opened = open_commit(self._store, self._find(), document=lambda state: of_rank(state, 0))
        self._known = _names(self._opened)
        return Metadata(state_dict_metadata={name: _described(value) for name, value in self._known.items()})

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *_args: Any, **_kwargs: Any) -> None:
        """See `StorageReader.set_up_storage_reader`."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """See `StorageReader.prepare_local_plan`."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """See `StorageReader.prepare_global_plan`."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Reads what the plan wants straight into its tensors' memory; every blob is checked before this returns.

        Raises:
            CheckpointError: a blob is damaged; what was loaded is undefined then.
            StoreError: the store failed.
        """
        if self._opened is None:
            self.read_metadata()
        assert self._opened is not None
        wanted: list[StoredTensor] = []
        late: list[tuple[ReadItem, torch.Tensor, torch.Tensor]] = []
        for item in plan.items:
            value = self._known[item.storage_index.fqn]
            if item.type is LoadItemType.BYTE_IO:
                _set_value(planner, item, value)
                continue
            tensor = planner.resolve_tensor(item).detach()
            box = Box(tuple(item.storage_offsets), tuple(item.lengths))
            memory = tensor if _takes(tensor, value) else torch.empty(box.shape, dtype=value.dtype)
            late.append((item, tensor, memory))
            stored = StoredTensor(value.name, value.stored)
            stored.aim(Target(memory, box))
            wanted.append(stored)
        fill(self._store, self._opened.manifest.blobs, wanted)
        for item, tensor, memory in late:
            if memory is not tensor:
                tensor.copy_(memory)
            planner.commit_tensor(item, tensor)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:  # noqa: ARG003
        """Never: a place is given by hand, so that no other reader is taken by mistake."""
        return False

    def _find(self) -> CommitEntry:
        commits = [entry for entry in read_log(self._store, signing=self._signing) if isinstance(entry, CommitEntry)]
        for entry in reversed(commits):
            if self._step is None or entry.step == self._step:
                return entry
        steps = ", ".join(str(entry.step) for entry in commits[-10:]) or "none"
        what = "no commit" if self._step is None else f"no commit of step {self._step}"
        raise CheckpointError(f"{self._place} has {what}; its newest are of steps: {steps}")


def _names(opened: Opened) -> dict[str, Any]:
    """Everything that can be loaded, by name: stored tensors and plain values."""
    tree = opened.tree
    known: dict[str, Any] = dict(opened.tensors)
    if "dcp" in tree:
        return {**known, **tree["dcp"]}
    nested: dict[str, Any] = {}
    models = list(tree.get("models", {}))
    for model in models:
        nested[model] = weights_of(tree, model)
    for name, saved in tree.get("optimizers", {}).items():
        nested[name] = _relative(optimizer_by_name(saved), models)
    flat, _ = flatten_state_dict(nested)
    return {**known, **flat}


def _relative(optimizer: dict[str, Any], models: list[str]) -> dict[str, Any]:
    """The state by names of parameters within their model, as DCP has them."""

    def short(name: str) -> str:
        return next((name.removeprefix(f"{model}.") for model in models if name.startswith(f"{model}.")), name)

    state = {short(name): value for name, value in optimizer["state"].items()}
    groups = [{**group, "params": [short(name) for name in group["params"]]} for group in optimizer["param_groups"]]
    return {"state": state, "param_groups": groups}


def _described(value: Any) -> TensorStorageMetadata | BytesStorageMetadata:
    if not isinstance(value, StoredTensor):
        return BytesStorageMetadata()
    whole = ChunkStorageMetadata(torch.Size([0] * len(value.shape)), value.shape)
    return TensorStorageMetadata(TensorProperties(dtype=value.dtype), value.shape, [whole])


def _takes(tensor: torch.Tensor, value: StoredTensor) -> bool:
    """Whether stored bytes can lie in this memory as they are."""
    plain = tensor.layout is torch.strided and not tensor.is_conj() and not tensor.is_neg()
    return plain and tensor.dtype is value.dtype and tensor.is_contiguous()


def _set_value(planner: LoadPlanner, item: ReadItem, value: Any) -> None:
    """Gives a plain value to the state that is loaded, as the planner would after unpickling it."""
    if not isinstance(planner, DefaultLoadPlanner):
        raise CheckpointError(
            f"{item.dest_index.fqn} is a plain value, which {type(planner).__qualname__} takes as a pickle only; use "
            "DefaultLoadPlanner, or leave it out of what is loaded"
        )
    if isinstance(value, Mapping | list):
        value = _copied(value)
    if planner.flatten_state_dict:
        set_element(planner.original_state_dict, planner.mappings[item.dest_index.fqn], value)
    else:
        planner.state_dict[item.dest_index.fqn] = value


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _step_of(checkpoint_id: str | os.PathLike[str]) -> int:
    text = os.fspath(checkpoint_id).rpartition("/")[2]
    if not text.isdecimal():
        raise CheckpointError(f"checkpoint_id {text!r} is not a step; give its number, or none for the newest")
    return int(text)
