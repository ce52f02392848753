"""Where prices come from: a figure without source and date is worth little."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

__all__ = ["PriceSource", "PriceSources"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PriceSource:
    """Where prices come from.

    Attributes:
        name: e.g. `DescribeSpotPriceHistory` or `market generator, seed 7`.
        as_of: the date of the prices; None for prices read at the very time they held.
        simulated: nobody was ever billed these prices; every rendering says so.
    """

    name: str
    as_of: date | None = None
    simulated: bool = False

    @property
    def sentence(self) -> str:
        """The source with its date, and whether it is simulated."""
        dated = f"{self.name}, as of {self.as_of:%Y-%m-%d}" if self.as_of is not None else self.name
        return f"{dated} (simulated)" if self.simulated else dated


@dataclass(frozen=True, kw_only=True, slots=True)
class PriceSources:
    """Of the prices that are paid for spot capacity, and of those that on-demand capacity would have cost."""

    spot: PriceSource
    on_demand: PriceSource
