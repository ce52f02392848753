"""One job through one recorded stretch of market, tick by tick, under a rule: what it costs and when it ends.

Semantics. The availability of a tick is known at its start and lasts for the tick; spot that is lost is lost at the start
of its first down tick. Every start (from idle, between spot and on-demand, between zones) takes a changeover without
progress, paid at the new machine's price; billing is by the second while a machine is up. Work is saved every
`interval_s` of progress; an interruption loses what was not saved, unless it was announced; a move saves first.

The loop below is plain Python. With numba installed `compiled` makes machine code of the very same functions, rule and
safety layer included, which simulates some million job-hours in a second; without it the same loop is interpreted. Only
`build` is the definition: there is no second one to keep in step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from math import ceil
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from spotrun.policy.rule import IDLE, SPOT, Case, Rule, View, safe
from spotrun.policy.swap import HELD_S, PAYS, Swap, spare, weigh

__all__ = ["COLUMNS", "Episodes", "Scene", "compiled", "interpreted"]

DONE_S = 1e-6  # work left below this is rounding

_F = TypeVar("_F", bound=Callable[..., Any])
_Wrap: TypeAlias = Callable[[_F], _F]

COLUMNS = (
    "cost",  # in the unit of the prices
    "finish_s",  # from the job's beginning; its deadline if it was late
    "late",  # 1.0 if it was not done by its deadline
    "spot_s",
    "on_demand_s",
    "changeovers",
    "interruptions",
    "lost_s",  # work done again
    "broke",  # 1.0 if the budget was spent before the work was done
    "moves",  # from spot to cheaper spot; changeovers too
)


class Scene(NamedTuple):
    """A stretch of market as arrays over (zone, tick) or (tick,); `spotrun.policy.scene` makes them."""

    gap_s: float
    up: NDArray[np.uint8]  # (zones, ticks): capacity that runs is kept
    best: NDArray[np.int64]  # (zones + 1, ticks): by where it was last, the zone where a start is best; -1: nowhere
    age_s: NDArray[np.float64]  # (zones, ticks): of the up-run at the start of the tick
    run_h: NDArray[np.float64]  # (zones, ticks): that can still be expected of the up-run
    outage_s: NDArray[np.float64]  # (ticks,): for how long no zone has been up
    price: NDArray[np.float64]  # (zones, ticks): per hour
    noticed: NDArray[np.uint8]  # (zones, ticks): a loss at the start of this tick was announced in time to save
    delay: NDArray[np.float64]  # (ticks,): share of the changeover that a start at this tick really takes, at most 1


# (scene, starts: (n,) ticks, case, constants) -> (n, len(COLUMNS))
Episodes: TypeAlias = Callable[[Scene, NDArray[np.int64], Case, Any], NDArray[np.float64]]


def build(rule: Rule, wrap: _Wrap[Any]) -> Episodes:
    """The simulator of a rule, with `wrap` around each function that it is made of."""
    decide, layer, run = wrap(rule), wrap(safe), wrap(_run)
    pays = _cheaper(decide, layer, wrap)

    def episode(scene: Scene, start: int, case: Case, constants: Any, row: NDArray[np.float64]) -> None:
        gap_s, tick, zones = scene.gap_s, start, len(scene.up)
        mode, zone, last_zone, start_s, undone_s, had_s = IDLE, -1, -1, 0.0, 0.0, 0.0
        work_s, elapsed_s = case.work_s, 0.0
        while elapsed_s < case.deadline_s:
            if mode == SPOT and scene.up[zone, tick] == 0:
                if case.interval_s > 0.0 and scene.noticed[zone, tick] == 0:
                    work_s += undone_s
                    row[7] += undone_s
                mode, start_s, undone_s = IDLE, 0.0, 0.0
                row[6] += 1.0
            best = scene.best[last_zone, tick]
            at = zone if mode == SPOT else best
            age_s = scene.age_s[at, tick] if at >= 0 else 0.0
            left_s = case.deadline_s - elapsed_s
            view = View(mode, at >= 0, left_s, work_s, start_s, age_s, scene.outage_s[tick], elapsed_s, zones, case)
            choice = layer(view, SPOT if mode == SPOT else decide(view, constants), undone_s, gap_s, True)
            may_swap = mode == SPOT and choice == SPOT and had_s >= HELD_S and best >= 0
            if may_swap and scene.price[best, tick] < scene.price[zone, tick]:
                here, here_h, there, there_h = (
                    scene.price[zone, tick],
                    scene.run_h[zone, tick],
                    scene.price[best, tick],
                    scene.run_h[best, tick],
                )
                if pays(Swap(here, here_h, there, there_h, case.moving_price, work_s, 1.0), view, constants, gap_s):
                    mode, at = IDLE, best  # saved, and given up
                    row[9] += 1.0
            if choice != mode:
                mode, start_s, undone_s, had_s = choice, 0.0, 0.0, 0.0
                if choice != IDLE:
                    start_s = case.changeover_s * scene.delay[tick]
                    row[5] += 1.0
                if choice == SPOT:
                    if last_zone not in (-1, at):
                        row[0] += case.moving_price
                    zone, last_zone = at, at
            price = 0.0 if mode == IDLE else scene.price[zone, tick] if mode == SPOT else case.on_demand_price
            run_s, done_s = run(gap_s, left_s, start_s, work_s, price, case.budget, row)
            if mode != IDLE:
                row[3 if mode == SPOT else 4] += run_s
            start_s = max(0.0, start_s - run_s)
            had_s += run_s
            work_s -= done_s
            if case.interval_s > 0.0:
                undone_s = (undone_s + done_s) % case.interval_s
            elapsed_s += run_s
            tick += 1
            row[1] = elapsed_s
            if work_s <= DONE_S or row[8] > 0.0:
                row[8] = 0.0 if work_s <= DONE_S else 1.0
                return
        row[2] = 1.0

    return _looped(wrap(episode), wrap)


def _cheaper(decide: Rule, layer: Callable[..., int], wrap: _Wrap[Any]) -> Callable[..., bool]:
    """Whether a spot machine is given up for one in the zone that is best for a start."""
    weighed, spared = wrap(weigh), wrap(spare)

    def pays(swap: Swap, view: View, constants: Any, gap_s: float) -> bool:
        gain, price, _ = weighed(swap, view.case)
        if gain <= 0.0 or gain < PAYS * price or decide(spared(view), constants) != IDLE:
            return False
        begin = View(IDLE, True, view.left_s, view.work_s, 0.0, 0.0, 0.0, view.elapsed_s, view.zones, view.case)
        chosen: bool = layer(begin, SPOT, 0.0, gap_s, True) == SPOT
        return chosen

    made: Callable[..., bool] = wrap(pays)
    return made


def _looped(episode: Callable[..., None], wrap: _Wrap[Any]) -> Episodes:
    def episodes(scene: Scene, starts: NDArray[np.int64], case: Case, constants: Any) -> NDArray[np.float64]:
        rows = np.zeros((len(starts), 10))
        for index in range(len(starts)):
            episode(scene, starts[index], case, constants, rows[index])
        return rows

    made: Episodes = wrap(episodes)
    return made


def _run(  # noqa: PLR0913, PLR0917  numbers only, as it is compiled
    gap_s: float, left_s: float, start_s: float, work_s: float, price: float, budget: float, row: NDArray[np.float64]
) -> tuple[float, float]:
    """A tick: how long it lasts, and the progress made in it. Ends with the work, the deadline or the money; what it costs
    is added to the row. Price zero: there is no machine."""
    if price == 0.0:
        return min(gap_s, left_s), 0.0
    run_s = min(gap_s, start_s + work_s, left_s)
    affordable_s = (budget - row[0]) / price * 3600.0
    if affordable_s <= run_s:
        run_s = max(0.0, affordable_s)
        row[8] = 1.0
    row[0] += run_s / 3600.0 * price
    return run_s, max(0.0, run_s - start_s)


@cache
def compiled(rule: Rule) -> Episodes:
    """The simulator of a rule as machine code if numba is installed, interpreted otherwise."""
    if find_spec("numba") is None:
        return interpreted(rule)
    import numba  # noqa: PLC0415  optional, and seconds to load

    return _checked(build(rule, numba.njit))


def interpreted(rule: Rule) -> Episodes:
    """The simulator of a rule in plain Python."""
    return _checked(build(rule, lambda function: function))


def _checked(episodes: Episodes) -> Episodes:
    def checked(scene: Scene, starts: NDArray[np.int64], case: Case, constants: Any) -> NDArray[np.float64]:
        ticks, needed = len(scene.outage_s), ceil(case.deadline_s / scene.gap_s)
        if len(starts) and not 0 <= int(starts.min()) <= int(starts.max()) <= ticks - needed:
            raise ValueError(
                f"episodes of {needed} ticks do not fit into {ticks} from {starts.min()} to {starts.max()}"
            )
        return episodes(scene, starts, case, constants)

    return checked
