"""`spotrun doctor` as a user runs it, against the small AWS: what it finds, offers and makes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import moto.iam.models
import pytest

from spotrun.job.ec2 import DEFAULT_IMAGE

from .shell import Shell
from .world import World

JOB = """
name: gpt
command: python train.py
provider: ec2
resources: {instance_types: [g5.xlarge], regions: [us-east-1]}
limits: {max_run: 6h, max_wait: 3d}
checkpoint: {uri: s3://my-runs/gpt}
"""


@pytest.fixture
def shell(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """With fresh credentials, and a job file in it."""
    monkeypatch.setitem(moto.iam.models.SERVICE_NAME_CONVERSION, "spot", "EC2Spot")  # its name on AWS
    world.image_parameters.add(DEFAULT_IMAGE.removeprefix("ssm:"))
    (tmp_path / "job.yaml").write_text(JOB)
    return Shell(tmp_path, **world.environment())


def test_an_empty_account_becomes_one_that_a_job_can_run_in(
    world: World, shell: Shell, clients: Callable[..., Any]
) -> None:
    """Red at first, each thing offered with its requests, made after a yes, and green afterwards; nothing before."""
    before = shell.checks("job.yaml")
    assert {area for area, checks in before.items() if any(each["light"] == "red" for each in checks)} == {
        "instance profile",
        "spot role",
        "bucket",
        "place",
    }
    assert before["expiry"][0]["light"] == "yellow"  # a session token for a job of three days

    refused = shell.run("doctor", "job.yaml", "--fix", says="n\nn\nn\n")
    assert refused.returncode == 1
    assert "create_role" in refused.stdout
    assert clients("s3").list_buckets()["Buckets"] == []

    fixed = shell.run("doctor", "job.yaml", "--fix", "--create-queue", says="y\ny\ny\ny\n")
    assert fixed.stdout.count("[y/N]: y\ndone") == 4, fixed.stdout + fixed.stderr
    assert fixed.returncode == 0, fixed.stdout

    policy = clients("iam").get_role_policy(RoleName="spotrun-instance", PolicyName="spotrun-runs")["PolicyDocument"]
    assert policy["Statement"][0]["Resource"] == "arn:aws:s3:::my-runs/gpt/*"
    rules = clients("s3").get_bucket_lifecycle_configuration(Bucket="my-runs")["Rules"]
    assert rules[0]["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] == 3
    assert all(clients("s3").get_public_access_block(Bucket="my-runs")["PublicAccessBlockConfiguration"].values())
    assert clients("s3").list_objects_v2(Bucket="my-runs").get("Contents", []) == []

    target = clients("events").list_targets_by_rule(Rule="spotrun-notices")["Targets"][0]["Arn"]
    assert target == f"arn:aws:sqs:us-east-1:{world.account}:spotrun-notices"
    clients("sqs").delete_queue(QueueUrl=clients("sqs").get_queue_url(QueueName="spotrun-notices")["QueueUrl"])


def test_the_controllers_policy_suffices_for_a_look_at_everything(
    world: World, shell: Shell, clients: Callable[..., Any]
) -> None:
    """Whoever launches need not be an administrator to ask whether a job would run."""
    job = JOB + "ec2: {queue: spotrun-notices}\n"
    (shell.folder / "job.yaml").write_text(job)
    shell.run("doctor", "job.yaml", "--fix", "--create-queue", says="y\n" * 4)
    policy = json.loads(shell.run("iam", "controller", "job.yaml").stdout)
    world.permissions.hold("user", policy)
    lights = {area: {each["light"] for each in checks} for area, checks in shell.checks("job.yaml").items()}
    assert {demand.action for demand in world.permissions.denied} <= {"ec2:GetInstanceMetadataDefaults"}
    assert lights.pop("expiry") == {"yellow"}
    assert set().union(*lights.values()) == {"green"}, lights
    clients("sqs").delete_queue(QueueUrl=clients("sqs").get_queue_url(QueueName="spotrun-notices")["QueueUrl"])


def test_a_quota_of_zero_is_told_with_the_request_that_raises_it(world: World, shell: Shell) -> None:
    """As every new account has it for GPUs."""
    world.quotas["us-east-1", "L-3819A6DF"] = 0
    (quota,) = shell.checks("job.yaml")["spot quota"]
    assert quota["light"] == "red"
    assert "--quota-code L-3819A6DF --desired-value 4 --region us-east-1" in quota["fix"]


def test_what_the_users_lifecycle_does_is_kept(shell: Shell, clients: Callable[..., Any]) -> None:
    """S3 replaces all rules; the doctor adds one."""
    s3 = clients("s3")
    s3.create_bucket(Bucket="my-runs")
    theirs = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 30}}
    s3.put_bucket_lifecycle_configuration(Bucket="my-runs", LifecycleConfiguration={"Rules": [theirs]})
    shell.run("doctor", "--bucket", "my-runs", "--fix", says="n\nn\ny\nn\n")
    rules = s3.get_bucket_lifecycle_configuration(Bucket="my-runs")["Rules"]
    assert [rule["ID"] for rule in rules] == ["theirs", "spotrun-abort-unfinished-uploads"]


def test_credentials_that_ran_out_are_one_red_line_and_not_twenty(world: World, tmp_path: Path) -> None:
    """The rest is not looked at, and the command that signs in is there."""
    (tmp_path / "job.yaml").write_text(JOB)
    environment = world.environment()
    world.credentials.expire(environment["AWS_ACCESS_KEY_ID"])
    told = Shell(tmp_path, **environment).run("doctor", "job.yaml")
    assert told.returncode == 1
    assert "aws sso login" in told.stdout
    assert "were not looked at" in told.stdout
    assert "Traceback" not in told.stdout + told.stderr


def test_without_any_credentials_a_local_user_is_well(tmp_path: Path) -> None:
    """Nothing of AWS is needed for provider: local, so nothing is red; a job on EC2 is."""
    shell = Shell(tmp_path)
    told = shell.run("doctor")
    assert told.returncode == 0, told.stdout
    assert "only provider: local can be used" in told.stdout
    (tmp_path / "job.yaml").write_text(JOB)
    assert shell.run("doctor", "job.yaml").returncode == 1
    (tmp_path / "local.yaml").write_text("name: x\ncommand: python t.py\ncheckpoint: {uri: ./runs}\n")
    local = shell.checks("local.yaml")
    assert "credentials" not in local
    assert [each["light"] for each in local["place"]][1:] == ["green"]


def test_no_network_is_said_soon_and_in_a_sentence(tmp_path: Path) -> None:
    """Nobody listens there; no stack of exceptions, and no waiting for minutes."""
    (tmp_path / "job.yaml").write_text(JOB)
    shell = Shell(
        tmp_path,
        AWS_ENDPOINT_URL="http://127.0.0.1:9",
        AWS_ACCESS_KEY_ID="AKIATESTOFTHEWORLD00",
        AWS_SECRET_ACCESS_KEY="secret",
        AWS_DEFAULT_REGION="us-east-1",
    )
    told = shell.run("doctor", "job.yaml")
    assert told.returncode == 1
    assert "could not be asked" in told.stdout
    assert "Traceback" not in told.stdout + told.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["absent.yaml"], "absent.yaml"),
        (["--json", "--fix"], "without asking"),
        (["job.yaml", "--bucket", "x"], "without a job file"),
        (["--bucket", "S3://No"], "no name of a bucket"),
        (["local.yaml", "--create-queue"], "provider: local"),
    ],
)
def test_wrong_use_is_exit_code_2(tmp_path: Path, words: list[str], said: str) -> None:
    """And nothing was looked at."""
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "local.yaml").write_text("name: x\ncommand: python t.py\ncheckpoint: {uri: ./runs}\n")
    told = Shell(tmp_path, AWS_DEFAULT_REGION="us-east-1").run("doctor", *words)
    assert told.returncode == 2
    assert said in told.stderr
