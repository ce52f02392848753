"""`spotrun controller`: drive the jobs of this home from a process of its own."""

from __future__ import annotations

from typing import Annotated

import typer

from spotrun.cli.choice import open_journal
from spotrun.cli.home import home_of

__all__ = ["controller"]


def controller(
    ctx: typer.Context,
    until_idle: Annotated[bool, typer.Option("--until-idle", help="End once every job is over.")] = False,
) -> None:
    """Drive all jobs until Ctrl-C or SIGTERM. Running attempts go on without it for as long as their lease lasts."""
    import logging
    import signal
    import threading

    from spotrun.controller import Controller, real_outside

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    driver = Controller(open_journal(ctx), real_outside(home_of(ctx).path))
    typer.echo(f"controller {driver.owner} on {home_of(ctx).journal}")
    driver.run(until_idle=until_idle, stop=stop)
