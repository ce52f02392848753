"""What the parts of a job tell each other, as small JSON documents.

    training  -> agent        progress.json, metrics.jsonl in the attempt's work directory
    agent     -> training     request.json there, followed by SIGTERM to the training's main process; metrics.shipped
    agent     -> controller   heartbeat.json, exit.json, log and metrics chunks in the job's place in the store
    controller-> agent        control.json there: the lease and what is asked of the attempt

Every instant is in job time (see `spotrun.clock`), every duration in seconds of job time. Documents are replaced as
whole; a reader that finds a malformed one treats it as absent and keeps the last good one. Whoever may write into the store
may write anything: a value that nobody can reckon with (an instant without a zone or at the end of time, an endless
duration) makes a document malformed, so that one job's machine cannot take down the controller of all jobs.
"""

from __future__ import annotations

import math
from datetime import datetime
from enum import Enum
from typing import Annotated, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

__all__ = [
    "EXIT_FENCED",
    "SHIPPED",
    "Ask",
    "Commit",
    "Control",
    "Exit",
    "Heartbeat",
    "Outcome",
    "Place",
    "Progress",
    "Request",
    "TrainingPhase",
    "parse",
]


SHIPPED = "metrics.shipped"  # beside metrics.jsonl: how many of its bytes the agent has brought to the store
EXIT_FENCED = 77  # the exit code of a training that a newer attempt has fenced


_YEARS = range(1971, 9000)  # of an instant: centuries before the last one there is, as others add to it
_SECONDS_MAX = 1e10  # three centuries
_RATES = (1e-9, 1e12)


def _reckonable(at: datetime) -> datetime:
    if at.year not in _YEARS:
        raise ValueError(f"the year {at.year} is none in which anything is trained")
    return at


def _finite(number: float | None) -> float | None:
    """None for what is no number: a loss may be, and JSON has no form for it."""
    return number if number is None or math.isfinite(number) else None


def _rate(number: float | None) -> float | None:
    return number if number is None or _RATES[0] <= number <= _RATES[1] else None


_Instant = Annotated[AwareDatetime, AfterValidator(_reckonable)]
_Seconds = Annotated[float, Field(ge=-_SECONDS_MAX, le=_SECONDS_MAX, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0, lt=1 << 63)]


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    def to_bytes(self) -> bytes:
        """The document as JSON."""
        return self.model_dump_json().encode()


_D = TypeVar("_D", bound=_Document)


def parse(kind: type[_D], data: bytes) -> _D | None:
    """The document in `data`, or None when it is torn or malformed."""
    try:
        return kind.model_validate_json(data)
    except ValidationError:
        return None


class TrainingPhase(str, Enum):
    """What the training process is busy with."""

    SETUP = "setup"  # the job's setup commands run
    STARTING = "starting"  # before attach has claimed the lineage
    RESTORING = "restoring"  # reading a commit
    TRAINING = "training"
    DONE = "done"  # the loop has ended and the last commit is durable


class Commit(_Document):
    """A checkpoint that is committed: visible and durable."""

    step: _Count
    at: _Instant  # when it became visible
    captured_at: _Instant  # the step boundary whose state it holds: work before this is safe
    stall_s: _Seconds = 0.0  # how long the loop was blocked for it
    size_bytes: _Count = 0
    new_bytes: _Count | None = None  # of these, stored for this commit; the others lay there already
    on_notice: bool = False
    margin_s: _Seconds | None = None  # under a notice: from `at` to the announced end; negative if it came too late


class Progress(_Document):
    """What the training process knows of itself; cumulative over this attempt."""

    phase: TrainingPhase
    at: _Instant
    step: _Count = 0  # steps finished in the whole run, across attempts
    total_steps: _Count | None = None
    steps_here: _Count = 0  # steps finished by this attempt
    loss: Annotated[float | None, AfterValidator(_finite)] = None
    steps_per_s: Annotated[float | None, AfterValidator(_rate)] = None
    resumed_from: _Count | None = None  # step of the commit this attempt started from
    attached_at: _Instant | None = None  # attach began: start-up ends, restoring begins
    training_at: _Instant | None = None  # first batch asked for: restoring ends
    last_step_at: _Instant | None = None  # end of the last finished step
    checkpoint_stall_s: _Seconds = 0.0  # time the loop stood still for checkpoints
    commits: _Count = 0
    last_commit: Commit | None = None
    refusal: str = ""  # why the training will not go on from the last commit, which starting it again would not change
    guarantee: str = ""  # what a resume of this run restores exactly, in one sentence
    warnings: tuple[str, ...] = ()
    setup_at: _Instant | None = None  # the setup commands began; told by the agent
    setup_until: _Instant | None = None  # the last of them was over
    output_bytes: _Count | None = (
        None  # printed or fetched so far; told by the agent, of a command that told nothing itself
    )
    folder_changes: _Count | None = None  # seen so far in the folder that the agent keeps for such a command

    @property
    def told(self) -> bool:
        """Whether this is the training's own word, or what its folder says; if not, it is what the agent sees of a command
        that never attached and of which nothing is saved."""
        return self.output_bytes is None or self.folder_changes is not None


class Ask(str, Enum):
    """What is asked of a training or an attempt."""

    NONE = "none"
    SAVE = "save"  # a notice came: commit now, then go on
    STOP = "stop"  # commit, then end


class Request(_Document):
    """From the agent to the training process."""

    ask: Ask
    deadline: _Instant | None = None  # the moment the machine may be gone


class Control(_Document):
    """From the controller to the agent: the attempt may live until `lease_until`, unless asked to stop earlier."""

    attempt: int
    lease_until: _Instant
    ask: Ask = Ask.NONE
    reason: str = ""
    nodes: int | None = None  # how many machines an elastic attempt has, once that is known


class Outcome(str, Enum):
    """How the command of an attempt ended, as the agent saw it."""

    COMPLETED = "completed"  # exit code 0
    FAILED = "failed"  # another exit code, or a signal that nobody of ours sent
    STOPPED = "stopped"  # ended after being asked to, or told of a notice, without having reached its end
    FENCED = "fenced"  # a newer attempt holds the lineage
    LEASE_EXPIRED = "lease_expired"  # no controller renewed the lease
    START_FAILED = "start_failed"  # the command could not be started at all


class Exit(_Document):
    """The agent's last word on an attempt."""

    attempt: int
    outcome: Outcome
    at: _Instant
    exit_code: int | None = None  # negative: killed by that signal
    tail: tuple[str, ...] = ()  # last lines of the log
    progress: Progress | None = None


class Heartbeat(_Document):
    """From the agent, at every beat."""

    attempt: int
    beat: _Count
    at: _Instant
    uploading: bool = False
    notice_deadline: _Instant | None = None
    recommended_at: _Instant | None = None  # the provider recommended to leave this machine
    progress: Progress | None = None


class Place:
    """Keys of a job's place in the store, below `<uri>/<job>/`. The lineage's own keys are in `spotrun.store`.

    Args:
        node: of several machines of an attempt, which; the first, 0, speaks for the attempt.
    """

    def __init__(self, attempt: int, *, node: int = 0) -> None:
        whole = f"attempts/{attempt:06d}"
        self.prefix = f"{whole}/nodes/{node:03d}" if node else whole
        self.heartbeat = f"{self.prefix}/heartbeat.json"
        self.control = f"{whole}/control.json"
        self.exit = f"{self.prefix}/exit.json"

    def log(self, chunk: int) -> str:
        """A piece of the command's output, in order, UTF-8 text."""
        return f"{self.prefix}/log/{chunk:08d}.txt"

    def metrics(self, chunk: int) -> str:
        """A piece of the metrics: one JSON object a line, `{"step": n, "at": iso, "loss": x, ...}`."""
        return f"{self.prefix}/metrics/{chunk:08d}.jsonl"
