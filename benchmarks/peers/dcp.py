"""torch.distributed.checkpoint, to S3 through fsspec and through s3torchconnector, in each way it can be made to wait less.

    sync            dcp.save
    async           dcp.async_save: copies at once, writes from a thread
    async staging   dcp.async_save with a stager kept for all saves that copies in a thread ("zero overhead"); its copy
                    must be complete before the optimizer steps, so the step waits for `staging_completion`
    in a process    dcp.async_save with a shared-memory stager, written by a process

DCP is given the live tensors by name and loads into them in place: that is all that it can do best, and spares it a
second copy on a resume.
"""

import os
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from endpoint import BUCKET, REGION
from torch import nn
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.staging import AsyncStager, DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType, AsyncSaveResponse

from peers import Method, Place


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The live tensors, under names."""
    moments = {str(index): state for index, state in optimizer.state_dict()["state"].items()}
    return {"model": model.state_dict(), "optimizer": moments}


class Dcp(Method):
    """What all have in common; `no_dist` but for the process, which needs a process group."""

    alone = True

    def writer(self, key: str) -> FileSystemWriter:
        raise AssertionError("a place to write to")

    def reader(self, key: str) -> FileSystemReader:
        raise AssertionError("a place to read from")

    def write(self, key: str) -> None:
        state = state_of(self.model, self.optimizer)
        dcp.save(state, storage_writer=self.writer(key), no_dist=self.alone)

    def read(self, key: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        dcp.load(state_of(model, optimizer), storage_reader=self.reader(key), no_dist=self.alone)


class Asynchronous(Dcp):
    kind = AsyncCheckpointerType.THREAD
    stager: AsyncStager | None = None

    def setup(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        super().setup(model, optimizer)
        self.staging: Any = None

    def write(self, key: str) -> None:
        told = dcp.async_save(
            state_of(self.model, self.optimizer),
            storage_writer=self.writer(key),
            async_checkpointer_type=self.kind,
            async_stager=self.stager,
            no_dist=self.alone,
        )
        if isinstance(told, AsyncSaveResponse):
            self.staging, self.future = told.staging_completion, told.upload_completion
        else:
            self.future = told

    def before_step(self) -> None:
        if self.staging is not None:
            self.staging.result()
            self.staging = None

    def close(self) -> None:
        if self.stager is not None:
            self.stager.close()


class Fsspec(Dcp):
    @classmethod
    def warm(cls, place: Place) -> None:
        from peers.whole import S3fs

        S3fs.warm(place)

    def writer(self, key: str) -> FileSystemWriter:
        from torch.distributed.checkpoint._fsspec_filesystem import FsspecWriter

        return FsspecWriter(f"s3://{BUCKET}/{key}", sync_files=False)

    def reader(self, key: str) -> FileSystemReader:
        from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader

        return FsspecReader(f"s3://{BUCKET}/{key}")


class FsspecAsync(Asynchronous, Fsspec):
    pass


class S3(Dcp):
    @classmethod
    def warm(cls, place: Place) -> None:
        import s3torchconnector.dcp  # noqa: F401  an ImportError is to be told before anything is measured

        from peers.connector import Connector

        Connector.warm(place)

    def writer(self, key: str) -> FileSystemWriter:
        from s3torchconnector.dcp import S3StorageWriter

        return S3StorageWriter(REGION, f"s3://{BUCKET}/{key}")  # type: ignore[no-any-return]

    def reader(self, key: str) -> FileSystemReader:
        from s3torchconnector.dcp import S3StorageReader

        return S3StorageReader(REGION, f"s3://{BUCKET}/{key}")  # type: ignore[no-any-return]


class S3Async(Asynchronous, S3):
    pass


class S3Zero(Asynchronous, S3):
    def setup(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        super().setup(model, optimizer)
        self.stager = DefaultStager(StagingOptions(False, False, True, False))  # pinning needs CUDA


class S3Process(Asynchronous, S3):
    kind = AsyncCheckpointerType.PROCESS
    alone = False

    def setup(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        super().setup(model, optimizer)
        os.environ["MASTER_ADDR"] = "127.0.0.1"
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        self.stager = DefaultStager(StagingOptions(False, True, False, False))

    def close(self) -> None:
        super().close()
        dist.destroy_process_group()
