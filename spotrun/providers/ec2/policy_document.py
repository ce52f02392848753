"""Least-privilege IAM policies, as the JSON documents that AWS takes.

Three documents, for two identities:

- the *controller's* policy, for whoever runs `spotrun launch`: it reads prices, quotas and machines anywhere, but creates
  only what is born with the tag `spotrun:managed=true`, and ends only what carries it. It can tag nothing that exists
  already, so it cannot make a foreign machine its own and then end it.
- the *instance's* policy, for the role that the machines carry: the prefix of the bucket that the runs lie under, and what
  the inputs are read from. No right on EC2 at all: a machine ends itself by shutting down
  (`InstanceInitiatedShutdownBehavior=terminate`) and reads its own tags from the metadata service, and neither needs one.
- the *trust* policy: only EC2 may put the role on a machine.

All machines that carry one role can do the same: IAM has no condition on the tags of the instance behind a request to S3.
So jobs are kept apart by giving each its own role, made for its own prefix.

Source: AWS Service Authorization Reference, 'Actions, resources, and condition keys for Amazon EC2'; the split between what
is created (by request tag), used (by resource tag) and tagged (by `ec2:CreateAction`) is the one that Karpenter's
controller policy has proven in many accounts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlsplit

from spotrun.errors import SpecError
from spotrun.job.spec import JobSpec

__all__ = [
    "DEFAULT_PREFIX",
    "INSTANCE_ROLE",
    "MANAGED_TAG",
    "NOTICE_QUEUE",
    "PolicyDocument",
    "Scope",
    "check_partition",
    "controller_policy",
    "instance_policy",
    "queue_policy",
    "scope_of_job",
    "split_s3",
    "trust_policy",
]

PolicyDocument: TypeAlias = dict[str, object]
_Statement: TypeAlias = dict[str, object]

MANAGED_TAG = "spotrun:managed"  # on everything that spotrun creates, with the value "true"
INSTANCE_ROLE = "spotrun-instance"  # role and instance profile have this name
NOTICE_QUEUE = "spotrun-notices"
DEFAULT_PREFIX = "runs"

_PARTITIONS = ("aws", "aws-cn", "aws-us-gov")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_VERSION = "2012-10-17"  # of the policy language, not a date of ours
_BORN_OURS = {f"aws:RequestTag/{MANAGED_TAG}": "true"}
_CREATED = ("fleet", "instance", "network-interface", "spot-instances-request", "volume")
_READ_ANYWHERE = (
    "ec2:DescribeAvailabilityZones",
    "ec2:DescribeFleets",
    "ec2:DescribeImages",
    "ec2:DescribeInstanceTypeOfferings",
    "ec2:DescribeInstanceTypes",
    "ec2:DescribeInstances",
    "ec2:DescribeLaunchTemplateVersions",
    "ec2:DescribeLaunchTemplates",
    "ec2:DescribeRegions",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeSpotInstanceRequests",
    "ec2:DescribeSpotPriceHistory",
    "ec2:DescribeSubnets",
    "ec2:DescribeVolumes",
    "ec2:DescribeVpcs",
    "ec2:GetInstanceMetadataDefaults",
    "ec2:GetSpotPlacementScores",
    "pricing:GetProducts",
    "servicequotas:GetServiceQuota",
    "servicequotas:ListAWSDefaultServiceQuotas",
    "servicequotas:ListServiceQuotas",
)
_WRITE_OBJECTS = (
    "s3:AbortMultipartUpload",
    "s3:DeleteObject",
    "s3:GetObject",
    "s3:ListMultipartUploadParts",
    "s3:PutObject",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """What the documents are to allow.

    Attributes:
        bucket, prefix: where the runs lie; an empty prefix is the whole bucket.
        reads: `s3://` URLs of inputs, which the instance may read and not write.
        kms_key, disk_key: ARN or id of the keys that encrypt the runs and the disks, where these are the user's own.
        role, queue: names of the instance's role and of the queue for notices.
        images: ARNs of ECR repositories that the instance may pull from.
        partition: `aws`, `aws-cn` or `aws-us-gov`.
    """

    bucket: str
    prefix: str = DEFAULT_PREFIX
    reads: tuple[str, ...] = ()
    kms_key: str | None = None
    disk_key: str | None = None
    role: str = INSTANCE_ROLE
    queue: str = NOTICE_QUEUE
    images: tuple[str, ...] = ()
    partition: str = "aws"

    def __post_init__(self) -> None:
        check_partition(self.partition)
        if not _BUCKET.fullmatch(self.bucket):
            raise SpecError(
                f"{self.bucket!r} is no name of a bucket: 3 to 63 lower-case letters, digits, dots and hyphens, without s3://"
            )
        if unfit := set("*?${}").intersection(self.prefix):
            raise SpecError(
                f"--prefix: {''.join(sorted(unfit))} would mean something else in a policy; use a plain path"
            )
        for url in self.reads:
            split_s3(url)
        object.__setattr__(self, "kms_key", _key_arn(self.kms_key, self.partition))
        object.__setattr__(self, "disk_key", _key_arn(self.disk_key, self.partition))


def check_partition(partition: str) -> None:
    """Refuses what is no partition of AWS.

    Raises:
        SpecError: it is none.
    """
    if partition not in _PARTITIONS:
        raise SpecError(f"--partition: {partition!r} is none of {', '.join(_PARTITIONS)}")


def scope_of_job(spec: JobSpec, *, partition: str = "aws") -> Scope:
    """What one job needs: its place for checkpoints, its inputs on S3, its keys.

    Raises:
        SpecError: it does not save to S3.
    """
    if spec.checkpoint is None:
        raise SpecError("checkpoint.uri is missing in the job file, so no policy can be written for its bucket")
    bucket, prefix = split_s3(spec.checkpoint.uri)
    return Scope(
        bucket=bucket,
        prefix=prefix,
        reads=tuple(url for url in spec.inputs.values() if url.startswith(("s3://", "s3a://"))),
        kms_key=spec.checkpoint.options.kms_key,
        disk_key=spec.ec2.kms_key,
        role=spec.ec2.instance_profile,
        queue=spec.ec2.queue or NOTICE_QUEUE,
        partition=partition,
    )


def split_s3(url: str) -> tuple[str, str]:
    """Bucket and prefix of an `s3://` URL; the prefix without slashes at its ends.

    Raises:
        SpecError: it is no such URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"s3", "s3a"} or not parts.netloc:
        raise SpecError(f"{url!r} is no place on S3; write s3://bucket/path")
    return parts.netloc, parts.path.strip("/")


def controller_policy(scope: Scope) -> PolicyDocument:
    """For whoever runs the controller and `spotrun doctor` (without --fix), `reap` and `prices`."""
    return _document([*_looking(scope), *_launching(scope), *_ending(scope), *_keeping(scope), *_keys(scope)])


def instance_policy(scope: Scope) -> PolicyDocument:
    """For the role that the machines carry."""
    reads = sorted(
        {f"arn:{scope.partition}:s3:::{'/'.join(filter(None, (bucket, prefix)))}" for bucket, prefix in _reads(scope)}
    )
    statements = [*_runs(scope)]
    if reads:
        objects = [pattern for arn in reads for pattern in _below(arn)]
        statements.append(_allow("ReadInputs", ("s3:GetObject",), objects))
        statements += [
            _allow(
                f"ListInputs{number}",
                ("s3:ListBucket",),
                f"arn:{scope.partition}:s3:::{bucket}",
                when=_listing(prefix),
            )
            for number, (bucket, prefix) in enumerate(sorted(set(_reads(scope))), start=1)
        ]
    if scope.kms_key:
        statements.append(_allow("UseTheKeyOfRuns", ("kms:Decrypt", "kms:GenerateDataKey"), scope.kms_key))
    if scope.images:
        statements.append(_allow("SignInToImages", ("ecr:GetAuthorizationToken",), "*"))
        pull = ("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")
        statements.append(_allow("PullImages", pull, sorted(scope.images)))
    return _document(statements)


def trust_policy(partition: str = "aws") -> PolicyDocument:
    """Who may take on the instance's role: EC2, for the machines that are launched with it."""
    return _document(
        [
            {
                "Sid": "OnlyMachinesOfEC2",
                "Effect": "Allow",
                "Principal": {"Service": _ec2_service(partition)},
                "Action": "sts:AssumeRole",
            }
        ]
    )


def queue_policy(queue_arn: str, rule_arn: str) -> PolicyDocument:
    """Who may send to the queue for notices: this one rule of EventBridge."""
    return _document(
        [
            {
                "Sid": "OnlyOurRule",
                "Effect": "Allow",
                "Principal": {"Service": "events.amazonaws.com"},
                "Action": "sqs:SendMessage",
                "Resource": queue_arn,
                "Condition": {"ArnEquals": {"aws:SourceArn": rule_arn}},
            }
        ]
    )


def _looking(scope: Scope) -> list[_Statement]:
    """What cannot be narrowed, since these actions know no resource, and what belongs to AWS or is only looked at."""
    return [
        _allow("ReadPricesQuotasAndMachines", _READ_ANYWHERE, "*"),
        _allow(
            "ReadPublicImages",
            ("ssm:GetParameter", "ssm:GetParameters"),
            f"arn:{scope.partition}:ssm:*::parameter/aws/service/*",
        ),
        _allow(
            "LookAtRoles",
            ("iam:GetInstanceProfile", "iam:GetRole"),
            [
                f"arn:{scope.partition}:iam::*:instance-profile/{scope.role}",
                f"arn:{scope.partition}:iam::*:role/{scope.role}",
                f"arn:{scope.partition}:iam::*:role/aws-service-role/spot.amazonaws.com/*",
                f"arn:{scope.partition}:iam::*:role/AWSServiceRoleForEC2Spot",  # its name while it is not there
            ],
        ),
    ]


def _launching(scope: Scope) -> list[_Statement]:
    """CreateFleet asks for the rights of RunInstances, too; each is checked against every resource that it touches."""
    launch = ("ec2:CreateFleet", "ec2:RunInstances")
    public = [f"arn:{scope.partition}:ec2:*::{kind}/*" for kind in ("image", "snapshot")]
    created = _ec2(scope, *_CREATED)
    making = ["CreateFleet", "CreateLaunchTemplate", "RunInstances"]
    return [
        _allow(
            "LaunchFrom",
            launch,
            [*public, *_ec2(scope, "key-pair", "placement-group", "security-group", "subnet")],
        ),
        _allow("LaunchFromOurTemplates", launch, _ec2(scope, "launch-template"), when=_carrying()),
        _allow("CreateOnlyTagged", launch, created, when={"StringEquals": dict(_BORN_OURS)}),
        _allow(
            "CreateOnlyTaggedTemplates",
            ("ec2:CreateLaunchTemplate",),
            _ec2(scope, "launch-template"),
            when={"StringEquals": dict(_BORN_OURS)},
        ),
        _allow(
            "TagOnlyWhileCreating",
            ("ec2:CreateTags",),
            [*created, *_ec2(scope, "launch-template")],
            when={"StringEquals": {**_BORN_OURS, "ec2:CreateAction": making}},
        ),
        _allow(
            "PassOnlyTheInstanceRole",
            ("iam:PassRole",),
            f"arn:{scope.partition}:iam::*:role/{scope.role}",
            when={"StringEquals": {"iam:PassedToService": _ec2_service(scope.partition)}},
        ),
    ]


def _ending(scope: Scope) -> list[_Statement]:
    return [
        _allow(
            "EndOnlyOurs",
            ("ec2:DeleteLaunchTemplate", "ec2:DeleteVolume", "ec2:GetConsoleOutput", "ec2:TerminateInstances"),
            _ec2(scope, "instance", "launch-template", "volume"),
            when=_carrying(),
        )
    ]


def _keeping(scope: Scope) -> list[_Statement]:
    """The runs, and the queue that tells of notices."""
    look = ("GetBucketLocation", "GetBucketPublicAccessBlock", "GetBucketVersioning", "GetLifecycleConfiguration")
    return [
        *_runs(scope),
        _allow("LookAtTheBucket", tuple(f"s3:{action}" for action in look), _bucket(scope)),
        _allow(
            "HearOfNotices",
            ("sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:GetQueueUrl", "sqs:ReceiveMessage"),
            f"arn:{scope.partition}:sqs:*:*:{scope.queue}",
        ),
        _allow(
            "LookAtTheRule",
            ("events:DescribeRule", "events:ListTargetsByRule"),
            f"arn:{scope.partition}:events:*:*:rule/{scope.queue}",
        ),
    ]


def _runs(scope: Scope) -> list[_Statement]:
    below = "/".join(filter(None, (_bucket(scope), scope.prefix)))
    return [
        _allow("ReadAndWriteRuns", _WRITE_OBJECTS, f"{below}/*"),
        _allow("ListRuns", ("s3:ListBucket",), _bucket(scope), when=_listing(scope.prefix)),
    ]


def _keys(scope: Scope) -> list[_Statement]:
    """The key of the runs; and what EC2 needs of whoever launches a machine whose disk has a key of the user's own."""
    statements = []
    if scope.kms_key:
        statements.append(_allow("UseTheKeyOfRuns", ("kms:Decrypt", "kms:GenerateDataKey"), scope.kms_key))
    if scope.disk_key:
        actions = ("kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKeyWithoutPlaintext", "kms:ReEncryptFrom")
        lent: _Statement = {"Bool": {"kms:GrantIsForAWSResource": "true"}}
        statements += [
            _allow("UseTheKeyOfDisks", (*actions, "kms:ReEncryptTo"), scope.disk_key),
            _allow("LendTheKeyToDisks", ("kms:CreateGrant",), scope.disk_key, when=lent),
        ]
    return statements


def _key_arn(key: str | None, partition: str) -> str | None:
    if not key or key.startswith("arn:"):
        if key and ":alias/" in key:
            raise SpecError(f"{key} is an alias, which no policy takes: give the key's own ARN")
        return key or None
    if key.startswith("alias/"):
        raise SpecError(f"{key} is an alias, which no policy takes: give the key's own ARN")
    return f"arn:{partition}:kms:*:*:key/{key}"


def _reads(scope: Scope) -> list[tuple[str, str]]:
    return [split_s3(url) for url in scope.reads]


def _below(arn: str) -> list[str]:
    """An input may be one object or a folder of them; a whole bucket has only the latter."""
    return [arn, f"{arn}/*"] if "/" in arn else [f"{arn}/*"]


def _listing(prefix: str) -> _Statement | None:
    return {"StringLike": {"s3:prefix": [prefix, f"{prefix}/*"]}} if prefix else None


def _bucket(scope: Scope) -> str:
    return f"arn:{scope.partition}:s3:::{scope.bucket}"


def _ec2(scope: Scope, *kinds: str) -> list[str]:
    return [f"arn:{scope.partition}:ec2:*:*:{kind}/*" for kind in kinds]


def _ec2_service(partition: str) -> str:
    return "ec2.amazonaws.com.cn" if partition == "aws-cn" else "ec2.amazonaws.com"


def _carrying() -> _Statement:
    return {"StringEquals": {f"aws:ResourceTag/{MANAGED_TAG}": "true"}}


def _allow(
    sid: str, actions: tuple[str, ...], resource: str | list[str], *, when: _Statement | None = None
) -> _Statement:
    statement: _Statement = {"Sid": sid, "Effect": "Allow", "Action": list(actions), "Resource": resource}
    return {**statement, "Condition": when} if when else statement


def _document(statements: list[_Statement]) -> PolicyDocument:
    return {"Version": _VERSION, "Statement": statements}
