"""Longer tries of the resilience harness, for `make soak`: pytest tests/integration/chaos_long.py

The Trainers of Lightning and Hugging Face with their callbacks, a folder kept through the agent, and what one process of several lost.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from test_chaos_harness import ENVIRONMENT, HERE, Make, make, starter

from spotrun.chaos.fault import Fault, Point
from spotrun.chaos.harness import Harness
from spotrun.chaos.process import ForkStarter
from spotrun.chaos.rented import AgentStarter
from spotrun.chaos.scenario import load_scenario
from spotrun.chaos.telling import differences
from spotrun.chaos.trial import Stage, Workload
from spotrun.clock import SystemClock

__all__ = ["make", "starter"]


def test_what_one_process_of_a_gang_has_lost_is_named_with_it(make: Make) -> None:
    """A generator that was not given to attach: process 1 has another one than process 0, and both are named."""
    harness = make("chaos_gang.py", processes=2, drop="noise")
    harness.begin()
    report = harness.try_faults(1, [Fault(point=Point.STEP, step=6)])
    assert report.judgement.differs
    assert {cause.what for cause in report.causes} >= {"generator of noise", "generator of noise of process 1"}
    assert report.divergence is not None
    assert report.divergence.agreed == report.at_step - 1  # what was saved was right; what went on from it was not


def test_a_folder_is_kept_through_the_agent_on_new_machines(tmp_path: Path) -> None:
    """The script's disk is gone with its machine; the agent brings back what it had committed."""
    workload = Workload(
        script=HERE / "chaos_folder.py", cwd=tmp_path, environment=ENVIRONMENT, folder=Path("out"), rented=True
    )
    starter = AgentStarter(Path("out"), SystemClock())
    stage = Stage(workload=workload, starter=starter, clock=SystemClock())
    harness = Harness(stage=stage, scenario=load_scenario("default"), directory=tmp_path / "runs", keeps=True)
    profile = harness.begin()
    assert (profile.attached, profile.steps) == (False, 24)
    report = harness.try_faults(1, [Fault(point=Point.STEP, step=16)])
    assert differences(report.judgement) == []
    (cut,) = report.judgement.interruptions
    assert cut.reached
    assert 0 < cut.steps_lost < 16
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("script", "library", "steps"),
    [("chaos_lightning.py", "lightning.pytorch", 15), ("chaos_transformers.py", "transformers", 18)],
)
def test_a_framework_with_its_callback_is_the_same_run(tmp_path: Path, script: str, library: str, steps: int) -> None:
    """As its documentation shows it; the library is imported once, and each attempt forked."""
    starter = ForkStarter(ENVIRONMENT, imports=[library])
    try:
        workload = Workload(script=HERE / script, cwd=tmp_path, environment=ENVIRONMENT)
        stage = Stage(workload=workload, starter=starter, clock=SystemClock())
        harness = Harness(stage=stage, scenario=load_scenario("default"), directory=tmp_path / "runs")
        assert harness.begin().steps == steps
        report = harness.try_faults(1, [Fault(point=Point.SAVE, step=8, call=2)])
        assert differences(report.judgement) == []
        assert all(cut.reached for cut in report.judgement.interruptions)
    finally:
        starter.close()


def test_one_process_of_a_gang_is_killed_in_its_part_of_a_save(make: Make) -> None:
    """The other waits for it until it counts as dead, ends, and both go on from the commit before."""
    harness = make("chaos_gang.py", processes=2)
    harness.begin()
    report = harness.try_faults(1, [Fault(point=Point.SAVE, step=6, call=1, after=True, rank=1)])
    assert differences(report.judgement) == []
    assert report.judgement.interruptions[0].reached
