"""Where runs are interrupted: from one seed, at every point in turn, exactly where the plan says."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from spotrun.chaos.fault import Fault, Point, Profile, Trigger
from spotrun.chaos.plan import plan_run, points_of
from spotrun.chaos.scenario import Scenario, load_scenario, shipped
from spotrun.errors import SpecError
from spotrun.market.trace import Trace

PROFILE = Profile(attached=True, steps=20, step_s=0.1, ends={10: 2.0, 20: 2.0}, calls=7)


def test_the_same_seed_plans_the_same_runs() -> None:
    """However many runs there are, and in whatever order they are planned."""
    scenario = Scenario()
    forwards = [plan_run(number, scenario, PROFILE, seed=5) for number in range(1, 30)]
    backwards = [plan_run(number, scenario, PROFILE, seed=5) for number in range(29, 0, -1)]
    assert forwards == backwards[::-1]
    assert forwards != [plan_run(number, scenario, PROFILE, seed=6) for number in range(1, 30)]


def test_each_point_has_its_turn() -> None:
    """Eight runs reach eight points; steps are within the run."""
    plans = [plan_run(number, Scenario(), PROFILE, seed=0) for number in range(1, 9)]
    assert {fault.point for plan in plans for fault in plan} == set(Point)
    assert all(1 <= fault.step <= 20 for plan in plans for fault in plan)


def test_a_script_without_epochs_has_no_points_between_them() -> None:
    """Nor has one without attach calls to a store."""
    plain = Profile(attached=True, steps=9, step_s=0.1, ends={}, calls=7)
    assert {Point.EVALUATION, Point.EPOCH}.isdisjoint(points_of(Scenario(), plain))
    alone = Profile(attached=False, steps=9, step_s=0.1, ends={}, calls=0)
    assert set(points_of(Scenario(), alone)) == {Point.START_UP, Point.STEP}


def test_every_call_is_enumerated() -> None:
    """Before and after each of them, one a run."""
    scenario = load_scenario("every-call")
    (plans) = [plan_run(number, scenario, PROFILE, seed=0) for number in range(1, 15)]
    assert {(fault.call, fault.after) for (fault,) in plans} == {(n, a) for n in range(1, 8) for a in (False, True)}


@pytest.mark.parametrize(
    ("fault", "heard", "due"),
    [
        (Fault(point=Point.START_UP), ["attach"], [0.0]),
        (Fault(point=Point.STEP, step=2, delay=0.5), ["boundary 1", "boundary 2"], [None, 0.05]),
        (
            Fault(point=Point.RESTORE, call=2),
            ["attach", "before list log/", "after list log/", "before read log/1"],
            [None, None, None, 0.0],
        ),
        (Fault(point=Point.RESTORE, call=9), ["attach", "before list log/", "boundary 1"], [None, None, 0.0]),
        (
            Fault(point=Point.SAVE, step=2, call=1, after=True),
            ["before list x", "boundary 2", "before write blobs/1/a", "after write blobs/1/a"],
            [None, None, None, 0.0],
        ),
        (
            Fault(point=Point.UPLOAD, step=2, delay=1.0),
            ["boundary 2", "before list x", "before write blobs/1/a"],
            [None, None, 0.1],
        ),
        (Fault(point=Point.EVALUATION, step=5, delay=0.5), ["boundary 5", "boundary 10"], [None, 1.0]),
        (Fault(point=Point.EPOCH, step=5), ["boundary 10", "boundary 10"], [None, 0.0]),
        (
            Fault(point=Point.FINISH, call=1),
            ["boundary 20", "before read x", "boundary 20", "before write blobs/1/a"],
            [None, None, None, 0.0],
        ),
    ],
)
def test_a_fault_is_due_where_it_says(fault: Fault, heard: list[str], due: list[float | None]) -> None:
    """What the process announces, and after how long the fault is to happen."""
    trigger = Trigger(fault, PROFILE)
    assert [trigger.hear(what) for what in heard] == [pytest.approx(each) if each else each for each in due]


def test_a_save_is_asked_for_where_it_is_to_be_interrupted() -> None:
    """Once, at the first boundary that is late enough."""
    trigger = Trigger(Fault(point=Point.SAVE, step=2, call=1), PROFILE)
    asked = []
    for what in ("boundary 1", "boundary 2", "boundary 3"):
        trigger.hear(what)
        asked.append(trigger.saves)
    assert asked == [False, True, False]


def test_scenarios_that_are_shipped_can_be_read() -> None:
    """By their names."""
    assert {"default", "every-call", "no-notice", "notice", "storm"} == set(shipped())
    for name in shipped():
        assert load_scenario(name).name == name


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("points: [nowhere]", "points.0"),
        ("points: []", "name at least one point"),
        ("notice: 2", "notice"),
        ("notice_window: soon", "notice_window"),
        ("surprise: 1", "surprise"),
        ("- a\n- b", "scenario"),
        ("name: [", "is not YAML"),
    ],
)
def test_a_wrong_scenario_says_what_is_wrong(tmp_path: Path, text: str, told: str) -> None:
    """By the field."""
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=told):
        load_scenario(str(path))


def test_a_scenario_that_is_nowhere_names_those_that_are_there() -> None:
    """The names are short."""
    with pytest.raises(SpecError, match="every-call"):
        load_scenario("nightly")


TRACE = Trace(gap=timedelta(hours=1), counts=(1, 1, 0, 1, 1, 1, 0, 0))


def test_a_trace_plans_its_outages() -> None:
    """Twenty steps stand for ten hours: spells of three and two hours train six and four steps, and outages of two hours and of
    one are waits of 0.4 and 0.2 s, as the whole run took two."""
    scenario = Scenario(lasts="10h", notice=0)
    for number in range(1, 20):
        faults = plan_run(number, scenario, PROFILE, seed=0, trace=TRACE)
        assert faults == plan_run(number, scenario, PROFILE, seed=0, trace=TRACE)
        first, *rest = faults
        assert first.step <= 6
        assert [(fault.step, fault.pause_s) for fault in rest[:4]] in (
            [(6, 0.4), (4, 0.2), (6, 0.4), (4, 0.2)],
            [(4, 0.2), (6, 0.4), (4, 0.2), (6, 0.4)],
        )
        assert all(fault.since_start for fault in faults)
        assert len(faults) >= 8  # twenty hours of capacity
    assert {plan_run(number, scenario, PROFILE, seed=0, trace=TRACE)[0].step for number in range(1, 40)} > {1, 2, 3}


def test_a_long_trace_ends() -> None:
    """A run of minutes on a trace of days has an outage at most; one of years has many, and then the faults are off."""
    (fault,) = plan_run(1, Scenario(lasts="1m"), PROFILE, seed=0, trace=TRACE)
    assert fault.step > 20
    assert len(plan_run(1, Scenario(lasts="8760h"), PROFILE, seed=0, trace=TRACE)) == 50


@pytest.mark.parametrize(("counts", "which"), [((1, 1), "no outage"), ((0, 0), "no capacity at any time")])
def test_a_trace_without_both_is_refused(counts: tuple[float, ...], which: str) -> None:
    """In words."""
    with pytest.raises(SpecError, match=which):
        plan_run(1, Scenario(), PROFILE, seed=0, trace=Trace(gap=timedelta(hours=1), counts=counts))


def test_a_fault_that_counts_from_the_start_of_its_attempt() -> None:
    """Whatever step it resumed from."""
    trigger = Trigger(Fault(point=Point.STEP, step=2, since_start=True), PROFILE)
    assert [trigger.hear(what) for what in ("attach", "boundary 8", "boundary 9")] == [None, None, 0.0]


def test_of_several_processes_one_is_killed_alone_here_and_there() -> None:
    """Never with a notice, which goes to the machine; and with one process the plan is as it was."""
    gang = replace(PROFILE, processes=3)
    plans = [plan_run(number, Scenario(), gang, seed=0) for number in range(1, 40)]
    alone = [plan_run(number, Scenario(), PROFILE, seed=0) for number in range(1, 40)]
    assert [[replace(fault, rank=None) for fault in plan] for plan in plans] == [list(plan) for plan in alone]
    assert {fault.rank for plan in plans for fault in plan} == {None, 0, 1, 2}
    assert all(fault.rank is None for plan in plans for fault in plan if fault.notice)
    assert "process 1 alone" in str(Fault(point=Point.STEP, step=3, rank=1))
