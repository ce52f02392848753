"""What EC2 bills: per second, sixty at least, and nothing for a spot instance taken back in its first hour."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from decimal import Decimal

import pytest

from spotrun.cost.billing import attempt_cost, billed_seconds, billed_span, gang_cost, shares
from spotrun.job.event import EndReason
from spotrun.market.offer import MarketKind, PriceStep

START = datetime(2026, 7, 3, 10, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("ran_s", "market", "by_provider", "billed"),
    [
        (3599.999999, "spot", True, "0"),  # the last microsecond of the free hour
        (3600, "spot", True, "3600"),  # at the hour it is due in full
        (3600.5, "spot", True, "3600.5"),
        (3599, "spot", False, "3599"),  # ended by ourselves: no free hour
        (3599, "on_demand", True, "3599"),  # a machine that dies is no spot interruption
        (10, "spot", False, "60"),  # the minimum
        (10, "on_demand", False, "60"),
        (10, "spot", True, "0"),
        (0, "on_demand", False, "60"),
        (90000.25, "spot", False, "90000.25"),
    ],
)
def test_billed_seconds_follow_the_table_of_who_ended_what(ran_s, market, by_provider, billed):
    """Each row is a case of AWS's own table for Linux."""
    end = START + timedelta(seconds=ran_s)
    assert billed_seconds(START, end, market=market, ended_by_provider=by_provider) == Decimal(billed)


def test_an_end_before_the_start_bills_the_minimum_and_never_less_than_nothing():
    """Clocks of two machines may disagree by a moment; money never turns negative."""
    end = START - timedelta(seconds=3)
    assert billed_span(START, end, market="on_demand", ended_by_provider=False) == (
        START,
        START + timedelta(seconds=60),
    )
    assert billed_seconds(START, end, market="spot", ended_by_provider=True) == 0


def test_cost_integrates_the_price_steps_over_the_billed_span():
    """Three hours at one price and two at the next: never one price for the whole attempt."""
    steps = (
        PriceStep(at=START, usd_per_hour=Decimal("6.289")),
        PriceStep(at=START + timedelta(hours=3), usd_per_hour=Decimal("7.00")),
    )
    cost = attempt_cost(steps, START, START + timedelta(hours=5), market=MarketKind.SPOT, ended_by_provider=True)
    assert cost == 3 * Decimal("6.289") + 2 * Decimal("7.00")


def test_a_gang_costs_its_price_once_for_each_node():
    """Four nodes, one hour."""
    steps = (PriceStep(at=START, usd_per_hour=Decimal("2.5")),)
    cost = attempt_cost(steps, START, START + timedelta(hours=1), market="spot", ended_by_provider=False, nodes=4)
    assert cost == Decimal("10.0")


def test_a_free_attempt_costs_nothing_even_when_no_price_is_known():
    """Nothing is billed, so no price is needed; a billed attempt without a price is refused."""
    end = START + timedelta(minutes=45)
    assert attempt_cost((), START, end, market="spot", ended_by_provider=True) == 0
    with pytest.raises(ValueError, match="no price is known"):
        attempt_cost((), START, end, market="spot", ended_by_provider=False)


def test_of_an_interrupted_gang_only_the_machines_that_were_taken_are_free():
    """The others had to be ended by their side."""
    steps = (PriceStep(at=START, usd_per_hour=Decimal(6)),)
    end = START + timedelta(minutes=30)
    assert shares(4, reason=EndReason.INTERRUPTED, taken=1) == (1, 3)
    assert shares(4, reason=EndReason.INTERRUPTED, taken=None) == (4, 0)
    assert shares(4, reason=EndReason.TERMINATED, taken=2) == (0, 4)
    assert gang_cost(steps, START, end, market="spot", nodes=(1, 3)) == Decimal(9)
    assert gang_cost(steps, START, end, market="spot", nodes=(4, 0)) == 0


def test_a_machine_that_never_ran_is_not_billed():
    """Of a gang, the others are."""
    assert shares(1, reason=EndReason.UNSTARTED, taken=None) == (0, 0)
    assert shares(4, reason=EndReason.DENIED, taken=1) == (0, 3)
    assert shares(4, reason=None, taken=None) == (0, 4)
