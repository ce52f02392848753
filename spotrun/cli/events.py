"""`spotrun events`: everything that happened to a job, one line each."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from spotrun.cli.choice import choose_job, open_journal
from spotrun.units import format_duration

__all__ = ["events"]


def events(
    ctx: typer.Context,
    job: Annotated[str, typer.Argument(help="A job; the newest one by default.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, as the journal holds them.")] = False,
) -> None:
    """Tell the story of a job from its journal."""
    from spotrun.cli.sentence import tell
    from spotrun.job import encode, step

    journal = open_journal(ctx)
    job_id = choose_job(journal, job)
    before = None
    start = None
    for recorded in journal.events(job_id):
        event = recorded.event
        if as_json:
            typer.echo(json.dumps({"seq": recorded.seq, **json.loads(encode(event))}))
            continue
        after, _ = step(before, event)
        start = start or event.at
        sentence = tell(event, before, after)
        if sentence:
            typer.echo(f"{event.at:%Y-%m-%d %H:%M:%S}  +{format_duration(event.at - start):>12}  {sentence}")
        before = after
