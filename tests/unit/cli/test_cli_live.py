"""The panel of `spotrun status`: what it says of a training that speaks, one that does not, and one whose folder is kept."""

from __future__ import annotations

from datetime import datetime, timezone
from decimal import Decimal
from io import StringIO

import pytest
from rich.console import Console

from spotrun.cli.live import panel
from spotrun.cli.sentence import tell
from spotrun.job import Event, Heartbeat, Job, JobSpec, Launched, Placed, Submitted, fold, launch_token
from spotrun.job.message import Progress, TrainingPhase

AT = datetime(2026, 7, 1, 12, tzinfo=timezone.utc)
SPEC = JobSpec.model_validate({"name": "x", "command": "python t.py", "limits": {"max_run": "1h"}})


@pytest.mark.parametrize(
    ("facts", "warned"),
    [({}, False), ({"output_bytes": 7}, True), ({"output_bytes": 7, "folder_changes": 2}, False)],
    ids=["attached", "silent", "folder"],
)
def test_only_of_a_command_of_which_nothing_is_saved_it_is_said(facts: dict[str, int], warned: bool) -> None:
    """A folder that is kept is saved, though the script never attached."""
    job = fold([Submitted(at=AT, job_id="x-1", spec=SPEC.to_json(), workdir="/w")])
    progress = Progress(phase=TrainingPhase.TRAINING, at=AT, step=3, **facts)
    beat = Heartbeat(attempt=1, beat=1, at=AT, progress=progress)
    console = Console(file=StringIO(), width=120)
    console.print(panel(job, beat, now=AT, money=None, scale=1.0))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert ("nothing is saved" in shown) is warned


@pytest.mark.parametrize(
    ("nodes", "before", "shown", "told"),
    [
        (1, "g5.xlarge spot", "g5.xlarge spot at $0.40/h", "g5.xlarge spot in"),
        (3, "3 x g5.xlarge spot", "3 x g5.xlarge spot at $0.40/h each", "3 x g5.xlarge spot in"),
        ("2..4", "2..4 x g5.xlarge spot", "3 x g5.xlarge spot at $0.40/h each", "3 x g5.xlarge (of 2..4) spot in"),
    ],
)
def test_how_many_machines_an_attempt_has_is_told(nodes: int | str, before: str, shown: str, told: str) -> None:
    """And what each of them costs; before they came, how many there may be."""
    spec = JobSpec.model_validate(
        {
            "name": "x",
            "command": "torchrun t.py",
            "provider": "ec2",
            "resources": {"nodes": nodes},
            "checkpoint": {"uri": "s3://b/runs"},
        }
    )
    events: list[Event] = [
        Submitted(at=AT, job_id="x-1", spec=spec.to_json(), workdir="/w"),
        Placed(
            at=AT,
            attempt=1,
            token=launch_token("x-1", 1),
            provider="ec2",
            region="us-east-1",
            zone="use1-az1",
            instance_type="g5.xlarge",
            market="spot",
            price_usd_per_hour=Decimal("0.4"),
            on_demand_usd_per_hour=Decimal(1),
            reason="cheapest",
        ),
    ]
    placed = fold(events)
    members = () if nodes == 1 else ("i-1", "i-2", "i-3")
    launched = Launched(at=AT, attempt=1, instance_id="i-1", launched_at=AT, members=members)
    job = fold([*events, launched])
    assert f"{before} at" in picture(placed)
    assert shown in picture(job)
    assert told in tell(launched, placed, job)


def picture(job: Job) -> str:
    console = Console(file=StringIO(), width=120)
    console.print(panel(job, None, now=AT, money=None, scale=1.0))
    return str(console.file.getvalue())  # type: ignore[attr-defined]
