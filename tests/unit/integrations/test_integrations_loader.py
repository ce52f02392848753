"""A loader that keeps its place, for trainers that iterate by themselves."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from spotrun.errors import NotCapturable
from spotrun.integrations import ResumableLoader


class Noisy(Dataset[Any]):
    """Ten samples with noise of torch and Python."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Any:
        return index + torch.rand(1) + random.uniform(0, 1)


def loader() -> ResumableLoader:
    return ResumableLoader(DataLoader(Noisy(), batch_size=3, shuffle=True))


def seeded() -> None:
    torch.manual_seed(5)
    random.seed(5)


def all_batches(source: ResumableLoader, passes: int) -> list[list[float]]:
    """Values of all batches, with a draw of the trainer's own after each."""
    found = []
    for _ in range(passes):
        for batch in source:
            found.append([*batch.flatten().tolist(), float(torch.rand(()))])
    return found


@pytest.mark.parametrize("done", range(1, 12))
def test_another_loader_goes_on_with_the_batches_and_the_randomness_of_the_first(done: int) -> None:
    """In the middle of passes and between them; whatever was drawn meanwhile in the other process."""
    seeded()
    straight = all_batches(loader(), 3)
    seeded()
    first, taken = loader(), []
    while len(taken) < done:
        for batch in first:
            taken.append([*batch.flatten().tolist(), float(torch.rand(()))])
            if len(taken) == done:
                break
    state = first.state_dict()
    torch.manual_seed(99)
    second = loader()
    second.load_state_dict(state)
    iter(second)  # trainers make iterators that they never use
    assert second.state_dict() == state
    rest = all_batches(second, 3 - -(-done // 4) + bool(done % 4))
    assert taken + rest == straight


def test_it_looks_like_the_loader_inside() -> None:
    """Length and attributes are those of the loader."""
    source = loader()
    assert len(source) == 4
    assert source.batch_size == 3
    assert "exact" in source.guarantee
    with pytest.raises(AttributeError):
        source.nothing  # noqa: B018


def test_what_cannot_be_continued_is_refused() -> None:
    """An iterator cannot be begun again."""
    with pytest.raises(NotCapturable):
        ResumableLoader(iter([1, 2]))
