"""Opens a simulated market from its configuration: a generator, or recorded traces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from spotrun.errors import SpecError
from spotrun.market.generator import GeneratedPrices, GeneratorConfig, generated_timeline, generated_zones
from spotrun.market.market import Market
from spotrun.market.price_history import RecordedPrices, read_price_rows
from spotrun.market.trace import read_trace, trace_timeline
from spotrun.market.zone import zone_of

__all__ = ["DEFAULT_REGION", "TraceConfig", "open_market"]

DEFAULT_REGION = "us-east-1"  # the region with the most complete price table


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceConfig:
    """A recorded market.

    Attributes:
        availability: zone id or name -> trace file; see `spotrun.market.trace`.
        prices: file with rows of DescribeSpotPriceHistory; generated prices when None.
        seed: decides what the recordings do not tell: which losses are announced, and prices where none are given.
        without_notice: share of the losses that come without notice.
    """

    availability: Mapping[str, Path] = field(default_factory=dict)
    prices: Path | None = None
    seed: int = 0
    without_notice: float = 0.1


def open_market(
    config: GeneratorConfig | TraceConfig,
    *,
    start: datetime,
    regions: tuple[str, ...] = (),
    instance_types: tuple[str, ...] = (),
) -> Market:
    """The market of this configuration, beginning at `start`.

    Args:
        config: what kind of market.
        start: job time of its first moment, aware.
        regions: the regions wanted; none means `DEFAULT_REGION` for a generator and every recorded one for traces.
        instance_types: the types for which recorded prices must exist.

    Raises:
        SpecError: a file is missing or malformed, or a wanted region or price is not there.
    """
    if isinstance(config, GeneratorConfig):
        zones = generated_zones(config, tuple(dict.fromkeys(regions or (DEFAULT_REGION,))))
        timelines = {zone.id: generated_timeline(config, zone) for zone in zones}
        return Market(start, zones=zones, timelines=timelines, prices=GeneratedPrices(config.seed))
    recorded = [(zone_of(name), path) for name, path in config.availability.items()]
    wanted = [(zone, path) for zone, path in recorded if not regions or zone.region in regions]
    if not wanted:
        has = ", ".join(sorted({zone.region for zone, _ in recorded})) or "no zone at all"
        raise SpecError(f"local.market.availability: has {has}, which leaves nothing in {', '.join(regions) or 'it'}")
    zones = tuple(zone for zone, _ in wanted)
    return Market(
        start,
        zones=zones,
        timelines={
            zone.id: trace_timeline(
                read_trace(path), seed=f"{config.seed}/{zone.id}", without_notice=config.without_notice
            )
            for zone, path in wanted
        },
        prices=(
            GeneratedPrices(config.seed)
            if config.prices is None
            else RecordedPrices(read_price_rows(config.prices), zones=zones, instance_types=instance_types)
        ),
    )
