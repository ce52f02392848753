"""How many machines an attempt has: what its launch brought, in the job's state and in what its machines are told."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from decimal import Decimal

import pytest

from spotrun.job import Ask, Event, GangSize, Job, JobSpec, Launched, Placed, StopRequested, Submitted, control, fold
from spotrun.job import launch_token as token

NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
LEASE = NOON + timedelta(hours=1)


def launched(nodes: int | str, members: int) -> list[Event]:
    """Submitted, placed, and launched with so many machines; with none, its launch has not been answered."""
    spec = JobSpec.model_validate(
        {
            "name": "gpt",
            "command": "torchrun train.py",
            "provider": "ec2",
            "resources": {"nodes": nodes},
            "checkpoint": {"uri": "s3://bucket/runs"},
        }
    )
    events: list[Event] = [
        Submitted(at=NOON, job_id="gpt-1", spec=spec.to_json()),
        Placed(
            at=NOON,
            attempt=1,
            token=token("gpt-1", 1),
            provider="ec2",
            region="us-east-1",
            zone="use1-az1",
            instance_type="g5.xlarge",
            market="spot",
            price_usd_per_hour=Decimal("0.4"),
            on_demand_usd_per_hour=Decimal(1),
            reason="",
        ),
    ]
    if members:
        names = tuple(f"i-{member}" for member in range(members))
        events.append(Launched(at=NOON, attempt=1, instance_id="gang-1", launched_at=NOON, members=names))
    return events


def nodes_told(job: Job) -> int | None:
    told = control(job, lease_until=LEASE)
    assert told is not None
    return told.nodes


@pytest.mark.parametrize(
    ("nodes", "members", "count", "told"),
    [
        ("2..4", 3, 3, 3),
        ("2..4", 0, 1, None),  # not known yet
        (4, 4, 4, None),  # each machine knows from its order
        (4, 3, 4, None),  # the list was behind: of a fixed gang all came or none
    ],
)
def test_an_attempt_has_the_machines_that_came(nodes: int | str, members: int, count: int, told: int | None) -> None:
    """Machines of an elastic gang hear of it from the controller."""
    job = fold(launched(nodes, members))
    assert job.attempt is not None
    assert job.attempt.nodes == count
    assert nodes_told(job) == told


def test_a_stop_tells_the_size_too() -> None:
    """Whoever comes late must not wait for it in vain."""
    job = fold([*launched("2..4", 2), StopRequested(at=NOON, by="ann")])
    told = control(job, lease_until=LEASE)
    assert told is not None
    assert (told.ask, told.nodes) == (Ask.STOP, 2)


def test_a_size_is_written_as_in_a_job_file() -> None:
    """And says in one word whether it may change."""
    assert [str(GangSize(least=2, most=most)) for most in (2, 8)] == ["2", "2..8"]
    assert [GangSize(least=1, most=most).is_single for most in (1, 2)] == [True, False]
