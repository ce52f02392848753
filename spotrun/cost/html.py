"""The report as one self-contained page: no script, no font, no picture from outside, so it can be mailed and kept.

The geometry of the drawings comes from `timeline` and `loss_curve`; the templates beside this file turn values into
markup and escape every one of them. A content security policy in the page forbids everything but its own styles.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from jinja2 import Environment, PackageLoader, StrictUndefined

from spotrun.cost.category import Category
from spotrun.cost.definition import DEFINITIONS
from spotrun.cost.entry import AttemptRow, EndedBy
from spotrun.cost.loss_curve import draw_loss
from spotrun.cost.report import MoneyLine, Report, money_lines, total_shown
from spotrun.cost.timeline import draw_timeline
from spotrun.market.offer import MarketKind
from spotrun.units import format_duration, format_percent, format_usd

__all__ = ["render_html"]

_DASH = "–"


@dataclass(frozen=True, slots=True)
class _Fact:
    """One figure with its name and a remark."""

    label: str
    value: str
    note: str
    tone: str = ""  # good, bad or empty


@dataclass(frozen=True, slots=True)
class _Share:
    """One line of the breakdown, and its piece of the bar, in percent of the whole bar."""

    key: str
    label: str
    shown: str
    percent: str
    width: float
    time: str


@dataclass(frozen=True, slots=True)
class _AttemptLine:
    """One line of the attempts table."""

    number: int
    zone: str
    place: str
    market: str
    started: str
    started_after: str
    ran: str
    ended_by: str
    ended_tone: str
    steps: str
    resumed_from: str
    lost: str
    lost_steps: str
    notice: str
    margin: str
    price: str
    cost: str
    reason: str


def render_html(report: Report) -> str:
    """The page, as text of one HTML file."""
    environment = Environment(
        loader=PackageLoader("spotrun.cost"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    lines = money_lines(report.ledger)
    bar_usd = max(report.savings.paid_usd, report.savings.on_demand_usd)
    return environment.get_template("report.html.j2").render(
        report=report,
        job=report.job,
        ledger=report.ledger,
        tone="good" if report.savings.net_usd >= 0 else "bad",
        facts=_facts(report, lines),
        bars=_shares(report, lines, bar_usd),
        breakdown=_shares(report, lines, report.savings.paid_usd),
        ran=format_duration(report.ledger.run_time),
        total_shown=total_shown(report.ledger),
        paid=format_usd(report.savings.paid_usd),
        on_demand=format_usd(report.savings.on_demand_usd),
        on_demand_width=_percent_of(report.savings.on_demand_usd, bar_usd),
        timeline=draw_timeline(report),
        loss=draw_loss(report),
        attempts=[_attempt(report, row) for row in report.ledger.rows],
        definitions=DEFINITIONS,
    )


def _facts(report: Report, lines: Sequence[MoneyLine]) -> Iterable[_Fact]:
    savings, ledger = report.savings, report.ledger
    tone = "good" if savings.net_usd >= 0 else "bad"
    lost = ledger.times[Category.LOST]
    lost_usd = next(line.shown for line in lines if line.key == Category.LOST.value)
    lost_note = f"{format_duration(lost)} in {ledger.steps_lost} steps" if lost else "no step was done twice"
    per_hour = savings.net_usd_per_delay_hour
    worth = f"{format_usd(per_hour)} saved for each hour of it" if per_hour is not None and per_hour > 0 else ""
    took = f"in {format_duration(savings.on_demand_time)} without an interruption"
    mix = (
        f"{_share(savings.on_demand_time_share)} of the running time on demand" if savings.on_demand_time_share else ""
    )
    yield _Fact("Paid", format_usd(savings.paid_usd), mix or ("all of it on spot" if ledger.rows else ""))
    yield _Fact("On demand would have cost", format_usd(savings.on_demand_usd), took)
    yield _Fact(
        "Net savings", _share(savings.net_share), f"{format_usd(savings.net_usd)} for the same useful work", tone
    )
    yield _Fact("Price discount", _share(savings.gross_share), "gross, on the hours that ran, wasted ones included")
    yield _Fact("Interruptions", str(ledger.interruptions), f"{len(ledger.rows)} attempts, {ledger.refused} refused")
    yield _Fact("Lost work", lost_usd, lost_note)
    yield _Fact("Goodput", _share(savings.goodput), f"{_share(savings.goodput_wall)} of all time since submission")
    yield _Fact("Delay", format_duration(savings.delay), worth)
    yield _Fact("Waste", _share(savings.waste_share), f"{format_usd(savings.waste_usd)} of what was paid")
    yield _Fact(
        "Break-even price",
        _share(savings.break_even_ratio),
        f"of the on-demand price; paid was {_share(savings.price_ratio)}",
    )
    thousand = format_usd(savings.usd_per_step * 1000) if savings.usd_per_step is not None else _DASH
    yield _Fact("Per 1000 useful steps", thousand, f"{ledger.steps_kept:,} steps in the final model")
    yield _Fact(
        "Waiting", format_duration(ledger.wait_time), f"of {format_duration(ledger.wall_time)} since submission"
    )


def _shares(report: Report, lines: Sequence[MoneyLine], whole: Decimal) -> Sequence[_Share]:
    times = {category.value: time for category, time in report.ledger.times.items()}
    return [
        _Share(
            key=line.key,
            label=line.label,
            shown=line.shown,
            percent=format_percent(line.share),
            width=_percent_of(line.usd, whole),
            time=format_duration(times[line.key]) if times.get(line.key) else _DASH,
        )
        for line in lines
    ]


def _attempt(report: Report, row: AttemptRow) -> _AttemptLine:
    lost = row.times[Category.LOST]
    tones = {EndedBy.COMPLETED: "good", EndedBy.INTERRUPTED: "warn", EndedBy.FAILED: "bad"}
    if row.notice_deadline is not None and row.noticed_at is not None:
        notice = format_duration(row.notice_deadline - row.noticed_at)
    else:
        notice = "none came" if row.interrupted else _DASH
    return _AttemptLine(
        number=row.number,
        zone=row.zone,
        place=f"{row.nodes} × {row.instance_type}" if row.nodes > 1 else row.instance_type,
        market=row.market.value.replace("_", " "),
        started=f"{row.launched_at:%H:%M:%S}",
        started_after=format_duration(row.launched_at - report.ledger.submitted_at),
        ran=format_duration(row.life),
        ended_by=row.ended_by.value,
        ended_tone=tones.get(row.ended_by, ""),
        steps=f"{row.steps:,}",
        resumed_from=f"{row.resumed_from:,}" if row.resumed_from is not None else _DASH,
        lost=format_duration(lost) if lost else _DASH,
        lost_steps=f"{row.steps_lost:,} steps" if row.steps_lost else "",
        notice=notice,
        margin=format_duration(row.margin) if row.margin is not None else _DASH,
        price=f"${row.mean_price_usd_per_hour:.4f}",
        cost=format_usd(row.cost_usd) if row.billed_seconds else "free",
        reason=row.placed_because if row.market is MarketKind.ON_DEMAND else "",
    )


def _percent_of(part: Decimal, whole: Decimal) -> float:
    return round(float(part / whole) * 100, 3) if whole > 0 else 0.0


def _share(share: Decimal | None) -> str:
    return format_percent(share) if share is not None else _DASH
