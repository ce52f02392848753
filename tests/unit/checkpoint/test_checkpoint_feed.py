"""The data goes on exactly where it was: order, augmentation, and without loading what was seen."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from full_job import Killed
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, sampler

import spotrun
from spotrun.errors import CheckpointError, NotCapturable

SAMPLES, BATCH, EPOCHS = 24, 4, 3
BATCHES = SAMPLES // BATCH


class Noisy(Dataset):
    """Each sample: its index and what augmentation drew from three global generators."""

    def __init__(self) -> None:
        self.loaded = 0

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> torch.Tensor:
        self.loaded += 1
        return torch.tensor(
            [float(index), float(torch.rand(())), random.uniform(0, 1), float(np.random.rand())], dtype=torch.float64
        )


Make = Callable[[], Any]
Rows = list[list[list[float]]]


def go(make: Make, *, seed: int, die_at: int | None = None, **how: Any) -> tuple[Rows, Any, spotrun.Run]:
    """Trains in this process with everything built anew; dies in step `die_at`, after committing the one before."""
    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
    loader = make()
    rows: Rows = []
    ends: list[int] = []
    run = spotrun.attach(name="data", ends=(state := {"ends": ends}))
    with contextlib.suppress(Killed), run:
        for epoch in run.epochs(EPOCHS):
            torch.rand(1)  # what a script does before its batches
            for batch in run.batches(loader, **how):
                if run.steps_done == die_at:
                    raise Killed
                rows.append(batch.tolist())
                torch.rand(3), random.uniform(0, 1), np.random.rand()  # training draws, too
                if die_at is not None and run.steps_done == die_at - 1:
                    run.save(wait=True)
            if run.steps_done == die_at:
                raise Killed  # after the last batch, before what follows the epoch
            state["ends"].append(epoch)
            torch.rand(2)
    return rows, loader, run


def resumed(make: Make, die_at: int, **how: Any) -> tuple[Rows, Any, spotrun.Run]:
    before, _, _ = go(make, seed=5, die_at=die_at, **how)
    after, loader, run = go(make, seed=6, **how)
    assert run.resumed_from == die_at
    return before[:die_at] + after, loader, run


def straight(make: Make, tmp_path: Path, **how: Any) -> Rows:
    (tmp_path / "straight").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path / "straight")
        return go(make, seed=5, **how)[0]


def order(rows: Rows) -> list[list[float]]:
    return [[sample[0] for sample in batch] for batch in rows]


class Halves(Sampler):
    """A sampler of a user: odd ones first, in an order from Python's global generator."""

    def __len__(self) -> int:
        return SAMPLES

    def __iter__(self) -> Iterator[int]:
        indices = list(range(SAMPLES))
        random.shuffle(indices)
        return iter(sorted(indices, key=lambda index: index % 2 == 0))


class OwnGenerator(Sampler):
    """A sampler of a user that draws each index anew, from a generator of its own."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(random.randrange(100))

    def __len__(self) -> int:
        return SAMPLES

    def __iter__(self) -> Iterator[int]:
        return (int(self.rng.integers(SAMPLES)) for _ in range(SAMPLES))


class Greedy(Sampler):
    """A sampler of a user that draws each index anew from global randomness."""

    def __len__(self) -> int:
        return SAMPLES

    def __iter__(self) -> Iterator[int]:
        return (random.randrange(SAMPLES) for _ in range(SAMPLES))


class Pairs(Sampler):
    """A batch sampler of a user."""

    def __len__(self) -> int:
        return BATCHES

    def __iter__(self) -> Iterator[list[int]]:
        indices = torch.randperm(SAMPLES).tolist()
        return (indices[start : start + BATCH] for start in range(0, SAMPLES, BATCH))


LOADERS: dict[str, Make] = {
    "sequential": lambda: DataLoader(Noisy(), batch_size=BATCH),
    "shuffled": lambda: DataLoader(Noisy(), batch_size=BATCH, shuffle=True),
    "generator given": lambda: DataLoader(
        Noisy(), batch_size=BATCH, shuffle=True, generator=torch.Generator().manual_seed(random.randrange(100))
    ),
    "with replacement": lambda: DataLoader(
        data := Noisy(), batch_size=BATCH, sampler=sampler.RandomSampler(data, replacement=True)
    ),
    "weighted": lambda: DataLoader(
        Noisy(), batch_size=BATCH, sampler=sampler.WeightedRandomSampler(range(1, SAMPLES + 1), SAMPLES)
    ),
    "subset": lambda: DataLoader(Noisy(), batch_size=BATCH, sampler=sampler.SubsetRandomSampler(range(SAMPLES))),
    "own sampler": lambda: DataLoader(Noisy(), batch_size=BATCH, sampler=Halves()),
    "own generator": lambda: DataLoader(Noisy(), batch_size=BATCH, sampler=OwnGenerator()),
    "own batch sampler": lambda: DataLoader(Noisy(), batch_sampler=Pairs()),
    "counter": lambda: DataLoader(data := Noisy(), batch_size=BATCH, sampler=spotrun.data.CounterSampler(data, seed=3)),
}


@pytest.mark.parametrize("die_at", [1, 4, BATCHES, BATCHES + 2, 2 * BATCHES, 3 * BATCHES - 1])
@pytest.mark.parametrize("kind", LOADERS)
def test_in_one_process_everything_is_exact(tmp_path: Path, kind: str, die_at: int) -> None:
    """Mid-epoch, at the end of an epoch before the code after it, in a later epoch: order and augmentation."""
    rows, _, run = resumed(LOADERS[kind], die_at)
    assert rows == straight(LOADERS[kind], tmp_path)
    assert run.guarantee == "data order and randomness are exact to the bit"


def test_skipped_batches_are_not_loaded() -> None:
    """Resuming costs no data loading, however late in the epoch."""
    _, loader, _ = resumed(LOADERS["shuffled"], BATCHES + 5)
    assert loader.dataset.loaded == EPOCHS * SAMPLES - (BATCHES + 5) * BATCH


def test_single_samples_without_batches_are_exact(tmp_path: Path) -> None:
    """batch_size=None: the dataset makes its own batches."""

    def make() -> Any:
        return DataLoader(Noisy(), batch_size=None, shuffle=True)

    before, _, _ = go(make, seed=5, die_at=7)
    after, loader, _ = go(make, seed=6)
    assert before[:7] + after == straight(make, tmp_path)
    assert loader.dataset.loaded == EPOCHS * SAMPLES - 7


@pytest.mark.parametrize("die_at", [3, BATCHES, BATCHES + 2])
def test_with_workers_the_order_is_exact(tmp_path: Path, die_at: int) -> None:
    """And the run says that randomness inside the workers is not."""

    def make() -> Any:
        return DataLoader(Noisy(), batch_size=BATCH, shuffle=True, num_workers=2)

    rows, _, run = resumed(make, die_at)
    assert order(rows) == order(straight(make, tmp_path))
    assert "randomness inside the 2 loader workers starts anew" in run.guarantee


@pytest.mark.parametrize("die_at", [3, BATCHES + 2])
def test_replay_through_the_workers_is_exact(tmp_path: Path, die_at: int) -> None:
    """The finished batches are loaded again by the same workers and dropped."""

    def make() -> Any:
        return DataLoader(Noisy(), batch_size=BATCH, shuffle=True, num_workers=2)

    rows, _, run = resumed(make, die_at, replay=True)
    assert rows == straight(make, tmp_path, replay=True)
    assert run.guarantee == "data order and randomness are exact to the bit"


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of two cores
def test_per_sample_randomness_is_exact_for_any_number_of_workers(tmp_path: Path) -> None:
    """Saved with two workers, resumed with three, compared with none."""
    workers = iter([2, 3, 0])

    def make() -> Any:
        data = spotrun.data.PerSampleRandom(Noisy(), seed=9)
        return DataLoader(
            data, batch_size=BATCH, sampler=spotrun.data.CounterSampler(data, seed=3), num_workers=next(workers)
        )

    rows, _, run = resumed(make, BATCHES + 2)
    assert rows == straight(make, tmp_path)
    assert run.guarantee == "data order and randomness are exact to the bit"


def test_persistent_workers_are_told_and_the_order_stays_exact(tmp_path: Path) -> None:
    """Their randomness would run on from epoch to epoch; they are started anew instead, and the run says so."""

    def make() -> Any:
        return DataLoader(Noisy(), batch_size=BATCH, shuffle=True, num_workers=1, persistent_workers=True)

    rows, _, run = resumed(make, BATCHES + 2)
    assert order(rows) == order(straight(make, tmp_path))
    assert any("persistent_workers" in warning for warning in run._parts.reporter.progress.warnings)


def test_a_sampler_that_draws_as_it_goes_is_told_by_name() -> None:
    """Its order hangs on what the training draws in between; nobody can repeat that without the training."""
    _, _, run = go(lambda: DataLoader(Noisy(), batch_size=BATCH, sampler=Greedy()), seed=5, die_at=3)
    assert any("Greedy draws from global randomness" in warning for warning in run._parts.reporter.progress.warnings)
    assert run.guarantee == "data order is not exact: Greedy draws from global randomness"


def test_a_sequence_of_batches_goes_on_at_its_index(tmp_path: Path) -> None:
    """No DataLoader at all."""
    batches = [torch.full((1, 1), float(number)) for number in range(BATCHES)]
    rows, _, _ = resumed(lambda: batches, BATCHES + 2)
    assert rows == straight(lambda: batches, tmp_path)


class Stream(IterableDataset):
    """An endless source that knows its place."""

    def __init__(self) -> None:
        self.at = 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        while self.at < SAMPLES:
            self.at += 1
            yield torch.tensor([float(self.at), float(torch.rand(()))])
        self.at = 0

    def state_dict(self) -> Any:
        return {"at": self.at}

    def load_state_dict(self, state: Any) -> None:
        self.at = state["at"]


@pytest.mark.parametrize("die_at", [4, BATCHES, BATCHES + 2])
def test_a_stream_that_knows_its_place_goes_on_there(tmp_path: Path, die_at: int) -> None:
    """An iterable dataset with state_dict, in this process."""

    def make() -> Any:
        return DataLoader(Stream(), batch_size=BATCH)

    rows, _, run = resumed(make, die_at)
    assert rows == straight(make, tmp_path)
    assert "by Stream itself" in run.guarantee


class Blind(IterableDataset):
    def __iter__(self) -> Iterator[torch.Tensor]:
        return (torch.tensor([float(number)]) for number in range(SAMPLES))


def test_a_stream_that_does_not_know_its_place_is_read_again_if_asked(tmp_path: Path) -> None:
    """replay=True, and the run says what that is worth."""

    def make() -> Any:
        return DataLoader(Blind(), batch_size=BATCH)

    rows, _, run = resumed(make, 4, replay=True)
    assert rows == straight(make, tmp_path, replay=True)
    assert "read again" in run.guarantee


class OwnLoader:
    """What torchdata's StatefulDataLoader is to us: iterable, with a state of its own."""

    def __init__(self) -> None:
        self.at = 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        while self.at < BATCHES:
            self.at += 1
            yield torch.full((1, 1), float(self.at))
        self.at = 0

    def state_dict(self) -> Any:
        return {"at": self.at}

    def load_state_dict(self, state: Any) -> None:
        self.at = state["at"]


def test_a_loader_that_knows_its_place_goes_on_there(tmp_path: Path) -> None:
    """Its own state is saved and restored."""
    rows, _, _ = resumed(OwnLoader, BATCHES + 2)
    assert rows == straight(OwnLoader, tmp_path)


@pytest.mark.parametrize(
    ("loader", "why"),
    [
        (lambda: DataLoader(Blind(), batch_size=2), "iterable dataset Blind without state_dict"),
        (lambda: DataLoader(Stream(), batch_size=2, num_workers=1), "iterable dataset Stream in worker processes"),
        (lambda: iter([1, 2]), "can be iterated only once"),
        ({1: 2}.keys, r"has no state_dict\(\)"),
    ],
)
def test_what_cannot_be_continued_is_refused_by_name(loader: Make, why: str) -> None:
    """With advice, before the first batch."""
    run = spotrun.attach(name="refused")
    with pytest.raises(NotCapturable, match=why), run:
        next(run.batches(loader()))


def test_a_loader_given_to_attach_is_refused_there() -> None:
    """Before anything is claimed; and a good one's guarantee is known at once."""
    with pytest.raises(NotCapturable, match="iterable dataset Blind"):
        spotrun.attach(name="early", loader=DataLoader(Blind(), batch_size=2))
    run = spotrun.attach(name="early", loader=DataLoader(Noisy(), batch_size=2, num_workers=2))
    assert "starts anew" in run.guarantee
    run.close()


def test_another_loader_in_the_middle_of_an_epoch_is_refused() -> None:
    """A changed batch size or dataset would train on other data than the run says."""
    go(LOADERS["shuffled"], seed=5, die_at=3)
    with pytest.raises(CheckpointError, match="batch size was 4 when saved and is 8 now"):
        go(lambda: DataLoader(Noisy(), batch_size=8, shuffle=True), seed=6)


def test_another_loader_between_epochs_is_told() -> None:
    """Growing a dataset between epochs is legal, and said."""
    run = spotrun.attach(name="grows")
    with contextlib.suppress(Killed), run:
        for epoch in run.epochs(3):
            if epoch == 1:
                raise Killed
            list(run.batches(DataLoader(Noisy(), batch_size=4)))
            run.save(wait=True)
    run = spotrun.attach(name="grows")
    assert [len(list(run.batches(DataLoader(Noisy(), batch_size=6)))) for _ in run.epochs(3)] == [4, 4]
    warnings = run._parts.reporter.progress.warnings
    assert warnings == ("the loader is not what it was: batch size was 4 when saved and is 6 now",)


def twice_in_one_epoch(run: spotrun.Run) -> None:
    for _ in run.epochs(1):
        list(run.batches([1]))
        list(run.batches([2]))


def twice_without_epochs(run: spotrun.Run) -> None:
    for _ in range(2):
        list(run.batches([1]))


def step_inside(run: spotrun.Run) -> None:
    for _ in run.batches([1]):
        run.step()


def endless(run: spotrun.Run) -> None:
    next(run.epochs())


def steps_inside(run: spotrun.Run) -> None:
    for _ in run.epochs(1):
        next(run.steps(3))


@pytest.mark.parametrize(
    ("loop", "advice"),
    [
        (twice_in_one_epoch, "second time in one epoch"),
        (twice_without_epochs, r"write `for epoch in run\.epochs"),
        (step_inside, "each body is a step already"),
        (endless, "no end"),
        (steps_inside, r"run\.steps inside run\.epochs"),
    ],
)
def test_misplaced_loops_are_refused_with_advice(loop: Callable[[spotrun.Run], None], advice: str) -> None:
    """What a resume could not find again."""
    run = spotrun.attach(name="loops")
    with pytest.raises(CheckpointError, match=advice), run:
        loop(run)
