"""Hugging Face Transformers: a callback that makes `Trainer.train` resumable.

    spot = SpotrunCallback()
    trainer = Trainer(..., callbacks=[spot])
    trainer.train(resume_from_checkpoint=spot.resume(trainer))

The Trainer finds its place by itself, from its own record of the steps done; everything else that it would read from
files of a checkpoint (model, optimizer, scheduler, randomness) comes from the last commit, in which nothing is pickled.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from spotrun.checkpoint import Run, attach
from spotrun.checkpoint.randomness import capture_global, restore_global
from spotrun.checkpoint.settings import read_settings
from spotrun.errors import CheckpointCorrupt, CheckpointError
from spotrun.store import CommitEntry, open_store, read_log, verify

__all__ = ["SpotrunCallback"]

_READERS = ("_load_from_checkpoint", "_load_optimizer_and_scheduler", "_load_scaler", "_load_rng_state")
_RECORD = "trainer_state.json"  # the Trainer's name for its record
_SUMS = ("_tr_loss", "_total_loss_scalar", "_globalstep_last_logged")  # of losses that are not logged yet


class SpotrunCallback(TrainerCallback):
    """Saves and resumes a `Trainer.train`; give it to the Trainer and call `resume`.

    A step ends when the next one begins: after its logging, evaluation and other callbacks. The order of the data and
    dropout are exact. Where the dataset or the collator draws global random numbers, those of up to two batches differ
    after a resume, because the Trainer loads ahead: give such a dataset a randomness of its own
    (`spotrun.data.PerSampleRandom`).

    Args:
        options: whatever else `spotrun.attach` takes: `interval`, `keep_last`, `uri`, `name`, objects with a state.
    """

    def __init__(self, **options: Any) -> None:
        taken = {"model", "optimizer", "scheduler", "scaler", "record"} & options.keys()
        if taken:
            raise CheckpointError(f"SpotrunCallback takes {', '.join(sorted(taken))} from the trainer; leave it out")
        self._options = options
        self._record: _Record | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._run: Run | None = None
        self._owed = False  # a step that was taken and has not ended

    @property
    def run(self) -> Run | None:
        """The run, while `train` trains."""
        return self._run

    def resume(self, trainer: Any) -> str | None:
        """What `train(resume_from_checkpoint=...)` is to be given: None for a fresh run.

        Raises:
            CheckpointError: this Trainer reads checkpoints in a way that is not known here, or none can be read.
            StoreError: the store failed.
        """
        missing = [name for name in _READERS if not callable(getattr(trainer, name, None))]
        if missing:
            raise CheckpointError(f"this Trainer has no {missing[0]}: use transformers 4.50 to 5 with this callback")
        self._record = _Record(trainer)
        text = _newest_record(self._options)
        if text is None:
            return None
        # What remains to be read from files is the record alone; the rest is restored when the training begins.
        trainer._load_from_checkpoint = trainer._load_optimizer_and_scheduler = trainer._load_scaler = _nothing
        trainer._load_rng_state = self._record.restore_randomness
        self._folder = tempfile.TemporaryDirectory(prefix="spotrun-")
        (Path(self._folder.name) / _RECORD).write_text(text)
        return self._folder.name

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, lr_scheduler: Any = None, **_: Any
    ) -> None:  # fmt: skip
        """Restores the last commit into what the Trainer has built."""
        if self._record is None:
            raise CheckpointError(
                "the callback does not know its trainer: train with trainer.train(resume_from_checkpoint=spot.resume(trainer))"
            )
        self._run = attach(
            model=model,
            optimizer=getattr(optimizer, "optimizer", optimizer),  # without Accelerate's wrapper
            scheduler=lr_scheduler,
            scaler=self._record.trainer.accelerator.scaler,
            record=self._record,
            total_steps=state.max_steps,
            **self._options,
        )
        resumed = self._run.resumed_from or 0
        if resumed != state.global_step:
            raise CheckpointError(
                f"the Trainer begins at step {state.global_step}, and the last commit is of step {resumed}: train with "
                "trainer.train(resume_from_checkpoint=spot.resume(trainer)), once for each Trainer"
            )
        if self._folder is not None:
            self._record.restore_sums()
        self._run.begin()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keeps the randomness that an epoch begins with: a resume right here draws the epoch's seed again."""
        if self._record is not None:
            self._record.epoch_began()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ends the step before."""
        self._end_step()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A step was taken; what belongs to it is not over yet."""
        self._owed = True
        if self._record is not None:
            self._record.step_taken()

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        """Passes the logged numbers on."""
        numbers = {key: value for key, value in (logs or {}).items() if isinstance(value, (int, float))}
        if self._run is not None and numbers:
            self._run.log(**numbers)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Makes the last state durable."""
        self._end_step()
        if self._run is not None:
            self._run.close()
        if self._folder is not None:
            self._folder.cleanup()

    def _end_step(self) -> None:
        if self._owed and self._run is not None:
            self._owed = False
            self._run.step(overlap=True)


class _Record:
    """What the Trainer knows of its progress, and the randomness that it wants back."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self._epoch: dict[str, Any] | None = None  # randomness at the start of an epoch that has taken no step
        self._saved: Mapping[str, Any] | None = None

    def epoch_began(self) -> None:
        self._epoch = capture_global()

    def step_taken(self) -> None:
        self._epoch = None

    def state_dict(self) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="spotrun-") as folder:
            path = Path(folder) / _RECORD
            self.trainer.state.save_to_json(str(path))  # the one form in which it is certain to come back
            text = path.read_text()
        return {
            "text": text,
            "randomness": self._epoch or capture_global(),
            "sums": {name: _plain(getattr(self.trainer, name)) for name in _SUMS if hasattr(self.trainer, name)},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._saved = state

    def restore_randomness(self, _checkpoint: Any = None) -> None:
        if self._saved is not None:
            restore_global(self._saved["randomness"])

    def restore_sums(self) -> None:
        for name, value in (self._saved["sums"] if self._saved is not None else {}).items():
            now: Any = getattr(self.trainer, name, None)
            setattr(self.trainer, name, now.new_tensor(value) if isinstance(now, torch.Tensor) else value)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, torch.Tensor) else value


def _newest_record(options: Mapping[str, Any]) -> str | None:
    """The Trainer's record in the newest commit that is whole; None if there never was a commit."""
    wanted = {name: options.get(name) for name in ("uri", "name", "interval", "keep_last")}
    store = open_store(read_settings(**wanted).place)
    commits = [entry for entry in read_log(store) if isinstance(entry, CommitEntry)]
    damaged: list[str] = []
    for entry in reversed(commits):
        try:
            manifest = verify(store, entry)
        except CheckpointCorrupt as err:
            damaged.append(str(err))
            continue
        try:
            return str(manifest.state["states"]["record"]["text"])
        except (KeyError, TypeError):
            raise CheckpointError(
                f"the commit of step {entry.step} was not made by a Trainer with this callback: give the run another name"
            ) from None
    if damaged:
        raise CheckpointError(f"none of the {len(commits)} commits of this run can be read: {damaged[0]}")
    return None


def _nothing(*_args: Any, **_options: Any) -> None:
    """Stands for reading a file: what it would restore comes from the commit."""
