"""A provider as it is: capacity that comes and goes, machines, prices and books; and one controller's view of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TypeVar

from spotrun.chaos.simulation.actor import Actor, Crossing, Scene, Service
from spotrun.chaos.simulation.clock import EPOCH
from spotrun.errors import CapacityRefused, CredentialsExpired, ProviderError, Throttled
from spotrun.market.offer import MarketKind, Offer, PriceStep
from spotrun.market.source import PriceSource, PriceSources
from spotrun.providers.provider import EndCause, Instance, InstanceState, LaunchRequest

__all__ = ["Call", "Cloud", "Lot", "SimProvider"]

_T = TypeVar("_T")

ZONES = ("sim1-az1", "sim1-az2", "sim1-az3")
ON_DEMAND_USD = Decimal("1.006")
_HOURS = 48  # of prices


@dataclass
class Lot:
    """A machine in the provider's books. Instants are true."""

    id: str
    request: LaunchRequest
    launched_at: datetime
    visible_at: datetime
    double: bool = False  # a second one for its token
    notice_at: datetime | None = None
    notice_deadline: datetime | None = None
    notice_listed: bool = False
    ended_at: datetime | None = None
    cause: EndCause | None = None
    listed_until: datetime | None = None  # as running, though it has ended
    booted: bool = False
    frozen_s: float = 0.0  # for which its clockwork stood still
    mute: bool = False
    on_notice: Callable[[], None] = lambda: None
    on_end: Callable[[], None] = lambda: None

    @property
    def lives(self) -> bool:
        """Whether it bills."""
        return self.ended_at is None


@dataclass(frozen=True, slots=True)
class Call:
    """A request that reached the provider."""

    at: datetime
    by: str
    what: str
    subject: str  # a token or an instance's id


@dataclass
class Cloud:
    """The truth, and the books.

    Attributes:
        calls: the requests that reached it; tries: all that were sent, through whatever network.
        changes: goes up with each change of the books.
        on_start: makes a machine of a new lot.
        on_call: is told of each request before it is carried out.
    """

    scene: Scene
    lots: list[Lot] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    tries: list[Call] = field(default_factory=list)
    changes: int = 0
    down: set[str] = field(default_factory=set)  # zones without spot capacity
    on_start: Callable[[Lot], None] = lambda lot: None
    on_call: Callable[[Call], None] = lambda call: None

    def __post_init__(self) -> None:
        dice = self.scene.dice
        self.prices = {
            zone: tuple(
                PriceStep(
                    at=EPOCH + timedelta(hours=hour), usd_per_hour=Decimal(dice.randrange(250000, 500000)) / 1_000_000
                )
                for hour in range(-1, _HOURS, 2)
            )
            for zone in ZONES
        }
        for zone in ZONES:
            self._comes(zone)

    def steps(self, offer: Offer) -> tuple[PriceStep, ...]:
        """The price of a pool over time."""
        if offer.market is MarketKind.ON_DEMAND:
            return (PriceStep(at=EPOCH - timedelta(days=1), usd_per_hour=ON_DEMAND_USD),)
        return self.prices[offer.zone]

    def tried(self, by: str, what: str, subject: str) -> None:
        """Writes down that somebody wants something."""
        self.tries.append(Call(self.scene.timeline.now(), by, what, subject))
        self.changes += 1

    def called(self, by: str, what: str, subject: str) -> None:
        """Writes a request down."""
        call = Call(self.scene.timeline.now(), by, what, subject)
        self.calls.append(call)
        self.changes += 1
        self.on_call(call)

    def start(self, request: LaunchRequest, *, double: bool = False) -> Lot:
        """A new machine."""
        now, scene = self.scene.timeline.now(), self.scene
        lot = Lot(
            id=f"i-{len(self.lots) + 1:03d}",
            request=request,
            launched_at=now,
            visible_at=now + timedelta(seconds=scene.up_to(scene.faults.lag_s)),
            double=double,
        )
        self.lots.append(lot)
        self.changes += 1
        scene.history.add("cloud", f"starts {lot.id} for attempt {request.attempt}")
        if request.offer.market is MarketKind.SPOT and scene.faults.mean_up_s < 1e9:
            scene.timeline.after(scene.dice.expovariate(1 / scene.faults.mean_up_s), lambda: self.take(lot))
        self.on_start(lot)
        return lot

    def take(self, lot: Lot) -> None:
        """Takes a spot machine back, announced or not."""
        scene = self.scene
        if not lot.lives or lot.notice_deadline is not None:
            return
        if scene.happens(scene.faults.without_notice):
            self.end(lot, EndCause.INTERRUPTED)
            return
        now = scene.timeline.now()
        lot.notice_at, lot.notice_deadline = now, now + timedelta(seconds=scene.faults.notice_s)
        lot.notice_listed = not scene.happens(scene.faults.deaf)
        scene.history.add("cloud", f"announces the end of {lot.id}")
        lot.on_notice()
        scene.timeline.after(scene.faults.notice_s, lambda: self.end(lot, EndCause.INTERRUPTED))

    def end(self, lot: Lot, cause: EndCause) -> None:
        """The machine is gone, and bills no more."""
        if not lot.lives:
            return
        now = self.scene.timeline.now()
        lot.ended_at, lot.cause = now, cause
        lot.listed_until = now + timedelta(seconds=self.scene.up_to(self.scene.faults.stale_s))
        self.changes += 1
        self.scene.history.add("cloud", f"ends {lot.id}", cause.value)
        lot.on_end()

    def _comes(self, zone: str) -> None:
        self.down.discard(zone)
        up_s = self.scene.faults.zone_up_s
        if up_s < 1e9:
            self.scene.timeline.after(self.scene.dice.expovariate(1 / up_s), lambda: self._goes(zone))

    def _goes(self, zone: str) -> None:
        self.down.add(zone)
        for lot in self.lots:
            if lot.lives and lot.request.offer.zone == zone and lot.request.offer.market is MarketKind.SPOT:
                self.take(lot)
        mean_s = self.scene.faults.zone_down_s
        self.scene.timeline.after(self.scene.dice.expovariate(1 / mean_s), lambda: self._comes(zone))


class SimProvider:
    """The cloud as one controller reaches it. A `Provider`."""

    def __init__(self, scene: Scene, actor: Actor, cloud: Cloud, *, with_on_demand: bool) -> None:
        self._scene = scene
        self._actor = actor
        self._cloud = cloud
        self._markets = tuple(MarketKind) if with_on_demand else (MarketKind.SPOT,)
        self._cross = Crossing(scene, actor, Service.PROVIDER)

    def offers(self) -> Sequence[Offer]:
        """See `Provider.offers`."""
        return self._via("offers", lambda: [self._offer(zone, market) for zone in ZONES for market in self._markets])

    def launch(self, request: LaunchRequest) -> Instance:
        """See `Provider.launch`."""
        started: list[Lot] = []
        self._cloud.tried(self._actor.name, "launch", request.token)

        def launch() -> Instance:
            self._cloud.called(self._actor.name, "launch", request.token)
            known = next((lot for lot in self._cloud.lots if lot.request.token == request.token), None)
            if known is None:
                if request.offer.market is MarketKind.SPOT and (
                    request.offer.zone in self._cloud.down or self._scene.happens(self._scene.faults.no_capacity)
                ):
                    raise CapacityRefused(request.offer.pool, "InsufficientInstanceCapacity")
                known = self._cloud.start(request)
                started.append(known)
            return self._shown(known)

        try:
            return self._via(f"launch {request.attempt}", launch)
        except ProviderError:
            if started and self._scene.happens(self._scene.faults.doubled):
                self._cloud.start(request, double=True)
            raise

    def observe(self, job_id: str) -> Sequence[Instance]:
        """See `Provider.observe`."""

        def look() -> list[Instance]:
            now = self._scene.timeline.now()
            return [
                self._shown(lot) for lot in self._cloud.lots if lot.request.job_id == job_id and lot.visible_at <= now
            ]

        return self._via("observe", look)

    def terminate(self, instance_id: str) -> None:
        """See `Provider.terminate`."""
        self._cloud.tried(self._actor.name, "terminate", instance_id)

        def terminate() -> None:
            self._cloud.called(self._actor.name, "terminate", instance_id)
            if self._scene.happens(self._scene.faults.forgets):
                return
            for lot in self._cloud.lots:
                if lot.id == instance_id:
                    self._cloud.end(lot, EndCause.TERMINATED)

        self._via(f"terminate {instance_id}", terminate)

    def prices(self, offer: Offer, start: datetime, end: datetime) -> tuple[PriceStep, ...]:
        """See `Provider.prices`."""

        def find() -> tuple[PriceStep, ...]:
            steps = [step for step in self._cloud.steps(offer) if step.at <= end]
            first = max((place for place, step in enumerate(steps) if step.at <= start), default=0)
            return tuple(steps[first:])

        return self._via("prices", find)

    def sources(self) -> PriceSources:
        """See `Provider.sources`."""
        told = PriceSource(name="the simulated world", simulated=True)
        return PriceSources(spot=told, on_demand=told)

    def _offer(self, zone: str, market: MarketKind) -> Offer:
        price = ON_DEMAND_USD
        if market is MarketKind.SPOT:
            now = self._scene.timeline.now()
            price = next(step.usd_per_hour for step in reversed(self._cloud.prices[zone]) if step.at <= now)
        return Offer(
            provider="sim",
            region="sim1",
            zone=zone,
            instance_type="g5.xlarge",
            market=market,
            price_usd_per_hour=price,
            on_demand_usd_per_hour=ON_DEMAND_USD,
        )

    def _shown(self, lot: Lot) -> Instance:
        now = self._scene.timeline.now()
        ended = lot.ended_at is not None and (lot.listed_until is None or lot.listed_until <= now)
        state = InstanceState.ENDED if ended else InstanceState.RUNNING if lot.booted else InstanceState.PENDING
        return Instance(
            id=lot.id,
            job_id=lot.request.job_id,
            attempt=lot.request.attempt,
            token=lot.request.token,
            pool=lot.request.offer.pool,
            state=state,
            launched_at=lot.launched_at,
            notice_deadline=lot.notice_deadline if lot.notice_listed else None,
            ended_at=lot.ended_at if ended else None,
            end_cause=lot.cause if ended else None,
        )

    def _via(self, what: str, do: Callable[[], _T]) -> _T:
        return self._cross(what, do, fail=_failure)


def _failure(why: str) -> ProviderError:
    match why:
        case "throttled":
            return Throttled("asked too often")
        case "denied":
            return CredentialsExpired("the credentials have run out")
    return ProviderError(why)
