"""The generated market: deterministic, of the wanted means, heavy-tailed, cheap to ask at any time."""

from __future__ import annotations

import random
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from itertools import pairwise
from statistics import mean, median

import pytest

from spotrun.errors import SpecError
from spotrun.market import GeneratorConfig, Market, open_market
from spotrun.market.generator import DOWN_HAZARDS, UP_HAZARDS, RunLength, generated_timeline
from spotrun.market.zone import Zone

START = datetime(2026, 3, 1, 9, 30, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)


def up_runs(market: Market, zone: str, until: datetime) -> list[tuple[datetime, datetime, bool]]:
    """Every whole up-run of a zone before `until`: start, end, announced."""
    runs, at = [], market.next_up(zone, market.start)
    while at is not None and at < until:
        loss = market.next_loss(zone, at)
        if loss is None:
            break
        runs.append((at, loss.at, loss.notice))
        at = market.next_up(zone, loss.at)
    return runs


def test_the_same_seed_gives_the_same_market_whoever_asks_in_whatever_order() -> None:
    """A controller that starts anew, and first looks far ahead, must see what its predecessor saw."""
    first = open_market(GeneratorConfig(seed=7), start=START)
    second = open_market(GeneratorConfig(seed=7), start=START)
    far = START + timedelta(days=400)
    second.next_loss("use1-az2", far)
    second.spot_prices("use1-az2", "g5.xlarge", far, far + HOUR)
    end = START + timedelta(days=20)
    assert up_runs(first, "use1-az2", end) == up_runs(second, "use1-az2", end)
    assert first.spot_prices("use1-az2", "g5.xlarge", START, end) == second.spot_prices(
        "use1-az2", "g5.xlarge", START, end
    )


def test_another_process_sees_the_same_market() -> None:
    """String hashes differ between processes; the market must not depend on them."""
    program = (
        "from datetime import datetime, timezone\n"
        "from spotrun.market import GeneratorConfig, open_market\n"
        f"start = datetime.fromisoformat({START.isoformat()!r})\n"
        "market = open_market(GeneratorConfig(seed=3), start=start)\n"
        "print([market.next_loss(zone.id, market.next_up(zone.id, start)).at.isoformat() for zone in market.zones])"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    market = open_market(GeneratorConfig(seed=3), start=START)
    losses = [market.next_loss(zone.id, market.next_up(zone.id, START) or START) for zone in market.zones]
    assert told.strip() == str([loss.at.isoformat() for loss in losses if loss])


def test_seeds_and_zones_differ() -> None:
    """Independent zones are what makes having several of them worth it."""
    one, two = (open_market(GeneratorConfig(seed=seed), start=START) for seed in (1, 2))
    end = START + timedelta(days=5)
    assert up_runs(one, "use1-az1", end) != up_runs(two, "use1-az1", end)
    assert up_runs(one, "use1-az1", end) != up_runs(one, "use1-az2", end)


@pytest.mark.parametrize(("hazards", "mean_h"), [(UP_HAZARDS, 6.0), (DOWN_HAZARDS, 1.0), (UP_HAZARDS, 0.05)])
def test_run_lengths_have_the_wanted_mean(hazards: tuple[float, ...], mean_h: float) -> None:
    """The published hazards give the shape, the user gives the mean."""
    lengths = RunLength(hazards, timedelta(hours=mean_h))
    rng = random.Random(11)
    drawn = [lengths.draw(rng) / HOUR for _ in range(40_000)]
    assert mean(drawn) == pytest.approx(mean_h, rel=0.04)


def test_run_lengths_are_heavy_tailed() -> None:
    """Short runs die young, old ones last: the median is far below the mean, and the longest decile holds most time.

    An exponential distribution has a median of 0.69 means and 33 % of its time in the longest decile.
    """
    lengths = RunLength(UP_HAZARDS, timedelta(hours=6))
    rng = random.Random(5)
    drawn = sorted(lengths.draw(rng) / HOUR for _ in range(20_000))
    assert median(drawn) < 0.4 * 6
    assert sum(drawn[-len(drawn) // 10 :]) > 0.45 * sum(drawn)


def test_hazards_per_age_are_those_of_the_traces() -> None:
    """Unscaled, the share of runs that end within an age bucket follows from the published hazard of that bucket."""
    unscaled = RunLength(UP_HAZARDS, timedelta(hours=1))
    scale_h = unscaled._scale_s / 3600
    rng = random.Random(9)
    drawn = [unscaled.draw(rng) / HOUR / scale_h for _ in range(60_000)]
    for low, high, hazard in [(0.0, 0.34, 1.27), (0.34, 0.67, 0.87), (1.34, 3.0, 0.34), (3.0, 8.0, 0.16)]:
        alive = [length for length in drawn if length >= low]
        exposed = sum(min(length, high) - low for length in alive)
        ended = sum(length < high for length in alive)
        assert ended / exposed == pytest.approx(hazard, rel=0.05)


def test_availability_over_months_is_the_share_of_the_means() -> None:
    """Six hours up, two hours down: three quarters of the time, across the seams of chunks too."""
    config = GeneratorConfig(seed=1, zones=6, mean_up=timedelta(minutes=60), mean_down=timedelta(minutes=20))
    market = open_market(config, start=START)
    span = timedelta(days=200)
    up = timedelta(0)
    for zone in market.zones:
        up += sum((end - start for start, end, _ in up_runs(market, zone.id, START + span)), timedelta(0))
    assert up / (span * 6) == pytest.approx(0.75, abs=0.02)


def test_answers_agree_with_each_other_at_every_boundary() -> None:
    """Up in [start, end), down from the end on; the next loss and the next return are these very instants."""
    market = open_market(GeneratorConfig(seed=4, mean_up=HOUR), start=START)
    tick = timedelta(microseconds=1)
    runs = up_runs(market, "use1-az1", START + timedelta(days=60))
    assert len(runs) > 500  # several chunks
    for (start, end, notice), (following, _, _) in pairwise(runs):
        assert market.available("use1-az1", start)
        assert market.available("use1-az1", end - tick)
        assert not market.available("use1-az1", end)
        assert market.next_loss("use1-az1", end) is None
        middle = market.next_loss("use1-az1", start + (end - start) / 2)
        assert middle is not None
        assert (middle.at, middle.notice) == (end, notice)
        assert market.next_up("use1-az1", end) == following
        assert market.next_up("use1-az1", start) == start


@pytest.mark.parametrize("gap_s", [60.0, 97.3, 3600 / 7])
def test_ticks_are_up_just_when_the_zone_is(gap_s: float) -> None:
    """Told run by run, for forecasts that look at months."""
    config = GeneratorConfig(seed=4, mean_up=HOUR, mean_down=timedelta(minutes=7))
    line = generated_timeline(config, Zone("use1-az1", "us-east-1"))
    count = int(timedelta(days=12).total_seconds() / gap_s)
    up = {tick for ticks in line.ticks_up(gap_s, count) for tick in ticks}
    assert up == {tick for tick in range(count) if line.up(timedelta(seconds=tick * gap_s))}
    assert 0 < len(up) < count


def test_the_share_without_notice_is_kept_and_moves_nothing_else() -> None:
    """Asking for more silent losses must not change when the losses are."""
    end = START + timedelta(days=300)
    some = up_runs(open_market(GeneratorConfig(seed=2, without_notice=0.3), start=START), "use1-az3", end)
    none = up_runs(open_market(GeneratorConfig(seed=2, without_notice=0.0), start=START), "use1-az3", end)
    assert [run[:2] for run in some] == [run[:2] for run in none]
    assert all(notice for _, _, notice in none)
    assert mean(not notice for _, _, notice in some) == pytest.approx(0.3, abs=0.05)


def test_no_down_time_means_lost_and_back_in_the_same_instant() -> None:
    """Interruptions without shortage: every run ends, and the next begins at once."""
    market = open_market(GeneratorConfig(seed=1, mean_up=HOUR, mean_down=timedelta(0)), start=START)
    loss = market.next_loss("use1-az1", START)
    assert loss is not None
    assert market.available("use1-az1", loss.at)
    following = market.next_loss("use1-az1", loss.at)
    assert following is not None
    assert following.at > loss.at


def test_years_later_a_question_draws_a_few_chunks_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cost must not grow with the age of the job, even with runs of seconds."""
    market = open_market(
        GeneratorConfig(seed=1, mean_up=timedelta(seconds=5), mean_down=timedelta(seconds=5)), start=START
    )
    draws = 0
    original = RunLength.draw

    def counted(self: RunLength, rng: random.Random) -> timedelta:
        nonlocal draws
        draws += 1
        return original(self, rng)

    monkeypatch.setattr(RunLength, "draw", counted)
    later = START + timedelta(days=3000)
    market.available("use1-az1", later)
    market.next_up("use1-az1", later)
    market.next_loss("use1-az1", later)
    assert draws < 3000


def test_before_its_start_the_market_is_as_at_its_start() -> None:
    """Clocks of two processes may disagree by a little; that must not be an error."""
    market = open_market(GeneratorConfig(seed=1), start=START)
    early = START - timedelta(seconds=3)
    assert market.available("use1-az1", early) == market.available("use1-az1", START)
    assert market.next_loss("use1-az1", early) == market.next_loss("use1-az1", START)
    steps = market.spot_prices("use1-az1", "g5.xlarge", early, START)
    assert steps[0].at == early


def test_prices_stay_in_their_range_and_hold_for_hours() -> None:
    """Steps between a quarter and six tenths of on-demand; EC2's change a few times a day."""
    market = open_market(GeneratorConfig(seed=1), start=START)
    for zone in market.zones:
        steps = market.spot_prices(zone.id, "p4d.24xlarge", START, START + timedelta(days=100))
        on_demand = market.on_demand_usd_per_hour(zone.id, "p4d.24xlarge")
        assert all(Decimal("0.2499") < step.usd_per_hour / on_demand < Decimal("0.6001") for step in steps)
        holds = [(later.at - earlier.at) / HOUR for earlier, later in pairwise(steps)]
        assert 2 < mean(holds) < 6
        assert len({step.usd_per_hour for step in steps}) > 100


def test_zones_differ_in_price_level() -> None:
    """A cheaper zone must be worth choosing, and cheaper for long."""
    market = open_market(GeneratorConfig(seed=1, zones=6), start=START)
    end = START + timedelta(days=60)
    levels = [
        mean(float(step.usd_per_hour) for step in market.spot_prices(zone.id, "g5.xlarge", START, end))
        for zone in market.zones
    ]
    assert max(levels) > 1.15 * min(levels)


def test_price_windows_are_cut_from_one_curve() -> None:
    """However the asked window lies, it starts not later than asked and tells the same steps."""
    market = open_market(GeneratorConfig(seed=1), start=START)
    whole = market.spot_prices("use1-az1", "g5.xlarge", START, START + timedelta(days=70))
    for hours in (0, 5, 700, 719, 720, 721, 1500):
        start = START + hours * HOUR
        window = market.spot_prices("use1-az1", "g5.xlarge", start, start + 10 * HOUR)
        assert window[0].at <= start
        assert len(window) == 1 or window[1].at > start
        assert set(window) <= set(whole)
        assert [step for step in whole if start < step.at <= start + 10 * HOUR] == list(window[1:])


def test_every_region_has_zones_of_its_own() -> None:
    """Zone ids are AWS's, so that a reader sees at once where a machine was."""
    market = open_market(GeneratorConfig(zones=2), start=START, regions=("us-east-1", "us-west-2"))
    assert [(zone.id, zone.region) for zone in market.zones] == [
        ("use1-az1", "us-east-1"),
        ("use1-az2", "us-east-1"),
        ("usw2-az1", "us-west-2"),
        ("usw2-az2", "us-west-2"),
    ]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"zones": 0}, "zones"),
        ({"zones": 1000}, "zones"),
        ({"mean_up": timedelta(0)}, "mean_up"),
        ({"mean_down": timedelta(seconds=-1)}, "mean_down"),
        ({"mean_up": timedelta(days=10_000)}, "mean_up"),
        ({"without_notice": 1.5}, "without_notice"),
    ],
)
def test_impossible_generators_are_refused(wrong: dict[str, object], field: str) -> None:
    """The sentence starts with the path of the field in the job file."""
    with pytest.raises(SpecError, match=rf"^local\.market\.{field}: "):
        GeneratorConfig(**wrong)  # type: ignore[arg-type]
