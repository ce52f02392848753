"""A loader without an end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

__all__ = ["Endless"]

_T = TypeVar("_T")


class Endless(Generic[_T]):
    """A loader again and again: `itertools.cycle` without keeping batches, shuffled anew in each round.

    `run.batches` and `run.stream` know how to go on in the middle of any round, and tell each round's number to samplers
    and datasets that have `set_epoch`.

    Args:
        loader: anything that can be iterated again: a `DataLoader`, a list of batches.
    """

    def __init__(self, loader: Iterable[_T]) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[_T]:
        while True:
            empty = True
            for batch in self.loader:
                empty = False
                yield batch
            if empty:
                return
