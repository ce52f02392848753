"""An elastic gang in a forecast: bounded by its fewest machines in time, and by whichever are dearer in money."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from spotrun.job import JobSpec
from spotrun.policy.forecast import Forecast, Stretch
from spotrun.units import format_duration

__all__ = ["Size", "at_prices_of", "bounded", "shared", "sized", "sizes_of"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """So many machines, and how long they take for the work."""

    machines: int
    work: timedelta


def sizes_of(spec: JobSpec, work: timedelta, *, grows: bool) -> list[Size]:
    """The gang's bounds. `work` is what all machines take; it grows for fewer of them, unless it is a limit for any."""
    nodes = spec.resources.nodes
    counts = sorted({nodes.least, nodes.most})
    return [Size(machines=count, work=work * nodes.most / count if grows else work) for count in counts]


def shared(spec: JobSpec) -> str:
    nodes = spec.resources.nodes
    return f" for all {nodes.most} machines" if nodes.is_elastic else ""


def sized(spec: JobSpec, sizes: Sequence[Size]) -> Iterator[str]:
    """What is assumed of an elastic gang."""
    if not spec.resources.nodes.is_elastic:
        return
    few, many = sizes[0], sizes[-1]
    if few is many:
        yield f"{few.machines} machines, as now; the next attempt may have {spec.resources.nodes}"
        return
    yield (
        f"{few.machines} to {many.machines} machines, speed growing with their number: done as late as with {few.machines} "
        f"({format_duration(few.work)} of work), at the cost of whichever is dearer"
    )
    if few.work > spec.limits.max_run:
        limit = format_duration(spec.limits.max_run)
        yield f"with {few.machines} machines all the time, max_run {limit} ends the job before its work is done"


def at_prices_of(stretch: Stretch, machines: int) -> Stretch:
    """The market as so many machines at once would pay it."""
    return replace(stretch, usd_per_hour={pool: usd * machines for pool, usd in stretch.usd_per_hour.items()})


def bounded(forecasts: Sequence[Forecast]) -> Forecast:
    """The time of the first forecast, of the fewest machines; the money and the misses of whichever has more."""
    first, last = forecasts[0], forecasts[-1]
    prospects = (
        replace(
            few,
            in_time=min(few.in_time, many.in_time),
            broke=max(few.broke, many.broke),
            cost_usd=_dearer(few.cost_usd, many.cost_usd),
        )
        for few, many in zip(first.prospects, last.prospects, strict=True)
    )
    return Forecast(prospects=tuple(prospects))


def _dearer(one: tuple[float, float, float], other: tuple[float, float, float]) -> tuple[float, float, float]:
    return max(one[0], other[0]), max(one[1], other[1]), max(one[2], other[2])
