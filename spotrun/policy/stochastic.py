"""A policy of least expected cost, by dynamic programming over work left, slack and the market's state.

The market is one zone whose up-runs and outages end with hazards that fall with age (short runs die young); the job is
idle, on spot or on demand. Its value is computed backwards over (work left, slack): progress lowers the work, idling the
slack, a start the slack by a changeover. States without the slack to start once more are forbidden, so the deadline is a
hard constraint of the model too. `table` then looks the decision up; `spotrun.policy.rule.safe` lies beneath it as
beneath any rule.

Source: hazards pooled over recorded traces, see `spotrun.market.generator`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from importlib.util import find_spec
from math import ceil, exp
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spotrun.market.generator import AGES_H, DOWN_HAZARDS, UP_HAZARDS
from spotrun.policy.rule import IDLE, ON_DEMAND, SPOT, Case, View

__all__ = ["Table", "least_expected_cost", "table"]

_SLACK_STEP_S = 200.0  # at most: a changeover is a whole number of steps
_WORK_STEP_S = 600.0  # about: a whole number of slack steps
_SLACK_MAX_H = 24.0  # with more slack than that the decision is that of so much slack
_AGE_MAX_H = 8.0  # the last hazard begins there
_NEVER = 1e6  # dollars: a state that must not be


class Table(NamedTuple):
    """How much dearer on-demand is than the alternative: spot where it is up, waiting where it is not."""

    excess: NDArray[np.float32]  # (2: idle, on demand; market states; work steps; slack steps)
    ages: int  # market states 0 .. ages-1 are up, the rest down, each by age
    work_step_s: float
    slack_step_s: float


def table(view: View, constants: Table) -> int:
    """The decision of least expected cost: on demand where the alternative is dearer. Between grid points the
    difference is interpolated."""
    slack_s = view.left_s - view.work_s - view.start_s
    spent_s = view.age_s if view.up else view.outage_s
    age = min(int(spent_s / constants.work_step_s), constants.ages - 1)
    state = age if view.up else constants.ages + age
    running = 1 if view.mode == ON_DEMAND else 0
    works, slacks = constants.excess.shape[2], constants.excess.shape[3]
    work = min(max(view.work_s / constants.work_step_s, 0.0), works - 1.001)
    slack = min(max(slack_s / constants.slack_step_s, 0.0), slacks - 1.001)
    row, column = int(work), int(slack)
    high, right = work - row, slack - column
    excess = constants.excess
    value = (
        excess[running, state, row, column] * (1.0 - high) * (1.0 - right)
        + excess[running, state, row + 1, column] * high * (1.0 - right)
        + excess[running, state, row, column + 1] * (1.0 - high) * right
        + excess[running, state, row + 1, column + 1] * high * right
    )
    if value <= 0.0:
        return ON_DEMAND
    return SPOT if view.up else IDLE


def least_expected_cost(case: Case) -> Table:
    """The table for jobs like this one: of its changeover, its checkpoint interval and its prices (spot costs 1), with
    up to its work. The deadline does not matter. Some hundred megabytes; the last few are kept."""
    return _table(case.work_s, case.changeover_s, case.interval_s, case.on_demand_price)


@lru_cache(maxsize=3)
def _table(work_s: float, changeover_s: float, interval_s: float, on_demand_price: float) -> Table:
    slack_step_s = changeover_s / ceil(changeover_s / _SLACK_STEP_S)
    work_step_s = max(1, round(_WORK_STEP_S / slack_step_s)) * slack_step_s
    ages = int(_AGE_MAX_H * 3600 / work_step_s) + 1
    excess = _solver()(
        np.array(_ends(UP_HAZARDS, ages, work_step_s)),
        np.array(_ends(DOWN_HAZARDS, ages, work_step_s)),
        ceil(work_s / work_step_s) + 2,
        int(_SLACK_MAX_H * 3600 / slack_step_s) + 1,
        (
            round(work_step_s / slack_step_s),
            round(changeover_s / slack_step_s),
            round(interval_s / 2 / slack_step_s),
        ),
        (on_demand_price, work_step_s / 3600, changeover_s / 3600),
    )
    return Table(excess=excess, ages=ages, work_step_s=work_step_s, slack_step_s=slack_step_s)


def _ends(hazards: Sequence[float], ages: int, step_s: float) -> list[float]:
    """The probability that a run of each age ends within a step."""
    found = []
    for age in range(ages):
        age_h = age * step_s / 3600
        hazard = [rate for begin, rate in zip(AGES_H, hazards, strict=True) if begin <= age_h + 1e-9][-1]
        found.append(1 - exp(-hazard * step_s / 3600))
    return found


@cache
def _solver() -> Callable[..., NDArray[np.float32]]:
    if find_spec("numba") is None:
        return _solved
    import numba  # noqa: PLC0415  optional, and seconds to load

    made: Callable[..., NDArray[np.float32]] = numba.njit(_solved)
    return made


def _solved(
    up_ends: NDArray[np.float64],
    down_ends: NDArray[np.float64],
    works: int,
    slacks: int,
    steps: tuple[int, int, int],
    costs: tuple[float, float, float],
) -> Any:
    """Backward induction.

    Args:
        up_ends, down_ends: by age, the probability that a run ends within a work step.
        works, slacks: the sizes of the grid.
        steps: slack steps in a work step, in a changeover, and lost with an interruption.
        costs: on-demand's price; hours in a work step and in a changeover.
    """
    idle_steps, start_steps, lost_steps = steps
    price, hours, start_h = costs
    ages = len(up_ends)
    states = 2 * ages
    excess = np.zeros((2, states, works, slacks), np.float32)
    idle = np.zeros((2, slacks, states))  # value without a machine, for this work and for one step less
    running = np.zeros((2, slacks, states))  # on demand, free to leave
    staying = np.zeros((slacks, states))  # on demand, for the next step in any case
    spot = np.zeros((2, slacks, ages))
    now = 0
    for work in range(1, works):
        before, now = now, 1 - now
        for slack in range(slacks):
            lost = max(slack - lost_steps, 0)
            for state in range(states):
                is_up = state < ages
                end = up_ends[state] if is_up else down_ends[state - ages]
                older = min(state + 1, ages - 1 if is_up else states - 1)
                other = ages if is_up else 0
                stay = price * hours + (1 - end) * running[before, slack, older] + end * running[before, slack, other]
                staying[slack, state] = stay
                away = _NEVER
                if slack - idle_steps >= start_steps:
                    later = idle[now, slack - idle_steps]
                    away = (1 - end) * later[older] + end * later[other]
                if is_up:
                    spot[now, slack, state] = (
                        hours + (1 - end) * spot[before, slack, older] + end * idle[before, lost, other]
                    )
                    if slack - start_steps >= start_steps:
                        away = min(away, start_h + spot[now, slack - start_steps, state])
                start = _NEVER
                if slack >= start_steps:
                    start = price * start_h + staying[slack - start_steps, state]
                running[now, slack, state] = min(stay, away)
                idle[now, slack, state] = min(start, away)
                excess[0, state, work, slack] = -_NEVER if away >= _NEVER else start - away
                excess[1, state, work, slack] = -_NEVER if away >= _NEVER else stay - away
    return excess
