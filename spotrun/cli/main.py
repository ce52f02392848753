"""Assembles the verbs, and turns every error that a user can mend into one clear message."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from spotrun.cli import (
    chaos,
    checkpoints,
    controller,
    demo,
    doctor,
    events,
    iam,
    launch,
    logs,
    plan,
    prices,
    prove,
    ps,
    reap,
    report,
    schema,
    status,
    stop,
)
from spotrun.cli import (
    run as run_verb,
)
from spotrun.cli.home import Home
from spotrun.errors import SpotrunError

__all__ = ["app", "run"]

app = typer.Typer(
    name="spotrun",
    help="PyTorch training on spot capacity as if the capacity were reliable.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"spotrun {version('spotrun')}")
        raise typer.Exit


@app.callback()
def main(
    ctx: typer.Context,
    home: Annotated[
        Path, typer.Option(envvar="SPOTRUN_HOME", help="Where jobs are remembered.", show_default="~/.spotrun")
    ] = Path("~/.spotrun"),
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=_tell_version, is_eager=True)
    ] = False,
) -> None:
    """PyTorch training on spot capacity as if the capacity were reliable."""
    path = home.expanduser().absolute()
    ctx.obj = Home(path.resolve() if ".." in path.parts else path)  # places below it become URLs, which have no way up


app.command("run")(run_verb.run)
app.command("launch")(launch.launch)
app.command("plan")(plan.plan)
app.command("ps")(ps.ps)
app.command("status")(status.status)
app.command("logs")(logs.logs)
app.command("events")(events.events)
app.command("stop")(stop.stop)
app.command("report")(report.report)
app.add_typer(checkpoints.app, name="checkpoints")
app.command("prove")(prove.prove)
app.command("chaos")(chaos.chaos)
app.command("doctor")(doctor.doctor)
app.command("reap")(reap.reap)
app.command("prices")(prices.prices)
app.add_typer(iam.app, name="iam")
app.command("schema")(schema.schema)
app.command("controller")(controller.controller)
app.command("demo")(demo.demo)


def run() -> None:
    """The entry point: runs the app, shows our own errors as text and exits with 2 for them."""
    try:
        app()
    except SpotrunError as error:
        typer.secho(f"spotrun: {error}", err=True, fg=typer.colors.RED)
        sys.exit(2)
