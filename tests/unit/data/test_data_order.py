"""Order and randomness are functions of seed, epoch and sample, in any process."""

from __future__ import annotations

import copy
import pickle
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from spotrun.data import CounterSampler, Index, PerSampleRandom, rng


class Drawing(Dataset):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> list[float]:
        return [float(index), random.uniform(0, 1), float(np.random.rand()), float(torch.rand(()))]


class Asking(Dataset):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> list[float]:
        return [float(index), float(rng(index).normal())]


def test_an_epoch_is_a_permutation_that_depends_on_seed_and_epoch() -> None:
    """Every sample once, in another order for another seed or epoch, in the same order for the same."""
    orders = {}
    for seed in (1, 2, -1, 2**70):
        for epoch in (0, 1):
            sampler = CounterSampler(range(100), seed=seed)
            sampler.set_epoch(epoch)
            assert sorted(sampler) == list(range(100))
            assert list(sampler) == list(sampler)
            orders[seed, epoch] = tuple(sampler)
    assert len(set(orders.values())) == len(orders)


def test_the_order_is_the_same_for_ever() -> None:
    """Pinned, because a run may be resumed by a later version of NumPy."""
    assert list(CounterSampler(range(8), seed=1)) == [0, 3, 5, 2, 4, 6, 1, 7]


def test_without_shuffling_samples_come_in_order_and_know_their_epoch() -> None:
    """For evaluation with augmentation, say."""
    sampler = CounterSampler(range(3), seed=1, shuffle=False)
    sampler.set_epoch(4)
    assert [(int(index), index.seed, index.epoch) for index in sampler] == [(0, 1, 4), (1, 1, 4), (2, 1, 4)]  # type: ignore[attr-defined]


def test_an_index_is_a_number_that_travels() -> None:
    """Datasets index with it as ever; worker processes receive it whole."""
    index = Index(3, 1, 2)
    for other in (pickle.loads(pickle.dumps(index)), copy.copy(index)):
        assert (other, other.seed, other.epoch) == (3, 1, 2)
    assert "abcd"[index] == "d"


def test_a_plain_number_is_refused_with_advice() -> None:
    """It does not know its epoch, so augmentation would repeat in every epoch."""
    with pytest.raises(TypeError, match="CounterSampler"):
        rng(3)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of two cores
@pytest.mark.parametrize("workers", [0, 2, 3])
def test_samples_are_the_same_for_any_number_of_workers(workers: int) -> None:
    """Existing augmentation from global randomness, and a generator asked for by index."""

    def rows(dataset: Dataset, count: int) -> list[list[float]]:
        sampler = CounterSampler(dataset, seed=5)
        sampler.set_epoch(2)
        loader = DataLoader(dataset, batch_size=4, sampler=sampler, num_workers=count, collate_fn=list)
        return [row for batch in loader for row in batch]

    for dataset in (PerSampleRandom(Drawing(), seed=7), Asking()):
        assert rows(dataset, workers) == rows(dataset, 0)


def test_samples_differ_by_epoch_seed_and_index() -> None:
    """No two of them draw the same numbers."""
    seen = set()
    for seed in (1, 2):
        for epoch in (0, 1):
            dataset = PerSampleRandom(Drawing(), seed=seed)
            dataset.set_epoch(epoch)
            seen |= {tuple(dataset[index][1:]) for index in range(10)}
    assert len(seen) == 40
    draws = {
        float(rng(Index(index, seed, epoch)).normal()) for index in range(5) for seed in (1, 2) for epoch in (0, 1)
    }
    assert len(draws) == 20


def test_the_epoch_of_the_index_goes_first() -> None:
    """A worker's copy of the dataset may not have been told."""
    dataset = PerSampleRandom(Drawing(), seed=1)
    dataset.set_epoch(3)
    told = dataset[2]
    dataset.set_epoch(0)
    assert dataset[Index(2, 9, 3)] == told


def test_global_randomness_is_put_back() -> None:
    """Loading a sample must not disturb the training, also when it fails."""

    class Failing(Drawing):
        def __getitem__(self, index: int) -> list[float]:
            super().__getitem__(index)
            raise KeyError(index)

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    random.gauss(0, 1), np.random.randn()  # leaves a cached second number, which is part of the state
    before = (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist())
    PerSampleRandom(Drawing(), seed=1)[0]
    with pytest.raises(KeyError):
        PerSampleRandom(Failing(), seed=1)[0]
    assert (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()) == before
