"""The copy of a snapshot while the training goes on, and the proof that it shows one moment.

Parameters and the optimizer's state change in `Optimizer.step()` and nowhere else. So at the boundary only the rest is
copied; these are copied while the next batch goes forward and backward, and the `Gate` holds the first step of any
optimizer until the copy is complete. Which tensors may wait so long is decided by what has been seen, not by what is
usual: they lie in the main memory, in the groups or the state of an optimizer that was given to `attach` and that has
stepped through the gate before, and share their memory with nothing else that is saved.

That they did not change after all (a constraint written into the weights at the start of the next step, averaged
weights swapped in for an evaluation) is checked in two ways, and a snapshot that fails is thrown away:

    versions    PyTorch counts the changes in place of each tensor. Compared once the thread that trains comes by again,
                when nothing that it began is under way any more. Changes through `.data` or NumPy are not counted.
    samples     some words of each tensor, taken at the boundary, must be in the copy to the bit. Finds changes to
                whole tensors however they were made, and a copy half of which is older than the other.

One thread of the saver copies, in the order of the blobs, in pieces; the training's own thread takes part once it has
come to the gate, and then waits for no more than the piece that the other one has in hand.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from spotrun.checkpoint.device import Transfers
from spotrun.checkpoint.sample import Sample
from spotrun.clock import Clock
from spotrun.errors import CheckpointError

__all__ = ["Bundle", "Copying", "Gate", "Later", "Piece", "Target", "pieces_of"]

_PIECE_BYTES = 4 << 20  # copied at once: about a millisecond
_SMALL_BYTES = 256 << 10  # of which many are copied at once
_LOOK_S = 0.5  # wall time between looks at whether the thread that trains still lives
_CONFIRM_S = 5.0  # wall time after which the saving thread confirms; no operation on one tensor takes so long
_STUCK_S = 60.0  # wall time in which no piece is that large
_WARM_STEPS = 3  # steps after which an optimizer's state is there, and it is known what the loop does with gradients
_CLOSURES = (torch.optim.LBFGS,)  # evaluate the model, and change it, many times within a step


class Target(Protocol):
    """The memory of the snapshot."""

    @property
    def transfers(self) -> Transfers:
        """Copies from GPUs into it."""

    def update(self, blob: int, target: int, source: int, size: int) -> None:
        """Copies into a blob, to an address, from an address, some bytes; for any thread."""

    def update_all(self, bundle: Bundle) -> None:
        """Copies many small tensors; for any thread."""


@dataclass(frozen=True, slots=True)
class Later:
    """A tensor, or a box of one, that is copied after the boundary.

    Attributes:
        blob: the number of the blob that it belongs to.
        source: an alias of it, which shares its counter of changes.
        target: the address of its place in the snapshot.
        address: its own.
        skip: bytes of the tensor before it.
        size: in bytes.
        place: that place as a tensor, if this one lies on a GPU; then it has no sample.
    """

    name: str
    blob: int
    source: torch.Tensor
    target: int
    address: int
    skip: int
    size: int
    place: torch.Tensor | None = None

    @property
    def extent(self) -> int:
        """How many bytes of memory, from its address on, it may be spread over."""
        if self.place is None:
            return self.size
        storage = self.source.untyped_storage()
        return storage.data_ptr() + storage.nbytes() - self.address


@dataclass(slots=True)
class Bundle:
    """Small tensors of one blob that are copied at once, since each call for one alone takes longer than its copy.

    Attributes:
        views: the bytes of each place and of each tensor, made when they are first needed.
    """

    blob: int
    items: list[Later]
    views: tuple[list[torch.Tensor], list[torch.Tensor]] | None = None


Piece = tuple[int, Callable[[], None]]
"""What is done at once, with the number of its blob."""


class Copying:
    """One copy in the background. Made at the boundary, by the thread that trains.

    Args:
        items: what to copy, in the order of the blobs.
        pieces: the same as `pieces_of` has cut it.
        sample: of the items, as they are at the boundary.
        blobs: how many blobs the snapshot has.
        target: copies.
    """

    def __init__(
        self,
        items: Sequence[Later],
        pieces: Sequence[Piece],
        sample: Sample,
        *,
        blobs: int,
        target: Target,
        clock: Clock,
    ) -> None:
        self._items = items
        self._versions = [item.source._version for item in items]
        self._sample = sample
        self._target = target
        self._clock = clock
        self._pieces = pieces
        self._left = [0] * blobs
        for blob, _ in self._pieces:
            self._left[blob] += 1
        self._unfinished = len(self._pieces)
        self._next = 0
        self._changed = threading.Condition()
        self._loop = threading.current_thread()
        self._process = os.getpid()
        self._edited: str | None = None
        self._confirmed = threading.Event()
        self.waited_s = 0.0  # that the training stood still for it after the boundary, in job time
        if not items:
            self._confirmed.set()

    def work(self) -> None:
        """Copies what nobody has begun to copy; for any thread."""
        while True:
            with self._changed:
                index = self._next
                if index >= len(self._pieces):
                    return
                self._next += 1
            self._copy(index)

    def wait_for(self, blob: int) -> None:
        """Returns once a blob is complete; for threads that do not copy."""
        if self._left[blob]:
            self._await(lambda: not self._left[blob])
        self._target.transfers.wait(blob)

    def settle(self) -> None:
        """The thread that trains is about to change something: finishes the copy and confirms it."""
        if self._confirmed.is_set() or os.getpid() != self._process:
            return
        since = self._clock.monotonic()
        self._confirm()
        self.waited_s += self._clock.monotonic() - since

    def check(self) -> None:
        """Waits until the copy is confirmed; the saving thread's, before it commits.

        Raises:
            CheckpointError: a tensor was changed since the boundary.
        """
        waited_s = 0.0
        while not self._confirmed.wait(_LOOK_S):
            waited_s += _LOOK_S
            if waited_s >= _CONFIRM_S or not self._loop.is_alive():
                self._confirm()
        if self._edited is None:
            copies = [(item.name, item.target, item.skip, item.size) for item in self._items if item.place is None]
            self._edited = next(iter(self._sample.differing(copies)), None)
        if self._edited is not None:
            raise CheckpointError(
                f"{self._edited} was changed outside of its optimizer's step while it was being saved; from now on all "
                "is copied between two steps"
            )

    @property
    def edited(self) -> bool:
        """Whether it was found to show more than one moment."""
        return self._edited is not None

    def _confirm(self) -> None:
        self.work()
        self._await(lambda: not self._unfinished)
        if threading.current_thread() is self._loop:  # else all has been waited for
            self._target.transfers.hold()
        for item, version in zip(self._items, self._versions, strict=True):
            if item.source._version != version:
                self._edited = self._edited or item.name
        self._confirmed.set()

    def _copy(self, index: int) -> None:
        blob, action = self._pieces[index]
        intact = False
        try:
            action()
            intact = True
        finally:  # also when it is interrupted: nobody must wait for a piece that nobody copies
            with self._changed:
                if not intact:
                    self._edited = self._edited or "a tensor"
                self._left[blob] -= 1
                self._unfinished -= 1
                if not self._left[blob]:
                    self._changed.notify_all()

    def _await(self, complete: Callable[[], bool]) -> None:
        waited_s = 0.0
        with self._changed:
            while not self._changed.wait_for(complete, _LOOK_S):
                waited_s += _LOOK_S
                if waited_s >= _STUCK_S:  # a thread ended between taking a piece and copying it
                    self._edited = self._edited or "a tensor"
                    return


class Gate:
    """Every optimizer's step of this process passes through it."""

    def __init__(self) -> None:
        self._copying: Copying | None = None
        self._steps = 0
        self._recorded = False
        self._seen: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        this = weakref.ref(self)  # PyTorch keeps the hook, and must not keep the run

        def before(optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
            gate = this()
            if gate is not None:
                gate._pass(optimizer)

        self._close = weakref.finalize(self, register_optimizer_step_pre_hook(before).remove)

    def hold(self, copying: Copying) -> None:
        """Holds the next step until this copy is complete."""
        self._copying = copying

    def steady(self, optimizers: Mapping[str, torch.optim.Optimizer]) -> list[torch.Tensor]:
        """The tensors that only steps through this gate change."""
        known: list[torch.Tensor] = []
        for optimizer in optimizers.values():
            if optimizer not in self._seen or isinstance(optimizer, _CLOSURES):
                continue
            states = {id(key): state for key, state in optimizer.state.items()}  # hashing a tensor takes a microsecond
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    known.append(parameter)
                    state = states.get(id(parameter))
                    if state:
                        known += [value for value in state.values() if isinstance(value, torch.Tensor)]
        return known

    @property
    def is_known(self) -> bool:
        """Whether optimizers have stepped often enough that all their state is there."""
        return self._steps >= _WARM_STEPS

    @property
    def is_recorded(self) -> bool:
        """Whether a step became part of a CUDA graph, which a GPU repeats without passing through here."""
        return self._recorded

    def close(self) -> None:
        """Takes the hook off."""
        self._close()
        self._copying = None

    def _pass(self, optimizer: torch.optim.Optimizer) -> None:
        self._seen.add(optimizer)
        self._steps += 1
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            self._recorded |= torch.cuda.is_current_stream_capturing()
        copying = self._copying
        if copying is not None:
            copying.settle()
            self._copying = None


def pieces_of(items: Sequence[Later], target: Target) -> list[Piece]:
    """What is to be copied, cut into what takes about a millisecond."""
    pieces: list[Piece] = []
    bundle, filled = Bundle(-1, []), 0
    for item in items:
        if item.place is None and item.size <= _SMALL_BYTES:
            if item.blob != bundle.blob or filled + item.size > _PIECE_BYTES:
                bundle, filled = Bundle(item.blob, []), 0
                pieces.append((item.blob, partial(target.update_all, bundle)))
            bundle.items.append(item)
            filled += item.size
            continue
        if item.place is not None:
            pieces.append((item.blob, partial(target.transfers.copy_beside, item.blob, item.place, item.source)))
            continue
        for start in range(0, item.size, _PIECE_BYTES):
            size = min(_PIECE_BYTES, item.size - start)
            pieces.append(
                (item.blob, partial(target.update, item.blob, item.target + start, item.address + start, size))
            )
    return pieces
