"""The EC2 provider: client calls and the translation of errors, nothing else.

A launch survives being repeated, by this process or another, at any point. What the instance needs is written into the
job's place first. Then an instance with the attempt's token is looked for, so that one whose answer was lost is found.
Only then is a fleet asked for, with the token as its ClientToken: while AWS's list is still behind, the same token gives
the same fleet. A repeat whose parameters differ proves that a fleet was asked for before; if its instance is still not
listed after some minutes, there is none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from spotrun.clock import Clock
from spotrun.errors import CapacityRefused, ProviderError, QuotaRefused, Throttled
from spotrun.job.event import PoolRefusal
from spotrun.job.machine import LaunchDocument
from spotrun.job.spec import JobSpec
from spotrun.market.offer import MarketKind, Offer, PriceStep
from spotrun.market.source import PriceSource, PriceSources
from spotrun.providers.ec2.aws import Aws
from spotrun.providers.ec2.candidate import Candidate, offered, reasons
from spotrun.providers.ec2.error import REFUSALS, kind_of
from spotrun.providers.ec2.gang import gang_id, gangs, stragglers, token_of
from spotrun.providers.ec2.list_price import PRICE_LIST
from spotrun.providers.ec2.order import order_of
from spotrun.providers.ec2.refusal import no_launch, refusals_by_pool
from spotrun.providers.ec2.request import (
    TOKEN_TAG,
    MachinePlan,
    Target,
    fleet_request,
    ours,
    template_name,
    template_request,
)
from spotrun.providers.ec2.response import Seen, fleet_answer, instances
from spotrun.providers.ec2.shelf import Shelf
from spotrun.providers.ec2.userdata import user_data
from spotrun.providers.provider import Instance, InstanceState, LaunchRequest
from spotrun.providers.refusal import refused_of
from spotrun.store import BlobStore

__all__ = ["Ec2Provider"]

SPOT_HISTORY = "AWS spot price history (DescribeSpotPriceHistory), Linux"

# How long a machine may be missing from AWS's lists after its launch: they are eventually consistent, within seconds as a
# rule; the API Reference names no bound.
_BEHIND = timedelta(minutes=5)

_logger = logging.getLogger(__name__)


class Ec2Provider:
    """Implements `spotrun.providers.provider.Provider`.

    Args:
        aws: the account, shared by the jobs of a process.
        spec: the job.
        submitted_at: when it was handed in, which `max_wait` counts from.
        place: opens the job's place in the store.
        clock: wall time, which is a job's time here.
    """

    name = "ec2"

    def __init__(
        self, aws: Aws, spec: JobSpec, *, submitted_at: datetime, place: Callable[[], BlobStore], clock: Clock
    ) -> None:
        self._aws = aws
        self._spec = spec
        self._submitted_at = submitted_at
        self._place = place
        self._clock = clock
        self._shelf = Shelf(aws, spec)
        self._regions: dict[str, str] = {}  # instance id -> region
        self._tidied: set[str] = set()  # tokens whose template is gone

    def offers(self) -> Sequence[Offer]:
        """See `Provider.offers`.

        Raises:
            QuotaRefused: there are pools, and the account's limits or settings rule out each of them.
        """
        candidates = self._shelf.candidates()
        offers = offered(candidates)
        if candidates and not offers:
            raise QuotaRefused(f"nothing can be launched: {'; '.join(reasons(candidates))}")
        return offers

    def candidates(self) -> Sequence[Candidate]:
        """What a person is shown before a launch: every pool, also those that are left out, with placement scores.

        Raises:
            ProviderError: it could not be asked.
        """
        return self._shelf.scored(self._shelf.candidates())

    def requests(self, request: LaunchRequest) -> dict[str, dict[str, Any]]:
        """The requests that `launch` would send, by the name of the operation. Nothing is sent but questions.

        Raises:
            ProviderError: what they need could not be asked.
        """
        plan, _ = self._plan(request)
        return {"CreateLaunchTemplate": template_request(plan), "CreateFleet": fleet_request(plan)}

    def launch(self, request: LaunchRequest) -> Instance:
        """See `Provider.launch`."""
        found = self._find(request)
        if found is not None:
            return found
        document = LaunchDocument(attempt=request.attempt, environment=request.environment)
        self._place().write(document.key, [document.to_bytes()])
        plan, pools = self._plan(request)
        region = request.offer.region
        self._make_template(plan, region)
        client = self._aws.account.client("ec2", region, once=True)
        doing, asked = _doing(request), request.offer.pool
        with self._aws.account.asking(doing, pool=asked):
            try:
                told = client.create_fleet(**fleet_request(plan))
            except client.exceptions.ClientError as err:
                code = str(err.response["Error"]["Code"])
                if code == "IdempotentParameterMismatch":
                    return self._asked_before(request)
                if kind_of(code) in REFUSALS:
                    self._drop_template(request.token, region)
                raise
        answer = fleet_answer(told)
        if len(answer.instance_ids) >= plan.nodes.least:
            pool = pools.get((answer.instance_type, answer.subnet), asked)
            refused = refused_of(refusals_by_pool(answer, pools))
            return self._launched(request, answer.instance_ids, pool=pool, refused=refused)
        self._end(answer.instance_ids, region)  # too small a gang trains nothing
        self._drop_template(request.token, region)
        raise no_launch(answer, doing=doing, pool=asked, pools=pools)

    def observe(self, job_id: str) -> Sequence[Instance]:
        """See `Provider.observe`. As of at most 15 seconds ago. Templates of attempts that are over are removed."""
        found = self._aws.roll.call(job_id, self._shelf.regions)
        for entry in found:
            self._regions[entry.instance.id] = entry.region
        seen = self._noticed([entry.instance for entry in found])
        if not self._spec.resources.nodes.is_single:
            now = self._clock.now()
            for id_ in stragglers(seen, now):
                self._end([id_], self._regions[id_])
            seen = [replace(it, is_complete=self._is_complete(it, now)) for it in gangs(seen)]
        for instance in seen:
            if instance.state is InstanceState.ENDED:
                self._drop_template(instance.token, self._regions[(instance.members or (instance.id,))[0]])
        return seen

    def terminate(self, instance_id: str) -> None:
        """See `Provider.terminate`."""
        token = token_of(instance_id)
        if token is not None:
            for region in self._shelf.regions:
                self._end([entry.instance.id for entry in self._listed(token, region)], region)
            return
        known = self._regions.get(instance_id)
        for region in (known,) if known else self._shelf.regions:
            self._end([instance_id], region)

    def prices(self, offer: Offer, start: datetime, end: datetime) -> tuple[PriceStep, ...]:
        """See `Provider.prices`. On demand, the price at which the offer was made stands: list prices hold for months."""
        if offer.market is MarketKind.ON_DEMAND:
            return (PriceStep(at=start, usd_per_hour=offer.price_usd_per_hour),)
        return self._aws.spot_prices.steps(offer, start, end)

    def sources(self) -> PriceSources:
        """See `Provider.sources`. One type's on-demand price tells where the others come from as well."""
        region = self._shelf.regions[0]
        try:
            known = next(iter(self._aws.catalog.types(region, self._spec.resources)), None)
            price = None if known is None else self._aws.list_prices.price(known.name, region)
        except ProviderError:
            price = None  # they were read when the attempts were placed
        on_demand = PriceSource(name=PRICE_LIST) if price is None else price.source
        return PriceSources(spot=PriceSource(name=SPOT_HISTORY), on_demand=on_demand)

    def _noticed(self, found: list[Instance]) -> list[Instance]:
        """The instances with the notices that the job's queue has told of."""
        queue, living = self._spec.ec2.queue, {it.id for it in found if it.state is not InstanceState.ENDED}
        if queue is None or not living:
            return found
        told: dict[str, datetime] = {}
        for region in {self._regions[id_] for id_ in living}:
            told.update(self._aws.notices.hear(queue, region, living))
        return [replace(it, notice_deadline=told.get(it.id)) if it.id in living else it for it in found]

    def _plan(self, request: LaunchRequest) -> tuple[MachinePlan, Mapping[tuple[str, str], str]]:
        """The launch with everything resolved, and the pool of each type and subnet in it."""
        offer, settings = request.offer, self._spec.ec2
        network = self._aws.networks.find(
            offer.region, subnets=settings.subnets, security_groups=settings.security_groups
        )
        reached = [(it, network.subnets[it.zone]) for it in request.offers if it.zone in network.subnets]
        if not reached:
            raise CapacityRefused(offer.pool, network.fault or f"{offer.zone} has no subnet of ours any more")
        order = order_of(request, self._spec, submitted_at=self._submitted_at)
        plan = MachinePlan(
            token=request.token,
            targets=tuple(_target(it, subnet) for it, subnet in reached),
            market=offer.market,
            image=self._aws.images.find(settings.image, offer.region),
            settings=settings,
            security_groups=network.security_groups,
            user_data=user_data(order),
            tags=ours(request.tags, place=order.place),
            nodes=self._shelf.nodes([it for it, _ in reached]),
        )
        return plan, {(it.instance_type, subnet): it.pool for it, subnet in reached}

    def _end(self, ids: Sequence[str], region: str) -> None:
        """Asks for the end of instances, one by one: an unknown one must not keep the others alive."""
        client = self._aws.account.client("ec2", region)
        for id_ in ids:
            with self._aws.account.asking(f"to end {id_}"):
                try:
                    client.terminate_instances(InstanceIds=[id_])
                except client.exceptions.ClientError as err:
                    if not err.response["Error"]["Code"].startswith("InvalidInstanceID"):
                        raise

    def _make_template(self, plan: MachinePlan, region: str) -> None:
        client = self._aws.account.client("ec2", region)
        with self._aws.account.asking(f"for a launch template in {region}"):
            try:
                client.create_launch_template(**template_request(plan))
            except client.exceptions.ClientError as err:
                if "AlreadyExists" not in err.response["Error"]["Code"]:
                    raise  # one of an earlier try is as good: it has the same content

    def _drop_template(self, token: str, region: str) -> None:
        """Removes an attempt's template. One that stays costs nothing, and `spotrun reap` finds it."""
        if token in self._tidied:
            return
        client = self._aws.account.client("ec2", region)
        try:
            with self._aws.account.asking(f"to remove a launch template in {region}"):
                client.delete_launch_template(LaunchTemplateName=template_name(token))
        except ProviderError as error:
            _logger.info("the launch template %s may be left: %s", template_name(token), error)
        self._tidied.add(token)

    def _find(self, request: LaunchRequest, *, unanswered: bool = False) -> Instance | None:
        """The instance of an earlier try, a living one first; the gang, if the job has one. None for an elastic gang whose
        size the list does not tell yet: the fleet's answer does, which the same token gives again (`unanswered`: it did not).

        Raises:
            Throttled: part of a gang is listed, and the rest may yet be.
            CapacityRefused: too small a part of a gang is all there is.
        """
        found = [entry.instance for entry in self._listed(request.token, request.offer.region)]
        nodes = self._spec.resources.nodes
        if nodes.is_single or not found:
            return min(found, key=lambda it: (it.state is InstanceState.ENDED, it.launched_at, it.id), default=None)
        (gang,) = gangs(found)
        now = self._clock.now()
        if gang.state is InstanceState.ENDED or (len(found) >= nodes.least and self._is_complete(gang, now)):
            return gang
        young = now - gang.launched_at < _BEHIND
        if young and nodes.is_elastic and not unanswered:
            return None
        if young:
            raise Throttled(
                f"AWS lists {len(found)} of {nodes} machines on {request.offer.pool}; the rest is looked for"
            )
        self._end(gang.members, request.offer.region)
        raise CapacityRefused(request.offer.pool, f"an earlier try launched only {len(found)} of {nodes} machines")

    def _is_complete(self, gang: Instance, now: datetime) -> bool:
        """Whether no more machines of a gang can turn up. How large a fixed one is, is known; of an elastic one, once all that
        were asked for are listed, or the list has had the time."""
        nodes = self._spec.resources.nodes
        if not nodes.is_elastic or gang.state is InstanceState.ENDED or len(gang.members) >= nodes.most:
            return True
        return len(gang.members) >= nodes.least and now - gang.launched_at >= _BEHIND

    def _listed(self, token: str, region: str) -> list[Seen]:
        zones = self._aws.catalog.zones(region)
        client = self._aws.account.client("ec2", region)
        with self._aws.account.asking(f"for the instances in {region}"):
            told = client.describe_instances(Filters=[{"Name": f"tag:{TOKEN_TAG}", "Values": [token]}])
        return list(instances(told, region=region, zones=zones))

    def _launched(
        self, request: LaunchRequest, ids: Sequence[str], *, pool: str, refused: tuple[PoolRefusal, ...]
    ) -> Instance:
        self._regions.update(dict.fromkeys(ids, request.offer.region))
        gang = not self._spec.resources.nodes.is_single
        return Instance(
            id=gang_id(request.token) if gang else ids[0],
            job_id=request.job_id,
            attempt=request.attempt,
            token=request.token,
            pool=pool,
            state=InstanceState.PENDING,
            launched_at=self._clock.now(),
            members=tuple(sorted(ids)) if gang else (),
            refused=refused,
        )

    def _asked_before(self, request: LaunchRequest) -> Instance:
        """A fleet with this token was asked for with other parameters: what came of it is in the list, or will be."""
        found = self._find(request, unanswered=True)
        if found is not None:
            return found
        made_at = self._template_made_at(request)
        if made_at is not None and self._clock.now() - made_at < _BEHIND:
            raise Throttled(
                f"a launch on {request.offer.pool} was asked for before, and AWS does not list its instance yet; it is looked "
                "for again"
            )
        self._drop_template(request.token, request.offer.region)
        raise CapacityRefused(request.offer.pool, "an earlier try, whose answer was lost, launched nothing")

    def _template_made_at(self, request: LaunchRequest) -> datetime | None:
        client = self._aws.account.client("ec2", request.offer.region)
        name = template_name(request.token)
        with self._aws.account.asking(f"for the launch template {name}"):
            told = client.describe_launch_templates(Filters=[{"Name": "launch-template-name", "Values": [name]}])
        made = [entry["CreateTime"] for entry in told.get("LaunchTemplates", ())]
        return made[0] if made else None


def _target(offer: Offer, subnet: str) -> Target:
    return Target(
        instance_type=offer.instance_type,
        subnet=subnet,
        price_usd_per_hour=offer.price_usd_per_hour,
        most_usd_per_hour=offer.on_demand_usd_per_hour,
    )


def _doing(request: LaunchRequest) -> str:
    beside = f" or one of {len(request.others)} other pools" if request.others else ""
    return f"to launch {request.offer.pool}{beside}"
