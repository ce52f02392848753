"""Hugging Face Accelerate: `attach` for loops of one's own on prepared objects.

model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
run = attach(accelerator)
for epoch in run.epochs(3):
    for batch in run.batches(loader):
        ...  # unchanged
"""

from __future__ import annotations

from typing import Any

from spotrun.checkpoint import Run
from spotrun.checkpoint import attach as attach_parts
from spotrun.errors import CheckpointError

__all__ = ["attach"]


def attach(accelerator: Any, **options: Any) -> Run:
    """`spotrun.attach` with everything that the accelerator has prepared or has registered for checkpointing.

    Args:
        accelerator: an `accelerate.Accelerator`, after `prepare`.
        options: whatever else `spotrun.attach` takes: `interval`, `keep_last`, `uri`, `name`, objects with a state.

    Raises:
        CheckpointError: nothing was prepared yet, or the last commit does not fit.
    """
    taken = {"model", "optimizer", "scheduler", "scaler", "registered", "accumulation"} & options.keys()
    if taken:
        raise CheckpointError(f"{', '.join(sorted(taken))} is taken from the accelerator; leave it out")
    if not accelerator._models:
        raise CheckpointError("nothing was prepared yet: call accelerator.prepare(model, optimizer, ...) before attach")
    return attach_parts(
        model={
            f"model{number}": model for number, model in enumerate(map(accelerator.unwrap_model, accelerator._models))
        },
        optimizer=[optimizer.optimizer for optimizer in accelerator._optimizers],
        scheduler=[scheduler.scheduler for scheduler in accelerator._schedulers],
        scaler=accelerator.scaler,
        registered=list(accelerator._custom_objects),
        accumulation=_Accumulation(accelerator),
        **options,
    )


class _Accumulation:
    """How far `accelerator.accumulate` has come between two steps of the optimizer."""

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator

    def state_dict(self) -> dict[str, Any]:
        return {"step": self._accelerator.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._accelerator.step = state["step"]
