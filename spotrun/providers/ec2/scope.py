"""What policies are to allow: taken from a job file, checked once, so that no policy means something else than it says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from spotrun.errors import SpecError
from spotrun.job.spec import JobSpec

__all__ = [
    "DEFAULT_PREFIX",
    "INSTANCE_ROLE",
    "NOTICE_QUEUE",
    "Scope",
    "check_partition",
    "scope_of_job",
    "split_s3",
]

INSTANCE_ROLE = "spotrun-instance"  # role and instance profile have this name
NOTICE_QUEUE = "spotrun-notices"
DEFAULT_PREFIX = "runs"
_PARTITIONS = ("aws", "aws-cn", "aws-us-gov")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_ECR = re.compile(r"([0-9]{12})\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/([a-z0-9._/-]+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """What the documents are to allow.

    Attributes:
        bucket, prefix: where the runs lie; an empty prefix is the whole bucket.
        reads: `s3://` URLs of inputs, which the instance may read and not write.
        kms_key, disk_key: ARN or id of the keys that encrypt the runs and the disks, where these are the user's own.
        signing_key: ARN or id of the key that signs the log of commits, if a key of KMS does.
        role, queue: names of the instance's role and of the queue for notices.
        images: ARNs of ECR repositories that the instance may pull from.
        partition: `aws`, `aws-cn` or `aws-us-gov`.
    """

    bucket: str
    prefix: str = DEFAULT_PREFIX
    reads: tuple[str, ...] = ()
    kms_key: str | None = None
    disk_key: str | None = None
    signing_key: str | None = None
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
        for name in ("kms_key", "disk_key", "signing_key"):
            object.__setattr__(self, name, _key_arn(getattr(self, name), self.partition))


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
    signing = spec.checkpoint.signing
    return Scope(
        bucket=bucket,
        prefix=prefix,
        reads=tuple(url for url in spec.inputs.values() if url.startswith(("s3://", "s3a://"))),
        kms_key=spec.checkpoint.options.kms_key,
        disk_key=spec.ec2.kms_key,
        signing_key=signing.kms if signing is not None else None,
        images=_repositories(spec.ec2.docker, partition),
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


def _repositories(image: str | None, partition: str) -> tuple[str, ...]:
    """The ARN of the ECR repository that an image lies in; none for other registries."""
    match = _ECR.match(image or "")
    if match is None:
        return ()
    account, region, name = match.groups()
    return (f"arn:{partition}:ecr:{region}:{account}:repository/{name}",)


def _key_arn(key: str | None, partition: str) -> str | None:
    if not key or key.startswith("arn:"):
        if key and ":alias/" in key:
            raise SpecError(f"{key} is an alias, which no policy takes: give the key's own ARN")
        return key or None
    if key.startswith("alias/"):
        raise SpecError(f"{key} is an alias, which no policy takes: give the key's own ARN")
    return f"arn:{partition}:kms:*:*:key/{key}"
