"""A job in a real account: what the small AWS cannot show. Images, cloud-init, permissions and prices are AWS's own.

    SPOTRUN_LIVE_BUCKET=my-bucket AWS_REGION=us-east-1 python -m pytest -m live tests/live

needs what `spotrun doctor` calls green. `SPOTRUN_LIVE_TYPES` names other instance types, separated by commas.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

TRAIN = """
import time
import torch
import spotrun

torch.manual_seed(0)
model = torch.nn.Linear(64, 1)
optimizer = torch.optim.AdamW(model.parameters())
run = spotrun.attach(model=model, optimizer=optimizer, interval="10s")
for _ in run.steps(600):
    optimizer.zero_grad()
    model(torch.ones(8, 64)).sum().backward()
    optimizer.step()
    time.sleep(0.1)
"""


def spotrun(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "spotrun", "--home", str(home), *arguments],
        cwd=home.parent,
        capture_output=True,
        text=True,
        timeout=1500,  # longer than max_run and a boot; what is left of the test's hour is for the cleaning up
        check=False,
    )


@pytest.mark.live
@pytest.mark.timeout(3600)
def test_a_small_training_completes_on_spot_and_leaves_nothing(tmp_path: Path) -> None:
    """One small machine for about ten minutes, ended by itself.

    Cost: about 0.02 USD. A spot c7i.large for ten minutes (at most 0.015, which is its on-demand price), its disk of 100 GiB
    (0.002), its public address (0.001), a few hundred requests of S3. At most 0.06 USD, should it run for its whole `max_wait`
    and be ended by its timer only, ten minutes later.
    """
    job: dict[str, Any] = {
        "name": "live",
        "command": "python train.py",
        "provider": "ec2",
        "resources": {"instance_types": os.environ.get("SPOTRUN_LIVE_TYPES", "c7i.large,c6i.large").split(",")},
        "limits": {"max_run": "15m", "max_wait": "20m", "budget_usd": "0.25"},
        "checkpoint": {"uri": f"s3://{os.environ['SPOTRUN_LIVE_BUCKET']}/spotrun-live"},
    }
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    home = tmp_path / "home"
    try:
        completes_and_leaves_nothing(home)
    except BaseException:  # whatever happened here, nothing goes on there
        spotrun(home, "stop")
        spotrun(home, "controller", "--until-idle")  # who followed the job may be gone, and a stop is only written down
        spotrun(home, "reap", "--yes")
        raise


def completes_and_leaves_nothing(home: Path) -> None:
    done = spotrun(home, "launch", "job.yaml", "--follow", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    status = json.loads(spotrun(home, "status", "--json").stdout)
    assert (status["phase"], status["step"], status["simulated_prices"]) == ("Completed", 600, False)
    assert float(status["paid_usd"]) > 0
    left = spotrun(home, "reap", "--dry-run")
    assert status["job"] not in left.stdout, left.stdout
