"""Before a launch that costs money: what there is to buy, what it would cost, and the question whether to."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import typer

from spotrun.units import format_duration, format_percent, format_usd

if TYPE_CHECKING:
    from rich.console import Console

    from spotrun.job import GangSize, JobSpec
    from spotrun.providers.ec2.candidate import Candidate

__all__ = ["agree", "candidate_rows", "show_candidates"]

ROWS_MAX = 12  # of the table; the cheapest are what a person looks at
_LEFT_OUT_MAX = 8


def show_candidates(candidates: Sequence[Candidate], spec: JobSpec, console: Console) -> None:
    """Prints the candidates, the cheapest first, why some are left out, and what the work would cost."""
    from rich.table import Table

    rows, nodes = candidate_rows(candidates), spec.resources.nodes
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("zone", "type"):
        table.add_column(name)
    together = () if nodes.is_single else (f"spot $/h of {nodes}",)
    for name in ("spot $/h", *together, "on-demand $/h", "saving", "score", "quota vCPUs"):
        table.add_column(name, justify="right")
    for row in rows[:ROWS_MAX]:
        table.add_row(
            str(row["zone"]),
            str(row["instance_type"]),
            _price(row["spot_usd_per_hour"]),
            *(_price_of(row["spot_usd_per_hour"], nodes) for _ in together),
            _price(row["on_demand_usd_per_hour"]),
            "-" if row["saving"] is None else format_percent(row["saving"]),
            "-" if row["score"] is None else f"{row['score']}/10",
            "-" if row["quota_vcpus"] is None else str(row["quota_vcpus"]),
        )
    console.print(table)
    if len(rows) > ROWS_MAX:
        console.print(f"and {len(rows) - ROWS_MAX} more", style="dim", highlight=False)
    _show_left_out(candidates, console)
    _show_cost(candidates, rows, spec, console)


def candidate_rows(candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
    """One row for each zone and type that is offered, both markets beside each other, the cheapest first."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for each in candidates:
        if each.fault:
            continue
        blank = {"spot_usd_per_hour": None, "on_demand_usd_per_hour": None, "saving": None, "score": None}
        row = rows.setdefault((each.zone, each.instance_type), {**blank, "quota_vcpus": None})
        row |= {"region": each.region, "zone": each.zone, "instance_type": each.instance_type}
        row["on_demand_usd_per_hour"] = each.on_demand_usd_per_hour
        if each.market.value == "spot" and each.price_usd_per_hour and each.on_demand_usd_per_hour:
            row["spot_usd_per_hour"] = each.price_usd_per_hour
            row["saving"] = 1 - each.price_usd_per_hour / each.on_demand_usd_per_hour
            row["score"] = each.score
            row["quota_vcpus"] = None if each.quota is None else each.quota.vcpus
    return sorted(rows.values(), key=lambda row: (_sortable(row), row["zone"], row["instance_type"]))


def agree(*, yes: bool) -> None:
    """Asks whether to submit.

    Raises:
        SpecError: there is nobody to ask.
    """
    from spotrun.errors import SpecError

    if yes:
        return
    if not sys.stdin.isatty():
        raise SpecError(
            "there is nobody to ask whether to spend this, so nothing was submitted; add --yes, or --dry-run to look"
        )
    try:
        agreed = typer.confirm("Submit it?")
    except typer.Abort:
        raise typer.Exit(130) from None
    if not agreed:
        typer.echo("nothing was submitted")
        raise typer.Exit(0)


def _show_left_out(candidates: Sequence[Candidate], console: Console) -> None:
    from spotrun.providers.ec2.candidate import reasons

    left_out = list(reasons(candidates))
    for reason in left_out[:_LEFT_OUT_MAX]:
        console.print(f"left out: {reason}", style="dim", markup=False, highlight=False)
    if len(left_out) > _LEFT_OUT_MAX:
        console.print(f"left out: {len(left_out) - _LEFT_OUT_MAX} more", style="dim", highlight=False)


def _show_cost(
    candidates: Sequence[Candidate], rows: Sequence[dict[str, Any]], spec: JobSpec, console: Console
) -> None:
    """The upper bound that the limits set, at present prices."""
    if not rows:
        return
    hours = Decimal(str(spec.limits.max_run.total_seconds())) / 3600
    best, nodes = rows[0], spec.resources.nodes
    parts = []
    if best["spot_usd_per_hour"] is not None:
        parts.append(f"{_cost(best['spot_usd_per_hour'] * hours, nodes)} on spot")
    parts.append(f"{_cost(best['on_demand_usd_per_hour'] * hours, nodes)} on demand")
    source = next((each.on_demand_source for each in candidates if each.on_demand_source is not None), None)
    listed = "" if source is None else f" ({source.sentence})"
    bought = "never bought" if spec.limits.on_shortage.value == "wait" else "bought only for the deadline"
    budget = "" if spec.limits.budget_usd is None else f"; budget {format_usd(spec.limits.budget_usd)}"
    machines = "" if nodes.is_single else f" of {nodes} machines"
    console.print(
        f"max_run {format_duration(spec.limits.max_run)}{machines} at the cheapest: {' or '.join(parts)}{listed}; on demand is {bought}"
        f"{budget}",
        markup=False,
        highlight=False,
    )


def _price(usd: Decimal | None) -> str:
    return "-" if usd is None else f"{usd:.4f}"


def _price_of(usd: Decimal | None, nodes: GangSize) -> str:
    """Of all machines together; of an elastic gang, of the fewest and the most."""
    if usd is None:
        return "-"
    most = f"{usd * nodes.most:.4f}"
    return f"{usd * nodes.least:.4f}..{most}" if nodes.is_elastic else most


def _cost(usd: Decimal, nodes: GangSize) -> str:
    """Of what one machine costs."""
    most = format_usd(usd * nodes.most)
    return f"{format_usd(usd * nodes.least)} to {most}" if nodes.is_elastic else most


def _sortable(row: dict[str, Any]) -> Decimal:
    price: Decimal | None = row["spot_usd_per_hour"] or row["on_demand_usd_per_hour"]
    return Decimal("Infinity") if price is None else price
