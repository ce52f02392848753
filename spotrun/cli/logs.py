"""`spotrun logs`: what the command printed, across all attempts."""

from __future__ import annotations

from typing import Annotated

import typer

from spotrun.cli.choice import choose_job, open_journal
from spotrun.cli.home import home_of

__all__ = ["logs"]


def logs(
    ctx: typer.Context,
    job: Annotated[str, typer.Argument(help="A job; the newest one by default.")] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job is over.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for each piece of output.")] = False,
) -> None:
    """Print the output of a job's command; a line in between says where an attempt begins."""
    import json

    from spotrun.controller import Follower
    from spotrun.store import open_store

    journal = open_journal(ctx)
    job_id = choose_job(journal, job)
    follower = Follower(journal, home_of(ctx).path, open_store=open_store)
    attempt = 0
    for piece in follower.log(job_id, follow=follow):
        if as_json:
            typer.echo(json.dumps({"attempt": piece.attempt, "text": piece.text}))
            continue
        if piece.attempt != attempt:
            attempt = piece.attempt
            zone = follower.job(job_id).attempts[attempt - 1].zone
            typer.secho(f"--- attempt {attempt} in {zone}", dim=True)
        typer.echo(piece.text, nl=False)
