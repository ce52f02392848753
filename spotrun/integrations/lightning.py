"""Lightning: a callback that makes `Trainer.fit` resumable.

    trainer = L.Trainer(callbacks=[SpotrunCallback()], ...)
    trainer.fit(model, loader)

What is saved is what Lightning itself would save (its loops, callbacks, the data module, the precision plugin) and what
`spotrun.attach` saves (model, optimizers by parameter name, schedulers, all randomness), at the ends of optimizer steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader

try:
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import Checkpoint
except ImportError:  # the older name of the same package
    import pytorch_lightning as pl
    from pytorch_lightning.callbacks import Checkpoint

from spotrun.checkpoint import Run, attach
from spotrun.errors import CheckpointError
from spotrun.integrations.loader import ResumableLoader

__all__ = ["SpotrunCallback"]


class SpotrunCallback(Checkpoint):
    """Saves and resumes a `Trainer.fit`.

    A plain `DataLoader` given to `fit`, or returned by `train_dataloader`, is continued exactly in the middle of an
    epoch. With several processes, or with collections of loaders, wrap them yourself in
    `spotrun.integrations.ResumableLoader`; other loaders are continued as Lightning does it.

    Args:
        options: whatever else `spotrun.attach` takes: `interval`, `keep_last`, `uri`, `name`, objects with a state.
    """

    def __init__(self, **options: Any) -> None:
        taken = {"model", "optimizer", "scheduler", "loops", "hooks", "place"} & options.keys()
        if taken:
            raise CheckpointError(f"SpotrunCallback takes {', '.join(sorted(taken))} from the trainer; leave it out")
        self._options = options
        self._run: Run | None = None
        self._loader: ResumableLoader | None = None
        self._place: Any = None  # of the loader, until there is one
        self._owed = False  # a step that was taken and not yet ended

    @property
    def run(self) -> Run | None:
        """The run, while `fit` trains."""
        return self._run

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Wraps the training loader, so that its place is kept."""
        if stage == "fit" and trainer.world_size == 1:
            self._keep_place(trainer)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restores the last commit, once model, optimizers and schedulers are built and before any loop runs."""
        self._run = attach(
            model=pl_module,
            optimizer=list(trainer.optimizers),
            scheduler=[config.scheduler for config in trainer.lr_scheduler_configs],
            loops=_State(lambda: _capture_loops(trainer), lambda state: trainer.fit_loop.load_state_dict(dict(state))),
            place=_State(self._capture_place, self._restore_place),
            hooks=_State(lambda: _capture_hooks(trainer), lambda state: _restore_hooks(trainer, state)),
            **self._options,
        )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From now on signals are heard."""
        if self._run is not None:
            self._run.begin()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Ends a step after each step of the optimizers; the last one of an epoch ends with the epoch."""
        trainer.fit_loop._restarting = False  # else schedulers that wait for a metric pass this epoch over
        if self._run is None or trainer.fit_loop._should_accumulate():
            return
        loss = outputs["loss"] if isinstance(outputs, Mapping) and "loss" in outputs else outputs
        if isinstance(loss, torch.Tensor) and loss.numel() == 1:
            self._run.log(loss=float(loss.detach()))
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._owed = True
        else:
            self._end_step()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ends the last step of the epoch, after everyone else's end of the epoch."""
        plateau = any(
            config.reduce_on_plateau and config.interval == "epoch" for config in trainer.lr_scheduler_configs
        )
        if not plateau:  # those step only after this, and not at all after a resume from here
            self._end_step(owed_only=True)

    def on_train_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Counts a last step of an epoch that could not be a boundary."""
        if self._owed and self._run is not None:
            self._owed = False
            self._run._count_step()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Makes the last state durable."""
        if self._run is not None:
            self._end_step(owed_only=True)
            self._run.close()

    def _end_step(self, *, owed_only: bool = False) -> None:
        if self._run is not None and (self._owed or not owed_only):
            self._owed = False
            self._run.step(overlap=True)

    def _keep_place(self, trainer: pl.Trainer) -> None:
        """Makes the trainer's source of training loaders give plain ones wrapped."""
        source = trainer.fit_loop._data_source
        inner = source.dataloader

        def dataloader() -> Any:
            given = inner()
            if not isinstance(given, DataLoader):
                return given
            self._loader = ResumableLoader(given)
            if self._place is not None:
                self._loader.load_state_dict(self._place)
                self._place = None
            return self._loader

        source.dataloader = dataloader

    def _capture_place(self) -> Any:
        return self._loader.state_dict() if self._loader is not None else None

    def _restore_place(self, place: Any) -> None:
        # The trainer asks for its loader later, and gives a loader its state back only in the middle of an epoch.
        self._place = place


class _State:
    """Two functions as an object with a state."""

    def __init__(self, capture: Callable[[], Any], restore: Callable[[Any], None]) -> None:
        self._capture = capture
        self._restore = restore

    def state_dict(self) -> Any:
        return self._capture()

    def load_state_dict(self, state: Any) -> None:
        self._restore(state)


def _capture_loops(trainer: pl.Trainer) -> dict[str, Any]:
    state: dict[str, Any] = trainer.fit_loop.state_dict()
    loaders = trainer.fit_loop._combined_loader
    if loaders is not None and any(isinstance(loader, ResumableLoader) for loader in loaders.flattened):
        state["state_dict"].pop("combined_loader", None)  # kept apart
    return state


def _capture_hooks(trainer: pl.Trainer) -> dict[str, Any]:
    module: dict[str, Any] = {"epoch": trainer.current_epoch, "global_step": trainer.global_step}
    trainer.lightning_module.on_save_checkpoint(module)
    others = [callback for callback in trainer.callbacks if not isinstance(callback, SpotrunCallback)]
    states = {callback.state_key: callback.state_dict() for callback in others}
    return {
        "module": module,
        "callbacks": {key: state for key, state in states.items() if state},
        "data": trainer.datamodule.state_dict() if trainer.datamodule is not None else {},
        "precision": trainer.precision_plugin.state_dict(),
    }


def _restore_hooks(trainer: pl.Trainer, state: Mapping[str, Any]) -> None:
    trainer.lightning_module.on_load_checkpoint(dict(state["module"]))
    for callback in trainer.callbacks:
        if callback.state_key in state["callbacks"]:
            callback.load_state_dict(state["callbacks"][callback.state_key])
    if trainer.datamodule is not None and state["data"]:
        trainer.datamodule.load_state_dict(dict(state["data"]))
    trainer.precision_plugin.load_state_dict(dict(state["precision"]))
