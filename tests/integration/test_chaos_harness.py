"""The resilience harness on real trainings: it finds nothing where nothing is wrong, and names what is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from spotrun.chaos.fault import Fault, Point
from spotrun.chaos.harness import Harness, NothingToTry, RunReport
from spotrun.chaos.preflight import look_ahead
from spotrun.chaos.process import ForkStarter, FreshStarter, Starter
from spotrun.chaos.scenario import load_scenario
from spotrun.chaos.telling import differences
from spotrun.chaos.trial import Stage, Workload
from spotrun.chaos.verdict import judge
from spotrun.clock import SystemClock

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}

Make = Callable[..., Harness]


@pytest.fixture(scope="module")
def starter() -> Iterator[Starter]:
    starter = ForkStarter(ENVIRONMENT)
    yield starter
    starter.close()


@pytest.fixture(scope="module")
def make(starter: Starter, tmp_path_factory: pytest.TempPathFactory) -> Make:
    def make(
        script: str, *, drop: str = "", folder: str = "", scenario: str = "default", processes: int = 1
    ) -> Harness:
        place = tmp_path_factory.mktemp("harness")
        workload = Workload(
            script=HERE / script,
            cwd=place,
            environment={**ENVIRONMENT, "DROP": drop},
            folder=Path(folder) if folder else None,
            processes=processes,
        )
        stage = Stage(workload=workload, starter=starter, clock=SystemClock())
        return Harness(
            stage=stage, scenario=load_scenario(scenario).model_copy(update={"saves": 4}), directory=place / "runs"
        )

    return make


@pytest.fixture(scope="module")
def own(make: Make) -> Harness:
    harness = make("chaos_own.py", folder="out")
    harness.begin()
    return harness


def without(harness: Harness, drop: str, number: int = 0) -> RunReport:
    """A run that loses a component at its resume."""
    workload = replace(harness.stage.workload, environment={**ENVIRONMENT, "DROP": drop})
    harness.stage = replace(harness.stage, workload=workload)
    return harness.try_faults(number, [Fault(point=Point.STEP, step=5)])


def test_a_complete_training_is_the_same_at_every_point(make: Make) -> None:
    """Every named point is reached, with and without notice, and no bit differs."""
    harness = make("chaos_attached.py")
    profile = harness.begin()
    assert (profile.attached, profile.steps, sorted(profile.ends)) == (True, 12, [4, 8, 12])
    runs = [harness.run(number) for number in range(1, 9)]
    assert [differences(run.judgement) for run in runs] == [[]] * 8
    verdict = harness.conclude(runs)
    assert verdict.passed
    interruptions = [each for run in runs for each in run.judgement.interruptions if each.reached]
    assert {each.point for each in interruptions} == {point.value for point in Point}
    assert {each.notice for each in interruptions} == {False, True}
    assert all(each.margin_s is not None for each in interruptions if each.notice)
    assert list((harness.directory).glob("run-*")) == []


def test_every_call_of_a_save_can_be_the_last(make: Make) -> None:
    """The scenario enumerates them: before the first, and after the one that makes it a commit."""
    harness = make("chaos_attached.py", scenario="every-call")
    profile = harness.begin()
    assert harness.runs_of_scenario == 2 * profile.calls > 6
    runs = [harness.run(number) for number in (1, 2, 2 * profile.calls - 3)]
    assert all(run.same for run in runs)
    assert [run.judgement.interruptions[0].reached for run in runs] == [True] * 3


@pytest.mark.parametrize(
    ("drop", "named"),
    [
        ("model", "weights of model"),
        ("optimizer", "optimizer state of optimizer"),
        ("scheduler", "scheduler of scheduler: _last_lr, _step_count is 1 instead of 5"),
        ("scaler", "gradient scaler of scaler"),
        ("ema", "weights of ema"),
        ("norm", "BatchNorm statistics of model: 1.running_mean"),
        ("buffer", "buffer of model: 3.level"),
        ("accumulation", "gradients of model"),
        ("order", "generator of order"),
        ("python", "global randomness of Python's random"),
        ("numpy", "global randomness of numpy.random"),
        ("torch", "global randomness of torch"),
    ],
)
def test_a_missing_component_is_noticed_and_named(own: Harness, drop: str, named: str) -> None:
    """A script with a checkpoint of its own that forgets one thing when it resumes."""
    report = without(own, drop, number=int(drop.encode().hex(), 16))
    assert report.judgement.differs
    assert report.at_step == 6
    assert report.causes
    assert report.causes[0].what.startswith(named)


def test_a_checkpoint_of_its_own_that_is_complete_passes(own: Harness) -> None:
    """Compared by its files and by what it had in memory at the end."""
    report = without(own, "")
    assert report.same
    assert report.judgement.interruptions[0].reached


@pytest.mark.parametrize(
    ("drop", "named"),
    [("scheduler", "scheduler of scheduler"), ("ema", "weights of ema"), ("order", "data of batch")],
)
def test_what_attach_was_not_given_is_named(make: Make, drop: str, named: str) -> None:
    """Averaged weights never show in the loss, nor in a checkpoint that does not hold them."""
    harness = make("chaos_attached.py", drop=drop)
    harness.begin()
    report = harness.try_faults(1, [Fault(point=Point.STEP, step=7)])
    assert report.judgement.differs
    assert any(cause.what.startswith(named) for cause in report.causes)


def test_a_script_that_differs_from_itself_is_told_so_first(make: Make) -> None:
    """No resume is to blame for it."""
    harness = make("chaos_attached.py", drop="noise")
    harness.begin()
    report = harness.try_faults(1, [Fault(point=Point.STEP, step=6)])
    assert report.causes == ()
    verdict = harness.conclude([report])
    assert verdict.by_itself is False
    assert not verdict.passed
    assert "the data differs although no randomness that it is drawn from does" in verdict.by_itself_causes[0].what


def test_a_failing_resume_is_no_interruption(make: Make) -> None:
    """It is told with its exit code and its last lines, and not tried for ever."""
    harness = make("chaos_attached.py", drop="stuck")
    harness.begin()
    report = harness.try_faults(1, [Fault(point=Point.STEP, step=6)])
    assert report.judgement.problems == ["attempt 2 ended with exit code 3"]


def test_a_script_that_would_start_anew_is_refused(make: Make) -> None:
    """With the two ways out."""
    with pytest.raises(NothingToTry, match=r"never called spotrun\.attach.*--folder"):
        make("chaos_own.py", folder="").begin()


def test_the_command_says_why_and_how_to_repeat_it(tmp_path: Path) -> None:
    """Exit code 1, JSON on stdout, JUnit XML beside."""
    command = [sys.executable, "-m", "spotrun", "chaos", str(HERE / "chaos_attached.py"), "--fast", "--only", "3"]
    command += ["--json", "--junit", "junit.xml", "--scenario", "no-notice"]
    environment = {**ENVIRONMENT, "DROP": "ema"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    (run,) = json.loads(done.stdout)["runs"]
    assert run["same_losses"]
    assert not run["same"]
    assert run["missing"][0]["what"].startswith("weights of ema")
    assert run["repeat"].endswith("--seed 0 --scenario no-notice --fast --only 3")
    assert 'failures="1"' in (tmp_path / "junit.xml").read_text()


def test_a_new_process_is_what_a_forked_one_is(make: Make) -> None:
    """Without --fast: an interpreter of its own, which ends with the same bits."""
    forked = make("chaos_attached.py")
    forked.begin()
    fresh = make("chaos_attached.py")
    fresh.stage = replace(fresh.stage, starter=FreshStarter())
    fresh.begin()
    judgement = judge(forked.reference, fresh.reference, forked.profile, notice_s=120.0)
    assert judgement.losses
    assert judgement.losses.same
    assert judgement.weights
    assert judgement.weights.same
    assert judgement.memory == []


def test_looking_ahead_answers_before_the_first_interruption(make: Make) -> None:
    """Size, bandwidth, the signal's way and the interval, of a training that is well."""
    harness = make("chaos_attached.py")
    profile = harness.begin()
    fits, hears, workers, loses = look_ahead(harness.stage, harness.reference, profile, interval_s=7200.0)
    assert fits.good
    assert hears.good
    assert "a commit followed" in hears.answer
    assert workers.answer == "there are none at that point"
    assert loses.good is False
    assert "up to 7200." in loses.answer


def test_looking_ahead_finds_a_script_that_does_not_hear(own: Harness) -> None:
    """No handler: the notice is its end."""
    fits, hears, *_ = look_ahead(own.stage, own.reference, own.profile)
    assert fits.good is None
    assert hears.good is False
    assert "no handler" in hears.answer


def test_a_gang_is_interrupted_as_a_whole_and_one_process_alone(make: Make) -> None:
    """Two processes of DistributedDataParallel: the machine goes, and one is killed alone;
    the other ends for it, nobody is stranded, and both go on to the same bits."""
    harness = make("chaos_gang.py", processes=2)
    profile = harness.begin()
    assert (profile.steps, profile.processes, profile.attached) == (10, 2, True)
    faults = [
        Fault(point=Point.STEP, step=4, notice=True),
        Fault(point=Point.STEP, step=6, rank=1),
    ]
    report = harness.try_faults(1, faults)
    assert differences(report.judgement) == []
    cuts = report.judgement.interruptions
    assert [cut.reached for cut in cuts] == [True] * 2
    assert cuts[0].margin_s is not None
    assert cuts[1].where == "step 6, process 1 alone"


def test_the_outages_of_a_trace_are_the_interruptions(make: Make, tmp_path: Path) -> None:
    """Twelve steps stand for a day: the outages come where the trace has them, and each next attempt waits its share."""
    trace = tmp_path / "zone.json"
    trace.write_text(json.dumps({"metadata": {"gap_seconds": 3600}, "data": [1, 1, 1, 1, 1, 0, 0]}))
    harness = make("chaos_attached.py")
    harness.scenario = harness.scenario.model_copy(update={"trace": str(trace), "lasts": "24h"})
    harness.begin()
    report = harness.run(1)
    assert report.same
    reached = [cut for cut in report.judgement.interruptions if cut.reached]
    assert len(reached) >= 3
    assert all(cut.waited_s > 0 for cut in reached)
    assert "without capacity" in reached[0].where
