"""Instances that ended as they started, by the code of their `StateReason`: what it means, and what to do. Pure.

A launch that was accepted can still fail: EC2 makes the disk and finds a host only then, and the instance goes from `pending`
to `terminated`. It never ran and is not billed. Some causes pass, and another instance may start; the others are the
account's, and every instance would end like this one.

Sources: Amazon EC2 API Reference, StateReason (as of botocore 1.43), where these codes are described as of the launch; EC2
User Guide, 'Troubleshoot instance launch issues' (instance terminates immediately) and 'Grant access to customer managed
keys' (spot's role); `Client.InvalidKMSKey...` as in public reports, among them CiscoDevNet/cloud-cml#8 and
aws/karpenter-provider-aws#1407. Seen 2026-11.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from spotrun.providers.provider import EndCause

__all__ = ["code_of", "false_start"]

_KEY = (
    "EC2 may not use the KMS key of its disk, ec2.kms_key or the account's default key for EBS. For spot, run `aws kms "
    "create-grant --key-id KEY --grantee-principal arn:aws:iam::ACCOUNT:role/aws-service-role/spot.amazonaws.com/"
    "AWSServiceRoleForEC2Spot --operations Decrypt Encrypt GenerateDataKey GenerateDataKeyWithoutPlaintext CreateGrant "
    "DescribeKey ReEncryptFrom ReEncryptTo`; on demand whoever launches needs these rights. Then submit the job again"
)
_BROKEN_KEY = (
    "The KMS key of its disk cannot be used: it must exist in the machine's region, be enabled, and be for encryption. "
    "Mend the key, or name another one in ec2.kms_key; then submit the job again"
)
_VOLUMES = (
    "The account's limit on volumes or their storage is reached. Delete volumes that nobody needs, ask for a higher quota "
    "of gp3 storage, or make ec2.disk smaller; then submit the job again"
)

# The start of a code -> cause, what it means and what to do. The first that fits counts.
_CODES: tuple[tuple[str, EndCause, str], ...] = (
    ("Client.InternalError", EndCause.DENIED, f"Most often this means that {_KEY}"),
    (
        "Client.InvalidKMSKey",
        EndCause.DENIED,
        _BROKEN_KEY,
    ),
    (
        "Client.InvalidSnapshot",
        EndCause.DENIED,
        "A snapshot of the image is gone or not shared with this account. Name another ec2.image, and submit the job again",
    ),
    (
        "Client.VolumeLimitExceeded",
        EndCause.DENIED,
        _VOLUMES,
    ),
    (
        "Server.InternalError",
        EndCause.UNSTARTED,
        "That is a fault at AWS: another machine is asked for, elsewhere if it can be",
    ),
)

_CODE = re.compile(r"((?:Client|Server)\.[A-Za-z.]+)")


def false_start(told: Mapping[str, Any]) -> tuple[EndCause, str] | None:
    """Why an instance never ran, and a sentence on it; None if its end is another one.

    Args:
        told: an ended entry of `Instances` of DescribeInstances.
    """
    code = code_of(told)
    found = next(((cause, advice) for start, cause, advice in _CODES if code.startswith(start)), None)
    if found is None:
        return None
    cause, advice = found
    message = str((told.get("StateReason") or {}).get("Message", "")).strip().rstrip(".")
    words = message if message.startswith(code) else f"{code}: {message}".strip(": ")
    return cause, f"{words}. {advice}"


def code_of(told: Mapping[str, Any]) -> str:
    """The code of an instance's end. AWS puts `Server.InternalError` over a message that begins with the client's code."""
    reason = told.get("StateReason") or {}
    code = str(reason.get("Code", ""))
    inner = _CODE.match(str(reason.get("Message", "")))
    if code == "Server.InternalError" and inner is not None and inner[1].startswith("Client."):
        return inner[1].rstrip(".")
    return code
