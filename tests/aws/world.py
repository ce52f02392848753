"""The face of the small AWS: what a test sets, does and asks."""

from __future__ import annotations

import os

os.environ.setdefault("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")  # 1301 images make the first DescribeImages take 7 s

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from moto.core import DEFAULT_ACCOUNT_ID
from moto.core.responses import ActionResult
from moto.ec2.models import ec2_backends
from moto.ec2.models.amis import Ami
from moto.ec2.responses import EC2Response
from moto.iam.models import iam_backends
from moto.moto_api._internal.models import moto_api_backend
from moto.s3.models import s3_backends
from moto.sqs.models import sqs_backends

from . import event
from .capacity import Capacity
from .catalog import complete, zone_id_of
from .credential import Credentials
from .endpoint import Endpoint
from .fault import Faults
from .fleet import create_fleet
from .instance import Cause, change, terminate_instances
from .listing import complete_filters, describe_instances, describe_spot_price_history, get_spot_placement_scores
from .permission import Permissions
from .price import Prices
from .template import create_launch_template
from .token import Tokens

IMAGE_PARAMETER = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id"
PYTORCH_PARAMETER = "/aws/service/deeplearning/ami/x86_64/oss-nvidia-driver-gpu-pytorch-2.9-ubuntu-24.04/latest/ami-id"
IMAGE_NAME = "Deep Learning OSS Nvidia Driver AMI GPU PyTorch 2.9 (Ubuntu 22.04) 20260701"


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """An instance as its owner would see it in the console."""

    id: str
    region: str
    zone_id: str
    instance_type: str
    market: str
    state: str
    reason: str  # the code of its state reason
    tags: dict[str, str]

    @property
    def alive(self) -> bool:
        """Whether it costs money, or soon will."""
        return self.state not in {"terminated", "shutting-down"}


class World:
    """One AWS account on loopback, empty at first. One world at a time in a process.

    Attributes:
        faults: what goes wrong with which call.
        capacity, prices, scores, quotas: of the market; scores by region or zone id, quotas by (region, code).
        credentials, permissions: who may call.
        on_start, on_end: called when EC2 has started an instance, or begins to end one; an instance whose end nobody
            takes over is terminated at once.
    """

    account = DEFAULT_ACCOUNT_ID

    def __init__(self) -> None:
        complete()
        complete_filters()
        moto_api_backend.reset()
        now = datetime.now(timezone.utc)  # noqa: TID251 - the world has its own clock
        self.faults = Faults()
        self.capacity = Capacity()
        self.prices = Prices(now)
        self.scores: dict[str, int] = {}
        self.quotas: dict[tuple[str, str], float] = {}
        self.credentials = Credentials()
        self.permissions = Permissions(self)
        self.tokens = Tokens()
        self.launching = threading.RLock()
        self.image_parameters = {IMAGE_PARAMETER, PYTORCH_PARAMETER}
        self.on_start: Callable[[Any], None] | None = None
        self.on_end: Callable[[Any, Cause], None] | None = None
        self.problems: list[Exception] = []  # of this world itself; a test that meets one has shown nothing
        self._images: dict[str, str] = {}
        self._hide = 0
        self._doomed: list[Cause] = []
        self.parts: list[int] = []
        self._hidden: dict[str, int] = {}
        self._before = _install(self)
        self._endpoint = Endpoint(self)

    @property
    def url(self) -> str:
        """The endpoint of every service, as for `AWS_ENDPOINT_URL`."""
        return self._endpoint.url

    def close(self) -> None:
        """Ends the account."""
        self.faults.clear()
        self._endpoint.close()
        for name, method in self._before.items():
            setattr(EC2Response, name, method)

    def environment(self, **credentials: str) -> dict[str, str]:
        """What a user's shell would hold: the endpoint, a region, credentials (fresh ones unless given)."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            **(credentials or self.credentials.issue()),
        }

    def image(self, region: str) -> str:
        """The id of the region's Deep Learning image, which Amazon owns."""
        with self.launching:
            if region not in self._images:
                backend = ec2_backends[self.account][region]
                image = Ami(
                    backend,
                    f"ami-0d1{len(self._images):014x}",
                    name=IMAGE_NAME,
                    description=IMAGE_NAME,
                    owner_id="898082745236",
                    owner_alias="amazon",
                    public=True,
                    virtualization_type="hvm",
                    architecture="x86_64",
                    root_device_type="ebs",
                    root_device_name="/dev/sda1",
                    region_name=f"{region}a",
                )
                backend.amis[image.id] = image
                self._images[region] = image.id
            return self._images[region]

    def instances(self, *, alive: bool = False) -> list[Seen]:
        """Every instance of the account, oldest first; with `alive` only those that cost money."""
        found = []
        for region, backend in ec2_backends[self.account].items():
            for each in backend.all_instances():
                found.append((each.launch_time, _seen(region, each)))
        found.sort(key=lambda pair: pair[0])
        return [seen for _, seen in found if seen.alive or not alive]

    def hide_new(self, describes: int) -> None:
        """What is launched from now on is missing from the next so many answers of DescribeInstances."""
        self._hide = describes

    def doom(self, *causes: Cause) -> None:
        """The next instances end as they start, one for each cause, though their launch was accepted."""
        self._doomed += causes

    def launch_part(self, *counts: int) -> None:
        """The next fleets launch only so many instances, whatever their least number is."""
        self.parts += counts

    def hidden(self) -> set[str]:
        """The instances that the present DescribeInstances does not see. Counts as one look."""
        hidden = {each for each, left in self._hidden.items() if left > 0}
        for each in hidden:
            self._hidden[each] -= 1
        return hidden

    def started(self, instance: Any) -> None:
        """EC2 has started an instance."""
        if self._hide:
            self._hidden[instance.id] = self._hide
        if self._doomed:
            change(instance, "terminated", self._doomed.pop(0))
        elif self.on_start is not None:
            self.on_start(instance)

    def ending(self, instance: Any, cause: Cause) -> None:
        """EC2 begins to end an instance that is shutting down."""
        if self.on_end is not None:
            self.on_end(instance, cause)
        else:
            change(instance, "terminated", cause)

    def interrupt(self, instance_id: str) -> None:
        """EC2 takes a spot instance back, without a notice."""
        instance = self.find(instance_id)
        change(instance, "shutting-down", Cause.INTERRUPTION)
        self.ending(instance, Cause.INTERRUPTION)

    def warn(self, instance_id: str) -> None:
        """EventBridge tells of the notice of an interruption. What the instance itself sees is the runner's."""
        instance = self.find(instance_id)
        event.interruption(self.account, instance.region_name, instance_id, instance.placement.zone)

    def find(self, instance_id: str) -> Any:
        """moto's own object of an instance."""
        for backend in ec2_backends[self.account].values():
            for each in backend.all_instances():
                if each.id == instance_id:
                    return each
        raise AssertionError(f"no instance {instance_id}")

    def bucket(self, name: str) -> list[str]:
        """The keys of a bucket, without a request."""
        return list(s3_backends[self.account]["aws"].buckets[name].keys)

    def give_profile(self, name: str = "spotrun-instance", policy: dict[str, Any] | None = None) -> None:
        """Makes a role and an instance profile of this name, which `doctor --fix` would do for a user."""
        iam = iam_backends[self.account]["aws"]
        iam.create_role(name, "{}", "/", None, "", [], "3600")
        iam.create_instance_profile(name, "/", [])
        iam.add_role_to_instance_profile(name, name)
        if policy is not None:
            iam.put_role_policy(name, "spotrun", json.dumps(policy))

    def leftovers(self) -> list[str]:
        """What would go on to cost money or get in the way, each in a few words; empty after a job that has ended."""
        left = [f"instance {seen.id} {seen.state} {seen.tags}" for seen in self.instances(alive=True)]
        for region, backend in ec2_backends[self.account].items():
            left += [f"volume {each.id} in {region}" for each in backend.volumes.values()]
            left += [f"template {each.name} in {region}" for each in backend.launch_templates.values()]
            left += [f"interface {each.id} in {region}" for each in backend.enis.values()]
        for region, queues in sqs_backends[self.account].items():
            left += [f"queue {name} in {region}" for name in queues.queues]
        for backend in s3_backends[self.account].values():
            for bucket in backend.buckets.values():
                left += [f"upload {each.key_name} in {bucket.name}" for each in bucket.multiparts.values()]
        return left


def _seen(region: str, instance: Any) -> Seen:
    return Seen(
        id=instance.id,
        region=region,
        zone_id=zone_id_of(region, instance.placement.zone),
        instance_type=instance.instance_type,
        market="spot" if instance.lifecycle == "spot" else "on-demand",
        state=instance.state,
        reason=instance.state_reason.code,
        tags={tag["key"]: tag["value"] for tag in instance.get_tags()},
    )


def _install(world: World) -> dict[str, Any]:
    """Puts our operations in the place of moto's; returns moto's."""
    names = [
        "create_fleet",
        "create_launch_template",
        "describe_instances",
        "describe_spot_price_history",
        "get_spot_placement_scores",
        "terminate_instances",
    ]
    before = {name: getattr(EC2Response, name, None) for name in names}
    ours: dict[str, Callable[[Any], Any]] = {
        "create_fleet": lambda response: ActionResult(create_fleet(world, response)),
        "create_launch_template": lambda response: create_launch_template(
            world, response, before["create_launch_template"]
        ),
        "describe_instances": lambda response: describe_instances(world, response, before["describe_instances"]),
        "describe_spot_price_history": lambda response: ActionResult(describe_spot_price_history(world, response)),
        "get_spot_placement_scores": lambda response: ActionResult(get_spot_placement_scores(world, response)),
        "terminate_instances": lambda response: ActionResult(terminate_instances(world, response)),
    }
    for name, method in ours.items():
        setattr(EC2Response, name, method)
    return before
