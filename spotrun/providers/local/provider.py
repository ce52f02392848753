"""The local provider: real processes on this computer, under a simulated market.

A launch writes the machine's state folder (`state`), named after the token, and spawns its host (`host`), a detached
process that lives until the machine ends. The provider keeps nothing in memory that the folders do not tell, so any
number of controllers, one after the other or at once, see the same machines.

Killed between any two steps, a launch leaves nothing, a folder without a host, or both: the repeat with the same token
makes what is missing. Two hosts can be spawned, but only the one that takes the folder's lock starts anything.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from spotrun.clock import ScaledClock, SystemClock
from spotrun.errors import CapacityRefused, ProviderError, SpecError, Throttled
from spotrun.market import price_table
from spotrun.market.market import Market
from spotrun.market.offer import MarketKind, Offer, PriceStep
from spotrun.market.source import PriceSource, PriceSources
from spotrun.providers.local.environment import host_environment
from spotrun.providers.local.post_mortem import settle
from spotrun.providers.local.state import Machine, StateFolder, folders, instance_id
from spotrun.providers.provider import Instance, InstanceState, LaunchRequest

__all__ = ["LocalProvider", "LocalSettings"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalSettings:
    """How machines behave.

    Attributes:
        instance_types: what is offered in every zone.
        notice: how long before the loss it is announced.
        launch_delay: from the launch to the start of the agent.
        aws: whether machines inherit the AWS variables.
        inherited: further variables that they inherit.
        spot_source: where the market's prices come from.
        agent_argv: what a machine runs.
    """

    instance_types: tuple[str, ...] = ("g5.xlarge",)
    notice: timedelta = timedelta(seconds=120)
    launch_delay: timedelta = timedelta(seconds=30)
    aws: bool = False
    inherited: tuple[str, ...] = ()
    spot_source: PriceSource = field(default_factory=lambda: PriceSource(name="a simulated market", simulated=True))
    agent_argv: tuple[str, ...] = field(default_factory=lambda: (sys.executable, "-m", "spotrun.agent"))

    def __post_init__(self) -> None:
        for name in ("notice", "launch_delay"):
            if getattr(self, name) < timedelta(0):
                raise SpecError(f"local.{name}: must not be negative")


class LocalProvider:
    """Implements `spotrun.providers.provider.Provider`.

    Args:
        market: where capacity and prices come from.
        home: machines live in `<home>/instances/<job id>/<instance id>`; must be on a local disk, for its locks.
        clock: the job's clock.
        settings: how machines behave.
    """

    name = "local"

    def __init__(
        self,
        market: Market,
        *,
        home: Path,
        clock: SystemClock | ScaledClock,
        settings: LocalSettings | None = None,
    ) -> None:
        self._market = market
        self._home = home.absolute()
        self._clock = clock
        self._settings = settings or LocalSettings()
        self._offered = _offered(market, self._settings.instance_types)

    def offers(self) -> Sequence[Offer]:
        """A spot offer for every zone and type, and an on-demand offer for every region and type."""
        now = self._clock.now()
        return tuple(
            Offer(
                provider=self.name,
                region=region,
                zone=zone,
                instance_type=instance_type,
                market=kind,
                price_usd_per_hour=self._prices(kind, zone, instance_type, now, now)[-1].usd_per_hour,
                on_demand_usd_per_hour=self._market.on_demand_usd_per_hour(zone, instance_type),
            )
            for zone, region, instance_type, kind in self._offered
        )

    def launch(self, request: LaunchRequest) -> Instance:
        """See `Provider.launch`. A repeat starts the host that a killed controller could not start any more."""
        id_ = instance_id(self._home, request.token)
        folder = StateFolder.of(self._home, job_id=request.job_id, id=id_)
        try:
            if not folder.exists():
                folder.create(self._machine(request, id_))
            if folder.end() is None and folder.host() is None:
                self._spawn_host(folder, id_)
            return _instance(folder)
        except OSError as err:
            raise Throttled(f"this computer could not start {id_}: {err}; ask again with the same token") from err

    def observe(self, job_id: str) -> Sequence[Instance]:
        """See `Provider.observe`. A machine whose host died is cleared up and told as lost."""
        with _told_as_provider_error():
            return [_instance(folder) for folder in folders(self._home, job_id=job_id) if folder.exists()]

    def terminate(self, instance_id: str) -> None:
        """See `Provider.terminate`."""
        with _told_as_provider_error():
            for folder in folders(self._home, id=instance_id):
                if folder.end() is None:
                    folder.ask_termination()
                    settle(folder)

    def prices(self, offer: Offer, start: datetime, end: datetime) -> tuple[PriceStep, ...]:
        """See `Provider.prices`. These are simulated; on-demand prices are from the built-in table and do not move."""
        return self._prices(offer.market, offer.zone, offer.instance_type, start, end)

    def sources(self) -> PriceSources:
        """See `Provider.sources`."""
        on_demand = PriceSource(name=price_table.SOURCE, as_of=price_table.AS_OF)
        return PriceSources(spot=self._settings.spot_source, on_demand=on_demand)

    def _prices(
        self, kind: MarketKind, zone: str, instance_type: str, start: datetime, end: datetime
    ) -> tuple[PriceStep, ...]:
        if not any(zone == known and instance_type == type_ for known, _, type_, _ in self._offered):
            raise ProviderError(f"{zone}/{instance_type} is not in this market")
        if kind is MarketKind.SPOT:
            return self._market.spot_prices(zone, instance_type, start, end)
        return (PriceStep(at=start, usd_per_hour=self._market.on_demand_usd_per_hour(zone, instance_type)),)

    def _machine(self, request: LaunchRequest, id_: str) -> Machine:
        """What the market has in store for a machine launched now.

        Raises:
            CapacityRefused: the zone is down.
        """
        offer = request.offer
        if (offer.zone, offer.region, offer.instance_type, offer.market) not in self._offered:
            raise ProviderError(f"{offer.pool} is not on offer here")
        now = self._clock.now()
        loss = None
        if offer.market is MarketKind.SPOT:
            if not self._market.available(offer.zone, now):
                raise CapacityRefused(
                    offer.pool,
                    f"InsufficientInstanceCapacity: We currently do not have sufficient {offer.instance_type} capacity "
                    f"in the Availability Zone you requested ({offer.zone}).",
                )
            loss = self._market.next_loss(offer.zone, now)
        announced = loss is not None and loss.notice and self._settings.notice > timedelta(0)
        return Machine(
            id=id_,
            job_id=request.job_id,
            attempt=request.attempt,
            token=request.token,
            zone=offer.zone,
            instance_type=offer.instance_type,
            market=offer.market,
            launched_at=now,
            ready_at=now + self._settings.launch_delay,
            notice_at=max(now, loss.at - self._settings.notice) if loss and announced else None,
            loss_at=loss.at if loss else None,
            clock=self._clock.to_text(),
            agent_argv=self._settings.agent_argv,
            environment=dict(request.environment),
            tags=dict(request.tags),
        )

    def _spawn_host(self, folder: StateFolder, id_: str) -> None:
        folder.beat(self._clock.now())
        with (folder.path / "host.log").open("ab") as log:
            host = subprocess.Popen(
                [sys.executable, "-m", "spotrun.providers.local.host", str(folder.path)],
                env=host_environment(id_, aws=self._settings.aws, named=self._settings.inherited),
                cwd=folder.scratch,  # -m puts it on sys.path: it must hold no module of the user's
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        # The host outlives us or we outlive it: in the second case somebody must reap it.
        threading.Thread(target=host.wait, name=f"reap {id_}", daemon=True).start()


@contextmanager
def _told_as_provider_error() -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise ProviderError(f"the machines' state folders cannot be used: {err}") from err


def _offered(market: Market, instance_types: tuple[str, ...]) -> tuple[tuple[str, str, str, MarketKind], ...]:
    """Zone, region, type and kind of every offer; types without a known price in a region are not offered there.

    Raises:
        SpecError: a type has a known price in none of the market's regions.
    """
    offered = []
    for instance_type in instance_types:
        regions: set[str] = set()
        problem: SpecError | None = None
        for zone in market.zones:
            try:
                market.on_demand_usd_per_hour(zone.id, instance_type)
            except SpecError as err:
                problem = err
                continue
            offered.append((zone.id, zone.region, instance_type, MarketKind.SPOT))
            if zone.region not in regions:  # on-demand is bought by the region: its first zone stands for it
                offered.append((zone.id, zone.region, instance_type, MarketKind.ON_DEMAND))
                regions.add(zone.region)
        if problem is not None and not regions:
            raise problem
    return tuple(offered)


def _instance(folder: StateFolder) -> Instance:
    end = settle(folder)
    machine = folder.machine()
    host = folder.host()
    if end is not None:
        state = InstanceState.ENDED
    elif host is not None and host.agent_started_at is not None:
        state = InstanceState.RUNNING
    else:
        state = InstanceState.PENDING
    return Instance(
        id=machine.id,
        job_id=machine.job_id,
        attempt=machine.attempt,
        token=machine.token,
        pool=machine.pool,
        state=state,
        launched_at=machine.launched_at,
        notice_deadline=host.notice_deadline if host else None,
        ended_at=end.ended_at if end else None,
        end_cause=end.cause if end else None,
    )
