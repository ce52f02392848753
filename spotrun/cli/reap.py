"""`spotrun reap`: what spotrun has left behind, in all regions and on this computer; and its end."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

from spotrun.cli.choice import open_journal
from spotrun.cli.consent import ask
from spotrun.cli.home import home_of
from spotrun.units import format_usd

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from spotrun.controller.reap import Judged
    from spotrun.providers.ec2.aws import Aws
    from spotrun.providers.leftover import Leftover

__all__ = ["reap"]

_INSTEAD = "--yes, or --dry-run to look"


def reap(
    ctx: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Also what may belong to jobs of another home or computer.")
    ] = False,
    region: Annotated[
        list[str] | None, typer.Option("--region", help="Only there; may be repeated.", show_default="all regions")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """End what belongs to no live job, after showing it and asking. What a live job needs always stays."""
    from spotrun.clock import SystemClock
    from spotrun.controller import real_outside
    from spotrun.controller.reap import judge
    from spotrun.errors import SpecError
    from spotrun.providers.leftover import Standing

    if as_json and not (yes or dry_run):
        raise SpecError("--json asks nothing: add --yes to end what is over, or --dry-run to look")
    home, clock = home_of(ctx).path, SystemClock()
    found = _look(home, tuple(region or ()), quiet=as_json)
    outside = real_outside(home)
    judged = judge(found.leftovers, open_journal(ctx), outside=outside, now=clock.now())
    wanted = [
        each for each in judged if each.standing is Standing.OVER or (everything and each.standing is Standing.UNKNOWN)
    ]
    if not as_json:
        _show(judged, wanted, found, everything=everything)
    left: dict[str, str] = {}
    if wanted and not dry_run:
        if not yes:
            ask(f"End {_things(len(wanted))}{_cost(wanted)}?", otherwise="nothing was ended", instead=_INSTEAD)
        left = _end(found.aws, home, [each.leftover for each in wanted])
    if as_json:
        typer.echo(json.dumps(_told(judged, wanted, found, left, dry_run=dry_run), indent=2))
    elif wanted and not dry_run:
        for id_, why in left.items():
            typer.secho(f"{id_} is still there: {why}", err=True, fg=typer.colors.RED)
        typer.echo(f"ended {_things(len(wanted) - len(left))}")
    if left or found.unseen:
        raise typer.Exit(1)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """What was found, where nothing could be seen and why, and a word on the account if it was not looked at."""

    leftovers: tuple[Leftover, ...]
    unseen: dict[str, str] = field(default_factory=dict)
    regions: tuple[str, ...] = ()
    note: str = ""
    aws: Aws | None = None


def _look(home: Path, names: tuple[str, ...], *, quiet: bool) -> _Found:
    from spotrun.clock import SystemClock
    from spotrun.errors import CredentialsExpired, ProviderError
    from spotrun.providers.ec2.aws import open_aws
    from spotrun.providers.ec2.doctor.identity import has_credentials
    from spotrun.providers.ec2.reap import find, regions
    from spotrun.providers.local.sweep import left_over

    here = left_over(home)
    if not has_credentials():
        return _Found(leftovers=here, note="AWS was not looked at: there are no credentials")
    aws = open_aws(SystemClock())
    try:
        names = names or regions(aws)
        if not quiet:
            typer.echo(f"looking in {len(names)} regions" if len(names) > 1 else f"looking in {names[0]}", err=True)
        seen = find(aws, names)
    except CredentialsExpired as error:
        return _Found(leftovers=here, unseen={"AWS": str(error)})
    except ProviderError as error:
        return _Found(leftovers=here, unseen={"AWS": str(error)})
    return _Found(leftovers=(*here, *seen.leftovers), unseen=dict(seen.unseen), regions=tuple(names), aws=aws)


def _end(aws: Aws | None, home: Path, leftovers: Sequence[Leftover]) -> dict[str, str]:
    """Ends them all, those on this computer too; gives what is still there, and why."""
    from spotrun.clock import SystemClock
    from spotrun.errors import ProviderError
    from spotrun.providers.ec2.reap import end
    from spotrun.providers.leftover import Kind
    from spotrun.providers.local.sweep import sweep

    local = [each.id for each in leftovers if each.kind is Kind.PROCESS]
    rented = [each for each in leftovers if each.kind is not Kind.PROCESS]
    left: dict[str, str] = {}
    if rented:
        assert aws is not None, "what is rented was found in an account"
        left |= end(aws, rented, clock=SystemClock())
    if local:
        try:
            sweep(home, only=local)
        except ProviderError as error:
            left |= dict.fromkeys(local, str(error))
    return left


def _show(judged: Sequence[Judged], wanted: Sequence[Judged], found: _Found, *, everything: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from spotrun.providers.leftover import Standing

    for where, why in found.unseen.items():
        typer.secho(f"{where} could not be looked at, so something may be left there: {why}", err=True, fg="red")
    if found.note:
        typer.echo(found.note)
    if not judged:
        seen = " where it could be looked at" if found.unseen else ""
        where = f" in {len(found.regions)} regions" if len(found.regions) > 1 else f" in {''.join(found.regions)}"
        typer.echo(f"nothing of spotrun's was found{where if found.regions else ''}{seen}")
        return
    table = Table("", "id", "what", "where", "job", "$/h", "why", box=None, pad_edge=False)
    going = {id(each) for each in wanted}
    for each in sorted(judged, key=lambda one: (id(one) not in going, one.standing.value)):
        item = each.leftover
        price = "?" if item.usd_per_hour is None else f"{item.usd_per_hour:.4f}" if item.usd_per_hour else "-"
        attempt = f" attempt {item.attempt}" if item.attempt else ""
        mark = "end" if id(each) in going else "keep"
        table.add_row(
            mark,
            item.id,
            f"{item.kind.value} {item.what}".strip(),
            item.region or "this computer",
            f"{item.job_id or 'no job named'}{attempt}",
            price,
            each.why,
        )
    Console().print(table)
    unknown = sum(each.standing is Standing.UNKNOWN for each in judged)
    if unknown and not everything:
        typer.echo(f"{_things(unknown)} may belong to another home or computer: --all ends what is unknown, too")
    if not wanted:
        typer.echo("nothing is to be ended")


def _told(
    judged: Sequence[Judged], wanted: Sequence[Judged], found: _Found, left: dict[str, str], *, dry_run: bool
) -> dict[str, object]:
    going = {id(each) for each in wanted}

    def one(each: Judged) -> dict[str, object]:
        item = each.leftover
        return {
            "kind": item.kind.value,
            "id": item.id,
            "region": item.region,
            "what": item.what,
            "job": item.job_id,
            "attempt": item.attempt,
            "usd_per_hour": None if item.usd_per_hour is None else str(item.usd_per_hour),
            "since": None if item.since is None else item.since.isoformat(),
            "standing": each.standing.value,
            "why": each.why,
            "ended": id(each) in going and not dry_run and item.id not in left,
        }

    return {
        "found": [one(each) for each in judged],
        "regions": list(found.regions),
        "not_looked_at": found.unseen | ({"AWS": found.note} if found.note else {}),
        "still_there": left,
    }


def _cost(wanted: Sequence[Judged]) -> str:
    known = [each.leftover.usd_per_hour for each in wanted if each.leftover.usd_per_hour]
    return f", which cost {format_usd(sum(known[1:], known[0]))} an hour" if known else ""


def _things(number: int) -> str:
    return "1 thing" if number == 1 else f"{number} things"
