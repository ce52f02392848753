"""A training whose whole state is one number, and a diary of what trainings saw.

The state after step n is a digest of the state after step n - 1 and of n. So a resume from the wrong step, or from the wrong
bytes, ends in another state than the run without interruptions, which is known beforehand: `state_after`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime

__all__ = ["Acknowledged", "Diary", "Resumed", "Training", "state_after", "trained"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """What a job trains."""

    steps: int
    step_s: float
    commit_every: int  # steps


@dataclass(frozen=True, slots=True)
class Resumed:
    """An attempt began to train: behind its claim, the `claim`-th entry of the log, from `step`."""

    attempt: int
    writer: str
    claim: int
    step: int


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The training was told that this step is safe, as the `seq`-th entry of the log."""

    attempt: int
    writer: str
    seq: int
    step: int


@dataclass
class Diary:
    """What the trainings saw and were told, in order.

    Attributes:
        spans: of each machine, when its training began and until when it was seen to go on; true instants.
    """

    resumed: list[Resumed] = field(default_factory=list)
    acknowledged: list[Acknowledged] = field(default_factory=list)
    spans: dict[str, tuple[datetime, datetime]] = field(default_factory=dict)


def state_after(steps: int) -> bytes:
    """The training's state after so many steps without an interruption."""
    state = b"initial"
    for step in range(1, steps + 1):
        state = trained(state, step)
    return state


def trained(state: bytes, step: int) -> bytes:
    """The state after one step more."""
    return hashlib.blake2b(state + step.to_bytes(4, "big"), digest_size=16).digest()
