"""`spotrun stop`: save, then end."""

from __future__ import annotations

from typing import Annotated

import typer

from spotrun.cli.choice import choose_job, open_journal

__all__ = ["stop"]


def stop(
    ctx: typer.Context,
    job: Annotated[str, typer.Argument(help="A job; the newest one by default.")] = "",
) -> None:
    """Ask a job to save its state and end. Its machine is gone when `spotrun status` says Stopped."""
    from spotrun.controller import request_stop

    journal = open_journal(ctx)
    job_id = choose_job(journal, job)
    asked = request_stop(journal, job_id, by="spotrun stop")
    typer.echo(f"{job_id}: asked to save and end" if asked else f"{job_id} is over already")
