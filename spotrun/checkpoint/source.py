"""From what the user iterates over to the way in which it can be continued; what cannot is refused by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from spotrun.checkpoint.feed import Feed, Replayed, Stateful, StatefulDataset
from spotrun.checkpoint.mapped import Mapped
from spotrun.checkpoint.prepared import Prepared, is_prepared
from spotrun.checkpoint.sampler import samplers_of
from spotrun.checkpoint.together import Endlessly, Together
from spotrun.data import Endless, PerSampleRandom
from spotrun.errors import NotCapturable

__all__ = ["open_feed", "open_feeds"]


_ROUNDS = 2**20  # an endless loader inside of epochs: rounds of different epochs have different numbers


def open_feeds(loaders: Sequence[Any], *, replay: bool, epoch: int) -> Feed:
    """The feed for one loader, or for several side by side; see `open_feed`."""
    feeds = [open_feed(loader, replay=replay, epoch=epoch) for loader in loaders]
    return feeds[0] if len(feeds) == 1 else Together(feeds)


def open_feed(loader: Any, *, replay: bool, epoch: int) -> Feed:
    """The feed for what the user iterates over, told its epoch.

    Raises:
        NotCapturable: its position can neither be saved nor found again.
    """
    if isinstance(loader, Endless):
        again = loader.loader
        return Endlessly(again, lambda number: open_feed(again, replay=replay, epoch=epoch * _ROUNDS + number))
    dataset = getattr(loader, "dataset", None)
    for part in [dataset if isinstance(dataset, PerSampleRandom) else None, *samplers_of(loader)]:
        set_epoch = getattr(part, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(epoch)
    if is_prepared(loader):
        return Prepared(loader)
    if _is_stateful(loader):
        return Stateful(loader)
    if isinstance(loader, DataLoader):
        return _open_loader(loader, replay=replay)
    if isinstance(loader, Sequence):
        return Feed(loader)
    if replay and isinstance(loader, Iterable) and not isinstance(loader, Iterator):
        return Replayed(loader)
    again = "it can be iterated only once" if isinstance(loader, Iterator) else "it has no state_dict()"
    raise NotCapturable(
        "the loader of run.batches",
        f"a {type(loader).__qualname__} whose position cannot be saved ({again})",
        "Give a DataLoader, a sequence or a loader with state_dict()/load_state_dict(); for a loader that never ends, "
        "spotrun.data.Endless(loader) or run.stream(loader); or, if iterating it anew gives the same batches again, say "
        "replay=True.",
    )


def _open_loader(loader: DataLoader[Any], *, replay: bool) -> Feed:
    if not isinstance(loader.dataset, IterableDataset):
        return Mapped(loader, replay=replay)
    if loader.num_workers == 0 and _is_stateful(loader.dataset):
        return StatefulDataset(loader)
    if replay:
        return Replayed(loader)
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
