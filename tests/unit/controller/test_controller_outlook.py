"""What a forecast takes prices to be: on a cloud the mean of the last days, not what is asked at this moment."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spotrun.controller.outlook import Guess, Outlook, look_ahead, outlook
from spotrun.controller.placing import placed
from spotrun.errors import ProviderError
from spotrun.job import (
    AttemptEnded,
    EndReason,
    Event,
    JobSpec,
    Launched,
    Progress,
    Progressed,
    Submitted,
    TrainingPhase,
    fold,
    load_spec,
)
from spotrun.market.offer import MarketKind, Offer, PriceStep

NOW = datetime(2026, 6, 15, tzinfo=timezone.utc)
SPEC: dict[str, Any] = {
    "name": "gpt",
    "command": "python train.py",
    "provider": "ec2",
    "resources": {"instance_types": ["g5.xlarge"], "regions": ["us-east-1"]},
    "limits": {"max_run": "4h", "max_wait": "8h", "on_shortage": "on_demand"},
    "checkpoint": {"uri": "s3://bucket/runs"},
}


def offer(market: MarketKind, usd: str) -> Offer:
    return Offer(
        provider="ec2",
        region="us-east-1",
        zone="use1-az1",
        instance_type="g5.xlarge",
        market=market,
        price_usd_per_hour=Decimal(usd),
        on_demand_usd_per_hour=Decimal("1.006"),
    )


class Cloud:
    """Asks 0.90 now and asked 0.30 for all but the last day."""

    def __init__(self, *, remembers: bool) -> None:
        self._remembers = remembers

    def offers(self) -> Sequence[Offer]:
        return [offer(MarketKind.SPOT, "0.90"), offer(MarketKind.ON_DEMAND, "1.006")]

    def prices(self, offer: Offer, start: datetime, end: datetime) -> tuple[PriceStep, ...]:
        if not self._remembers:
            raise ProviderError("AWS refused for spot prices")
        steps = (start, Decimal("0.30")), (end - timedelta(days=1), Decimal("0.90"))
        return tuple(PriceStep(at=at, usd_per_hour=usd) for at, usd in steps)


def outside(*, remembers: bool) -> Any:
    return SimpleNamespace(
        wall=SimpleNamespace(now=lambda: NOW),
        complete=lambda spec: spec,
        job_clock=lambda spec, at: None,
        connect=lambda spec, **given: Cloud(remembers=remembers),
    )


def looked(*, remembers: bool) -> Outlook:
    return outlook(load_spec(SPEC), outside=outside(remembers=remembers), workdir=Path(), brief=True)


def test_a_peak_of_this_moment_is_not_taken_to_stay() -> None:
    """13 days at 0.30 and one at 0.90 are 0.3429 on average; the forecast says which days these are."""
    told = "\n".join(looked(remembers=True).assumptions)
    assert (
        "the mean of each pool's spot prices from 2026-06-01 to 2026-06-15, taken to stay: spot from $0.3429/h" in told
    )


def test_without_a_history_present_prices_are_taken_and_it_is_said() -> None:
    """A policy that does not allow the history must not cost the forecast."""
    told = "\n".join(looked(remembers=False).assumptions)
    assert "prices as offered on 2026-06-15, taken to stay (the price history could not be read: AWS refused" in told
    assert "spot from $0.9000/h" in told


def elastic(**more: Any) -> JobSpec:
    resources = {**SPEC["resources"], "nodes": "2..4"}
    return load_spec({**SPEC, "limits": {"max_run": "12h", "max_wait": "48h"}, "resources": resources, **more})


def test_an_elastic_gang_is_forecast_with_the_time_of_the_fewest_and_the_money_of_the_dearer() -> None:
    """Two hours of work for four machines are four hours for two of them; at a tie of machine hours starts make the difference."""
    found = outlook(
        elastic(), outside=outside(remembers=True), workdir=Path(), guess=Guess(work=timedelta(hours=2)), brief=True
    )
    few = outlook(
        elastic(resources={**SPEC["resources"], "nodes": 2}),
        outside=outside(remembers=True),
        workdir=Path(),
        guess=Guess(work=timedelta(hours=4)),
        brief=True,
    )
    many = outlook(
        elastic(resources={**SPEC["resources"], "nodes": 4}),
        outside=outside(remembers=True),
        workdir=Path(),
        guess=Guess(work=timedelta(hours=2)),
        brief=True,
    )
    assert found.work.work_s == 4 * 3600
    assert found.forecast.chosen.finish_s == few.forecast.chosen.finish_s
    costs = [it.forecast.chosen.cost_usd[1] for it in (found, few, many)]
    assert costs[0] == max(costs)
    told = "\n".join(found.assumptions)
    assert "2 to 4 machines, speed growing with their number: done as late as with 2 (4 h 00 min of work)" in told


def test_what_few_machines_cannot_do_within_max_run_is_said() -> None:
    """They may be all that comes."""
    found = outlook(
        elastic(), outside=outside(remembers=True), workdir=Path(), guess=Guess(work=timedelta(hours=7)), brief=True
    )
    assert "with 2 machines all the time, max_run 12 h 00 min ends the job before its work is done" in found.assumptions


def test_what_is_left_of_a_running_gang_is_told_by_the_machines_that_it_has() -> None:
    """Three came, at 3 steps a second; with none running, the bounds count again."""
    spec = elastic()
    events: list[Event] = [Submitted(at=NOW, job_id="gpt-1", spec=spec.to_json())]
    events.append(placed(fold(events), offer(MarketKind.SPOT, "0.30"), NOW, reason=""))
    members = ("i-1", "i-2", "i-3")
    events.append(Launched(at=NOW, attempt=1, instance_id="gang-1", launched_at=NOW, members=members))
    news = Progress(phase=TrainingPhase.TRAINING, at=NOW, training_at=NOW, total_steps=10_800, steps_per_s=3.0)
    events.append(Progressed(at=NOW, attempt=1, progress=news))
    offers = Cloud(remembers=True).offers()
    running = look_ahead(fold(events), offers, NOW, workdir=Path())
    assert running.work.work_s == pytest.approx(3600 * 1.1)
    assert "3 machines, as now; the next attempt may have 2..4" in running.assumptions
    events.append(AttemptEnded(at=NOW, attempt=1, ended_at=NOW, reason=EndReason.INTERRUPTED))
    assert look_ahead(fold(events), offers, NOW, workdir=Path()).work.work_s == pytest.approx(5400 * 1.1)
