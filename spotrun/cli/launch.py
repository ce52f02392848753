"""`spotrun launch`: hand in a job file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spotrun.cli.choice import open_journal
from spotrun.cli.home import Home, home_of

if TYPE_CHECKING:
    from rich.console import Console

    from spotrun.controller import Journal, Outside
    from spotrun.job import Job, JobSpec

__all__ = ["conclude", "follow", "launch", "submit_job"]


def launch(
    ctx: typer.Context,
    job_file: Annotated[
        Path, typer.Argument(help="The job file, YAML; `spotrun schema` describes it.", metavar="JOB_FILE")
    ],
    follow_job: Annotated[
        bool, typer.Option("--follow", "-f", help="Watch it to its end; Ctrl-C asks it to save and end.")
    ] = False,
) -> None:
    """Submit a job. Without --follow a controller in the background drives it until it is over."""
    from rich.console import Console

    from spotrun.controller import real_outside
    from spotrun.job import load_spec

    home = home_of(ctx)
    spec = load_spec(job_file)
    journal, outside, console = open_journal(ctx), real_outside(home.path), Console()
    job_id = submit_job(journal, spec, outside=outside, console=console)
    if not follow_job:
        _drive_in_background(home)
        console.print(f"spotrun status {job_id} · spotrun logs -f {job_id} · spotrun stop {job_id}")
        return
    conclude(follow(home, journal, job_id, outside=outside, console=console))


def submit_job(journal: Journal, spec: JobSpec, *, outside: Outside, console: Console) -> str:
    """Submits from the present directory and says so."""
    from spotrun.controller import submit

    def warn(sentence: str) -> None:
        console.print(sentence, style="yellow", markup=False, highlight=False)

    job_id = submit(journal, spec, Path.cwd(), outside=outside, submitted_by="spotrun", warn=warn)
    console.print(f"submitted [bold]{job_id}[/bold]", highlight=False)
    return job_id


def follow(home: Home, journal: Journal, job_id: str, *, outside: Outside, console: Console) -> Job:
    """Watches the job to its end, then prints its savings."""
    from spotrun.cli.watch import watch
    from spotrun.controller import Accountant
    from spotrun.cost import render_terminal

    job = watch(home, journal, job_id, outside=outside, console=console)
    console.print(render_terminal(Accountant(journal, job_id, outside=outside).report()))
    return job


def conclude(job: Job) -> None:
    """Exits with 0 for a completed job and 1, with the cause, for any other end."""
    from spotrun.job import Phase

    if job.phase is not Phase.COMPLETED:
        typer.secho(f"{job.id} ended {job.phase.value}: {job.cause}", err=True, fg=typer.colors.RED)
        raise typer.Exit(1)


def _drive_in_background(home: Home) -> None:
    """Starts a controller that outlives this command and ends when every job is over."""
    import subprocess
    import sys

    with (home.path / "controller.log").open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "spotrun", "--home", str(home.path), "controller", "--until-idle"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
