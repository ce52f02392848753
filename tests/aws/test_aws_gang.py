"""Several machines as one attempt, from `spotrun launch` to a completed job: the loss of one is the interruption of all."""

from __future__ import annotations

from typing import Any

from spotrun.job import AttemptPhase

from .runner import Runner
from .stage import User
from .world import Seen, World

# Stands for a training where only the machines matter; `env` keeps it from being started by torchrun.
GANG = """\
import json, os, pathlib, sys, time
from datetime import datetime, timezone
remote, scratch = pathlib.Path(os.environ["REMOTE"]), pathlib.Path(os.environ["SPOTRUN_SCRATCH"])
attempt, rank = os.environ["SPOTRUN_ATTEMPT"], os.environ["SPOTRUN_NODE_RANK"]
(remote / f"started-{attempt}-{rank}").write_text(os.environ["SPOTRUN_INSTANCE"])
def tell(phase):
    now = datetime.now(timezone.utc).isoformat()
    (scratch / "new.json").write_text(json.dumps({"phase": phase, "at": now, "training_at": now, "step": 1}))
    (scratch / "new.json").replace(scratch / "progress.json")
while not (remote / "finish").exists():
    if rank == "0":
        tell("training")
    request = scratch / "request.json"
    if request.exists() and json.loads(request.read_text())["ask"] == "stop":
        sys.exit(0)
    time.sleep(0.1)
if rank == "0":
    tell("done")
"""


def gang_job(user: User, nodes: int) -> dict[str, Any]:
    return {
        "name": "gang",
        "command": ["env", "python", "train.py"],
        "provider": "ec2",
        "resources": {"instance_types": ["g5.xlarge"], "regions": ["us-east-1"], "nodes": nodes},
        "limits": {"max_run": "1h", "max_wait": "2h"},
        "checkpoint": {"uri": "s3://runs/x"},
        "environment": {"REMOTE": str(user.remote)},
    }


def machines(world: World, attempt: int) -> list[Seen]:
    return [it for it in world.instances() if it.tags.get("spotrun:attempt") == str(attempt)]


def started(user: User, attempt: int, nodes: int) -> list[str]:
    """The instances of an attempt in the order of their ranks, once the training runs on all of them."""
    files = [user.remote / f"started-{attempt}-{rank}" for rank in range(nodes)]
    user.until(lambda: all(file.exists() for file in files), f"attempt {attempt} to train on {nodes} machines")
    return [user.until(file.read_text, "the instance's id") for file in files]


def test_a_gang_comes_whole_and_survives_the_loss_of_a_machine(world: World, runner: Runner, user: User) -> None:
    """The first fleet has one machine of two: it is ended, and counts as a refusal. Then there are two in one zone; one is taken
    without a notice; two others complete the job; nobody is left."""
    world.launch_part(1)
    (user.work / "train.py").write_text(GANG)
    process = user.launch(gang_job(user, 2))
    first = started(user, 2, 2)
    assert {it.id for it in machines(world, 2)} == set(first)
    assert len({it.zone_id for it in machines(world, 2)}) == 1
    (alone,) = machines(world, 1)
    assert alone.reason == "Client.UserInitiatedShutdown"
    (refusal,) = [attempt for attempt in user.job().attempts if attempt.phase is AttemptPhase.REFUSED]
    assert refusal.number == 1
    runner.kill(first[1])
    second = started(user, 3, 2)
    assert not set(first) & set(second)
    user.finish()
    job = user.ended()
    assert job.interruptions == 1
    assert [attempt.taken for attempt in job.attempts if attempt.launched_at] == [1, 0]
    user.settled(process)
