"""What the user asks for: the job file, validated once at the edge."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from spotrun.units import parse_duration

__all__ = [
    "Checkpoint",
    "GeneratorMarket",
    "JobSpec",
    "Keep",
    "Limits",
    "LocalMarket",
    "OnShortage",
    "Resources",
    "TraceMarket",
]


def _duration(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


def _seconds(value: timedelta) -> str:
    return f"{value.total_seconds():.6f}".rstrip("0").rstrip(".") + "s"


Duration = Annotated[
    timedelta,
    BeforeValidator(_duration),
    PlainSerializer(_seconds, return_type=str, when_used="json"),
]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OnShortage(str, Enum):
    """What to do when there is no spot capacity."""

    WAIT = "wait"
    ON_DEMAND = "on_demand"


class Resources(_Section):
    """What a machine must have."""

    accelerator: str | None = None  # e.g. "A10G:1"
    instance_types: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    nodes: int = 1


class Limits(_Section):
    """What may be spent, in time and money."""

    max_run: Duration = timedelta(hours=24)  # training time, all attempts together
    max_wait: Duration | None = None  # wall time from submission, waiting and running; default: max_run
    on_shortage: OnShortage = OnShortage.WAIT
    budget_usd: Decimal | None = None
    max_restarts: int = 0  # of the user's own failures; interruptions never count
    stall_timeout: Duration = timedelta(minutes=30)


class Keep(_Section):
    """Which commits survive."""

    last: int = 3


class Checkpoint(_Section):
    """Where and how often the training is saved."""

    uri: str
    interval: Duration | Literal["auto"] = "auto"
    keep: Keep = Keep()


class GeneratorMarket(_Section):
    """A generated market: see `spotrun.market.generator`."""

    seed: int = 0
    zones: int = 4
    mean_up: Duration = timedelta(hours=6)
    mean_down: Duration = timedelta(hours=1)
    without_notice: float = 0.1  # share of interruptions that come without notice


class TraceMarket(_Section):
    """A recorded market: one availability trace per zone; prices from rows of DescribeSpotPriceHistory if given."""

    availability: dict[str, str]  # zone id -> file
    prices: str | None = None  # file
    seed: int = 0
    without_notice: float = 0.1


class LocalMarket(_Section):
    """The local provider: real processes on this machine under a simulated market."""

    time_scale: float = 1.0  # seconds of job time in one second of wall time
    market: GeneratorMarket | TraceMarket = GeneratorMarket()
    notice: Duration = timedelta(seconds=120)
    launch_delay: Duration = timedelta(seconds=30)


class JobSpec(_Section):
    """A job, as the user writes it."""

    name: str
    command: str | tuple[str, ...]
    resources: Resources = Resources()
    limits: Limits = Limits()
    checkpoint: Checkpoint | None = None
    inputs: dict[str, str] = Field(default_factory=dict)
    tags: dict[str, str] = Field(default_factory=dict)
    environment: dict[str, str] = Field(default_factory=dict)
    provider: Literal["local"] = "local"
    local: LocalMarket = LocalMarket()

    def to_json(self) -> dict[str, Any]:
        """The spec as JSON types, with defaults filled in; `JobSpec.model_validate` reads it back."""
        return self.model_dump(mode="json")
