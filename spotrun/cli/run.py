"""`spotrun run`: a script as a job, without a job file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from spotrun.cli.choice import open_journal
from spotrun.cli.home import home_of

__all__ = ["run"]


def run(
    ctx: typer.Context,
    script: Annotated[
        str, typer.Argument(help="A Python script; it uses spotrun.attach, or --folder is given.", metavar="SCRIPT")
    ],
    arguments: Annotated[list[str] | None, typer.Argument(help="Its arguments, after `--`.", metavar="ARGS")] = None,
    max_run: Annotated[str, typer.Option(help="Training time at most, all attempts together.")] = "24h",
    max_wait: Annotated[str | None, typer.Option(help="Waiting and training at most; default: max-run.")] = None,
    on_shortage: Annotated[str, typer.Option(help="Without spot capacity: wait, or on_demand.")] = "wait",
    budget_usd: Annotated[str | None, typer.Option(help="Stop at a checkpoint when this is spent.")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="Where to save: a path or URL; default: `runs` in spotrun's home.")
    ] = None,
    interval: Annotated[str, typer.Option(help="Time between saves, or auto.")] = "auto",
    folder: Annotated[
        str | None,
        typer.Option(help="For a script without spotrun: the folder that it saves to and resumes from.", metavar="DIR"),
    ] = None,
    time_scale: Annotated[float, typer.Option(help="Seconds of job time in one second here (local market).")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the local market.")] = 0,
) -> None:
    """Run a script as a job on the local market, and watch it to its end."""
    from rich.console import Console

    from spotrun.cli.launch import conclude, follow, submit_job
    from spotrun.controller import real_outside
    from spotrun.job import load_spec

    home = home_of(ctx)
    wanted: dict[str, Any] = {
        "name": _name(script),
        "command": ["python", script, *(arguments or [])],
        "limits": {"max_run": max_run, "on_shortage": on_shortage},
        "checkpoint": {"uri": checkpoint or (home.path / "runs").as_uri(), "interval": interval},
        "local": {"time_scale": time_scale, "market": {"seed": seed}},
    }
    if folder is not None:
        wanted["checkpoint"]["folder"] = folder
    if max_wait is not None:
        wanted["limits"]["max_wait"] = max_wait
    if budget_usd is not None:
        wanted["limits"]["budget_usd"] = budget_usd
    spec = load_spec(wanted)
    journal, outside, console = open_journal(ctx), real_outside(home.path), Console()
    job_id = submit_job(journal, spec, outside=outside, console=console)
    conclude(follow(home, journal, job_id, outside=outside, console=console))


def _name(script: str) -> str:
    stem = "".join(letter if letter.isalnum() else "-" for letter in Path(script).stem.lower()).strip("-")
    return stem or "job"
