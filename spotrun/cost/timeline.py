"""The time line drawing: attempts in the lanes of their zones, and the prices beneath, as geometry without markup.

Lengths are units of the drawing's view box. The template turns these values into SVG; nothing here knows of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from spotrun.cost.axis import Scale, Tick, nice_ticks, time_ticks
from spotrun.cost.entry import AttemptRow, EndedBy
from spotrun.cost.report import Report
from spotrun.market.offer import MarketKind, PriceStep
from spotrun.units import format_duration

__all__ = ["Bar", "Gap", "Lane", "Mark", "PriceLine", "Timeline", "draw_timeline"]

WIDTH = 1000.0
LEFT = 118.0
RIGHT = 22.0
TOP = 34.0
LANE = 46.0
BAR = 22.0
PRICE_GAP = 46.0
PRICE = 150.0
_COMMIT_GAP = 4.0  # commits closer than this would be a black block; of those the first is drawn, and the last of all
_COLOURS = 6  # of zones; more zones share them


@dataclass(frozen=True, slots=True)
class Bar:
    """A segment of an attempt: `kind` is its category."""

    x: float
    width: float
    kind: str
    title: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened: `kind` is commit, notice, interrupted, completed or ended."""

    x: float
    kind: str
    title: str


@dataclass(frozen=True, slots=True)
class Lane:
    """A zone and what ran there."""

    y: float
    label: str
    note: str
    colour: int
    bars: tuple[Bar, ...]
    marks: tuple[Mark, ...]
    labels: tuple[Tick, ...]  # attempt numbers, above their bars


@dataclass(frozen=True, slots=True)
class Gap:
    """Time without a machine."""

    x: float
    width: float
    label: str  # empty where there is no room
    title: str


@dataclass(frozen=True, slots=True)
class PriceLine:
    """A step line of prices: `kind` is paid (while an attempt ran), market or on_demand."""

    points: str
    kind: str
    colour: int
    title: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """The whole drawing."""

    width: float
    height: float
    left: float
    right: float  # where the plot ends
    lanes_end: float
    price_top: float
    price_end: float
    bar: float
    times: tuple[Tick, ...]
    prices: tuple[Tick, ...]
    lanes: tuple[Lane, ...]
    gaps: tuple[Gap, ...]
    lines: tuple[PriceLine, ...]
    on_demand_labels: tuple[Tick, ...]
    summary: str


def draw_timeline(report: Report) -> Timeline:
    """The drawing for a report; with no attempt it has no lanes."""
    ledger = report.ledger
    x = Scale(0.0, max(ledger.wall_time.total_seconds(), 1.0), LEFT, WIDTH - RIGHT)
    zones = list(dict.fromkeys((row.zone, row.instance_type) for row in ledger.rows))
    lanes_end = TOP + LANE * max(len(zones), 1)
    price_top = lanes_end + PRICE_GAP
    highest = max((step for row in ledger.rows for step in _usd(row)), default=1.0)
    y = Scale(0.0, highest * 1.12, price_top + PRICE, price_top)
    place = _Place(start=ledger.submitted_at, x=x, y=y)
    listed = sorted({float(row.on_demand_prices[-1].usd_per_hour) for row in ledger.rows})
    return Timeline(
        width=WIDTH,
        height=price_top + PRICE + 30,
        left=LEFT,
        right=WIDTH - RIGHT,
        lanes_end=lanes_end,
        price_top=price_top,
        price_end=price_top + PRICE,
        bar=BAR,
        times=tuple(Tick(place.at(at), label) for at, label in time_ticks(ledger.submitted_at, ledger.until, 11)),
        prices=tuple(
            Tick(y.at(value), f"${value:.2f}" if highest > 0.1 else f"${value:.3g}")
            for value in nice_ticks(0.0, highest * 1.12, 4)
        ),
        lanes=tuple(_lane(place, index, zone, ledger.rows) for index, zone in enumerate(zones)),
        gaps=tuple(_gaps(place, report)),
        lines=tuple(_lines(place, report, zones)),
        on_demand_labels=tuple(Tick(y.at(usd), f"on demand ${usd:.4g}/h") for usd in listed),
        summary=_summary(report),
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """Where instants and prices lie."""

    start: datetime
    x: Scale
    y: Scale

    def at(self, instant: datetime) -> float:
        return self.x.at((instant - self.start).total_seconds())

    def steps(self, steps: Sequence[PriceStep], start: datetime, end: datetime) -> str:
        """The points of a step line within [start, end]."""
        points = []
        for index, step in enumerate(steps):
            begin = max(step.at, start)
            finish = min(steps[index + 1].at, end) if index + 1 < len(steps) else end
            if finish > begin:
                height = self.y.at(float(step.usd_per_hour))
                points += [f"{self.at(begin)},{height}", f"{self.at(finish)},{height}"]
        return " ".join(points)


def _usd(row: AttemptRow) -> Iterable[float]:
    for step in (*row.prices, *row.on_demand_prices):
        if step.at <= row.until:
            yield float(step.usd_per_hour)


def _lane(place: _Place, index: int, zone: tuple[str, str], rows: Sequence[AttemptRow]) -> Lane:
    here = [row for row in rows if (row.zone, row.instance_type) == zone]
    return Lane(
        y=TOP + LANE * index,
        label=zone[0],
        note=zone[1],
        colour=index % _COLOURS,
        bars=tuple(bar for row in here for bar in _bars(place, row)),
        marks=tuple(mark for row in here for mark in _marks(place, row)),
        labels=tuple(_labels(place, here)),
    )


def _labels(place: _Place, rows: Sequence[AttemptRow]) -> Iterable[Tick]:
    """The attempts' numbers; one that would run into its neighbour is left out, its bar still tells it."""
    free_from = 0.0
    for row in rows:
        at = place.at(row.launched_at)
        label = f"#{row.number}" + (" on demand" if row.market is MarketKind.ON_DEMAND else "")
        if at >= free_from:
            yield Tick(at, label)
            free_from = at + 8.0 * len(label)


def _bars(place: _Place, row: AttemptRow) -> Iterable[Bar]:
    for part in row.segments:
        start, end = place.at(part.start), place.at(part.end)
        took = format_duration(part.end - part.start)
        span = f"{part.start:%H:%M:%S} to {part.end:%H:%M:%S} UTC"
        title = f"Attempt {row.number}, {part.category.label.lower()}: {took}, {span}"
        yield Bar(start, round(max(end - start, 0.4), 2), part.category.value, title)


def _marks(place: _Place, row: AttemptRow) -> Iterable[Mark]:
    free_from = 0.0
    for commit in row.commits:
        at = place.at(commit.captured_at)
        if at < free_from and commit is not row.last_commit:
            continue
        free_from = at + _COMMIT_GAP
        why = " on the notice" if commit.on_notice else ""
        title = f"Checkpoint of step {commit.step}{why}, captured {commit.captured_at:%H:%M:%S} UTC"
        yield Mark(at, "commit", title)
    if row.noticed_at is not None:
        yield Mark(place.at(row.noticed_at), "notice", f"Notice at {row.noticed_at:%H:%M:%S} UTC")
    kinds = {EndedBy.INTERRUPTED: "interrupted", EndedBy.COMPLETED: "completed"}
    if row.ended_at is not None:
        notice = " without a notice" if row.interrupted and row.noticed_at is None else ""
        title = f"Attempt {row.number} {row.ended_by.value}{notice} at {row.ended_at:%H:%M:%S} UTC"
        yield Mark(place.at(row.ended_at), kinds.get(row.ended_by, "ended"), title)


def _gaps(place: _Place, report: Report) -> Iterable[Gap]:
    for wait in report.ledger.waits:
        start, end = place.at(wait.start), place.at(wait.end)
        took = format_duration(wait.end - wait.start)
        title = f"No machine for {took}" + (f": {wait.reason}" if wait.reason else "")
        room = end - start
        label = f"waiting {took}" if room > 96 else took if room > 54 else ""
        yield Gap(start, round(room, 2), label, title)


def _lines(place: _Place, report: Report, zones: Sequence[tuple[str, str]]) -> Iterable[PriceLine]:
    ledger = report.ledger
    for curve in report.curves:
        if (curve.zone, curve.instance_type) in zones:
            colour = zones.index((curve.zone, curve.instance_type)) % _COLOURS
            points = place.steps(curve.steps, ledger.submitted_at, ledger.until)
            yield PriceLine(points, "market", colour, f"Spot price in {curve.zone}")
    listed = {row.instance_type: row for row in ledger.rows}
    for name, row in listed.items():
        steps = row.on_demand_prices
        first = PriceStep(at=min(steps[0].at, ledger.submitted_at), usd_per_hour=steps[0].usd_per_hour)
        points = place.steps((first, *steps[1:]), ledger.submitted_at, ledger.until)
        yield PriceLine(points, "on_demand", 0, f"On-demand price of {name}")
    for row in ledger.rows:
        points = place.steps(row.prices, row.launched_at, row.until)
        colour = zones.index((row.zone, row.instance_type)) % _COLOURS
        title = f"Attempt {row.number} in {row.zone}: ${row.mean_price_usd_per_hour:.4f} an hour on average"
        yield PriceLine(points, "paid", colour, title)


def _summary(report: Report) -> str:
    ledger = report.ledger
    zones = len({row.zone for row in ledger.rows})
    return (
        f"{len(ledger.rows)} attempts in {zones} zones over {format_duration(ledger.wall_time)}, "
        f"{ledger.interruptions} interruptions, {format_duration(ledger.wait_time)} without a machine."
    )
