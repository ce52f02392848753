"""The doctor's pure checks: from what was found to what is said, and what is offered."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from spotrun.clock import SystemClock
from spotrun.errors import StoreDenied, StoreMissing
from spotrun.market.offer import MarketKind
from spotrun.providers.doctor import computer, place
from spotrun.providers.doctor.computer import Computer
from spotrun.providers.doctor.place import Tried
from spotrun.providers.doctor.round import Area, make_round
from spotrun.providers.doctor.verdict import Light, Verdict, green
from spotrun.providers.ec2.doctor import bucket, identity, limit, queue, region, role
from spotrun.providers.ec2.doctor.bucket import Bucket, Whose
from spotrun.providers.ec2.doctor.identity import Identity, sign_in_cache, token_expiry
from spotrun.providers.ec2.doctor.limit import Limit
from spotrun.providers.ec2.doctor.queue import Queue
from spotrun.providers.ec2.doctor.region import Found, Region
from spotrun.providers.ec2.doctor.role import Roles
from spotrun.providers.ec2.quota import Quota
from spotrun.providers.ec2.scope import Scope
from spotrun.store import FileStore, MemoryStore

NOW = datetime(2026, 7, 1, 12, tzinfo=timezone.utc)
DAY = timedelta(days=1)
WELL = Computer(
    system="Linux", python=(3, 11, 7), torch="2.13.0+cu130", gpus=(), home=Path("/h"), home_fault="", free_bytes=10**12
)
HERE = Identity(arn="arn:aws:iam::123456789012:user/me", account="123456789012", method="shared-credentials-file")


def lights(verdicts: tuple[Verdict, ...]) -> str:
    """Their colours, a letter each."""
    return "".join(each.light.value[0] for each in verdicts)


def changed(value: Any, **changes: Any) -> Any:
    return replace(value, **changes)


@pytest.mark.parametrize(
    ("changes", "trains_here", "colours", "said"),
    [
        ({}, True, "ggg", "2.13.0+cu130"),
        ({}, False, "gg", "Python 3.11.7"),
        ({"python": (3, 9, 1)}, True, "rgg", "too old"),
        ({"system": "Windows"}, True, "rgg", "Windows"),
        ({"torch": None}, True, "grg", "not installed"),
        ({"torch": None}, False, "gg", ""),
        ({"torch": "2.5.1"}, True, "grg", "older than 2.6"),
        ({"torch": "2.13.0+cpu", "gpus": ("A10G",)}, True, "gyg", "uses no GPU"),
        ({"torch": "2.13.0+cu130", "gpus": ("A10G", "A10G")}, True, "ggg", "2 × A10G"),
        ({"home_fault": "read-only"}, True, "ggr", "read-only"),
        ({"free_bytes": 10**8}, True, "ggr", "100.0 MB free"),
        ({"free_bytes": 2 * 10**9}, True, "ggy", "a few checkpoints"),
        ({"free_bytes": 2 * 10**9}, False, "gg", ""),
    ],
)
def test_the_computer(changes: dict[str, Any], trains_here: bool, colours: str, said: str) -> None:
    """Torch and room for checkpoints matter only where the training runs."""
    verdicts = computer.check(changed(WELL, **changes), trains_here=trains_here)
    assert lights(verdicts) == colours
    assert said in " ".join(each.sentence for each in verdicts)


def test_this_computer_can_be_looked_at(tmp_path: Path) -> None:
    """A home that is not there yet is fine, and is not made by looking; one in a file's place is not."""
    seen = computer.look(tmp_path / "new" / "home")
    assert seen.home_fault == ""
    assert not (tmp_path / "new").exists()
    assert seen.torch is not None
    (tmp_path / "file").touch()
    assert "no directory" in computer.look(tmp_path / "file" / "home").home_fault


def test_a_place_is_tried_for_real_and_left_as_it_was(tmp_path: Path) -> None:
    """Create twice, write, read, remove."""
    tried = place.look("x", lambda: FileStore(tmp_path), clock=SystemClock(), size=1 << 16)
    assert (tried.fault, tried.exclusive, tried.created_once) == ("", True, True)
    assert FileStore(tmp_path).list("") == []
    verdicts = place.check(tried, from_here=False)
    assert lights(verdicts) == "gg"
    assert "synced to the disk" in verdicts[0].sentence


class _Careless(MemoryStore):
    """Creates what is there already."""

    def create(self, key: str, data: bytes) -> bool:
        self.write(key, [data])
        return True


class _Closed(MemoryStore):
    """Lets nobody write."""

    def create(self, key: str, data: bytes) -> bool:
        raise StoreDenied("no")


def test_a_store_that_creates_twice_is_no_place_for_a_job() -> None:
    """Fencing rests on conditional writes, so they are tried, not believed."""
    tried = place.look("x", _Careless, clock=SystemClock(), size=16)
    assert lights(place.check(tried, from_here=False)) == "gr"


def test_a_place_that_may_not_be_written_says_which_policy_is_needed() -> None:
    """The store's own words, and the command that prints the policy."""
    (verdict,) = place.check(place.look("s3://b/x", _Closed, clock=SystemClock(), size=16), from_here=True)
    assert verdict.light is Light.RED
    assert "spotrun iam controller" in verdict.fix


class _Portal(MemoryStore):
    """Answers 404 to everything, as a sign-in page of a hotel does."""

    def create(self, key: str, data: bytes) -> bool:
        raise StoreMissing(key)


def test_what_is_no_store_is_called_so() -> None:
    """A new object cannot be missing."""
    (verdict,) = place.check(place.look("s3://b/x", _Portal, clock=SystemClock(), size=16), from_here=True)
    assert "no store" in verdict.sentence


def test_any_other_url_works_slower_and_is_said_to() -> None:
    """And that two attempts are not kept apart there."""
    tried = Tried(
        uri="sftp://x", engine="fsspec", exclusive=False, created_once=True, write_bytes_per_s=1e8, read_bytes_per_s=1e8
    )
    speed, alone = place.check(tried, from_here=True)
    assert (speed.light, alone.light) == (Light.YELLOW, Light.YELLOW)
    assert "slower" in speed.sentence
    assert "not kept apart" in alone.sentence


@pytest.mark.parametrize(
    ("changes", "lasts", "colours", "said"),
    [
        ({}, DAY, "gg", "do not expire"),
        ({"method": ""}, DAY, "r", "there are none"),
        ({"fault": "AWS did not accept the credentials"}, DAY, "r", "did not accept"),
        ({"arn": "arn:aws:iam::123456789012:root"}, DAY, "yg", "root"),
        ({"method": "iam-role", "temporary": True}, DAY, "gg", "renewed by the role"),
        ({"method": "env", "temporary": True}, 3 * DAY, "gy", "nobody can renew, for up to 3d"),
        ({"method": "env", "temporary": True, "expires": NOW + timedelta(hours=1)}, DAY, "gy", "1 h 00 min more"),
        (
            {"method": "sso", "temporary": True, "expires": NOW + timedelta(hours=7)},
            3 * DAY,
            "gy",
            "the job may take 3d",
        ),
        ({"method": "sso", "temporary": True, "expires": NOW + 4 * DAY}, 3 * DAY, "gg", "longer than"),
        ({"method": "sso", "temporary": True, "expires": NOW - DAY}, DAY, "gr", "ran out"),
        ({"method": "sso", "temporary": True}, DAY, "gy", "may end at any time"),
        ({"method": "assume-role", "temporary": True}, DAY, "gg", "renewed by boto3"),
    ],
)
def test_credentials_that_do_not_outlive_the_job(
    changes: dict[str, Any], lasts: timedelta, colours: str, said: str
) -> None:
    """A short-lived session for a job of days is a warning before the launch."""
    verdicts = identity.check(changed(HERE, **changes), now=NOW, lasts=lasts)
    assert lights(verdicts) == colours
    assert said in " ".join(each.sentence for each in verdicts)


def test_the_profile_is_named_in_the_command_that_signs_in() -> None:
    """So that it can be copied."""
    away = changed(HERE, method="sso", temporary=True, expires=NOW - DAY, profile="team")
    assert identity.check(away, now=NOW, lasts=DAY)[1].fix == "aws sso login --profile team"


def test_a_sign_in_is_found_behind_the_profiles_that_build_on_it(tmp_path: Path) -> None:
    """The AWS tools keep its token under the SHA-1 of the session's name."""
    profiles = {"job": {"source_profile": "team"}, "team": {"sso_session": "corp"}, "loop": {"source_profile": "loop"}}
    assert sign_in_cache(profiles, "job") == "corp"
    assert sign_in_cache(profiles, "loop") == ""
    assert sign_in_cache(profiles, "unknown") == ""
    cache = tmp_path / ".aws" / "sso" / "cache"
    cache.mkdir(parents=True)
    assert token_expiry(tmp_path, "corp") is None
    name = hashlib.sha1(b"corp").hexdigest()
    (cache / f"{name}.json").write_text(json.dumps({"expiresAt": "2026-07-01T20:00:00Z"}))
    assert token_expiry(tmp_path, "corp") == datetime(2026, 7, 1, 20, tzinfo=timezone.utc)


ABORT = {"Status": "Enabled", "Filter": {"Prefix": ""}, "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7}}
OURS = Bucket(name="b", whose=Whose.OURS, region="us-east-1", rules=[ABORT], versioned=False, blocked=True)


@pytest.mark.parametrize(
    ("changes", "colours", "said"),
    [
        ({}, "gg", "b, ours, in us-east-1"),
        ({"whose": Whose.NOBODYS}, "r", "there is no bucket b"),
        ({"whose": Whose.ANOTHERS}, "r", "another account's"),
        ({"region": "eu-west-1"}, "yg", "between regions"),
        ({"rules": []}, "gy", "never finished"),
        ({"rules": None}, "gy", "may not be looked at"),
        ({"rules": [{**ABORT, "Filter": {"Prefix": "logs/"}}]}, "gy", "never finished"),
        ({"rules": [{**ABORT, "Status": "Disabled"}]}, "gy", "never finished"),
        ({"versioned": True}, "ggy", "old versions"),
        (
            {"versioned": True, "rules": [{**ABORT, "NoncurrentVersionExpiration": {"NoncurrentDays": 1}}]},
            "ggg",
            "removes",
        ),
        ({"blocked": False}, "ggy", "public access"),
        ({"blocked": None, "versioned": None}, "gg", "ours"),
    ],
)
def test_the_bucket(changes: dict[str, Any], colours: str, said: str) -> None:
    """What costs money for ever is yellow; what stops a job is red."""
    verdicts = bucket.check(changed(OURS, **changes), regions=("us-east-1",))
    assert lights(verdicts) == colours
    assert said in " ".join(each.sentence for each in verdicts)


def test_a_rule_is_added_to_the_users_own_and_only_once() -> None:
    """S3 replaces all rules at once: to lose the user's would be worse than what ours mends."""
    theirs = {"ID": "theirs", "Status": "Enabled", "Prefix": "logs/", "Expiration": {"Days": 30}}
    once = bucket.with_abort_rule([theirs])
    assert once[0] == theirs
    assert bucket.with_abort_rule(once) == once
    verdict = bucket.check(changed(OURS, rules=[theirs]), regions=("us-east-1",))[1]
    assert verdict.remedy is not None
    sent = verdict.remedy.requests[0].parameters["LifecycleConfiguration"]["Rules"]
    assert [rule["ID"] for rule in sent] == ["theirs", bucket.LIFECYCLE_ID]


def test_a_new_bucket_is_private_encrypted_and_in_the_right_region() -> None:
    """us-east-1 is the one region that must not be named."""
    there = bucket.creation("b", "eu-west-1")
    assert [request.operation for request in there] == [
        "create_bucket",
        "put_public_access_block",
        "put_bucket_encryption",
        "put_bucket_lifecycle_configuration",
    ]
    assert there[0].parameters["CreateBucketConfiguration"] == {"LocationConstraint": "eu-west-1"}
    assert "CreateBucketConfiguration" not in bucket.creation("b", "us-east-1")[0].parameters


GOOD_ROLES = Roles(profile="p", profile_there=True, roles=("r",), trusts_ec2=True, spot_role=True)


@pytest.mark.parametrize(
    ("changes", "colours", "operations"),
    [
        ({}, "gg", []),
        ({"trusts_ec2": False}, "rg", []),
        ({"profile_there": None}, "yg", []),
        ({"spot_role": None}, "gy", []),
        ({"spot_role": False}, "gr", ["create_service_linked_role"]),
        (
            {"profile_there": False, "roles": (), "role_there": False},
            "rg",
            ["create_role", "put_role_policy", "create_instance_profile", "add_role_to_instance_profile"],
        ),
        (
            {"profile_there": False, "roles": (), "role_there": True},
            "rg",
            ["create_instance_profile", "add_role_to_instance_profile"],
        ),
        ({"roles": (), "role_there": True}, "rg", ["add_role_to_instance_profile"]),
    ],
)
def test_roles_are_completed_not_replaced(changes: dict[str, Any], colours: str, operations: list[str]) -> None:
    """What is there is not touched."""
    verdicts = role.check(changed(GOOD_ROLES, **changes), scope=Scope(bucket="my-bucket"), region="us-east-1")
    assert lights(verdicts) == colours
    sent = [request.operation for each in verdicts if each.remedy for request in each.remedy.requests]
    assert sent == operations


def test_without_a_bucket_no_role_is_offered() -> None:
    """A role must not be made for everything."""
    (profile, _) = role.check(changed(GOOD_ROLES, profile_there=False, roles=()), scope=None, region="us-east-1")
    assert profile.light is Light.RED
    assert profile.remedy is None


def _limit(needed: int, vcpus: int | None, where: str = "us-east-1") -> Limit:
    known = Quota(name="All G and VT Spot", code="L-1", market=MarketKind.SPOT, families=("g", "vt"), vcpus=vcpus or 0)
    quota = None if vcpus is None else known
    return Limit(region=where, market=MarketKind.SPOT, instance_type="g5.xlarge", needed=needed, quota=quota)


@pytest.mark.parametrize(
    ("limits", "colours", "said"),
    [
        ([_limit(4, 8)], "g", "us-east-1 allows 8 vCPUs (g5.xlarge needs 4)"),
        ([_limit(4, 0)], "r", "nothing that the job asks for fits"),
        ([_limit(4, 8), _limit(4, 0, "us-west-2")], "y", "but us-west-2 allows 0 vCPUs"),
        ([_limit(4, None)], "y", "cannot be read"),
    ],
)
def test_quotas_against_what_the_job_needs(limits: list[Limit], colours: str, said: str) -> None:
    """New accounts may run no GPU at all, and find out at the launch."""
    verdicts = limit.check(limits)
    assert lights(verdicts) == colours
    assert said in verdicts[0].sentence


def test_the_fix_of_a_quota_is_the_request_itself() -> None:
    """To be copied into a terminal."""
    (verdict,) = limit.check([_limit(4, 0)])
    assert verdict.fix.startswith(
        "aws service-quotas request-service-quota-increase --service-code ec2 --quota-code L-1 --desired-value 4 --region"
    )


def test_regions_networks_images_and_metadata() -> None:
    """One line for all that are well, one for each that is not."""
    regions = region.check_regions(
        [Region(name="a", enabled=True), Region(name="b", enabled=False), Region(name="c", enabled=None)]
    )
    assert lights(regions) == "grr"
    assert "enable-region --region-name b" in regions[1].fix
    networks = region.check_networks(
        [Found(region="a", told="default VPC: a-az1"), Found(region="b", fault="b: it has no default VPC")], named=False
    )
    assert lights(networks) == "gr"
    assert networks[1].fix == "aws ec2 create-default-vpc --region b"
    assert lights(region.check_networks([Found(region="a", doubt="s gives no public address")], named=True)) == "gy"
    images = region.check_images([Found(region="a", name="i", told="ami-1"), Found(region="b", fault="no image")])
    assert lights(images) == "gr"
    assert "2 hops" in region.check_metadata([], docker=True)[0].sentence


@pytest.mark.parametrize(
    ("found", "wanted", "colours"),
    [
        (Queue(name="q", region="r", there=True, fed=True), True, "g"),
        (Queue(name="q", region="r", there=True, fed=False), True, "y"),
        (Queue(name="q", region="r", there=False, fed=False), True, "r"),
        (Queue(name="q", region="r", there=False, fed=False), False, "y"),
        (Queue(name="q", region="r"), True, "y"),
    ],
)
def test_the_queue(found: Queue, wanted: bool, colours: str) -> None:
    """A queue that a job names must be there; its rule makes it useful."""
    assert lights(queue.check([found], account="1", partition="aws", wanted=wanted)) == colours


def test_only_our_rule_may_send_to_the_queue() -> None:
    """And it takes the one event that the controller reads, from EC2 alone."""
    made, rule, target = queue.creation(Queue(name="q", region="r"), account="1", partition="aws")
    policy = json.loads(made.parameters["Attributes"]["Policy"])
    (statement,) = policy["Statement"]
    assert statement["Condition"] == {"ArnEquals": {"aws:SourceArn": "arn:aws:events:r:1:rule/q"}}
    assert json.loads(rule.parameters["EventPattern"]) == {
        "source": ["aws.ec2"],
        "detail-type": ["EC2 Spot Instance Interruption Warning"],
    }
    assert target.parameters["Targets"][0]["Arn"] == statement["Resource"] == "arn:aws:sqs:r:1:q"


def test_one_area_that_hangs_or_fails_hides_no_other() -> None:
    """The round is bounded in time, and every area has its say."""
    never = threading.Event()

    def hang() -> list[Verdict]:
        never.wait()
        return []

    def fail() -> list[Verdict]:
        raise ValueError("a bug of ours")

    try:
        told = make_round(
            [Area("hangs", hang), Area("fails", fail), Area("works", lambda: [green("works", "well")])],
            clock=SystemClock(),
            patience_s=0.2,
        )
    finally:
        never.set()
    assert [(each.area, each.light.value) for each in told] == [("hangs", "red"), ("fails", "red"), ("works", "green")]
    assert "a bug of ours" in told[1].sentence


def test_a_region_that_nobody_named_is_said() -> None:
    """A launch would not guess one."""
    told = region.check_regions([Region(name="us-east-1", enabled=True)], assumed=True)
    assert lights(told) == "gy"
    assert "aws configure set region us-east-1" in told[1].fix
