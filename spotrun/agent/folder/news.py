"""What is told of a folder: to the heartbeat, which asks at any moment, and to the log."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from spotrun.agent.log import OutputLog
from spotrun.job.message import Commit, TrainingPhase

__all__ = ["FolderNews", "Newsroom"]

_WARNINGS_MAX = 20  # the newest; a heartbeat is read every few seconds
_TOLD_MAX = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderNews:
    """What is known of the folder at one moment.

    Attributes:
        phase: as of a training; `DONE` once the last generation of a command that succeeded is committed.
        attached_at: when the agent began to claim and restore.
        training_at: when the command was started.
        over_at: when it was over.
        step: number of the newest commit, or of the one restored.
        changes: how often something was seen to happen to the folder: a sign of life.
    """

    phase: TrainingPhase = TrainingPhase.STARTING
    attached_at: datetime | None = None
    training_at: datetime | None = None
    over_at: datetime | None = None
    step: int = 0
    resumed_from: int | None = None
    commits: int = 0
    last_commit: Commit | None = None
    changes: int = 0
    warnings: tuple[str, ...] = ()


class Newsroom:
    """Holds the newest news. Thread-safe."""

    def __init__(self, log: OutputLog) -> None:
        self._log = log
        self._lock = threading.RLock()
        self._told: set[str] = set()
        self.news = FolderNews()

    def set(self, **values: Any) -> None:
        """Replaces fields of the news."""
        with self._lock:
            self.news = replace(self.news, **values)

    def moved(self) -> None:
        """Something happened to the folder."""
        with self._lock:
            self.set(changes=self.news.changes + 1)

    def say(self, sentence: str) -> None:
        """A line in the log."""
        self._log.say(sentence)

    def warn(self, sentence: str) -> None:
        """A line in the log and in the heartbeats to come; the same sentence only once, and not thousands of them."""
        with self._lock:
            if sentence in self._told or len(self._told) >= _TOLD_MAX:
                return
            self._told.add(sentence)
            self.set(warnings=(*self.news.warnings, sentence)[-_WARNINGS_MAX:])
        self._log.say(sentence)
