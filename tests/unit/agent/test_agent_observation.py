"""What is told of a command: its own word if it has one, else only what can be seen."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from agent_fakes import START, SteppingClock, make_config

from spotrun.agent.config import Timing
from spotrun.agent.log import OutputLog
from spotrun.agent.observation import Observation
from spotrun.job.message import Progress, TrainingPhase


class Scene:
    """A command that has started, on virtual time."""

    def __init__(self, scratch: Path) -> None:
        self.clock = SteppingClock()
        self.log = OutputLog()
        self.scratch = scratch
        config = replace(make_config(scratch), timing=Timing(start_s=300.0, start_wall_s=0.0))
        self.observation = Observation(config, clock=self.clock, log=self.log)

    def after(self, seconds: float) -> Progress:
        self.clock.elapsed_s = seconds
        told = self.observation.progress()
        assert told is not None
        return told


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_nothing_is_told_before_the_command_is_started(scene: Scene) -> None:
    """While inputs are fetched there is nothing to see."""
    assert scene.observation.progress() is None


def test_a_silent_command_is_at_work_since_its_start_once_a_start_would_be_over(scene: Scene) -> None:
    """Its step stays 0: nobody knows it. Its training time is told, so that max_run holds for it."""
    scene.clock.elapsed_s = 10.0
    scene.observation.started()
    before, after = scene.after(309.9), scene.after(310.0)
    assert (before.phase, before.training_at) == (TrainingPhase.STARTING, None)
    assert (after.phase, after.training_at) == (TrainingPhase.TRAINING, START + timedelta(seconds=10))
    assert (after.step, after.commits, after.told) == (0, 0, False)


def test_what_it_prints_is_counted_and_what_the_agent_says_is_not(scene: Scene) -> None:
    """The agent's own sentences are no sign of life of the command."""
    scene.observation.started()
    scene.log.say("hello from the agent")
    assert scene.after(1).output_bytes == 0
    scene.log.feed(b"12345\r")
    assert scene.after(2).output_bytes == 6


def test_the_trainings_own_word_counts_alone(scene: Scene) -> None:
    """From its first word on, output is no progress any more: a hung training whose logger goes on is hung."""
    scene.observation.started()
    scene.after(400)
    own = Progress(phase=TrainingPhase.RESTORING, at=START + timedelta(seconds=401), step=7)
    (scene.scratch / "progress.json").write_bytes(own.to_bytes())
    scene.log.feed(b"still here\n")
    assert scene.after(402) == own
    assert own.told
