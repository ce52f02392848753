"""The world itself, through boto3: what a job's code will be told must be what EC2 would tell it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from .fault import Loss
from .world import IMAGE_PARAMETER, World

Clients = Callable[..., Any]


def subnets(ec2: Any) -> dict[str, str]:
    return {each["AvailabilityZoneId"]: each["SubnetId"] for each in ec2.describe_subnets()["Subnets"]}


def template(clients: Clients, world: World, name: str = "template", **data: Any) -> None:
    iam = clients("iam")
    if not iam.list_instance_profiles()["InstanceProfiles"]:
        iam.create_instance_profile(InstanceProfileName="spotrun-instance")
    clients("ec2").create_launch_template(
        LaunchTemplateName=name,
        LaunchTemplateData={
            "ImageId": world.image("us-east-1"),
            "UserData": base64.b64encode(b"#!/bin/bash\n").decode(),
            "IamInstanceProfile": {"Name": "spotrun-instance"},
            "InstanceInitiatedShutdownBehavior": "terminate",
            "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 2},
            **data,
        },
    )


def fleet(ec2: Any, overrides: list[dict[str, str]], *, count: int = 1, token: str = "", **options: Any) -> Any:
    spot = options.pop("market", "spot") == "spot"
    strategy = options.pop("strategy", "price-capacity-optimized" if spot else "lowest-price")
    return ec2.create_fleet(
        Type="instant",
        **({"ClientToken": token} if token else {}),
        **{"SpotOptions" if spot else "OnDemandOptions": {"AllocationStrategy": strategy, **options}},
        LaunchTemplateConfigs=[
            {
                "LaunchTemplateSpecification": {"LaunchTemplateName": "template", "Version": "$Latest"},
                "Overrides": overrides,
            }
        ],
        TargetCapacitySpecification={
            "TotalTargetCapacity": count,
            "DefaultTargetCapacityType": "spot" if spot else "on-demand",
        },
        TagSpecifications=[
            {"ResourceType": kind, "Tags": [{"Key": "spotrun:job", "Value": "j"}]} for kind in ("instance", "volume")
        ],
    )


def pools(ec2: Any, *zones: str, types: tuple[str, ...] = ("g5.xlarge",)) -> list[dict[str, str]]:
    have = subnets(ec2)
    return [{"InstanceType": kind, "SubnetId": have[zone]} for kind in types for zone in zones]


def described(ec2: Any, *ids: str) -> list[dict[str, Any]]:
    found = ec2.describe_instances(InstanceIds=list(ids)) if ids else ec2.describe_instances()
    return [instance for each in found["Reservations"] for instance in each["Instances"]]


def code_of(err: pytest.ExceptionInfo[ClientError]) -> tuple[str, int]:
    response = err.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def test_a_fleet_honours_its_template(world: World, clients: Clients) -> None:
    """User data, profile, metadata options, groups, disk, shutdown behaviour and tags all reach the instance."""
    ec2 = clients("ec2")
    group = ec2.create_security_group(GroupName="g", Description="d")["GroupId"]
    disk = {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 77, "Encrypted": True}}
    template(clients, world, SecurityGroupIds=[group], BlockDeviceMappings=[disk])
    told = fleet(ec2, pools(ec2, "use1-az2"))["Instances"]
    assert [(each["AvailabilityZoneId"], each["Lifecycle"]) for each in told] == [("use1-az2", "spot")]
    (instance,) = described(ec2, *told[0]["InstanceIds"])
    assert instance["InstanceLifecycle"] == "spot"
    assert instance["SpotInstanceRequestId"].startswith("sir-")
    assert instance["Placement"]["AvailabilityZoneId"] == "use1-az2"
    assert instance["IamInstanceProfile"]["Arn"].endswith("/spotrun-instance")
    assert instance["MetadataOptions"]["HttpTokens"] == "required"
    assert [each["GroupId"] for each in instance["SecurityGroups"]] == [group]
    assert {"Key": "spotrun:job", "Value": "j"} in instance["Tags"]
    (volume,) = ec2.describe_volumes(Filters=[{"Name": "tag:spotrun:job", "Values": ["j"]}])["Volumes"]
    assert (volume["Size"], volume["Encrypted"]) == (77, True)
    behaviour = ec2.describe_instance_attribute(
        InstanceId=instance["InstanceId"], Attribute="instanceInitiatedShutdownBehavior"
    )
    assert behaviour["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"
    data = ec2.describe_instance_attribute(InstanceId=instance["InstanceId"], Attribute="userData")
    assert base64.b64decode(data["UserData"]["Value"]) == b"#!/bin/bash\n"
    ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])
    (ended,) = described(ec2, instance["InstanceId"])
    assert ended["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    ec2.delete_launch_template(LaunchTemplateName="template")
    assert world.leftovers() == []


def test_strategies_choose_by_price_by_capacity_and_by_priority(world: World, clients: Clients) -> None:
    """The same pools, three strategies, three answers; an empty pool is told beside what was launched elsewhere."""
    ec2 = clients("ec2")
    template(clients, world)
    world.prices.set("0.30", zone="use1-az1", instance_type="g5.xlarge")
    world.prices.set("0.20", zone="use1-az2", instance_type="g5.xlarge")
    world.prices.set("0.10", zone="use1-az4", instance_type="g5.xlarge")
    world.capacity.set(0, zone="use1-az4")
    world.capacity.set(3, zone="use1-az2")
    world.capacity.set(9, zone="use1-az1")
    three = pools(ec2, "use1-az1", "use1-az2", "use1-az4")

    def zone(strategy: str) -> tuple[list[str], list[str]]:
        told = fleet(ec2, three, strategy=strategy)
        return [each["AvailabilityZoneId"] for each in told["Instances"]], [e["ErrorCode"] for e in told["Errors"]]

    assert zone("price-capacity-optimized") == (["use1-az2"], [])
    assert zone("capacity-optimized") == (["use1-az1"], [])
    assert zone("lowest-price") == (["use1-az2"], ["InsufficientInstanceCapacity"])


def test_a_fleet_may_be_partial_and_a_gang_is_all_or_nothing(world: World, clients: Clients) -> None:
    """Without a minimum, two of four are launched and the rest is an error; a gang in one zone is four or none."""
    ec2 = clients("ec2")
    template(clients, world)
    world.capacity.set(1, zone="use1-az1")
    world.capacity.set(1, zone="use1-az2")
    two = pools(ec2, "use1-az1", "use1-az2")
    told = fleet(ec2, two, count=4)
    assert sum(len(each["InstanceIds"]) for each in told["Instances"]) == 2
    assert {each["ErrorCode"] for each in told["Errors"]} == {"InsufficientInstanceCapacity"}
    world.capacity.set(3, zone="use1-az1")
    gang = {"SingleAvailabilityZone": True, "MinTargetCapacity": 4}
    assert fleet(ec2, two, count=4, **gang)["Instances"] == []
    world.capacity.set(4, zone="use1-az2")
    (one,) = fleet(ec2, two, count=4, **gang)["Instances"]
    assert (one["AvailabilityZoneId"], len(one["InstanceIds"])) == ("use1-az2", 4)
    with pytest.raises(ClientError, match="MinTargetCapacity"):
        fleet(ec2, two, count=4, MinTargetCapacity=4)


def test_one_token_is_one_launch_even_if_the_answer_is_lost(world: World, clients: Clients) -> None:
    """botocore repeats what was cut off; the token makes it one instance; other parameters under it are refused."""
    template(clients, world)
    ec2 = clients("ec2", config=Config(retries={"mode": "standard", "total_max_attempts": 2}))
    world.faults.lose("ec2", "CreateFleet")
    one = pools(ec2, "use1-az1")
    first = fleet(ec2, one, token="T-1")
    assert first["ResponseMetadata"]["RetryAttempts"] == 1
    assert fleet(ec2, one, token="T-1")["FleetId"] == first["FleetId"]
    by_token = ec2.describe_instances(Filters=[{"Name": "client-token", "Values": ["T-1"]}])["Reservations"]
    assert len(by_token) == len(world.instances()) == 1
    with pytest.raises(ClientError) as err:
        fleet(ec2, one, token="T-1", count=2)
    assert code_of(err) == ("IdempotentParameterMismatch", 400)


def test_what_a_pool_refuses_with_is_up_to_the_test(world: World, clients: Clients) -> None:
    """Quotas, prices and types that a zone lacks come as errors beside the instances; some errors are the call's."""
    ec2 = clients("ec2")
    template(clients, world)
    world.capacity.refuse("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded", market="spot")

    def errors(**more: Any) -> set[str]:
        return {each["ErrorCode"] for each in fleet(ec2, **more)["Errors"]}

    assert errors(overrides=pools(ec2, "use1-az1")) == {"MaxSpotInstanceCountExceeded"}
    assert errors(overrides=pools(ec2, "use1-az1"), market="on-demand") == set()
    assert errors(overrides=pools(ec2, "use1-az3")) == {"Unsupported"}
    world.capacity.free()
    capped = [{**each, "MaxPrice": "0.01"} for each in pools(ec2, "use1-az1")]
    assert errors(overrides=capped) == {"SpotMaxPriceTooLow"}
    world.faults.fail("ec2", "CreateFleet", "InsufficientInstanceCapacity")
    with pytest.raises(ClientError) as err:
        fleet(ec2, pools(ec2, "use1-az1"))
    assert code_of(err) == ("InsufficientInstanceCapacity", 500)
    ec2.delete_launch_template(LaunchTemplateName="template")
    with pytest.raises(ClientError, match=r"InvalidLaunchTemplateName\.NotFoundException"):
        fleet(ec2, pools(ec2, "use1-az1"))


def test_a_template_is_created_once_per_token(world: World, clients: Clients) -> None:
    """A repeat gives the same template; the same name under another token exists already."""
    ec2 = clients("ec2")
    wish = {"LaunchTemplateName": "t", "LaunchTemplateData": {"ImageId": "ami-12345678"}}
    first = ec2.create_launch_template(ClientToken="a", **wish)["LaunchTemplate"]["LaunchTemplateId"]
    assert ec2.create_launch_template(ClientToken="a", **wish)["LaunchTemplate"]["LaunchTemplateId"] == first
    with pytest.raises(ClientError) as err:
        ec2.create_launch_template(ClientToken="b", **wish)
    assert code_of(err)[0] == "InvalidLaunchTemplateName.AlreadyExistsException"


def test_an_instance_may_be_invisible_at_first(world: World, clients: Clients) -> None:
    """EC2 is eventually consistent: right after a launch its id is not found."""
    ec2 = clients("ec2")
    template(clients, world)
    world.hide_new(describes=2)
    (one,) = fleet(ec2, pools(ec2, "use1-az1"))["Instances"][0]["InstanceIds"]
    assert described(ec2) == []
    with pytest.raises(ClientError, match=r"InvalidInstanceID\.NotFound"):
        described(ec2, one)
    assert [each["InstanceId"] for each in described(ec2)] == [one]


def test_filters_that_ec2_knows_work_and_others_are_refused(world: World, clients: Clients) -> None:
    """No filter is an internal error."""
    ec2 = clients("ec2")
    template(clients, world)
    fleet(ec2, pools(ec2, "use1-az1"))
    for name, value in (("instance-lifecycle", "spot"), ("availability-zone-id", "use1-az1"), ("tag:spotrun:job", "j")):
        assert len(ec2.describe_instances(Filters=[{"Name": name, "Values": [value]}])["Reservations"]) == 1
    with pytest.raises(ClientError) as err:
        ec2.describe_instances(Filters=[{"Name": "colour", "Values": ["red"]}])
    assert code_of(err) == ("InvalidParameterValue", 400)


def test_spot_prices_step_and_their_history_is_told_newest_first(world: World, clients: Clients) -> None:
    """The price that held at the start of the window comes with the date since when it holds."""
    now = datetime.now(timezone.utc)  # noqa: TID251 - the world's clock
    for hours, usd in ((30, "0.5"), (20, "0.6"), (2, "0.7")):
        world.prices.set(usd, zone="use1-az1", instance_type="g5.xlarge", at=now - timedelta(hours=hours))
    told = clients("ec2").describe_spot_price_history(
        InstanceTypes=["g5.xlarge"], AvailabilityZone="us-east-1b", StartTime=now - timedelta(hours=24)
    )["SpotPriceHistory"]
    assert [each["SpotPrice"] for each in told] == ["0.700000", "0.600000", "0.500000"]
    assert {each["AvailabilityZoneId"] for each in told} == {"use1-az1"}
    everything = (
        clients("ec2")
        .get_paginator("describe_spot_price_history")
        .paginate(StartTime=now, PaginationConfig={"PageSize": 50})
    )
    rows = [row for page in everything for row in page["SpotPriceHistory"]]
    assert len(rows) == len({(row["AvailabilityZone"], row["InstanceType"]) for row in rows}) > 100


def test_tables_answer_where_moto_has_none(world: World, clients: Clients) -> None:
    """On-demand prices, quotas, placement scores, the image by its parameter, and every type that spotrun sells."""
    world.quotas["us-east-1", "L-3819A6DF"] = 8
    world.scores.update({"use1-az4": 9})
    products = clients("pricing").get_products(
        ServiceCode="AmazonEC2",
        Filters=[
            {"Type": "TERM_MATCH", "Field": field, "Value": value}
            for field, value in (("instanceType", "g5.xlarge"), ("regionCode", "us-west-2"))
        ],
    )["PriceList"]
    (term,) = json.loads(products[0])["terms"]["OnDemand"].values()
    assert [each["pricePerUnit"]["USD"] for each in term["priceDimensions"].values()] == ["1.0060000000"]
    quota = clients("service-quotas").get_service_quota(ServiceCode="ec2", QuotaCode="L-3819A6DF")["Quota"]
    assert quota["Value"] == 8
    ec2 = clients("ec2")
    best = ec2.get_spot_placement_scores(
        InstanceTypes=["g5.xlarge"], TargetCapacity=1, SingleAvailabilityZone=True, RegionNames=["us-east-1"]
    )["SpotPlacementScores"][0]
    assert (best["AvailabilityZoneId"], best["Score"]) == ("use1-az4", 9)
    image = clients("ssm").get_parameter(Name=IMAGE_PARAMETER)["Parameter"]["Value"]
    (known,) = ec2.describe_images(ImageIds=[image])["Images"]
    assert known["RootDeviceName"] == "/dev/sda1"
    (v100,) = ec2.describe_instance_types(InstanceTypes=["p3.2xlarge"])["InstanceTypes"]
    assert v100["GpuInfo"]["Gpus"][0]["Name"] == "V100"
    offered = ec2.describe_instance_type_offerings(
        LocationType="availability-zone-id", Filters=[{"Name": "instance-type", "Values": ["p3.2xlarge"]}]
    )["InstanceTypeOfferings"]
    assert len(offered) == 2


def test_expired_credentials_are_refused_by_every_service_in_its_words(world: World, clients: Clients) -> None:
    """EC2 says that the request has expired, the others that the token has."""
    issued = world.credentials.issue()
    keys = {name.lower(): value for name, value in issued.items()}
    clients("s3", **keys).list_buckets()
    world.credentials.expire(issued["AWS_ACCESS_KEY_ID"])
    for service, call, code in (
        ("ec2", "describe_instances", "RequestExpired"),
        ("s3", "list_buckets", "ExpiredToken"),
        ("sts", "get_caller_identity", "ExpiredToken"),
        ("ssm", "describe_parameters", "ExpiredTokenException"),
    ):
        with pytest.raises(ClientError) as err:
            getattr(clients(service, **keys), call)()
        assert code_of(err) == (code, 400)


def test_calls_can_fail_be_cut_and_be_held(world: World, clients: Clients) -> None:
    """Errors have no effect; a cut connection is no answer; a held call waits for the test."""
    s3 = clients("s3")
    world.faults.fail("s3", "CreateBucket", "SlowDown")
    with pytest.raises(ClientError) as err:
        s3.create_bucket(Bucket="one")
    assert code_of(err) == ("SlowDown", 503)
    world.faults.cut("s3", "CreateBucket")
    with pytest.raises(BotoCoreError):
        s3.create_bucket(Bucket="one")
    assert s3.list_buckets()["Buckets"] == []
    world.faults.lose("s3", "CreateBucket")
    with pytest.raises(BotoCoreError):
        s3.create_bucket(Bucket="one")
    assert [each["Name"] for each in s3.list_buckets()["Buckets"]] == ["one"]
    assert len(world.faults.calls("s3", "CreateBucket")) == 3
    gate = world.faults.hold("s3", "PutObject", loss=Loss.AFTER)
    with ThreadPoolExecutor(1) as pool:
        putting = pool.submit(s3.put_object, Bucket="one", Key="k", Body=b"1")
        assert gate.reached.wait(60)
        assert s3.get_object(Bucket="one", Key="k")["Body"].read() == b"1"  # it has taken effect
        assert not putting.done()
        gate.open()
        assert putting.result(60)["ETag"]


def test_a_notice_reaches_a_queue(world: World, clients: Clients) -> None:
    """EventBridge hands EC2's warning to a queue, as the rule says; the id is in its detail."""
    ec2, events, sqs = clients("ec2"), clients("events"), clients("sqs")
    url = sqs.create_queue(QueueName="notices")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    pattern = {"source": ["aws.ec2"], "detail-type": ["EC2 Spot Instance Interruption Warning"]}
    events.put_rule(Name="notices", EventPattern=json.dumps(pattern))
    events.put_targets(Rule="notices", Targets=[{"Id": "queue", "Arn": arn}])
    template(clients, world)
    (one,) = fleet(ec2, pools(ec2, "use1-az1"))["Instances"][0]["InstanceIds"]
    world.warn(one)
    (message,) = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=1)["Messages"]
    assert json.loads(message["Body"])["detail"] == {"instance-id": one, "instance-action": "terminate"}
    world.interrupt(one)
    (ended,) = described(ec2, one)
    assert (ended["State"]["Name"], ended["StateReason"]["Code"]) == ("terminated", "Server.SpotInstanceTermination")
    assert any(line.startswith("queue notices") for line in world.leftovers())


def test_what_is_left_is_told(world: World, clients: Clients) -> None:
    """Each kind of thing that a job could leave behind, as the check after each whole job sees it."""
    assert world.leftovers() == []
    ec2, s3 = clients("ec2"), clients("s3")
    s3.create_bucket(Bucket="runs")
    s3.create_multipart_upload(Bucket="runs", Key="half")
    template(clients, world)
    fleet(ec2, pools(ec2, "use1-az1"))
    kinds = sorted(line.split()[0] for line in world.leftovers())
    assert kinds == ["instance", "interface", "template", "upload", "volume"]
