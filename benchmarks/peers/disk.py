"""What people use to save to a disk. Neither flushes; here both do, so that 'durable' means the same for all."""

import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import nn

from peers import Method
from peers.dcp import state_of as live_state_of
from peers.whole import put_back, state_of


def flush(folder: Path) -> None:
    """Everything below a folder to the disk: files, then directories."""
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


class OnDisk(Method):
    def setup(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        super().setup(model, optimizer)
        self.ended = 0.0
        self.thread = ThreadPoolExecutor(1)

    def folder(self, key: str) -> Path:
        folder = self.place.folder / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def flushed(self, key: str) -> "Future[None]":
        def work() -> None:
            flush(self.folder(key))
            self.ended = time.monotonic()

        return self.thread.submit(work)

    def durable_at(self) -> float:
        return self.ended


class TorchSave(OnDisk):
    def write(self, key: str) -> None:
        torch.save(state_of(self.model, self.optimizer), self.folder(key) / "state.pt")
        self.future = self.flushed(key)

    def read(self, key: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        put_back(torch.load(self.folder(key) / "state.pt", weights_only=True), model, optimizer)


class Dcp(OnDisk):
    def write(self, key: str) -> None:
        dcp.save(live_state_of(self.model, self.optimizer), checkpoint_id=self.folder(key), no_dist=True)
        self.future = self.flushed(key)

    def read(self, key: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        dcp.load(live_state_of(model, optimizer), checkpoint_id=self.folder(key), no_dist=True)


class DcpAsync(Dcp):
    def write(self, key: str) -> None:
        state = live_state_of(self.model, self.optimizer)
        saving = dcp.async_save(state, checkpoint_id=self.folder(key), no_dist=True)
        assert isinstance(saving, Future)

        def work() -> None:
            saving.result()
            flush(self.folder(key))
            self.ended = time.monotonic()

        self.future = self.thread.submit(work)
