"""`spotrun plan`: what a job would cost and when it would be done, before a dollar is spent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spotrun.cli.home import home_of

if TYPE_CHECKING:
    from datetime import timedelta

    from rich.table import Table

    from spotrun.controller.outlook import Outlook
    from spotrun.policy.forecast import Prospect

__all__ = ["plan", "rows"]


def plan(
    ctx: typer.Context,
    job_file: Annotated[Path, typer.Argument(help="The job file.", metavar="JOB_FILE")],
    work: Annotated[
        str, typer.Option("--work", help="How long the training takes, e.g. 5h30m. Default: max_run.", metavar="TIME")
    ] = "",
    changeover: Annotated[
        str, typer.Option("--changeover", help="How long a start takes until the training goes on.", metavar="TIME")
    ] = "",
    mean_up: Annotated[
        str, typer.Option("--mean-up", help="For how long a zone has capacity, on average.", metavar="TIME")
    ] = "",
    mean_down: Annotated[
        str, typer.Option("--mean-down", help="For how long a zone has none, on average.", metavar="TIME")
    ] = "",
    picture: Annotated[
        Path | None, typer.Option("--picture", help="Write a drawing, cost against time, as SVG.", metavar="FILE")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Forecast a job: cost, time and interruptions for each rule and choice of pools. Nothing is submitted."""
    from rich.console import Console

    from spotrun.cli.fan import draw_fan
    from spotrun.controller import real_outside
    from spotrun.controller.outlook import Guess, outlook
    from spotrun.job import load_spec

    spec = load_spec(job_file)
    guess = Guess(
        work=_duration("--work", work),
        changeover=_duration("--changeover", changeover),
        mean_up=_duration("--mean-up", mean_up),
        mean_down=_duration("--mean-down", mean_down),
    )
    found = outlook(spec, outside=real_outside(home_of(ctx).path), workdir=Path.cwd(), guess=guess)
    if picture is not None:
        _write(picture, draw_fan(found, title=spec.name))
    if as_json:
        typer.echo(json.dumps(document(found), indent=2))
        return
    console = Console()
    console.print(table(found))
    console.print("* the job as it is written", style="dim", highlight=False)
    if found.warning:
        console.print(f"\n{found.warning}", style="yellow", markup=False, highlight=False)
    every = _span(found.forecast.chosen.interval_s)
    console.print(f"\nsave every {every}: of all intervals that wastes least, for saves of a second", highlight=False)
    console.print("assumed:", highlight=False)
    for assumption in found.assumptions:
        console.print(f"  {assumption}", markup=False, highlight=False)
    if picture is not None:
        console.print(f"drawn: {picture}", markup=False, highlight=False)


def _write(picture: Path, drawing: str) -> None:
    from spotrun.errors import SpecError

    try:
        picture.write_text(drawing, encoding="utf-8")
    except OSError as err:
        raise SpecError(f"--picture: {picture} cannot be written: {err.strerror or err}") from err


def rows(found: Outlook) -> list[dict[str, Any]]:
    """One row for each prospect; the first is the job as it is written."""
    return [_row(it) | {"chosen": it is found.forecast.chosen} for it in found.forecast.prospects]


def document(found: Outlook) -> dict[str, Any]:
    """The forecast for programs: seconds, dollars, shares of one."""
    return {
        "work_s": found.work.work_s,
        "max_wait_s": found.work.deadline_s,
        "changeover_s": found.work.changeover_s,
        "assumptions": list(found.assumptions),
        "warning": found.warning or None,
        "prospects": rows(found),
    }


def table(found: Outlook) -> Table:
    """The prospects as a table for the terminal."""
    from rich.table import Table

    from spotrun.units import format_percent

    shown = Table(box=None, pad_edge=False, header_style="dim")
    shown.add_column("rule, or pool alone", overflow="fold")
    for name in ("cost P50/P90", "done P50/P90", "in time", "losses", "on demand"):
        shown.add_column(name, justify="right", no_wrap=True)
    for number, it in enumerate(found.forecast.prospects):
        shown.add_row(
            _label(it, everything=number == 0),
            f"{_money(it.cost_usd[1])} / {_money(it.cost_usd[2])}",
            f"{it.finish_s[1] / 3600:.1f} / {it.finish_s[2] / 3600:.1f} h",
            format_percent(it.in_time),
            f"{it.interruptions:.1f}",
            format_percent(it.on_demand_share),
            style="bold" if number == 0 else None,
        )
    return shown


def _row(it: Prospect) -> dict[str, Any]:
    quantiles = ("p10", "p50", "p90")
    return {
        "rule": it.rule,
        "pools": list(it.pools),
        "episodes": it.episodes,
        "cost_usd": dict(zip(quantiles, it.cost_usd, strict=True)),
        "finish_s": dict(zip(quantiles, it.finish_s, strict=True)),
        "in_time": it.in_time,
        "out_of_money": it.broke,
        "interruptions": it.interruptions,
        "uninterrupted": it.uninterrupted,
        "on_demand_share": it.on_demand_share,
        "checkpoint_interval_s": it.interval_s,
    }


def _label(it: Prospect, *, everything: bool) -> str:
    """The rule, on all pools, with a star for the job as it is written; or the pool, alone."""
    if everything:
        return f"{it.rule} *"
    return it.rule if len(it.pools) != 1 else it.pools[0].removesuffix("/spot")


def _money(value: float) -> str:
    from decimal import Decimal

    from spotrun.units import format_usd

    return format_usd(Decimal(f"{value:.4f}"))


def _span(seconds: float) -> str:
    from datetime import timedelta

    from spotrun.units import format_duration

    return format_duration(timedelta(seconds=seconds))


def _duration(option: str, text: str) -> timedelta | None:
    from datetime import timedelta

    from spotrun.errors import SpecError
    from spotrun.units import parse_duration

    if not text:
        return None
    try:
        parsed = parse_duration(text)
    except ValueError as err:
        raise SpecError(f"{option}: {err}") from err
    if parsed <= timedelta(0) and option != "--mean-down":
        raise SpecError(f"{option}: must be longer than nothing, not {text}")
    return parsed
