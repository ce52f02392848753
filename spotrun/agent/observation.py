"""What the heartbeat tells of the command: its own word, or what can be seen of one that says nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from spotrun.agent.config import AgentConfig, at_least
from spotrun.agent.folder.news import FolderNews
from spotrun.agent.log import OutputLog
from spotrun.agent.mailbox import Mailbox
from spotrun.clock import Clock
from spotrun.job.message import Progress, TrainingPhase

__all__ = ["Observation"]


class Observation:
    """A training that has attached tells its progress. A command that has not is seen to run and to print: once it has
    done so for longer than a start takes, it is taken to be at work since it was started. Of one whose folder the agent
    keeps, the folder tells. Thread-safe.

    Attributes:
        folder: gives the news of the folder; None if none is kept.
    """

    def __init__(self, config: AgentConfig, *, clock: Clock, log: OutputLog) -> None:
        self._mailbox = Mailbox(config.scratch)
        self._clock = clock
        self._log = log
        self._start_s = at_least(clock, config.timing.start_s, config.timing.start_wall_s)
        self._started_at: datetime | None = None
        self._setup_at: datetime | None = None
        self._setup_until: datetime | None = None
        self._fetched = 0
        self.folder: Callable[[], FolderNews] | None = None

    def setup_began(self) -> None:
        """Says that the setup commands run from now on."""
        self._setup_at = self._clock.now()

    def setup_ended(self) -> None:
        """Says that they are over."""
        self._setup_until = self._clock.now()

    def fetched(self, count: int) -> None:
        """Says that bytes of the inputs have come: a long download is no stall."""
        self._fetched += count

    def started(self) -> None:
        """Says that the command runs from now on."""
        self._started_at = self._clock.now()

    def progress(self) -> Progress | None:
        """The progress at this moment; None before there is any: no setup, nothing fetched, the command not started."""
        news = self._of_command()
        if news is None and (self._setup_at is not None or self._fetched):
            news = self._of_preparation()
        if news is not None and self._setup_at is not None:
            news = news.model_copy(update={"setup_at": self._setup_at, "setup_until": self._setup_until})
        return news

    def _of_preparation(self) -> Progress:
        setting_up = self._setup_at is not None and self._setup_until is None
        return Progress(
            phase=TrainingPhase.SETUP if setting_up else TrainingPhase.STARTING,
            at=self._clock.now(),
            output_bytes=self._log.received + self._fetched,
        )

    def _of_command(self) -> Progress | None:
        told, started_at = self._mailbox.progress(), self._started_at
        if self.folder is not None:
            return self._of_folder(self.folder())
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

    def _of_folder(self, news: FolderNews) -> Progress | None:
        """A command is at work for as long as it runs; what of that is safe, its last commit says."""
        if news.attached_at is None:
            return None
        now = self._clock.now()
        return Progress(
            phase=news.phase,
            at=now,
            step=news.step,
            steps_here=max(0, news.step - (news.resumed_from or 0)),
            resumed_from=news.resumed_from,
            attached_at=news.attached_at,
            training_at=news.training_at,
            last_step_at=None if news.training_at is None else news.over_at or now,
            commits=news.commits,
            last_commit=news.last_commit,
            guarantee="what the script makes of its folder, which is restored as it was committed",
            warnings=news.warnings,
            output_bytes=self._log.received,
            folder_changes=news.changes,
        )
