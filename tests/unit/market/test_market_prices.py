"""Step prices and the built-in table of on-demand prices."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from decimal import Decimal
from itertools import pairwise

import pytest

from spotrun.errors import SpecError
from spotrun.market import PriceStep, cost_usd, mean_price_usd_per_hour
from spotrun.market.price_table import AS_OF, SOURCE, instance_types, instance_types_with, on_demand_usd_per_hour
from spotrun.market.zone import zone_id, zone_of

START = datetime(2026, 3, 1, tzinfo=timezone.utc)
STEPS = (
    PriceStep(at=START, usd_per_hour=Decimal("6.289")),
    PriceStep(at=START + timedelta(hours=3), usd_per_hour=Decimal("7.00")),
)


def test_the_integral_takes_each_price_for_as_long_as_it_held() -> None:
    """Three hours at one price and two at the next, exact to the last digit."""
    assert cost_usd(STEPS, START, START + timedelta(hours=5)) == 3 * Decimal("6.289") + 2 * Decimal("7.00")
    assert cost_usd(STEPS, START + timedelta(hours=2), START + timedelta(hours=4)) == Decimal("13.289")
    assert cost_usd(STEPS, START, START) == 0
    assert cost_usd(STEPS, START, START + timedelta(seconds=1)) == Decimal("6.289") / 3600


def test_adjacent_integrals_add_up_to_the_whole() -> None:
    """The ledger splits an attempt at many instants; no cent may appear or vanish."""
    cuts = [START + timedelta(minutes=37 * n) for n in range(20)]
    parts = sum(cost_usd(STEPS, a, b) for a, b in pairwise(cuts))
    assert parts.quantize(Decimal("1e-20")) == cost_usd(STEPS, cuts[0], cuts[-1]).quantize(Decimal("1e-20"))


def test_the_mean_price_is_weighted_by_time() -> None:
    """And the price of an empty span is the one that holds."""
    assert mean_price_usd_per_hour(STEPS, START, START + timedelta(hours=6)) == Decimal("6.6445")
    at = START + timedelta(hours=4)
    assert mean_price_usd_per_hour(STEPS, at, at) == Decimal("7.00")


def test_a_span_before_the_first_step_has_no_price() -> None:
    """An error, never zero dollars."""
    with pytest.raises(ValueError, match="no price is known"):
        cost_usd(STEPS, START - timedelta(hours=1), START)


@pytest.mark.parametrize(
    ("accelerator", "first"),
    [
        ("A10G:1", "g5.xlarge"),
        ("a10g", "g5.xlarge"),
        ("T4:1", "g4dn.xlarge"),
        ("L4:1", "g6.xlarge"),
        ("L40S:4", "g6e.12xlarge"),
        ("V100:8", "p3.16xlarge"),
        ("A100:8", "p4d.24xlarge"),
        ("H100:1", "p5.4xlarge"),
        ("H100:8", "p5.48xlarge"),
    ],
)
def test_an_accelerator_gives_its_cheapest_type_first(accelerator: str, first: str) -> None:
    """What a user writes, and what it means."""
    found = instance_types_with(accelerator)
    assert found[0].name == first
    assert [known.usd_per_hour for known in found] == sorted(known.usd_per_hour for known in found)


def test_unknown_accelerators_types_and_regions_are_refused_with_what_is_known() -> None:
    """The sentence helps to write the right one."""
    with pytest.raises(SpecError, match=r"^resources\.accelerator: .*'A10G:3'.* A10G:1, A10G:4"):
        instance_types_with("A10G:3")
    with pytest.raises(SpecError, match=r"^resources\.instance_types: .*'g5\.huge'.* g5\.xlarge"):
        on_demand_usd_per_hour("g5.huge", "us-east-1")
    with pytest.raises(SpecError, match=r"^resources\.regions: .*'mars-1'; it is known in us-east-1"):
        on_demand_usd_per_hour("g5.xlarge", "mars-1")


def test_every_row_is_dated_and_plausible() -> None:
    """Prices have a source and a date; with as many GPUs of a kind, more CPUs cost more."""
    assert AS_OF.year >= 2026
    assert "AWS" in SOURCE
    for known in instance_types():
        assert known.usd_per_hour > 0
        assert known.regions
        assert zone_of(zone_id(known.regions[0], 1)).region == known.regions[0]
    families: dict[tuple[str, int], list[tuple[int, Decimal]]] = {}
    for known in instance_types():
        family = (known.name.split(".")[0], known.accelerator_count)
        families.setdefault(family, []).append((known.vcpus, known.usd_per_hour))
    for sizes in families.values():
        assert [price for _, price in sorted(sizes)] == sorted(price for _, price in sizes)


@pytest.mark.parametrize(
    ("region", "expected"),
    [
        ("us-east-1", "use1-az2"),
        ("us-west-2", "usw2-az2"),
        ("eu-central-1", "euc1-az2"),
        ("ap-northeast-1", "apne1-az2"),
        ("ap-southeast-2", "apse2-az2"),
        ("us-gov-west-1", "usgw1-az2"),
    ],
)
def test_zone_ids_are_written_as_aws_does_and_lead_back_to_their_region(region: str, expected: str) -> None:
    """There and back again."""
    assert zone_id(region, 2) == expected
    assert zone_of(expected).region == region
    assert zone_of(f"{region}b").region == region


@pytest.mark.parametrize("wrong", ["mars", "us-up-1", "", "../etc"])
def test_what_is_no_region_is_refused(wrong: str) -> None:
    """A typing error must not become a zone."""
    with pytest.raises(SpecError, match="is not a region"):
        zone_id(wrong, 1)
    with pytest.raises(SpecError, match="is not a zone"):
        zone_of(wrong)
