"""How often the controller looks must not matter: looks every half minute to every quarter of an hour at the same market.

The real placement decides, which is told nothing of what is up, as on a cloud; see `placement_world`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from controller_world import EPOCH
from placement_world import Recording, Stage

from spotrun.controller import Timing
from spotrun.job import Job, MoveDecided, Phase, check_invariants
from spotrun.policy.catalogue import RULES
from spotrun.policy.episode import COLUMNS, interpreted
from spotrun.policy.placement import LOOK
from spotrun.policy.rule import Case
from spotrun.policy.scene import Pool, make_scene

NAMES = ["greedy", "uniform_progress", "slack_reserve", "widening_reserve"]
PERIODS_S = [30.0, 60.0, 300.0, 900.0]
GAP_S = 900.0  # of the market: every period fits into it
WORK_S = 3600.0
CHANGEOVER_S = 300.0


@dataclass(frozen=True, kw_only=True)
class Happened:
    """A machine that was launched, or a machine that was given up."""

    what: str
    at_s: float


def looked_at(recording: Recording, name: str, period_s: float, *, bound: float = 1.2) -> tuple[Job, list[Happened]]:
    """The job in the real controller, one turn every `period_s`."""
    case = recording.case
    spec: dict[str, Any] = {
        "limits": {
            "max_run": f"{case.work_s * bound:g}s",
            "max_wait": f"{case.deadline_s:g}s",
            "on_shortage": "on_demand",
            "policy": name,
        },
        "checkpoint": {"uri": "memory://runs", "interval": f"{case.interval_s:g}s"},
        "local": {"launch_delay": f"{CHANGEOVER_S - 20:g}s"},
    }
    stage = Stage(recording, spec, Timing(poll_s=period_s, poll_wall_s=period_s, poll_wall_max_s=period_s))
    while True:
        due_s = stage.reconciler.turn()
        assert stage.reconciler.problems == []
        check_invariants(stage.job)
        stage.listen()
        if stage.job.phase.is_end:
            break
        stage.go(max(due_s, 1.0))
    events = [recorded.event for recorded in stage.journal.events("")]
    moves = [Happened(what=f"to {it.pool}", at_s=seconds(it.at)) for it in events if isinstance(it, MoveDecided)]
    starts = [Happened(what=it.pool, at_s=seconds(it.launched_at)) for it in stage.job.attempts if it.launched_at]
    return stage.job, sorted([*moves, *starts], key=lambda it: (it.at_s, it.what))


def seconds(at: Any) -> float:
    return float((at - EPOCH).total_seconds())


def recording(
    *letters: str, slack_s: float, price: tuple[float, ...] = (), work_s: float = WORK_S, bound: float = 1.2
) -> Recording:
    """A job that takes `bound` times its work at most. Zones, a letter for each quarter of an hour: `#` up, `.` down, as its last letter is from then on."""
    ticks = 120
    pools = []
    for number, line in enumerate(letters):
        up = np.array([letter == "#" for letter in line.ljust(ticks, line[-1])])
        dearer = np.full(ticks, 1.0 + number / 4)
        if number == 0 and price:
            dearer = np.concatenate((np.array(price), np.full(ticks - len(price), price[-1])))
        pools.append(Pool(up=up, price=dearer))
    case = Case(
        work_s=work_s,
        deadline_s=work_s * bound + CHANGEOVER_S + slack_s,
        changeover_s=CHANGEOVER_S * 0.8,  # what a start really takes
        interval_s=600.0,
        on_demand_price=6.0,
    )
    return Recording(gap_s=GAP_S, pools=tuple(pools), case=case, is_cloud=True)


STORIES: dict[str, Recording] = {
    "spot is lost, and another zone has some": recording("##..", "####", slack_s=7200),
    "spot is lost for good": recording("##..", "....", slack_s=7200),
    "there is none at first": recording("....#", "....", slack_s=10_800),
    "there is none at all": recording("....", slack_s=3600, work_s=1.5 * WORK_S),
    "spot grows dear, and another zone is cheaper": recording(
        "####", "####", slack_s=6 * 3600, price=(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 5.0), work_s=4 * 3600.0
    ),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("story", STORIES)
def test_the_same_happens_however_often_one_looks(story: str, name: str) -> None:
    """The same machines and moves in the same order, and nothing is late. Each comes at most a look later than with looks
    every half minute, or as much earlier as the safety layer has to look further ahead."""
    told = {}
    for period_s in PERIODS_S:
        job, told[period_s] = looked_at(STORIES[story], name, period_s)
        assert job.phase is Phase.COMPLETED, (period_s, job.cause)
    first = told[PERIODS_S[0]]
    for period_s, happened in told.items():
        assert [it.what for it in happened] == [it.what for it in first], period_s
        for late, early in zip(happened, first, strict=True):
            assert abs(late.at_s - early.at_s) <= LOOK.total_seconds() + 2 * period_s, (period_s, late, early)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_late_however_seldom_one_looks(name: str) -> None:
    """Random markets, and just the slack that the promise needs: a start, a look, and a look to see what became of it."""
    dice = np.random.default_rng(23)
    for episode in range(6):
        period_s = PERIODS_S[1 + episode % 3]
        lines = ["".join(np.repeat(dice.choice(["#", "."], 40), dice.integers(1, 4, 40))) for _ in range(2)]
        slack_s = float(dice.choice([0, 600, 3600])) + LOOK.total_seconds() + 2 * period_s
        job, _ = looked_at(recording(*lines, slack_s=slack_s, bound=2.0), name, period_s, bound=2.0)
        assert job.phase is Phase.COMPLETED, (episode, period_s, job.cause)


def test_a_loss_right_after_a_look_is_in_time() -> None:
    """Looked at every quarter of an hour, spot that is lost a moment after a look is missed for as long: with less slack
    than that on-demand is bought at once."""
    for slack_s, market in ((900.0, "on_demand"), (5400.0, "spot")):
        job, _ = looked_at(recording("#.", slack_s=slack_s), "greedy", 900.0)
        assert job.phase is Phase.COMPLETED, job.cause
        assert job.attempts[0].market == market


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("story", STORIES)
def test_the_simulation_does_not_depend_on_its_ticks_either(story: str, name: str) -> None:
    """The same market in ticks of half a minute to a quarter of an hour: the same starts and losses, the same end and bill
    but for a tick's work on each machine."""
    rule, told = RULES[name], {}
    for gap_s in PERIODS_S:
        played = STORIES[story]
        parts = round(GAP_S / gap_s)
        pools = [Pool(up=np.repeat(it.up, parts), price=np.repeat(np.asarray(it.price), parts)) for it in played.pools]
        scene = make_scene(pools, gap_s=gap_s, changeover_s=played.case.changeover_s)
        row = interpreted(rule.rule)(scene, np.array([0]), played.case, rule.constants(played.case))[0]
        told[gap_s] = dict(zip(COLUMNS, row.tolist(), strict=True))
    fine = told[PERIODS_S[0]]
    for gap_s, row in told.items():
        assert row["late"] == 0
        assert {key: row[key] for key in ("changeovers", "interruptions", "moves")} == {
            key: fine[key] for key in ("changeovers", "interruptions", "moves")
        }, gap_s
        assert abs(row["finish_s"] - fine["finish_s"]) <= gap_s
        assert abs(row["cost"] - fine["cost"]) <= 6.0 * gap_s / 3600 * fine["changeovers"]
