"""A verdict for people and programs: what differs, why, and how to repeat it."""

from __future__ import annotations

import json
from xml.etree.ElementTree import fromstring

import pytest
from rich.console import Console

from spotrun.chaos.diagnosis import Cause
from spotrun.chaos.equivalence import LossVerdict
from spotrun.chaos.fault import Fault, Point, Profile
from spotrun.chaos.harness import RunReport, Verdict
from spotrun.chaos.page import render_page
from spotrun.chaos.telling import Told, explained, to_json, to_junit
from spotrun.chaos.verdict import Interruption, Judgement

PROFILE = Profile(attached=True, steps=20, step_s=0.1, ends={}, calls=7)
COMMAND = ["spotrun", "chaos", "train <b>.py", "--seed", "4"]
CAUSE = Cause(what="scheduler of scheduler: last_epoch is 0 instead of 11", advice="say attach(scheduler=scheduler)")


def report(number: int, *, difference: tuple[int, float, float] | None = None, problem: str = "") -> RunReport:
    cut = Interruption(
        where="step 12, notice", point="step", notice=True, reached=True, step=12, steps_lost=2, margin_s=118.5, restart_s=1.5
    )  # fmt: skip
    judgement = Judgement(
        problems=[problem] if problem else [],
        losses=LossVerdict(steps=20, recomputed=2, missing=(), first_difference=difference),
        state=None,
        weights=None,
        memory=("ema",) if difference else (),
        files=(),
        interruptions=[cut],
        goodput=0.75,
        wall_s=8.0,
    )
    causes = [CAUSE] if difference else []
    return RunReport(
        number=number, faults=[Fault(point=Point.STEP, step=12)], judgement=judgement, causes=causes, at_step=12,
        tail="Traceback" if problem else "",
    )  # fmt: skip


GOOD = Verdict(profile=PROFILE, reference_s=2.0, runs=[report(1)])
BAD = Verdict(
    profile=PROFILE,
    reference_s=2.0,
    runs=[report(1), report(2, difference=(14, 0.5, 0.25)), report(3, problem="attempt 2 hung")],
    unreached=[Point.FINISH],
)
SELF = Verdict(profile=PROFILE, reference_s=2.0, runs=[report(1)], by_itself=False, by_itself_causes=[CAUSE])


def shown(verdict: Verdict) -> str:
    console = Console(width=200, force_terminal=False)
    with console.capture() as capture:
        console.print(Told(verdict, COMMAND, arguments=["--lr", "1 e"]))
    return capture.get()


def test_the_terminal_says_why_and_how_to_repeat_it() -> None:
    """For each run that differs or fails."""
    text = shown(BAD)
    assert "the loss differs from step 14 on: 0.5 uninterrupted, 0.25 interrupted" in text
    assert "at the end these differ in memory: ema" in text
    assert "What was missing when it went on at step 12:" in text
    assert CAUSE.what in text
    assert "spotrun chaos 'train <b>.py' --seed 4 --only 2 -- --lr '1 e'" in text
    assert "attempt 2 hung" in text
    assert "no run was interrupted at the point finish" in text
    assert "2 of 3 runs are not the same run" in text
    assert "smallest margin 118.5 s" in text


def test_the_terminal_says_when_all_is_well() -> None:
    """Once, at the end."""
    assert shown(GOOD).rstrip().endswith("the same run, bit for bit, every time")


def test_a_script_that_differs_from_itself_comes_first() -> None:
    """Before everything else."""
    assert shown(SELF).startswith("The script differs from itself without any interruption.")
    assert explained(SELF).startswith("the script differs from itself")


def test_json_has_every_figure() -> None:
    """As numbers."""
    document = json.loads(to_json(BAD, COMMAND))
    assert not document["passed"]
    assert document["unreached"] == ["finish"]
    good, bad, failed = document["runs"]
    assert (good["same"], bad["same"], failed["same"]) == (True, False, False)
    assert bad["missing"] == [{"what": CAUSE.what, "advice": CAUSE.advice}]
    assert bad["interruptions"][0]["margin_s"] == 118.5
    assert good["goodput"] == 0.75
    assert failed["repeat"] == "spotrun chaos 'train <b>.py' --seed 4 --only 3"


def test_junit_has_a_test_for_each_run() -> None:
    """And one for what had to be reached, or for the script by itself."""
    suite = fromstring(to_junit(BAD, COMMAND, name="train <b>.py"))
    assert (suite.get("tests"), suite.get("failures")) == ("4", "3")
    assert len(suite.findall("testcase/failure")) == 3
    assert "--only 2" in (suite.findall("testcase/failure")[0].text or "")
    itself = fromstring(to_junit(SELF, COMMAND, name="train.py"))
    assert (itself.get("tests"), itself.get("failures")) == ("2", "1")


@pytest.mark.parametrize("verdict", [GOOD, BAD, SELF])
def test_the_page_is_whole_and_escapes_what_it_is_given(verdict: Verdict) -> None:
    """No script, nothing from outside; a script's name is text."""
    page = render_page(verdict, COMMAND, name="train <b>.py")
    assert "train &lt;b&gt;.py" in page
    assert "<b>" not in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert ("Repeat it" in page) == any(not run.same for run in verdict.runs)
