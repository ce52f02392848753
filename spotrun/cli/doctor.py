"""`spotrun doctor`: what would keep a job from running, before it costs anything, and what mends it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spotrun.cli.home import home_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spotrun.job import JobSpec
    from spotrun.providers.doctor.round import Area
    from spotrun.providers.doctor.verdict import Light, Remedy, Request, Verdict
    from spotrun.providers.ec2.account import Account
    from spotrun.providers.ec2.doctor.question import Question

__all__ = ["doctor"]

_FIRST_REGION = "us-east-1"  # looked at where nobody has named one: every account has it


def doctor(
    ctx: typer.Context,
    job_file: Annotated[
        Path | None, typer.Argument(help="The job to look for; without one, what any job needs.", metavar="[JOB_FILE]")
    ] = None,
    bucket: Annotated[str, typer.Option("--bucket", help="The bucket of the runs, without a job file.")] = "",
    region: Annotated[
        list[str] | None,
        typer.Option("--region", help="Without a job file; may be repeated.", show_default="your AWS configuration's"),
    ] = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="Offer to make what is missing: shows each request, then asks.")
    ] = False,
    create_queue: Annotated[
        bool, typer.Option("--create-queue", help="Offer to make the queue for notices, likewise.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check everything that a job needs, here and in the AWS account. Exit code 1 if something is red."""
    from spotrun.errors import SpecError
    from spotrun.providers.doctor.verdict import Light

    if as_json and (fix or create_queue):
        raise SpecError("--json asks nothing, and nothing is made without asking: leave out --fix and --create-queue")
    visit = _Visit(home_of(ctx).path, job_file, bucket=bucket, regions=tuple(region or ()), queue=create_queue)
    with _waiting(quiet=as_json):
        verdicts = visit.verdicts()
    if as_json:
        typer.echo(
            json.dumps({"ok": not _any(verdicts, Light.RED), "checks": [_told(each) for each in verdicts]}, indent=2)
        )
    else:
        _show(verdicts)
    wanted = [each for each in verdicts if each.remedy and (fix or (create_queue and each.area == "queue"))]
    if (fix or create_queue) and visit.mend(wanted):
        typer.echo()
        with _waiting(quiet=False):
            verdicts = visit.verdicts()
        _show(verdicts)
    if _any(verdicts, Light.RED):
        raise typer.Exit(1)


class _Visit:
    """One visit: what is asked, and the account, if there is one to ask."""

    def __init__(
        self, home: Path, job_file: Path | None, *, bucket: str, regions: tuple[str, ...], queue: bool
    ) -> None:
        from spotrun.errors import SpecError
        from spotrun.job import load_spec

        if job_file is not None and (bucket or regions):
            raise SpecError("--bucket and --region are for a visit without a job file, which says both")
        self._home = home
        self._spec: JobSpec | None = None if job_file is None else load_spec(job_file)
        self._account: Account | None = None
        self._question: Question | None = None
        if self._spec is None or self._spec.provider == "ec2":
            self._ask_account(bucket, regions, queue=queue)
        elif queue:
            raise SpecError("--create-queue: a job of provider: local has no notices from AWS")

    def verdicts(self) -> list[Verdict]:
        """Looks at everything."""
        from spotrun.clock import SystemClock
        from spotrun.providers.doctor.round import make_round

        clock = SystemClock()
        told = make_round([self._computer()], clock=clock)
        places = [self._place(self._spec)] if self._spec is not None else []
        if self._account is None or self._question is None:
            return [*told, *make_round(places, clock=clock)]
        from spotrun.providers.ec2.doctor.examination import examine

        return [*told, *examine(self._account, self._question, clock=clock, more=places).verdicts]

    def mend(self, verdicts: Sequence[Verdict]) -> bool:
        """Offers each remedy; tells whether anything was done."""
        from spotrun.providers.ec2.doctor.examination import carry_out

        if not verdicts:
            typer.echo("nothing that --fix could mend")
        done = False
        for verdict in verdicts:
            assert verdict.remedy is not None, "only such are given"
            assert self._account is not None, "remedies are for accounts"
            if _agreed(verdict.remedy):
                carry_out(self._account, verdict.remedy)
                typer.echo("done")
                done = True
        return done

    def _ask_account(self, bucket: str, regions: tuple[str, ...], *, queue: bool) -> None:
        from dataclasses import replace

        from spotrun.providers.ec2.account import Account
        from spotrun.providers.ec2.doctor.question import Question, question_of_job
        from spotrun.providers.ec2.scope import NOTICE_QUEUE, Scope

        self._account = Account()
        if self._spec is not None:
            named = self._spec.resources.regions or (self._account.home_region(),)
            question = question_of_job(self._spec, regions=named)
        else:
            usual = _usual(self._account)
            scope = Scope(bucket=bucket) if bucket else None
            question = Question(
                regions=regions or usual or (_FIRST_REGION,), assumed=not (regions or usual), scope=scope
            )
        if queue and question.queue is None:
            question = replace(question, queue=NOTICE_QUEUE)
        self._question = question

    def _computer(self) -> Area:
        from spotrun.providers.doctor import computer
        from spotrun.providers.doctor.round import Area

        trains_here = self._spec is None or self._spec.provider == "local"
        return Area("computer", lambda: computer.check(computer.look(self._home), trains_here=trains_here))

    def _place(self, spec: JobSpec) -> Area:
        from spotrun.clock import SystemClock
        from spotrun.controller import checkpoint_uri, open_at
        from spotrun.providers.doctor import place
        from spotrun.providers.doctor.round import Area
        from spotrun.store import open_store

        uri = checkpoint_uri(spec, self._home)

        def look() -> Sequence[Verdict]:
            tried = place.look(uri, lambda: open_at(uri, spec, open_store), clock=SystemClock())
            return place.check(tried, from_here=spec.provider == "local")

        return Area("place", look)


def _usual(account: Account) -> tuple[str, ...]:
    """The region of the AWS configuration; none if it names none."""
    from spotrun.errors import SpecError

    try:
        return (account.home_region(),)
    except SpecError:
        return ()


def _agreed(remedy: Remedy) -> bool:
    from spotrun.errors import SpecError

    typer.echo(f"\nTo {remedy.title}, these requests would be sent:")
    for request in remedy.requests:
        typer.echo(_written(request))
    try:
        return typer.confirm(f"Shall spotrun {remedy.title}?")
    except typer.Abort:
        if sys.stdin.isatty():  # Ctrl-C
            raise typer.Exit(130) from None
        raise SpecError("there is nobody to ask, so nothing more was made; run it in a terminal") from None


def _written(request: Request) -> str:
    """The request as one would read it, policies inside of it unfolded."""

    def unfold(value: Any) -> Any:
        if isinstance(value, str) and value.startswith("{"):
            return json.loads(value)
        if isinstance(value, dict):
            return {name: unfold(each) for name, each in value.items()}
        return value

    parameters = json.dumps({name: unfold(value) for name, value in request.parameters.items()}, indent=2)
    shown = parameters.replace("\n", "\n  ")
    return f"  {request.service} {request.operation} ({request.region}) {shown}"


def _show(verdicts: Sequence[Verdict]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    marks = {"green": ("✓", "green"), "yellow": ("!", "yellow"), "red": ("✗", "bold red")}
    wide = max(len(each.area) for each in verdicts)
    console = Console()
    for each in verdicts:
        mark, style = marks[each.light.value]
        row = Table.grid(padding=(0, 2))
        row.add_column(width=1)
        row.add_column(width=wide)
        row.add_column(overflow="fold")
        row.add_row(Text(mark, style=style), Text(each.area, style=style), Text(each.sentence))
        console.print(row)
        if each.fix:  # on one line, however long: it is there to be copied
            console.print(Text(f"{' ' * (wide + 5)}→ {each.fix}", style="cyan"), soft_wrap=True)
    numbers = {light: sum(each.light.value == light for each in verdicts) for light in ("red", "yellow", "green")}
    typer.echo(", ".join(f"{number} {light}" for light, number in numbers.items() if number))


def _any(verdicts: Sequence[Verdict], light: Light) -> bool:
    return any(each.light is light for each in verdicts)


def _told(verdict: Verdict) -> dict[str, object]:
    return {
        "area": verdict.area,
        "light": verdict.light.value,
        "sentence": verdict.sentence,
        "fix": verdict.fix,
        "can_be_fixed": verdict.remedy is not None,
    }


def _waiting(*, quiet: bool) -> Any:
    from contextlib import nullcontext

    from rich.console import Console

    console = Console(stderr=True)
    return nullcontext() if quiet or not console.is_terminal else console.status("looking")
