"""The order of samples in an epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sized

import numpy as np
from torch.utils.data import Sampler

from spotrun.data.sample import FOR_ORDER, Index, philox

__all__ = ["CounterSampler"]


class CounterSampler(Sampler[int]):
    """Samples in an order that is a function of (seed, epoch), each as an `Index`.

    Args:
        dataset: anything with a length.
        seed: another seed gives another order.
        shuffle: False for the order of the dataset; indices then still carry seed and epoch.
    """

    def __init__(self, dataset: Sized, *, seed: int, shuffle: bool = True) -> None:
        self.dataset = dataset
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of this epoch; `run.batches` does it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[int]:
        count, seed, epoch = len(self.dataset), self.seed, self.epoch
        order = np.arange(count)
        if self.shuffle:
            # Sorting random words is a permutation that depends on the raw stream alone, whatever NumPy's version.
            order = np.argsort(philox(seed, epoch, index=0, purpose=FOR_ORDER).random_raw(count), kind="stable")
        return (Index(value, seed, epoch) for value in order.tolist())
