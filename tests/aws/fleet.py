"""CreateFleet of type `instant`: one try, in pools chosen by a strategy, with refusals beside what was launched.

Source: EC2 API reference, CreateFleet (2026-11), and the user guide's "instant" fleets: `Errors` and `Instances` come
together; `MinTargetCapacity` needs one zone or one type, and then it is all of it or nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.instance_types import INSTANCE_TYPES
from moto.ec2.utils import random_fleet_id

from .capacity import ON_DEMAND, SPOT, Pool
from .catalog import on_demand_usd, zone_id_of, zone_ids_of, zone_name_of
from .instance import Order, start

if TYPE_CHECKING:
    from .world import World

_STRATEGIES = {
    SPOT: {
        "lowest-price",
        "diversified",
        "capacity-optimized",
        "capacity-optimized-prioritized",
        "price-capacity-optimized",
    },
    ON_DEMAND: {"lowest-price", "prioritized"},
}
_TAGGED = {"fleet", "instance", "volume", "network-interface"}
_EXPENSIVE = Decimal(10**6)


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """One override of one template: a pool, and what to start there."""

    pool: Pool
    config: Mapping[str, Any]
    override: Mapping[str, Any]
    data: Mapping[str, Any]  # the template's
    subnet_id: str | None
    usd: Decimal | None

    def answer(self) -> dict[str, Any]:
        return {"LaunchTemplateSpecification": self.config["LaunchTemplateSpecification"], "Overrides": self.override}


def create_fleet(world: World, response: Any) -> dict[str, Any]:
    """The answer to CreateFleet."""
    read = response._get_param
    if read("Type", "maintain") != "instant":
        raise EC2ClientError("InvalidParameterValue", "this world only knows fleets of type instant")
    if read("DryRun"):
        raise EC2ClientError("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
    return world.tokens.once(
        "CreateFleet", response.region, read("ClientToken"), response.params, lambda: _create(world, response)
    )


def _create(world: World, response: Any) -> dict[str, Any]:
    read = response._get_param
    target = read("TargetCapacitySpecification", {})
    market = target.get("DefaultTargetCapacityType", ON_DEMAND)
    wanted = int(target["TotalTargetCapacity"])
    options = read("SpotOptions" if market == SPOT else "OnDemandOptions", {}) or {}
    tags = _tags(read("TagSpecifications", []))
    _check(options, market, tags)
    choices = _choices(world, response, market)
    errors: list[dict[str, Any]] = []
    with world.launching:
        counts = _allocate(world, options, choices, wanted, errors)
        least = int(options.get("MinTargetCapacity", 0))
        if world.parts:
            counts = _part(counts, world.parts.pop(0))
        elif sum(counts) < least:
            return {"FleetId": random_fleet_id(), "Errors": errors, "Instances": []}
        fleet_id = random_fleet_id()
        instances = []
        for choice, count in zip(choices, counts, strict=True):
            if count:
                taken = world.capacity.take(choice.pool, count)
                assert taken == count, "capacity changed while a fleet was allocated"
                instances.append(_start(world, response, choice, count=count, fleet_id=fleet_id, tags=tags))
    return {"FleetId": fleet_id, "Errors": errors, "Instances": instances}


def _part(counts: Sequence[int], most: int) -> list[int]:
    kept = []
    for count in counts:
        kept.append(min(count, most))
        most -= kept[-1]
    return kept


def _check(options: Mapping[str, Any], market: str, tags: Mapping[str, Any]) -> None:
    strategy = options.get("AllocationStrategy", "lowest-price")
    if strategy not in _STRATEGIES[market]:
        raise EC2ClientError("InvalidParameterValue", f"AllocationStrategy {strategy!r} is none of {market}'s")
    single = options.get("SingleAvailabilityZone") or options.get("SingleInstanceType")
    if options.get("MinTargetCapacity") and not single:
        raise EC2ClientError(
            "InvalidParameterCombination", "MinTargetCapacity needs SingleAvailabilityZone or SingleInstanceType"
        )
    if set(tags) - _TAGGED:
        raise EC2ClientError("InvalidParameterValue", f"an instant fleet cannot tag {sorted(set(tags) - _TAGGED)}")


def _choices(world: World, response: Any, market: str) -> list[_Choice]:
    backend = response.ec2_backend
    found = []
    configs = response._get_param("LaunchTemplateConfigs", [])
    if not configs:
        raise EC2ClientError("MissingParameter", "The request must contain the parameter LaunchTemplateConfigs")
    for config in configs:
        named = config["LaunchTemplateSpecification"]
        if "LaunchTemplateId" in named:
            template = backend.get_launch_template(named["LaunchTemplateId"])
        else:
            template = backend.get_launch_template_by_name(named["LaunchTemplateName"])
        data = template.get_version(named.get("Version", "$Default")).data
        for override in config.get("Overrides") or [{}]:
            found += _pools(world, response, market=market, config=config, override=override, data=data)
    return found


def _pools(
    world: World,
    response: Any,
    *,
    market: str,
    config: Mapping[str, Any],
    override: Mapping[str, Any],
    data: Mapping[str, Any],
) -> list[_Choice]:
    """Usually one; an override without a place may go to any zone that has a default subnet."""
    backend, region = response.ec2_backend, response.region
    kind = override.get("InstanceType") or data.get("InstanceType")
    if kind not in INSTANCE_TYPES:
        raise EC2ClientError("InvalidParameterValue", f"Invalid value '{kind}' for InstanceType.")
    subnet_id = override.get("SubnetId")
    if subnet_id:
        zones = [zone_id_of(region, backend.get_subnet(subnet_id).availability_zone)]
    elif override.get("AvailabilityZoneId"):
        zones = [override["AvailabilityZoneId"]]
    elif override.get("AvailabilityZone"):
        zones = [zone_id_of(region, override["AvailabilityZone"])]
    else:
        zones = [zone_id_of(region, name) for name in sorted(backend.get_default_subnets())]
    now = datetime.now(timezone.utc)  # noqa: TID251 - the world has its own clock
    choices = []
    for zone_id in zones:
        usd = world.prices.at(zone_id, kind, now) if market == SPOT else on_demand_usd(kind)
        pool = Pool(zone_id=zone_id, instance_type=kind, market=market)
        choices.append(_Choice(pool=pool, config=config, override=override, data=data, subnet_id=subnet_id, usd=usd))
    return choices


def _allocate(
    world: World, options: Mapping[str, Any], choices: Sequence[_Choice], wanted: int, errors: list[dict[str, Any]]
) -> list[int]:
    """How many to start of each choice; what a choice refuses is added to the errors."""
    ranked = sorted(range(len(choices)), key=lambda index: _rank(world, options, choices[index], index))
    if options.get("SingleInstanceType"):
        ranked = _keep_best(world, choices, ranked, wanted, lambda pool: pool.instance_type)
    if options.get("SingleAvailabilityZone"):
        ranked = _keep_best(world, choices, ranked, wanted, lambda pool: pool.zone_id)
    counts = [0] * len(choices)
    missing = wanted
    refused: set[int] = set()
    for index in ranked:
        choice = choices[index]
        refusal = _refusal(choice)
        available = 0 if refusal else min(missing, world.capacity.left(choice.pool))
        counts[index] = available
        if missing and available < missing:
            code, message = refusal or world.capacity.refusal(choice.pool)
            refused.add(index)
            errors.append(_error(choice, code, message))
        missing -= available
    if missing:  # what was left aside for the one zone or type is told as well
        for index in set(range(len(choices))) - refused - set(ranked):
            if world.capacity.left(choices[index].pool) < wanted:
                errors.append(_error(choices[index], *world.capacity.refusal(choices[index].pool)))
    return counts


def _error(choice: _Choice, code: str, message: str) -> dict[str, Any]:
    return {
        "LaunchTemplateAndOverrides": choice.answer(),
        "Lifecycle": choice.pool.market,
        "ErrorCode": code,
        "ErrorMessage": message,
    }


def _refusal(choice: _Choice) -> tuple[str, str] | None:
    pool = choice.pool
    if pool.zone_id not in zone_ids_of(pool.instance_type):
        return "Unsupported", f"The requested configuration is not supported: {pool.instance_type} in {pool.zone_id}"
    if choice.usd is None and pool.market == SPOT:
        return "UnfulfillableCapacity", f"There is no Spot capacity of {pool.instance_type} in {pool.zone_id}"
    limit = choice.override.get("MaxPrice")
    if limit and choice.usd is not None and Decimal(limit) < choice.usd:
        return (
            "SpotMaxPriceTooLow",
            f"Your Spot request price of {limit} is lower than the minimum required {choice.usd}.",
        )
    return None


def _keep_best(world: World, choices: Sequence[_Choice], ranked: list[int], wanted: int, group: Any) -> list[int]:
    """The choices of the group that can fill most; among equals the one with the best-ranked choice."""
    filled: dict[Any, int] = {}
    for index in ranked:
        left = 0 if _refusal(choices[index]) else world.capacity.left(choices[index].pool)
        filled[group(choices[index].pool)] = filled.get(group(choices[index].pool), 0) + left
    best = max(filled, key=lambda key: min(filled[key], wanted))  # the first of equals: dictionaries keep order
    return [index for index in ranked if group(choices[index].pool) == best]


def _rank(world: World, options: Mapping[str, Any], choice: _Choice, index: int) -> tuple[Any, ...]:
    strategy = options.get("AllocationStrategy", "lowest-price")
    usd = _EXPENSIVE if choice.usd is None else choice.usd
    empty = world.capacity.left(choice.pool) == 0
    priority = float(choice.override.get("Priority", index))
    match strategy:
        case "capacity-optimized":
            return (-world.capacity.left(choice.pool), index)
        case "capacity-optimized-prioritized" | "prioritized":
            return (empty, priority, index)
        case "price-capacity-optimized":
            return (empty, usd, index)
        case _:
            return (usd, index)


def _start(
    world: World, response: Any, choice: _Choice, *, count: int, fleet_id: str, tags: Mapping[str, dict[str, str]]
) -> dict[str, Any]:
    data = {**choice.data, **{key: value for key, value in choice.override.items() if key in _OVERRIDING}}
    both = {kind: dict(named) for kind, named in _tags(data.get("TagSpecifications", [])).items()}
    for kind, named in tags.items():
        both.setdefault(kind, {}).update(named)
    both.setdefault("instance", {})["aws:ec2:fleet-id"] = fleet_id
    zone_name = zone_name_of(response.region, choice.pool.zone_id)
    order = Order(
        pool=choice.pool,
        zone_name=zone_name,
        subnet_id=choice.subnet_id or response.ec2_backend.get_default_subnets()[zone_name].id,
        data=data,
        tags=both,
        client_token=response._get_param("ClientToken") or "",
    )
    ids = [start(world, response, dataclasses.replace(order, index=index)) for index in range(count)]
    return {
        "LaunchTemplateAndOverrides": choice.answer(),
        "Lifecycle": choice.pool.market,
        "InstanceIds": ids,
        "InstanceType": choice.pool.instance_type,
        "AvailabilityZone": zone_name,
        "AvailabilityZoneId": choice.pool.zone_id,
        "SubnetId": order.subnet_id,
    }


_OVERRIDING = {"ImageId", "KeyName", "IamInstanceProfile", "MetadataOptions", "BlockDeviceMappings"}


def _tags(specifications: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for each in specifications:
        named = {tag["Key"]: tag["Value"] for tag in each.get("Tags", [])}
        found.setdefault(each["ResourceType"], {}).update(named)
    return found
