"""What all processes but the first tell: nothing, since the first tells the same, and what failed in another, too."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from spotrun.checkpoint.report import Metrics, Reporter
from spotrun.clock import Clock

__all__ = ["QuietReporter"]

_WARNINGS_MAX = 50


class QuietReporter(Reporter):
    """A reporter that keeps progress and warnings to itself."""

    def __init__(self, scratch: Path, *, clock: Clock) -> None:
        super().__init__(scratch, clock=clock)
        self.metrics = _NoMetrics(scratch, clock=clock)

    def warn(self, sentence: str) -> None:
        """See `Reporter.warn`."""
        self.set(warnings=(*self.progress.warnings, sentence)[-_WARNINGS_MAX:])

    def write(self, *, now: bool = False) -> None:
        """See `Reporter.write`."""


class _NoMetrics(Metrics):
    def begin(self, step: int, brought: Sequence[str] = ()) -> None:
        pass

    def write(self, step: int, at: datetime) -> None:
        pass
