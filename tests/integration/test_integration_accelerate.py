"""Loops on Hugging Face Accelerate, stopped after every batch: the same losses and weights as without a stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

accelerate = pytest.importorskip("accelerate")

from spotrun.data import PerSampleRandom  # noqa: E402
from spotrun.errors import CheckpointError  # noqa: E402
from spotrun.integrations.accelerate import attach  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


class Numbers(Dataset[Any]):
    """Twenty-two samples, with random noise if wanted."""

    def __init__(self, noise: float) -> None:
        self.noise = noise

    def __len__(self) -> int:
        return 22

    def __getitem__(self, index: int) -> Any:
        value = torch.full((4,), float(index))
        return value + self.noise * torch.randn(4) if self.noise else value, torch.tensor([float(index % 3)])


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def train(place: Path, stop_after: int = 0, *, noisy: bool = False) -> tuple[dict[int, float], Any, int | None]:
    """Losses by step, the final state, and the exit code if it was stopped."""
    torch.manual_seed(3)
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model: Any = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.3), torch.nn.Linear(8, 1))
    optimizer: Any = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler: Any = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    dataset: Any = PerSampleRandom(Numbers(0.1), seed=1) if noisy else Numbers(0.0)
    loader: Any = DataLoader(dataset, batch_size=4, shuffle=True)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    losses, code = {}, None
    try:
        run = attach(accelerator, uri=place.as_uri(), name="small")
        for _ in run.epochs(3):
            for inputs, targets in run.batches(loader):
                with accelerator.accumulate(model):
                    loss = (model(inputs) - targets).square().mean()
                    accelerator.backward(loss)
                    optimizer.step()
                    scheduler.step()
                    optimizer.zero_grad()
                losses[run.steps_done + 1] = float(loss)
                if run.steps_done + 1 == stop_after:
                    os.kill(os.getpid(), signal.SIGTERM)
    except SystemExit as ended:
        code = int(ended.code or 0)
    return losses, {name: value.clone() for name, value in model.state_dict().items()}, code


@pytest.mark.parametrize("noisy", [False, True])
def test_a_loop_that_is_stopped_goes_on_to_the_same_bits(tmp_path: Path, noisy: bool) -> None:
    """In the middle of an accumulation too, and with noise that each sample draws for itself."""
    straight, expected, _ = train(tmp_path / "straight", noisy=noisy)
    assert len(straight) == 18
    for stop_after in (1, 2, 5, 6, 7, 12, 17):
        place = tmp_path / f"stopped-{stop_after}"
        first, _, code = train(place, stop_after, noisy=noisy)
        assert code == 143
        rest, state, _ = train(place, noisy=noisy)
        assert {**first, **rest} == straight
        assert not first.keys() & rest.keys()
        assert all(torch.equal(state[name], value) for name, value in expected.items())


def test_attach_before_prepare_is_refused(tmp_path: Path) -> None:
    """There would be nothing to save."""
    accelerate.Accelerator(cpu=True).free_memory()
    with pytest.raises(CheckpointError, match="prepare"):
        attach(accelerate.Accelerator(cpu=True))
    with pytest.raises(CheckpointError, match="leave it out"):
        attach(accelerate.Accelerator(cpu=True), model=torch.nn.Linear(1, 1))
