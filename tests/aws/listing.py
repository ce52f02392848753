"""Describe operations that moto answers with what it has instead of what was asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import moto.ec2.utils
from moto.ec2.exceptions import EC2ClientError, InvalidInstanceIdError

from .catalog import priced_types, zone_id_of, zone_ids, zone_name_of

if TYPE_CHECKING:
    from .world import World

_PRODUCTS = {"Linux/UNIX", "Linux/UNIX (Amazon VPC)"}
_PAGE = 1000
_FILTERS = {
    "availability-zone-id": "placement.availability_zone_id",
    "client-token": "client_token",
    "hibernation-options.configured": "hibernation_options",
    "iam-instance-profile.arn": "iam_instance_profile.arn",
    "instance-lifecycle": "lifecycle",
    "instance-state-code": "state_code",
    "launch-time": "launch_time",
    "metadata-options.http-tokens": "metadata_options.http_tokens",
    "reason": "state_transition_reason",
    "spot-instance-request-id": "spot_instance_request_id",
}


def complete_filters() -> None:
    """Teaches moto the filters of DescribeInstances that it answers with HTTP 500."""
    moto.ec2.utils.filter_dict_attribute_mapping.update(_FILTERS)


def describe_instances(world: World, response: Any, describe: Any) -> Any:
    """moto's answer, without instances that are not visible yet; a filter that EC2 does not know is refused."""
    known = moto.ec2.utils.filter_dict_attribute_mapping
    for name in response._filters_from_querystring():
        if name not in known and not name.startswith("tag"):
            raise EC2ClientError("InvalidParameterValue", f"The filter '{name}' is invalid")
    hidden = world.hidden()
    missing = hidden & set(response._get_param("InstanceIds", []))
    if missing:
        raise InvalidInstanceIdError(sorted(missing))
    answer = describe(response)
    if hidden:
        for reservation in answer.result["Reservations"]:
            reservation.instances = [each for each in reservation.instances if each.id not in hidden]
        answer.result["Reservations"] = [each for each in answer.result["Reservations"] if each.instances]
    return answer


def describe_spot_price_history(world: World, response: Any) -> dict[str, Any]:
    """The answer to DescribeSpotPriceHistory: newest first; the price that held at the start comes with its own date."""
    read = response._get_param
    filters: Mapping[str, Sequence[str]] = response._filters_from_querystring()
    types = read("InstanceTypes", []) or list(filters.get("instance-type", [])) or list(priced_types())
    products = set(read("ProductDescriptions", []) or filters.get("product-description", []) or _PRODUCTS)
    zones = _zones(response, filters)
    now = datetime.now(timezone.utc)  # noqa: TID251 - the world has its own clock
    start, end = _instant(read("StartTime"), now), _instant(read("EndTime"), now)
    rows = []
    for zone_id in zones if products & _PRODUCTS else []:
        for kind in types:
            steps = [step for step in world.prices.steps(zone_id, kind) if step.at <= end]
            held = [step for step in steps if step.at <= start][-1:]
            rows += [*held, *(step for step in steps if step.at > start)]
    rows.sort(key=lambda step: step.at, reverse=True)
    first = int(read("NextToken") or 0)
    size = int(read("MaxResults") or _PAGE)
    page = rows[first : first + size]
    return {
        "SpotPriceHistory": [
            {
                "AvailabilityZone": zone_name_of(response.region, step.zone_id),
                "AvailabilityZoneId": step.zone_id,
                "InstanceType": step.instance_type,
                "ProductDescription": "Linux/UNIX",
                "SpotPrice": f"{step.usd_per_hour:.6f}",
                "Timestamp": step.at,
            }
            for step in page
        ],
        "NextToken": str(first + size) if first + size < len(rows) else "",
    }


def _zones(response: Any, filters: Mapping[str, Sequence[str]]) -> list[str]:
    read = response._get_param
    names = [read("AvailabilityZone")] if read("AvailabilityZone") else list(filters.get("availability-zone", []))
    ids = [read("AvailabilityZoneId")] if read("AvailabilityZoneId") else list(filters.get("availability-zone-id", []))
    if names or ids:
        return [*ids, *(zone_id_of(response.region, name) for name in names)]
    return list(zone_ids(response.region))


def _instant(given: Any, default: datetime) -> datetime:
    if not given:
        return default
    instant = given if isinstance(given, datetime) else datetime.fromisoformat(str(given).replace("Z", "+00:00"))
    return instant if instant.tzinfo else instant.replace(tzinfo=timezone.utc)


def get_spot_placement_scores(world: World, response: Any) -> dict[str, Any]:
    """The answer to GetSpotPlacementScores: what a test has set, 5 where it has not."""
    regions = response._get_param("RegionNames", []) or [response.region]
    scores = []
    for region in regions:
        if not response._get_param("SingleAvailabilityZone"):
            scores.append({"Region": region, "Score": world.scores.get(region, 5)})
            continue
        for zone_id in zone_ids(region):
            scores.append({"Region": region, "AvailabilityZoneId": zone_id, "Score": world.scores.get(zone_id, 5)})
    scores.sort(key=lambda each: -int(each["Score"]))
    return {"SpotPlacementScores": scores[:10]}
