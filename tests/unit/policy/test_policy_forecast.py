"""Forecasts: shares of simulated episodes, of a market whose outcome is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from spotrun.policy.forecast import SPOT_ONLY, Stretch, Work, forecast

HOUR = 3600.0


def work(**more: Any) -> Work:
    common: dict[str, Any] = {"work_s": 4 * HOUR, "deadline_s": 8 * HOUR, "changeover_s": 600.0}
    return Work(**{**common, "on_demand_usd_per_hour": 3.0, **more})


def stretch(*letters: str, usd: float = 1.0) -> Stretch:
    """Pools of a cycle of ten-minute ticks; `#` is up."""
    up = {f"z{number}/g5.xlarge/spot": np.array([it == "#" for it in line]) for number, line in enumerate(letters)}
    return Stretch(gap_s=600.0, up=up, usd_per_hour=dict.fromkeys(up, usd))


def test_a_market_without_losses_has_one_outcome() -> None:
    """Four hours and a start, at spot's price; nothing on demand, nothing lost, all in time."""
    chosen = forecast(work(), stretch("#" * 50), episodes=20).chosen
    hours = 4 + 1 / 6
    assert chosen.finish_s == pytest.approx((hours * HOUR,) * 3)
    assert chosen.cost_usd == pytest.approx((hours,) * 3)
    assert (chosen.in_time, chosen.interruptions, chosen.uninterrupted, chosen.on_demand_share) == (1, 0, 1, 0)


def test_a_market_without_spot_is_on_demand_in_time_or_late() -> None:
    """With permission it is dear and in time; without, it costs nothing and is late."""
    dear = forecast(work(), stretch("." * 50), episodes=20).chosen
    assert (dear.in_time, dear.on_demand_share) == (1, 1)
    assert dear.cost_usd[1] == pytest.approx(3 * (4 + 1 / 6))
    waiting = forecast(work(may_buy=False), stretch("." * 50), episodes=20)
    assert [it.rule for it in waiting.prospects] == [SPOT_ONLY]
    assert (waiting.chosen.in_time, waiting.chosen.cost_usd[2]) == (0, 0)


def test_each_rule_and_each_pool_is_told() -> None:
    """The job as it is written first; no budget is exceeded; two pools are better than one."""
    market = stretch("##...#####....", "..####.....###")
    found = forecast(work(budget_usd=9.0), market, episodes=40)
    told = [(it.rule, len(it.pools)) for it in found.prospects]
    assert told == [
        ("widening_reserve", 2),
        ("greedy", 2),
        ("uniform_progress", 2),
        ("on_demand", 0),
        ("widening_reserve", 1),
        ("widening_reserve", 1),
    ]
    assert all(max(cost for _, cost, _ in it.outcomes) <= 9 + 1e-9 for it in found.prospects)
    by_rule = {it.rule: it for it in found.prospects[:4]}
    assert (by_rule["on_demand"].in_time, by_rule["on_demand"].broke) == (0, 1)
    alone = [it.cost_usd[1] for it in found.prospects[4:]]
    assert found.chosen.cost_usd[1] <= min(alone)
    assert 30 <= found.chosen.interval_s <= 3600
    assert forecast(work(), market, rules=(), episodes=5).prospects == (
        forecast(work(), market, rules=(), episodes=5).chosen,
    )
