"""Everything that the jobs of a process share of their AWS account, as one value."""

from __future__ import annotations

from dataclasses import dataclass

from spotrun.clock import Clock
from spotrun.market.price_file import PriceFile
from spotrun.providers.ec2 import notice, roll
from spotrun.providers.ec2.account import Account
from spotrun.providers.ec2.catalog import Catalog
from spotrun.providers.ec2.image import Images
from spotrun.providers.ec2.list_price import ListPrices
from spotrun.providers.ec2.network import Networks
from spotrun.providers.ec2.notice import Notices
from spotrun.providers.ec2.quota import Quotas
from spotrun.providers.ec2.roll import Roll
from spotrun.providers.ec2.spot_price import SpotPrices

__all__ = ["Aws", "Pacing", "open_aws"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pacing:
    """How often AWS is asked, in seconds of wall time, however many jobs look."""

    list_s: float = roll.EVERY_S  # between two listings of the instances of a region
    notices_s: float = notice.EVERY_S  # between two looks into a queue


@dataclass(frozen=True, kw_only=True, slots=True)
class Aws:
    """The account, and what is remembered of it. Every part is thread-safe."""

    account: Account
    catalog: Catalog
    spot_prices: SpotPrices
    list_prices: ListPrices
    quotas: Quotas
    images: Images
    networks: Networks
    roll: Roll
    notices: Notices


def open_aws(
    clock: Clock, *, account: Account | None = None, kept: PriceFile | None = None, pacing: Pacing | None = None
) -> Aws:
    """The account behind boto3's credentials; nothing is asked of it yet.

    Args:
        clock: wall time.
        account: another one.
        kept: prices that were read before, for when AWS cannot be asked for them.
        pacing: how often it may be asked.
    """
    account, pacing = account or Account(), pacing or Pacing()
    catalog = Catalog(account, clock=clock)
    return Aws(
        account=account,
        catalog=catalog,
        spot_prices=SpotPrices(account, catalog, clock=clock),
        list_prices=ListPrices(account, clock=clock, kept=kept),
        quotas=Quotas(account, clock=clock),
        images=Images(account, clock=clock),
        networks=Networks(account, catalog, clock=clock),
        roll=Roll(account, catalog, clock=clock, every_s=pacing.list_s),
        notices=Notices(account, clock=clock, every_s=pacing.notices_s),
    )
