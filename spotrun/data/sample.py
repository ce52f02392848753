"""Randomness of one sample in one epoch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

__all__ = ["FOR_ORDER", "Index", "PerSampleRandom", "philox", "rng"]

_WORD = 2**64
# What a stream is for: the third word of the counter keeps streams of one (seed, epoch) apart.
_FOR_RNG, _FOR_SEEDS, FOR_ORDER = 1, 2, 3


class Index(int):
    """The number of a sample that also knows the seed and the epoch; travels to worker processes."""

    seed: int
    epoch: int

    def __new__(cls, value: int, seed: int, epoch: int) -> Index:
        index = super().__new__(cls, value)
        index.seed, index.epoch = seed, epoch
        return index

    def __reduce__(self) -> tuple[type[Index], tuple[int, int, int]]:
        return Index, (int(self), self.seed, self.epoch)


def philox(seed: int, epoch: int, *, index: int, purpose: int) -> np.random.Philox:
    """The bit generator of one stream; streams of different arguments never overlap."""
    key = np.array([seed % _WORD, epoch % _WORD], dtype=np.uint64)
    counter = np.array([0, 0, purpose, index % _WORD], dtype=np.uint64)
    return np.random.Philox(key=key, counter=counter)


def rng(index: int) -> np.random.Generator:
    """A generator for the augmentation of this sample in this epoch, the same in any process.

    Args:
        index: what `__getitem__` was called with, under a loader with a `CounterSampler`.

    Raises:
        TypeError: a plain number, which does not know its epoch.
    """
    if not isinstance(index, Index):
        raise TypeError(
            f"index {index!r} does not know its seed and epoch: give the DataLoader sampler=spotrun.data.CounterSampler(...), "
            "and pass on the index that __getitem__ gets, unchanged"
        )
    return np.random.Generator(philox(index.seed, index.epoch, index=int(index), purpose=_FOR_RNG))


class PerSampleRandom(Dataset[Any]):
    """A dataset whose augmentation draws the same numbers in any process, whatever it was that was loaded before.

    Around each `__getitem__` the global generators of Python, NumPy and torch are seeded from (seed, epoch, index) and
    then put back, so that a transform written for global randomness becomes exact for any number of workers.

    Args:
        dataset: a map-style dataset.
        seed: another seed gives other augmentation.
    """

    def __init__(self, dataset: Dataset[Any], *, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Tells the epoch; `run.batches` does it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]  # Dataset's stub has no __len__

    def __getitem__(self, index: int) -> Any:
        epoch = index.epoch if isinstance(index, Index) else self.epoch
        with _seeded(philox(self.seed, epoch, index=int(index), purpose=_FOR_SEEDS)):
            return self.dataset[index]


@contextmanager
def _seeded(source: np.random.Philox) -> Iterator[None]:
    kept = random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()
    words = source.random_raw(6)
    random.seed(int(words[0]) << 64 | int(words[1]))
    np.random.seed(words[2:5].view(np.uint32))
    torch.default_generator.manual_seed(int(words[5] >> np.uint64(1)))
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])
