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

from typing import TypeAlias

from spotrun.providers.ec2.scope import Scope, split_s3

__all__ = [
    "MANAGED_TAG",
    "PolicyDocument",
    "controller_policy",
    "instance_policy",
    "queue_policy",
    "trust_policy",
]

PolicyDocument: TypeAlias = dict[str, object]
_Statement: TypeAlias = dict[str, object]

MANAGED_TAG = "spotrun:managed"  # on everything that spotrun creates, with the value "true"

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
    statements += _signing(scope)
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
    statements += _signing(scope)
    if scope.disk_key:
        actions = ("kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKeyWithoutPlaintext", "kms:ReEncryptFrom")
        lent: _Statement = {"Bool": {"kms:GrantIsForAWSResource": "true"}}
        statements += [
            _allow("UseTheKeyOfDisks", (*actions, "kms:ReEncryptTo"), scope.disk_key),
            _allow("LendTheKeyToDisks", ("kms:CreateGrant",), scope.disk_key, when=lent),
        ]
    return statements


def _signing(scope: Scope) -> list[_Statement]:
    if not scope.signing_key:
        return []
    return [_allow("SignAndCheckTheLog", ("kms:GenerateMac", "kms:VerifyMac"), scope.signing_key)]


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
