"""On-demand prices: AWS's Price List; where that cannot be asked, what was read of it before, or the built-in table.

Each price says where it is from and of when. The Price List is one service for all regions, in us-east-1; whoever has no
permission for it (`pricing:GetProducts`) still gets the table's prices, with the table's date.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from spotrun.clock import Clock
from spotrun.errors import ProviderError, SpecError
from spotrun.market import price_file, price_table
from spotrun.market.price_file import PriceFile
from spotrun.market.source import PriceSource
from spotrun.providers.ec2.account import Account
from spotrun.providers.ec2.memory import Memory

__all__ = ["ListPrice", "ListPrices", "parse_products"]

PRICE_LIST = "AWS Price List (GetProducts), Linux, shared tenancy"

_PRICING_REGION = "us-east-1"
_A_DAY_S = 86_400.0
_DOWN_S = 600.0  # a service that did not answer is left alone for so long
_NOT_ONE = (
    ValueError,
    AttributeError,
    TypeError,
    RecursionError,
)  # a product that is none: the others are read all the same
_WANTED = {
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "capacitystatus": "Used",
    "preInstalledSw": "NA",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ListPrice:
    """An on-demand price, and where it comes from."""

    usd_per_hour: Decimal
    source: PriceSource


class ListPrices:
    """On-demand prices by type and region. Thread-safe.

    Args:
        account: whose AWS is asked.
        clock: wall time.
        kept: prices that were read before, for when AWS cannot be asked.
    """

    def __init__(self, account: Account, *, clock: Clock, kept: PriceFile | None = None) -> None:
        self._account = account
        self._kept = kept or PriceFile()
        self._clock = clock
        self._asked: Memory[tuple[str, str], ListPrice | None] = Memory(_A_DAY_S, clock=clock)
        self._down_until = float("-inf")

    def price(self, instance_type: str, region: str) -> ListPrice | None:
        """The on-demand price, or None where neither AWS nor what is kept has one."""
        if self._clock.monotonic() >= self._down_until:
            try:
                told = self._asked.get((instance_type, region), lambda: self._ask(instance_type, region))
            except ProviderError:
                self._down_until = self._clock.monotonic() + _DOWN_S
            else:
                return told or self._without_aws(instance_type, region)
        return self._without_aws(instance_type, region)

    def listing(self, region: str) -> dict[str, ListPrice]:
        """The on-demand prices of every type of a region, as AWS lists them now.

        Raises:
            ProviderError: it could not be asked.
        """
        by_type: dict[str, list[Mapping[str, Any]]] = {}
        pages = self._account.pages(
            "get_products",
            _PRICING_REGION,
            service="pricing",
            doing=f"for the on-demand prices of {region}",
            ServiceCode="AmazonEC2",
            Filters=_filters({**_WANTED, "regionCode": region}),
        )
        for page in pages:
            for product in page.get("PriceList", ()):
                with suppress(*_NOT_ONE):
                    told = _read(product)
                    name = str(told.get("product", {}).get("attributes", {}).get("instanceType", ""))
                    by_type.setdefault(name, []).append(told)
        today = self._clock.now().date()
        priced = {name: parse_products(products, today=today) for name, products in by_type.items()}
        return {name: price for name, price in priced.items() if name and price is not None}

    def _without_aws(self, instance_type: str, region: str) -> ListPrice | None:
        """The newer of what was read before and what is built in."""
        row = self._kept.on_demand_row(instance_type, region)
        if row is not None and row.as_of >= price_table.AS_OF:
            return ListPrice(usd_per_hour=row.usd_per_hour, source=PriceSource(name=price_file.SOURCE, as_of=row.as_of))
        return _built_in(instance_type, region)

    def _ask(self, instance_type: str, region: str) -> ListPrice | None:
        wanted = {**_WANTED, "instanceType": instance_type, "regionCode": region}
        filters = _filters(wanted)
        client = self._account.client("pricing", _PRICING_REGION)
        with self._account.asking("for on-demand prices"):
            answer = client.get_products(ServiceCode="AmazonEC2", Filters=filters, MaxResults=100)
        return parse_products(answer.get("PriceList", ()), today=self._clock.now().date())


def parse_products(products: Iterable[str | Mapping[str, Any]], *, today: date) -> ListPrice | None:
    """The price per hour in a `PriceList`; None if there is none above zero, the highest if there are several: a list of
    reservations has zeros in it, and a baseline must not be guessed low.

    Args:
        products: JSON texts, as the service gives them.
        today: the date of a price that tells none.
    """
    found: list[tuple[Decimal, date]] = []
    for product in products:
        with suppress(*_NOT_ONE):
            found += _prices(_read(product), today)
    if not found:
        return None
    usd, as_of = max(found)
    return ListPrice(usd_per_hour=usd, source=PriceSource(name=PRICE_LIST, as_of=as_of))


def _read(product: str | Mapping[str, Any]) -> Mapping[str, Any]:
    """A product; botocore does not look into its text."""
    told: Mapping[str, Any] = json.loads(product) if isinstance(product, str) else product
    return told


def _prices(told: Mapping[str, Any], today: date) -> list[tuple[Decimal, date]]:
    found = []
    as_of = _date(told.get("publicationDate")) or today
    for term in told.get("terms", {}).get("OnDemand", {}).values():
        for dimension in term.get("priceDimensions", {}).values():
            usd = _usd(dimension.get("pricePerUnit", {}).get("USD"))
            if usd is not None and dimension.get("unit") in ("Hrs", "Hours"):
                found.append((usd, as_of))
    return found


def _filters(wanted: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in wanted.items()]


def _built_in(instance_type: str, region: str) -> ListPrice | None:
    try:
        usd = price_table.on_demand_usd_per_hour(instance_type, region)
    except SpecError:
        return None
    return ListPrice(usd_per_hour=usd, source=PriceSource(name=price_table.SOURCE, as_of=price_table.AS_OF))


def _usd(text: object) -> Decimal | None:
    try:
        usd = Decimal(str(text))
    except InvalidOperation:
        return None
    return usd if usd.is_finite() and usd > 0 else None


def _date(text: object) -> date | None:
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).date() if isinstance(text, str) else None
    except ValueError:
        return None
