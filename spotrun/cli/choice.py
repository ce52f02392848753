"""Which job is meant: a full id, the beginning of one, or nothing for the newest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from spotrun.cli.home import home_of
from spotrun.errors import SpecError

if TYPE_CHECKING:
    from spotrun.controller import Journal

__all__ = ["choose_job", "open_journal"]


def open_journal(ctx: typer.Context) -> Journal:
    """The journal of the chosen home; made if there is none yet."""
    from spotrun.controller import Journal

    return Journal(home_of(ctx).journal)


def choose_job(journal: Journal, wanted: str) -> str:
    """The id of the job that `wanted` means; the newest one for the empty string.

    Raises:
        SpecError: no job or several jobs fit; names them.
    """
    jobs = journal.jobs()
    if not jobs:
        raise SpecError(f"there is no job in {journal.where} yet; `spotrun launch job.yaml` submits one")
    if not wanted:
        return jobs[-1]
    fitting = [job for job in jobs if job == wanted] or [job for job in jobs if job.startswith(wanted)]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise SpecError(f"no job is called {wanted!r}; the latest are: {', '.join(jobs[-5:])}")
    raise SpecError(f"{wanted!r} fits {len(fitting)} jobs: {', '.join(fitting[-5:])}; write more of the name")
