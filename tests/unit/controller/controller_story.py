"""Jobs and machines for the tests of the controller's parts."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal

from spotrun.controller.placing import placed
from spotrun.job import (
    AttemptEnded,
    EndReason,
    Event,
    Exit,
    Heartbeat,
    Job,
    JobSpec,
    Launched,
    Outcome,
    Progress,
    Submitted,
    TrainingPhase,
    fold,
    launch_token,
)
from spotrun.market.offer import MarketKind, Offer
from spotrun.providers.provider import EndCause, Instance, InstanceState

AT = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
JOB_ID = "gpt-abcde"
SPEC = JobSpec.model_validate({"name": "gpt", "command": "python train.py", "limits": {"max_run": "1h"}})
OFFER = Offer(
    provider="sim",
    region="r1",
    zone="r1-az1",
    instance_type="g5.xlarge",
    market=MarketKind.SPOT,
    price_usd_per_hour=Decimal("0.36"),
    on_demand_usd_per_hour=Decimal("1.006"),
)


ELASTIC = JobSpec.model_validate(
    {
        "name": "gpt",
        "command": "torchrun train.py",
        "provider": "ec2",
        "resources": {"nodes": "2..4"},
        "checkpoint": {"uri": "s3://bucket/runs"},
    }
)


def at(minutes: float) -> datetime:
    """An instant of the story."""
    return AT + timedelta(minutes=minutes)


def submitted(spec: JobSpec = SPEC) -> Submitted:
    return Submitted(at=AT, job_id=JOB_ID, spec=spec.to_json(), workdir="/w")


def started(spec: JobSpec = SPEC, *, members: tuple[str, ...] = ()) -> list[Event]:
    """Submitted, placed and launched as `i-1` in the first minute."""
    events: list[Event] = [submitted(spec)]
    events.append(placed(fold(events), OFFER, at(0), reason="cheapest"))
    return [*events, Launched(at=at(1), attempt=1, instance_id="i-1", launched_at=at(1), members=members)]


def ended(minutes: float, reason: EndReason) -> AttemptEnded:
    return AttemptEnded(at=at(minutes), attempt=1, ended_at=at(minutes), reason=reason)


def job_of(events: list[Event]) -> Job:
    return fold(events)


def machine(instance_id: str = "i-1", *, attempt: int = 1, **changes: object) -> Instance:
    """A running instance of an attempt."""
    running = Instance(
        id=instance_id,
        job_id=JOB_ID,
        attempt=attempt,
        token=launch_token(JOB_ID, attempt),
        pool=OFFER.pool,
        state=InstanceState.RUNNING,
        launched_at=at(1),
    )
    return replace(running, **changes)  # type: ignore[arg-type]


def gone(cause: EndCause, minutes: float) -> Instance:
    """The same, over."""
    return machine(state=InstanceState.ENDED, ended_at=at(minutes), end_cause=cause)


def progress(step: int, minutes: float) -> Progress:
    return Progress(phase=TrainingPhase.TRAINING, at=at(minutes), step=step, training_at=at(2))


def beat(step: int, minutes: float, *, attempt: int = 1, notice: datetime | None = None) -> Heartbeat:
    news = progress(step, minutes)
    return Heartbeat(attempt=attempt, beat=step, at=at(minutes), progress=news, notice_deadline=notice)


def last_word(outcome: Outcome, minutes: float, code: int = 0) -> Exit:
    return Exit(attempt=1, outcome=outcome, at=at(minutes), exit_code=code)
