"""What a job has cost so far, for its budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal

import pytest
from controller_story import ELASTIC, OFFER, at, ended, job_of, started, submitted

from spotrun.controller.bill import Bill
from spotrun.errors import ProviderError
from spotrun.job import EndReason
from spotrun.market.offer import Offer, PriceStep
from spotrun.market.source import PriceSources
from spotrun.providers.provider import Instance, LaunchRequest


class Prices:
    """A provider that only knows prices."""

    def __init__(self, *steps: PriceStep) -> None:
        self.steps = steps
        self.asked = 0

    def prices(self, offer: Offer, start: datetime, end: datetime) -> tuple[PriceStep, ...]:
        assert offer == OFFER
        self.asked += 1
        return self.steps

    def offers(self) -> Sequence[Offer]:
        raise ProviderError("not asked for")

    def launch(self, request: LaunchRequest) -> Instance:
        raise ProviderError("not asked for")

    def observe(self, job_id: str) -> Sequence[Instance]:
        raise ProviderError("not asked for")

    def terminate(self, instance_id: str) -> None:
        raise ProviderError("not asked for")

    def sources(self) -> PriceSources:
        raise ProviderError("not asked for")


def test_before_the_first_machine_nothing_is_spent() -> None:
    assert Bill(Prices()).spent(job_of([submitted()]), at(60)) == 0


def test_a_running_machine_is_billed_by_the_second_at_the_price_that_held() -> None:
    prices = Prices(
        PriceStep(at=at(0), usd_per_hour=Decimal("0.36")), PriceStep(at=at(31), usd_per_hour=Decimal("0.72"))
    )
    assert Bill(prices).spent(job_of(started()), at(61)) == Decimal("0.18") + Decimal("0.36")


def test_at_least_a_minute_is_billed() -> None:
    assert Bill(Prices()).spent(job_of(started()), at(1.1)) == Decimal("0.36") / 60


@pytest.mark.parametrize(
    ("reason", "minutes", "spent"),
    [
        (EndReason.INTERRUPTED, 60.9, Decimal(0)),
        (EndReason.INTERRUPTED, 61, Decimal("0.36")),
        (EndReason.TERMINATED, 31, Decimal("0.18")),
        (EndReason.EXITED, 31, Decimal("0.18")),
    ],
)
def test_the_first_hour_is_free_only_if_the_provider_took_it(reason: EndReason, minutes: float, spent: Decimal) -> None:
    job = job_of([*started(), ended(minutes, reason)])
    assert Bill(Prices()).spent(job, at(500)) == spent


def test_what_is_over_is_priced_once() -> None:
    prices = Prices()
    bill, job = Bill(prices), job_of([*started(), ended(31, EndReason.EXITED)])
    assert bill.spent(job, at(40)) == bill.spent(job, at(50))
    assert prices.asked == 1


def test_without_a_price_the_one_of_the_placement_holds() -> None:
    late = Prices(PriceStep(at=at(31), usd_per_hour=Decimal("0.72")))
    assert Bill(late).spent(job_of(started()), at(61)) == Decimal("0.18") + Decimal("0.36")


def test_of_an_elastic_gang_the_machines_that_came_are_billed() -> None:
    """Three of 2..4, and three disks and addresses; of those that were taken in the first hour only the latter."""
    hour = Decimal("0.36") + Decimal("0.08") * 100 / 730 + Decimal("0.005")
    running = started(ELASTIC, members=("i-1", "i-2", "i-3"))
    assert Bill(Prices()).spent(job_of(running), at(61)) == pytest.approx(hour * 3, abs=Decimal("0.00001"))
    taken = replace(ended(31, EndReason.INTERRUPTED), taken=1)
    half = hour * 3 / 2 - Decimal("0.18")
    assert Bill(Prices()).spent(job_of([*running, taken]), at(61)) == pytest.approx(half, abs=Decimal("0.00001"))
