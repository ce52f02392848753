"""Simulated episodes: nobody is late, nobody buys unasked, and nobody beats the optimum."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spotrun.policy.catalogue import RULES
from spotrun.policy.episode import COLUMNS, Episodes, Scene, compiled, interpreted
from spotrun.policy.optimum import optimum, run_ends
from spotrun.policy.rule import IDLE, ON_DEMAND, SPOT, Case, NoConstants, Rule, View
from spotrun.policy.scene import Pool, make_scene

CHEAP = [name for name in RULES if name != "stochastic"]  # its tables take seconds without a compiler
START = np.zeros(1, np.int64)


def erratic(view: View, constants: NoConstants) -> int:
    """Does anything: what must hold of it holds of every rule."""
    return int(view.elapsed_s * 7919 + view.work_s) % 3


def row(episodes: Episodes, scene: Scene, case: Case, constants: Any, start: int = 0) -> dict[str, float]:
    found = episodes(scene, np.array([start], np.int64), case, constants)[0]
    return dict(zip(COLUMNS, found.tolist(), strict=True))


@lru_cache
def plain(rule: Rule) -> Episodes:
    return interpreted(rule)


def zones(data: st.DataObject, ticks: int, count: int) -> list[Pool]:
    runs = st.lists(st.tuples(st.booleans(), st.integers(1, 12)), min_size=1, max_size=12)
    pools = []
    for _ in range(count):
        drawn = [up for up, length in data.draw(runs) for _ in range(length)]
        up = np.resize(np.array(drawn), ticks)
        pools.append(
            Pool(
                up=up,
                price=np.resize(np.array(data.draw(st.lists(st.floats(0.1, 9), min_size=1, max_size=30))), ticks),
                noticed=np.full(ticks, data.draw(st.booleans())),
                opened=up & np.resize(np.array(data.draw(st.lists(st.booleans(), min_size=1, max_size=4))), ticks),
            )
        )
    return pools


@st.composite
def cases(draw: st.DrawFn, **fixed: Any) -> tuple[Case, float]:
    """A case that can be met on demand, and the length of a tick."""
    gap_s, changeover_s = draw(st.floats(30, 900)), draw(st.floats(0, 2000))
    work_s = draw(st.floats(1, 20_000))
    slack_s = draw(st.floats(0, 10_000))
    case = Case(
        work_s=work_s,
        deadline_s=work_s + changeover_s + slack_s,
        changeover_s=changeover_s,
        interval_s=draw(st.sampled_from([0.0, 60.0, 1000.0])),
        on_demand_price=draw(st.floats(0.5, 10)),
        moving_price=draw(st.sampled_from([0.0, 2.0])),
    )
    return case._replace(**fixed), gap_s


@settings(max_examples=120, deadline=None)
@given(data=st.data(), drawn=cases(), name=st.sampled_from([*CHEAP, "erratic"]), count=st.integers(1, 3))
def test_no_rule_is_late_from_a_feasible_start(
    data: st.DataObject, drawn: tuple[Case, float], name: str, count: int
) -> None:
    """Any trace, prices, delays up to the bound, losses with and without notice: done by the deadline."""
    case, gap_s = drawn
    ticks = int(case.deadline_s / gap_s) + 2
    delay = np.resize(np.array(data.draw(st.lists(st.floats(0, 1), min_size=1, max_size=4))), ticks)
    scene = make_scene(zones(data, ticks, count), gap_s=gap_s, changeover_s=case.changeover_s, delay=delay)
    rule = erratic if name == "erratic" else RULES[name].rule
    constants = NoConstants() if name == "erratic" else RULES[name].constants(case)
    told = row(plain(rule), scene, case, constants)
    assert told["late"] == 0
    assert told["finish_s"] <= case.deadline_s + 1e-6


@settings(max_examples=50, deadline=None)
@given(data=st.data(), drawn=cases(may_buy=False), name=st.sampled_from(CHEAP))
def test_a_job_that_waits_never_buys_on_demand(data: st.DataObject, drawn: tuple[Case, float], name: str) -> None:
    """`on_shortage: wait`: it may be late, it never pays what the user did not agree to."""
    case, gap_s = drawn
    scene = make_scene(zones(data, int(case.deadline_s / gap_s) + 2, 2), gap_s=gap_s)
    assert row(plain(RULES[name].rule), scene, case, RULES[name].constants(case))["on_demand_s"] == 0


@settings(max_examples=50, deadline=None)
@given(data=st.data(), drawn=cases(), share=st.floats(0.01, 2), name=st.sampled_from(CHEAP))
def test_a_budget_is_not_exceeded(data: st.DataObject, drawn: tuple[Case, float], share: float, name: str) -> None:
    """A job stops where its money ends, and says so unless it is done."""
    case, gap_s = drawn
    case = case._replace(budget=share * case.on_demand_price * case.work_s / 3600, moving_price=0.0)
    scene = make_scene(zones(data, int(case.deadline_s / gap_s) + 2, 2), gap_s=gap_s)
    told = row(plain(RULES[name].rule), scene, case, RULES[name].constants(case))
    assert told["cost"] <= case.budget * (1 + 1e-9)
    assert told["late"] == 0


def scene_of(up: str, gap_s: float = 600.0) -> Scene:
    """A zone, a letter for each tick: `#` up, `.` down."""
    return make_scene([Pool(up=np.array([letter == "#" for letter in up]))], gap_s=gap_s)


HOUR = Case(work_s=3600.0, deadline_s=3 * 3600.0, changeover_s=300.0, on_demand_price=3.0)

STORIES = {
    "spot all along": ("greedy", "#" * 20, HOUR, {"finish_s": 3900, "spot_s": 3900, "changeovers": 1}),
    "an interruption costs a changeover": (
        "greedy",
        "##.####" + "#" * 13,
        HOUR,
        {"spot_s": 4200, "interruptions": 1, "finish_s": 4800},
    ),
    "and the work since the checkpoint": (
        "greedy",
        "##.####" + "#" * 13,
        HOUR._replace(interval_s=800.0),
        {"spot_s": 4300, "lost_s": 100, "finish_s": 4900},
    ),
    "on demand from the first minute": ("on_demand", "#" * 20, HOUR, {"cost": 3 * 3900 / 3600, "spot_s": 0}),
    "no spot: on demand in time": ("greedy", "." * 20, HOUR, {"late": 0, "on_demand_s": 3900, "spot_s": 0}),
    "no spot and no permission: late": (
        "greedy",
        "." * 20,
        HOUR._replace(may_buy=False),
        {"late": 1, "cost": 0, "finish_s": 10_800},
    ),
    "money for a half": ("on_demand", "#" * 20, HOUR._replace(budget=1.5), {"broke": 1, "cost": 1.5}),
}


@pytest.mark.parametrize(("name", "up", "case", "told"), STORIES.values(), ids=list(STORIES))
def test_an_episode_is_billed_by_the_second(name: str, up: str, case: Case, told: dict[str, float]) -> None:
    """Ticks of ten minutes, an hour of work, five minutes for each start."""
    found = row(plain(RULES[name].rule), scene_of(up), case, RULES[name].constants(case))
    assert {key: found[key] for key in told} == pytest.approx(told)


def test_a_loss_that_was_announced_costs_no_work() -> None:
    """The notice is time enough to save."""
    up = np.array([letter == "#" for letter in "##.#################"])
    scene = make_scene([Pool(up=up, noticed=np.full(len(up), True))], gap_s=600.0)
    told = row(plain(RULES["greedy"].rule), scene, HOUR._replace(interval_s=800.0), RULES["greedy"].constants(HOUR))
    assert told["lost_s"] == 0


def test_the_zone_that_is_expected_to_last_is_taken() -> None:
    """An old run rather than a new one; the cheaper one where both are as old; no move where egress costs more."""
    ticks = 60
    old, new = np.full(ticks, True), np.arange(ticks) >= 20
    assert make_scene([Pool(up=new), Pool(up=old)], gap_s=600.0).best[-1, 30] == 1
    assert make_scene([Pool(up=old, price=2.0), Pool(up=old)], gap_s=600.0).best[-1, 30] == 1
    assert make_scene([Pool(up=~old), Pool(up=~old)], gap_s=600.0).best[-1, 30] == -1
    with pytest.raises(ValueError, match="prices must be positive"):
        make_scene([Pool(up=old, price=-1.0)], gap_s=600.0)
    with pytest.raises(ValueError, match="same number of ticks"):
        make_scene([Pool(up=old), Pool(up=old[1:])], gap_s=600.0)


def test_compiled_and_plain_are_the_same_to_the_bit() -> None:
    """Thousands of episodes through machine code and through the interpreter."""
    pytest.importorskip("numba")
    rng = np.random.default_rng(3)
    moves = 0.0
    for name, policy in RULES.items():
        case = Case(work_s=4 * 3600.0, deadline_s=6 * 3600.0, changeover_s=360.0, interval_s=1800.0)
        constants = policy.constants(case)
        up = np.repeat(rng.random((2, 200)) < 0.6, rng.integers(2, 9), axis=1)
        dearer = np.repeat(rng.choice([0.3, 1.2, 2.0], (2, up.shape[1] // 9 + 1)), 9, axis=1)[:, : up.shape[1]]
        pools = [Pool(up=line, price=price) for line, price in zip(up, dearer, strict=True)]
        scene = make_scene(pools, gap_s=600.0, delay=rng.random(up.shape[1]))
        starts = rng.integers(0, up.shape[1] - 48, 120).astype(np.int64)
        for deadline_h in (4.2, 5, 8):
            case = case._replace(deadline_s=deadline_h * 3600.0)
            fast = compiled(policy.rule)(scene, starts, case, constants)
            slow = plain(policy.rule)(scene, starts, case, constants)
            assert fast.tolist() == slow.tolist(), name
            moves += fast[:, COLUMNS.index("moves")].sum()

    assert moves > 0


def brute_force(up: list[str], case: Case, gap_s: float) -> float:
    """The least cost over all sequences of actions, by trying them."""
    least = float("inf")
    ticks = len(up[0])

    def go(tick: int, mode: tuple[int, int], work_s: float, start_s: float, cost: float) -> None:
        nonlocal least
        left_s = case.deadline_s - tick * gap_s
        if cost >= least or work_s > left_s:
            return
        if mode[0] == SPOT and up[mode[1]][tick] == ".":
            mode, start_s = (IDLE, 0), 0.0
        choices = [(IDLE, 0), (ON_DEMAND, 0)] + [(SPOT, zone) for zone in range(len(up)) if up[zone][tick] == "#"]
        for choice in choices:
            starting_s = start_s if choice == mode else case.changeover_s
            if choice[0] == IDLE:
                go(tick + 1, choice, work_s, 0.0, cost)
                continue
            price = 1.0 if choice[0] == SPOT else case.on_demand_price
            run_s = min(gap_s, starting_s + work_s, left_s)
            after_s = work_s - max(0.0, run_s - starting_s)
            paid = cost + run_s / 3600 * price
            if after_s <= 1e-9:
                least = min(least, paid)
            elif tick + 1 < ticks:
                go(tick + 1, choice, after_s, max(0.0, starting_s - run_s), paid)

    go(0, (IDLE, 0), case.work_s, 0.0, 0.0)
    return least


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_the_optimum_is_what_trying_everything_finds(data: st.DataObject) -> None:
    """Small episodes, one or two zones."""
    ticks, count = data.draw(st.integers(2, 7)), data.draw(st.integers(1, 2))
    up = ["".join(data.draw(st.sampled_from("#."), label="tick") for _ in range(ticks)) for _ in range(count)]
    case = Case(
        work_s=float(data.draw(st.integers(1, 4)) * 600),
        deadline_s=ticks * 600.0,
        changeover_s=float(data.draw(st.sampled_from([0, 200, 300, 600, 900]))),
        on_demand_price=data.draw(st.sampled_from([1.5, 3.0, 5.0])),
    )
    ends = run_ends(np.array([[letter == "#" for letter in line] for line in up], np.uint8))
    (found,) = optimum(
        ends,
        gap_s=600,
        work_s=int(case.work_s),
        changeover_s=int(case.changeover_s),
        deadlines_s=[int(case.deadline_s)],
        on_demand_price=case.on_demand_price,
    )
    assert found == pytest.approx(brute_force(up, case, 600.0))


@settings(max_examples=30, deadline=None)
@given(data=st.data(), name=st.sampled_from(CHEAP), seed=st.integers(0, 10**6))
def test_nobody_beats_the_optimum(data: st.DataObject, name: str, seed: int) -> None:
    """Not on any trace."""
    rng = np.random.default_rng(seed)
    up = np.repeat(rng.random((2, 20)) < 0.6, 3, axis=1)
    case = Case(work_s=4 * 3600.0, deadline_s=data.draw(st.integers(27, 55)) * 600.0, changeover_s=600.0)
    told = row(plain(RULES[name].rule), make_scene([Pool(up=line) for line in up], gap_s=600.0), case, _constants(name))
    (least,) = optimum(
        run_ends(up.astype(np.uint8)),
        gap_s=600,
        work_s=4 * 3600,
        changeover_s=600,
        deadlines_s=[int(case.deadline_s)],
        on_demand_price=3.0,
    )
    assert told["cost"] >= least - 1e-9


def _constants(name: str) -> Any:
    return RULES[name].constants(HOUR)


def test_an_episode_must_fit_into_its_recording() -> None:
    """Machine code does not look where an array ends."""
    with pytest.raises(ValueError, match="do not fit"):
        plain(RULES["greedy"].rule)(scene_of("#" * 17), START, HOUR, _constants("greedy"))


def test_an_optimum_needs_a_recording_that_is_long_enough() -> None:
    """And a deadline that can be met at all is infinite in cost otherwise."""
    ends = run_ends(np.ones((1, 10), np.uint8))
    common: dict[str, Any] = {"gap_s": 600, "changeover_s": 300, "on_demand_price": 3.0}
    assert optimum(ends, work_s=3600, deadlines_s=[3000], **common) == [float("inf")]
    assert optimum(ends, work_s=3600, deadlines_s=[3600], **common) == [float("inf")]
    with pytest.raises(ValueError, match="needs 20"):
        optimum(ends, work_s=3600, deadlines_s=[12_000], **common)
    with pytest.raises(ValueError, match="no multiple"):
        optimum(ends, work_s=3601, deadlines_s=[4200], **common)
