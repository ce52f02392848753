"""One pass over a loader, from its beginning or from where a commit left it.

A `DataLoader` decides its order in two draws: the base seed of the workers, when its iterator is made, and the
sampler's seed, when the first batch is asked for. So a pass is repeated by restoring all randomness to what it was
before the iterator was made, making it, and letting its sampler hand out the first k lists of indices to nobody:
no sample of a skipped batch is loaded. Then randomness is set to what it was at the save. In the main process that
is exact, augmentation included. Randomness inside workers is a matter of what they have loaded before: it is exact
only by loading the skipped batches again (`replay`), or if it depends on nothing but the sample (`spotrun.data`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data import sampler as torch_sampler
from torch.utils.data.distributed import DistributedSampler

from spotrun.checkpoint.randomness import (
    Generator,
    capture_generators,
    capture_global,
    find_generators,
    restore_generators,
    restore_global,
)
from spotrun.data import CounterSampler, PerSampleRandom
from spotrun.errors import CheckpointError, NotCapturable

__all__ = ["Feed", "open_feed"]

_WATCHED_LISTS = 64  # lists of indices after which a sampler of the user's own is trusted to draw nothing
_KNOWN_SAMPLERS = (
    torch_sampler.SequentialSampler,
    torch_sampler.RandomSampler,
    torch_sampler.SubsetRandomSampler,
    torch_sampler.WeightedRandomSampler,
    torch_sampler.BatchSampler,
    DistributedSampler,
    CounterSampler,
)

_EXACT = "data order and randomness are exact to the bit"


class Feed:
    """One pass over what the user gave to `run.batches`. Subclasses know how to begin it and how to go on.

    Attributes:
        consumed: batches handed out and finished.
        guarantee: what a resume of this pass restores, in one sentence.
        warnings: what the user should know, by name.
    """

    kind = "sequence"

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.consumed = 0
        self.guarantee = _EXACT
        self.warnings: list[str] = []
        self.generators: dict[str, Generator] = {}
        self._before: dict[str, Any] | None = None

    @property
    def in_workers(self) -> bool:
        """Whether batches are loaded in other processes."""
        return bool(getattr(self.loader, "num_workers", 0))

    def start(self) -> Iterator[Any]:
        """Begins the pass."""
        self._before = {"global": capture_global(), "generators": capture_generators(self.generators)}
        return self._iterate(skip=0)

    def resume(self, saved: Mapping[str, Any]) -> Iterator[Any]:
        """Goes on where `saved` was captured. The global randomness is the caller's to restore, right after this.

        Raises:
            CheckpointError: this is not the loader that the pass was begun with.
        """
        self._refuse_other(saved)
        self._before, self.consumed = saved["before"], saved["consumed"]
        assert self._before is not None
        restore_global(self._before["global"])
        restore_generators(self.generators, self._before["generators"])
        iterator = self._go_on(saved)
        restore_generators(self.generators, saved["generators"])
        return iterator

    def capture(self) -> dict[str, Any]:
        """The pass as of now, between two batches."""
        return {
            "kind": self.kind,
            "consumed": self.consumed,
            "before": self._before,
            "generators": capture_generators(self.generators),
            "marks": self.marks(),
            "inner": self._inner(),
        }

    def marks(self) -> dict[str, Any]:
        """What must stay the same for the rest of the pass to be the same."""
        return {"length": _length(self.loader)}

    def changes(self, marks: Mapping[str, Any]) -> list[str]:
        """How this loader differs from one of which `marks` were saved."""
        now = self.marks()
        return [
            f"{name} was {marks[name]} when saved and is {now[name]} now"
            for name in now
            if name in marks and marks[name] != now[name] and name != "workers"
        ]

    def _inner(self) -> Any:
        return None

    def _iterate(self, *, skip: int) -> Iterator[Any]:
        return (self.loader[index] for index in range(skip, len(self.loader)))

    def _go_on(self, _saved: Mapping[str, Any]) -> Iterator[Any]:
        return self._iterate(skip=self.consumed)

    def _refuse_other(self, saved: Mapping[str, Any]) -> None:
        problems = self.changes(saved["marks"])
        if saved["kind"] != self.kind:
            problems.insert(0, f"it was a {saved['kind']} when saved and is a {self.kind} now")
        if problems:
            raise CheckpointError(
                "the run stopped in the middle of an epoch, and its loader has changed since: "
                + "; ".join(problems)
                + ". Give the same loader until the epoch is over."
            )


class _Replayed(Feed):
    """A pass that can only be read again from its beginning."""

    kind = "replayed"

    def __init__(self, loader: Any) -> None:
        super().__init__(loader)
        self.guarantee = "batches are read again and dropped, which is exact if the source gives the same ones again"

    def marks(self) -> dict[str, Any]:
        return {}

    def _iterate(self, *, skip: int) -> Iterator[Any]:
        iterator: Iterator[Any] = iter(self.loader)
        for _ in range(skip):
            next(iterator, None)
        return iterator


class _Stateful(Feed):
    """A loader that saves its own position."""

    kind = "stateful loader"

    def __init__(self, loader: Any) -> None:
        super().__init__(loader)
        self.guarantee = f"the position is saved and restored by {type(loader).__qualname__} itself"

    def marks(self) -> dict[str, Any]:
        return {}

    def _inner(self) -> Any:
        return self.loader.state_dict()

    def _iterate(self, *, skip: int) -> Iterator[Any]:  # noqa: ARG002  its own state holds the position
        return iter(self.loader)

    def _go_on(self, saved: Mapping[str, Any]) -> Iterator[Any]:
        self.loader.load_state_dict(saved["inner"])
        return iter(self.loader)


class _StatefulDataset(_Stateful):
    """A `DataLoader` in this process over an iterable dataset that saves its own position."""

    kind = "stateful dataset"

    def __init__(self, loader: DataLoader[Any]) -> None:
        super().__init__(loader)
        self.guarantee = f"the position is saved and restored by {type(loader.dataset).__qualname__} itself"
        self.generators = _generators_of(loader)

    def marks(self) -> dict[str, Any]:
        return {"batch size": self.loader.batch_size}

    def _inner(self) -> Any:
        return self.loader.dataset.state_dict()

    def _go_on(self, saved: Mapping[str, Any]) -> Iterator[Any]:
        self.loader.dataset.load_state_dict(saved["inner"])
        return iter(self.loader)


class _Mapped(Feed):
    """A `DataLoader` over a map-style dataset."""

    kind = "DataLoader"

    def __init__(self, loader: DataLoader[Any], *, replay: bool) -> None:
        super().__init__(loader)
        self._replay = replay and loader.num_workers > 0
        self._name = "batch_sampler" if loader.batch_sampler is not None else "sampler"
        self._source: Any = getattr(loader, self._name)
        self._watch: _Watch | None = None
        self.generators = _generators_of(loader)
        self.guarantee = self._promise()
        if loader.persistent_workers:
            self.warnings.append(
                "persistent_workers=True keeps randomness from epoch to epoch where a resume cannot reach it; "
                "run.batches starts the workers anew for each epoch"
            )
        if not getattr(loader, "in_order", True):
            self.warnings.append("in_order=False hands out batches as they come, so no run can be repeated exactly")

    def marks(self) -> dict[str, Any]:
        return {
            "dataset length": _length(self.loader.dataset),
            "batch size": self.loader.batch_size,
            "drop_last": self.loader.drop_last,
            "sampler": type(self.loader.sampler).__qualname__,
            "batch_sampler": type(self.loader.batch_sampler).__qualname__,
            "workers": self.loader.num_workers,
        }

    def _promise(self) -> str:
        workers = self.loader.num_workers
        if workers == 0 or self._replay or isinstance(self.loader.dataset, PerSampleRandom):
            return _EXACT
        return (
            f"data order is exact; randomness inside the {workers} loader workers starts anew after a resume "
            "(replay=True or spotrun.data.PerSampleRandom makes it exact)"
        )

    def _iterate(self, *, skip: int) -> Iterator[Any]:
        source = _Skip(self._source, skip if not self._replay else 0)
        own = [item for item in _samplers_of(self.loader) if type(item) not in _KNOWN_SAMPLERS]
        if own:
            source = self._watch = _Watch(source.inner, source.skip, type(own[0]).__qualname__)
        loader = self.loader
        if own or skip or loader.persistent_workers:
            loader = copy.copy(loader)
            # These may not be set on a finished loader, but this copy is ours alone and has no iterator yet.
            loader.__dict__.update({self._name: source, "persistent_workers": False, "_iterator": None})
        iterator: Iterator[Any] = iter(loader)
        if self._replay:
            for _ in range(skip):
                next(iterator, None)
        elif skip and loader.num_workers == 0:
            source.advance()  # with workers, making the iterator has asked for the first lists already
        return iterator

    def _go_on(self, saved: Mapping[str, Any]) -> Iterator[Any]:
        was, now = saved["marks"].get("workers"), self.loader.num_workers
        if was != now and (self._replay or now == 0 or was == 0):
            self.warnings.append(
                f"the loader had {was} workers when saved and has {now} now: order stays exact, randomness inside "
                "workers does not"
            )
        return self._iterate(skip=self.consumed)

    def capture(self) -> dict[str, Any]:
        if self._watch is not None and self._watch.drew:
            message = (
                f"{self._watch.name} draws from global randomness between batches, so the order after a resume in the "
                "middle of an epoch will differ: give it a generator of its own, or use spotrun.data.CounterSampler"
            )
            if message not in self.warnings:
                self.warnings.append(message)
                self.guarantee = f"data order is not exact: {self._watch.name} draws from global randomness"
        return super().capture()


class _Skip:
    """A sampler that hands out the first `skip` items to nobody, as late as the first item is asked for."""

    def __init__(self, inner: Any, skip: int) -> None:
        self.inner = inner
        self.skip = skip
        self._items: Iterator[Any] | None = None
        self._left = 0

    def __len__(self) -> int:
        return len(self.inner)

    def __iter__(self) -> Iterator[Any]:
        self._items = iter(self.inner)
        self._left = self.skip
        return self

    def __next__(self) -> Any:
        self.advance()
        assert self._items is not None
        return next(self._items)

    def advance(self) -> None:
        """Skips now."""
        assert self._items is not None
        while self._left:
            self._left -= 1
            next(self._items, None)


class _Watch(_Skip):
    """A sampler that is also observed: whether it draws from global randomness after its first item."""

    def __init__(self, inner: Any, skip: int, name: str) -> None:
        super().__init__(inner, skip)
        self.name = name
        self.drew = False
        self._seen = 0

    def __next__(self) -> Any:
        self._seen += 1
        if self._seen == 1 or self._seen > _WATCHED_LISTS or self.drew:
            return super().__next__()
        before = _glimpse()
        item = super().__next__()
        self.drew = _glimpse() != before
        return item


def open_feed(loader: Any, *, replay: bool, epoch: int) -> Feed:
    """The feed for what the user iterates over, told its epoch.

    Raises:
        NotCapturable: its position can neither be saved nor found again.
    """
    dataset = getattr(loader, "dataset", None)
    for part in [dataset if isinstance(dataset, PerSampleRandom) else None, *_samplers_of(loader)]:
        set_epoch = getattr(part, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(epoch)
    if _is_stateful(loader):
        return _Stateful(loader)
    if isinstance(loader, DataLoader):
        return _open_loader(loader, replay=replay)
    if isinstance(loader, Sequence):
        return Feed(loader)
    if replay and isinstance(loader, Iterable) and not isinstance(loader, Iterator):
        return _Replayed(loader)
    again = "it can be iterated only once" if isinstance(loader, Iterator) else "it has no state_dict()"
    raise NotCapturable(
        "the loader of run.batches",
        f"a {type(loader).__qualname__} whose position cannot be saved ({again})",
        "Give a DataLoader, a sequence or a loader with state_dict()/load_state_dict(); or, if iterating it anew gives "
        "the same batches again, say replay=True.",
    )


def _open_loader(loader: DataLoader[Any], *, replay: bool) -> Feed:
    if not isinstance(loader.dataset, IterableDataset):
        return _Mapped(loader, replay=replay)
    if loader.num_workers == 0 and _is_stateful(loader.dataset):
        return _StatefulDataset(loader)
    if replay:
        return _Replayed(loader)
    kind = type(loader.dataset).__qualname__
    why = "in worker processes" if _is_stateful(loader.dataset) else "without state_dict()"
    raise NotCapturable(
        "the loader of run.batches",
        f"a DataLoader over the iterable dataset {kind} {why}",
        "Give the dataset state_dict()/load_state_dict() and num_workers=0, use torchdata's StatefulDataLoader, or say "
        "replay=True to read the finished batches again.",
    )


def _is_stateful(value: object) -> bool:
    return callable(getattr(value, "state_dict", None)) and callable(getattr(value, "load_state_dict", None))


def _samplers_of(loader: Any) -> list[Any]:
    batch_sampler = getattr(loader, "batch_sampler", None)
    found: list[Any] = []
    for item in (getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None)):
        # A loader that is given a batch_sampler makes itself a sampler that nobody asks.
        if item is not None and all(item is not other for other in found):
            found.append(item)
    return found


def _generators_of(loader: DataLoader[Any]) -> dict[str, Generator]:
    found = find_generators(loader, "loader")
    for index, item in enumerate(_samplers_of(loader)):
        found |= find_generators(item, f"sampler[{index}]")
    if loader.num_workers == 0:
        found |= find_generators(loader.dataset, "dataset")
    return found


def _length(value: object) -> int | None:
    try:
        return len(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def _glimpse() -> tuple[Any, ...]:
    state = capture_global()
    numpy_state = state["numpy"]["state"]
    python_state = state["python"]
    return (
        state["torch"].numpy().tobytes(),
        tuple(value.tobytes() if hasattr(value, "tobytes") else value for value in numpy_state.values()),
        (python_state["words"].tobytes(), python_state["gauss"]),
    )
