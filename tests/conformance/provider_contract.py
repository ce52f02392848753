"""What every `Provider` must do, as tests: a provider's own test class subclasses `ProviderContract`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Protocol

import pytest

from spotrun.errors import CapacityRefused
from spotrun.market.offer import MarketKind, Offer
from spotrun.providers.provider import EndCause, Instance, InstanceState, LaunchRequest, Provider

JOB = "contract-1"
WAIT_S = 60.0  # far more than is ever needed


class Stage(Protocol):
    """A provider, and what the contract needs around it."""

    provider: Provider

    def again(self) -> Provider:
        """The provider as another process has it: nothing shared but the capacity."""

    def environment(self) -> dict[str, str]:
        """What a launch is given."""

    def take(self, instance: Instance) -> None:
        """The provider takes the instance back."""

    def look(self) -> None:
        """Whatever is remembered of instances is too old now."""

    def living(self) -> int:
        """How many instances there are in truth."""


Raise = Callable[[str], Stage]


class ProviderContract:
    """Subclasses give the fixture `raised`, which makes stages of three kinds: `calm`, `doomed`, where spot instances can
    be taken back, and `empty`, without spot capacity."""

    def test_offers_tell_place_market_and_prices(self, raised: Raise) -> None:
        """Each pool once, on both markets, no price of zero."""
        offers = raised("calm").provider.offers()
        assert len({offer.pool for offer in offers}) == len(offers)
        assert {offer.market for offer in offers} == set(MarketKind)
        for offer in offers:
            assert offer.price_usd_per_hour > 0
            assert offer.on_demand_usd_per_hour > 0
            assert offer.zone
            assert offer.region

    def test_a_launch_gives_the_instance_that_was_asked_for(self, raised: Raise) -> None:
        """And it is listed, with the same words."""
        stage = raised("calm")
        request = order(stage)
        instance = stage.provider.launch(request)
        asked = (request.job_id, request.attempt, request.token, request.offer.pool)
        assert (instance.job_id, instance.attempt, instance.token, instance.pool) == asked
        assert instance.state is not InstanceState.ENDED
        assert instance.launched_at.tzinfo is not None
        listed = eventually(stage, lambda found: next(iter(found), None))
        assert listed.id == instance.id
        assert (listed.job_id, listed.attempt, listed.token, listed.pool) == asked

    def test_on_demand_is_launched_the_same_way(self, raised: Raise) -> None:
        """Even where there is no spot capacity."""
        stage = raised("empty")
        instance = stage.provider.launch(order(stage, market=MarketKind.ON_DEMAND))
        assert instance.pool.endswith("/on_demand")

    def test_a_token_never_gives_a_second_instance(self, raised: Raise) -> None:
        """Whoever repeats it."""
        stage = raised("calm")
        request = order(stage)
        ids = {stage.provider.launch(request).id, stage.provider.launch(request).id, stage.again().launch(request).id}
        assert len(ids) == 1
        assert stage.living() == 1

    def test_a_token_whose_instance_is_over_gives_that_one(self, raised: Raise) -> None:
        """What has ended is an answer too: the attempt is over, and must not begin again."""
        stage = raised("calm")
        request = order(stage)
        instance = stage.provider.launch(request)
        stage.provider.terminate(instance.id)
        eventually(stage, ended)
        again = stage.again().launch(request)
        assert (again.id, again.state) == (instance.id, InstanceState.ENDED)
        assert stage.living() == 0

    def test_another_token_gives_another_instance(self, raised: Raise) -> None:
        """Attempts do not share machines."""
        stage = raised("calm")
        assert stage.provider.launch(order(stage)).id != stage.provider.launch(order(stage, attempt=2)).id
        assert stage.living() == 2

    def test_no_capacity_is_told_with_its_pool_and_launches_nothing(self, raised: Raise) -> None:
        """The policy puts exactly this pool on hold."""
        stage = raised("empty")
        request = order(stage)
        with pytest.raises(CapacityRefused) as refusal:
            stage.provider.launch(request)
        assert refusal.value.offer == request.offer.pool
        assert stage.living() == 0
        assert list(stage.provider.observe(JOB)) == []

    def test_what_we_end_is_told_as_ended_by_us(self, raised: Raise) -> None:
        """And asking again, or for the unknown, is silent."""
        stage = raised("calm")
        instance = stage.provider.launch(order(stage))
        stage.provider.terminate(instance.id)
        stage.provider.terminate(instance.id)
        over = eventually(stage, ended)
        assert (over.id, over.end_cause) == (instance.id, EndCause.TERMINATED)
        assert over.ended_at is None or over.ended_at >= over.launched_at - timedelta(
            seconds=1
        )  # AWS tells whole seconds
        stage.provider.terminate(instance.id)
        stage.provider.terminate("i-0123456789abcdef0")
        assert stage.living() == 0

    def test_what_the_provider_takes_is_told_as_interrupted(self, raised: Raise) -> None:
        """The bill depends on it."""
        stage = raised("doomed")
        instance = stage.provider.launch(order(stage))
        stage.take(instance)
        over = eventually(stage, ended)
        assert (over.id, over.end_cause) == (instance.id, EndCause.INTERRUPTED)
        assert stage.living() == 0

    def test_another_process_sees_the_same_instances(self, raised: Raise) -> None:
        """A controller that starts anew finds its machines."""
        stage = raised("calm")
        instance = stage.provider.launch(order(stage))
        assert [it.id for it in stage.again().observe(JOB)] == [instance.id]

    def test_jobs_do_not_see_each_others_instances(self, raised: Raise) -> None:
        """Nobody ends what is not theirs."""
        stage = raised("calm")
        stage.provider.launch(order(stage))
        assert list(stage.provider.observe("contract-2")) == []

    def test_prices_cover_the_span_from_its_start(self, raised: Raise) -> None:
        """In order, above zero; on demand as well."""
        stage = raised("calm")
        instance = stage.provider.launch(order(stage))
        for market in MarketKind:
            offer = order(stage, market=market).offer
            start = instance.launched_at
            steps = stage.provider.prices(offer, start, start + timedelta(minutes=5))
            assert steps[0].at <= start
            assert [step.at for step in steps] == sorted(step.at for step in steps)
            assert all(step.usd_per_hour > 0 for step in steps)

    def test_prices_have_sources(self, raised: Raise) -> None:
        """A figure without a source is worth little."""
        sources = raised("calm").provider.sources()
        assert sources.spot.name
        assert sources.on_demand.name


def order(stage: Stage, *, attempt: int = 1, market: MarketKind = MarketKind.SPOT) -> LaunchRequest:
    """A launch of the stage's first pool of a market."""
    token = f"spotrun-{attempt}-contract"
    return LaunchRequest(
        token=token,
        job_id=JOB,
        attempt=attempt,
        offer=_first(stage.provider.offers(), market),
        environment=stage.environment(),
        tags={"spotrun:job": JOB, "spotrun:attempt": str(attempt), "spotrun:token": token},
    )


def ended(found: Sequence[Instance]) -> Instance | None:
    """The first that has ended."""
    return next((it for it in found if it.state is InstanceState.ENDED), None)


def eventually(stage: Stage, pick: Callable[[Sequence[Instance]], Instance | None]) -> Instance:
    """What `pick` finds among the job's instances, as soon as it finds something."""
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        stage.look()
        found = pick(stage.provider.observe(JOB))
        if found is not None:
            return found
        time.sleep(0.02)
    raise AssertionError(f"never came; there is {list(stage.provider.observe(JOB))}")


def _first(offers: Sequence[Offer], market: MarketKind) -> Offer:
    return min((offer for offer in offers if offer.market is market), key=lambda offer: offer.pool)
