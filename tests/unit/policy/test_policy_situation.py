"""How fast a job is taken to go on: of an elastic gang, with the machines that are sure to come."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from decimal import Decimal

import pytest

from spotrun.job import (
    AttemptEnded,
    EndReason,
    Event,
    Job,
    JobSpec,
    Launched,
    Placed,
    Progress,
    Progressed,
    Submitted,
    TrainingPhase,
    fold,
    launch_token,
)
from spotrun.policy.situation import situation

NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
JOB = "gpt-1"


def job(nodes: int | str, *attempts: tuple[int, float | None]) -> Job:
    """A job of which each attempt had so many machines and told this rate, an hour each; the last one runs."""
    spec = JobSpec.model_validate(
        {
            "name": "gpt",
            "command": "torchrun train.py",
            "provider": "ec2",
            "resources": {"nodes": nodes},
            "limits": {"max_run": "100h", "max_wait": "200h"},
            "checkpoint": {"uri": "s3://bucket/runs"},
        }
    )
    events: list[Event] = [Submitted(at=NOON, job_id=JOB, spec=spec.to_json())]
    for index, (count, rate) in enumerate(attempts):
        number, at = index + 1, NOON + timedelta(hours=index)
        if number > 1:
            over = AttemptEnded(at=at, attempt=index, ended_at=at, reason=EndReason.INTERRUPTED)
            events.append(over)
        news = Progress(phase=TrainingPhase.TRAINING, at=at, training_at=at, total_steps=36_000, steps_per_s=rate)
        members = tuple(f"i-{number}-{member}" for member in range(count))
        events += [
            placed(number, at),
            Launched(at=at, attempt=number, instance_id=f"gang-{number}", launched_at=at, members=members),
            Progressed(at=at, attempt=number, progress=news),
        ]
    return fold(events)


def placed(number: int, at: datetime) -> Placed:
    return Placed(
        at=at,
        attempt=number,
        token=launch_token(JOB, number),
        provider="ec2",
        region="us-east-1",
        zone="use1-az1",
        instance_type="g5.xlarge",
        market="spot",
        price_usd_per_hour=Decimal("0.4"),
        on_demand_usd_per_hour=Decimal(1),
        reason="",
    )


@pytest.mark.parametrize(
    ("nodes", "attempts", "fewest", "six"),
    [
        ("2..8", [(8, 8.0)], 2.0, 6.0),  # taken to grow with the machines
        ("2..8", [(2, 3.0), (8, 8.0)], 3.0, 6.0),  # measured with two
        ("2..8", [(2, 3.0), (6, 7.0), (2, 2.5)], 2.5, 7.0),  # the newest of each size
        ("2..8", [(8, 8.0), (4, None)], None, None),  # the newest has told no rate yet, so max_run counts
        (6, [(6, 9.0)], 9.0, 9.0),  # a fixed gang is as fast as it was
    ],
)
def test_the_rate_of_so_many_machines(
    nodes: int | str, attempts: list[tuple[int, float | None]], fewest: float | None, six: float | None
) -> None:
    """Deadlines reckon with the fewest; what is told of a running attempt, with its own number."""
    gathered = [situation(job(nodes, *attempts), now=NOON, offers=(), nodes=count) for count in (None, 6)]
    assert [it.steps_per_s for it in gathered] == [fewest, six]


def test_the_bound_on_the_work_is_that_of_the_fewest_machines() -> None:
    """Four times as long as with all of them, and a tenth more; never more than max_run leaves."""
    found = situation(job("2..8", (8, 8.0)), now=NOON, offers=())
    assert found.work_left == timedelta(seconds=36_000 / 2 * 1.1)
    slow = situation(job("2..8", (8, 0.2)), now=NOON, offers=())
    assert slow.work_left == timedelta(hours=100)
