"""Several instances as one: what a gang is, of what its members are."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from spotrun.providers.ec2.gang import REST, gang_id, gangs, stragglers, token_of
from spotrun.providers.provider import EndCause, Instance, InstanceState

LAUNCHED = datetime(2026, 11, 20, 10, 0, tzinfo=timezone.utc)
GONE = LAUNCHED + timedelta(minutes=30)


def member(
    number: int, cause: EndCause | None = None, *, notice: datetime | None = None, token: str = "t-1"
) -> Instance:
    return Instance(
        id=f"i-{number}",
        job_id="gpt-7x",
        attempt=1,
        token=token,
        pool="use1-az4/p4d.24xlarge/spot",
        state=InstanceState.RUNNING if cause is None else InstanceState.ENDED,
        launched_at=LAUNCHED + timedelta(seconds=number),
        notice_deadline=notice,
        ended_at=None if cause is None else GONE + timedelta(seconds=number),
        end_cause=cause,
        detail="" if cause is None else cause.value,
    )


def test_a_gang_lives_while_any_member_does() -> None:
    """It has one name, whichever members a listing shows."""
    (gang,) = gangs([member(2), member(1, EndCause.INTERRUPTED)])
    assert (gang.id, gang.state, gang.end_cause) == (gang_id("t-1"), InstanceState.RUNNING, None)
    assert gang.members == ("i-1", "i-2")
    assert gang.launched_at == LAUNCHED + timedelta(seconds=1)
    assert token_of(gang.id) == "t-1"
    assert token_of("i-1") is None
    assert [it.id for it in gangs([member(2)])] == [gang.id]


def test_the_loss_of_one_is_the_interruption_of_all() -> None:
    """Whatever became of the others; only the one that was taken can be free."""
    (gang,) = gangs([member(1, EndCause.EXITED), member(2, EndCause.INTERRUPTED), member(3, EndCause.TERMINATED)])
    assert (gang.state, gang.end_cause, gang.taken) == (InstanceState.ENDED, EndCause.INTERRUPTED, 1)
    assert gang.ended_at == GONE + timedelta(seconds=3)
    assert gang.detail == "i-2: interrupted"


def test_a_gang_that_ended_by_itself_has_exited() -> None:
    """As after its work."""
    (gang,) = gangs([member(1, EndCause.EXITED), member(2, EndCause.EXITED)])
    assert (gang.end_cause, gang.taken) == (EndCause.EXITED, 0)


def test_the_first_notice_counts_for_all() -> None:
    """The gang trains no longer than its first member."""
    early, late = GONE, GONE + timedelta(minutes=1)
    (gang,) = gangs([member(1, notice=late), member(2, notice=early), member(3)])
    assert gang.notice_deadline == early


def test_what_stays_of_a_broken_gang_is_ended_after_a_rest() -> None:
    """Their agents end themselves; a machine that hangs must not go on alone."""
    machines = [member(1, EndCause.INTERRUPTED), member(2), member(5, token="t-2")]
    assert stragglers(machines, GONE + REST) == []
    assert stragglers(machines, GONE + REST + timedelta(seconds=2)) == ["i-2"]
