"""What all processes but the first tell: warnings on stderr. Files are the first one's, so that nobody overwrites them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from spotrun.checkpoint.report import Metrics, Reporter
from spotrun.clock import Clock

__all__ = ["QuietReporter"]


class QuietReporter(Reporter):
    """A reporter that keeps the progress to itself."""

    def __init__(self, scratch: Path, *, clock: Clock) -> None:
        super().__init__(scratch, clock=clock)
        self.metrics = _NoMetrics(scratch, clock=clock)

    def write(self, *, now: bool = False) -> None:
        """See `Reporter.write`."""


class _NoMetrics(Metrics):
    def begin(self, step: int, brought: Sequence[str] = ()) -> None:
        pass

    def add(self, **values: Any) -> None:
        super().add(**values)

    def write(self, step: int, at: datetime) -> None:
        pass
