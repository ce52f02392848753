"""Instances in moto: started with all that a launch template says, and moved through the states that EC2 tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum
from typing import TYPE_CHECKING, Any

from moto.ec2.exceptions import EC2ClientError, InvalidInstanceIdError
from moto.ec2.models.instances import StateReason
from moto.ec2.utils import random_spot_request_id
from moto.iam.exceptions import NotFoundException
from moto.iam.models import iam_backends

from .capacity import SPOT, Pool

if TYPE_CHECKING:
    from .world import World


class Cause(Enum):
    """Why an instance ended, by EC2's code and in its words."""

    USER = ("Client.UserInitiatedShutdown", "User initiated shutdown")
    SELF = ("Client.InstanceInitiatedShutdown", "Instance initiated shutdown")
    INTERRUPTION = ("Server.SpotInstanceTermination", "Spot instance termination")
    CAPACITY = ("Server.InsufficientInstanceCapacity", "Insufficient capacity to launch")
    INTERNAL = ("Server.InternalError", "Internal error on launch")
    KEY = ("Client.InternalError", "Client error on launch")  # EC2 may not use the KMS key of the disk
    VOLUMES = ("Client.VolumeLimitExceeded", "Volume limit exceeded")


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """One instance to start. `data` is the launch template's, overrides applied."""

    pool: Pool
    zone_name: str
    subnet_id: str
    data: Mapping[str, Any]
    tags: Mapping[str, Mapping[str, str]]
    client_token: str
    index: int = 0


def start(world: World, response: Any, order: Order) -> str:
    """Starts an instance and returns its id."""
    backend, data = response.ec2_backend, order.data
    profile = _profile(response, data)
    if not backend.describe_images(filters={"image-id": data["ImageId"]}):
        raise EC2ClientError("InvalidAMIID.NotFound", f"The image id '[{data['ImageId']}]' does not exist")
    options: dict[str, Any] = {"block_device_mappings": _disks(data)} if data.get("BlockDeviceMappings") else {}
    interfaces = [dict(each) for each in data.get("NetworkInterfaces", [])]
    groups = list(data.get("SecurityGroupIds", []))
    for interface in interfaces:
        interface["DeviceIndex"] = int(interface.get("DeviceIndex", 0))
        interface.setdefault("DeleteOnTermination", True)
    reservation = backend.run_instances(
        data["ImageId"],
        1,
        data.get("UserData"),
        list(data.get("SecurityGroups", [])),
        instance_type=order.pool.instance_type,
        is_instance_type_default=False,
        region_name=response.region,
        subnet_id=order.subnet_id,
        key_name=data.get("KeyName"),
        security_group_ids=groups,
        nics=interfaces,
        tags={kind: dict(named) for kind, named in order.tags.items()},
        instance_initiated_shutdown_behavior=data.get("InstanceInitiatedShutdownBehavior"),
        metadata_options=data.get("MetadataOptions", {}),
        client_token=order.client_token,
        lifecycle=SPOT if order.pool.market == SPOT else None,
        **options,
    )
    instance = reservation.instances[0]
    instance.ami_launch_index = order.index
    instance._placement.availability_zone_id = order.pool.zone_id
    if order.pool.market == SPOT:
        instance.spot_instance_request_id = random_spot_request_id()
    for interface in instance.nics.values():
        interface.delete_on_termination = True
        interface.add_tags(dict(order.tags.get("network-interface", {})))
    if profile:
        backend.associate_iam_instance_profile(instance_id=instance.id, iam_instance_profile_name=profile)
    world.started(instance)
    return str(instance.id)


def _profile(response: Any, data: Mapping[str, Any]) -> str | None:
    named = data.get("IamInstanceProfile") or {}
    name = named.get("Name") or named.get("Arn", "").rpartition("/")[2]
    if not name:
        return None
    try:
        iam_backends[response.current_account][response.partition].get_instance_profile(name)
    except NotFoundException as err:
        raise EC2ClientError(
            "InvalidParameterValue",
            f"Value ({name}) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name",
        ) from err
    return str(name)


def _disks(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    disks = []
    for each in data["BlockDeviceMappings"]:
        ebs = dict(each.get("Ebs", {}))
        ebs.setdefault("DeleteOnTermination", True)
        ebs["VolumeSize"] = int(ebs.get("VolumeSize", 8))
        disks.append({"DeviceName": each["DeviceName"], "Ebs": ebs})
    return disks


def change(instance: Any, state: str, cause: Cause | None = None) -> None:
    """Moves an instance to a state of EC2's, with the reason that EC2 would give."""
    if state == "terminated":
        if instance.state != "terminated":
            instance.terminate()  # frees volumes and interfaces; says "user initiated", which the next lines mend
    else:
        instance._state.name = state
        instance._state.code = {"pending": 0, "running": 16, "shutting-down": 32, "stopping": 64, "stopped": 80}[state]
    if cause is not None:
        code, text = cause.value
        instance.state_reason = StateReason(f"{code}: {text}", code)
        now = datetime.now(timezone.utc)  # noqa: TID251 - the world has its own clock
        instance._reason = (
            f"{'User' if code.startswith('Client') else 'Server'} initiated ({now:%Y-%m-%d %H:%M:%S} GMT)"
        )


def terminate_instances(world: World, response: Any) -> dict[str, Any]:
    """The answer to TerminateInstances: all or, with an unknown id, none."""
    ids = response._get_param("InstanceIds", [])
    known = {each.id: each for each in response.ec2_backend.all_instances()}
    unknown = [each for each in ids if each not in known]
    if unknown:
        raise InvalidInstanceIdError(unknown)
    if response._get_param("DryRun"):
        raise EC2ClientError("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
    states = []
    for each in ids:
        instance = known[each]
        before = {"Code": instance.state_code, "Name": instance.state}
        if instance.state not in {"shutting-down", "terminated"}:
            change(instance, "shutting-down", Cause.USER)
            world.ending(instance, Cause.USER)
        after = {"Code": instance.state_code, "Name": instance.state}
        states.append({"InstanceId": each, "PreviousState": before, "CurrentState": after})
    return {"TerminatingInstances": states}
