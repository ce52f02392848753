"""`spotrun status`: one job as it is now."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from spotrun.cli.choice import choose_job, open_journal
from spotrun.cli.home import home_of

if TYPE_CHECKING:
    from spotrun.controller import Accountant
    from spotrun.controller.outlook import Outlook

__all__ = ["status"]


def status(
    ctx: typer.Context,
    job: Annotated[str, typer.Argument(help="A job; the newest one by default.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a job: phase, place, progress, last commit, wait budget, money, forecast; while it waits, why."""
    from rich.console import Console

    from spotrun.cli.live import Money, panel
    from spotrun.cli.plan import rows
    from spotrun.cli.summary import summary
    from spotrun.controller import Accountant, Follower, real_outside
    from spotrun.controller.outlook import sentence
    from spotrun.cost import measure_savings
    from spotrun.store import open_store

    home = home_of(ctx)
    journal = open_journal(ctx)
    job_id = choose_job(journal, job)
    accountant = Accountant(journal, job_id, outside=real_outside(home.path))
    beat = Follower(journal, home.path, open_store=open_store).heartbeat(job_id)
    found = _outlook(accountant)
    if as_json:
        told = summary(accountant, beat) | {"forecast": None if found is None else rows(found)[0]}
        typer.echo(json.dumps(told, indent=2))
        return
    state = accountant.job()
    savings = measure_savings(accountant.ledger())
    money = Money(savings.paid_usd, savings.on_demand_usd)
    scale = state.spec.time_scale
    console = Console()
    console.print(panel(state, beat, now=accountant.clock.now(), money=money, scale=scale))
    if found is not None:
        console.print(sentence(found, still=True), markup=False, highlight=False)
        if found.warning:
            console.print(found.warning, style="yellow", markup=False, highlight=False)
    if state.cause:
        console.print(state.cause, markup=False)


def _outlook(accountant: Accountant) -> Outlook | None:
    """What is still to come; None where that cannot be told, as the status is asked for when things go wrong."""
    from spotrun.errors import ProviderError, SpecError

    try:
        return accountant.outlook()
    except (ProviderError, SpecError):
        return None
