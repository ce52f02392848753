"""spotrun, as a user drives it: `attach`, then a loop through `run.steps`. Checksums and signatures are as it has them."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

import spotrun
from peers import Method, Place
from spotrun.store import open_store

STEPS = 1_000_000  # more than any run here takes


class Spotrun(Method):
    @classmethod
    def warm(cls, place: Place) -> None:
        assert spotrun.attach  # imported when it is asked for
        if place.url:
            store = open_store(f"{place.uri}/warm")
            store.write("blobs/warm", [memoryview(b"warm")])
            store.read("blobs/warm")

    def setup(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        super().setup(model, optimizer)
        os.chdir(self.place.scratch)
        self.run = self._attach(model, optimizer)

    def steps(self) -> Iterator[int]:
        with self.run:  # left early: no last save
            yield from self.run.steps(STEPS)

    def save(self) -> None:
        self.number += 1
        self.run.save()  # at the end of this step

    def in_flight(self) -> bool:
        told = json.loads(Path(".spotrun/bench/progress.json").read_text())
        failed = [warning for warning in told["warnings"] if "failed" in warning or "NOT saved" in warning]
        if failed:
            raise RuntimeError(failed[0])
        return bool(told["commits"] < self.number)

    def forget(self, number: int) -> None:
        pass  # keep_last=1 does it

    def durable_at(self) -> float:
        newest = max(path.stat().st_mtime for path in (self.place.folder / "bench" / "log").iterdir())
        return newest - time.time() + time.monotonic()  # noqa: TID251  file systems tell wall time

    def resume(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._attach(model, optimizer)

    def _attach(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> "spotrun.Run":
        return spotrun.attach(
            model=model, optimizer=optimizer, uri=self.place.uri, name="bench", interval="7d", keep_last=1
        )
