"""From an order to the requests that AWS is sent. Pure: `spotrun launch --dry-run` prints these values.

A machine is asked for by two requests, both named by the attempt's token: a launch template, which says what a machine
is, and a fleet of the kind `instant`, which is one synchronous try for capacity and keeps nothing alive afterwards. The same
token gives the same requests, because everything in them comes from the journal, so that a repeat is the same fleet.

Which of several pools a fleet takes is written down; its default is the lowest price of all. On spot, among pools whose
prices are alike, `price-capacity-optimized`, AWS's own recommendation: the deepest of them, which is interrupted least. Where
prices differ, `lowest-price`: the cheapest that has capacity, as if they were asked one by one, and never a dear one because it
is deep. Each of several pools carries its on-demand price as it was shown to the user as the most that may be paid. That is
what EC2 does by itself with one pool, so that it adds no interruptions; a lower cap would.

Source: Amazon EC2 API Reference, CreateFleet, SpotOptionsRequest and CreateLaunchTemplate (as of botocore 1.43).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from spotrun.job.ec2 import Ec2
from spotrun.job.gang_size import GangSize
from spotrun.market.offer import MarketKind, alike
from spotrun.providers.ec2.image import Image
from spotrun.providers.ec2.policy_document import MANAGED_TAG

__all__ = [
    "MANAGED_TAG",
    "PLACE_TAG",
    "TOKEN_TAG",
    "MachinePlan",
    "Target",
    "fleet_request",
    "ours",
    "template_name",
    "template_request",
]

PLACE_TAG = (
    "spotrun:place"  # the job's place in the store, where its lease is: for who finds the instance and not the job
)
TOKEN_TAG = "spotrun:token"  # noqa: S105  a tag's name
_TAG_VALUE = re.compile(r"[A-Za-z0-9 +\-=._:/@]{1,256}")  # what every service takes as a tag's value
_HOPS_TO_A_CONTAINER = 2  # the metadata service's answers have one hop more to go


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A pool that a launch may take.

    Attributes:
        subnet: in the pool's zone.
        price_usd_per_hour: when the attempt was placed.
        most_usd_per_hour: that may be paid; the on-demand price.
    """

    instance_type: str
    subnet: str
    price_usd_per_hour: Decimal
    most_usd_per_hour: Decimal


@dataclass(frozen=True, kw_only=True, slots=True)
class MachinePlan:
    """One launch, with everything resolved.

    Attributes:
        token: the attempt's; idempotency token and part of the tags.
        targets: where it may be launched, the best pool first; at least one.
        market: of all of them.
        image: what it boots.
        settings: the job file's `ec2`.
        security_groups: of the subnet's region; none for the VPC's default.
        user_data: what it runs at boot, not yet in base64.
        tags: on everything that the launch creates.
        nodes: machines of the gang; with fewer than the least of them none is launched.
    """

    token: str
    targets: tuple[Target, ...]
    market: MarketKind
    image: Image
    settings: Ec2
    security_groups: tuple[str, ...] = ()
    user_data: str = field(repr=False)
    tags: Mapping[str, str]
    nodes: GangSize


def ours(tags: Mapping[str, str], *, place: str = "") -> dict[str, str]:
    """The tags with the one that everything of ours has, and the job's place if a tag can hold it."""
    told = {PLACE_TAG: place} if _TAG_VALUE.fullmatch(place) else {}
    return {**tags, **told, MANAGED_TAG: "true"}


def template_name(token: str) -> str:
    """The name of an attempt's launch template. Tokens begin with `spotrun-`."""
    return token


def template_request(plan: MachinePlan) -> dict[str, Any]:
    """The arguments of CreateLaunchTemplate."""
    settings = plan.settings
    kinds = ["instance", "volume", "network-interface"]
    if plan.market is MarketKind.SPOT:
        kinds.append("spot-instances-request")  # tagged where there is none, a launch would fail
    data: dict[str, Any] = {
        "ImageId": plan.image.id,
        "InstanceType": plan.targets[0].instance_type,
        "IamInstanceProfile": {"Name": settings.instance_profile},
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {
            "HttpEndpoint": "enabled",
            "HttpTokens": "required",
            "HttpPutResponseHopLimit": _HOPS_TO_A_CONTAINER if settings.docker else 1,
        },
        "BlockDeviceMappings": [{"DeviceName": plan.image.root_device, "Ebs": _disk(plan)}],
        "UserData": base64.b64encode(plan.user_data.encode()).decode("ascii"),
        "TagSpecifications": [_tagged(kind, plan.tags) for kind in kinds],
    }
    if plan.security_groups:
        data["SecurityGroupIds"] = list(plan.security_groups)
    if settings.key_name:
        data["KeyName"] = settings.key_name
    return {
        "LaunchTemplateName": template_name(plan.token),  # a second one of this name is refused, so no ClientToken
        "LaunchTemplateData": data,
        "TagSpecifications": [_tagged("launch-template", plan.tags)],
    }


def fleet_request(plan: MachinePlan) -> dict[str, Any]:
    """The arguments of CreateFleet."""
    spot = plan.market is MarketKind.SPOT
    options: dict[str, Any] = {"AllocationStrategy": _strategy(plan)}
    if spot:
        options["InstanceInterruptionBehavior"] = "terminate"
    if not plan.nodes.is_single:
        least = plan.nodes.least
        options |= {"SingleInstanceType": True, "SingleAvailabilityZone": True, "MinTargetCapacity": least}
    return {
        "Type": "instant",
        "ClientToken": plan.token,
        "LaunchTemplateConfigs": [
            {
                "LaunchTemplateSpecification": {"LaunchTemplateName": template_name(plan.token), "Version": "1"},
                "Overrides": [_override(plan, target) for target in plan.targets],
            }
        ],
        "TargetCapacitySpecification": {
            "TotalTargetCapacity": plan.nodes.most,
            "DefaultTargetCapacityType": "spot" if spot else "on-demand",
        },
        "SpotOptions" if spot else "OnDemandOptions": options,
        "TagSpecifications": [_tagged("fleet", plan.tags), _tagged("instance", plan.tags)],
    }


def _strategy(plan: MachinePlan) -> str:
    if plan.market is MarketKind.SPOT and alike(target.price_usd_per_hour for target in plan.targets):
        return "price-capacity-optimized"
    return "lowest-price"


def _override(plan: MachinePlan, target: Target) -> dict[str, Any]:
    pool: dict[str, Any] = {"InstanceType": target.instance_type, "SubnetId": target.subnet}
    if plan.market is MarketKind.SPOT and len(plan.targets) > 1:
        pool["MaxPrice"] = f"{target.most_usd_per_hour:f}"
    return pool


def _disk(plan: MachinePlan) -> dict[str, Any]:
    disk: dict[str, Any] = {
        "VolumeSize": max(plan.settings.disk, plan.image.root_gib),  # a disk cannot be smaller than its image
        "VolumeType": "gp3",
        "Encrypted": True,
        "DeleteOnTermination": True,
    }
    if plan.settings.kms_key:
        disk["KmsKeyId"] = plan.settings.kms_key
    return disk


def _tagged(kind: str, tags: Mapping[str, str]) -> dict[str, Any]:
    return {"ResourceType": kind, "Tags": [{"Key": key, "Value": tags[key]} for key in sorted(tags)]}
