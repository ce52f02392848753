"""Calls the roll of instances: one listing for all jobs of a process, at most every 15 seconds in each region.

However many jobs look, and however often, AWS is asked for one page of up to 500 instances per region and 15 s. When it
says that this is too often, the pause doubles, up to four minutes, and meanwhile nobody is told anything: an old list
could pass for the news that an instance is missing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from spotrun.clock import Clock
from spotrun.errors import CredentialsExpired, ProviderError, Throttled
from spotrun.providers.ec2.account import Account
from spotrun.providers.ec2.catalog import Catalog
from spotrun.providers.ec2.request import MANAGED_TAG
from spotrun.providers.ec2.response import Seen, instances

__all__ = ["EVERY_S", "Roll"]

EVERY_S = 15.0  # between two listings of a region
PAUSE_MAX_S = 240.0
PAGE = 500  # instances in a page; AWS takes up to 1000 and advises smaller pages


@dataclass(kw_only=True)
class _Region:
    at: float = float("-inf")  # monotonic, of the last listing
    seen: tuple[Seen, ...] = ()
    pause_s: float
    refused: ProviderError | None = None


class Roll:
    """What instances spotrun has in an account. Thread-safe.

    Args:
        every_s: between two listings of a region.
    """

    def __init__(self, account: Account, catalog: Catalog, *, clock: Clock, every_s: float = EVERY_S) -> None:
        self._account = account
        self._catalog = catalog
        self._clock = clock
        self._every_s = every_s
        self._lock = threading.Lock()
        self._regions: dict[str, _Region] = {}

    def call(self, job_id: str, regions: Iterable[str]) -> list[Seen]:
        """The job's instances in these regions, as of at most `every_s` ago; all of them, or none are told.

        Raises:
            ProviderError: a region could not be asked.
        """
        found: list[Seen] = []
        refused: list[CredentialsExpired] = []
        answered = False
        with self._lock:
            for name in regions:
                try:
                    found += (it for it in self._of(name) if it.instance.job_id == job_id)
                    answered = True
                except CredentialsExpired as error:
                    refused.append(error)  # so EC2 calls it, too, when a region is not enabled for the account
        if refused and not answered:
            raise refused[0]
        return found

    def _of(self, name: str) -> tuple[Seen, ...]:
        region = self._regions.setdefault(name, _Region(pause_s=self._every_s))
        now = self._clock.monotonic()
        if now - region.at < region.pause_s:
            if region.refused is not None:
                raise region.refused
            return region.seen
        region.at = now
        try:
            region.seen = tuple(self._list(name))
        except Throttled as error:
            region.pause_s, region.refused = min(region.pause_s * 2, PAUSE_MAX_S), error
            raise
        except ProviderError as error:
            region.pause_s, region.refused = self._every_s, error
            raise
        region.pause_s, region.refused = self._every_s, None
        return region.seen

    def _list(self, region: str) -> Iterator[Seen]:
        zones = self._catalog.zones(region)
        pages = self._account.pages(
            "describe_instances",
            region,
            doing=f"for the instances in {region}",
            Filters=[{"Name": f"tag:{MANAGED_TAG}", "Values": ["true"]}],
            PaginationConfig={"PageSize": PAGE},
        )
        for page in pages:
            yield from instances(page, region=region, zones=zones)
