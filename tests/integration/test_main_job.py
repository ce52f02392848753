"""The main job, end to end: a real training on a stormy market, interrupted for real, compared bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

ROOT = Path(__file__).parents[2]
STORMY = {"seed": 345, "zones": 4, "mean_up": "10m", "mean_down": "12m", "without_notice": 0.35}


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 bucket on loopback; the environment points every client at it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="runs")
    client.close()
    yield "s3://runs/of-tests"
    server.stop()


def spotrun(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "spotrun", "--home", str(home), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )


def launch(home: Path, uri: str, *, scale: int, steps: int) -> subprocess.CompletedProcess[str]:
    spec = {
        "name": "main-job",
        "command": f"python training_scripts/gpt.py --steps {steps} --layers 1 --width 64 --batch-size 8",
        "limits": {"max_run": "40h", "max_wait": "60h"},
        "checkpoint": {"uri": uri, "interval": "2m"},
        "local": {"time_scale": scale, "market": STORMY},
    }
    home.mkdir()
    (home / "job.yaml").write_text(json.dumps(spec))
    return spotrun(home, "launch", str(home / "job.yaml"), "--follow")


def check(home: Path, done: subprocess.CompletedProcess[str], *, interruptions_min: int) -> None:
    """Completed, interrupted as often as promised, accounted for to the cent, and the same run as without interruptions."""
    assert done.returncode == 0, done.stdout + done.stderr
    state = json.loads(spotrun(home, "status", "--json").stdout)
    assert state["phase"] == "Completed"
    assert state["interruptions"] >= interruptions_min
    report = json.loads(spotrun(home, "report", "--json").stdout)
    money = {key: Decimal(usd) for key, usd in report["money_usd"].items()}
    assert money.pop("total") == sum(money.values())
    for row in report["attempts"]:
        assert sum(row["time_s"].values()) == pytest.approx(row["run_s"], abs=1e-5)
    proof = spotrun(home, "prove")
    assert proof.returncode == 0, proof.stdout + proof.stderr
    assert "identical, bit for bit" in proof.stdout
    verified = spotrun(home, "checkpoints", "verify", "--json")
    assert json.loads(verified.stdout)["ok"] is True


def test_a_training_survives_a_stormy_market_on_files(tmp_path: Path) -> None:
    """Several interruptions, with and without notice, and the result of an uninterrupted run."""
    home = tmp_path / "home"
    check(home, launch(home, str(tmp_path / "runs"), scale=100, steps=2500), interruptions_min=2)


def test_a_training_survives_a_stormy_market_on_s3(tmp_path: Path, bucket: str) -> None:
    """The same with every byte of state, log and heartbeat in a bucket."""
    home = tmp_path / "home"
    check(home, launch(home, bucket, scale=60, steps=1200), interruptions_min=1)
