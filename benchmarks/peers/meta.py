"""Meta's torch_checkpointing (alpha) with its defaults: staging in a thread, written by a process.

It brings storage for local file systems only. `S3Storage` below gives it S3 through boto3: parts of 16 MiB leave, four at
a time, while torch.save goes on, and are read back in parallel ranges straight into the memory that it maps. A
directory is renamed as S3 can: copies made by the server, which cost this endpoint nothing.
"""

import io
import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from endpoint import BUCKET
from torch import nn
from torch_checkpointing import CheckpointManager
from torch_checkpointing.config import SyncCheckpointSaverConfig
from torch_checkpointing.storage.base_storage import ReadArgs, Storage, StorageConfig

from peers import Method, Place
from peers.whole import PART, Boto3, client, state_of

THREADS = 4


class Meta(Method):
    @classmethod
    def warm(cls, place: Place) -> None:
        Boto3.warm(place)
        logging.getLogger("torch_checkpointing").setLevel(logging.ERROR)

    def setup(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        super().setup(model, optimizer)
        self.manager = CheckpointManager(CheckpointManager.Config(storage_config=S3StorageConfig()))
        self.locked = ExitStack()

    def write(self, key: str) -> None:
        self.future = self.manager.save(f"/{BUCKET}/{key}", state_of(self.model, self.optimizer))

    def before_step(self) -> None:
        self.locked.enter_context(self.manager.lock())

    def after_step(self) -> None:
        self.locked.close()

    def read(self, key: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        config = CheckpointManager.Config(storage_config=S3StorageConfig(), save=SyncCheckpointSaverConfig())
        loaded = CheckpointManager(config).load(f"/{BUCKET}/{key}", into=state_of(model, optimizer))
        optimizer.load_state_dict(loaded["optimizer"])

    def close(self) -> None:
        self.manager.close()


@dataclass
class S3StorageConfig(StorageConfig):
    def create_storage(self) -> "S3Storage":
        return S3Storage()


class S3Storage(Storage):
    """Paths are `/bucket/key`."""

    mmap_fill_workers = THREADS
    mmap_fill_chunk_bytes = PART

    def __init__(self) -> None:
        self.client = client()

    def stream_read(self, path: Path, read_args: ReadArgs | None = None) -> io.RawIOBase:
        if read_args is None or read_args.pre_read_full_file:
            return io.BytesIO(self.client.get_object(**_named(path))["Body"].read())  # type: ignore[return-value]
        return Reader(self.client, path, self.getsize(path))

    def stream_write(self, path: Path) -> io.IOBase:
        return Writer(self.client, path)

    def write(self, path: Path, data: Any) -> None:
        self.client.put_object(**_named(path), Body=bytes(data))

    def delete(self, path: Path) -> None:
        self.client.delete_object(**_named(path))

    def mkdir(self, path: Path, recursive: bool = True) -> None:
        pass

    def rmdir(self, path: Path) -> None:
        for key in self._below(path):
            self.client.delete_object(Bucket=BUCKET, Key=key)

    def rename(
        self, src_path: Path, dst_path: Path, is_directory: bool = False, background_cleanup: bool = False
    ) -> None:
        source, target = _named(src_path)["Key"], _named(dst_path)["Key"]
        if is_directory and any(self._below(dst_path)):
            raise FileExistsError(dst_path)
        for key in list(self._below(src_path)) if is_directory else [source]:
            copied = {"Bucket": BUCKET, "Key": key}
            self.client.copy_object(Bucket=BUCKET, Key=target + key.removeprefix(source), CopySource=copied)
            self.client.delete_object(Bucket=BUCKET, Key=key)

    def ls(self, path: Path) -> list[str]:
        start = _named(path)["Key"] + "/"
        return sorted({key.removeprefix(start).partition("/")[0] for key in self._below(path)})

    def exists(self, path: Path) -> bool:
        return self.isdir(path) or path.name in self.ls(path.parent)

    def getsize(self, path: Path) -> int:
        return int(self.client.head_object(**_named(path))["ContentLength"])

    def isdir(self, path: Path) -> bool:
        return any(self._below(path))

    def remap_path(self, path: Path) -> str:
        return f"s3:/{path}"

    def _below(self, path: Path) -> Iterator[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=_named(path)["Key"] + "/")
        for page in pages:
            yield from (one["Key"] for one in page.get("Contents", ()))


def _named(path: Path) -> dict[str, str]:
    bucket, _, key = str(path).lstrip("/").partition("/")
    return {"Bucket": bucket, "Key": key}


class Reader(io.RawIOBase):
    """One object, read from wherever it is asked for, straight into the caller's memory."""

    def __init__(self, client: Any, path: Path, size: int) -> None:
        self._client, self._path, self._size, self._at = client, path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")[: max(self._size - self._at, 0)]
        if view:
            span = f"bytes={self._at}-{self._at + len(view) - 1}"
            stream = self._client.get_object(**_named(self._path), Range=span)["Body"]._raw_stream
            done = 0
            while done < len(view):
                done += stream.readinto(view[done:])
            stream.release_conn()
            self._at += done
        return len(view)


class Writer(io.RawIOBase):
    """One object in parts, which leave while the next ones are filled."""

    def __init__(self, client: Any, path: Path) -> None:
        self._client, self._name = client, _named(path)
        self._upload = client.create_multipart_upload(**self._name)["UploadId"]
        self._pool = ThreadPoolExecutor(THREADS)
        self._parts: list[Future[str]] = []
        self._filling = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        for start in range(0, len(view), PART):
            self._filling += view[start : start + PART]
            if len(self._filling) >= PART:
                self._send()
        return len(view)

    def close(self) -> None:
        if self.closed:
            return
        super().close()
        self._send()
        parts = [{"PartNumber": number, "ETag": part.result()} for number, part in enumerate(self._parts, 1)]
        self._pool.shutdown()
        self._client.complete_multipart_upload(**self._name, UploadId=self._upload, MultipartUpload={"Parts": parts})

    def _send(self) -> None:
        number, data, self._filling = len(self._parts) + 1, self._filling, bytearray()
        if number > THREADS * 2:
            self._parts[number - THREADS * 2 - 1].result()  # no more than a few parts wait in memory

        def work() -> str:
            told = self._client.upload_part(**self._name, UploadId=self._upload, PartNumber=number, Body=data)
            return str(told["ETag"])

        self._parts.append(self._pool.submit(work))
