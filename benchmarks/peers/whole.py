"""One serialized file, written in one go while the training stands still: what most scripts do today.

boto3 with parts of 16 MiB, four at a time; payloads unsigned and without checksums, which favours it.
"""

import functools
import io
from pathlib import Path
from typing import Any

import boto3
import s3fs
import safetensors.torch
import torch
from boto3.s3.transfer import TransferConfig
from endpoint import BUCKET
from torch import nn

from peers import Method, Place

PART = 16 << 20
TRANSFER = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=4)


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


def put_back(state: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])


@functools.lru_cache
def client() -> Any:
    """One for the process: making it is no part of a save or a resume."""
    return boto3.client("s3")


class Boto3(Method):
    @classmethod
    def warm(cls, place: Place) -> None:
        client().upload_fileobj(io.BytesIO(b"warm"), BUCKET, "warm", Config=TRANSFER)
        client().download_fileobj(BUCKET, "warm", io.BytesIO(), Config=TRANSFER)


class Boto3Memory(Boto3):
    def write(self, key: str) -> None:
        file = io.BytesIO()
        torch.save(state_of(self.model, self.optimizer), file)
        file.seek(0)
        client().upload_fileobj(file, BUCKET, key, Config=TRANSFER)

    def read(self, key: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        file = io.BytesIO()
        client().download_fileobj(BUCKET, key, file, Config=TRANSFER)
        file.seek(0)
        put_back(torch.load(file, weights_only=True), model, optimizer)


class Boto3File(Boto3):
    @property
    def path(self) -> str:
        return str(Path(self.place.scratch) / "state.pt")

    def write(self, key: str) -> None:
        torch.save(state_of(self.model, self.optimizer), self.path)
        client().upload_file(self.path, BUCKET, key, Config=TRANSFER)

    def read(self, key: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        client().download_file(BUCKET, key, self.path, Config=TRANSFER)
        put_back(torch.load(self.path, weights_only=True), model, optimizer)


class S3fs(Method):
    @classmethod
    def warm(cls, place: Place) -> None:
        s3fs.S3FileSystem().pipe_file(f"{BUCKET}/warm", b"warm")
        s3fs.S3FileSystem().cat_file(f"{BUCKET}/warm")

    def write(self, key: str) -> None:
        with s3fs.S3FileSystem().open(f"{BUCKET}/{key}", "wb") as file:
            torch.save(state_of(self.model, self.optimizer), file)

    def read(self, key: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        with s3fs.S3FileSystem().open(f"{BUCKET}/{key}", "rb") as file:
            put_back(torch.load(file, weights_only=True), model, optimizer)


class Safetensors(Boto3):
    """safetensors holds tensors by name and nothing else: the options of the optimizer's groups are left out."""

    def flat(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
        moments = {
            f"optimizer.{index}.{name}": value
            for index, state in optimizer.state_dict()["state"].items()
            for name, value in state.items()
        }
        return {**{f"model.{name}": value for name, value in model.state_dict().items()}, **moments}

    def write(self, key: str) -> None:
        data = safetensors.torch.save(self.flat(self.model, self.optimizer))
        client().upload_fileobj(io.BytesIO(data), BUCKET, key, Config=TRANSFER)

    def read(self, key: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        file = io.BytesIO()
        client().download_fileobj(BUCKET, key, file, Config=TRANSFER)
        loaded = safetensors.torch.load(file.getvalue())
        for name, tensor in self.flat(model, optimizer).items():
            tensor.copy_(loaded[name])
