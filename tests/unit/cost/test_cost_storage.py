"""What a job's place in S3 costs: the least that its journal proves."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from cost_story import at, ended, launched, placed, submitted, training

from spotrun.agent.config import Timing
from spotrun.cost.ledger import build_ledger
from spotrun.cost.storage import BEAT, storage_extras
from spotrun.job import JobSpec
from spotrun.job.event import EndReason, Event
from spotrun.job.message import Commit

HOUR = timedelta(hours=1)
GB = 10**9


def spec(*, last: int = 2, **options: Any) -> JobSpec:
    checkpoint = {"uri": "s3://runs/x", "keep": {"last": last}, "options": options}
    return JobSpec.model_validate({"name": "a", "command": "b", "provider": "ec2", "checkpoint": checkpoint})


def commit(step: int, moment: datetime, gb: int, new_gb: int | None = None) -> Commit:
    new = None if new_gb is None else new_gb * GB
    return Commit(step=step, at=moment, captured_at=moment, size_bytes=gb * GB, new_bytes=new)


def journal() -> list[Event]:
    """Two hours of training with three commits, an interruption, and an hour more from the last of them."""
    commits = [
        commit(10, at("09:00"), 73),
        commit(20, at("10:00"), 73, 7),
        commit(30, at("10:30"), 73, 7),
    ]
    events: list[Event] = [submitted(), placed(1, at("08:30")), launched(1, at("08:30"))]
    events += [training(1, it.at, step=it.step, training_at=at("08:30"), last_commit=it) for it in commits]
    events += [ended(1, at("11:00")), placed(2, at("11:00")), launched(2, at("11:00"))]
    events += [training(2, at("11:30"), step=31, training_at=at("11:00"), resumed_from=30)]
    return [*events, ended(2, at("12:00"), EndReason.EXITED)]


def extras(events: list[Event], job: JobSpec, *, useful: timedelta = 3 * HOUR) -> dict[str, tuple[Decimal, Decimal]]:
    ledger = build_ledger(events, {}, {})
    found = storage_extras(job, ledger.rows, until=at("12:00"), useful=useful)
    return {extra.kind: (extra.usd, extra.on_demand_usd) for extra in found}


def test_storage_is_what_the_kept_commits_share_over_the_hours() -> None:
    """73 GB for an hour, 80 for half, then 80 of the newest two to the end, at 0.023 USD for 730 hours."""
    usd, on_demand = extras(journal(), spec())["checkpoint storage"]
    expected = Decimal(73 + 40 + 120) * Decimal("0.023") / 730
    assert usd == expected.quantize(Decimal("1e-9"))
    assert on_demand == (expected * 3 / Decimal("3.5")).quantize(Decimal("1e-9"))
    only_one = extras(journal(), spec(last=1))["checkpoint storage"]
    assert only_one[0] == (Decimal(73) * 3 * Decimal("0.023") / 730).quantize(Decimal("1e-9"))


def test_requests_are_heartbeats_parts_and_papers() -> None:
    """3.5 hours of beats, three commits in parts of 64 MiB, one restore."""
    usd, _ = extras(journal(), spec())["storage requests"]
    beats = int(3.5 * 720)
    puts = beats + sum(-(-size * GB // (64 << 20)) + 2 for size in (73, 7, 7))
    gets = beats + -(-73 * GB // (64 << 20))
    assert usd == (puts * Decimal("0.000005") + gets * Decimal("0.0000004")).quantize(Decimal("1e-9"))
    assert timedelta(seconds=Timing().beat_s) == BEAT


def test_transfer_costs_where_the_bucket_is_known_to_be_elsewhere() -> None:
    """What was written, and what was read again; within a region it is free."""
    assert "transfer between regions" not in extras(journal(), spec())
    assert "transfer between regions" not in extras(journal(), spec(region="us-east-1"))
    usd, _ = extras(journal(), spec(region="eu-west-1"))["transfer between regions"]
    assert usd == Decimal(73 + 7 + 7 + 73) * Decimal("0.02")


def test_a_store_that_is_not_awss_has_prices_that_nobody_knows() -> None:
    """And a local job rents none."""
    assert extras(journal(), spec(endpoint="https://s3.example.org")) == {}
    assert extras(journal(), JobSpec(name="a", command="b", checkpoint={"uri": "file:///runs"})) == {}
