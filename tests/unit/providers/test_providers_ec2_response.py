"""AWS's answers, as recorded JSON, turned into our values."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from spotrun.errors import CapacityRefused, Denied
from spotrun.providers.ec2.notice import parse_notice
from spotrun.providers.ec2.refusal import deciding, no_launch, refusals_by_pool
from spotrun.providers.ec2.response import cause_of, fleet_answer, instances, seen
from spotrun.providers.provider import EndCause, InstanceState

LAUNCHED = datetime(2026, 11, 20, 10, 0, tzinfo=timezone.utc)
ZONES = {"us-east-1d": "use1-az4"}


def described(state: str = "running", **more: Any) -> dict[str, Any]:
    """An instance as DescribeInstances tells it, as far as anybody reads it."""
    return {
        "InstanceId": "i-0abc",
        "InstanceType": "g5.xlarge",
        "InstanceLifecycle": "spot",
        "LaunchTime": LAUNCHED,
        "Placement": {"AvailabilityZone": "us-east-1d", "Tenancy": "default"},
        "PrivateIpAddress": "10.0.0.7",
        "State": {"Code": 16, "Name": state},
        "StateTransitionReason": "",
        "Tags": [
            {"Key": "spotrun:attempt", "Value": "2"},
            {"Key": "spotrun:job", "Value": "gpt-7x"},
            {"Key": "spotrun:token", "Value": "spotrun-2-cafe"},
        ],
        **more,
    }


def told(entry: dict[str, Any]) -> Any:
    found = seen(entry, region="us-east-1", zones=ZONES)
    assert found is not None
    return found


def test_a_running_instance_is_told_with_its_pool_by_zone_id() -> None:
    """Zone names differ between accounts; the journal has ids."""
    entry = told(described())
    instance = entry.instance
    assert (instance.id, instance.job_id, instance.attempt, instance.token) == ("i-0abc", "gpt-7x", 2, "spotrun-2-cafe")
    assert instance.pool == "use1-az4/g5.xlarge/spot"
    assert (instance.state, instance.launched_at, instance.end_cause) == (InstanceState.RUNNING, LAUNCHED, None)
    assert (entry.region, entry.private_address) == ("us-east-1", "10.0.0.7")


def test_the_zone_id_that_aws_tells_wins_over_the_name() -> None:
    """Newer answers have both."""
    placement = {"AvailabilityZone": "us-east-1d", "AvailabilityZoneId": "use1-az6"}
    assert told(described(Placement=placement)).instance.pool == "use1-az6/g5.xlarge/spot"


def test_on_demand_instances_have_no_lifecycle() -> None:
    """AWS names only what is special."""
    assert told(described(InstanceLifecycle=None)).instance.pool == "use1-az4/g5.xlarge/on_demand"


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("pending", InstanceState.PENDING),
        ("running", InstanceState.RUNNING),
        ("shutting-down", InstanceState.RUNNING),
        ("stopping", InstanceState.RUNNING),
        ("stopped", InstanceState.RUNNING),
        ("terminated", InstanceState.ENDED),
    ],
)
def test_only_terminated_is_an_end(state: str, expected: InstanceState) -> None:
    """Until then its processes may write, and its disk is paid for."""
    assert told(described(state)).instance.state is expected


CAUSES = [
    ("Server.SpotInstanceTermination", "", EndCause.INTERRUPTED),
    ("Server.SpotInstanceShutdown", "", EndCause.INTERRUPTED),
    ("Client.InstanceInitiatedShutdown", "", EndCause.EXITED),
    ("Client.UserInitiatedShutdown", "User initiated (2026-11-20 11:00:00 GMT)", EndCause.TERMINATED),
    ("Client.InstanceTerminated", "", EndCause.TERMINATED),
    ("", "User initiated (2026-11-20 11:00:00 GMT)", EndCause.TERMINATED),
    ("Server.InsufficientInstanceCapacity", "", EndCause.INTERRUPTED),
    ("Server.ScheduledStop", "", EndCause.LOST),
    ("", "", EndCause.LOST),
]


@pytest.mark.parametrize(("code", "transition", "cause"), CAUSES)
def test_who_ended_an_instance_is_told_by_its_state_reason(code: str, transition: str, cause: EndCause) -> None:
    """The bill depends on it: what AWS took within the first hour is free."""
    assert cause_of({"StateReason": {"Code": code}, "StateTransitionReason": transition}) is cause


FALSE_STARTS = [
    ("Client.VolumeLimitExceeded", EndCause.DENIED, "higher quota of gp3"),
    ("Client.InternalError", EndCause.DENIED, "aws kms create-grant"),
    ("Client.InvalidKMSKey.InvalidState", EndCause.DENIED, "ec2.kms_key"),
    ("Client.InvalidSnapshot.NotFound", EndCause.DENIED, "ec2.image"),
    ("Server.InternalError", EndCause.UNSTARTED, "another machine is asked for"),
]


@pytest.mark.parametrize(("code", "cause", "advice"), FALSE_STARTS)
def test_a_machine_that_never_ran_says_why_and_what_to_do(code: str, cause: EndCause, advice: str) -> None:
    """Only a fault of AWS's own is worth another try."""
    entry = described("terminated", StateReason={"Code": code, "Message": f"{code}: as AWS says"})
    instance = told(entry).instance
    assert instance.end_cause is cause
    assert instance.detail.startswith(f"{code}: as AWS says. ")
    assert advice in instance.detail


def test_a_clients_error_under_a_servers_code_is_the_clients() -> None:
    """As AWS tells of a KMS key, see aws/karpenter-provider-aws#1407."""
    reason = {"Code": "Server.InternalError", "Message": "Client.InternalError: Client error on launch"}
    instance = told(described("terminated", StateReason=reason)).instance
    assert instance.end_cause is EndCause.DENIED
    assert instance.detail.startswith("Client.InternalError: Client error on launch. Most often")


def test_an_end_has_its_instant_and_the_providers_words() -> None:
    """Both are in sentences."""
    entry = described(
        "terminated",
        StateReason={
            "Code": "Server.SpotInstanceTermination",
            "Message": "Server.SpotInstanceTermination: Spot instance termination",
        },
        StateTransitionReason="Server.SpotInstanceTermination (2026-11-20 11:02:03 GMT)",
    )
    instance = told(entry).instance
    assert instance.ended_at == datetime(2026, 11, 20, 11, 2, 3, tzinfo=timezone.utc)
    assert instance.end_cause is EndCause.INTERRUPTED
    assert instance.detail == "Server.SpotInstanceTermination: Spot instance termination"
    entry["StateTransitionReason"] = ""
    assert told(entry).instance.ended_at is None


def test_a_machine_that_died_was_not_taken() -> None:
    """Its first hour is not free."""
    died = told(
        described("terminated", StateReason={"Code": "Server.ScheduledStop", "Message": "a host failed"})
    ).instance
    assert (died.end_cause, died.taken, died.detail) == (EndCause.LOST, 0, "Server.ScheduledStop: a host failed")
    taken = told(described("terminated", StateReason={"Code": "Server.SpotInstanceTermination"})).instance
    assert taken.taken is None


def test_instances_without_our_tags_are_nobodys() -> None:
    """Somebody else's machine is never touched."""
    page = {"Reservations": [{"Instances": [described(Tags=[{"Key": "Name", "Value": "mine"}]), described()]}]}
    assert [it.instance.id for it in instances(page, region="us-east-1", zones=ZONES)] == ["i-0abc"]
    assert seen(described(Tags=None), region="us-east-1", zones=ZONES) is None


def test_a_fleet_tells_instances_and_errors_together() -> None:
    """A partial fleet is normal; what it launched counts."""
    answer = fleet_answer(
        {
            "FleetId": "fleet-1",
            "Errors": [{"ErrorCode": "InsufficientInstanceCapacity", "ErrorMessage": "none in use1-az1"}],
            "Instances": [{"InstanceIds": ["i-1", "i-2"], "InstanceType": "g5.xlarge", "Lifecycle": "spot"}],
        }
    )
    assert answer.instance_ids == ("i-1", "i-2")
    assert [str(refused.answer) for refused in answer.refusals] == ["InsufficientInstanceCapacity: none in use1-az1"]


def test_of_several_refusals_the_one_that_says_what_to_do_is_told() -> None:
    """A missing permission beside a lack of capacity will not pass."""
    answer = fleet_answer(
        {
            "Errors": [
                {"ErrorCode": "InsufficientInstanceCapacity", "ErrorMessage": "none"},
                {"ErrorCode": "UnauthorizedOperation", "ErrorMessage": "no"},
                {"ErrorCode": "MaxSpotInstanceCountExceeded", "ErrorMessage": "limit"},
            ]
        }
    )
    assert deciding(refused.answer for refused in answer.refusals).code == "UnauthorizedOperation"
    assert deciding(()).code == "InsufficientInstanceCapacity"


POOLS = {("g5.xlarge", "subnet-1"): "use1-az1/g5.xlarge/spot", ("g6.xlarge", "subnet-2"): "use1-az2/g6.xlarge/spot"}


def fleet_error(code: str, kind: str, subnet: str) -> dict[str, Any]:
    override = {"Overrides": {"InstanceType": kind, "SubnetId": subnet}}
    return {"ErrorCode": code, "ErrorMessage": "as told", "LaunchTemplateAndOverrides": override}


def test_a_fleet_of_several_pools_tells_which_came_and_which_refused() -> None:
    """By type and subnet, as they were asked for."""
    lot = {
        "InstanceIds": ["i-1"],
        "LaunchTemplateAndOverrides": {"Overrides": {"InstanceType": "g6.xlarge", "SubnetId": "subnet-2"}},
    }
    answer = fleet_answer(
        {"Errors": [fleet_error("UnfulfillableCapacity", "g5.xlarge", "subnet-1")], "Instances": [lot]}
    )
    assert POOLS[answer.instance_type, answer.subnet] == "use1-az2/g6.xlarge/spot"
    (pool,) = refusals_by_pool(answer, POOLS)
    assert pool == "use1-az1/g5.xlarge/spot"


def test_what_is_denied_to_one_pool_alone_does_not_end_a_job_that_has_others() -> None:
    """It is remembered of that pool; what is denied to all is a denial."""
    errors = [
        fleet_error("InvalidFleetConfiguration", "g5.xlarge", "subnet-1"),
        fleet_error("InsufficientInstanceCapacity", "g6.xlarge", "subnet-2"),
    ]
    told = no_launch(fleet_answer({"Errors": errors}), doing="to launch", pool="p", pools=POOLS)
    assert type(told) is CapacityRefused
    assert [type(error) for error in told.by_pool.values()] == [Denied, CapacityRefused]
    told = no_launch(fleet_answer({"Errors": errors[:1]}), doing="to launch", pool="p", pools=POOLS)
    assert type(told) is CapacityRefused  # nothing was said of the other
    both = [fleet_error("UnauthorizedOperation", *at) for at in POOLS]
    assert type(no_launch(fleet_answer({"Errors": both}), doing="to launch", pool="p", pools=POOLS)) is Denied


def test_a_notice_is_told_by_the_events_detail() -> None:
    """Its ARN has two forms in AWS's own documents."""
    body = (
        '{"detail-type": "EC2 Spot Instance Interruption Warning", "time": "2026-07-03T10:00:00Z", '
        '"resources": ["arn:aws:ec2:us-east-2a:instance/i-0abc"], '
        '"detail": {"instance-id": "i-0abc", "instance-action": "terminate"}}'
    )
    notice = parse_notice(body)
    assert notice is not None
    assert notice.instance_id == "i-0abc"
    assert notice.deadline == datetime(2026, 7, 3, 10, 2, tzinfo=timezone.utc)
    assert parse_notice(body.replace("Interruption Warning", "Request Fulfillment")) is None


@pytest.mark.parametrize("body", ["", "{}", "[]", "null", '{"detail-type": 3}', "not json", '"text"'])
def test_a_message_that_is_no_event_is_no_notice(body: str) -> None:
    """Anybody who may send to the queue could have written it."""
    assert parse_notice(body) is None
