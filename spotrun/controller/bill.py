"""What a job has cost so far, for its budget. The ledger (`spotrun.cost`) tells the same in detail."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from spotrun.cost.billing import gang_cost, shares
from spotrun.cost.extra import beside_machines_usd
from spotrun.job import Attempt, Job
from spotrun.market.offer import MarketKind, Offer, PriceStep
from spotrun.providers.provider import Provider

__all__ = ["Bill", "offer_of", "others_of"]


class Bill:
    """Adds up the attempts of one job; those that are over are priced once."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._settled: dict[int, Decimal] = {}

    def spent(self, job: Job, now: datetime) -> Decimal:
        """USD spent until `now`.

        Raises:
            ProviderError: prices cannot be had now.
        """
        return sum((self._cost(job, attempt, now) for attempt in job.attempts), Decimal(0))

    def _cost(self, job: Job, attempt: Attempt, now: datetime) -> Decimal:
        if attempt.launched_at is None:
            return Decimal(0)
        known = self._settled.get(attempt.number)
        if known is not None:
            return known
        end = attempt.ended_at or max(now, attempt.launched_at)
        counts = shares(attempt.nodes, reason=attempt.end_reason, taken=attempt.taken)
        steps = self._steps(attempt, attempt.launched_at, end)
        cost = gang_cost(steps, attempt.launched_at, end, market=attempt.market, nodes=counts)
        cost += beside_machines_usd(job.spec, (end - attempt.launched_at) * sum(counts))
        if attempt.ended_at is not None:
            self._settled[attempt.number] = cost
        return cost

    def _steps(self, attempt: Attempt, start: datetime, end: datetime) -> tuple[PriceStep, ...]:
        """The prices that held; before the first known one, the price at which the attempt was placed."""
        steps = tuple(self._provider.prices(offer_of(attempt), start, end))
        if steps and steps[0].at <= start:
            return steps
        return (PriceStep(at=start, usd_per_hour=attempt.price_usd_per_hour), *steps)


def offer_of(attempt: Attempt) -> Offer:
    """The offer that the attempt was placed on."""
    return Offer(
        provider=attempt.provider,
        region=attempt.region,
        zone=attempt.zone,
        instance_type=attempt.instance_type,
        market=MarketKind(attempt.market),
        price_usd_per_hour=attempt.price_usd_per_hour,
        on_demand_usd_per_hour=attempt.on_demand_usd_per_hour,
    )


def others_of(attempt: Attempt) -> tuple[Offer, ...]:
    """The offers that will do as well, while it has no machine."""
    return tuple(
        replace(
            offer_of(attempt),
            zone=it.zone,
            instance_type=it.instance_type,
            price_usd_per_hour=it.price_usd_per_hour,
            on_demand_usd_per_hour=it.on_demand_usd_per_hour,
        )
        for it in attempt.alternatives
    )
