"""Samplers: which ones a loader asks, what randomness they hold, and how to hand out their first items to nobody."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader
from torch.utils.data import sampler as torch_sampler
from torch.utils.data.distributed import DistributedSampler

from spotrun.checkpoint.randomness import Generator, capture_global, find_generators
from spotrun.data import CounterSampler

__all__ = ["KNOWN_SAMPLERS", "Skip", "Watch", "generators_of", "samplers_of"]

# Samplers that draw from global randomness with their first item at the latest.
KNOWN_SAMPLERS = (
    torch_sampler.SequentialSampler,
    torch_sampler.RandomSampler,
    torch_sampler.SubsetRandomSampler,
    torch_sampler.WeightedRandomSampler,
    torch_sampler.BatchSampler,
    DistributedSampler,
    CounterSampler,
)

_WATCHED_ITEMS = 64  # after which a sampler of the user's own is trusted to draw nothing


def samplers_of(loader: Any) -> list[Any]:
    """The samplers of a loader, the one inside a batch sampler included, each once."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    found: list[Any] = []
    for item in (getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None)):
        # A loader that is given a batch_sampler makes itself a sampler that nobody asks.
        if item is not None and all(item is not other for other in found):
            found.append(item)
    return found


def generators_of(loader: DataLoader[Any]) -> dict[str, Generator]:
    """The generators that a loader, its samplers and, in this process, its dataset hold as attributes, by path."""
    found = find_generators(loader, "loader")
    for index, item in enumerate(samplers_of(loader)):
        found |= find_generators(item, f"sampler[{index}]")
    if loader.num_workers == 0:
        found |= find_generators(loader.dataset, "dataset")
    return found


class Skip:
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


class Watch(Skip):
    """A sampler that is also observed: whether it draws from global randomness after its first item."""

    def __init__(self, inner: Any, skip: int, name: str) -> None:
        super().__init__(inner, skip)
        self.name = name
        self.drew = False
        self._seen = 0

    def __next__(self) -> Any:
        self._seen += 1
        if self._seen == 1 or self._seen > _WATCHED_ITEMS or self.drew:
            return super().__next__()
        before = _glimpse()
        item = super().__next__()
        self.drew = _glimpse() != before
        return item


def _glimpse() -> tuple[Any, ...]:
    state = capture_global()
    numpy_state = state["numpy"]["state"]
    python_state = state["python"]
    return (
        state["torch"].numpy().tobytes(),
        tuple(value.tobytes() if hasattr(value, "tobytes") else value for value in numpy_state.values()),
        (python_state["words"].tobytes(), python_state["gauss"]),
    )
