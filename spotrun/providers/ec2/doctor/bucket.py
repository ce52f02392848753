"""The bucket of the runs: whose it is, where, and what it does with what is deleted or never finished.

That it can be written and that conditional writes work is tried through the store itself, as a job would
(`spotrun.providers.doctor.place`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from botocore.exceptions import ClientError

from spotrun.providers.doctor.verdict import Remedy, Request, Verdict, green, red, yellow
from spotrun.providers.ec2.account import Account

__all__ = ["LIFECYCLE_ID", "Bucket", "Whose", "check", "creation", "look", "with_abort_rule"]

LIFECYCLE_ID = "spotrun-abort-unfinished-uploads"
_ABORT_DAYS = 3  # an upload in parts takes minutes; what is older was left by a machine that is gone
_OLD_NAMES = {None: "us-east-1", "": "us-east-1", "EU": "eu-west-1"}  # how S3 tells these two
_NO_RULES = "NoSuchLifecycleConfiguration"
_NO_BLOCK = "NoSuchPublicAccessBlockConfiguration"


class Whose(str, Enum):
    """Whose a bucket of this name is."""

    OURS = "ours"
    NOBODYS = "nobody's"
    ANOTHERS = "another's"  # or ours, and we may not look


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """What is to be known; None where it may not be looked at.

    Attributes:
        region: where it is; empty if not known.
        rules: of its lifecycle.
        versioned: whether it keeps what is deleted or written over.
        blocked: whether all public access is blocked.
    """

    name: str
    whose: Whose
    region: str = ""
    rules: Sequence[Mapping[str, Any]] | None = None
    versioned: bool | None = None
    blocked: bool | None = None


def check(bucket: Bucket, *, regions: Sequence[str]) -> tuple[Verdict, ...]:
    """The verdicts, for a job in these regions."""
    if bucket.whose is Whose.NOBODYS:
        region = regions[0]
        return (
            red(
                "bucket",
                f"there is no bucket {bucket.name}",
                f"spotrun doctor --fix, or: aws s3 mb s3://{bucket.name} --region {region}",
                remedy=Remedy(
                    title=f"make the bucket {bucket.name} in {region}", requests=creation(bucket.name, region)
                ),
            ),
        )
    if bucket.whose is Whose.ANOTHERS:
        fix = "choose another name, or ask for the policy of `spotrun iam controller`"
        return (red("bucket", f"{bucket.name} is another account's, or these credentials may not look at it", fix),)
    return tuple(
        verdict
        for verdict in (_where(bucket, regions), _unfinished(bucket), _versions(bucket), _public(bucket))
        if verdict is not None
    )


def look(account: Account, name: str, region: str) -> Bucket:
    """Asks S3.

    Raises:
        ProviderError: it could not be asked.
    """
    client = account.client("s3", region)
    with account.asking(f"for the bucket {name}"):
        try:  # HeadBucket would need the right to list the whole bucket
            told = client.get_bucket_location(Bucket=name)
        except ClientError as error:
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            if status in {403, 404}:
                return Bucket(name=name, whose=Whose.NOBODYS if status == 404 else Whose.ANOTHERS)
            raise
    where = _OLD_NAMES.get(told.get("LocationConstraint"), told.get("LocationConstraint"))
    near = account.client("s3", str(where))
    rules = _asked(lambda: near.get_bucket_lifecycle_configuration(Bucket=name)["Rules"], absent={_NO_RULES: []})
    block = _asked(
        lambda: near.get_public_access_block(Bucket=name)["PublicAccessBlockConfiguration"], absent={_NO_BLOCK: {}}
    )
    versions = _asked(lambda: near.get_bucket_versioning(Bucket=name), absent={})
    return Bucket(
        name=name,
        whose=Whose.OURS,
        region=str(where),
        rules=rules,
        versioned=None if versions is None else versions.get("Status") == "Enabled",
        blocked=None if block is None else len(block) == 4 and all(block.values()),
    )


def creation(name: str, region: str) -> tuple[Request, ...]:
    """The requests for a bucket as a run wants it: private, encrypted, and without unfinished uploads for long."""
    where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    blocked = ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets")
    encryption = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}
    return (
        Request(service="s3", region=region, operation="create_bucket", parameters={"Bucket": name, **where}),
        Request(
            service="s3",
            region=region,
            operation="put_public_access_block",
            parameters={"Bucket": name, "PublicAccessBlockConfiguration": dict.fromkeys(blocked, True)},
        ),
        Request(
            service="s3",
            region=region,
            operation="put_bucket_encryption",
            parameters={"Bucket": name, "ServerSideEncryptionConfiguration": encryption},
        ),
        _lifecycle(name, region, ()),
    )


def with_abort_rule(rules: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rules with ours added: S3 knows no adding, only replacing all."""
    ours = {
        "ID": LIFECYCLE_ID,
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": _ABORT_DAYS},
    }
    return [*(rule for rule in rules if rule.get("ID") != LIFECYCLE_ID), ours]


def _where(bucket: Bucket, regions: Sequence[str]) -> Verdict:
    if bucket.region and bucket.region not in regions:
        return yellow(
            "bucket",
            f"{bucket.name} is in {bucket.region}, and the job in {', '.join(regions)}: each resume is paid as traffic "
            "between regions, and takes longer",
            f"add {bucket.region} to resources.regions, or keep the runs in a bucket there",
        )
    others = [region for region in regions if bucket.region and region != bucket.region]
    far = f"; from {', '.join(others)} a resume is paid as traffic between regions" if others else ""
    return green("bucket", f"{bucket.name}, ours, in {bucket.region or 'a region that is not told'}{far}")


def _unfinished(bucket: Bucket) -> Verdict:
    if bucket.rules is None:
        return yellow(
            "bucket", "its lifecycle may not be looked at", "the policy of `spotrun iam controller` allows it"
        )
    if any(
        rule.get("Status") == "Enabled" and "AbortIncompleteMultipartUpload" in rule and not _narrow(rule)
        for rule in bucket.rules
    ):
        return green("bucket", "uploads that were never finished are removed by its lifecycle")
    return yellow(
        "bucket",
        "nothing removes uploads that a killed machine never finished: they are invisible, and billed for ever",
        "spotrun doctor --fix",
        remedy=Remedy(
            title=f"add a rule to {bucket.name} that removes unfinished uploads after {_ABORT_DAYS} days",
            requests=(_lifecycle(bucket.name, bucket.region, bucket.rules),),
        ),
    )


def _versions(bucket: Bucket) -> Verdict | None:
    if not bucket.versioned:
        return None
    if any(rule.get("Status") == "Enabled" and "NoncurrentVersionExpiration" in rule for rule in bucket.rules or ()):
        return green("bucket", "is versioned, and its lifecycle removes old versions")
    return yellow(
        "bucket",
        "is versioned: checkpoints that are pruned stay as old versions, and are billed for ever",
        "add a lifecycle rule with NoncurrentVersionExpiration, or keep the runs in a bucket without versioning",
    )


def _public(bucket: Bucket) -> Verdict | None:
    if bucket.blocked is not False:
        return None
    return yellow(
        "bucket",
        "does not block public access: one wrong policy would show the checkpoints to everybody",
        "spotrun doctor --fix",
        remedy=Remedy(
            title=f"block all public access to {bucket.name}",
            requests=tuple(
                request
                for request in creation(bucket.name, bucket.region)
                if request.operation == "put_public_access_block"
            ),
        ),
    )


def _narrow(rule: Mapping[str, Any]) -> bool:
    """Whether a rule is for a part of the bucket only."""
    chosen = rule.get("Filter", {})
    return bool(rule.get("Prefix") or chosen.get("Prefix") or chosen.get("Tag") or chosen.get("And"))


def _lifecycle(name: str, region: str, rules: Sequence[Mapping[str, Any]]) -> Request:
    return Request(
        service="s3",
        region=region,
        operation="put_bucket_lifecycle_configuration",
        parameters={"Bucket": name, "LifecycleConfiguration": {"Rules": with_abort_rule(rules)}},
    )


def _asked(ask: Any, *, absent: Mapping[str, Any]) -> Any:
    """What S3 tells, what its absence means, or None where we may not ask."""
    try:
        return ask()
    except ClientError as error:
        return absent.get(str(error.response.get("Error", {}).get("Code", "")))
