"""What spot capacity saved, against the on-demand run that would have done the same useful work.

The words, all in USD and exact; times are those of the ledger, over all attempts and nodes:

    paid            T  = compute + extras
    list price      B  = the on-demand price over the very hours the attempts ran
    gross           G  = B - compute                            a price discount: what the EC2 console calls savings.
                                                                It counts hours that were wasted as saved.
    on-demand run   CF = on-demand price over D, from the first launch on, + extras it would have had
                    D  = one start-up + useful + checkpoint     no restore, no lost work, no waiting, never interrupted;
                                                                a start-up is one with its setup
    net             NS = CF - T                                 may be negative, and is then shown so
    waste           W  = lost + restore + idle + every start-up but the one that D has too
    goodput            useful time / run time; and over wall time, which waiting lowers too
    delay              wall time - D; and NS / delay, the dollars saved for each hour of it
    break-even         (CF - extras) / B: saving needs a price below this share of the on-demand price. With constant
                    prices it is D / run time: overhead is what a discount must first pay for.
    per step        T / steps in the final state

Every share is None where its denominator is zero. D is laid out work by work, in the order it was done, each part at
the on-demand price of the machine type that did it, so that a change of type or of the dated price is followed. The
on-demand run is billed by the same rules (60 seconds at least).
Source: Amazon EC2 User Guide, "Savings from purchasing Spot Instances" (gross); Google Cloud, ML goodput (goodput as the
share of time spent on training progress that is preserved); seen 2026-11.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from spotrun.cost.billing import BILLED_MIN
from spotrun.cost.category import Category, seconds_of, to_money
from spotrun.cost.entry import AttemptRow
from spotrun.cost.ledger import Ledger
from spotrun.market.offer import MarketKind, PriceStep, cost_usd

__all__ = ["Savings", "measure_savings"]

_HOUR_S = Decimal(3600)
_NOTHING = timedelta(0)
_BEGINNING = (Category.START_UP, Category.SETUP)  # once needed, whoever runs the job
_WASTED = (Category.LOST, Category.RESTORE, Category.IDLE, *_BEGINNING)


@dataclass(frozen=True, kw_only=True, slots=True)
class Savings:
    """What the job saved; the module defines every word. Shares are of one."""

    paid_usd: Decimal
    list_usd: Decimal
    gross_usd: Decimal
    gross_share: Decimal | None  # of the list price
    on_demand_usd: Decimal
    on_demand_time: timedelta  # D
    net_usd: Decimal
    net_share: Decimal | None  # of the on-demand run
    waste_usd: Decimal
    waste_share: Decimal | None  # of what was paid
    goodput: Decimal | None  # of the time that ran
    goodput_wall: Decimal | None  # of the time since submission
    delay: timedelta
    net_usd_per_delay_hour: Decimal | None  # None without a delay
    usd_per_step: Decimal | None
    price_ratio: Decimal | None  # compute paid / list price
    break_even_ratio: Decimal | None
    on_demand_time_share: Decimal | None  # of the run time that was bought on demand


def measure_savings(ledger: Ledger, *, checkpoint_on_demand: bool = True) -> Savings:
    """The savings that a ledger shows; for a running job, those so far.

    Args:
        checkpoint_on_demand: whether the on-demand run would save checkpoints as often as this one did.
    """
    first = _first_trained(ledger)
    begun = sum((first.times[category] for category in _BEGINNING), _NOTHING) if first is not None else _NOTHING
    kept = [Category.USEFUL, *([Category.CHECKPOINT] if checkpoint_on_demand else [])]
    work = [
        (
            row,
            sum((row.times[category] for category in kept), begun if row is first else _NOTHING),
        )
        for row in ledger.rows
    ]
    duration = sum((time for _, time in work), _NOTHING)
    extras_usd = sum((extra.on_demand_usd for extra in ledger.extras), Decimal(0))
    machine_usd = _on_demand_run(work)
    listed = sum((row.on_demand_cost_usd for row in ledger.rows), Decimal(0))
    net = machine_usd + extras_usd - ledger.total_usd
    waste = _waste(ledger, first)
    useful = ledger.times[Category.USEFUL]
    bought = sum((row.life for row in ledger.rows if row.market is MarketKind.ON_DEMAND), _NOTHING)
    delay = ledger.wall_time - duration
    return Savings(
        paid_usd=ledger.total_usd,
        list_usd=listed,
        gross_usd=listed - ledger.compute_usd,
        gross_share=_share(listed - ledger.compute_usd, listed),
        on_demand_usd=machine_usd + extras_usd,
        on_demand_time=duration,
        net_usd=net,
        net_share=_share(net, machine_usd + extras_usd),
        waste_usd=waste,
        waste_share=_share(waste, ledger.total_usd),
        goodput=_share(seconds_of(useful), seconds_of(ledger.run_time)),
        goodput_wall=_share(seconds_of(useful), seconds_of(ledger.wall_time)),
        delay=delay,
        net_usd_per_delay_hour=net * _HOUR_S / seconds_of(delay) if delay > _NOTHING else None,
        usd_per_step=_share(ledger.total_usd, Decimal(ledger.steps_kept)),
        price_ratio=_share(ledger.compute_usd, listed),
        break_even_ratio=_share(machine_usd + extras_usd - ledger.extras_usd, listed),
        on_demand_time_share=_share(seconds_of(bought), seconds_of(ledger.run_time)),
    )


def _share(part: Decimal, whole: Decimal) -> Decimal | None:
    return part / whole if whole > 0 else None


def _first_trained(ledger: Ledger) -> AttemptRow | None:
    """The attempt whose start-up stands for the on-demand run's: the first that got as far as useful work."""
    return next((row for row in ledger.rows if row.times[Category.USEFUL]), None)


def _waste(ledger: Ledger, first: AttemptRow | None) -> Decimal:
    spent = sum((ledger.money[category] for category in _WASTED), Decimal(0))
    return spent - (sum((first.money[category] for category in _BEGINNING), Decimal(0)) if first is not None else 0)


def _on_demand_run(work: Sequence[tuple[AttemptRow, timedelta]]) -> Decimal:
    """The on-demand price of the work, laid out without a gap from the first launch on."""
    parts = [(row, time) for row, time in work if time > _NOTHING]
    if not parts:
        return Decimal(0)
    missing = max(BILLED_MIN - sum((time for _, time in parts), _NOTHING), _NOTHING)
    parts[-1] = (parts[-1][0], parts[-1][1] + missing)
    at, total = work[0][0].launched_at, Decimal(0)
    for row, time in parts:
        total += cost_usd(_covering(row.on_demand_prices, at), at, at + time) * row.nodes
        at += time
    return to_money(total)


def _covering(steps: tuple[PriceStep, ...], start: datetime) -> tuple[PriceStep, ...]:
    """The steps; the first price known holds before it too."""
    if steps[0].at <= start:
        return steps
    return (PriceStep(at=start, usd_per_hour=steps[0].usd_per_hour), *steps)
