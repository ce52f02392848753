"""What an exit code means."""

from __future__ import annotations

import signal

import pytest
from agent_fakes import START

from spotrun.agent.command import arguments
from spotrun.agent.ending import StopCause, classify
from spotrun.errors import SpecError
from spotrun.job.message import EXIT_FENCED, Outcome, Progress, TrainingPhase

TRAINING = Progress(phase=TrainingPhase.TRAINING, at=START)
DONE = Progress(phase=TrainingPhase.DONE, at=START)


@pytest.mark.parametrize(
    ("exit_code", "stop", "progress", "signalled", "outcome"),
    [
        (0, None, None, False, Outcome.COMPLETED),
        (0, None, TRAINING, True, Outcome.COMPLETED),
        (3, None, DONE, False, Outcome.FAILED),
        (-signal.SIGKILL, None, TRAINING, False, Outcome.FAILED),
        (-signal.SIGTERM, None, TRAINING, False, Outcome.FAILED),
        (-signal.SIGTERM, None, TRAINING, True, Outcome.STOPPED),
        (143, None, TRAINING, True, Outcome.STOPPED),
        (1, None, TRAINING, True, Outcome.FAILED),
        (EXIT_FENCED, None, None, False, Outcome.FENCED),
        (EXIT_FENCED, StopCause.ASKED, TRAINING, True, Outcome.FENCED),
        (0, StopCause.ASKED, TRAINING, True, Outcome.STOPPED),
        (0, StopCause.ASKED, None, True, Outcome.STOPPED),
        (0, StopCause.ASKED, DONE, True, Outcome.COMPLETED),
        (1, StopCause.ASKED, DONE, True, Outcome.STOPPED),
        (-signal.SIGKILL, StopCause.ASKED, TRAINING, True, Outcome.STOPPED),
        (0, StopCause.LEASE, TRAINING, True, Outcome.LEASE_EXPIRED),
        (0, StopCause.LEASE, DONE, True, Outcome.COMPLETED),
        (None, StopCause.LEASE, None, False, Outcome.LEASE_EXPIRED),
    ],
)
def test_an_ending_has_one_outcome(exit_code, stop, progress, signalled, outcome) -> None:
    """Failure is only what nobody of ours brought about."""
    assert classify(exit_code, stop=stop, progress=progress, signalled=signalled) is outcome


@pytest.mark.parametrize(
    ("exit_code", "progress", "outcome"),
    [
        (0, None, Outcome.STOPPED),
        (0, TRAINING, Outcome.STOPPED),
        (0, DONE, Outcome.COMPLETED),
        (1, None, Outcome.STOPPED),
        (-signal.SIGTERM, None, Outcome.STOPPED),
        (EXIT_FENCED, None, Outcome.FENCED),
    ],
)
def test_an_end_right_after_the_signal_of_a_notice_is_the_answer_to_it(exit_code, progress, outcome) -> None:
    """A script that saves and leaves with exit code 0 when it is signalled has not reached its end."""
    assert classify(exit_code, stop=None, progress=progress, signalled=True, told=True) is outcome


def test_a_command_is_split_as_a_shell_would_and_no_more() -> None:
    """Quotes group; variables, globs and pipes are plain text."""
    assert arguments("python train.py --name 'a b' $HOME *.py | tee") == [
        "python",
        "train.py",
        "--name",
        "a b",
        "$HOME",
        "*.py",
        "|",
        "tee",
    ]
    assert arguments(("python", "a b.py")) == ["python", "a b.py"]


@pytest.mark.parametrize("command", ["", "   ", (), ("",), "python 'train.py"])
def test_a_command_that_is_none_is_refused(command) -> None:
    """With a sentence."""
    with pytest.raises(SpecError, match="command: "):
        arguments(command)
