"""Promises that a run can break without a bit that differs, and what its interruptions cost."""

from __future__ import annotations

from pathlib import Path

import pytest

from spotrun.chaos.fault import Fault, Point, Profile
from spotrun.chaos.life import Life, Mark
from spotrun.chaos.trial import Attempt, Trial
from spotrun.chaos.verdict import Judgement, judge

PROFILE = Profile(attached=True, steps=6, step_s=1.0, ends={}, calls=5)
FAULT = Fault(point=Point.STEP, step=4)


def life(first: int, last: int, **known: float | int | bool | None) -> Life:
    """An attempt that attaches and does these steps, one a second."""
    marks = [Mark(0.0, "attach")] + [
        Mark(float(step - first + 1), f"boundary {step}") for step in range(first, last + 1)
    ]
    return Life(marks=marks, **known)  # type: ignore[arg-type]


def judged(*attempts: Attempt) -> Judgement:
    trial = Trial(directory=Path("run"), store="", attempts=attempts, finished=False)
    return judge(trial, trial, PROFILE, notice_s=120.0)


def attempt(alive: Life, *, resumed: int | None, committed: int | None, fault: Fault | None = None) -> Attempt:
    return Attempt(fault=fault, life=alive, resumed_from=resumed, committed=committed, place=Path("attempt"))


KILLED = attempt(life(1, 4, struck_s=4.5, exit_code=-9, ended_s=5.0), resumed=None, committed=3, fault=FAULT)


def test_work_since_the_last_commit_is_lost_and_the_rest_is_useful() -> None:
    """Three of the first five seconds and the three of the second attempt count, of nine."""
    done = attempt(life(4, 6, exit_code=0, ended_s=4.0), resumed=3, committed=6)
    judgement = judged(KILLED, done)
    (cut,) = judgement.interruptions
    assert (cut.reached, cut.step, cut.steps_lost, cut.restart_s) == (True, 4, 1, 1.0)
    assert judgement.goodput == pytest.approx(6 / 9)


@pytest.mark.parametrize(
    ("second", "problem"),
    [
        (
            attempt(life(2, 6, exit_code=0), resumed=1, committed=6),
            "attempt 2 went on from step 1, although step 3 was committed",
        ),
        (attempt(life(4, 5, exit_code=1), resumed=3, committed=3), "attempt 2 ended with exit code 1"),
        (attempt(life(4, 5, exit_code=-11), resumed=3, committed=3), "attempt 2 ended with signal 11"),
        (
            attempt(life(4, 5, exit_code=-9, struck_s=300.0, hung=True, ended_s=300.0), resumed=3, committed=3),
            "attempt 2 hung, and was ended after 300 s",
        ),
        (
            attempt(life(4, 5, exit_code=-9, struck_s=125.0, noticed_s=5.0), resumed=3, committed=3, fault=FAULT),
            "attempt 2 committed nothing within the 120 s of its notice",
        ),
    ],
)
def test_a_broken_promise_is_a_problem(second: Attempt, problem: str) -> None:
    """In a sentence."""
    judgement = judged(KILLED, second)
    assert problem in judgement.problems
    assert not judgement.same


def test_the_margin_is_what_a_notice_left() -> None:
    """From the commit to the end that was announced."""
    told = attempt(
        life(1, 4, struck_s=7.0, noticed_s=4.0, saved_s=6.5, exit_code=-9, ended_s=7.0), resumed=None, committed=4, fault=FAULT
    )  # fmt: skip
    done = attempt(life(5, 6, exit_code=0, ended_s=3.0), resumed=4, committed=6)
    (cut,) = judged(told, done).interruptions
    assert (cut.notice, cut.margin_s, cut.steps_lost) == (True, 117.5, 0)
