"""`spotrun ps`: all jobs, one line each."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from spotrun.cli.choice import open_journal
from spotrun.cli.home import home_of
from spotrun.units import format_duration, format_usd

__all__ = ["ps"]


def ps(
    ctx: typer.Context,
    all_jobs: Annotated[bool, typer.Option("--all", "-a", help="Also jobs that are over.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the jobs that are not over; with --all, every job."""
    from rich.console import Console
    from rich.table import Table

    from spotrun.cli.live import phase_text
    from spotrun.cli.summary import summary
    from spotrun.controller import Accountant, real_outside

    journal, outside = open_journal(ctx), real_outside(home_of(ctx).path)
    accountants = [Accountant(journal, job_id, outside=outside) for job_id in journal.jobs()]
    shown = [each for each in accountants if all_jobs or not each.job().phase.is_end]
    if as_json:
        typer.echo(json.dumps([summary(each) for each in shown], indent=2))
        return
    if not shown:
        typer.echo("no job is running; `spotrun ps --all` lists those that are over")
        return
    table = Table("job", "phase", "zone", "age", "attempts", "interruptions", "step", "paid", box=None, pad_edge=False)
    for each in shown:
        job, row = each.job(), summary(each)
        age = format_duration((job.ended_at or each.clock.now()) - job.submitted_at)
        step = "" if row["step"] is None else str(row["step"])
        zone = job.attempt.zone if job.attempt is not None else ""
        paid = format_usd(each.ledger().total_usd)
        table.add_row(job.id, phase_text(job), zone, age, str(row["attempts"]), str(job.interruptions), step, paid)
    Console().print(table)
