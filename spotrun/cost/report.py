"""What a report shows, as one value that every renderer reads: the terminal, JSON, CSV and the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import NamedTuple

from spotrun.cost.category import MONEY_QUANTUM, Category, apportion, to_money
from spotrun.cost.entry import EndedBy
from spotrun.cost.ledger import Ledger
from spotrun.cost.savings import Savings, measure_savings
from spotrun.job.state import Job
from spotrun.market.offer import MarketKind, PriceStep
from spotrun.market.source import PriceSource
from spotrun.units import format_duration, format_percent, format_usd

__all__ = ["Metric", "MoneyLine", "PriceCurve", "PriceSource", "Report", "make_report", "money_lines", "total_shown"]


_NAMED_MAX = 8  # attempts named in one note; more are counted


class Metric(NamedTuple):
    """The loss after one step of one attempt."""

    step: int
    at: datetime
    loss: float | None
    attempt: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PriceCurve:
    """The spot price of one pool over the whole job, to draw where no attempt ran too."""

    zone: str
    instance_type: str
    steps: tuple[PriceStep, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """A job's costs and savings, ready to be shown. Amounts are estimates from prices, not an invoice."""

    job: Job
    ledger: Ledger
    savings: Savings
    spot_prices: PriceSource
    on_demand_prices: PriceSource
    metrics: tuple[Metric, ...] = ()
    curves: tuple[PriceCurve, ...] = ()

    @property
    def simulated(self) -> bool:
        """Whether any price is simulated, so that no dollar here was ever billed."""
        return self.spot_prices.simulated or self.on_demand_prices.simulated

    @property
    def is_final(self) -> bool:
        """Whether the job is over."""
        return self.job.phase.is_end

    @property
    def headline(self) -> str:
        """The result in a few words, e.g. `Saved $3.60`; a loss is called one."""
        net = self.savings.net_usd
        so_far = "" if self.is_final else " so far"
        if self.savings.on_demand_usd == 0:
            return f"Paid {format_usd(self.savings.paid_usd)}{so_far}, nothing kept{'' if self.is_final else ' yet'}"
        if net >= 0:
            return f"Saved {format_usd(net)}{so_far}"
        return f"Cost {format_usd(-net)} more{so_far}"

    @property
    def verdict(self) -> str:
        """The headline's second line: compared with what."""
        share = self.savings.net_share
        if share is None:
            return "There is no useful work yet that an on-demand run could be compared with."
        than = f"the on-demand run of the same useful work ({format_usd(self.savings.on_demand_usd)})"
        if share >= 0:
            return f"{format_percent(share)} less than {than}"
        return f"{format_percent(-share)} more than {than}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a careful reader must know to trust the figures."""
        return tuple(_notes(self))


@dataclass(frozen=True, kw_only=True, slots=True)
class MoneyLine:
    """One line of 'where each dollar went'. `shown` is rounded so that all lines add up to the shown total."""

    key: str  # a category, or `extras`
    label: str
    usd: Decimal
    shown: str
    share: Decimal  # of the total, 0 when nothing was paid


def make_report(
    job: Job,
    ledger: Ledger,
    *,
    spot_prices: PriceSource,
    on_demand_prices: PriceSource,
    metrics: Iterable[tuple[int, datetime, float | None, int]] = (),
    curves: Iterable[PriceCurve] = (),
) -> Report:
    """A report of a job.

    Args:
        job: the fold of the journal that the ledger was built from.
        spot_prices, on_demand_prices: where the ledger's prices come from.
        metrics: (step, instant, loss, attempt) in the order of attempts; any number, charts thin them out.
        curves: spot prices over the whole job; without them only those under the attempts are drawn.
    """
    return Report(
        job=job,
        ledger=ledger,
        savings=measure_savings(ledger),
        spot_prices=spot_prices,
        on_demand_prices=on_demand_prices,
        metrics=tuple(Metric(*metric) for metric in metrics),
        curves=tuple(curves),
    )


def money_lines(ledger: Ledger) -> tuple[MoneyLine, ...]:
    """The total, divided over the categories and extras, in the order of the categories.

    Shown amounts have cents, or more decimals below a dollar, and are rounded together: what is seen adds up.
    """
    parts = [
        (category.value, category.label, usd)
        for category, usd in ledger.money.items()
        if usd or category is not Category.SETUP  # most jobs have no setup
    ]
    parts += [("extras", extra.kind, extra.usd) for extra in ledger.extras]
    total = ledger.total_usd
    quantum = _shown_quantum(total)
    weights = [max(int(to_money(usd) / MONEY_QUANTUM), 0) for _, _, usd in parts]
    shown = apportion(total.quantize(quantum, ROUND_HALF_EVEN), weights, quantum)
    return tuple(
        MoneyLine(key=key, label=label, usd=usd, shown=f"${amount:,}", share=usd / total if total > 0 else Decimal(0))
        for (key, label, usd), amount in zip(parts, shown, strict=True)
    )


def total_shown(ledger: Ledger) -> str:
    """The total as `money_lines` adds up to it."""
    return f"${ledger.total_usd.quantize(_shown_quantum(ledger.total_usd), ROUND_HALF_EVEN):,}"


def _shown_quantum(total: Decimal) -> Decimal:
    if total == 0 or total >= 1:
        return Decimal("0.01")
    return Decimal("0.0001") if total >= Decimal("0.01") else Decimal("0.000001")


def _notes(report: Report) -> Iterable[str]:
    ledger = report.ledger
    if report.simulated:
        yield "Simulated prices: the market of this job was made up or replayed, and nobody was billed these amounts."
    yield (
        "Estimated from prices and measured times, not read from an invoice. Taxes, credits, Savings Plans and "
        "negotiated rates are not counted; with any of these the on-demand comparison is too high."
    )
    if not ledger.extras:
        yield "No extras are counted: volumes, public addresses, storage and transfer are billed beside these amounts."
    else:
        yield (
            "Extras are the least that is known: what commits keep beyond the newest ones, storage after the end, inputs, outputs, "
            "logs and NAT gateways are billed beside these amounts."
        )
    if not report.is_final:
        yield f"The job is {report.job.phase.value}: figures are as of {ledger.until:%Y-%m-%d %H:%M:%S} UTC and will change."
    assumed = [row.number for row in ledger.rows if row.price_assumed]
    if assumed:
        yield f"No price history was known for {_attempts(assumed)}: the price seen at placement is used throughout."
    never = [row.number for row in ledger.rows if row.ended_by is EndedBy.UNSTARTED]
    if never:
        yield f"Not billed: {_attempts(never)}. AWS ended the machine as it started; it never ran."
    free = [row.number for row in ledger.rows if row.life and not row.billed_seconds and row.number not in never]
    if free:
        yield f"Free of charge: {_attempts(free)}. Spot capacity taken back within its first hour is not billed."
    bought = [row for row in ledger.rows if row.market is MarketKind.ON_DEMAND]
    if bought and report.savings.on_demand_time_share is not None:
        share = format_percent(report.savings.on_demand_time_share)
        yield f"{share} of the running time was bought on demand."
    if ledger.refused:
        yield f"{ledger.refused} launch{'es were' if ledger.refused > 1 else ' was'} refused by the provider; refusals cost nothing."
    if ledger.wait_time:
        yield f"The job was without a machine for {format_duration(ledger.wait_time)}; waiting costs nothing by itself."
    if ledger.guarantee:
        yield f"The training says of a resume: {ledger.guarantee}"
    yield from (f"The training warned: {warning}" for warning in ledger.warnings)


def _attempts(numbers: Sequence[int]) -> str:
    """The attempts by number; a long list by its length."""
    if len(numbers) == 1:
        return f"attempt {numbers[0]}"
    if len(numbers) > _NAMED_MAX:
        return f"{len(numbers)} attempts"
    return "attempts " + ", ".join(str(number) for number in numbers[:-1]) + f" and {numbers[-1]}"
