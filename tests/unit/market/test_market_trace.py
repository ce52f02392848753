"""The recorded market: traces replayed tick for tick, recorded prices, and files that are neither."""

from __future__ import annotations

import json
import random
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pytest

from spotrun.errors import SpecError
from spotrun.market import Market, TraceConfig, cost_usd, open_market
from spotrun.market.price_history import parse_price_rows
from spotrun.market.trace import read_trace

START = datetime(2026, 3, 1, tzinfo=timezone.utc)
TICK = timedelta(microseconds=1)


def written(path: Path, counts: list[int], gap_s: float = 195) -> Path:
    path.write_text(json.dumps({"metadata": {"gap_seconds": gap_s}, "data": counts}), encoding="utf-8")
    return path


def market_of(path: Path, **config: object) -> Market:
    return open_market(TraceConfig(availability={"use1-az1": path}, **config), start=START)  # type: ignore[arg-type]


def test_replay_equals_the_trace_at_every_tick_and_boundary(tmp_path: Path) -> None:
    """Tick k holds over [k * gap, (k + 1) * gap), for counts of any size, and again after the end."""
    rng = random.Random(1)
    counts = [rng.choice([0, 0, 1, 1, 1, 4]) for _ in range(500)]
    market = market_of(written(tmp_path / "trace.json", counts))
    gap = timedelta(seconds=195)
    for tick in range(2 * len(counts)):
        up = counts[tick % len(counts)] >= 1
        for at in (START + tick * gap, START + tick * gap + gap / 2, START + (tick + 1) * gap - TICK):
            assert market.available("use1-az1", at) == up


def test_losses_and_returns_are_the_edges_of_the_trace(tmp_path: Path) -> None:
    """Down, up for two ticks, down for one, up to the end; the run at the end goes on into the first tick if that is up."""
    gap = timedelta(seconds=60)
    market = market_of(written(tmp_path / "trace.json", [0, 1, 1, 0, 1], 60), without_notice=0.0)
    zone = "use1-az1"
    assert market.next_up(zone, START) == START + gap
    loss = market.next_loss(zone, START + gap)
    assert loss is not None
    assert loss.at == START + 3 * gap
    assert market.next_up(zone, loss.at) == START + 4 * gap
    last = market.next_loss(zone, START + 4 * gap)
    assert last is not None
    assert last.at == START + 5 * gap
    again = market_of(written(tmp_path / "again.json", [1, 1, 0, 1], 60))
    over_the_end = again.next_loss(zone, START + 3 * gap)
    assert over_the_end is not None
    assert over_the_end.at == START + 6 * gap


def test_capacity_that_never_goes_or_never_comes_has_no_edge(tmp_path: Path) -> None:
    """None, not an endless search."""
    always = market_of(written(tmp_path / "always.json", [2, 1]))
    never = market_of(written(tmp_path / "never.json", [0, 0]))
    assert always.next_loss("use1-az1", START) is None
    assert always.next_up("use1-az1", START) == START
    assert never.next_up("use1-az1", START) is None
    assert never.next_loss("use1-az1", START) is None


def test_which_losses_are_announced_follows_from_the_seed(tmp_path: Path) -> None:
    """Traces do not tell; all or none can be asked for."""
    path = written(tmp_path / "trace.json", [1, 0] * 200, 60)

    def notices(**config: object) -> list[bool]:
        market = market_of(path, **config)
        losses = [market.next_loss("use1-az1", START + timedelta(minutes=2 * tick)) for tick in range(200)]
        return [loss.notice for loss in losses if loss]

    assert notices(without_notice=0.5) == notices(without_notice=0.5)
    assert notices(without_notice=0.5) != notices(without_notice=0.5, seed=1)
    assert all(notices(without_notice=0.0))
    assert not any(notices(without_notice=1.0))


def test_zones_may_be_given_by_name_and_only_wanted_regions_are_kept(tmp_path: Path) -> None:
    """Published traces know zone names, and a job may be bound to a region."""
    path = written(tmp_path / "trace.json", [1, 0])
    config = TraceConfig(availability={"us-east-1f": path, "usw2-az3": path})
    assert [(zone.id, zone.region) for zone in open_market(config, start=START).zones] == [
        ("us-east-1f", "us-east-1"),
        ("usw2-az3", "us-west-2"),
    ]
    assert [zone.id for zone in open_market(config, start=START, regions=("us-west-2",)).zones] == ["usw2-az3"]
    with pytest.raises(SpecError, match="us-east-1, us-west-2, which leaves nothing in eu-west-1"):
        open_market(config, start=START, regions=("eu-west-1",))
    with pytest.raises(SpecError, match="'my-zone' is not a zone"):
        open_market(TraceConfig(availability={"my-zone": path}), start=START)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is not JSON"),
        ("[]", "gap_seconds must be a number"),
        ('{"metadata": {}, "data": [1]}', "gap_seconds must be a number"),
        ('{"metadata": {"gap_seconds": 0}, "data": [1]}', "gap_seconds must be a number"),
        ('{"metadata": {"gap_seconds": true}, "data": [1]}', "gap_seconds must be a number"),
        ('{"metadata": {"gap_seconds": NaN}, "data": [1]}', "gap_seconds must be a number"),
        ('{"metadata": {"gap_seconds": 60}}', "data must be a list"),
        ('{"metadata": {"gap_seconds": 60}, "data": []}', "data must be a list"),
        ('{"metadata": {"gap_seconds": 60}, "data": [1, "1"]}', r"data\[1\] must be a count"),
        ('{"metadata": {"gap_seconds": 60}, "data": [1, -1]}', r"data\[1\] must be a count"),
    ],
)
def test_a_file_that_is_no_trace_is_told_by_name_and_place(tmp_path: Path, text: str, problem: str) -> None:
    """The user sees which file and what in it."""
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError, match=rf"bad\.json: .*{problem}"):
        read_trace(path)


def test_a_missing_file_is_told_by_name(tmp_path: Path) -> None:
    """No traceback for a typing error."""
    with pytest.raises(SpecError, match=r"nowhere\.json: cannot be read"):
        read_trace(tmp_path / "nowhere.json")


def row(at: str, price: str, zone: str = "use1-az1", **more: str) -> dict[str, str]:
    return {
        "Timestamp": at,
        "AvailabilityZoneId": zone,
        "InstanceType": "g5.xlarge",
        "SpotPrice": price,
        "ProductDescription": "Linux/UNIX",
        **more,
    }


def test_recorded_prices_are_integrated_zone_by_zone_second_by_second(tmp_path: Path) -> None:
    """Rows in any order; the market starts where every pool has a price; the last price holds on."""
    rows = [
        row("2025-01-01T12:00:00Z", "0.6000"),
        row("2025-01-01T02:00:00+00:00", "0.4000"),
        row("2024-12-01T00:00:00Z", "0.2000"),
        row("2025-01-01T00:00:00Z", "0.9000", zone="use1-az2"),
        row("2025-01-01T03:00:00Z", "9.0000", ProductDescription="Windows"),
    ]
    prices = tmp_path / "prices.json"
    prices.write_text(json.dumps({"SpotPriceHistory": rows}), encoding="utf-8")
    trace = written(tmp_path / "trace.json", [1])
    market = open_market(
        TraceConfig(availability={"use1-az1": trace, "use1-az2": trace}, prices=prices),
        start=START,
        instance_types=("g5.xlarge",),
    )
    end = START + timedelta(hours=14)
    steps = market.spot_prices("use1-az1", "g5.xlarge", START, end)
    assert [(step.at - START, step.usd_per_hour) for step in steps[1:]] == [
        (timedelta(hours=2), Decimal("0.4000")),
        (timedelta(hours=12), Decimal("0.6000")),
    ]
    assert cost_usd(steps, START, end) == 2 * Decimal("0.2") + 10 * Decimal("0.4") + 2 * Decimal("0.6")
    later = market.spot_prices("use1-az2", "g5.xlarge", START + timedelta(days=99), START + timedelta(days=100))
    assert [step.usd_per_hour for step in later] == [Decimal("0.9000")]


def test_a_pool_without_recorded_price_is_refused_before_anything_runs(tmp_path: Path) -> None:
    """Better than a report that guesses."""
    prices = tmp_path / "prices.json"
    prices.write_text(json.dumps([row("2025-01-01T00:00:00Z", "0.5")]), encoding="utf-8")
    config = TraceConfig(
        availability={"use1-az1": written(tmp_path / "trace.json", [1]), "use1-az2": tmp_path / "trace.json"},
        prices=prices,
    )
    with pytest.raises(SpecError, match=r"no row for g5\.xlarge in use1-az2"):
        open_market(config, start=START, instance_types=("g5.xlarge",))


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({}, "must be a list of rows"),
        ([], "no row with the ProductDescription"),
        (["x"], "row 0 must be an object"),
        ([row("yesterday", "0.5")], "row 0: Timestamp must be"),
        ([row("2025-01-01T00:00:00Z", "cheap")], "row 0: SpotPrice must be"),
        ([row("2025-01-01T00:00:00Z", "NaN")], "row 0: SpotPrice must be"),
        ([row("2025-01-01T00:00:00Z", "-1")], "row 0: SpotPrice must be"),
        ([row("2025-01-01T00:00:00Z", "1", zone="")], "row 0 names no zone"),
        ([row("2025-01-01T00:00:00Z", "1", InstanceType="")], "row 0: InstanceType is missing"),
    ],
)
def test_rows_that_are_no_price_history_are_told_by_number(document: object, problem: str) -> None:
    """File, row and key."""
    with pytest.raises(SpecError, match=f"prices: {problem}|prices: .*{problem}"):
        parse_price_rows(document, source="prices")
