"""Tensors on a GPU on their way into the snapshot, without the processor waiting for them.

Work on a GPU is done in the order of its *streams*. What may change before the next step (buffers, gradients) is copied
in the training's own stream, where everything that changes it comes later. The rest goes over a stream of its own,
beside the next forward and backward pass; that stream first waits for the training's stream as it was at the boundary.
When an optimizer is about to step, the training's stream is told to wait for the copies: the GPU waits, not the loop.
The saving thread waits for a blob's copies before it hashes it. Copies run beside other work only into *pinned* memory,
which the operating system does not move, so the staging memory is pinned when the first tensor of a GPU comes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

import torch

__all__ = ["CudaStreams", "Device", "Streams", "Transfers", "pin"]

Device = torch.device


class Streams(Protocol):
    """What is needed of a kind of GPU. Streams and events are its own objects; nothing here waits but `wait`."""

    def takes(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor lies on a GPU of this kind."""

    def current(self, device: Device) -> Any:
        """The stream that this thread's work on a device goes to."""

    def new(self, device: Device) -> Any:
        """A stream of its own."""

    def mark(self, stream: Any) -> Any:
        """An event: the end of all that is in the stream now."""

    def follow(self, stream: Any, event: Any) -> None:
        """What comes into the stream from now on begins after the event."""

    def copy(self, target: torch.Tensor, source: torch.Tensor, stream: Any) -> None:
        """Puts a copy into the stream, and keeps the source's memory from being given away before it is done."""

    def wait(self, event: Any) -> None:
        """Returns once the event has come."""


class CudaStreams:
    """Those of CUDA (and ROCm, which has the same names)."""

    def takes(self, tensor: torch.Tensor) -> bool:
        return tensor.is_cuda

    def current(self, device: Device) -> Any:
        return torch.cuda.current_stream(device)

    def new(self, device: Device) -> Any:
        return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def mark(self, stream: Any) -> Any:
        return stream.record_event()

    def follow(self, stream: Any, event: Any) -> None:
        stream.wait_event(event)

    def copy(self, target: torch.Tensor, source: torch.Tensor, stream: Any) -> None:
        with torch.no_grad(), torch.cuda.stream(stream):
            target.copy_(source, non_blocking=True)
        source.record_stream(stream)

    def wait(self, event: Any) -> None:
        event.synchronize()


class Transfers:
    """The copies from GPUs of one snapshot after the other.

    Args:
        streams: None for CUDA's.
    """

    def __init__(self, streams: Streams | None = None) -> None:
        self._streams = streams or CudaStreams()
        self._own: dict[Device, Any] = {}
        self._expected: set[Device] = set()
        self._events: dict[int, dict[int, Any]] = {}  # the last one of each stream, by blob
        self._lock = threading.Lock()

    def takes(self, tensor: torch.Tensor) -> bool:
        """Whether it is copied here."""
        return self._streams.takes(tensor)

    def begin(self) -> None:
        """A new snapshot; those before are complete."""
        self._expected, self._events = set(), {}

    def copy_now(self, blob: int, target: torch.Tensor, source: torch.Tensor) -> None:
        """Copies what may change as soon as the training goes on; for the thread that trains, at the boundary."""
        self._copy(blob, target, source, self._streams.current(source.device))

    def expect(self, device: Device) -> None:
        """Copies of tensors of this device will follow; for the thread that trains, at the boundary."""
        if device in self._expected:
            return
        self._expected.add(device)
        if device not in self._own:
            self._own[device] = self._streams.new(device)
        self._streams.follow(self._own[device], self._streams.mark(self._streams.current(device)))

    def copy_beside(self, blob: int, target: torch.Tensor, source: torch.Tensor) -> None:
        """Copies what does not change before the next step, for any thread; `expect` was called for its device."""
        self._copy(blob, target, source, self._own[source.device])

    def hold(self) -> None:
        """The thread that trains is about to change the tensors: what it does to them from now on comes after the copies,
        all of which have been begun."""
        for device in self._expected:
            self._streams.follow(self._streams.current(device), self._streams.mark(self._own[device]))

    def wait(self, blob: int) -> None:
        """Returns once all copies into a blob that were begun are done."""
        with self._lock:
            events = list(self._events.pop(blob, {}).values())
        for event in events:
            self._streams.wait(event)

    def _copy(self, blob: int, target: torch.Tensor, source: torch.Tensor, stream: Any) -> None:
        self._streams.copy(target, source, stream)
        with self._lock:
            self._events.setdefault(blob, {})[id(stream)] = self._streams.mark(stream)


def pin(memory: torch.Tensor) -> Callable[[], None] | None:
    """Pins memory that PyTorch did not allocate; gives what undoes it, or None if it cannot be pinned."""
    api: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    address = memory.data_ptr()
    if int(api.cudaHostRegister(address, memory.nbytes, 0)) != 0:
        return None  # a limit on locked memory: copies are right all the same, and slower
    return lambda: api.cudaHostUnregister(address)
