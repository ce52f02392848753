"""Journals made by hand for the tests of the ledger and its reports."""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone
from decimal import Decimal

from spotrun.job.event import (
    AttemptEnded,
    AttemptExited,
    EndReason,
    Event,
    Launched,
    LaunchRefused,
    Noticed,
    Placed,
    Progressed,
    RefusalKind,
    Submitted,
    Waited,
)
from spotrun.job.message import Commit, Exit, Outcome, Progress, TrainingPhase
from spotrun.job.spec import JobSpec
from spotrun.job.state import Job, Phase
from spotrun.job.token import launch_token
from spotrun.market.offer import PriceStep

T0 = datetime(2026, 7, 3, 8, tzinfo=timezone.utc)
STEP_S = 9.0
STALL_S = 4.0
TOTAL_STEPS = 3400
JOB_ID = "gpt-small-7k2m"


def at(clock: str) -> datetime:
    """The instant of the day of T0 written as `HH:MM` or `HH:MM:SS`."""
    hours, minutes, *seconds = (int(part) for part in clock.split(":"))
    return T0.replace(hour=0) + timedelta(hours=hours, minutes=minutes, seconds=seconds[0] if seconds else 0)


def submitted(moment: datetime = T0, *, name: str = "gpt-small", nodes: int | str = 1, **fields: object) -> Submitted:
    """The job handed in."""
    spec = JobSpec.model_validate(
        {
            "name": "gpt-small",
            "command": "python training_scripts/gpt.py --steps 3400",
            "resources": {"accelerator": "A10G:1", "instance_types": ["g5.xlarge"]},
            "limits": {"max_run": "8h", "max_wait": "14h", "on_shortage": "on_demand", "budget_usd": "40"},
            "checkpoint": {"uri": "s3://models/runs"},
            **fields,
        }
    )
    document = spec.to_json()
    document["resources"]["nodes"] = nodes  # other providers launch gangs; the local one refuses to
    document["name"] = name  # an older journal may hold a name that would be refused today
    return Submitted(at=moment, job_id=JOB_ID, spec=document, submitted_by="ada")


def placed(number: int, moment: datetime, zone: str = "use1-az4", **fields: object) -> Placed:
    """An attempt asked for; spot on a g5.xlarge unless told otherwise."""
    values: dict[str, object] = {
        "provider": "local",
        "region": "us-east-1",
        "instance_type": "g5.xlarge",
        "market": "spot",
        "price_usd_per_hour": Decimal("0.41"),
        "on_demand_usd_per_hour": Decimal("1.006"),
        "reason": "the cheapest pool that is not cooling down",
        **fields,
    }
    return Placed(at=moment, attempt=number, token=launch_token(JOB_ID, number), zone=zone, **values)


def launched(number: int, moment: datetime, *, nodes: int = 0) -> Launched:
    members = tuple(f"i-{number:04d}-{node}" for node in range(nodes))
    return Launched(at=moment, attempt=number, instance_id=f"i-{number:04d}", launched_at=moment, members=members)


def ended(number: int, moment: datetime, reason: EndReason = EndReason.INTERRUPTED, detail: str = "") -> AttemptEnded:
    return AttemptEnded(at=moment + timedelta(seconds=5), attempt=number, ended_at=moment, reason=reason, detail=detail)


def exited(number: int, moment: datetime, outcome: Outcome = Outcome.COMPLETED, **fields: object) -> AttemptExited:
    return AttemptExited(
        at=moment, attempt=number, exit=Exit(attempt=number, outcome=outcome, at=moment, exit_code=0, **fields)
    )


def training(number: int, moment: datetime, **fields: object) -> Progressed:
    """News of a training; fields as in `Progress`."""
    values: dict[str, object] = {"phase": TrainingPhase.TRAINING, "at": moment, **fields}
    return Progressed(at=moment, attempt=number, progress=Progress(**values))


def trained(
    number: int,
    *,
    attach: datetime,
    begin: datetime,
    last: datetime,
    resumed_from: int | None = None,
    commits: tuple[datetime, ...] = (),
    notice: datetime | None = None,
) -> list[Event]:
    """The news of a training that does a step every nine seconds and stands still four seconds for each commit."""
    start = resumed_from or 0
    base = {"attached_at": attach, "training_at": begin, "resumed_from": resumed_from}

    def steps_until(moment: datetime) -> int:
        stalls = sum(STALL_S for commit in commits if commit < moment)
        return start + int(((moment - begin).total_seconds() - stalls) / STEP_S)

    events: list[Event] = [training(number, begin, step=start, **base)]
    for count, moment in enumerate(commits, 1):
        warned = notice is not None and moment >= notice
        commit = Commit(
            step=steps_until(moment),
            at=moment + timedelta(seconds=11),
            captured_at=moment,
            stall_s=STALL_S,
            size_bytes=1_940_000_000,
            on_notice=warned,
        )
        news = {"step": commit.step, "steps_here": commit.step - start, "last_commit": commit, "commits": count}
        events.append(
            training(number, commit.at, last_step_at=moment, checkpoint_stall_s=STALL_S * count, **base, **news)
        )
    step = steps_until(last)
    known = {"last_commit": commit, "commits": len(commits)} if commits else {}
    events.append(
        training(
            number,
            last,
            step=step,
            steps_here=step - start,
            last_step_at=last,
            checkpoint_stall_s=STALL_S * len(commits),
            guarantee="Resumes bit for bit: model, optimizer, scheduler, random numbers and data order are restored.",
            **base,
            **known,
        )
    )
    return events


def clock_every(first: str, minutes: int, last: datetime) -> tuple[datetime, ...]:
    """Instants every so many minutes from `first` on, before `last`."""
    moments = []
    moment = at(first)
    while moment < last:
        moments.append(moment)
        moment += timedelta(minutes=minutes)
    return tuple(moments)


def story(name: str = "gpt-small", answer: str = "") -> list[Event]:
    """Five attempts, four interruptions: one without notice, one in its first hour, and the last attempt on demand.

    The third was refused and never existed.
    """
    events: list[Event] = [submitted(name=name)]
    events += [Waited(at=at("08:00:10"), until=at("08:05"), reason="no pool offers a g5.xlarge on spot")]
    first_commits = (*clock_every("08:29", 20, at("10:35")), at("10:38:12"))
    events += [placed(1, at("08:05:40")), launched(1, at("08:06"))]
    events += trained(
        1, attach=at("08:09:30"), begin=at("08:09:31"), last=at("10:39:52"), commits=first_commits, notice=at("10:38")
    )
    events += [Noticed(at=at("10:38"), attempt=1, deadline=at("10:40")), ended(1, at("10:40:02"))]
    saved = events_commit(events, 1)
    events += [placed(2, at("10:51:40"), zone="use1-az6"), launched(2, at("10:52"))]
    second_commits = (at("11:16"), at("11:35:07"))
    events += trained(
        2,
        attach=at("10:55:20"),
        begin=at("10:55:58"),
        last=at("11:36:40"),
        resumed_from=saved,
        commits=second_commits,
        notice=at("11:35"),
    )
    events += [Noticed(at=at("11:35"), attempt=2, deadline=at("11:37")), ended(2, at("11:37"))]
    saved = events_commit(events, 2)
    refused = answer or "InsufficientInstanceCapacity: we currently do not have sufficient g5.xlarge capacity"
    events += [
        placed(3, at("11:37:10"), zone="use1-az4"),
        LaunchRefused(at=at("11:37:12"), attempt=3, refusal=RefusalKind.CAPACITY, answer=refused),
        Waited(at=at("11:37:13"), until=at("12:20"), reason="every spot pool is cooling down after a refusal"),
        placed(4, at("12:23:40"), zone="use1-az2"),
        launched(4, at("12:24")),
    ]
    events += trained(
        4,
        attach=at("12:27:15"),
        begin=at("12:27:58"),
        last=at("14:50:51"),
        resumed_from=saved,
        commits=clock_every("12:48", 21, at("14:45")),
    )
    events += [ended(4, at("14:51"), detail="lost without a notice")]
    saved = events_commit(events, 4)
    events += [placed(5, at("14:57:30")), launched(5, at("14:58"))]
    events += trained(
        5,
        attach=at("15:01:40"),
        begin=at("15:02:21"),
        last=at("16:09:50"),
        resumed_from=saved,
        commits=(at("15:23"), at("15:44"), at("16:05"), at("16:08:15")),
        notice=at("16:08"),
    )
    events += [Noticed(at=at("16:08"), attempt=5, deadline=at("16:10")), ended(5, at("16:10:04"))]
    saved = events_commit(events, 5)
    why = "the deadline would be missed by waiting for spot any longer"
    events += [
        placed(6, at("16:11:50"), "use1-az6", market="on_demand", price_usd_per_hour=Decimal("1.006"), reason=why),
        launched(6, at("16:12")),
    ]
    last = at("16:16:02") + timedelta(seconds=(TOTAL_STEPS - saved) * STEP_S + 2 * STALL_S)
    events += trained(
        6,
        attach=at("16:15:20"),
        begin=at("16:16:02"),
        last=last,
        resumed_from=saved,
        commits=(at("16:37"), last - timedelta(seconds=6)),
    )
    events += [
        exited(6, last + timedelta(seconds=48)),
        ended(6, last + timedelta(seconds=110), EndReason.TERMINATED, "the command completed"),
    ]
    return events


def events_commit(events: list[Event], number: int) -> int:
    """The step of the attempt's last commit."""
    steps = [
        event.progress.last_commit.step
        for event in events
        if isinstance(event, Progressed) and event.attempt == number and event.progress.last_commit is not None
    ]
    return steps[-1]


def spot_prices(number: int) -> tuple[PriceStep, ...]:
    """Price curves of the pools of `story`: they change inside attempts."""
    curves = {
        "use1-az4": ("07:00", "0.3992", "09:30", "0.4207", "10:20", "0.4466", "13:00", "0.4120", "15:40", "0.4385"),
        "use1-az6": ("06:00", "0.4571", "11:10", "0.4702"),
        "use1-az2": ("05:00", "0.4810", "13:15", "0.5233", "14:10", "0.4987"),
    }
    if number == 6:
        return on_demand_prices(number)
    curve = curves[{1: "use1-az4", 2: "use1-az6", 4: "use1-az2", 5: "use1-az4"}[number]]
    return tuple(
        PriceStep(at=at(moment), usd_per_hour=Decimal(price))
        for moment, price in zip(curve[::2], curve[1::2], strict=True)
    )


def on_demand_prices(number: int) -> tuple[PriceStep, ...]:
    """The on-demand price of a g5.xlarge, one value all day."""
    return (PriceStep(at=T0 - timedelta(days=30), usd_per_hour=Decimal("1.006")),)


def loss_at(step: int) -> float:
    """A training loss: the same step gives the same loss in every attempt."""
    wobble = math.sin(step * 12.9898) * 43758.5453 % 1.0
    return 1.35 + 6.2 * math.exp(-step / 260) + 0.16 * (wobble - 0.5)


def job_of(
    events: list[Event], phase: Phase = Phase.COMPLETED, cause: str = "the command ended with exit code 0"
) -> Job:
    """The job these events fold to, as far as a report needs it."""
    first = events[0]
    assert isinstance(first, Submitted)
    over = events[-1].at if phase.is_end else None
    return Job(
        id=first.job_id,
        spec=JobSpec.model_validate({**first.spec, "name": "gpt-small"}).model_copy(
            update={"name": first.spec["name"]}
        ),
        submitted_at=first.at,
        phase=phase,
        at=events[-1].at,
        ended_at=over,
        cause=cause,
    )
