"""Lives of jobs as tables: each event, the phase it leads to, and what is newly asked for."""

from __future__ import annotations

import pytest
from job_story import (
    exited,
    gone,
    launched,
    move,
    noticed,
    placed,
    play,
    progress,
    refused,
    restoring,
    stop,
    submitted,
    tick,
    told,
    training,
    uploading,
    waited,
)

from spotrun.job import EndReason, Event, Outcome, Phase, RefusalKind

PLACE, NOTHING = ("place",), ()
REFUSED = progress(3).model_copy(update={"refusal": "it is strict, and config.lr was 0.1 when saved"})

SCENARIOS: dict[str, list[tuple[Event, str, tuple[str, ...]]]] = {
    "a run without trouble": [
        (submitted(), "Pending", PLACE),
        (placed(1, 1), "Pending", ("launch 1",)),
        (launched(1, 2), "Starting", NOTHING),
        (restoring(1, 3), "Starting", NOTHING),
        (training(1, 4, step=1), "Training", NOTHING),
        (training(1, 60, step=900, begun=4, committed=800), "Training", NOTHING),
        (uploading(1, 90, begun=4), "Uploading", NOTHING),
        (exited(1, 91), "Uploading", NOTHING),
        (gone(1, 92), "Completed", NOTHING),
    ],
    "an interruption with notice: the machine is left to the provider, then another is sought": [
        (submitted(), "Pending", PLACE),
        (placed(1, 1), "Pending", ("launch 1",)),
        (launched(1, 2), "Starting", NOTHING),
        (training(1, 3), "Training", NOTHING),
        (noticed(1, 10, 12), "Training", NOTHING),
        (tick(11), "Training", NOTHING),
        (gone(1, 12, EndReason.INTERRUPTED), "Interrupted", PLACE),
        (placed(2, 13), "Pending", ("launch 2",)),
        (launched(2, 14), "Starting", NOTHING),
        (exited(2, 20), "Starting", NOTHING),
        (gone(2, 21), "Completed", NOTHING),
    ],
    "a move: the attempt saves and ends, and the next one is placed": [
        (submitted(on_shortage="on_demand"), "Pending", PLACE),
        (placed(1, 1, market="on_demand"), "Pending", ("launch 1",)),
        (launched(1, 2), "Starting", NOTHING),
        (training(1, 3), "Training", NOTHING),
        (move(1, 10), "Training", NOTHING),
        (tick(12), "Training", NOTHING),
        (exited(1, 12, Outcome.STOPPED), "Training", NOTHING),
        (gone(1, 13), "Pending", PLACE),
        (placed(2, 13, zone="z2"), "Pending", ("launch 2",)),
        (launched(2, 14), "Starting", NOTHING),
    ],
    "a move whose training does not end: its machine is ended, and the next one is placed": [
        (submitted(), "Pending", PLACE),
        (placed(1, 1), "Pending", ("launch 1",)),
        (launched(1, 2), "Starting", NOTHING),
        (move(1, 3), "Starting", NOTHING),
        (tick(3), "Starting", NOTHING),
        (tick(6), "Starting", ("terminate i-1",)),
        (gone(1, 7, EndReason.TERMINATED), "Pending", PLACE),
    ],
    "a machine with a notice is left to its provider, and so is one whose job ends": [
        (submitted(), "Pending", PLACE),
        (placed(1, 1), "Pending", ("launch 1",)),
        (launched(1, 2), "Starting", NOTHING),
        (training(1, 3), "Training", NOTHING),
        (noticed(1, 10, 12), "Training", NOTHING),
        (move(1, 10.5), "Training", NOTHING),
        (gone(1, 12, EndReason.INTERRUPTED), "Interrupted", PLACE),
    ],
    "a training that is through before it is moved is through": [
        (submitted(), "Pending", PLACE),
        (placed(1, 1), "Pending", ("launch 1",)),
        (launched(1, 2), "Starting", NOTHING),
        (training(1, 3), "Training", NOTHING),
        (move(1, 10), "Training", NOTHING),
        (exited(1, 10.5), "Training", NOTHING),
        (gone(1, 11), "Completed", NOTHING),
    ],
    "no capacity: wait, ask again when the time has come, and launch elsewhere": [
        (submitted(), "Pending", PLACE),
        (placed(1, 1, zone="z1"), "Pending", ("launch 1",)),
        (refused(1, 1), "Pending", PLACE),
        (waited(1, 5), "Pending", NOTHING),
        (tick(4), "Pending", NOTHING),
        (tick(5), "Pending", PLACE),
        (waited(5, 5), "Pending", PLACE),
        (placed(2, 6, zone="z2"), "Pending", ("launch 2",)),
        (launched(2, 7), "Starting", NOTHING),
    ],
    "throttled and out of quota: both try again": [
        (submitted(), "Pending", PLACE),
        (placed(1, 1), "Pending", ("launch 1",)),
        (refused(1, 1, RefusalKind.THROTTLED), "Pending", PLACE),
        (placed(2, 2), "Pending", ("launch 2",)),
        (refused(2, 2, RefusalKind.QUOTA), "Pending", PLACE),
    ],
    "denied: nobody but the user can mend it": [
        (submitted(), "Pending", PLACE),
        (placed(1, 1), "Pending", ("launch 1",)),
        (refused(1, 1, RefusalKind.DENIED), "Failed", NOTHING),
    ],
    "a failure that is allowed, and one that is not": [
        (submitted(max_restarts=1), "Pending", PLACE),
        (placed(1, 1), "Pending", ("launch 1",)),
        (launched(1, 2), "Starting", NOTHING),
        (training(1, 3), "Training", NOTHING),
        (exited(1, 4, Outcome.FAILED, code=1), "Training", NOTHING),
        (gone(1, 5), "Pending", PLACE),
        (placed(2, 6), "Pending", ("launch 2",)),
        (launched(2, 7), "Starting", NOTHING),
        (exited(2, 8, Outcome.FAILED, code=1), "Starting", NOTHING),
        (gone(2, 9), "Failed", NOTHING),
    ],
    "a command that cannot start fails at once, whatever restarts are allowed": [
        (submitted(max_restarts=9), "Pending", PLACE),
        (placed(1, 1), "Pending", ("launch 1",)),
        (launched(1, 2), "Starting", NOTHING),
        (exited(1, 3, Outcome.START_FAILED, code=None), "Starting", NOTHING),
        (gone(1, 4), "Failed", NOTHING),
    ],
    "a training that refuses to go on fails at once, whatever restarts are allowed": [
        (submitted(max_restarts=9), "Pending", PLACE),
        (placed(1, 1), "Pending", ("launch 1",)),
        (launched(1, 2), "Starting", NOTHING),
        (exited(1, 3, Outcome.FAILED, code=2, told=REFUSED), "Starting", NOTHING),
        (gone(1, 4), "Failed", NOTHING),
    ],
    "a stop before anything was launched": [
        (submitted(), "Pending", PLACE),
        (stop(1), "Stopped", NOTHING),
    ],
    "a stop while training: save, end, confirmed": [
        (submitted(), "Pending", PLACE),
        (placed(1, 1), "Pending", ("launch 1",)),
        (launched(1, 2), "Starting", NOTHING),
        (training(1, 3), "Training", NOTHING),
        (stop(10), "Training", NOTHING),
        (exited(1, 11, Outcome.STOPPED), "Training", NOTHING),
        (gone(1, 11.5), "Stopped", NOTHING),
    ],
    "a stop that is not followed: terminated after three minutes": [
        (submitted(), "Pending", PLACE),
        (placed(1, 1), "Pending", ("launch 1",)),
        (launched(1, 2), "Starting", NOTHING),
        (training(1, 3), "Training", NOTHING),
        (stop(10), "Training", NOTHING),
        (tick(10), "Training", NOTHING),
        (tick(12.9), "Training", NOTHING),
        (tick(13), "Training", ("terminate i-1",)),
        (tick(13.5), "Training", NOTHING),  # asked for already
        (gone(1, 14, EndReason.TERMINATED), "Stopped", NOTHING),
    ],
    "a stop that no controller hears for an hour: it is told, and has its three minutes from then": [
        (submitted(), "Pending", PLACE),
        (placed(1, 1), "Pending", ("launch 1",)),
        (launched(1, 2), "Starting", NOTHING),
        (training(1, 3), "Training", NOTHING),
        (stop(10), "Training", NOTHING),
        (tick(70), "Training", NOTHING),
        (tick(72.9), "Training", NOTHING),
        (tick(73), "Training", ("terminate i-1",)),
        (gone(1, 74, EndReason.TERMINATED), "Stopped", NOTHING),
    ],
    "a stop while the launch is unanswered: its machine is ended as soon as it is known": [
        (submitted(), "Pending", PLACE),
        (placed(1, 1), "Pending", ("launch 1",)),
        (stop(2), "Pending", NOTHING),
        (launched(1, 3), "Starting", ("terminate i-1",)),
        (gone(1, 4, EndReason.TERMINATED), "Stopped", NOTHING),
    ],
    "max_wait while the launch is unanswered, and the answer is no": [
        (submitted(), "Pending", PLACE),
        (placed(1, 719), "Pending", ("launch 1",)),
        (tick(720), "Pending", NOTHING),
        (refused(1, 721), "MaxWaitTimeExceeded", NOTHING),
    ],
    "max_wait without ever getting capacity": [
        (submitted(), "Pending", PLACE),
        (waited(1, 800), "Pending", NOTHING),
        (tick(719), "Pending", NOTHING),
        (tick(720), "MaxWaitTimeExceeded", NOTHING),
    ],
    "max_run over two attempts: what the first trained counts": [
        (submitted(max_run="2h"), "Pending", PLACE),
        (placed(1, 0), "Pending", ("launch 1",)),
        (launched(1, 0), "Starting", NOTHING),
        (training(1, 10), "Training", NOTHING),
        (gone(1, 100, EndReason.INTERRUPTED), "Interrupted", PLACE),
        (placed(2, 200), "Pending", ("launch 2",)),
        (launched(2, 200), "Starting", NOTHING),
        (training(2, 210), "Training", NOTHING),
        (tick(239), "Training", NOTHING),
        (tick(240), "Training", NOTHING),
        (exited(2, 241, Outcome.STOPPED), "Training", NOTHING),
        (gone(2, 241), "MaxRuntimeExceeded", NOTHING),
    ],
    "the budget is reached while waiting": [
        (submitted(budget_usd=1), "Pending", PLACE),
        (tick(1, "0.99"), "Pending", NOTHING),
        (tick(2, "1.00"), "BudgetExceeded", NOTHING),
    ],
    "a stall is stopped, terminated, and counts as a failure": [
        (submitted(max_restarts=1), "Pending", PLACE),
        (placed(1, 0), "Pending", ("launch 1",)),
        (launched(1, 0), "Starting", NOTHING),
        (training(1, 5, step=1), "Training", NOTHING),
        (training(1, 30, step=1, begun=5), "Training", NOTHING),
        (tick(34), "Training", NOTHING),
        (tick(35), "Training", NOTHING),
        (tick(35), "Training", NOTHING),
        (tick(37.9), "Training", NOTHING),
        (tick(38), "Training", ("terminate i-1",)),
        (gone(1, 39, EndReason.TERMINATED), "Pending", PLACE),
    ],
    "a machine that stays after its command is over is ended": [
        (submitted(), "Pending", PLACE),
        (placed(1, 0), "Pending", ("launch 1",)),
        (launched(1, 0), "Starting", NOTHING),
        (exited(1, 5), "Starting", NOTHING),
        (tick(5.9), "Starting", NOTHING),
        (tick(6), "Starting", ("terminate i-1",)),
        (gone(1, 7, EndReason.TERMINATED), "Completed", NOTHING),
    ],
    "a stop after a notice: nothing is terminated until a minute after its deadline": [
        (submitted(), "Pending", PLACE),
        (placed(1, 0), "Pending", ("launch 1",)),
        (launched(1, 0), "Starting", NOTHING),
        (training(1, 1), "Training", NOTHING),
        (stop(9), "Training", NOTHING),
        (tick(9), "Training", NOTHING),
        (noticed(1, 10, 12), "Training", NOTHING),
        (tick(12.9), "Training", NOTHING),
        (tick(13), "Training", ("terminate i-1",)),
        (gone(1, 14, EndReason.TERMINATED), "Stopped", NOTHING),
    ],
    "a notice far ahead makes no machine immortal": [
        (submitted(), "Pending", PLACE),
        (placed(1, 0), "Pending", ("launch 1",)),
        (launched(1, 0), "Starting", NOTHING),
        (training(1, 1), "Training", NOTHING),
        (noticed(1, 2, 600), "Training", NOTHING),
        (stop(9), "Training", NOTHING),
        (tick(9), "Training", NOTHING),
        (tick(12), "Training", ("terminate i-1",)),
        (gone(1, 13, EndReason.TERMINATED), "Stopped", NOTHING),
    ],
}


@pytest.mark.parametrize("story", SCENARIOS.values(), ids=list(SCENARIOS))
def test_a_job_lives_as_its_story_tells(story: list[tuple[Event, str, tuple[str, ...]]]) -> None:
    """Events in, phases and actions out."""
    assert play([event for event, _, _ in story]) == [(Phase(phase), actions) for _, phase, actions in story]


RUNNING = [submitted(), placed(1, 0), launched(1, 1), training(1, 2)]

ENDS: dict[str, tuple[list[Event], str, str]] = {
    "a failure tells exit code and last words": (
        [exited(1, 5, Outcome.FAILED, code=3, tail=["loss 0.1", "ValueError: no"]), gone(1, 6)],
        "Failed",
        "the command ended with exit code 3\n  loss 0.1\n  ValueError: no",
    ),
    "a killed command tells its signal": (
        [exited(1, 5, Outcome.FAILED, code=-9), gone(1, 6)],
        "Failed",
        "the command was killed by SIGKILL",
    ),
    "a kill seen through a shell tells its signal too": (
        [exited(1, 5, Outcome.FAILED, code=139), gone(1, 6)],
        "Failed",
        "the command was killed by SIGSEGV",
    ),
    "a completed run wins over an interruption of the same moment": (
        [noticed(1, 5, 7), exited(1, 7), gone(1, 7, EndReason.INTERRUPTED)],
        "Completed",
        "",
    ),
    "a completed run wins over a stop": ([stop(5), exited(1, 6), gone(1, 7)], "Completed", ""),
    "a failure after a stop is the stop": (
        [stop(5), exited(1, 6, Outcome.FAILED, code=1), gone(1, 7)],
        "Stopped",
        "stopped by ann",
    ),
    "an interruption after a stop is the stop": (
        [stop(5), gone(1, 6, EndReason.INTERRUPTED)],
        "Stopped",
        "stopped by ann",
    ),
    "the first ending stands": ([stop(5), tick(800), gone(1, 801)], "Stopped", "stopped by ann"),
    "max_run says how much": (
        [tick(362), gone(1, 363, EndReason.TERMINATED)],
        "MaxRuntimeExceeded",
        "the attempts together have trained for 6 h 00 min (max_run)",
    ),
    "a failure of the user's while a notice is pending is a failure": (
        [noticed(1, 5, 7), exited(1, 6, Outcome.FAILED, code=1), gone(1, 7, EndReason.INTERRUPTED)],
        "Failed",
        "the command ended with exit code 1",
    ),
    "a stall without an allowed restart": (
        [tick(40), gone(1, 43, EndReason.TERMINATED)],
        "Failed",
        "no step, commit or change of phase for 30 min 00 s (stall_timeout)",
    ),
}


@pytest.mark.parametrize(("events", "phase", "cause"), ENDS.values(), ids=list(ENDS))
def test_an_end_tells_its_cause(events: list[Event], phase: str, cause: str) -> None:
    """What the user reads when it is over."""
    job = told([*RUNNING, *events])
    assert (job.phase.value, job.cause) == (phase, cause)


def test_a_machine_that_leaves_no_word_before_training_is_a_failure() -> None:
    """The agent could not even write its exit record: something in the set-up, which would happen again."""
    job = told([submitted(), placed(1, 0), launched(1, 1), gone(1, 2)])
    assert job.phase is Phase.FAILED
    assert job.cause == (
        "the machine of attempt 1, i-1 on z1/g5.xlarge/spot, shut itself down without a word before the training began"
    )


AGAIN: dict[str, list[Event]] = {
    "a lost machine that had trained": [gone(1, 5)],
    "fenced by a newer attempt": [exited(1, 5, Outcome.FENCED, code=77), gone(1, 6)],
    "its lease ran out while no controller was there": [exited(1, 5, Outcome.LEASE_EXPIRED), gone(1, 6)],
}


@pytest.mark.parametrize("events", AGAIN.values(), ids=list(AGAIN))
def test_what_is_nobodys_fault_is_tried_again(events: list[Event]) -> None:
    """Neither the user's error budget nor the count of interruptions moves."""
    job = told([*RUNNING, *events])
    assert (job.phase, job.failures, job.interruptions) == (Phase.PENDING, 0, 0)


INTERRUPTED: dict[str, list[Event]] = {
    "while it stood still and was asked to stop, and its lease ran out": [
        tick(40),
        exited(1, 41, Outcome.LEASE_EXPIRED),
        gone(1, 41, EndReason.INTERRUPTED),
    ],
    "without a word": [gone(1, 7, EndReason.INTERRUPTED)],
    "the shutdown's SIGTERM was the training's end": [
        noticed(1, 5, 7),
        exited(1, 6.9, Outcome.FAILED, code=-15),
        gone(1, 7, EndReason.INTERRUPTED),
    ],
    "the same through a shell": [exited(1, 6.9, Outcome.FAILED, code=143), gone(1, 7, EndReason.INTERRUPTED)],
    "a crash after the announced deadline": [
        noticed(1, 5, 7),
        exited(1, 7.1, Outcome.FAILED, code=1),
        gone(1, 7.2, EndReason.INTERRUPTED),
    ],
    "the agent stopped it on the notice": [
        noticed(1, 5, 7),
        exited(1, 6, Outcome.STOPPED),
        gone(1, 7, EndReason.INTERRUPTED),
    ],
}


@pytest.mark.parametrize("events", INTERRUPTED.values(), ids=list(INTERRUPTED))
def test_an_interruption_never_eats_the_error_budget(events: list[Event]) -> None:
    """With no restarts allowed, any failure would end the job; an interruption does not."""
    job = told([*RUNNING, *events])
    assert (job.phase, job.failures, job.interruptions) == (Phase.INTERRUPTED, 0, 1)
