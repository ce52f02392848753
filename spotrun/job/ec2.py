"""The job file's `ec2`: how machines are made in the user's AWS account."""

from __future__ import annotations

import re
from datetime import timedelta
from enum import Enum
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field

from spotrun.job.field import Duration, Whole, between, shown, wrong
from spotrun.job.section import Section

__all__ = ["DEFAULT_IMAGE", "Ec2", "Rebalance"]

# The Deep Learning AMI with PyTorch in /opt/pytorch, in the newest build of its line.
# Source: DLAMI developer guide, 'Finding a DLAMI ID' for the form of the name, release notes of 2026-03-20 for this one.
DEFAULT_IMAGE = "ssm:/aws/service/deeplearning/ami/x86_64/oss-nvidia-driver-gpu-pytorch-2.9-ubuntu-24.04/latest/ami-id"

_DISK_GIB_MAX = 16_384  # of one gp3 volume

_AMI = re.compile(r"ami-[0-9a-f]{8,17}")
_PARAMETER = re.compile(r"ssm:/[A-Za-z0-9_.\-/]{1,1000}")
_IMAGE_NAME = re.compile(r"name:[A-Za-z0-9()\[\] ./\-'_*?]{3,128}(@[a-z0-9-]{3,32})?")
_SUBNET = re.compile(r"subnet-[0-9a-f]{8,17}")
_GROUP = re.compile(r"sg-[0-9a-f]{8,17}")
_PROFILE = re.compile(r"[\w+=,.@-]{1,128}", re.ASCII)
_KEY_NAME = re.compile(r"[ -~]{1,255}")
_KMS = re.compile(
    r"(arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:(key|alias)/[A-Za-z0-9/_-]+|alias/[A-Za-z0-9/_-]+|[0-9A-Za-z-]{36,40})"
)
_DOCKER = re.compile(r"[a-z0-9][A-Za-z0-9._/:@-]{0,254}")
_QUEUE = re.compile(r"[A-Za-z0-9_-]{1,80}")


class Rebalance(str, Enum):
    """What to do when AWS says that an instance is at an elevated risk of interruption."""

    IGNORE = "ignore"
    SAVE = "save"
    MOVE = "move"


def _image(value: object) -> object:
    if not isinstance(value, str) or not any(kind.fullmatch(value) for kind in (_AMI, _PARAMETER, _IMAGE_NAME)):
        raise wrong(
            f"{shown(value)} is no image; write an id like ami-0abc1234, ssm:/path of a parameter, or name:pattern, "
            "of another owner's images name:pattern@owner"
        )
    return value


def _like(pattern: re.Pattern[str], what: str) -> BeforeValidator:
    def check(value: object) -> object:
        if not isinstance(value, str) or pattern.fullmatch(value) is None:
            raise wrong(f"{shown(value)} {what}")
        return value

    return BeforeValidator(check)


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise wrong(f"names {value} twice")
    return values


class Ec2(Section):
    """The EC2 provider: how machines are made in the user's AWS account."""

    section: ClassVar[str] = "ec2"

    image: Annotated[str, BeforeValidator(_image)] = DEFAULT_IMAGE
    """The machine image: an id (`ami-...`), `ssm:/path` of a parameter that holds one, or `name:pattern` for the newest
    of that name, `name:pattern@owner` of another owner. Default: AWS's Deep Learning AMI with PyTorch."""

    disk: Annotated[Whole, Field(ge=8, le=_DISK_GIB_MAX)] = 100
    """GiB of the root volume, which is gp3, encrypted, and deleted with its machine."""

    kms_key: Annotated[str, _like(_KMS, "is no KMS key; write its id, ARN or alias/name")] | None = None
    """Id, ARN or alias of the KMS key that encrypts the disk; the account's default key for EBS without it."""

    subnets: Annotated[
        tuple[Annotated[str, _like(_SUBNET, "is no subnet; write it like subnet-0abc1234")], ...],
        AfterValidator(_distinct),
    ] = ()
    """Subnets to launch in, by id; without any, those of each region's default VPC."""

    security_groups: Annotated[
        tuple[Annotated[str, _like(_GROUP, "is no security group; write it like sg-0abc1234")], ...],
        AfterValidator(_distinct),
    ] = ()
    """Security groups, by id; the VPC's default group without any. No inbound port is needed."""

    instance_profile: Annotated[str, _like(_PROFILE, "is no name of an instance profile")] = "spotrun-instance"
    """Name of the instance profile, whose role reaches the job's place in the store."""

    key_name: Annotated[str, _like(_KEY_NAME, "is no name of a key pair")] | None = None
    """Key pair for SSH. Without it nobody can log in, and no job needs that."""

    docker: Annotated[str, _like(_DOCKER, "is no container image; write it like repository/name:tag")] | None = None
    """Container image that the command runs in, instead of on the machine itself."""

    rebalance: Rebalance = Rebalance.SAVE
    """At AWS's recommendation to rebalance: `ignore` it, `save` at once, or save and `move` elsewhere."""

    lease: Annotated[Duration, between(timedelta(seconds=10), timedelta(days=7))] = timedelta(hours=1)
    """How long an instance goes on without a word of a controller, whose computer may sleep or whose credentials may have run
    out. Then it saves and ends itself."""

    queue: Annotated[str, _like(_QUEUE, "is no name of a queue")] | None = None
    """Name of the SQS queue that EventBridge sends notices to, so that the controller hears of them at once."""
