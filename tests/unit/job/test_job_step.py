"""What `step` refuses, what it ignores, and what it keeps count of."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from job_story import (
    JOB,
    at,
    exited,
    gone,
    launched,
    move,
    noticed,
    placed,
    progress,
    refused,
    restoring,
    seen,
    stop,
    submitted,
    tick,
    told,
    training,
    uploading,
    waited,
)

from spotrun.errors import IllegalTransition
from spotrun.job import (
    LEGAL,
    LOSSES_MAX,
    Alternative,
    Ask,
    AttemptEnded,
    AttemptPhase,
    EndReason,
    Event,
    Job,
    Launch,
    Outcome,
    Phase,
    PoolRefusal,
    RefusalKind,
    Submitted,
    check_invariants,
    control,
    decode,
    encode,
    fold,
    is_news,
    launch_token,
    outstanding,
    step,
)

RUNNING = [submitted(), placed(1, 0), launched(1, 1), training(1, 2)]

HARMLESS: dict[str, tuple[list[Event], Event]] = {
    "the submission again": (RUNNING, submitted()),
    "the placement again": (RUNNING, placed(1, 3)),
    "an old placement again": ([*RUNNING, gone(1, 3), placed(2, 4)], placed(1, 5)),
    "the launch's answer again": (RUNNING, launched(1, 3)),
    "the launch's answer after the end of its machine": ([*RUNNING, gone(1, 3)], launched(1, 4)),
    "the refusal again": ([submitted(), placed(1, 0), refused(1, 1)], refused(1, 2)),
    "news older than what is known": ([*RUNNING, training(1, 9, step=5, begun=2)], training(1, 8, step=3, begun=2)),
    "news after the exit": ([*RUNNING, exited(1, 5)], training(1, 5.5, step=9, begun=2)),
    "news of an attempt that is over": ([*RUNNING, gone(1, 5), placed(2, 6)], training(1, 7, begun=2)),
    "news that outrun the launch's answer": ([submitted(), placed(1, 0)], training(1, 1)),
    "an exit that outruns the launch's answer": ([submitted(), placed(1, 0)], exited(1, 1)),
    "the notice again": ([*RUNNING, noticed(1, 5, 7)], noticed(1, 6, 7)),
    "a notice of an attempt that is over": ([*RUNNING, gone(1, 5)], noticed(1, 6, 7)),
    "the exit again": ([*RUNNING, exited(1, 5)], exited(1, 5.5, Outcome.FAILED, code=1)),
    "an exit found after the machine was": ([*RUNNING, gone(1, 5)], exited(1, 4)),
    "the machine's end again": ([*RUNNING, gone(1, 5)], gone(1, 6, EndReason.INTERRUPTED)),
    "a second stop": ([*RUNNING, stop(5)], stop(6)),
    "a placement after the end": ([submitted(), stop(1)], placed(1, 2)),
    "a tick after the end": ([submitted(), stop(1)], tick(9000)),
    "anything after the end": ([*RUNNING, exited(1, 5), gone(1, 6)], gone(1, 7, EndReason.INTERRUPTED)),
}


@pytest.mark.parametrize(("events", "late"), HARMLESS.values(), ids=list(HARMLESS))
def test_what_a_restarted_controller_may_repeat_changes_nothing(events: list[Event], late: Event) -> None:
    """The state is the same, nothing is newly asked for, and nothing needs to be journaled."""
    job = told(events)
    after, actions = step(job, late)
    assert replace(after, at=job.at) == job
    assert actions == ()
    assert not is_news(job, late)


ILLEGAL: dict[str, tuple[list[Event], Event, str]] = {
    "a second job's submission": (RUNNING, Submitted(at=at(1), job_id="other", spec={}), "other was submitted into"),
    "a second attempt beside the first": (RUNNING, placed(2, 3), "was placed while attempt 1 may have a machine"),
    "a gap in the numbers": ([submitted()], placed(2, 3), "has 0 attempts; the next cannot be 2"),
    "a token of somebody else's": ([submitted()], replace(placed(1, 3), token="x"), "cannot be 1 with token x"),
    "a move to on-demand that nobody asked for": (
        [submitted(), placed(1, 1), launched(1, 2)],
        move(1, 3, market="on_demand"),
        "on_shortage is wait",
    ),
    "on-demand that nobody asked for": ([submitted()], placed(1, 3, market="on_demand"), "on_shortage is wait"),
    "waiting with a machine": (RUNNING, waited(3, 9), "waits while attempt 1 lives"),
    "two machines for one token": (RUNNING, launched(1, 3, instance="i-9"), "got a second machine, i-9"),
    "a machine for a refused attempt": (
        [submitted(), placed(1, 0), refused(1, 1)],
        launched(1, 2),
        "may be billing; `spotrun reap` finds it",
    ),
    "a refusal of what has run": (RUNNING, refused(1, 3), "was refused and yet has run"),
    "news of a refused attempt": ([submitted(), placed(1, 0), refused(1, 1)], training(1, 2), "there is news of it"),
    "an attempt that never was": (RUNNING, gone(7, 3), "has no attempt 7"),
    "an end before the launch's answer": ([submitted(), placed(1, 0)], gone(1, 3), "no machine is known"),
}


@pytest.mark.parametrize(("events", "event", "message"), ILLEGAL.values(), ids=list(ILLEGAL))
def test_what_cannot_be_is_refused_with_the_jobs_story(events: list[Event], event: Event, message: str) -> None:
    """Going on would spend money on a state that nobody understands."""
    with pytest.raises(IllegalTransition) as error:
        step(told(events), event)
    assert message in str(error.value)
    assert "submitted as demo-1" in error.value.story[0]
    assert len(error.value.story) == len(events) + 1


def test_a_job_begins_with_its_submission() -> None:
    """Nothing can be known of a job before."""
    with pytest.raises(IllegalTransition, match="begins with its submission, not with ticked"):
        step(None, tick(1))
    with pytest.raises(IllegalTransition, match="without events"):
        fold([])
    with pytest.raises(IllegalTransition, match="with a spec that is none"):
        step(None, Submitted(at=at(0), job_id=JOB, spec={"name": "x"}))


def test_a_moving_attempt_is_told_to_save_and_end() -> None:
    """Through the same words as a stop; where it goes is kept, and that it moved is no failure and no loss."""
    job = told([submitted(max_restarts=0), placed(1, 1), launched(1, 2), training(1, 3), move(1, 10)])
    asked = control(job, lease_until=at(20))
    assert asked is not None
    assert (asked.ask, asked.reason) == (Ask.STOP, "cheaper")
    events = [submitted(max_restarts=0)]
    for number in range(1, 9):
        minutes = number * 10.0
        events += [placed(number, minutes), launched(number, minutes), move(number, minutes + 1)]
        events += [gone(number, minutes + 5, EndReason.TERMINATED)]
    job = told(events)
    assert (job.phase, job.failures, job.interruptions) == (Phase.PENDING, 0, 0)
    assert job.attempts[-1].moving_to == "z2/g5.xlarge/spot"


def test_on_demand_is_placed_when_the_user_allowed_it() -> None:
    """`on_shortage: on_demand` is the permission."""
    job = told([submitted(on_shortage="on_demand"), placed(1, 1, market="on_demand")])
    assert outstanding(job) == (Launch(attempt=1, token=launch_token(JOB, 1)),)


def test_a_restarted_controller_asks_for_the_same_again() -> None:
    """Outstanding actions come from the state: folding the journal gives them back."""
    events = [submitted(), placed(1, 1)]
    assert outstanding(fold(decode(encode(event)) for event in events)) == outstanding(told(events))


def test_a_token_is_short_distinct_and_stable() -> None:
    """EC2 takes 64 ASCII characters; a token that changed would launch a second machine."""
    tokens = {launch_token(job, attempt) for job in ("a", "b", "a" * 200) for attempt in (1, 2, 11, 10**9)}
    assert len(tokens) == 12
    assert all(len(token) <= 64 and token.isascii() for token in tokens)
    assert launch_token("demo-1", 1) == "spotrun-1-" + launch_token("demo-1", 1).removeprefix("spotrun-1-")


def test_a_machine_that_always_comes_to_nothing_does_not_loop_for_ever() -> None:
    """After some attempts in a row without a commit, the job fails and says why."""
    events: list[Event] = [submitted()]
    for number in range(1, LOSSES_MAX + 1):
        begin = number * 10
        events += [placed(number, begin), launched(number, begin), training(number, begin + 1), gone(number, begin + 2)]
        assert told(events).phase is (Phase.FAILED if number == LOSSES_MAX else Phase.PENDING)
    assert told(events).cause.startswith(f"{LOSSES_MAX} attempts in a row came to nothing; the last: the machine of")


def test_a_commit_ends_a_row_of_losses() -> None:
    """A job that makes progress may lose as many machines as it has time for."""
    events: list[Event] = [submitted()]
    for number in range(1, 3 * LOSSES_MAX):
        begin = number * 10
        committed = training(number, begin + 1, step=number, committed=number)
        events += [placed(number, begin), launched(number, begin), committed, gone(number, begin + 2)]
    assert told(events).phase is Phase.PENDING


def test_a_command_that_leaves_at_each_notice_is_no_row_of_losses() -> None:
    """It was faster than its machine, and nobody's fault: the job goes on as after any other interruption."""
    events: list[Event] = [submitted()]
    for number in range(1, 2 * LOSSES_MAX):
        begin = number * 10
        events += [placed(number, begin), launched(number, begin), training(number, begin + 1)]
        events += [noticed(number, begin + 2, begin + 4), exited(number, begin + 3, Outcome.STOPPED)]
        events += [gone(number, begin + 4)]
        assert told(events).phase is Phase.PENDING
        assert told(events).failures == 0


def test_training_time_is_counted_from_the_first_batch_to_the_end_of_the_command() -> None:
    """Start-up, upload and an idle machine are not training, so they do not count towards max_run."""
    events = [submitted(), placed(1, 0), launched(1, 1), restoring(1, 2), training(1, 10, step=1, begun=8)]
    assert told([*events, tick(18)]).trained(at(18)) == timedelta(minutes=10)
    assert told([*events, uploading(1, 20, begun=8), tick(40)]).trained(at(40)) == timedelta(minutes=12)
    assert told([*events, exited(1, 20, Outcome.LEASE_EXPIRED), gone(1, 50)]).trained_before == timedelta(minutes=12)
    assert told([*events, gone(1, 30, EndReason.INTERRUPTED)]).trained_before == timedelta(minutes=22)


def test_the_clocks_of_machines_are_not_believed_beyond_what_can_be() -> None:
    """Training cannot begin before the launch, nor after we hear of it."""
    early = told([submitted(), placed(1, 0), launched(1, 5), training(1, 6, begun=-100)])
    late = told([submitted(), placed(1, 0), launched(1, 5), training(1, 6, begun=100)])
    assert (early.attempts[0].training_at, late.attempts[0].training_at) == (at(5), at(6))


def test_a_training_shorter_than_a_heartbeat_has_trained() -> None:
    """Its exit record is the first news of it, and carries the progress."""
    job = told([submitted(), placed(1, 0), launched(1, 1), exited(1, 5, told=progress(5, step=9, begun=2))])
    assert (job.phase, job.attempts[0].phase) == (Phase.TRAINING, AttemptPhase.EXITED)
    assert job.trained(at(9)) == timedelta(minutes=3)


def test_refusals_are_remembered_by_pool_until_it_launches_again() -> None:
    """The latest of each pool, with how many there were in a row: the placement policy's pauses grow by it."""
    events: list[Event] = [submitted()]
    for number, zone in enumerate(("z1", "z2", "z1"), start=1):
        events += [placed(number, number, zone=zone), refused(number, number, RefusalKind.CAPACITY)]
    refusals = told(events).refusals
    assert [(refusal.pool, refusal.repeats) for refusal in refusals] == [
        ("z2/g5.xlarge/spot", 1),
        ("z1/g5.xlarge/spot", 2),
    ]
    after = told([*events, placed(4, 9, zone="z1"), launched(4, 9)])
    assert [refusal.pool for refusal in after.refusals] == ["z2/g5.xlarge/spot"]


OTHER = Alternative(
    zone="z2", instance_type="g6.xlarge", price_usd_per_hour=Decimal("0.39"), on_demand_usd_per_hour=Decimal("0.8")
)
SEVERAL = replace(placed(1, 0), alternatives=(OTHER,))


def test_an_attempt_on_several_pools_is_where_its_machine_came_from() -> None:
    """Its prices are that pool's; the pools that had none are left alone, the one that gave is not."""
    none = PoolRefusal(pool="z1/g5.xlarge/spot", refusal=RefusalKind.CAPACITY, answer="none")
    job = told([submitted(), SEVERAL, replace(launched(1, 1), pool="z2/g6.xlarge/spot", refused=(none,))])
    (attempt,) = job.attempts
    assert (attempt.pool, attempt.price_usd_per_hour) == ("z2/g6.xlarge/spot", Decimal("0.39"))
    assert (attempt.on_demand_usd_per_hour, attempt.pools) == (Decimal("0.8"), (attempt.pool,))
    assert [(refusal.pool, refusal.at) for refusal in job.refusals] == [("z1/g5.xlarge/spot", at(1))]


def test_a_pool_that_nobody_asked_for_changes_no_price() -> None:
    """A listing may not know the zone yet."""
    job = told([submitted(), SEVERAL, replace(launched(1, 1), pool="/g5.xlarge/spot")])
    assert (job.attempts[0].pool, job.attempts[0].alternatives) == ("z1/g5.xlarge/spot", ())


def test_a_refusal_of_several_pools_is_remembered_of_each() -> None:
    """With its own answer where there is one; what was said of the whole stands for the others."""
    limit = PoolRefusal(pool="z2/g6.xlarge/spot", refusal=RefusalKind.QUOTA, answer="limit")
    job = told([submitted(), SEVERAL, replace(refused(1, 1), refused=(limit,))])
    assert {refusal.pool: (refusal.kind, refusal.answer) for refusal in job.refusals} == {
        "z1/g5.xlarge/spot": (RefusalKind.CAPACITY, "none here"),
        "z2/g6.xlarge/spot": (RefusalKind.QUOTA, "limit"),
    }
    assert decode(encode(SEVERAL)) == SEVERAL


def unstarted(attempt: int, minutes: float, reason: EndReason = EndReason.UNSTARTED) -> AttemptEnded:
    return replace(gone(attempt, minutes, reason), detail="AWS says why. Mend it")


def test_a_machine_that_is_not_allowed_to_start_ends_the_job_with_what_to_mend() -> None:
    """Every other one would end like it. It is no failure of the command, and none is counted."""
    job = told([submitted(max_restarts=3), placed(1, 0), launched(1, 1), unstarted(1, 2, EndReason.DENIED)])
    assert (job.phase, job.failures, job.interruptions) == (Phase.FAILED, 0, 0)
    assert job.cause == "the machine of attempt 1, i-1 on z1/g5.xlarge/spot, never started: AWS says why. Mend it"


def test_machines_that_do_not_start_are_tried_again_a_bounded_number_of_times() -> None:
    """Without touching the error budget; one that trains begins the count anew."""
    events: list[Event] = [submitted(max_restarts=0)]
    for number in range(1, LOSSES_MAX):
        events += [placed(number, number), launched(number, number), unstarted(number, number)]
    assert (told(events).phase, told(events).failures) == (Phase.PENDING, 0)
    after = LOSSES_MAX
    last = told([*events, placed(after, 9), launched(after, 9), unstarted(after, 9)])
    assert last.phase is Phase.FAILED
    assert last.cause.startswith("5 attempts in a row came to nothing; the last: the machine of attempt 5")
    assert last.cause.endswith("Mend it")
    taken = [placed(after, 9), launched(after, 9), gone(after, 10, EndReason.INTERRUPTED)]
    again = told([*events, *taken, placed(after + 1, 11), launched(after + 1, 11), unstarted(after + 1, 12)])
    assert again.phase is Phase.PENDING


def test_an_attempt_is_told_its_lease_and_whether_to_stop() -> None:
    """Nothing is asked of a healthy attempt; a stopping one learns why; without an attempt there is nobody to tell."""
    assert control(told([submitted()]), lease_until=at(9)) is None
    assert control(told([submitted(), stop(1)]), lease_until=at(9)) is None
    healthy = control(told(RUNNING), lease_until=at(9))
    assert healthy is not None
    assert (healthy.attempt, healthy.lease_until, healthy.ask) == (1, at(9), Ask.NONE)
    stopping = control(told([*RUNNING, stop(5)]), lease_until=at(9))
    assert stopping is not None
    assert (stopping.ask, stopping.reason) == (Ask.STOP, "stopped by ann")
    unanswered = control(told([submitted(), placed(1, 0), stop(1)]), lease_until=at(9))
    assert unanswered is not None
    assert unanswered.ask is Ask.STOP


def test_a_training_that_cannot_be_seen_does_not_count_as_stalled() -> None:
    """Neither provider nor store could be asked: the lack of news is ours. Seen again and still, it is."""
    blind = replace(tick(90), blind=True)
    assert not told([*RUNNING, blind]).attempts[0].stalled
    assert told([*RUNNING, blind, tick(91)]).attempts[0].stalled
    assert not told([*RUNNING, blind, training(1, 91, step=7), tick(91)]).attempts[0].stalled


def test_a_noticed_machine_is_never_stalled() -> None:
    """It is the provider's to end, and its first hour is then free."""
    job = told([*RUNNING, noticed(1, 31, 33), tick(33.5)])
    assert not job.attempts[0].stalled
    assert told([*RUNNING, noticed(1, 31, 33), tick(34)]).attempts[0].stalled


def test_output_is_a_sign_of_life_of_a_command_that_never_attached() -> None:
    """It has no steps to tell. One that prints goes on past stall_timeout; one that falls silent is ended."""
    printing = [submitted(), placed(1, 0), launched(1, 1)]
    printing += [seen(1, minute, printed=minute, begun=2 if minute > 6 else None) for minute in range(3, 100, 10)]
    job = told([*printing, tick(122)])
    assert (job.phase, job.attempts[0].stalled) == (Phase.TRAINING, False)
    assert job.attempts[0].trained(at(122)) == timedelta(minutes=120)
    silent = told([*printing, seen(1, 110, printed=93, begun=2), tick(123)])
    assert silent.attempts[0].stalled
    assert silent.attempts[0].stopping_why.startswith(
        "no output from a command that never called spotrun.attach for 30"
    )


def test_output_of_a_training_that_tells_its_steps_hides_no_stall() -> None:
    """Its own word counts: a hung training may have a logger that goes on."""
    hung = told([submitted(), placed(1, 0), launched(1, 1), seen(1, 2, printed=9, begun=1), training(1, 3), tick(33)])
    assert hung.attempts[0].stalled


def test_a_start_on_a_fast_clock_has_the_wall_time_that_python_needs() -> None:
    """Half an hour of a job whose time runs 600 times as fast is 3 s; a start takes longer, and is no stall."""
    fast = submitted()
    fast = replace(fast, spec={**fast.spec, "local": {"time_scale": 600}})
    starting = [fast, placed(1, 0), launched(1, 0)]
    assert not told([*starting, tick(199)]).attempts[0].stalled
    assert told([*starting, tick(200)]).attempts[0].stalled
    assert told([*starting, training(1, 100), tick(130)]).attempts[0].stalled


def test_uploads_are_not_cut_by_max_run() -> None:
    """The training is done; what is left is saving its results, and max_wait bounds that."""
    job = told([submitted(), placed(1, 0), launched(1, 1), uploading(1, 361.9, begun=2), tick(400)])
    assert (job.phase, job.ending) == (Phase.UPLOADING, None)


def test_time_never_goes_back() -> None:
    """An event with an older instant moves nothing back: limits that were reached stay reached."""
    assert told([submitted(), tick(700), tick(1)]).at == at(700)


NEWS: dict[str, tuple[list[Event], Event, bool]] = {
    "a tick that changes nothing": (RUNNING, tick(3), False),
    "a tick that only knows the bill": (RUNNING, tick(3, "5"), False),
    "a tick that ends the waiting": ([submitted(), waited(1, 5)], tick(5), True),
    "a tick that reaches a limit": (RUNNING, tick(800), True),
    "a tick after which a machine must be ended": ([*RUNNING, stop(5)], tick(8), True),
    "a step soon after the last news": (RUNNING, training(1, 3, step=5, begun=2), False),
    "a step a while after the last news": (RUNNING, training(1, 5, step=5, begun=2), True),
    "no step for a while": ([*RUNNING], training(1, 9, step=0, begun=2), False),
    "a commit": (RUNNING, training(1, 3, step=5, begun=2, committed=5), True),
    "a change of phase": (RUNNING, uploading(1, 3, begun=2), True),
    "a notice": (RUNNING, noticed(1, 3, 5), True),
    "another reason to wait": ([submitted(), waited(1, 5)], waited(2, 5), False),
    "another time to wait for": ([submitted(), waited(1, 5)], waited(2, 6), True),
}


@pytest.mark.parametrize(("events", "event", "expected"), NEWS.values(), ids=list(NEWS))
def test_the_journal_holds_what_changes_something(events: list[Event], event: Event, expected: bool) -> None:
    """A job of weeks keeps a journal that one can read."""
    assert is_news(told(events), event) is expected


def test_every_phase_has_its_row_and_ends_have_no_way_out() -> None:
    """The table is complete, every phase can be reached, and an end is an end."""
    assert set(LEGAL) == set(Phase)
    assert {phase for phase, targets in LEGAL.items() if not targets} == {phase for phase in Phase if phase.is_end}
    reached, new = {Phase.PENDING}, {Phase.PENDING}
    while new:
        new = {target for phase in new for target in LEGAL[phase]} - reached
        reached |= new
    assert reached == set(Phase)


BROKEN: dict[str, tuple[list[Event], dict[str, object], str]] = {
    "an end with a machine": (RUNNING, {"phase": Phase.COMPLETED, "ended_at": at(9)}, "attempt 1 may have a machine"),
    "an end without a cause": ([submitted(), stop(1)], {"cause": ""}, "because of ''"),
    "training without a machine": ([submitted()], {"phase": Phase.TRAINING}, "is Training and has no machine"),
    "a wrong sum": ([*RUNNING, gone(1, 9)], {"trained_before": timedelta(hours=9)}, "trained_before is 9:00:00"),
    "more failures than allowed": ([submitted()], {"failures": 2}, "goes on after 2 failures"),
    "interruptions that nobody confirmed": ([submitted()], {"interruptions": 1}, "more than the provider confirmed"),
    "waiting with a machine": (RUNNING, {"wait_until": at(99)}, "while attempt 1 lives"),
}


@pytest.mark.parametrize(("events", "damage", "message"), BROKEN.values(), ids=list(BROKEN))
def test_a_broken_state_is_noticed(events: list[Event], damage: dict[str, object], message: str) -> None:
    """The checker is checked: each kind of damage is named."""
    job: Job = replace(told(events), **damage)  # type: ignore[arg-type]
    with pytest.raises(IllegalTransition) as error:
        check_invariants(job)
    assert message in str(error.value)
