"""The ledger beside the provider's bill: the one place where a checker calls what it judges, to compare its result."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

from spotrun.chaos.simulation.books import bill_usd, counted
from spotrun.chaos.simulation.cloud import Lot
from spotrun.chaos.simulation.evidence import Evidence
from spotrun.cost.ledger import build_ledger
from spotrun.market.offer import MarketKind, Offer, PriceStep

__all__ = ["ledger_is_the_bill"]

_ROUNDING_USD = Fraction(1, 10**8)  # of an amount in nano-dollars, and some


def ledger_is_the_bill(it: Evidence) -> Iterator[str]:
    """Machine by machine the ledger has what the provider bills, to the nano-dollar, and adds up to its total; doubles that
    a provider made against its promise are on its own bill alone."""
    lots = {lot.request.attempt: lot for lot in counted(it)}

    def prices(number: int) -> tuple[PriceStep, ...]:
        return _steps(it, lots[number])

    def on_demand(number: int) -> tuple[PriceStep, ...]:
        return it.cloud.steps(_on_demand(lots[number].request.offer))

    ledger = build_ledger(it.events, prices, on_demand)
    for row in ledger.rows:
        billed = bill_usd(it, lots[row.number])
        if abs(Fraction(row.cost_usd) - billed) > _ROUNDING_USD:
            yield f"attempt {row.number}: the ledger says {row.cost_usd} USD, the provider {float(billed):.9f}"
        if sum(row.times.values(), timedelta()) != row.life or sum(row.money.values(), Decimal(0)) != row.cost_usd:
            yield f"attempt {row.number}: its categories do not add up to {row.life} and {row.cost_usd} USD"
    missing = set(lots) - {row.number for row in ledger.rows}
    if any(bill_usd(it, lots[number]) for number in missing):
        yield f"the provider bills attempts {sorted(missing)}, of which the ledger knows nothing"
    if sum(ledger.money.values(), Decimal(0)) + ledger.extras_usd != ledger.total_usd:
        yield f"the categories do not add up to the total of {ledger.total_usd} USD"


def _steps(it: Evidence, lot: Lot) -> tuple[PriceStep, ...]:
    steps = it.cloud.steps(lot.request.offer)
    first = max(place for place, step in enumerate(steps) if step.at <= lot.launched_at)
    return steps[first:]


def _on_demand(offer: Offer) -> Offer:
    return Offer(
        provider=offer.provider,
        region=offer.region,
        zone=offer.zone,
        instance_type=offer.instance_type,
        market=MarketKind.ON_DEMAND,
        price_usd_per_hour=offer.on_demand_usd_per_hour,
        on_demand_usd_per_hour=offer.on_demand_usd_per_hour,
    )
