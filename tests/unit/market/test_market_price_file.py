"""The prices that were read: kept whole, dated row by row, never believed when damaged."""

from __future__ import annotations

import json
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path

import pytest

from spotrun.errors import SpecError
from spotrun.market.price_file import OnDemandRow, PriceFile, SpotRow, read_price_file, write_price_file

AT = datetime(2026, 7, 1, 12, tzinfo=timezone.utc)


def listed(region: str, usd: str, day: int = 1, name: str = "g5.xlarge") -> OnDemandRow:
    return OnDemandRow(instance_type=name, region=region, usd_per_hour=Decimal(usd), as_of=date(2026, 7, day))


def spot(region: str, zone: str, usd: str) -> SpotRow:
    return SpotRow(instance_type="g5.xlarge", region=region, zone=zone, usd_per_hour=Decimal(usd), at=AT)


def test_what_is_written_is_read_back_to_the_last_digit(tmp_path: Path) -> None:
    """And the home is made if it is not there."""
    prices = PriceFile(on_demand=(listed("us-east-1", "1.0060"),), spot=(spot("us-east-1", "use1-az1", "0.402400"),))
    path = tmp_path / "home" / "prices.json"
    write_price_file(path, prices)
    assert read_price_file(path) == prices
    assert [each.name for each in path.parent.iterdir()] == ["prices.json"]


def test_without_a_file_nothing_is_known(tmp_path: Path) -> None:
    """Which is no error."""
    assert read_price_file(tmp_path / "prices.json") == PriceFile()


def test_reading_one_region_leaves_the_others(tmp_path: Path) -> None:
    """Spot rows of a region are replaced as a whole; an on-demand price that was not told this time stays."""
    before = PriceFile(
        on_demand=(listed("a", "1"), listed("b", "2"), listed("a", "9", name="p5.48xlarge")),
        spot=(spot("a", "a-az1", "0.1"), spot("a", "a-az2", "0.2"), spot("b", "b-az1", "0.3")),
    )
    after = before.with_regions(["a"], on_demand=[listed("a", "1.5", 2)], spot=[spot("a", "a-az1", "0.4")])
    assert {(row.zone, str(row.usd_per_hour)) for row in after.spot} == {("a-az1", "0.4"), ("b-az1", "0.3")}
    row = after.on_demand_row("g5.xlarge", "a")
    assert row is not None
    assert (row.usd_per_hour, row.as_of.day) == (Decimal("1.5"), 2)
    assert after.on_demand_row("g5.xlarge", "b") == listed("b", "2")
    assert after.on_demand_row("p5.48xlarge", "a") is not None
    assert after.on_demand_row("p5.48xlarge", "b") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        json.dumps({"version": 2, "on_demand": [], "spot": []}),
        json.dumps({"version": 1, "on_demand": [{"instance_type": "x"}], "spot": []}),
        json.dumps(
            {
                "version": 1,
                "on_demand": [{"instance_type": "x", "region": "a", "usd_per_hour": "-1", "as_of": "2026-07-01"}],
                "spot": [],
            }
        ),
        json.dumps(
            {
                "version": 1,
                "on_demand": [],
                "spot": [{"instance_type": "x", "region": "a", "zone": "z", "usd_per_hour": "1", "at": "2026-07-01"}],
            }
        ),
    ],
)
def test_a_damaged_file_is_refused_with_what_to_do(tmp_path: Path, text: str) -> None:
    """A wrong price is worse than none."""
    path = tmp_path / "prices.json"
    path.write_text(text)
    with pytest.raises(SpecError, match="refresh"):
        read_price_file(path)
