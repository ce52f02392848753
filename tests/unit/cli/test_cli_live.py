"""The panel of `spotrun status`: what it says of a training that speaks, one that does not, and one whose folder is kept."""

from __future__ import annotations

from datetime import datetime, timezone
from io import StringIO

import pytest
from rich.console import Console

from spotrun.cli.live import panel
from spotrun.job import Heartbeat, JobSpec, Submitted, fold
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
