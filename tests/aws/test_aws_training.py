"""A real training with two lines of the library, through a notice in the small AWS: bit for bit the one without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .runner import Runner
from .stage import ATTACHED, ROOT, User, folder_job
from .world import World


def undisturbed(folder: Path) -> str:
    """The digest of the same training at a desk, in one go."""
    folder.mkdir()
    (folder / "hurry").touch()
    (folder / "train.py").write_text(ATTACHED)
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT), "REMOTE": str(folder)}
    subprocess.run([sys.executable, "train.py"], cwd=folder, env=environment, check=True, timeout=240)
    return (folder / "digest").read_text()


def test_a_training_that_attaches_goes_on_bit_for_bit(
    world: World, runner: Runner, user: User, clients: Callable[..., Any], tmp_path: Path
) -> None:
    """The library saves at the notice, the next machine restores, and the weights at the end are the same to the last bit."""
    (user.work / "train.py").write_text(ATTACHED)
    job = folder_job(user, checkpoint={"uri": "s3://runs/x", "interval": "1h"})
    process = user.launch(job)
    first = user.training(1)
    (job_id,) = user.jobs()
    user.until(lambda: user.job().attempts[0].training_at, "the training to be at work")
    runner.notice(first.id)
    step = user.until(lambda: saved_on_notice(clients("s3"), f"x/{job_id}"), "the save at the notice")
    runner.take(first.id)
    user.training(2)
    (user.remote / "hurry").touch()
    expected = undisturbed(tmp_path / "desk")
    job_at_end = user.ended()
    assert user.resumed_at(2) == step
    assert (user.remote / "digest").read_text() == expected
    assert (job_at_end.interruptions, job_at_end.failures) == (1, 0)
    user.settled(process)


def saved_on_notice(s3: Any, prefix: str) -> int:
    """The step of the newest commit of the log that was made because of a notice; 0 before."""
    steps = [0]
    for each in s3.list_objects_v2(Bucket="runs", Prefix=f"{prefix}/log/").get("Contents", []):
        entry = json.loads(s3.get_object(Bucket="runs", Key=each["Key"])["Body"].read().splitlines()[0])
        if entry.get("on_notice"):
            steps.append(entry["step"])
    return steps[-1]
