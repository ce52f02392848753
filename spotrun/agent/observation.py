"""What the heartbeat tells of the command: its own word, or what can be seen of one that says nothing."""

from __future__ import annotations

from datetime import datetime

from spotrun.agent.config import AgentConfig, at_least
from spotrun.agent.log import OutputLog
from spotrun.agent.mailbox import Mailbox
from spotrun.clock import Clock
from spotrun.job.message import Progress, TrainingPhase

__all__ = ["Observation"]


class Observation:
    """A training that has attached tells its progress. A command that has not is seen to run and to print: once it has
    done so for longer than a start takes, it is taken to be at work since it was started. Thread-safe."""

    def __init__(self, config: AgentConfig, *, clock: Clock, log: OutputLog) -> None:
        self._mailbox = Mailbox(config.scratch)
        self._clock = clock
        self._log = log
        self._start_s = at_least(clock, config.timing.start_s, config.timing.start_wall_s)
        self._started_at: datetime | None = None

    def started(self) -> None:
        """Says that the command runs from now on."""
        self._started_at = self._clock.now()

    def progress(self) -> Progress | None:
        """The progress at this moment; None before the command is started."""
        told, started_at = self._mailbox.progress(), self._started_at
        if told is not None or started_at is None:
            return told
        now = self._clock.now()
        at_work = (now - started_at).total_seconds() >= self._start_s
        return Progress(
            phase=TrainingPhase.TRAINING if at_work else TrainingPhase.STARTING,
            at=now,
            training_at=started_at if at_work else None,
            output_bytes=self._log.received,
        )
