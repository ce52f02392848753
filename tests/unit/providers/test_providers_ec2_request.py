"""The requests of a launch: what a machine is, and one try for capacity."""

from __future__ import annotations

import base64
from decimal import Decimal
from typing import Any

import pytest

from spotrun.job import Ec2, Resources
from spotrun.market.offer import MarketKind
from spotrun.providers.ec2.image import Image
from spotrun.providers.ec2.request import MachinePlan, Target, fleet_request, ours, template_request

IMAGE = Image(id="ami-0abc1234", name="dlami", root_device="/dev/sda1", root_gib=75, architecture="x86_64")


def target(
    subnet: str = "subnet-0abc1234", price: str = "0.40", *, kind: str = "g5.xlarge", most: str = "1.006"
) -> Target:
    price_usd, most_usd = Decimal(price), Decimal(most)
    return Target(instance_type=kind, subnet=subnet, price_usd_per_hour=price_usd, most_usd_per_hour=most_usd)


def plan(
    *targets: Target,
    market: MarketKind = MarketKind.SPOT,
    nodes: int | str = 1,
    groups: tuple[str, ...] = (),
    **ec2: Any,
) -> MachinePlan:
    return MachinePlan(
        token="spotrun-1-cafe",
        targets=targets or (target(),),
        market=market,
        image=IMAGE,
        settings=Ec2(**ec2),
        security_groups=groups,
        user_data="#!/bin/bash\n",
        tags=ours({"spotrun:job": "gpt-7x", "team": "nlp"}),
        nodes=Resources(nodes=nodes).nodes,
    )


def template(**more: Any) -> dict[str, Any]:
    data: dict[str, Any] = template_request(plan(**more))["LaunchTemplateData"]
    return data


def test_a_machine_ends_with_its_shutdown_and_gives_its_metadata_to_itself_alone() -> None:
    """Three of the guards are here: terminate at shutdown, tokens required, one hop."""
    data = template()
    assert data["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert data["MetadataOptions"] == {
        "HttpEndpoint": "enabled",
        "HttpTokens": "required",
        "HttpPutResponseHopLimit": 1,
    }
    assert template(docker="my/image:1")["MetadataOptions"]["HttpPutResponseHopLimit"] == 2


def test_nobody_can_log_in_unless_a_key_is_named() -> None:
    """And no security group is chosen for the user: the VPC's default lets nothing in."""
    assert not {"KeyName", "SecurityGroupIds", "SecurityGroups"} & set(template())
    assert template(key_name="mine")["KeyName"] == "mine"
    assert template(groups=("sg-0abc1234",))["SecurityGroupIds"] == ["sg-0abc1234"]


def test_the_disk_is_encrypted_and_goes_with_its_machine() -> None:
    """A disk that stays is paid for."""
    assert template()["BlockDeviceMappings"] == [
        {
            "DeviceName": "/dev/sda1",
            "Ebs": {"VolumeSize": 100, "VolumeType": "gp3", "Encrypted": True, "DeleteOnTermination": True},
        }
    ]
    disk = template(disk=50, kms_key="alias/disks")["BlockDeviceMappings"][0]["Ebs"]
    assert (disk["VolumeSize"], disk["KmsKeyId"]) == (75, "alias/disks")  # never smaller than the image


def test_everything_that_a_launch_creates_is_tagged_as_ours() -> None:
    """What is not tagged cannot be found again, and the printed policy does not allow it."""
    request = template_request(plan())
    tags = [
        {"Key": "spotrun:job", "Value": "gpt-7x"},
        {"Key": "spotrun:managed", "Value": "true"},
        {"Key": "team", "Value": "nlp"},
    ]
    specifications = request["LaunchTemplateData"]["TagSpecifications"]
    assert [each["ResourceType"] for each in specifications] == [
        "instance",
        "volume",
        "network-interface",
        "spot-instances-request",
    ]
    on_demand = template(market=MarketKind.ON_DEMAND)["TagSpecifications"]
    assert "spot-instances-request" not in [each["ResourceType"] for each in on_demand]  # the launch would fail
    fleet = fleet_request(plan())
    for each in [*request["TagSpecifications"], *specifications, *fleet["TagSpecifications"]]:
        assert each["Tags"] == tags


def test_a_fleet_is_one_synchronous_try_with_the_attempts_token() -> None:
    """And its strategy is written down: the default would be the lowest price."""
    assert fleet_request(plan()) == {
        "Type": "instant",
        "ClientToken": "spotrun-1-cafe",
        "LaunchTemplateConfigs": [
            {
                "LaunchTemplateSpecification": {"LaunchTemplateName": "spotrun-1-cafe", "Version": "1"},
                "Overrides": [{"InstanceType": "g5.xlarge", "SubnetId": "subnet-0abc1234"}],
            }
        ],
        "TargetCapacitySpecification": {"TotalTargetCapacity": 1, "DefaultTargetCapacityType": "spot"},
        "SpotOptions": {
            "AllocationStrategy": "price-capacity-optimized",
            "InstanceInterruptionBehavior": "terminate",
        },
        "TagSpecifications": fleet_request(plan())["TagSpecifications"],
    }


def test_the_provider_chooses_among_pools_of_one_price_and_pays_no_more_than_was_shown() -> None:
    """It knows how deep they are. Each names its own cap, which one pool alone needs none of: EC2 has the same by itself."""
    request = fleet_request(plan(target(), target("subnet-0def", "0.42", kind="g5.2xlarge", most="1.212")))
    (config,) = request["LaunchTemplateConfigs"]
    assert config["Overrides"] == [
        {"InstanceType": "g5.xlarge", "SubnetId": "subnet-0abc1234", "MaxPrice": "1.006"},
        {"InstanceType": "g5.2xlarge", "SubnetId": "subnet-0def", "MaxPrice": "1.212"},
    ]
    assert request["SpotOptions"]["AllocationStrategy"] == "price-capacity-optimized"
    assert request["TargetCapacitySpecification"]["TotalTargetCapacity"] == 1


def test_among_pools_of_different_prices_the_cheapest_that_has_capacity_is_taken() -> None:
    """Depth is no reason to pay ten times as much."""
    request = fleet_request(plan(target(), target("subnet-0def", "4.00", kind="g5.48xlarge", most="16.288")))
    assert request["SpotOptions"]["AllocationStrategy"] == "lowest-price"


def test_several_on_demand_pools_need_no_cap() -> None:
    """Their price is the list price."""
    request = fleet_request(plan(target(), target("subnet-0def"), market=MarketKind.ON_DEMAND))
    assert request["OnDemandOptions"] == {"AllocationStrategy": "lowest-price"}
    assert all(set(each) == {"InstanceType", "SubnetId"} for each in request["LaunchTemplateConfigs"][0]["Overrides"])


def test_on_demand_is_the_same_request_with_another_market() -> None:
    """One path, one set of guards."""
    request = fleet_request(plan(market=MarketKind.ON_DEMAND))
    assert request["TargetCapacitySpecification"]["DefaultTargetCapacityType"] == "on-demand"
    assert request["OnDemandOptions"] == {"AllocationStrategy": "lowest-price"}
    assert "SpotOptions" not in request


def test_a_gang_is_launched_in_one_zone_or_not_at_all() -> None:
    """Half a gang trains nothing and costs half."""
    request = fleet_request(plan(nodes=4))
    assert request["TargetCapacitySpecification"]["TotalTargetCapacity"] == 4
    assert request["SpotOptions"]["SingleAvailabilityZone"] is True
    assert request["SpotOptions"]["MinTargetCapacity"] == 4


@pytest.mark.parametrize(
    ("market", "options"), [(MarketKind.SPOT, "SpotOptions"), (MarketKind.ON_DEMAND, "OnDemandOptions")]
)
def test_an_elastic_gang_asks_for_the_most_and_takes_no_less_than_the_least(market: MarketKind, options: str) -> None:
    """In one zone, on both markets."""
    request = fleet_request(plan(nodes="2..8", market=market))
    assert request["TargetCapacitySpecification"]["TotalTargetCapacity"] == 8
    assert request[options]["MinTargetCapacity"] == 2
    assert request[options]["SingleAvailabilityZone"] is True


def test_user_data_are_sent_in_base64() -> None:
    """As EC2 takes them in a template."""
    assert base64.b64decode(template()["UserData"]) == b"#!/bin/bash\n"
