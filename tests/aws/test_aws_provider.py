"""The EC2 provider against the small AWS: what goes wrong on the way never makes a second machine, and is told as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import boto3
import pytest

from spotrun.clock import SystemClock
from spotrun.errors import (
    CapacityRefused,
    CredentialsExpired,
    Denied,
    ProviderError,
    QuotaRefused,
    SpecError,
    Throttled,
)
from spotrun.job import JobSpec
from spotrun.job.ec2 import DEFAULT_IMAGE
from spotrun.market.offer import MarketKind, Offer
from spotrun.providers.ec2.account import Account
from spotrun.providers.ec2.aws import open_aws
from spotrun.providers.ec2.provider import Ec2Provider
from spotrun.providers.provider import EndCause, Instance, InstanceState, LaunchRequest
from spotrun.store import MemoryStore

from .instance import Cause, change
from .world import World

Make = Callable[..., Ec2Provider]

JOB = "gpt-7x"

# A pool that the world sells, for tests that are not about offers: those ask AWS a dozen questions.
SPOT = Offer(
    provider="ec2",
    region="us-east-1",
    zone="use1-az1",
    instance_type="g5.xlarge",
    market=MarketKind.SPOT,
    price_usd_per_hour=Decimal("0.4024"),
    on_demand_usd_per_hour=Decimal("1.006"),
    asked_with="us-east-1",
)


class HandClock(SystemClock):
    """Wall time, which a test moves on by hand."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def now(self) -> datetime:
        return super().now() + self.ahead

    def monotonic(self) -> float:
        return self.ahead.total_seconds()

    def pass_time(self, seconds: float) -> None:
        self.ahead += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def make(world: World, clients: Callable[..., Any], clock: HandClock, store: MemoryStore) -> Make:
    """Makes providers as different processes would have them: they share nothing but the account."""
    world.image_parameters.add(DEFAULT_IMAGE.removeprefix("ssm:"))
    clients("iam").create_instance_profile(InstanceProfileName="spotrun-instance")

    def session() -> Any:
        keys = world.credentials.issue()
        return boto3.Session(
            aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=keys.get("AWS_SESSION_TOKEN"),
            region_name="us-east-1",
        )

    def made(**spec: Any) -> Ec2Provider:
        account = Account(new_session=session)
        return Ec2Provider(
            open_aws(clock, account=account),
            job(**spec),
            submitted_at=clock.now(),
            place=lambda: store,
            clock=clock,
        )

    return made


@pytest.fixture(autouse=True)
def _endpoint(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", world.url)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def job(**more: Any) -> JobSpec:
    return JobSpec(
        name="gpt",
        command="python train.py",
        checkpoint={"uri": "s3://runs/x"},
        provider="ec2",
        **{"resources": {"instance_types": ["g5.xlarge"], "regions": ["us-east-1"]}, **more},
    )


def order(offer: Offer, *others: Offer, attempt: int = 1, token: str = "") -> LaunchRequest:
    token = token or f"spotrun-{attempt}-cafe"
    return LaunchRequest(
        token=token,
        job_id=JOB,
        attempt=attempt,
        offer=offer,
        others=others,
        environment={
            "SPOTRUN_JOB_ID": JOB,
            "SPOTRUN_CHECKPOINT_URI": "s3://runs/x",
            "SPOTRUN_LEASE_S": "300",
            "SPOTRUN_BUNDLE": json.dumps({"requirement": "spotrun==0.1.0"}),
        },
        tags={"spotrun:job": JOB, "spotrun:attempt": str(attempt), "spotrun:token": token, "team": "nlp"},
    )


def spot(provider: Ec2Provider) -> Offer:
    """The cheapest spot offer."""
    offers = [offer for offer in provider.offers() if offer.market is MarketKind.SPOT]
    return min(offers, key=lambda offer: (offer.price_usd_per_hour, offer.pool))


def launched(provider: Ec2Provider, request: LaunchRequest) -> Instance:
    """Repeats while nothing is known, as a controller does."""
    for _ in range(20):
        try:
            return provider.launch(request)
        except (CapacityRefused, QuotaRefused, Denied):
            raise
        except ProviderError:
            continue
    raise AssertionError("nothing became known")


def seen(provider: Ec2Provider, clock: HandClock) -> list[Instance]:
    """A look that is not of the last 15 seconds."""
    clock.pass_time(16)
    return list(provider.observe(JOB))


def test_offers_have_live_prices_by_zone_id_and_list_prices_of_the_region(make: Make, world: World) -> None:
    """Every zone where the type is sold, on both markets."""
    world.prices.set("0.33", zone="use1-az4", instance_type="g5.xlarge")
    provider = make()
    offers = {offer.pool: offer for offer in provider.offers()}
    assert offers["use1-az4/g5.xlarge/spot"].price_usd_per_hour == Decimal("0.33")
    assert offers["use1-az4/g5.xlarge/on_demand"].price_usd_per_hour == Decimal("1.006")
    assert {offer.on_demand_usd_per_hour for offer in offers.values()} == {Decimal("1.006")}
    assert {offer.region for offer in offers.values()} == {"us-east-1"}


def test_an_accelerator_finds_its_types_in_every_region(make: Make) -> None:
    """`A10G:1` is g5.xlarge and its larger sisters; those that ask more on spot than g5.xlarge on demand stay out."""
    provider = make(resources={"accelerator": "A10G:1", "regions": ["us-east-1", "us-west-2"]})
    offers = [offer for offer in provider.offers() if offer.market is MarketKind.SPOT]
    assert {offer.region for offer in offers} == {"us-east-1", "us-west-2"}
    names = {offer.instance_type for offer in offers}
    assert "g5.xlarge" in names
    assert "g5.16xlarge" not in names
    assert max(offer.price_usd_per_hour for offer in offers) <= Decimal("1.006")


def test_an_accelerator_that_nobody_sells_is_told_with_what_there_is(make: Make) -> None:
    """A typing error is found before anything is submitted."""
    with pytest.raises(
        SpecError, match=r"resources\.accelerator: no instance type of us-east-1 has 'A10X:1'; there is"
    ):
        make(resources={"accelerator": "A10X:1", "regions": ["us-east-1"]}).offers()


def test_a_pool_without_a_spot_price_is_not_offered(make: Make, world: World) -> None:
    """Some pools are sold on demand alone."""
    world.prices.forget(zone="use1-az4", instance_type="g5.xlarge")
    pools = [offer.pool for offer in make().offers()]
    assert "use1-az4/g5.xlarge/spot" not in pools
    assert "use1-az4/g5.xlarge/on_demand" in pools


def test_a_quota_that_is_too_small_is_told_before_anything_is_launched(make: Make, world: World) -> None:
    """A new account's quota of GPU vCPUs is zero; SkyPilot users fail over for long without hearing why."""
    world.quotas["us-east-1", "L-3819A6DF"] = 0
    provider = make()
    assert {offer.market for offer in provider.offers()} == {MarketKind.ON_DEMAND}
    world.quotas["us-east-1", "L-DB2E81BA"] = 3
    with pytest.raises(QuotaRefused, match=r"is 0 vCPUs, and g5\.xlarge needs 4.*L-3819A6DF.*is 3 vCPUs"):
        make().offers()


def test_list_prices_fall_back_to_the_dated_table(make: Make, world: World) -> None:
    """Whoever may not ask for prices still sees a baseline, with its date."""
    world.faults.fail("pricing", "*", "AccessDenied", times=1000)
    provider = make()
    assert spot(provider).on_demand_usd_per_hour == Decimal("1.006")
    source = provider.sources().on_demand
    assert source.as_of is not None
    assert "built into spotrun" in source.name


def test_candidates_have_scores_where_aws_gives_some(make: Make, world: World) -> None:
    """And say why a pool is not offered."""
    world.scores["use1-az4"] = 9
    world.quotas["us-east-1", "L-DB2E81BA"] = 0
    found = make().candidates()
    assert {each.score for each in found if each.zone == "use1-az4" and each.market is MarketKind.SPOT} == {9}
    assert all("is 0 vCPUs" in each.fault for each in found if each.market is MarketKind.ON_DEMAND)


def test_scores_that_may_not_be_asked_for_are_left_out(make: Make, world: World) -> None:
    """They are an ornament."""
    world.faults.fail("ec2", "GetSpotPlacementScores", "UnauthorizedOperation", times=10)
    assert {each.score for each in make().candidates()} == {None}


def test_a_launch_gives_one_tagged_machine_with_all_its_guards(
    make: Make, world: World, store: MemoryStore, clients: Callable[..., Any]
) -> None:
    """As the template says it, since a fleet's own options are few."""
    provider = make()
    instance = provider.launch(order(spot(provider)))
    (found,) = world.instances()
    assert (found.id, found.market, found.tags["team"]) == (instance.id, "spot", "nlp")
    assert {found.tags[name] for name in ("spotrun:managed", "spotrun:job", "spotrun:attempt")} == {"true", JOB, "1"}
    told = clients("ec2").describe_instances(InstanceIds=[instance.id])["Reservations"][0]["Instances"][0]
    assert told["MetadataOptions"]["HttpTokens"] == "required"
    assert told["IamInstanceProfile"]["Arn"].endswith("/spotrun-instance")
    assert "KeyName" not in told
    (key,) = store.list("attempts/000001/launch-")
    launch = json.loads(bytes(store.read(key)))
    assert launch["environment"]["SPOTRUN_JOB_ID"] == JOB


def test_the_same_token_gives_the_same_machine(make: Make, world: World) -> None:
    """In this process and in another."""
    first = make()
    request = order(SPOT)
    ids = {first.launch(request).id, first.launch(request).id, make().launch(request).id}
    assert len(ids) == 1
    assert len(world.instances()) == 1


@pytest.mark.parametrize("operation", ["CreateLaunchTemplate", "CreateFleet"])
@pytest.mark.parametrize("hidden", [0, 3])
def test_an_answer_that_was_lost_never_becomes_a_second_machine(
    make: Make, world: World, operation: str, hidden: int
) -> None:
    """The request took effect, the connection broke; the machine may not be listed yet either."""
    provider = make()
    request = order(SPOT)
    world.hide_new(hidden)
    world.faults.lose("ec2", operation, times=4)
    instance = launched(provider, request)
    assert [found.id for found in world.instances()] == [instance.id]


def test_a_repeat_with_other_parameters_waits_for_the_machine_to_be_listed(
    make: Make, world: World, clock: HandClock
) -> None:
    """As after an upgrade between the two tries. AWS says only that there was a launch, not what came of it."""
    provider = make()
    request = order(SPOT)
    world.hide_new(3)
    world.faults.lose("ec2", "CreateFleet")
    with pytest.raises(ProviderError):
        provider.launch(request)
    again = make(tags={"more": "tags"})
    changed = replace(request, tags={**request.tags, "new": "1"})
    with pytest.raises(Throttled, match="does not list its instance yet"):
        again.launch(changed)
    instance = launched(again, changed)
    assert [found.id for found in world.instances()] == [instance.id]


def test_no_capacity_is_told_at_once_and_leaves_nothing(make: Make, world: World) -> None:
    """Though EC2 answers with a 500, which botocore would repeat without a word."""
    provider = make()
    offer = SPOT
    world.capacity.set(0)
    with pytest.raises(CapacityRefused, match="InsufficientInstanceCapacity") as refusal:
        provider.launch(order(offer))
    assert refusal.value.offer == offer.pool
    world.capacity.free()
    world.faults.fail("ec2", "CreateFleet", "InsufficientInstanceCapacity", times=1)
    with pytest.raises(CapacityRefused):
        provider.launch(order(offer, attempt=2))
    assert len(world.faults.calls("ec2", "CreateFleet")) == 2
    assert not world.instances()


REFUSALS = [
    ("MaxSpotInstanceCountExceeded", QuotaRefused),
    ("VcpuLimitExceeded", QuotaRefused),
    ("InsufficientFreeAddressesInSubnet", QuotaRefused),
    ("UnfulfillableCapacity", CapacityRefused),
    ("UnauthorizedOperation", Denied),
    ("InvalidParameterValue", Denied),
    ("RequestLimitExceeded", Throttled),
    ("ExpiredToken", CredentialsExpired),
    ("InternalError", ProviderError),
]


@pytest.mark.parametrize(("code", "error"), REFUSALS)
@pytest.mark.parametrize("beside", [True, False])
def test_refusals_come_as_errors_or_beside_instances(
    make: Make, world: World, code: str, error: type[ProviderError], beside: bool
) -> None:
    """CreateFleet answers either way, and both mean the same: but for an answer that says nothing, as after a request that
    was throttled. Beside instances that are not there it is final, since the token would give the same answer again."""
    provider = make()
    offer = SPOT
    if beside:
        world.capacity.refuse(code, "as the test says")
    else:
        world.faults.fail("ec2", "CreateFleet", code)
    with pytest.raises(ProviderError) as refusal:
        provider.launch(order(offer))
    final = beside and error in (Throttled, CredentialsExpired, ProviderError)
    assert type(refusal.value) is (CapacityRefused if final else error)
    assert not world.instances()


def spots(provider: Ec2Provider) -> list[Offer]:
    """The spot offers, cheapest first."""
    offers = [offer for offer in provider.offers() if offer.market is MarketKind.SPOT]
    return sorted(offers, key=lambda offer: (offer.price_usd_per_hour, offer.pool))


def test_of_several_pools_the_answer_tells_which_came_and_which_had_none(
    make: Make, world: World, clock: HandClock
) -> None:
    """Here the cheapest that has capacity, as prices differ; whoever repeats the launch is told the same pool."""
    world.prices.set("0.35", zone="use1-az1", instance_type="g5.xlarge")
    first, *others = spots(make())
    assert first.pool == "use1-az1/g5.xlarge/spot"
    world.capacity.refuse("UnfulfillableCapacity", "none", zone="use1-az1")
    provider, request = make(), order(first, *others)
    world.faults.lose("ec2", "CreateFleet")
    instance = launched(provider, request)
    (found,) = world.instances()
    assert instance.pool == f"{found.zone_id}/g5.xlarge/spot" != first.pool
    answered = provider.launch(order(first, *others, attempt=2))
    assert answered.pool == instance.pool
    assert [(it.pool, it.answer) for it in answered.refused] == [
        (first.pool, "UnfulfillableCapacity: none (g5.xlarge in use1-az1, spot)")
    ]
    assert {it.pool for it in seen(make(), clock)} == {instance.pool}


def test_several_pools_that_have_none_are_one_refusal_that_names_each(make: Make, world: World) -> None:
    """One call instead of one for each zone and type; nothing is left of it."""
    provider = make(resources={"instance_types": ["g5.xlarge", "g6.xlarge"], "regions": ["us-east-1"]})
    first, *others = spots(provider)
    world.capacity.set(0, market="spot")
    world.capacity.refuse("MaxSpotInstanceCountExceeded", "limit", zone=first.zone, instance_type="g6.xlarge")
    with pytest.raises(QuotaRefused) as refusal:
        provider.launch(order(first, *others))
    assert len(world.faults.calls("ec2", "CreateFleet")) == 1
    told = {pool: type(error) for pool, error in refusal.value.by_pool.items()}
    assert set(told) == {first.pool, *(other.pool for other in others)}
    assert [pool for pool, error in told.items() if error is QuotaRefused] == [first.pool]
    assert not world.instances()
    assert world.leftovers() == []


def test_a_machines_life_is_seen_with_its_causes(make: Make, world: World, clock: HandClock) -> None:
    """Interrupted, ended by us, shut down by itself; templates of what is over are gone."""
    provider = make()
    offer = SPOT
    ids = [provider.launch(order(offer, attempt=number)).id for number in (1, 2, 3)]
    assert {it.state for it in seen(provider, clock)} == {InstanceState.RUNNING}
    world.interrupt(ids[0])
    provider.terminate(ids[1])
    machine = world.find(ids[2])
    change(machine, "terminated", Cause.SELF)
    causes = {it.id: it.end_cause for it in seen(provider, clock)}
    assert causes == {ids[0]: EndCause.INTERRUPTED, ids[1]: EndCause.TERMINATED, ids[2]: EndCause.EXITED}
    assert world.leftovers() == []


def test_terminating_the_unknown_or_the_ended_is_silent(make: Make, world: World) -> None:
    """An end is asked for until it is confirmed."""
    provider = make()
    provider.terminate("i-0123456789abcdef0")
    instance = provider.launch(order(SPOT))
    provider.terminate(instance.id)
    provider.terminate(instance.id)
    assert [found.state for found in world.instances()] == ["terminated"]


def test_one_listing_serves_all_jobs_for_fifteen_seconds(make: Make, world: World, clock: HandClock) -> None:
    """However many of them look, and however often."""
    provider = make()
    for _ in range(20):
        provider.observe(JOB)
        provider.observe("another")
    assert len(world.faults.calls("ec2", "DescribeInstances")) == 1
    clock.pass_time(16)
    provider.observe(JOB)
    provider.observe("another")
    assert len(world.faults.calls("ec2", "DescribeInstances")) == 2


def test_a_throttled_listing_is_asked_for_less_often(make: Make, world: World, clock: HandClock) -> None:
    """And nobody is told an old list meanwhile: it could pass for the news that a machine is missing."""
    provider = make()
    provider.observe(JOB)
    world.faults.fail("ec2", "DescribeInstances", "RequestLimitExceeded", times=100)
    clock.pass_time(16)
    for _ in range(5):
        with pytest.raises(Throttled):
            provider.observe(JOB)
    asked = len(world.faults.calls("ec2", "DescribeInstances"))
    clock.pass_time(16)
    with pytest.raises(Throttled):
        provider.observe(JOB)
    assert len(world.faults.calls("ec2", "DescribeInstances")) == asked
    world.faults.clear()
    clock.pass_time(16)
    assert provider.observe(JOB) == []


def test_prices_over_a_span_are_the_steps_that_held(make: Make, world: World, clock: HandClock) -> None:
    """The first not later than the start, and one question for many."""
    now = datetime.now(timezone.utc)  # noqa: TID251  the world's prices are dated
    provider = make()
    offer = spot(provider)
    for hours, usd in ((5, "0.30"), (3, "0.35"), (1, "0.31")):
        world.prices.set(usd, zone=offer.zone, instance_type="g5.xlarge", at=now - timedelta(hours=hours))
    start = now - timedelta(hours=4)
    steps = provider.prices(offer, start, now)
    assert [str(step.usd_per_hour) for step in steps] == ["0.300000", "0.350000", "0.310000"]
    assert steps[0].at == start
    provider.prices(offer, start, now)
    assert len(world.faults.calls("ec2", "DescribeSpotPriceHistory")) == 2  # with the offers' own


def test_before_the_first_known_price_the_offers_own_holds(make: Make, clock: HandClock) -> None:
    """AWS forgets after 90 days."""
    provider = make()
    offer = spot(provider)
    start = clock.now() - timedelta(days=80)
    assert provider.prices(offer, start, start + timedelta(hours=1))[0].usd_per_hour == offer.price_usd_per_hour


def test_new_credentials_are_found_without_a_restart(make: Make, world: World, clock: HandClock) -> None:
    """A token of a single sign-on lasts hours, a training days."""
    provider = make()
    provider.observe(JOB)
    world.faults.fail("ec2", "DescribeInstances", "RequestExpired", times=1)
    clock.pass_time(16)
    with pytest.raises(CredentialsExpired, match="what runs goes on meanwhile"):
        provider.observe(JOB)
    clock.pass_time(16)
    assert provider.observe(JOB) == []


def test_a_region_that_cannot_be_reached_hides_no_machine(make: Make, world: World, clock: HandClock) -> None:
    """All of a job's regions are told, or none."""
    provider = make(resources={"instance_types": ["g5.xlarge"], "regions": ["us-east-1", "us-west-2"]})
    provider.launch(
        order(next(it for it in provider.offers() if it.region == "us-west-2" and it.market is MarketKind.SPOT))
    )
    assert len(seen(provider, clock)) == 1
    world.faults.fail("ec2", "DescribeInstances", "Unavailable", times=4, region="us-west-2")
    clock.pass_time(16)
    with pytest.raises(ProviderError):
        provider.observe(JOB)


def test_a_region_that_is_not_enabled_is_left_out_and_said(make: Make, world: World, clock: HandClock) -> None:
    """EC2 calls it bad credentials; but the other region takes them. Where none does, they are bad."""
    provider = make(resources={"instance_types": ["g5.xlarge"], "regions": ["us-east-1", "us-west-2"]})
    world.faults.fail("ec2", "*", "AuthFailure", times=1000, region="us-west-2")
    assert {offer.region for offer in provider.offers()} == {"us-east-1"}
    assert any(each.fault.startswith("us-west-2: AWS did not accept") for each in provider.candidates())
    assert provider.observe(JOB) == []
    world.faults.fail("ec2", "*", "AuthFailure", times=1000, region="us-east-1")
    clock.pass_time(100_000)
    with pytest.raises(CredentialsExpired):
        provider.offers()
    with pytest.raises(CredentialsExpired):
        provider.observe(JOB)


def test_an_account_without_a_region_says_what_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is guessed: it decides where data go."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    with pytest.raises(SpecError, match=r"write it like \[us-east-1\]"):
        Account().home_region()


def test_subnets_and_groups_of_other_regions_rule_a_region_out(make: Make, clients: Callable[..., Any]) -> None:
    """Ids belong to one region; the others say so."""
    subnet = clients("ec2").describe_subnets()["Subnets"][0]
    provider = make(
        resources={"instance_types": ["g5.xlarge"], "regions": ["us-east-1", "us-west-2"]},
        ec2={"subnets": [subnet["SubnetId"]]},
    )
    assert {offer.zone for offer in provider.offers()} <= {subnet["AvailabilityZoneId"]}
    assert "us-west-2: none of ec2.subnets is in it" in {each.fault for each in provider.candidates()}


def test_a_queue_tells_of_notices_at_once(
    make: Make, world: World, clock: HandClock, clients: Callable[..., Any]
) -> None:
    """And what is about others stays in it."""
    queue = clients("sqs").create_queue(QueueName="notices")["QueueUrl"]
    arn = clients("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    pattern = {"source": ["aws.ec2"], "detail-type": ["EC2 Spot Instance Interruption Warning"]}
    clients("events").put_rule(Name="notices", EventPattern=json.dumps(pattern))
    clients("events").put_targets(Rule="notices", Targets=[{"Id": "queue", "Arn": arn}])
    provider = make(ec2={"queue": "notices"})
    instance = provider.launch(order(SPOT))
    other = make().launch(order(SPOT, attempt=7, token="spotrun-7-other"))
    assert [it.notice_deadline for it in seen(provider, clock)] == [None, None]
    world.warn(instance.id)
    clock.pass_time(6)
    deadlines = {it.id: it.notice_deadline for it in provider.observe(JOB)}
    assert deadlines[instance.id] is not None
    assert deadlines[other.id] is None


def test_a_queue_that_is_not_there_is_no_error(make: Make, clock: HandClock) -> None:
    """The agent tells of its notice as well."""
    provider = make(ec2={"queue": "nowhere"})
    provider.launch(order(SPOT))
    assert len(seen(provider, clock)) == 1


def gang_of(make: Make, nodes: int | str = 3) -> Ec2Provider:
    return make(resources={"instance_types": ["g5.xlarge"], "regions": ["us-east-1"], "nodes": nodes})


def test_a_gang_is_launched_in_one_zone_or_not_at_all(make: Make, world: World, clock: HandClock) -> None:
    """Half of it would train nothing and cost half."""
    provider = gang_of(make)
    offer = SPOT
    world.capacity.set(2)
    with pytest.raises(CapacityRefused):
        provider.launch(order(offer))
    assert not world.instances()
    world.capacity.free()
    gang = provider.launch(order(offer, attempt=2))
    members = world.instances(alive=True)
    assert {found.id for found in members} == set(gang.members)
    assert {found.zone_id for found in members} == {offer.zone}
    assert [it.id for it in seen(provider, clock)] == [gang.id]
    assert gang_of(make).launch(order(offer, attempt=2)).id == gang.id
    provider.terminate(gang.id)
    (over,) = seen(provider, clock)
    assert (over.state, over.end_cause, over.taken) == (InstanceState.ENDED, EndCause.TERMINATED, 0)
    assert world.leftovers() == []


def test_part_of_a_gang_is_ended_and_counts_as_a_refusal(make: Make, world: World) -> None:
    """Should AWS launch less than the least that was asked for; the next try gets all."""
    provider = gang_of(make, 2)
    world.launch_part(1)
    with pytest.raises(CapacityRefused, match="only 1 of the machines"):
        provider.launch(order(SPOT))
    assert not world.instances(alive=True)
    assert world.leftovers() == []
    assert len(provider.launch(order(SPOT, attempt=2)).members) == 2


def test_a_gang_that_lost_a_member_is_interrupted_and_leaves_nobody_behind(
    make: Make, world: World, clock: HandClock
) -> None:
    """Its agents would end themselves; here there are none, so that the controller does it."""
    provider = gang_of(make)
    gang = provider.launch(order(SPOT))
    world.interrupt(gang.members[1])
    (broken,) = seen(provider, clock)
    assert broken.state is InstanceState.RUNNING
    clock.pass_time(400)
    seen(provider, clock)
    (over,) = seen(provider, clock)
    assert (over.state, over.end_cause, over.taken) == (InstanceState.ENDED, EndCause.INTERRUPTED, 1)
    assert world.leftovers() == []


def test_a_gang_whose_answer_was_lost_is_found_whole(make: Make, world: World) -> None:
    """Never a second one, and never part of it taken for all."""
    provider = gang_of(make)
    request = order(SPOT)
    world.faults.lose("ec2", "CreateFleet", times=2)
    gang = launched(provider, request)
    assert set(gang.members) == {found.id for found in world.instances()}
    assert len(gang.members) == 3


def test_what_remains_of_half_a_gang_is_ended(make: Make, world: World, clock: HandClock) -> None:
    """If AWS should ever launch less than all, it is not left running."""
    single = make()
    request = order(SPOT)
    single.launch(request)
    gang = gang_of(make)
    with pytest.raises(Throttled, match="lists 1 of 3 machines"):
        gang.launch(request)
    clock.pass_time(400)
    with pytest.raises(CapacityRefused, match="launched only 1 of 3"):
        gang.launch(request)
    assert not world.instances(alive=True)


def test_an_elastic_gang_is_as_many_machines_as_there_are(make: Make, world: World, clock: HandClock) -> None:
    """Two of 2..4 in one zone; whoever asks again with the token hears of the same two, though a list could be behind."""
    provider = gang_of(make, "2..4")
    offer = SPOT
    world.capacity.set(2)
    gang = provider.launch(order(offer))
    assert set(gang.members) == {found.id for found in world.instances(alive=True)}
    assert (len(gang.members), {found.zone_id for found in world.instances()}) == (2, {offer.zone})
    (young,) = seen(provider, clock)
    assert (young.id, young.members, young.is_complete) == (gang.id, gang.members, False)
    world.capacity.free()
    assert gang_of(make, "2..4").launch(order(offer)).members == gang.members
    clock.pass_time(400)
    (settled,) = seen(provider, clock)
    assert settled.is_complete
    world.interrupt(gang.members[0])
    provider.terminate(gang.id)
    (over,) = seen(provider, clock)
    assert (over.state, over.end_cause, over.taken) == (InstanceState.ENDED, EndCause.INTERRUPTED, 1)
    assert world.leftovers() == []
    full = provider.launch(order(offer, attempt=2))
    assert len(full.members) == 4
    assert next(it for it in seen(provider, clock) if it.id == full.id).is_complete


def test_fewer_than_the_least_are_a_refusal_and_cost_nothing(make: Make, world: World) -> None:
    """One machine of 2..4 is none."""
    provider = gang_of(make, "2..4")
    world.capacity.set(1)
    with pytest.raises(CapacityRefused):
        provider.launch(order(SPOT))
    assert not world.instances()
    assert world.leftovers() == []


def test_an_elastic_gang_whose_answer_was_lost_is_told_by_its_token(make: Make, world: World) -> None:
    """Three came; the list, which is behind, shows none at first, and never that there are no more."""
    provider = gang_of(make, "2..4")
    request = order(SPOT)
    world.capacity.set(3)
    world.hide_new(2)
    world.faults.lose("ec2", "CreateFleet", times=2)
    gang = launched(provider, request)
    assert set(gang.members) == {found.id for found in world.instances()}
    assert len(gang.members) == 3


def test_an_elastic_gang_that_was_asked_for_otherwise_is_what_the_list_shows_in_the_end(
    make: Make, world: World, clock: HandClock
) -> None:
    """The token no longer tells; so its size is known once the list has had the time."""
    provider = gang_of(make, "2..4")
    request = order(SPOT)
    world.capacity.set(3)
    world.faults.lose("ec2", "CreateFleet")
    with pytest.raises(ProviderError):
        provider.launch(request)
    other = replace(request, tags={**request.tags, "team": "vision"})
    with pytest.raises(Throttled, match=r"lists 3 of 2\.\.4 machines"):
        gang_of(make, "2..4").launch(other)
    clock.pass_time(400)
    assert len(gang_of(make, "2..4").launch(other).members) == 3
    assert len(world.instances()) == 3


def test_a_quota_must_hold_the_fewest_machines_and_more_than_it_holds_are_not_asked_for(
    make: Make, world: World
) -> None:
    """What could never come is not part of the launch; with fewer than the least there would be none."""
    world.quotas["us-east-1", "L-3819A6DF"] = 12
    provider = gang_of(make, "2..4")
    assert len(provider.launch(order(spot(provider))).members) == 3
    assert len(gang_of(make, "2..4").launch(order(spot(provider))).members) == 3
    assert not [it for it in gang_of(make, "4..5").offers() if it.market is MarketKind.SPOT]


def test_a_launch_that_is_refused_outright_leaves_no_template(world: World, make: Make) -> None:
    """Nothing was launched, so nothing of the attempt is needed any more; of a lost answer that is not known."""
    provider = make()
    request = order(SPOT)
    world.faults.fail("ec2", "CreateFleet", code="UnauthorizedOperation")
    with pytest.raises(Denied):
        provider.launch(request)
    assert world.leftovers() == []
    world.faults.lose("ec2", "CreateFleet")
    with pytest.raises(ProviderError):
        make().launch(request)
    assert any("template" in left for left in world.leftovers())
