"""Lightning's Trainer, stopped after every batch and gone on with: the same losses and weights as without a stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

pl = pytest.importorskip("lightning.pytorch")

from spotrun.errors import CheckpointError  # noqa: E402
from spotrun.integrations.lightning import SpotrunCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

Losses = list[tuple[int, float]]


class Numbers(Dataset[Any]):
    """Twenty samples with random noise."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Any:
        return torch.full((4,), float(index)) + 0.1 * torch.randn(4), torch.tensor([float(index % 3)])


class Small(pl.LightningModule):
    """A net with all kinds of state; it stops its process's training after batch `stop_after`."""

    def __init__(self, losses: Losses, stop_after: int, *, plateau: bool = False) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.3), torch.nn.Linear(8, 1)
        )
        self.losses, self.stop_after, self.plateau = losses, stop_after, plateau
        self.taken = 0

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        loss: torch.Tensor = (self.net(batch[0]) - batch[1]).square().mean()
        self.losses.append((self.trainer.fit_loop.total_batch_idx + 1, float(loss)))
        self.taken += 1
        if self.taken == self.stop_after:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("validation", (self.net(batch[0]) - batch[1]).square().mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        if self.plateau:
            scheduler: Any = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
            return [optimizer], [{"scheduler": scheduler, "interval": "epoch", "monitor": "validation"}]
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 3), "interval": "step"}]


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def fit(
    place: Path, stop_after: int = 0, *, accumulate: int = 1, plateau: bool = False
) -> tuple[Losses, Any, int | None]:
    """Losses by batch number, the final state, and the exit code if it was stopped."""
    pl.seed_everything(3, verbose=False)
    losses: Losses = []
    model = Small(losses, stop_after, plateau=plateau)
    trainer = pl.Trainer(
        max_epochs=3,
        callbacks=[SpotrunCallback(uri=place.as_uri(), name="small")],
        accumulate_grad_batches=accumulate,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    code = None
    try:
        trainer.fit(model, DataLoader(Numbers(), batch_size=4, shuffle=True), DataLoader(Numbers(), batch_size=10))
    except SystemExit as ended:
        code = int(ended.code or 0)
    return losses, {name: value.clone() for name, value in model.state_dict().items()}, code


def assert_same(interrupted: Losses, state: Any, straight: Losses, expected: Any) -> None:
    """All batches once or more, each with the loss of the straight run; the same bits at the end."""
    assert dict(interrupted) == dict(straight)
    for name, value in expected.items():
        assert torch.equal(state[name], value), name


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_fit_that_is_stopped_goes_on_to_the_same_bits(tmp_path: Path, accumulate: int) -> None:
    """In the middle and at the end of epochs, in the middle of an accumulation, and twice in a row."""
    straight, expected, _ = fit(tmp_path / "straight", accumulate=accumulate)
    assert len(straight) == 15
    for stop_after in (2, 4, 5, 6, 10, 13):
        place = tmp_path / f"stopped-{stop_after}"
        first, _, code = fit(place, stop_after, accumulate=accumulate)
        assert code == 143
        second, _, code = fit(place, 3, accumulate=accumulate)
        rest, state, _ = fit(place, accumulate=accumulate) if code == 143 else ([], _, None)
        assert_same([*first, *second, *rest], state, straight, expected)


def test_a_scheduler_that_waits_for_a_metric_sees_every_epoch(tmp_path: Path) -> None:
    """It steps after everyone's end of the epoch, where a resume would pass it over; so no save is made there."""
    straight, expected, _ = fit(tmp_path / "straight", plateau=True)
    for stop_after in (5, 10):
        place = tmp_path / f"stopped-{stop_after}"
        first, _, code = fit(place, stop_after, plateau=True)
        assert code == 143
        rest, state, _ = fit(place, plateau=True)
        assert_same([*first, *rest], state, straight, expected)


def test_a_fit_that_is_over_trains_no_more(tmp_path: Path) -> None:
    """The last state is committed, and a second start finds nothing to do."""
    straight, expected, _ = fit(tmp_path)
    assert len(straight) == 15
    again, state, code = fit(tmp_path)
    assert (again, code) == ([], None)
    assert_same(straight, state, straight, expected)


def test_what_the_trainer_gives_is_not_taken_from_the_user(tmp_path: Path) -> None:
    """A second model would be saved beside the trainer's, and never restored into it."""
    with pytest.raises(CheckpointError, match="leave it out"):
        SpotrunCallback(model=torch.nn.Linear(1, 1))
