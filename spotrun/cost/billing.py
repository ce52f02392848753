"""What EC2 bills for one instance running Linux, as pure functions.

The rules, for spot and on-demand alike:

1. Billing is per second, from launch to the end, at the price that held in each second.
2. At least 60 seconds are billed.
3. A spot instance that the provider ends within its first hour is free; ended by anybody else, it is not.
4. The two minutes between a notice and the loss are ordinary, billed time.

Other charges (volumes, public addresses, transfer) are extras of the ledger and are due even when rule 3 applies.

Source: Amazon EC2 User Guide, "Billing for interrupted Spot Instances" (Linux rows) and "Spot Instance pricing history";
AWS whitepaper "How Spot Instances work" (billed to the nearest second at the price in effect); EC2 on-demand pricing page
(per second, 60 seconds minimum). Seen 2026-11. That the minimum holds for spot ended by its owner, and that the price
in effect is that of the instant rather than of the hour's start, are assumptions; the error is cents.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

from spotrun.job.event import EndReason
from spotrun.market.offer import MarketKind, PriceStep, cost_usd

__all__ = [
    "BILLED_MIN",
    "FREE_WHEN_INTERRUPTED_WITHIN",
    "attempt_cost",
    "billed_seconds",
    "billed_span",
    "gang_cost",
    "shares",
]

BILLED_MIN = timedelta(seconds=60)
FREE_WHEN_INTERRUPTED_WITHIN = timedelta(seconds=3600)


def billed_span(
    start: datetime, end: datetime, *, market: MarketKind | str, ended_by_provider: bool
) -> tuple[datetime, datetime]:
    """The span [start, end) of time that is billed; empty (both `start`) when nothing is.

    Args:
        start: when the instance was launched.
        end: when it was gone, or now while it runs (then `ended_by_provider` is False: it is not free yet).
        market: `spot` or `on_demand`.
        ended_by_provider: whether the provider took it back, as the provider confirmed.

    Source: see the module.
    """
    ran = max(end - start, timedelta(0))
    is_spot = MarketKind(market) is MarketKind.SPOT
    if is_spot and ended_by_provider and ran < FREE_WHEN_INTERRUPTED_WITHIN:
        return start, start
    return start, start + max(ran, BILLED_MIN)


def billed_seconds(start: datetime, end: datetime, *, market: MarketKind | str, ended_by_provider: bool) -> Decimal:
    """How many seconds are billed, exact to the microsecond; see `billed_span`."""
    first, last = billed_span(start, end, market=market, ended_by_provider=ended_by_provider)
    span = last - first
    return Decimal(span.days * 86400 + span.seconds) + Decimal(span.microseconds) / 1_000_000


def shares(nodes: int, *, reason: EndReason | None, taken: int | None) -> tuple[int, int]:
    """How many machines of an attempt the provider took, and how many ended otherwise: of an interrupted gang it took only
    those that `taken` counts, and the others had to be ended after them. A machine that never ran is in neither number: EC2
    does not bill what is pending.

    Args:
        reason: why the attempt is over, None while it runs.
        taken: of a gang, how many machines that reason is about; None for all.

    Source: Amazon EC2 User Guide, "Instance lifecycle" (billing by state). Seen 2026-11.
    """
    counted = nodes if taken is None else min(taken, nodes)
    if reason is EndReason.INTERRUPTED:
        return counted, nodes - counted
    return 0, nodes - counted if reason is not None and reason.is_false_start else nodes


def gang_cost(
    steps: tuple[PriceStep, ...], start: datetime, end: datetime, *, market: MarketKind | str, nodes: tuple[int, int]
) -> Decimal:
    """What an attempt costs, some of whose machines the provider ended; see `attempt_cost`.

    Args:
        nodes: how many the provider ended, and how many it did not.
    """
    return sum(
        (
            attempt_cost(steps, start, end, market=market, ended_by_provider=by_provider, nodes=count)
            for count, by_provider in zip(nodes, (True, False), strict=True)
            if count
        ),
        Decimal(0),
    )


def attempt_cost(
    steps: tuple[PriceStep, ...],
    start: datetime,
    end: datetime,
    *,
    market: MarketKind | str,
    ended_by_provider: bool,
    nodes: int = 1,
) -> Decimal:
    """What an attempt costs: the integral of its price over the billed span, times its number of instances, in USD.

    Args:
        steps: the price per instance, in order of time; the first must not be later than `start`.
        start, end, market, ended_by_provider: as in `billed_span`.
        nodes: instances that ended like that.

    Raises:
        ValueError: the steps do not cover `start`.

    Source: see the module.
    """
    first, last = billed_span(start, end, market=market, ended_by_provider=ended_by_provider)
    return cost_usd(steps, first, last) * nodes
