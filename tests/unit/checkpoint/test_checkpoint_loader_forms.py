"""Loaders that keep their own place, and loaders with workers: interrupted at every step, with what holds for each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from full_job import digest
from loop_forms import SAMPLES, Counting, Epochs, Noisy
from torch.utils.data import DataLoader, IterableDataset
from torchdata.stateful_dataloader import StatefulDataLoader

import spotrun
from spotrun.checkpoint import hold
from spotrun.errors import CheckpointError
from spotrun.store import MemoryStore

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # by torch, called by torchdata

STEPS = 9  # three epochs of three batches


@pytest.fixture(autouse=True)
def _in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    stores: dict[str, MemoryStore] = defaultdict(MemoryStore)
    monkeypatch.setattr(hold, "open_store", lambda uri, *_, **__: stores[uri])


def exact_at(form: type[Epochs], steps: list[int], place: Path) -> str:
    """Checks that every interruption of this form ends with the same bits; gives the guarantee that it is told."""
    reference = form(seed=1)
    reference.go(place / "straight")
    guarantee = ""
    for die_at in steps:
        broken = form(seed=1)
        broken.go(place / str(die_at), die_at=die_at)
        other = form(seed=100 + die_at)
        run = other.go(place / str(die_at))
        assert run.resumed_from == die_at
        assert digest(broken.rows + other.rows) == digest(reference.rows), f"interrupted at {die_at}"
        assert other.digests() == reference.digests(), f"interrupted at {die_at}"
        guarantee = run.guarantee
    return guarantee


class OwnPlace(Epochs):
    """torchdata's loader, in this process."""

    def make(self) -> Any:
        return StatefulDataLoader(Noisy(), batch_size=4, shuffle=True)


class OwnPlaceOfAStream(Epochs):
    """The same over an iterable dataset."""

    def make(self) -> Any:
        return StatefulDataLoader(Counting(), batch_size=4)


@pytest.mark.parametrize("form", [OwnPlace, OwnPlaceOfAStream])
def test_a_loader_that_keeps_its_place_is_exact_in_one_process(form: type[Epochs], tmp_path: Path) -> None:
    """Also at the ends of epochs, where such loaders are known to lose one."""
    told = exact_at(form, list(range(1, STEPS)), tmp_path)
    assert told == "the position is saved and restored by StatefulDataLoader itself"


class PerSample(Epochs):
    """Augmentation that depends on nothing but the sample."""

    workers = 2
    more_options: ClassVar[dict[str, Any]] = {}

    def make(self) -> Any:
        data = spotrun.data.PerSampleRandom(Noisy(), seed=5)
        sampler = spotrun.data.CounterSampler(data, seed=6)
        return DataLoader(data, batch_size=4, sampler=sampler, num_workers=self.workers, **self.more_options)


class Persistent(PerSample):
    """With workers that live on from epoch to epoch."""

    more_options: ClassVar[dict[str, Any]] = {"persistent_workers": True, "prefetch_factor": 3}


class OwnPlaceInWorkers(PerSample):
    """torchdata's loader with workers."""

    def make(self) -> Any:
        data = spotrun.data.PerSampleRandom(Noisy(), seed=5)
        return StatefulDataLoader(
            data, batch_size=4, sampler=spotrun.data.CounterSampler(data, seed=6), num_workers=self.workers
        )


@pytest.mark.parametrize("form", [PerSample, Persistent])
def test_workers_are_exact_with_randomness_by_sample(form: type[Epochs], tmp_path: Path) -> None:
    """In an epoch, at its end, in the last one; persistent workers too, which are started anew for each epoch."""
    assert exact_at(form, [2, 3, 7], tmp_path) == "data order and randomness are exact to the bit"


def test_a_loader_of_its_own_place_is_exact_in_workers_with_randomness_by_sample(tmp_path: Path) -> None:
    """Its own state holds the place only."""
    told = exact_at(OwnPlaceInWorkers, [2, 3, 7], tmp_path)
    assert told.startswith("the position is saved and restored by StatefulDataLoader itself; randomness inside its 2")


class Split(IterableDataset):
    """A source without a state that is shared out among workers."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        info = torch.utils.data.get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        return (torch.full((4,), float(number)) for number in range(first, SAMPLES, step))


class Replayed(Epochs):
    """Read again from its beginning, in workers."""

    def train(self, run: spotrun.Run) -> None:
        for _ in run.epochs(3):
            for x in run.batches(DataLoader(Split(), batch_size=3, num_workers=2), replay=True):
                self.begin(run)
                self.step(x)
                self.end(run)


def test_a_source_without_a_state_in_workers_is_exact_by_reading_it_again(tmp_path: Path) -> None:
    """And the run says on what that hangs."""
    assert "read again" in exact_at(Replayed, [2, 4, 7], tmp_path)


class Shuffled(Epochs):
    """Global randomness in workers."""

    def make(self) -> Any:
        return DataLoader(Noisy(), batch_size=4, shuffle=True, num_workers=2, persistent_workers=True)


def test_what_is_not_exact_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Workers that draw from global randomness: the order holds, their randomness starts anew."""
    run = Shuffled(seed=1).go(tmp_path)
    assert "randomness inside the 2 loader workers starts anew after a resume" in run.guarantee
    assert "persistent_workers=True keeps randomness" in capfd.readouterr().err


class SideBySide(Epochs):
    """A loader with workers beside one without."""

    def make(self) -> Any:
        return PerSample.make(self)  # type: ignore[arg-type]  # which needs no more than `workers` and its options

    workers = 1
    more_options: ClassVar[dict[str, Any]] = {}

    def build(self) -> None:
        super().build()
        self.other = DataLoader(Noisy(9), batch_size=3, shuffle=True)

    def train(self, run: spotrun.Run) -> None:
        for _ in run.epochs(2):
            for x, y in run.batches(self.loader, self.other):
                self.begin(run)
                self.step(torch.cat([x, y]))
                self.end(run)


def test_loaders_side_by_side_may_have_workers(tmp_path: Path) -> None:
    """Each goes on in its own way."""
    assert exact_at(SideBySide, [1, 3, 5], tmp_path) == "data order and randomness are exact to the bit"


def test_another_number_of_loaders_in_the_middle_of_a_pass_is_refused(tmp_path: Path) -> None:
    """By their kind."""
    SideBySide(seed=1).go(tmp_path, die_at=2)
    form = SideBySide(seed=1)
    with pytest.raises(CheckpointError, match="its kind was several loaders when saved and is DataLoader now"):
        with form.attach(tmp_path) as run:
            Epochs.train(form, run)
