"""Copies from a GPU, on one that is only imagined: it does what is in its streams as late as it may, or at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from full_job import digest
from torch import nn

import spotrun
from spotrun.checkpoint import hold, sample
from spotrun.checkpoint.device import Transfers
from spotrun.checkpoint.restore import newest_whole
from spotrun.store import CommitEntry, MemoryStore, read_log


class Stream:
    """Work in order; an event is a place in it."""

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []
        self.done = 0

    def run(self, until: int) -> None:
        while self.done < until:
            self.done += 1
            self.work[self.done - 1]()


class Gpu:
    """A GPU whose memory is the host's. `lazy`: nothing runs before somebody waits for it."""

    def __init__(self, *, lazy: bool) -> None:
        self.lazy = lazy
        self.training = Stream()
        self.waited = 0  # events that the loop's own thread waited for
        self.memories: set[int] = set()
        self.lock = threading.RLock()
        self.loop = threading.current_thread()

    def takes(self, tensor: torch.Tensor) -> bool:
        return tensor.data_ptr() in self.memories

    def current(self, device: torch.device) -> Stream:
        assert threading.current_thread() is self.loop, "the training's stream belongs to its thread"
        return self.training

    def new(self, device: torch.device) -> Stream:
        return Stream()

    def mark(self, stream: Stream) -> tuple[Stream, int]:
        return stream, len(stream.work)

    def follow(self, stream: Stream, event: tuple[Stream, int]) -> None:
        self.put(stream, lambda: event[0].run(event[1]))

    def copy(self, target: torch.Tensor, source: torch.Tensor, stream: Stream) -> None:
        def copy() -> None:
            target.copy_(source)

        self.put(stream, copy)

    def wait(self, event: tuple[Stream, int]) -> None:
        self.waited += threading.current_thread() is self.loop
        with self.lock:
            event[0].run(event[1])

    def put(self, stream: Stream, work: Callable[[], None]) -> None:
        with self.lock:
            stream.work.append(work)
            if not self.lazy:
                stream.run(len(stream.work))


class Sgd(torch.optim.Optimizer):
    """Momentum, on the imagined GPU: what it does to its tensors goes into the training's stream."""

    def __init__(self, parameters: Any, gpu: Gpu) -> None:
        super().__init__(parameters, {"lr": 0.1})
        self.gpu = gpu

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for parameter in self.param_groups[0]["params"]:
            moment = self.state[parameter].setdefault("moment", torch.zeros_like(parameter))
            self.gpu.memories |= {parameter.data_ptr(), moment.data_ptr()}

            def change(parameter: torch.Tensor = parameter, moment: torch.Tensor = moment) -> None:
                moment.data.mul_(0.9).add_(0.01)
                parameter.data.sub_(moment)

            self.gpu.put(self.gpu.training, change)


@pytest.mark.parametrize("lazy", [True, False])
def test_a_snapshot_from_a_gpu_is_of_its_boundary(monkeypatch: pytest.MonkeyPatch, lazy: bool) -> None:
    """However late the GPU comes to its work: parameters and moments go beside the next step, the buffer in the
    training's own stream, and the loop itself waits for nothing."""
    monkeypatch.setattr(sample, "SAMPLED_BYTES_MIN", 1)
    store = MemoryStore()
    monkeypatch.setattr(hold, "open_store", lambda uri, *_: store)
    gpu = Gpu(lazy=lazy)
    model = nn.Linear(8, 4)
    model.register_buffer("seen", torch.zeros(8))
    gpu.memories.add(model.seen.data_ptr())
    optimizer = Sgd(model.parameters(), gpu)
    run = spotrun.attach(model=model, optimizer=optimizer, name="x", interval=1e9, keep_last=100)
    saver = run._parts.keeper._saver
    saver._staging.transfers = Transfers(gpu)
    expected = {}
    beside = []
    for number in run.steps(8):
        gpu.put(gpu.training, lambda: model.seen.data.add_(1))  # what forward does to a buffer
        optimizer.step()
        with gpu.lock:
            gpu.training.run(len(gpu.training.work))  # before any copy that nobody has waited for
        if saver._thread is not None:
            saver._thread.join(30)
            assert not saver._thread.is_alive()
            beside.append(len(saver._copying._items))
        run.save()
        expected[number + 1] = [digest(tensor) for tensor in (*model.parameters(), model.seen)]
    assert beside == [4] * 7
    assert gpu.waited == 0
    for entry in read_log(store):
        if isinstance(entry, CommitEntry):
            restored = newest_whole(store, [entry])
            assert restored is not None
            saved = restored.tree["models"]["model"]
            found = [saved["parameters"]["weight"], saved["parameters"]["bias"], saved["buffers"]["seen"]]
            assert [digest(tensor) for tensor in found] == expected[entry.step], entry.step
    assert len(expected) == 8


def test_a_step_waits_on_the_gpu_for_copies_that_have_not_run() -> None:
    """The copy is begun, the optimizer steps, nothing has run yet: the old value is in the snapshot."""
    gpu = Gpu(lazy=True)
    transfers = Transfers(gpu)
    source, target = torch.ones(4), torch.zeros(4)
    gpu.put(gpu.training, lambda: source.add_(1))  # still to be done when the boundary comes
    transfers.begin()
    transfers.expect(source.device)
    copier = threading.Thread(target=transfers.copy_beside, args=(0, target, source))
    copier.start()
    copier.join()
    transfers.hold()
    gpu.put(gpu.training, lambda: source.mul_(100))
    assert target.tolist() == [0] * 4
    gpu.training.run(len(gpu.training.work))
    transfers.wait(0)
    assert target.tolist() == [2] * 4
    assert source.tolist() == [200] * 4


def test_what_may_change_at_once_is_copied_in_the_training_s_stream() -> None:
    """Forward writes it right after the boundary; the copy stands before that in the same order."""
    gpu = Gpu(lazy=True)
    transfers = Transfers(gpu)
    source, target = torch.ones(4), torch.zeros(4)
    transfers.begin()
    transfers.copy_now(3, target, source)
    gpu.put(gpu.training, lambda: source.mul_(100))
    gpu.training.run(len(gpu.training.work))
    transfers.wait(3)
    transfers.wait(4)  # a blob without tensors of a GPU
    assert target.tolist() == [1] * 4
