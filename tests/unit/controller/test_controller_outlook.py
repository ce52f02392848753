"""What a forecast takes prices to be: on a cloud the mean of the last days, not what is asked at this moment."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from spotrun.controller.outlook import Outlook, outlook
from spotrun.errors import ProviderError
from spotrun.job import load_spec
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


def looked(*, remembers: bool) -> Outlook:
    outside: Any = SimpleNamespace(
        wall=SimpleNamespace(now=lambda: NOW),
        complete=lambda spec: spec,
        job_clock=lambda spec, at: None,
        connect=lambda spec, **given: Cloud(remembers=remembers),
    )
    return outlook(load_spec(SPEC), outside=outside, workdir=Path(), brief=True)


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
