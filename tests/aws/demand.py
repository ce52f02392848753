"""Which rights a call needs, on what, under which circumstances: what IAM checks before a service acts.

Source: AWS Service Authorization Reference for Amazon EC2, Amazon S3, AWS IAM (2026-11). CreateFleet also needs the rights
of RunInstances, on everything that a machine is made of.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from moto.ec2.models import ec2_backends

from .call import Call

if TYPE_CHECKING:
    from .world import World


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """One right. `context` holds the condition keys that are known; an absent key matches no condition."""

    action: str
    resource: str
    context: Mapping[str, str | list[str]] = field(default_factory=dict)


_S3_ACTIONS = {
    "HeadObject": "GetObject",
    "CreateMultipartUpload": "PutObject",
    "UploadPart": "PutObject",
    "CompleteMultipartUpload": "PutObject",
    "CopyObject": "PutObject",
    "UploadPartCopy": "PutObject",
    "ListParts": "ListMultipartUploadParts",
    "ListObjects": "ListBucket",
    "ListObjectsV2": "ListBucket",
    "HeadBucket": "ListBucket",
    "ListMultipartUploads": "ListBucketMultipartUploads",
    "GetBucketLifecycleConfiguration": "GetLifecycleConfiguration",
    "PutBucketLifecycleConfiguration": "PutLifecycleConfiguration",
    "GetBucketEncryption": "GetEncryptionConfiguration",
    "GetPublicAccessBlock": "GetBucketPublicAccessBlock",
    "ListBuckets": "ListAllMyBuckets",
}
_MADE = ("instance", "volume", "network-interface")


def demands(world: World, call: Call) -> Iterator[Demand]:
    """The rights that a call needs; none for what everybody may ask."""
    match call.service, call.operation:
        case "sts", "GetCallerIdentity":
            return
        case "s3", _:
            yield from _s3(call)
        case "ec2", "CreateLaunchTemplate":
            yield from _created(world, call, "CreateLaunchTemplate", ["launch-template"], _call_tags(call))
        case "ec2", "CreateFleet":
            yield from _fleet(world, call)
        case "ec2", "TerminateInstances" | "DeleteLaunchTemplate" | "DeleteVolume" | "GetConsoleOutput":
            for name in _named(call):
                yield _on_existing(world, call, f"ec2:{call.operation}", name)
        case "ssm", "GetParameter":
            arn = f"arn:aws:ssm:{call.region}::parameter{call.parameters['Name']}"
            yield Demand(action="ssm:GetParameter", resource=arn)
        case "iam", "GetInstanceProfile":
            arn = f"arn:aws:iam::{world.account}:instance-profile/{call.parameters['InstanceProfileName']}"
            yield Demand(action="iam:GetInstanceProfile", resource=arn)
        case "iam", "GetRole":
            arn = f"arn:aws:iam::{world.account}:role/{call.parameters['RoleName']}"
            yield Demand(action="iam:GetRole", resource=arn)
        case "events", "DescribeRule" | "ListTargetsByRule":
            rule = call.parameters.get("Name") or call.parameters["Rule"]
            arn = f"arn:aws:events:{call.region}:{world.account}:rule/{rule}"
            yield Demand(action=f"events:{call.operation}", resource=arn)
        case "sqs", _:
            name = call.parameters.get("QueueName") or call.parameters["QueueUrl"].rpartition("/")[2]
            arn = f"arn:aws:sqs:{call.region}:{world.account}:{name}"
            yield Demand(action=f"sqs:{call.operation}", resource=arn)
        case _:
            yield Demand(action=f"{call.service}:{call.operation}", resource="*")


def _s3(call: Call) -> Iterator[Demand]:
    action = f"s3:{_S3_ACTIONS.get(call.operation, call.operation)}"
    bucket = f"arn:aws:s3:::{call.bucket}"
    if call.operation == "DeleteObjects":
        for key in re.findall(r"<Key>([^<]+)</Key>", call.body.decode()):
            yield Demand(action="s3:DeleteObject", resource=f"{bucket}/{key}")
    elif call.key:
        yield Demand(action=action, resource=f"{bucket}/{call.key}")
    else:
        prefix = call.query.get("prefix")
        yield Demand(action=action, resource=bucket, context={} if prefix is None else {"s3:prefix": prefix})


def _fleet(world: World, call: Call) -> Iterator[Demand]:
    backend = ec2_backends[world.account][call.region]
    given = _call_tags(call)
    yield from _created(world, call, "CreateFleet", ["fleet"], given)
    for name in _values(call, r"LaunchTemplateConfigs\.\d+\.LaunchTemplateSpecification\.LaunchTemplateName"):
        existing = _on_existing(world, call, "ec2:CreateFleet", name)
        yield existing
        yield Demand(action="ec2:RunInstances", resource=existing.resource, context=existing.context)
        if name not in backend.launch_template_name_to_ids:
            return  # refused by EC2 itself
        data = backend.get_launch_template_by_name(name).latest_version().data
        tags: dict[str, dict[str, str]] = {kind: dict(named) for kind, named in given.items()}
        for each in data.get("TagSpecifications", []):
            tags.setdefault(each["ResourceType"], {}).update({tag["Key"]: tag["Value"] for tag in each["Tags"]})
        spot = call.parameters.get("TargetCapacitySpecification.DefaultTargetCapacityType") == "spot"
        made = [*_MADE, *(["spot-instances-request"] if spot else [])]
        yield from _created(world, call, "RunInstances", made, tags)
        yield from _used(world, call, data)


def _used(world: World, call: Call, data: Mapping[str, Any]) -> Iterator[Demand]:
    """What a machine is made of, and the role that it is given."""
    own = f"arn:aws:ec2:{call.region}:{world.account}"
    used = [f"arn:aws:ec2:{call.region}::image/{data['ImageId']}"]
    used += [f"{own}:subnet/{name}" for name in _values(call, r"LaunchTemplateConfigs\.\d+\.Overrides\.\d+\.SubnetId")]
    used += [f"{own}:security-group/{name}" for name in data.get("SecurityGroupIds", ["sg-of-the-vpc"])]
    if data.get("KeyName"):
        used.append(f"{own}:key-pair/{data['KeyName']}")
    for resource in used:
        yield Demand(action="ec2:RunInstances", resource=resource)
    profile = (data.get("IamInstanceProfile") or {}).get("Name")
    if profile:
        passed = {"iam:PassedToService": "ec2.amazonaws.com"}
        yield Demand(action="iam:PassRole", resource=f"arn:aws:iam::{world.account}:role/{profile}", context=passed)


def _created(
    world: World, call: Call, operation: str, kinds: list[str], tags: Mapping[str, Mapping[str, str]]
) -> Iterator[Demand]:
    """The creation of resources of these kinds, and their tagging."""
    for kind in kinds:
        named = tags.get(kind, {})
        context: dict[str, str | list[str]] = {f"aws:RequestTag/{key}": value for key, value in named.items()}
        context["aws:TagKeys"] = list(named)
        resource = f"arn:aws:ec2:{call.region}:{world.account}:{kind}/new"
        yield Demand(action=f"ec2:{operation}", resource=resource, context=context)
        if named:
            tagging = {**context, "ec2:CreateAction": operation}
            yield Demand(action="ec2:CreateTags", resource=resource, context=tagging)


def _on_existing(world: World, call: Call, action: str, name: str) -> Demand:
    """A right on a resource that exists, with its tags."""
    backend = ec2_backends[world.account][call.region]
    kinds = {"i-": "instance", "vol-": "volume", "lt-": "launch-template"}
    kind = next((kind for prefix, kind in kinds.items() if name.startswith(prefix)), "launch-template")
    id_ = backend.launch_template_name_to_ids.get(name, name)
    context: dict[str, str | list[str]] = {}
    for tag in backend.describe_tags(filters={"resource-id": [id_]}):
        context[f"aws:ResourceTag/{tag['key']}"] = tag["value"]
        context[f"ec2:ResourceTag/{tag['key']}"] = tag["value"]
    return Demand(action=action, resource=f"arn:aws:ec2:{call.region}:{world.account}:{kind}/{id_}", context=context)


def _named(call: Call) -> list[str]:
    return _values(call, r"(InstanceId(\.\d+)?|LaunchTemplateName|LaunchTemplateId|VolumeId)")


def _values(call: Call, pattern: str) -> list[str]:
    return [value for name, value in call.parameters.items() if re.fullmatch(pattern, name)]


def _call_tags(call: Call) -> dict[str, dict[str, str]]:
    """Resource kind -> tags, of a request's tag specifications."""
    found: dict[str, dict[str, str]] = {}
    for name, kind in call.parameters.items():
        place = re.fullmatch(r"(TagSpecifications?\.\d+)\.ResourceType", name)
        if place is None:
            continue
        for key_name, key in call.parameters.items():
            if tag := re.fullmatch(rf"({re.escape(place[1])}\.Tags?\.\d+)\.Key", key_name):
                found.setdefault(kind, {})[key] = call.parameters[f"{tag[1]}.Value"]
    return found
