"""Where a user's jobs are remembered: `--home`, else SPOTRUN_HOME, else ~/.spotrun."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import typer

__all__ = ["Home", "home_of"]


@dataclass(frozen=True, slots=True)
class Home:
    """The folder that holds the journal, the local provider's machines and, without a checkpoint URI, the runs."""

    path: Path

    @property
    def journal(self) -> Path:
        """The journal's database file."""
        return self.path / "journal.db"


def home_of(ctx: typer.Context) -> Home:
    """The home that the main command's options chose."""
    home = ctx.find_object(Home)
    assert home is not None, "the main callback sets the home"
    return home
