"""The Trainer of Hugging Face, stopped and gone on with: the same logs, evaluations and weights as without a stop."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers")
    from spotrun.integrations.transformers import SpotrunCallback

from spotrun.errors import CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore")


class Tokens(Dataset[Any]):
    """Twenty-two short sequences."""

    def __len__(self) -> int:
        return 22

    def __getitem__(self, index: int) -> Any:
        ids = torch.tensor([(index * 7 + place) % 50 for place in range(12)])
        return {"input_ids": ids, "labels": ids}


class Watching(transformers.TrainerCallback):
    """Keeps what is logged, and stops the process's training at a step."""

    def __init__(self, stop_at: int) -> None:
        self.stop_at = stop_at
        self.logged: dict[tuple[int, str], float] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        for name in ("loss", "eval_loss", "learning_rate", "grad_norm"):
            if name in logs:
                self.logged[state.global_step, name] = float(logs[name])


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(place: Path, stop_at: int = 0, *, accumulate: int = 1, **options: Any) -> tuple[Any, Any, Any]:
    """A trainer with the callback, the callback, and who watches."""
    torch.manual_seed(3)
    config = transformers.GPT2Config(
        n_layer=1, n_head=2, n_embd=16, vocab_size=50, n_positions=16, bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config)
    arguments = transformers.TrainingArguments(
        str(place / "out"),
        num_train_epochs=3,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=accumulate,
        logging_steps=2,
        eval_strategy="steps",
        eval_steps=4,
        learning_rate=1e-2,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    watching = Watching(stop_at)
    spot = SpotrunCallback(uri=place.as_uri(), name="tiny", **options)
    trainer = transformers.Trainer(
        model=model, args=arguments, train_dataset=Tokens(), eval_dataset=Tokens(), callbacks=[watching, spot]
    )
    return trainer, spot, watching


def train(place: Path, stop_at: int = 0, *, accumulate: int = 1) -> tuple[dict[Any, float], Any, int | None]:
    """What was logged, the final state, and the exit code if it was stopped."""
    trainer, spot, watching = build(place, stop_at, accumulate=accumulate)
    code = None
    try:
        trainer.train(resume_from_checkpoint=spot.resume(trainer))
    except SystemExit as ended:
        code = int(ended.code or 0)
    return watching.logged, {name: value.clone() for name, value in trainer.model.state_dict().items()}, code


@pytest.mark.parametrize(("accumulate", "stops"), [(1, (1, 5, 6, 9, 12)), (2, (2, 3, 5))])
def test_a_training_that_is_stopped_goes_on_to_the_same_bits(
    tmp_path: Path, accumulate: int, stops: tuple[int, ...]
) -> None:
    """Before and after logging and evaluation, in the middle and at the end of epochs."""
    straight, expected, _ = train(tmp_path / "straight", accumulate=accumulate)
    for stop_at in stops:
        place = tmp_path / f"stopped-{stop_at}"
        first, _, code = train(place, stop_at, accumulate=accumulate)
        assert code == 143
        rest, state, _ = train(place, accumulate=accumulate)
        assert {**first, **rest} == straight
        for name, value in expected.items():
            assert torch.equal(state[name], value), name


def test_a_trainer_that_was_not_told_where_to_begin_is_refused(tmp_path: Path) -> None:
    """It would begin at step 0 with the weights of another step."""
    trainer, _, _ = build(tmp_path)
    with pytest.raises(CheckpointError, match=r"spot\.resume\(trainer\)"):
        trainer.train()
    train(tmp_path, 3)
    trainer, spot, _ = build(tmp_path)
    spot.resume(trainer)
    with pytest.raises(CheckpointError, match="begins at step 0, and the last commit is of step 3"):
        trainer.train()


def test_the_commit_before_is_used_when_the_newest_is_damaged(tmp_path: Path) -> None:
    """The trainer and its model begin at the same, older step."""
    straight, expected, _ = train(tmp_path / "straight")
    place = tmp_path / "damaged"
    train(place, 3)
    train(place, 5)
    manifests = sorted((place / "tiny" / "manifests").iterdir())
    manifests[-1].write_bytes(b"{}")
    rest, state, _ = train(place)
    assert min(step for step, _ in rest) == 4
    assert rest.items() <= straight.items()
    assert all(torch.equal(state[name], value) for name, value in expected.items())
