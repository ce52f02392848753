"""Short words for the events of a job, so that a test reads as a story. Times are minutes after the submission."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

from spotrun.job import (
    Action,
    AttemptEnded,
    AttemptExited,
    Commit,
    EndReason,
    Event,
    Exit,
    Job,
    JobSpec,
    Launch,
    Launched,
    LaunchRefused,
    MoveDecided,
    Noticed,
    Outcome,
    Phase,
    Placed,
    Progress,
    Progressed,
    RefusalKind,
    StopRequested,
    Submitted,
    Terminate,
    Ticked,
    TrainingPhase,
    Waited,
    check_invariants,
    fold,
    launch_token,
    step,
)

JOB = "demo-1"
START = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def spec(**limits: Any) -> JobSpec:
    return JobSpec(
        name="demo",
        command="python train.py",
        checkpoint={"uri": "file:///runs"},
        limits={"max_run": "6h", "max_wait": "12h", **limits},
    )


def submitted(**limits: Any) -> Submitted:
    return Submitted(at=START, job_id=JOB, spec=spec(**limits).to_json())


def placed(attempt: int, minutes: float, *, zone: str = "z1", market: str = "spot") -> Placed:
    return Placed(
        at=at(minutes),
        attempt=attempt,
        token=launch_token(JOB, attempt),
        provider="local",
        region="r",
        zone=zone,
        instance_type="g5.xlarge",
        market=market,
        price_usd_per_hour=Decimal("0.4"),
        on_demand_usd_per_hour=Decimal("1.0"),
        reason="cheapest",
    )


def waited(minutes: float, until: float) -> Waited:
    return Waited(at=at(minutes), until=at(until), reason="no capacity")


def move(attempt: int, minutes: float, *, market: str = "spot") -> MoveDecided:
    return MoveDecided(at=at(minutes), attempt=attempt, pool=f"z2/g5.xlarge/{market}", market=market, reason="cheaper")


def launched(attempt: int, minutes: float, *, instance: str | None = None) -> Launched:
    return Launched(at=at(minutes), attempt=attempt, instance_id=instance or f"i-{attempt}", launched_at=at(minutes))


def refused(attempt: int, minutes: float, refusal: RefusalKind = RefusalKind.CAPACITY) -> LaunchRefused:
    return LaunchRefused(at=at(minutes), attempt=attempt, refusal=refusal, answer="none here")


def progress(minutes: float, *, step: int = 0, begun: float | None = None, committed: int | None = None) -> Progress:
    commit = None if committed is None else Commit(step=committed, at=at(minutes), captured_at=at(minutes))
    return Progress(
        phase=TrainingPhase.RESTORING if begun is None else TrainingPhase.TRAINING,
        at=at(minutes),
        step=step,
        training_at=None if begun is None else at(begun),
        commits=0 if commit is None else 1,
        last_commit=commit,
    )


def restoring(attempt: int, minutes: float) -> Progressed:
    return Progressed(at=at(minutes), attempt=attempt, progress=progress(minutes))


def training(
    attempt: int, minutes: float, *, step: int = 0, begun: float | None = None, committed: int | None = None
) -> Progressed:
    told = progress(minutes, step=step, begun=minutes if begun is None else begun, committed=committed)
    return Progressed(at=at(minutes), attempt=attempt, progress=told)


def seen(attempt: int, minutes: float, *, printed: int, begun: float | None = None) -> Progressed:
    """What the agent sees of a command that never attached."""
    progress = Progress(
        phase=TrainingPhase.STARTING if begun is None else TrainingPhase.TRAINING,
        at=at(minutes),
        training_at=None if begun is None else at(begun),
        output_bytes=printed,
    )
    return Progressed(at=at(minutes), attempt=attempt, progress=progress)


def uploading(attempt: int, minutes: float, *, begun: float) -> Progressed:
    return Progressed(at=at(minutes), attempt=attempt, progress=progress(minutes, begun=begun), uploading=True)


def noticed(attempt: int, minutes: float, deadline: float) -> Noticed:
    return Noticed(at=at(minutes), attempt=attempt, deadline=at(deadline))


def exited(
    attempt: int,
    minutes: float,
    outcome: Outcome = Outcome.COMPLETED,
    *,
    code: int | None = 0,
    tail: Sequence[str] = (),
    told: Progress | None = None,
) -> AttemptExited:
    end = Exit(attempt=attempt, outcome=outcome, at=at(minutes), exit_code=code, tail=tuple(tail), progress=told)
    return AttemptExited(at=at(minutes), attempt=attempt, exit=end)


def gone(attempt: int, minutes: float, reason: EndReason = EndReason.EXITED) -> AttemptEnded:
    return AttemptEnded(at=at(minutes), attempt=attempt, ended_at=at(minutes), reason=reason)


def tick(minutes: float, spent: str = "0") -> Ticked:
    return Ticked(at=at(minutes), spent_usd=Decimal(spent))


def stop(minutes: float) -> StopRequested:
    return StopRequested(at=at(minutes), by="ann")


def launch(attempt: int) -> Launch:
    return Launch(attempt=attempt, token=launch_token(JOB, attempt))


def told(events: Sequence[Event]) -> Job:
    """The job after these events, checked at every step."""
    job: Job | None = None
    for event in events:
        job, _ = step(job, event)
        check_invariants(job)
    assert job is not None
    assert fold(events) == job
    return job


def play(events: Sequence[Event]) -> list[tuple[Phase, tuple[str, ...]]]:
    """Phase and names of newly asked actions after each event, checked at every step."""
    job: Job | None = None
    seen = []
    for event in events:
        job, actions = step(job, event)
        check_invariants(job)
        seen.append((job.phase, tuple(name(action) for action in actions)))
    return seen


def name(action: Action) -> str:
    match action:
        case Launch():
            return f"launch {action.attempt}"
        case Terminate():
            return f"terminate {action.instance_id}"
        case _:
            return "place"
