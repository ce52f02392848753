"""A state that DCP saves, as a commit of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from spotrun.checkpoint.pack import Layout, lay_out
from spotrun.checkpoint.tree import flatten
from spotrun.clock import SystemClock
from spotrun.errors import CheckpointError, SpecError
from spotrun.store import BlobRef, Lineage, Manifest, TensorRef, open_store, write_blob
from spotrun.store.log import Signing
from spotrun.store.retention import prune

__all__ = ["SpotrunWriter"]


class SpotrunWriter(StorageWriter):
    """Commits what DCP saves into a lineage of its own: each `dcp.save` is one commit, there as a whole or not at all.

    The first process claims the run at the first save; a newer writer fences it, as everywhere. Values that are no
    tensors are kept as JSON; what is neither is refused by name. Use one writer for all saves of a run.

    Args:
        place: the run's place: a URI of checkpoints and the run's name.
        step: the step of the next save; a `checkpoint_id` given to `dcp.save` is the same.
        keep_last: how many commits to keep; None for all.
        signing: signs and checks the log, see `spotrun.store.signing.open_signing`.
    """

    def __init__(
        self,
        place: str,
        step: int | None = None,
        *,
        keep_last: int | None = None,
        signing: Signing | None = None,
    ) -> None:
        if keep_last is not None and keep_last < 1:
            raise SpecError(f"keep_last must be at least 1, not {keep_last}")
        self._store = open_store(place)
        self._place = place
        self._clock = SystemClock()
        self._keep_last = keep_last
        self._signing = signing
        self._lineage: Lineage | None = None
        self.step = step

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """See `StorageWriter.reset`."""
        if checkpoint_id is not None:
            text = os.fspath(checkpoint_id).rpartition("/")[2]
            if not text.isdecimal():
                raise SpecError(f"checkpoint_id {text!r} is not a step; give its number")
            self.step = int(text)

    def set_up_storage_writer(self, is_coordinator: bool, *_args: Any, **_kwargs: Any) -> None:
        """Claims the run, in the process that coordinates, once.

        Raises:
            Fenced: a newer writer holds it.
            SpecError: it is not known which step is saved.
            StoreError: the store failed.
        """
        if self.step is None:
            raise SpecError("which step is saved? give SpotrunWriter(step=...), set its step, or give a checkpoint_id")
        if is_coordinator and self._lineage is None:
            writer = f"dcp:{os.getpid()}"
            lineage = Lineage(self._store, attempt=None, writer=writer, clock=self._clock, signing=self._signing)
            lineage.claim()
            self._lineage = lineage

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """See `StorageWriter.prepare_local_plan`."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Tells all which attempt their blobs are written for."""
        assert self._lineage is not None
        return [replace(plan, storage_data=self._lineage.attempt) for plan in plans]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Stores and checks this process's tensors; nothing of them is visible yet.

        Raises:
            NotCapturable: a value is neither a tensor nor JSON.
            StoreError: the store failed.
        """
        tensors: dict[str, torch.Tensor] = {}
        values: dict[int, Any] = {}
        for number, item in enumerate(plan.items):
            if item.type is WriteItemType.BYTE_IO:
                flat = flatten(_object(planner, item), item.index.fqn)
                values[number] = flat.document
                tensors.update(flat.tensors)
            else:
                tensor = planner.resolve_data(item)
                assert isinstance(tensor, torch.Tensor)
                tensors[_key(item.index)] = tensor.detach().cpu()
        blobs, refs = self._write(int(plan.storage_data), tensors)
        keys = {_key(item.index) for item in plan.items}
        inner = [ref for name, found in refs.items() if name not in keys for ref in found]  # tensors inside of values
        results = []
        for number, item in enumerate(plan.items):
            if number in values:
                results.append(WriteResult(item.index, 0, {"blobs": blobs, "value": values[number], "inner": inner}))
                continue
            found = refs[_key(item.index)]
            size = sum(ref.end - ref.start for _, ref in found)
            results.append(WriteResult(item.index, size, {"blobs": blobs, "refs": found}))
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Commits what all processes have stored; durable when it returns.

        Raises:
            Fenced: a newer writer holds the run.
            StoreError: the store failed.
        """
        assert self._lineage is not None
        assert self._lineage.attempt is not None
        assert self.step is not None
        blobs: list[BlobRef] = []
        tensors: dict[str, TensorRef] = {}
        document: dict[str, Any] = {}
        for of_process in results:
            first = len(blobs)
            blobs += of_process[0].storage_data["blobs"] if of_process else ()
            for result in of_process:
                self._add(result, metadata, first, (tensors, document))
        manifest = Manifest(
            job=self._place.rstrip("/").rpartition("/")[2],
            attempt=self._lineage.attempt,
            writer=self._lineage.writer,
            step=self.step,
            captured_at=self._clock.now(),
            blobs=tuple(blobs),
            tensors=tensors,
            state={"dcp": document},
            spotrun_version=version("spotrun"),
        )
        self._lineage.commit(manifest)
        if self._keep_last is not None:
            prune(self._store, self._lineage.commits, self._keep_last)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:  # noqa: ARG003
        """Never: a place is given by hand, so that no other writer is taken by mistake."""
        return False

    def _add(
        self, result: WriteResult, metadata: Metadata, first: int, into: tuple[dict[str, TensorRef], dict[str, Any]]
    ) -> None:
        tensors, document = into
        fqn, told = result.index.fqn, result.storage_data
        if "value" in told:
            document[fqn] = told["value"]
            tensors.update({name: replace(ref, blob=ref.blob + first) for name, ref in told["inner"]})
            return
        described = metadata.state_dict_metadata[fqn]
        assert isinstance(described, TensorStorageMetadata)
        whole, at = tuple(described.size), tuple(result.index.offset or (0,) * len(described.size))
        document[fqn] = {"$": "tensor", "name": fqn}
        for _, part in told["refs"]:
            ref = replace(part, blob=part.blob + first)
            inner = ref.offset or (0,) * len(ref.shape)  # large tensors are cut once more
            offset = tuple(a + b for a, b in zip(at, inner, strict=True))
            if ref.shape == whole:
                tensors[fqn] = ref
            elif ref.start < ref.end:  # else nothing of it was in that process
                name = _key(MetadataIndex(fqn, offset))
                tensors[name] = replace(ref, of=fqn, whole=whole, offset=offset)

    def _write(
        self, attempt: int, tensors: Mapping[str, torch.Tensor]
    ) -> tuple[tuple[BlobRef, ...], dict[str, list[tuple[str, TensorRef]]]]:
        layouts = lay_out(tensors, lambda _name: "")
        blobs = tuple(write_blob(self._store, attempt, _parts(layout, tensors)) for layout in layouts)
        refs: dict[str, list[tuple[str, TensorRef]]] = {}
        for number, layout in enumerate(layouts):
            for slot in layout.slots:
                refs.setdefault(slot.tensor, []).append((slot.name, replace(slot.ref, blob=number)))
        return blobs, refs


def _key(index: MetadataIndex) -> str:
    return index.fqn if not index.offset else f"{index.fqn}#{'.'.join(map(str, index.offset))}"


def _object(planner: SavePlanner, item: WriteItem) -> Any:
    """The value itself; planners give it as a pickle, which has no place in a commit."""
    look = getattr(planner, "lookup_object", None)
    if look is None:
        raise CheckpointError(
            f"{item.index.fqn} is a plain value, which {type(planner).__qualname__} gives as a pickle only: use "
            "DefaultSavePlanner"
        )
    return look(item.index)


def _parts(layout: Layout, tensors: Mapping[str, torch.Tensor]) -> list[bytes | memoryview]:
    parts: list[bytes | memoryview] = [layout.header]
    for slot in layout.slots:
        if slot.end > slot.start:
            data = tensors[slot.tensor].contiguous().reshape(-1).view(torch.uint8)
            parts.append(data[slot.skip : slot.skip + slot.end - slot.start].numpy().data)
    return parts
