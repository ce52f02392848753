"""The real agent on a simulated machine: the two sides of the contract meet."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from local_world import JOB, SCALE, World, eventually

from spotrun.job.message import Control, Exit, Heartbeat, Outcome, Place, parse
from spotrun.job.spec import JobSpec
from spotrun.providers.connect import connect
from spotrun.providers.local.sweep import sweep
from spotrun.providers.provider import EndCause, InstanceState, LaunchRequest, Provider

PATIENT = """
import json, os, pathlib, sys, time
scratch = pathlib.Path(os.environ["SPOTRUN_SCRATCH"])
print("hello from", os.environ["SPOTRUN_INSTANCE"], flush=True)
pathlib.Path("here").write_text(os.environ["SPOTRUN_ATTEMPT"])
while not (scratch / "request.json").exists():
    time.sleep(0.02)
pathlib.Path("asked").write_text((scratch / "request.json").read_text())
time.sleep(600)
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home that is left without a process."""
    yield tmp_path
    sweep(tmp_path)


def launched(home: Path, counts: list[int], program: str) -> tuple[Provider, World]:
    """Attempt 1 of a job that runs `program`, as the controller would launch it."""
    world = World(home, counts=counts)
    spec = JobSpec.model_validate(
        {
            "name": "patient",
            "command": [sys.executable, "-c", program],
            "checkpoint": {"uri": (home / "runs").as_uri()},
            "local": {
                "time_scale": SCALE,
                "market": {"availability": {"use1-az1": "trace.json"}, "without_notice": 0.0},
                "launch_delay": "1s",
            },
        }
    )
    provider = connect(spec, job_id=JOB, submitted_at=world.start, home=home, clock=world.clock, workdir=home)
    world.provider = provider  # type: ignore[assignment]
    control = home / "runs" / JOB / Place(1).control
    control.parent.mkdir(parents=True)
    lease = Control(attempt=1, lease_until=world.start.replace(year=world.start.year + 1))
    control.write_bytes(lease.to_bytes())
    provider.launch(
        LaunchRequest(
            token="token-1",
            job_id=JOB,
            attempt=1,
            offer=world.offer(),
            environment={
                "SPOTRUN_JOB_ID": JOB,
                "SPOTRUN_ATTEMPT": "1",
                "SPOTRUN_CHECKPOINT_URI": (home / "runs").as_uri(),
                "SPOTRUN_SPEC": json.dumps(spec.to_json()),
                "SPOTRUN_CLOCK": world.clock.to_text(),
                "SPOTRUN_WORKDIR": str(home),
                "SPOTRUN_LEASE_S": "36000",
            },
            tags={},
        )
    )
    return provider, world


def test_a_command_that_ends_ends_the_machine(home: Path) -> None:
    """The agent leaves its exit record in the store, and the machine shuts itself down."""
    _, world = launched(home, [1], "print('done')")
    assert world.ended().end_cause is EndCause.EXITED
    told = parse(Exit, (home / "runs" / JOB / Place(1).exit).read_bytes())
    assert told is not None
    assert told.outcome is Outcome.COMPLETED
    assert told.tail[-1] == "done"


def test_a_notice_reaches_the_training_before_the_machine_goes(home: Path) -> None:
    """Market, host, metadata service, agent, request.json: two minutes of job time, two seconds of ours."""
    counts = [1] * 8 + [0] * 10
    _, world = launched(home, counts, PATIENT)
    running = world.running()
    assert running.state is InstanceState.RUNNING
    eventually((home / "here").exists, "the training's start")
    ended = world.ended()
    assert ended.end_cause is EndCause.INTERRUPTED
    asked = json.loads((home / "asked").read_text())
    assert asked["ask"] == "save"
    assert ended.notice_deadline is not None
    assert datetime.fromisoformat(asked["deadline"].replace("Z", "+00:00")) == ended.notice_deadline.replace(
        microsecond=0
    )
    beat = parse(Heartbeat, (home / "runs" / JOB / Place(1).heartbeat).read_bytes())
    assert beat is not None
    assert not (home / "runs" / JOB / Place(1).exit).exists()
