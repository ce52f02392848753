"""A generated market: spot capacity that comes and goes, and prices that move, from a seed.

**Availability** is a semi-Markov chain for each zone: up-runs and down-runs take turns, and how likely a run is to end
depends on its age. Short runs die young and old ones last, as in the real traces: the hazards per hour below were
pooled over probe traces of V100 and K80 capacity in single AWS zones, weeks of 2022 and 2023, published with "Can't Be
Late: Optimizing Spot Instance Savings under Deadlines" (Wu et al., NSDI 2024; github.com/skypilot-org/spot-traces):

    age of the run, hours     0-0.34  -0.67  -1.34   -3     -8     >8
    going down, per hour       1.27    0.87   0.57   0.34   0.16   0.07
    coming back, per hour      1.55    0.88   0.67   0.31   0.29   0.07

Only the shape is taken: time is stretched so that the mean runs are those asked for.

**Prices** are steps that hold for some hours: a mean-reverting walk between 0.25 and 0.6 of on-demand around a level
of each pool's own, so that some zones are cheaper than others. That range and the pace are a plain likeness of
EC2's present pricing, not a fit, and any report built on them says 'simulated'.

Source: hazards fitted to the traces named above; EC2 prices change slowly since 2017 (AWS, "How Spot Instances work").
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from math import exp

from spotrun.errors import SpecError
from spotrun.market.price_table import on_demand_usd_per_hour
from spotrun.market.timeline import Chunk, Timeline, UpRun
from spotrun.market.zone import Zone, zone_id

__all__ = [
    "AGES_H",
    "DOWN_HAZARDS",
    "UP_HAZARDS",
    "GeneratedPrices",
    "GeneratorConfig",
    "RunLength",
    "generated_timeline",
    "generated_zones",
]

AGES_H = (0.0, 0.34, 0.67, 1.34, 3.0, 8.0)  # where each hazard begins to hold
UP_HAZARDS = (1.27, 0.87, 0.57, 0.34, 0.16, 0.07)
DOWN_HAZARDS = (1.55, 0.88, 0.67, 0.31, 0.29, 0.07)

_CYCLES_PER_CHUNK = 256  # few enough to draw in a millisecond, so many that cutting runs at the seam moves no mean
_CHUNK_MAX = timedelta(days=3650)  # keeps every instant far from the end of the calendar
_MEAN_MAX = timedelta(days=365)
_RUN_MIN = timedelta(microseconds=1)
_ZONES_MAX = 26

_PRICE_CHUNK = timedelta(days=30)
_PRICE_HOLDS_MIN_S = 3600.0
_PRICE_HOLDS_MORE_S = 3 * 3600.0  # mean of what comes on top
_SHARE_MIN, _SHARE_MAX = 0.25, 0.60  # of on-demand
_LEVEL_MIN, _LEVEL_MAX = 0.30, 0.50
_WALK_STEP = 0.02
_PULL = 0.15  # of the distance to the level, each step


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorConfig:
    """A generated market.

    Attributes:
        seed: the same seed gives the same market, on every machine.
        zones: how many zones each region has.
        mean_up, mean_down: mean length of a run with and without capacity; a `mean_down` of zero takes capacity away
            and gives it back in the same instant.
        without_notice: share of the losses that come without notice.
    """

    seed: int = 0
    zones: int = 4
    mean_up: timedelta = timedelta(hours=6)
    mean_down: timedelta = timedelta(hours=1)
    without_notice: float = 0.1

    def __post_init__(self) -> None:
        problems = []
        if not 1 <= self.zones <= _ZONES_MAX:
            problems.append(f"local.market.zones: must be 1 to {_ZONES_MAX}, not {self.zones}")
        if not timedelta(milliseconds=1) <= self.mean_up <= _MEAN_MAX:
            problems.append(f"local.market.mean_up: must be between 1 ms and 365 days, not {self.mean_up}")
        if not timedelta(0) <= self.mean_down <= _MEAN_MAX:
            problems.append(f"local.market.mean_down: must be between 0 and 365 days, not {self.mean_down}")
        if not 0 <= self.without_notice <= 1:
            problems.append(f"local.market.without_notice: is a share from 0 to 1, not {self.without_notice}")
        if problems:
            raise SpecError(problems)


class RunLength:
    """A distribution of run lengths whose hazard falls with age, scaled to a mean.

    Args:
        hazards: endings per hour, one for each age in `AGES_H`.
        mean: the wanted mean.
    """

    def __init__(self, hazards: tuple[float, ...], mean: timedelta) -> None:
        self._hazards = hazards
        self._scale_s = mean.total_seconds() / _mean_h(hazards)

    def draw(self, rng: random.Random) -> timedelta:
        """One run length: the age at which the integrated hazard reaches an exponential draw."""
        left = rng.expovariate(1.0)
        for index, hazard in enumerate(self._hazards):
            width = _width_h(index)
            if left <= hazard * width:
                return timedelta(seconds=(AGES_H[index] + left / hazard) * self._scale_s)
            left -= hazard * width
        raise AssertionError("the last age is open-ended")


def generated_zones(config: GeneratorConfig, regions: tuple[str, ...]) -> tuple[Zone, ...]:
    """The zones of the market: `config.zones` in each region.

    Raises:
        SpecError: a region is not written like AWS's.
    """
    return tuple(Zone(zone_id(region, number), region) for region in regions for number in range(1, config.zones + 1))


def generated_timeline(config: GeneratorConfig, zone: Zone) -> Timeline:
    """The availability of one zone; zones are independent of each other."""
    up = RunLength(UP_HAZARDS, config.mean_up)
    down = RunLength(DOWN_HAZARDS, config.mean_down)
    share_up = config.mean_up / (config.mean_up + config.mean_down)
    span = min((config.mean_up + config.mean_down) * _CYCLES_PER_CHUNK, _CHUNK_MAX)

    def draw(index: int) -> Chunk:
        rng = random.Random(f"{config.seed}/{zone.id}/availability/{index}")  # noqa: S311 - a market, not a secret
        runs = []
        at = timedelta(0) if rng.random() < share_up else down.draw(rng)
        while at < span:
            end = min(at + max(up.draw(rng), _RUN_MIN), span)
            runs.append(UpRun(at, end, rng.random() >= config.without_notice))
            at = end + down.draw(rng)
        return tuple(runs)

    return Timeline(span, draw)


class GeneratedPrices:
    """Step prices of every pool, as shares of its on-demand price. See the module's docstring.

    Args:
        seed: the same seed gives the same prices.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._kept: OrderedDict[tuple[str, str, int], tuple[tuple[timedelta, float], ...]] = OrderedDict()

    def steps(
        self, zone: Zone, instance_type: str, start: timedelta, end: timedelta
    ) -> tuple[tuple[timedelta, Decimal], ...]:
        """The steps over [start, end]; see `spotrun.market.market.SpotPrices`."""
        on_demand = on_demand_usd_per_hour(instance_type, zone.region)
        walk = [
            step
            for index in range(start // _PRICE_CHUNK, end // _PRICE_CHUNK + 1)
            for step in self._chunk(zone.id, instance_type, index)
        ]
        first = bisect_right(walk, start, key=lambda step: step[0]) - 1
        last = bisect_right(walk, end, key=lambda step: step[0])
        return tuple((at, _usd(on_demand, share)) for at, share in walk[first:last])

    def _chunk(self, zone: str, instance_type: str, index: int) -> tuple[tuple[timedelta, float], ...]:
        key = (zone, instance_type, index)
        chunk = self._kept.get(key)
        if chunk is None:
            chunk = tuple(self._walk(zone, instance_type, index))
            self._kept[key] = chunk
            if len(self._kept) > 256:
                self._kept.popitem(last=False)
        return chunk

    def _walk(self, zone: str, instance_type: str, index: int) -> list[tuple[timedelta, float]]:
        pool = f"{self._seed}/{zone}/{instance_type}"
        level = random.Random(f"{pool}/level").uniform(_LEVEL_MIN, _LEVEL_MAX)  # noqa: S311
        rng = random.Random(f"{pool}/price/{index}")  # noqa: S311
        at, share = timedelta(0), level + rng.gauss(0, _WALK_STEP)
        steps = []
        while at < _PRICE_CHUNK:
            share = min(max(share, _SHARE_MIN), _SHARE_MAX)
            steps.append((index * _PRICE_CHUNK + at, share))
            share += _PULL * (level - share) + rng.gauss(0, _WALK_STEP)
            holds_s = _PRICE_HOLDS_MIN_S + rng.expovariate(1 / _PRICE_HOLDS_MORE_S)
            at += timedelta(seconds=round(holds_s))  # EC2's rows have whole seconds
        return steps


def _usd(on_demand: Decimal, share: float) -> Decimal:
    return (on_demand * Decimal(f"{share:.4f}")).quantize(Decimal("0.0001"))


def _width_h(index: int) -> float:
    return AGES_H[index + 1] - AGES_H[index] if index + 1 < len(AGES_H) else float("inf")


def _mean_h(hazards: tuple[float, ...]) -> float:
    """The integral of the survival function."""
    alive, total = 1.0, 0.0
    for index, hazard in enumerate(hazards):
        dies = -exp(-hazard * _width_h(index)) + 1.0
        total += alive * dies / hazard
        alive *= 1.0 - dies
    return total
