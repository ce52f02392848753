"""What the benchmark compares: one small class for each way to save a PyTorch training.

A method is set up in the training process once the model and its optimizer are built and warm. Its loop is `steps`; at
the end of a step `save` is called, and `in_flight` tells whether that save still goes on. `before_step` and
`after_step` are called around each `optimizer.step()`. Another instance, in the same process, resumes: it reads the
newest save into another model and optimizer.
"""

import importlib
import itertools
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from endpoint import BUCKET, clear
from torch import nn

__all__ = ["METHODS", "Kind", "Method", "Place"]


@dataclass(frozen=True)
class Place:
    """Where checkpoints go: a bucket at an endpoint, or a folder."""

    url: str | None
    scratch: Path

    @property
    def uri(self) -> str:
        return f"s3://{BUCKET}" if self.url else (self.scratch / "store").as_uri()

    @property
    def folder(self) -> Path:
        return self.scratch / "store"


class Method:
    """Base of all: a loop of its own, saves by number, nothing around the optimizer's step."""

    def __init__(self, place: Place, number: int = 0) -> None:
        self.place = place
        self.number = number  # saves so far
        self.future: Future[Any] | None = None

    @classmethod
    def warm(cls, place: Place) -> None:
        """Imports and first uses that are no part of a save."""

    def setup(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """What is made once for a training."""
        self.model = model
        self.optimizer = optimizer

    def steps(self) -> Iterator[int]:
        yield from itertools.count()

    def save(self) -> None:
        self.number += 1
        self.write(f"save-{self.number}")

    def write(self, key: str) -> None:
        raise AssertionError("every method writes")

    def in_flight(self) -> bool:
        if self.future is None or not self.future.done():
            return self.future is not None
        self.future.result()
        return False

    def forget(self, number: int) -> None:
        """Removes an older save: the endpoint holds two at most."""
        if self.place.url and number:
            clear(self.place.url, f"save-{number}")

    def before_step(self) -> None:
        pass

    def after_step(self) -> None:
        pass

    def read(self, key: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        raise AssertionError("every method reads")

    def resume(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.read(f"save-{self.number}", model, optimizer)

    def durable_at(self) -> float:
        """When the newest save was on the disk, in `time.monotonic`; for folders only."""
        raise AssertionError("only methods that write to folders tell")

    def close(self) -> None:
        """The training is over."""


@dataclass(frozen=True)
class Kind:
    """One row of the results.

    Attributes:
        blocking: the training stands still until all is durable.
        stores: what it can save to.
    """

    label: str
    where: str  # module:class
    blocking: bool
    stores: tuple[str, ...] = ("s3",)

    def load(self) -> type[Method]:
        """The class; raises ImportError where a package is missing or does not work here."""
        module, _, name = self.where.partition(":")
        return getattr(importlib.import_module(f"peers.{module}"), name)  # type: ignore[no-any-return]


METHODS = {
    "spotrun": Kind("spotrun", "ours:Spotrun", False, ("s3", "file")),
    "boto3": Kind("torch.save + boto3 (BytesIO)", "whole:Boto3Memory", True),
    "boto3-file": Kind("torch.save + boto3 (file)", "whole:Boto3File", True),
    "s3fs": Kind("torch.save + s3fs", "whole:S3fs", True),
    "s3torchconnector": Kind("torch.save + s3torchconnector", "connector:Connector", True),
    "safetensors": Kind("safetensors + boto3", "whole:Safetensors", True),
    "dcp-fsspec": Kind("DCP + FsspecWriter", "dcp:Fsspec", True),
    "dcp-fsspec-async": Kind("DCP + FsspecWriter, async", "dcp:FsspecAsync", False),
    "dcp-s3": Kind("DCP + S3StorageWriter", "dcp:S3", True),
    "dcp-s3-async": Kind("DCP + S3StorageWriter, async", "dcp:S3Async", False),
    "dcp-s3-zero": Kind("DCP + S3StorageWriter, async staging", "dcp:S3Zero", False),
    "dcp-s3-process": Kind("DCP + S3StorageWriter, in a process", "dcp:S3Process", False),
    "torchsnapshot": Kind("torchsnapshot async_take", "snapshot:Torchsnapshot", False),
    "torch_checkpointing": Kind("torch_checkpointing (Meta)", "meta:Meta", False),
    "floor": Kind("no method: hash and send, receive and hash", "floor:Floor", True),
    "torch.save": Kind("torch.save", "disk:TorchSave", True, ("file",)),
    "dcp-file": Kind("DCP", "disk:Dcp", True, ("file",)),
    "dcp-file-async": Kind("DCP async", "disk:DcpAsync", False, ("file",)),
}
