"""`spotrun launch` of a job that costs money: what is shown, what is asked, and what is sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from spotrun.cli import launch as launch_verb
from spotrun.cli.main import app
from spotrun.errors import QuotaRefused, SpecError
from spotrun.job.ec2 import DEFAULT_IMAGE

from .world import World

JOB = """
name: gpt
command: python train.py
resources: {instance_types: [g5.xlarge, g6.xlarge], regions: [us-east-1]}
limits: {max_run: 6h, max_wait: 12h}
checkpoint: {uri: s3://runs/x}
provider: ec2
"""


@pytest.fixture
def folder(
    tmp_path: Path, world: World, clients: Callable[..., Any], bucket: str, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A working directory with a job, in a shell that has the world's credentials."""
    world.image_parameters.add(DEFAULT_IMAGE.removeprefix("ssm:"))
    for name, value in world.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("print('hello')\n")
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path


def spotrun(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["--home", "home", *arguments])


def test_a_dry_run_shows_prices_and_each_request_and_does_nothing(folder: Path, world: World) -> None:
    """No secret, no write, no launch, no job."""
    result = spotrun("launch", "job.yaml", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "spot $/h" in result.output
    assert "g6.xlarge" in result.output
    assert "at the cheapest: $1.93 on spot or $4.83 on demand" in result.output
    assert "on demand is never bought" in result.output
    for part in ("CreateLaunchTemplate", "CreateFleet", '"HttpTokens": "required"', "characters of base64"):
        assert part in result.output
    assert "nothing was launched" in result.output
    changing = [
        call.operation for call in world.faults.calls() if not call.operation.startswith(("Describe", "Get", "List"))
    ]
    assert changing == ["CreateBucket"]  # by the test
    assert not (folder / "home" / "journal.db").exists()
    assert world.environment()["AWS_SECRET_ACCESS_KEY"] not in result.output


def test_a_dry_run_for_programs_has_the_requests_as_they_would_be_sent(folder: Path) -> None:
    """User data included."""
    result = spotrun("launch", "job.yaml", "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.output)
    assert told["requests"]["CreateFleet"]["Type"] == "instant"
    assert len(told["requests"]["CreateLaunchTemplate"]["LaunchTemplateData"]["UserData"]) > 1000
    assert {row["instance_type"] for row in told["candidates"]} == {"g5.xlarge", "g6.xlarge"}
    result = spotrun("launch", "job.yaml", "--json")
    assert isinstance(result.exception, SpecError)


def test_a_dry_run_of_an_elastic_gang_shows_both_ends(folder: Path) -> None:
    """What two machines ask and what four ask, what max_run may cost with each, and the range in the request."""
    (folder / "job.yaml").write_text(JOB.replace("regions: [us-east-1]", "regions: [us-east-1], nodes: 2..4"))
    result = spotrun("launch", "job.yaml", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "spot $/h of 2..4" in result.output
    assert (
        "max_run 6 h 00 min of 2..4 machines at the cheapest: $3.86 to $7.73 on spot or $9.66 to $19.32"
        in result.output
    )
    assert '"TotalTargetCapacity": 4' in result.output
    assert '"MinTargetCapacity": 2' in result.output
    told = json.loads(spotrun("launch", "job.yaml", "--dry-run", "--json").output)
    assert told["nodes"] == "2..4"
    planned = spotrun("plan", "job.yaml", "--work", "2h")
    assert "2 to 4 machines" in planned.output


def test_nobody_to_ask_means_that_nothing_is_spent(folder: Path, world: World) -> None:
    """A script says --yes, or it did not mean it."""
    result = spotrun("launch", "job.yaml")
    assert isinstance(result.exception, SpecError)
    assert "add --yes" in str(result.exception)
    assert not (folder / "home" / "journal.db").exists()
    assert not world.instances()


def test_yes_submits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the table is still shown: it goes into the log of whoever runs scripts."""
    driven = []
    monkeypatch.setattr(launch_verb, "_drive_in_background", driven.append)
    result = spotrun("launch", "job.yaml", "--yes")
    assert result.exit_code == 0, result.output
    assert "spot $/h" in result.output
    assert "submitted gpt-" in result.output
    assert len(driven) == 1


def test_quotas_of_zero_are_told_before_anything_is_submitted(folder: Path, world: World) -> None:
    """With the name of the quota, which a new account must raise first."""
    world.quotas["us-east-1", "L-3819A6DF"] = 0
    world.quotas["us-east-1", "L-DB2E81BA"] = 0
    result = spotrun("launch", "job.yaml", "--yes")
    assert isinstance(result.exception, QuotaRefused)
    assert "nothing was submitted" in str(result.exception)
    assert "All G and VT Spot Instance Requests" in str(result.exception)


def test_the_region_of_the_configuration_is_written_into_the_job(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A controller with another configuration still finds its machines."""
    (folder / "job.yaml").write_text(JOB.replace(", regions: [us-east-1]", ""))
    monkeypatch.setattr(launch_verb, "_drive_in_background", lambda home: None)
    assert spotrun("launch", "job.yaml", "--yes").exit_code == 0
    (first, *_) = spotrun("events", "--json").output.splitlines()
    assert json.loads(first)["spec"]["resources"]["regions"] == ["us-east-1"]
