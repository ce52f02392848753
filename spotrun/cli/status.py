"""`spotrun status`: one job as it is now."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from spotrun.cli.choice import choose_job, open_journal
from spotrun.cli.home import home_of

__all__ = ["status"]


def status(
    ctx: typer.Context,
    job: Annotated[str, typer.Argument(help="A job; the newest one by default.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a job: phase, place, progress, last commit, wait budget, money; while it waits, why."""
    from rich.console import Console

    from spotrun.cli.live import Money, panel
    from spotrun.cli.summary import summary
    from spotrun.controller import Accountant, Follower, real_outside
    from spotrun.cost import measure_savings
    from spotrun.store import open_store

    home = home_of(ctx)
    journal = open_journal(ctx)
    job_id = choose_job(journal, job)
    accountant = Accountant(journal, job_id, outside=real_outside(home.path))
    beat = Follower(journal, home.path, open_store=open_store).heartbeat(job_id)
    if as_json:
        typer.echo(json.dumps(summary(accountant, beat), indent=2))
        return
    state = accountant.job()
    savings = measure_savings(accountant.ledger())
    money = Money(savings.paid_usd, savings.on_demand_usd)
    scale = state.spec.time_scale
    console = Console()
    console.print(panel(state, beat, now=accountant.clock.now(), money=money, scale=scale))
    if state.cause:
        console.print(state.cause, markup=False)
