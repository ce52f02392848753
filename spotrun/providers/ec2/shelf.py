"""What an account could launch for one job: types, zones, prices, quotas, image and network put together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from spotrun.errors import ProviderError, SpecError, SpotrunError
from spotrun.job.gang_size import GangSize
from spotrun.job.spec import JobSpec
from spotrun.market.offer import MarketKind, Offer
from spotrun.providers.ec2.aws import Aws
from spotrun.providers.ec2.candidate import Candidate, faulted
from spotrun.providers.ec2.machine_type import MachineType
from spotrun.providers.ec2.score import placement_scores

__all__ = ["Shelf"]


class Shelf:
    """The candidates of one job.

    Args:
        aws: the account.
        spec: the job.
    """

    def __init__(self, aws: Aws, spec: JobSpec) -> None:
        self._aws = aws
        self._spec = spec

    @property
    def regions(self) -> tuple[str, ...]:
        """Where the job may be: its own regions, or the account's default.

        Raises:
            SpecError: neither names one.
        """
        return self._spec.resources.regions or (self._aws.account.home_region(),)

    def candidates(self) -> list[Candidate]:
        """Every pool of the job's types and regions; those with a fault are not to be launched. A region that cannot be used
        is one candidate with its fault, as long as another one can.

        Raises:
            SpecError: no type of any region is what was asked for.
            ProviderError: no region could be asked.
        """
        resources = self._spec.resources
        found: list[Candidate] = []
        errors: dict[str, SpotrunError] = {}
        for region in self.regions:
            try:
                found += self._of(region)
            except (ProviderError, SpecError) as error:
                errors[region] = error
        if len(errors) == len(self.regions):
            raise next(iter(errors.values()))
        found += (_unusable(region, error) for region, error in errors.items())
        return faulted(found, nodes=resources.nodes.least, alike=not resources.instance_types)

    def scored(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The candidates with AWS's placement scores, where it gives some.

        Raises:
            CredentialsExpired: nothing can be asked at all.
        """
        names = sorted({each.instance_type for each in candidates if not each.fault})
        if not names:
            return list(candidates)
        scores = placement_scores(
            self._aws.account, names=names, regions=self.regions, nodes=self._spec.resources.nodes.most
        )
        return [
            replace(each, score=scores.get(each.zone)) if each.market is MarketKind.SPOT else each
            for each in candidates
        ]

    def nodes(self, offers: Sequence[Offer]) -> GangSize:
        """How many machines to ask for in these pools of one region: of an elastic gang, no more than a quota can ever hold.

        Raises:
            ProviderError: it could not be asked.
        """
        resources, aws = self._spec.resources, self._aws
        if not resources.nodes.is_elastic:
            return resources.nodes
        vcpus = {known.name: known.vcpus for known in aws.catalog.types(offers[0].region, resources)}
        held: list[int] = []
        for offer in offers:
            quota = aws.quotas.of(offer.instance_type, offer.region, offer.market)
            if quota is None or offer.instance_type not in vcpus:
                return resources.nodes  # AWS will tell
            held.append(quota.vcpus // vcpus[offer.instance_type])
        least = resources.nodes.least
        return GangSize(least=least, most=max(least, min(resources.nodes.most, max(held))))

    def _of(self, region: str) -> Iterator[Candidate]:
        aws, settings = self._aws, self._spec.ec2
        types = aws.catalog.types(region, self._spec.resources)
        names = [known.name for known in types]
        if not names:
            return
        image = aws.images.find(settings.image, region)
        network = aws.networks.find(region, subnets=settings.subnets, security_groups=settings.security_groups)
        spot = aws.spot_prices.now(region, names)
        offered = aws.catalog.offered(region, names)
        for known in types:
            fault = network.fault
            if image.architecture not in known.architectures:
                fault = fault or f"{known.name} does not run the image {image.id} ({image.architecture}) of {region}"
            listed = aws.list_prices.price(known.name, region)
            for zone, name in sorted(offered):
                if name != known.name:
                    continue
                placed = fault or ("" if zone in network.subnets else f"{zone} has no subnet of ours")
                for market in _markets(known):
                    on_demand = None if listed is None else listed.usd_per_hour
                    yield Candidate(
                        region=region,
                        zone=zone,
                        instance_type=name,
                        market=market,
                        vcpus=known.vcpus,
                        price_usd_per_hour=spot.get((zone, name)) if market is MarketKind.SPOT else on_demand,
                        on_demand_usd_per_hour=on_demand,
                        on_demand_source=None if listed is None else listed.source,
                        quota=aws.quotas.of(name, region, market),
                        fault=placed,
                    )


def _unusable(region: str, error: SpotrunError) -> Candidate:
    return Candidate(
        region=region,
        zone=region,
        instance_type="any",
        market=MarketKind.SPOT,
        vcpus=0,
        price_usd_per_hour=None,
        on_demand_usd_per_hour=None,
        fault=f"{region}: {error}",
    )


def _markets(known: MachineType) -> Iterator[MarketKind]:
    if "spot" in known.markets:
        yield MarketKind.SPOT
    if "on-demand" in known.markets:
        yield MarketKind.ON_DEMAND
