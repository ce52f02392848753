"""What is billed beside machines: disks and addresses, by the hour, free first hour or not."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

from spotrun.cost.extra import beside_machines_usd, extras_of
from spotrun.job import JobSpec

HOUR = timedelta(hours=1)


def spec(**more: Any) -> JobSpec:
    wanted = {"name": "a", "command": "b", "provider": "ec2", "checkpoint": {"uri": "s3://runs/x"}, **more}
    return JobSpec.model_validate(wanted)


def test_disks_and_addresses_are_billed_for_as_long_as_machines_are_there() -> None:
    """Beside what the on-demand run would have needed of them."""
    volumes, addresses = extras_of(spec(), [7 * HOUR, 3 * HOUR], useful=5 * HOUR)
    assert (volumes.kind, addresses.kind) == ("volumes", "public addresses")
    assert volumes.usd == Decimal("0.109589041")  # 10 h of 100 GiB at 0.08 USD for 730 h
    assert volumes.on_demand_usd == Decimal("0.054794521")
    assert (addresses.usd, addresses.on_demand_usd) == (Decimal("0.05"), Decimal("0.025"))
    assert "2026" in volumes.source


def test_named_subnets_may_give_no_address() -> None:
    """What is not known is not counted."""
    (volumes,) = extras_of(spec(ec2={"subnets": ["subnet-0abc1234"], "disk": 200}), [10 * HOUR], useful=HOUR)
    assert volumes.usd == Decimal("0.219178082")


def test_a_budget_counts_them_too() -> None:
    """As the report does."""
    assert beside_machines_usd(spec(), 10 * HOUR) == Decimal("0.159589041")


def test_local_jobs_have_none() -> None:
    """They rent nothing."""
    assert extras_of(JobSpec(name="a", command="b"), [HOUR], useful=HOUR) == ()
