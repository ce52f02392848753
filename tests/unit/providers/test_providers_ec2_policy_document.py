"""The printed policies, read as IAM reads them: what they allow, and above all what they do not."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from spotrun.errors import SpecError
from spotrun.job import JobSpec
from spotrun.providers.ec2.doctor import bucket, queue, role
from spotrun.providers.ec2.doctor.queue import Queue
from spotrun.providers.ec2.doctor.role import Roles
from spotrun.providers.ec2.policy_document import (
    PolicyDocument,
    controller_policy,
    instance_policy,
    queue_policy,
    trust_policy,
)
from spotrun.providers.ec2.scope import Scope, scope_of_job

OURS = {"aws:ResourceTag/spotrun:managed": "true"}
BORN_OURS = {"aws:RequestTag/spotrun:managed": "true"}
SCOPE = Scope(bucket="my-bucket", reads=("s3://data/train/",))
EC2 = "arn:aws:ec2:us-west-2:123456789012"
RUNS = "arn:aws:s3:::my-bucket/runs"


IMAGE = "123456789012.dkr.ecr.us-west-2.amazonaws.com/team/train:1.4"
REPOSITORY = "arn:aws:ecr:us-west-2:123456789012:repository/team/train"


def listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def holds(condition: Mapping[str, Mapping[str, Any]], context: Mapping[str, str]) -> bool:
    """Whether every condition is met; a key that the request lacks meets none."""
    return all(
        key in context and any(fnmatchcase(context[key], pattern) for pattern in listed(patterns))
        for operator, keys in condition.items()
        for key, patterns in keys.items()
        if operator in {"StringEquals", "StringLike", "ArnEquals", "Bool"}
    )


def allowed(document: PolicyDocument, action: str, resource: str, context: Mapping[str, str] | None = None) -> bool:
    statements: Any = document["Statement"]
    return any(
        statement["Effect"] == "Allow"
        and action in listed(statement["Action"])
        and any(fnmatchcase(resource, pattern) for pattern in listed(statement["Resource"]))
        and holds(statement.get("Condition", {}), context or {})
        for statement in statements
    )


@pytest.mark.parametrize(
    ("action", "resource", "context"),
    [
        ("ec2:DescribeInstances", "*", {}),
        ("ec2:GetSpotPlacementScores", "*", {}),
        ("pricing:GetProducts", "*", {}),
        ("servicequotas:GetServiceQuota", "*", {}),
        ("ssm:GetParameter", "arn:aws:ssm:us-west-2::parameter/aws/service/deeplearning/ami/x86_64/latest", {}),
        ("ec2:CreateLaunchTemplate", f"{EC2}:launch-template/lt-1", BORN_OURS),
        ("ec2:CreateFleet", f"{EC2}:fleet/fleet-1", BORN_OURS),
        ("ec2:CreateFleet", f"{EC2}:launch-template/lt-1", OURS),
        ("ec2:RunInstances", f"{EC2}:launch-template/lt-1", OURS),
        ("ec2:RunInstances", f"{EC2}:instance/i-1", BORN_OURS),
        ("ec2:RunInstances", f"{EC2}:volume/vol-1", BORN_OURS),
        ("ec2:RunInstances", f"{EC2}:network-interface/eni-1", BORN_OURS),
        ("ec2:RunInstances", f"{EC2}:spot-instances-request/sir-1", BORN_OURS),
        ("ec2:RunInstances", f"{EC2}:subnet/subnet-1", {}),
        ("ec2:RunInstances", f"{EC2}:security-group/sg-1", {}),
        ("ec2:RunInstances", "arn:aws:ec2:us-west-2::image/ami-1", {}),
        ("ec2:CreateTags", f"{EC2}:instance/i-1", {**BORN_OURS, "ec2:CreateAction": "RunInstances"}),
        ("ec2:TerminateInstances", f"{EC2}:instance/i-1", OURS),
        ("ec2:DeleteLaunchTemplate", f"{EC2}:launch-template/lt-1", OURS),
        ("ec2:DeleteVolume", f"{EC2}:volume/vol-1", OURS),
        ("iam:PassRole", "arn:aws:iam::1:role/spotrun-instance", {"iam:PassedToService": "ec2.amazonaws.com"}),
        ("s3:PutObject", f"{RUNS}/job-abc/attempts/000001/control.json", {}),
        ("s3:ListBucket", "arn:aws:s3:::my-bucket", {"s3:prefix": "runs/job-abc/log/"}),
        ("sqs:ReceiveMessage", "arn:aws:sqs:us-west-2:1:spotrun-notices", {}),
    ],
)
def test_the_controller_may_do_what_it_has_to(action: str, resource: str, context: dict[str, str]) -> None:
    """Read anywhere, create what is born with our tag, end what carries it."""
    assert allowed(controller_policy(SCOPE), action, resource, context)


@pytest.mark.parametrize(
    ("action", "resource", "context"),
    [
        ("ec2:TerminateInstances", f"{EC2}:instance/i-1", {}),
        ("ec2:TerminateInstances", f"{EC2}:instance/i-1", {"aws:ResourceTag/spotrun:managed": "false"}),
        ("ec2:DeleteVolume", f"{EC2}:volume/vol-1", {}),
        ("ec2:DeleteLaunchTemplate", f"{EC2}:launch-template/lt-1", {}),
        ("ec2:RunInstances", f"{EC2}:instance/i-1", {}),
        ("ec2:RunInstances", f"{EC2}:launch-template/lt-1", {}),
        ("ec2:RunInstances", f"{EC2}:launch-template/lt-1", BORN_OURS),
        ("ec2:CreateLaunchTemplate", f"{EC2}:launch-template/lt-1", {}),
        ("ec2:CreateFleet", f"{EC2}:fleet/fleet-1", {}),
        # a foreign machine must not become ours, or it could be ended next
        ("ec2:CreateTags", f"{EC2}:instance/i-1", BORN_OURS),
        ("ec2:DeleteTags", f"{EC2}:instance/i-1", OURS),
        ("ec2:ModifyInstanceAttribute", f"{EC2}:instance/i-1", OURS),
        ("iam:PassRole", "arn:aws:iam::1:role/admin", {"iam:PassedToService": "ec2.amazonaws.com"}),
        ("iam:PassRole", "arn:aws:iam::1:role/spotrun-instance", {"iam:PassedToService": "lambda.amazonaws.com"}),
        ("iam:PassRole", "arn:aws:iam::1:role/spotrun-instance", {}),
        ("iam:PutRolePolicy", "arn:aws:iam::1:role/spotrun-instance", {}),
        ("s3:GetObject", "arn:aws:s3:::my-bucket/private/x", {}),
        ("s3:GetObject", "arn:aws:s3:::my-bucket/runs-of-others/x", {}),
        ("s3:ListBucket", "arn:aws:s3:::my-bucket", {"s3:prefix": ""}),
        ("s3:ListBucket", "arn:aws:s3:::my-bucket", {}),
        ("s3:DeleteBucket", "arn:aws:s3:::my-bucket", {}),
        ("s3:PutLifecycleConfiguration", "arn:aws:s3:::my-bucket", {}),
        ("ssm:GetParameter", "arn:aws:ssm:us-west-2:123456789012:parameter/secret", {}),
        ("sqs:ReceiveMessage", "arn:aws:sqs:us-west-2:1:payments", {}),
    ],
)
def test_the_controller_may_do_no_more(action: str, resource: str, context: dict[str, str]) -> None:
    """What is not ours stays as it is."""
    assert not allowed(controller_policy(SCOPE), action, resource, context)


def test_the_instance_touches_the_runs_and_reads_the_inputs_and_nothing_else() -> None:
    """Not one right on EC2: it ends itself by shutting down."""
    document = instance_policy(SCOPE)
    assert allowed(document, "s3:PutObject", f"{RUNS}/job-abc/blobs/1/x")
    assert allowed(document, "s3:ListBucket", "arn:aws:s3:::my-bucket", {"s3:prefix": "runs/job-abc/"})
    assert allowed(document, "s3:GetObject", "arn:aws:s3:::data/train/a.bin")
    assert allowed(document, "s3:ListBucket", "arn:aws:s3:::data", {"s3:prefix": "train/"})
    assert not allowed(document, "s3:PutObject", "arn:aws:s3:::data/train/a.bin")
    assert not allowed(document, "s3:GetObject", "arn:aws:s3:::data/salaries.csv")
    assert not allowed(document, "s3:GetObject", "arn:aws:s3:::my-bucket/private/x")
    actions = {action for statement in document["Statement"] for action in listed(statement["Action"])}  # type: ignore[attr-defined]
    assert {action.partition(":")[0] for action in actions} == {"s3"}


def test_one_job_can_have_a_role_of_its_own() -> None:
    """The prefix may be a job's place; then its machines see no other job."""
    document = instance_policy(Scope(bucket="my-bucket", prefix="runs/job-abc"))
    assert allowed(document, "s3:PutObject", f"{RUNS}/job-abc/log/00000001.json")
    assert not allowed(document, "s3:GetObject", f"{RUNS}/job-xyz/log/00000001.json")


def test_a_key_of_ones_own_is_used_and_lent_to_disks_only() -> None:
    """An id becomes an ARN; an alias cannot stand in a policy."""
    key = "arn:aws:kms:us-west-2:1:key/k"
    assert allowed(instance_policy(Scope(bucket="my-bucket", kms_key=key)), "kms:GenerateDataKey", key)
    controller = controller_policy(Scope(bucket="my-bucket", disk_key="k"))
    assert allowed(controller, "kms:Decrypt", key)
    assert allowed(controller, "kms:CreateGrant", key, {"kms:GrantIsForAWSResource": "true"})
    assert not allowed(controller, "kms:CreateGrant", key)
    with pytest.raises(SpecError, match="alias"):
        Scope(bucket="my-bucket", disk_key="alias/mine")


def test_whoever_signs_or_checks_the_log_may_use_that_key_for_it() -> None:
    """Controller and machine alike, and for nothing else."""
    key = "arn:aws:kms:us-west-2:1:key/mac"
    scope = Scope(bucket="my-bucket", signing_key=key)
    for document in (controller_policy(scope), instance_policy(scope)):
        assert allowed(document, "kms:GenerateMac", key)
        assert allowed(document, "kms:VerifyMac", key)
        assert not allowed(document, "kms:Decrypt", key)


def test_images_are_pulled_from_the_named_repository_only() -> None:
    """Signing in to ECR cannot be narrowed; pulling can."""
    repository = "arn:aws:ecr:us-west-2:1:repository/train"
    document = instance_policy(Scope(bucket="my-bucket", images=(repository,)))
    assert allowed(document, "ecr:GetAuthorizationToken", "*")
    assert allowed(document, "ecr:BatchGetImage", repository)
    assert not allowed(document, "ecr:BatchGetImage", "arn:aws:ecr:us-west-2:1:repository/other")


def test_the_documents_fit_where_they_go() -> None:
    """IAM takes 6,144 characters in a managed policy, blanks not counted; names and shape as the API wants them."""
    full = Scope(bucket="b" * 63, prefix="p" * 200, reads=("s3://data/x",), kms_key="k", images=("arn:aws:ecr:x",))
    for document in (controller_policy(full), instance_policy(full), trust_policy(), queue_policy("a", "b")):
        text = json.dumps(document, separators=(",", ":"))
        assert len(text) <= 6144
        assert document["Version"] == "2012-10-17"
        statements: Any = document["Statement"]
        sids = [statement["Sid"] for statement in statements]
        assert len(set(sids)) == len(sids)
        assert all(sid.isalnum() for sid in sids)


def test_only_ec2_may_take_on_the_role() -> None:
    """In China its name has another ending."""
    assert trust_policy()["Statement"] == [
        {
            "Sid": "OnlyMachinesOfEC2",
            "Effect": "Allow",
            "Principal": {"Service": "ec2.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
    ]
    assert "ec2.amazonaws.com.cn" in json.dumps(trust_policy("aws-cn"))
    assert "arn:aws-cn:s3:::my-bucket" in json.dumps(instance_policy(Scope(bucket="my-bucket", partition="aws-cn")))


def test_a_job_file_says_bucket_prefix_inputs_and_key() -> None:
    """So that nothing is typed twice."""
    key = "arn:aws:kms:us-east-1:1:key/k"
    spec = JobSpec.model_validate(
        {
            "name": "x",
            "command": "python train.py",
            "checkpoint": {"uri": "s3://my-bucket/team/runs/", "options": {"sse": "aws:kms", "kms_key": key}},
            "inputs": {"train": "s3://data/train/", "here": "./local"},
            "ec2": {"instance_profile": "mine", "queue": "news", "docker": IMAGE},
        }
    )
    scope = scope_of_job(spec)
    assert scope == Scope(
        bucket="my-bucket",
        prefix="team/runs",
        reads=("s3://data/train/",),
        kms_key=key,
        role="mine",
        queue="news",
        images=(REPOSITORY,),
    )


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"bucket": "s3://my-bucket"}, "without s3://"),
        ({"bucket": "my-bucket", "prefix": "runs/*"}, "plain path"),
        ({"bucket": "my-bucket", "reads": ("gs://data",)}, "no place on S3"),
        ({"bucket": "my-bucket", "partition": "azure"}, "aws-cn"),
    ],
)
def test_what_would_make_a_wrong_policy_is_refused(facts: dict[str, Any], said: str) -> None:
    """A policy that means something else than it says is worse than none."""
    with pytest.raises(SpecError, match=said):
        Scope(**facts)


ROOT = Path(__file__).parents[3]
OTHER_NAMES = {  # where IAM names an action otherwise than the API its operation
    "DeleteMessageBatch": "DeleteMessage",
    "GetBucketLifecycleConfiguration": "GetLifecycleConfiguration",
    "GetPublicAccessBlock": "GetBucketPublicAccessBlock",
    "ListAwsDefaultServiceQuotas": "ListAWSDefaultServiceQuotas",
}
NO_RIGHT_NEEDED = {"GetCallerIdentity", "GetPaginator", "GetCredentials", "GetFrozenCredentials"}


def test_the_controllers_policy_has_every_operation_that_is_asked_for() -> None:
    """An operation that is new in the code must be in the policy that users were given."""
    verbs = "create|delete|describe|get|list|put|receive|send|terminate"
    called = re.compile(rf"""(?:\.|")((?:{verbs})_[a-z_]+)(?:\(|")""")
    offered = {"create_service_linked_role", "get_credentials"}  # by --fix, with an administrator's rights
    asked = {
        "".join(word.title() for word in name.split("_"))
        for path in (ROOT / "spotrun" / "providers" / "ec2").rglob("*.py")
        for name in called.findall(path.read_text())
        if name not in offered
    }
    assert {"CreateFleet", "TerminateInstances", "DescribeVolumes", "ReceiveMessage"} <= asked
    statements: Any = controller_policy(SCOPE)["Statement"]
    allowed_names = {action.partition(":")[2] for statement in statements for action in listed(statement["Action"])}
    made_by_fix = {
        request.operation
        for request in (
            *bucket.creation("b", "eu-west-1"),
            *role.role_creation(SCOPE, region="r", roles=Roles(profile="p")),
            *queue.creation(Queue(name="q", region="r"), account="1", partition="aws"),
        )
    }
    missing = {OTHER_NAMES.get(name, name) for name in asked - NO_RIGHT_NEEDED} - allowed_names
    assert missing - {"".join(word.title() for word in name.split("_")) for name in made_by_fix} == set()
