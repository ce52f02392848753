"""What a job will cost and when it will be done, before a dollar is spent: many episodes of its market, told as shares.

The episodes are simulated by the same rules that place the job (`spotrun.policy.rule`), each from another moment of the
market that is given. A forecast is as good as that market: it says what it assumed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from spotrun.policy.cadence import MTBI_S, YoungDaly
from spotrun.policy.catalogue import DEFAULT, RULES, NamedRule
from spotrun.policy.episode import COLUMNS, Episodes, interpreted
from spotrun.policy.rule import Case
from spotrun.policy.scene import Pool, make_scene

__all__ = ["EPISODES", "FORECAST_RULES", "SPOT_ONLY", "Forecast", "Prospect", "Stretch", "Work", "forecast"]

EPISODES = 200  # the share of a hundredth is then known to about a hundredth
_HISTORY_S = 86400.0  # that the choice of a zone looks back on

# Rules that need nothing but arithmetic; see docs/placement.md.
FORECAST_RULES = ("widening_reserve", "greedy", "uniform_progress", "on_demand")

SPOT_ONLY = "spot_only"  # waits for spot whatever it takes: `on_shortage: wait`

_STALL_S = 1.0  # of a save that nobody has measured yet, for the recommended interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What is to be done. Durations in seconds, money in dollars.

    Attributes:
        work_s: training that is left.
        deadline_s: until `max_wait` is over.
        changeover_s: what a start takes.
        interval_s: between checkpoints; zero: an interruption loses nothing.
        on_demand_usd_per_hour: of one machine or the gang; None: on-demand must not be bought.
        budget_usd: what may still be spent.
        stall_s: what a save costs.
    """

    work_s: float
    deadline_s: float
    changeover_s: float
    interval_s: float = 600.0
    on_demand_usd_per_hour: float
    may_buy: bool = True
    budget_usd: float | None = None
    stall_s: float = _STALL_S

    @property
    def case(self) -> Case:
        """The same for the rules."""
        return Case(
            work_s=self.work_s,
            deadline_s=self.deadline_s,
            changeover_s=self.changeover_s,
            interval_s=self.interval_s,
            on_demand_price=self.on_demand_usd_per_hour,
            may_buy=self.may_buy,
            budget=1e300 if self.budget_usd is None else self.budget_usd,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """A market to draw episodes from: availability and price of each pool at ticks of `gap_s`, as one cycle."""

    gap_s: float
    up: Mapping[str, NDArray[np.bool_]]
    usd_per_hour: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prospect:
    """What comes of one rule in one choice of pools.

    Attributes:
        rule, pools: which; no pools for on-demand alone.
        episodes: how many were simulated.
        in_time, broke: share of them that were done by the deadline, and that ran out of money.
        finish_s, cost_usd: the quantiles 0.1, 0.5 and 0.9 of those that were done in time, and of all.
        interruptions: mean; `uninterrupted`: the share without any.
        on_demand_share: of the machine time.
        interval_s: the checkpoint interval that wastes least at this rate of interruptions.
        outcomes: (finish_s, cost_usd, in time) of each episode, for the picture.
    """

    rule: str
    pools: tuple[str, ...]
    episodes: int
    in_time: float
    broke: float
    finish_s: tuple[float, float, float]
    cost_usd: tuple[float, float, float]
    interruptions: float
    uninterrupted: float
    on_demand_share: float
    interval_s: float
    outcomes: tuple[tuple[float, float, bool], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """All prospects of a job; the first is what will be done."""

    prospects: tuple[Prospect, ...]

    @property
    def chosen(self) -> Prospect:
        """The job as it is written."""
        return self.prospects[0]


def forecast(
    work: Work,
    stretch: Stretch,
    *,
    chosen: NamedRule = DEFAULT,
    rules: Sequence[str] = FORECAST_RULES,
    seed: int = 0,
    episodes: int = EPISODES,
) -> Forecast:
    """The prospects of a job: its rule on all pools together, each other rule, and each pool alone; with no rules asked for,
    only the first.

    A job that must not buy on-demand has one rule, and on-demand alone is left out.

    Raises:
        ValueError: there is no pool.
    """
    pools = tuple(stretch.up)
    found = [_prospect(chosen, pools, work, stretch, (seed, episodes))]
    if work.may_buy:
        others = [RULES[name] for name in rules if name != chosen.name]
        found += [_prospect(rule, pools, work, stretch, (seed, episodes)) for rule in others]
    if len(pools) > 1 and rules and chosen.name != "on_demand":
        found += [_prospect(chosen, (pool,), work, stretch, (seed, episodes)) for pool in pools]
    return Forecast(prospects=tuple(found))


def _prospect(rule: NamedRule, pools: tuple[str, ...], work: Work, stretch: Stretch, draw: tuple[int, int]) -> Prospect:
    seed, episodes = draw
    case, gap_s = work.case, stretch.gap_s
    cycle, before = len(stretch.up[pools[0]]), ceil(_HISTORY_S / gap_s)
    ticks = before + cycle + ceil(case.deadline_s / gap_s) + 1
    scene = make_scene(
        [Pool(up=np.resize(stretch.up[pool], ticks), price=stretch.usd_per_hour[pool]) for pool in pools],
        gap_s=gap_s,
        changeover_s=case.changeover_s,
    )
    dice = random.Random(f"forecast/{seed}")  # noqa: S311  a sample, not a secret
    starts = np.array([before + dice.randrange(cycle) for _ in range(episodes)], np.int64)
    run: Callable[..., NDArray[np.float64]] = _simulator(rule)
    rows = run(scene, starts, case, rule.constants(case))
    column = {name: rows[:, number] for number, name in enumerate(COLUMNS)}
    done = (column["late"] == 0) & (column["broke"] == 0)
    machine_s = column["spot_s"] + column["on_demand_s"]
    losses = column["interruptions"].sum()
    mean_s = float(column["spot_s"].sum() / losses) if losses else MTBI_S * 12
    return Prospect(
        rule=rule.name if work.may_buy else SPOT_ONLY,
        pools=() if rule.name == "on_demand" else pools,
        episodes=episodes,
        in_time=float(done.mean()),
        broke=float(column["broke"].mean()),
        finish_s=_quantiles(column["finish_s"][done] if done.any() else column["finish_s"]),
        cost_usd=_quantiles(column["cost"]),
        interruptions=float(column["interruptions"].mean()),
        uninterrupted=float((column["interruptions"] == 0).mean()),
        on_demand_share=float(column["on_demand_s"].sum() / max(machine_s.sum(), 1e-9)),
        interval_s=YoungDaly(mean_time_between_interruptions_s=max(mean_s, 60.0)).interval_s(stall_s=work.stall_s),
        outcomes=tuple(
            (float(finish), float(cost), bool(good))
            for finish, cost, good in zip(column["finish_s"], column["cost"], done, strict=True)
        ),
    )


def _simulator(rule: NamedRule) -> Episodes:
    # Interpreted: some hundred episodes take less time than a compiler.
    return interpreted(rule.rule)


def _quantiles(values: NDArray[np.float64]) -> tuple[float, float, float]:
    low, middle, high = np.quantile(values, (0.1, 0.5, 0.9)).tolist()
    return low, middle, high
