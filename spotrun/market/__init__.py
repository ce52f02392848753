"""Offers, prices, and simulated markets. Standard library only.

- `offer`: what can be launched, and step prices with their integral.
- `price_table`: on-demand list prices, built in and dated; which types have which accelerator.
- `market`: the market itself, a pure function of time: `available`, `next_loss`, `next_up`, `spot_prices`.
- `simulated`: opens one from a `GeneratorConfig` (`generator`) or a `TraceConfig` (`trace`, `price_history`).
"""

from spotrun.market.generator import GeneratorConfig
from spotrun.market.market import Loss, Market
from spotrun.market.offer import MarketKind, Offer, PriceStep, cost_usd, mean_price_usd_per_hour
from spotrun.market.simulated import TraceConfig, open_market
from spotrun.market.zone import Zone

__all__ = [
    "GeneratorConfig",
    "Loss",
    "Market",
    "MarketKind",
    "Offer",
    "PriceStep",
    "TraceConfig",
    "Zone",
    "cost_usd",
    "mean_price_usd_per_hour",
    "open_market",
]
