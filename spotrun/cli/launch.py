"""`spotrun launch`: hand in a job file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spotrun.cli.candidates import agree, candidate_rows, show_candidates
from spotrun.cli.choice import open_journal
from spotrun.cli.home import Home, home_of

if TYPE_CHECKING:
    from rich.console import Console

    from spotrun.controller import Journal, Outside
    from spotrun.job import Job, JobSpec
    from spotrun.providers.ec2.candidate import Candidate

__all__ = ["conclude", "follow", "launch", "submit_job"]


def launch(
    ctx: typer.Context,
    job_file: Annotated[
        Path, typer.Argument(help="The job file, YAML; `spotrun schema` describes it.", metavar="JOB_FILE")
    ],
    follow_job: Annotated[
        bool, typer.Option("--follow", "-f", help="Watch it to its end; Ctrl-C asks it to save and end.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask whether to spend money.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be asked of the provider; nothing is launched.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: JSON for programs.")] = False,
) -> None:
    """Submit a job. Without --follow a controller in the background drives it until it is over.

    A job that costs money is shown with what there is to buy, and asked about first.
    """
    from rich.console import Console

    from spotrun.controller import real_outside
    from spotrun.errors import SpecError
    from spotrun.job import load_spec

    home = home_of(ctx)
    spec = load_spec(job_file)
    outside, console = real_outside(home.path), Console()
    if as_json and not dry_run:
        raise SpecError("--json goes with --dry-run; a submission prints the job's id")
    if dry_run:
        rehearse_job(spec, outside=outside, console=console, as_json=as_json)
        return
    if spec.provider == "ec2":
        show_candidates(candidates_of(spec, outside), spec, console)
        _show_forecast(spec, outside, console)
        agree(yes=yes)
    else:
        _show_forecast(spec, outside, console)
    journal = open_journal(ctx)
    job_id = submit_job(journal, spec, outside=outside, console=console)
    if not follow_job:
        _drive_in_background(home)
        console.print(f"spotrun status {job_id} · spotrun logs -f {job_id} · spotrun stop {job_id}")
        return
    conclude(follow(home, journal, job_id, outside=outside, console=console))


def _show_forecast(spec: JobSpec, outside: Outside, console: Console) -> None:
    """Says in one line what is to be expected; `spotrun plan` tells more."""
    from spotrun.controller.outlook import outlook, sentence
    from spotrun.errors import ProviderError, SpecError

    try:
        found = outlook(spec, outside=outside, workdir=Path.cwd(), brief=True)
    except (ProviderError, SpecError) as error:  # what is wrong with the job itself, its submission says
        console.print(f"no forecast: {error}", style="yellow", markup=False, highlight=False)
        return
    console.print(sentence(found), markup=False, highlight=False)
    if found.warning:
        console.print(found.warning, style="yellow", markup=False, highlight=False)


def candidates_of(spec: JobSpec, outside: Outside) -> Sequence[Candidate]:
    """What the provider could launch, and what not; nothing for providers that sell nothing.

    Raises:
        QuotaRefused: there are pools, and none of them can be launched.
    """
    if spec.provider != "ec2":
        return ()
    from typing import cast

    from spotrun.errors import QuotaRefused
    from spotrun.providers.ec2.candidate import reasons
    from spotrun.providers.ec2.provider import Ec2Provider

    at = outside.wall.now()
    spec = outside.complete(spec)
    clock = outside.job_clock(spec, at)
    provider = outside.connect(spec, job_id=f"{spec.name}-probe", submitted_at=at, clock=clock, workdir=Path.cwd())
    found = cast("Ec2Provider", provider).candidates()
    if not any(not each.fault for each in found):
        why = "; ".join(reasons(found)) or "none of the types is sold in these regions"
        raise QuotaRefused(f"nothing can be launched, so nothing was submitted: {why}")
    return found


def rehearse_job(spec: JobSpec, *, outside: Outside, console: Console, as_json: bool) -> None:
    """Shows what a submission would lead to: the candidates, the first placement, and each request of its launch."""
    import json

    from spotrun.controller import rehearse
    from spotrun.providers.ec2.candidate import offered

    found = candidates_of(spec, outside)
    offers = offered(found) if found else None
    rehearsal = rehearse(spec, Path.cwd(), outside=outside, offers=offers, warn=_warner(console))
    if as_json:
        rows = [{name: _plain(value) for name, value in row.items()} for row in candidate_rows(found)]
        nodes = spec.resources.nodes.to_json()
        told = {"nodes": nodes, "candidates": rows, "reason": rehearsal.reason, "requests": rehearsal.requests}
        typer.echo(json.dumps(told, indent=2))
        return
    if found:
        show_candidates(found, spec, console)
    console.print(rehearsal.reason, markup=False, highlight=False)
    for operation, request in rehearsal.requests.items():
        console.print(f"\n{operation}", style="bold", highlight=False)
        typer.echo(json.dumps(_shortened(request), indent=2))
    typer.echo("nothing was launched, and nothing was submitted")


def _warner(console: Console) -> Callable[[str], None]:
    return lambda sentence: console.print(sentence, style="yellow", markup=False, highlight=False)


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, int | str) else str(value)


def _shortened(value: Any) -> Any:
    """The request, but for user data: kilobytes in base64, which `--json` prints."""
    if not isinstance(value, Mapping):
        return [_shortened(each) for each in value] if isinstance(value, list) else value
    return {
        name: f"({len(inner)} characters of base64; --json prints them)" if name == "UserData" else _shortened(inner)
        for name, inner in value.items()
    }


def submit_job(journal: Journal, spec: JobSpec, *, outside: Outside, console: Console) -> str:
    """Submits from the present directory and says so."""
    from spotrun.controller import submit

    job_id = submit(journal, spec, Path.cwd(), outside=outside, submitted_by="spotrun", warn=_warner(console))
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
