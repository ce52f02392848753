"""What the user asks for: the job file, validated once at the edge.

Each field's docstring is its description in the JSON Schema, and each has its place in docs/job-file.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from enum import Enum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from spotrun.job.checkpoint import Best, Checkpoint, Folder, Keep, Options, Signing
from spotrun.job.code import Code
from spotrun.job.ec2 import Ec2, Rebalance
from spotrun.job.elsewhere import refuse_on_ec2
from spotrun.job.field import (
    Accelerator,
    CacheFolders,
    CommandLine,
    Commands,
    Duration,
    Environment,
    Inputs,
    InstanceTypes,
    Name,
    Regions,
    Tags,
    Text,
    TraceFiles,
    Usd,
    Whole,
    between,
    wrong,
)
from spotrun.job.gang_size import GangSize, Nodes
from spotrun.job.section import Section
from spotrun.units import write_duration

__all__ = [
    "MAX_RUN_WITHOUT_CHECKPOINT",
    "Best",
    "Checkpoint",
    "Code",
    "Ec2",
    "Folder",
    "GeneratorMarket",
    "JobSpec",
    "Keep",
    "Limits",
    "LocalMarket",
    "OnShortage",
    "Options",
    "PolicyName",
    "Rebalance",
    "Resources",
    "Signing",
    "TraceMarket",
]

# SageMaker lets a training that takes no checkpoints wait and run for 3600 s at most on spot capacity (developer guide,
# 'Managed Spot Training'): what starts over at each interruption must be short, or it may never end while it bills.
MAX_RUN_WITHOUT_CHECKPOINT = timedelta(hours=1)

_MAX_RUN = timedelta(hours=24)  # SageMaker's default
_MAX_RUN_MOST = timedelta(days=28)  # SageMaker's bound
_MAX_WAIT_MOST = timedelta(days=365)
_MOMENT = timedelta(milliseconds=1)  # job time may run a thousand times as fast as a wall clock
_DAY = timedelta(days=1)
_NONE = timedelta(0)


class OnShortage(str, Enum):
    """What to do when there is no spot capacity."""

    WAIT = "wait"
    ON_DEMAND = "on_demand"


class PolicyName(str, Enum):
    """How on-demand is bought in time for max_wait; docs/placement.md says what each does."""

    WIDENING_RESERVE = "widening_reserve"
    SLACK_RESERVE = "slack_reserve"
    UNIFORM_PROGRESS = "uniform_progress"
    GREEDY = "greedy"
    ON_DEMAND = "on_demand"


class Resources(Section):
    """What a machine must have, and where it may be."""

    section: ClassVar[str] = "resources"

    accelerator: Accelerator | None = None
    """Accelerator and how many of them a machine has, like `A10G:1`; any machine without it."""

    instance_types: InstanceTypes = ()
    """Instance types that will do; the cheapest that has the accelerator if empty."""

    regions: Regions = ()
    """Regions to look for capacity in; more regions, more capacity."""

    nodes: Nodes = GangSize(least=1, most=1)
    """Machines that train together, launched and lost as one. A range like `2..8` takes as many of them as there are for
    each attempt."""


class Limits(Section):
    """What may be spent, in time and money."""

    section: ClassVar[str] = "limits"

    max_run: Annotated[Duration, between(_MOMENT, _MAX_RUN_MOST)] = _MAX_RUN
    """Time spent training, all attempts together; the job then ends as MaxRuntimeExceeded. Default: 24h, or max_wait
    if that is less, or 1h without a checkpoint section."""

    max_wait: Annotated[Duration, between(_MOMENT, _MAX_WAIT_MOST)] = _MAX_RUN
    """Time from submission, waiting and running, all attempts together; the job then ends as MaxWaitTimeExceeded.
    At least max_run, which is its default."""

    on_shortage: OnShortage = OnShortage.WAIT
    """`wait` for spot capacity, or buy `on_demand` when max_wait would otherwise be missed."""

    policy: PolicyName = PolicyName.WIDENING_RESERVE
    """How it is decided when on-demand is bought, with `on_shortage: on_demand`."""

    budget_usd: Annotated[Usd, Field(gt=0, le=1_000_000_000)] | None = None
    """Dollars; when they are spent, the job saves and ends as BudgetExceeded. No bound without it."""

    max_restarts: Annotated[Whole, Field(ge=0, le=1000)] = 0
    """How often to start again after a failure of the command. Interruptions never count."""

    stall_timeout: Annotated[Duration, between(_MOMENT, _MAX_RUN_MOST)] = timedelta(minutes=30)
    """An attempt without a new step, commit or phase for this long is stopped, and counts as a failure."""

    @model_validator(mode="before")
    @classmethod
    def _drop_none(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("max_wait", 0) is None:
            return {name: value for name, value in data.items() if name != "max_wait"}
        return data

    @model_validator(mode="after")
    def _fill(self) -> Limits:
        """Fills in the default that each of the two durations takes from the other, and refuses the impossible."""
        if "max_wait" not in self.model_fields_set:
            object.__setattr__(self, "max_wait", self.max_run)
        elif "max_run" not in self.model_fields_set:
            object.__setattr__(self, "max_run", min(_MAX_RUN, self.max_wait))
        if self.max_wait < self.max_run:
            raise wrong(
                f"{write_duration(self.max_wait)} is less than max_run {write_duration(self.max_run)}; it is the time for "
                "waiting and running together",
                field="max_wait",
            )
        if self.on_shortage is OnShortage.WAIT and self.policy is not PolicyName.WIDENING_RESERVE:
            raise wrong(
                f"{self.policy.value} says when on-demand is bought, and on_shortage is wait, so it never is; set on_shortage: "
                "on_demand, or leave policy out",
                field="policy",
            )
        return self


class GeneratorMarket(Section):
    """A generated market: capacity comes and goes by chance, the same for the same seed."""

    section: ClassVar[str] = "local.market"

    seed: Annotated[Whole, Field(ge=0, le=2**63 - 1)] = 0
    """The same seed gives the same market."""

    zones: Annotated[Whole, Field(ge=1, le=26)] = 4
    """Zones of each region."""

    mean_up: Annotated[Duration, between(_MOMENT, timedelta(days=365))] = timedelta(hours=6)
    """Mean time for which a zone has capacity."""

    mean_down: Annotated[Duration, between(_NONE, timedelta(days=365))] = timedelta(hours=1)
    """Mean time for which a zone has none."""

    without_notice: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.1
    """Share of the interruptions that come without notice, from 0 to 1."""


class TraceMarket(Section):
    """A recorded market: one availability trace for each zone."""

    section: ClassVar[str] = "local.market"

    availability: TraceFiles
    """Zone id -> file of its availability trace."""

    prices: Text | None = None
    """File of spot prices, rows of DescribeSpotPriceHistory."""

    seed: Annotated[Whole, Field(ge=0, le=2**63 - 1)] = 0
    """The same seed gives the same notices."""

    without_notice: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.1
    """Share of the interruptions that come without notice, from 0 to 1."""


def _kind(market: object) -> str:
    names = market if isinstance(market, Mapping) else ()
    return "trace" if isinstance(market, TraceMarket) or "availability" in names or "prices" in names else "generator"


Market = Annotated[
    Annotated[GeneratorMarket, Tag("generator")] | Annotated[TraceMarket, Tag("trace")], Discriminator(_kind)
]


class LocalMarket(Section):
    """The local provider: real processes on this machine under a simulated market."""

    section: ClassVar[str] = "local"

    time_scale: Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)] = 1.0
    """Seconds of the job's time in one second of wall time: 60 makes an hour of market pass in a minute."""

    market: Market = GeneratorMarket()
    """A generated market, or, with `availability`, a recorded one."""

    notice: Annotated[Duration, between(_NONE, _DAY)] = timedelta(seconds=120)
    """How long before an interruption its notice comes."""

    launch_delay: Annotated[Duration, between(_NONE, _DAY)] = timedelta(seconds=30)
    """Time from a launch to the start of the command."""


class JobSpec(Section):
    """A job, as the user writes it."""

    name: Name
    """The job's name: 1 to 63 letters, digits, `-` and `_`."""

    command: CommandLine
    """What to run: one line, split into words as a shell would but without a shell, or a list of words."""

    resources: Resources = Resources()
    """What a machine must have, and where it may be."""

    limits: Limits = Limits()
    """What may be spent, in time and money."""

    checkpoint: Checkpoint | None = None
    """Where and how often the training is saved. Without it, max_run is at most 1h."""

    inputs: Inputs = Field(default_factory=dict)
    """Name -> URL, or path relative to the directory of submission. Brought to the machine before the command starts,
    which finds its path in SPOTRUN_INPUT_<NAME>."""

    tags: Tags = Field(default_factory=dict)
    """Name -> value, put on everything that is launched."""

    environment: Environment = Field(default_factory=dict)
    """Variable -> value for the command. No secrets: the journal keeps them."""

    setup: Commands = ()
    """Commands that run once for each attempt before the command, like it without a shell."""

    cache: CacheFolders = ()
    """Folders below the working directory or `~/` that are kept in the store from one attempt to the next."""

    code: Code = Code()
    """What is brought to a machine that is not this one: the working directory, or a commit of a git repository."""

    provider: Literal["local", "ec2"] = "local"
    """Whose capacity to use: this computer's, or that of an AWS account."""

    ec2: Ec2 = Ec2()
    """The EC2 provider: how machines are made in the user's AWS account."""

    local: LocalMarket = LocalMarket()
    """The local provider: real processes on this machine under a simulated market."""

    @property
    def time_scale(self) -> float:
        """Seconds of the job's time in one second of wall time: 1, but for a local job that asks for more."""
        return self.local.time_scale if self.provider == "local" else 1.0

    @model_validator(mode="after")
    def _agree(self) -> JobSpec:
        if self.provider == "local" and not self.resources.nodes.is_single:
            raise wrong(f"must be 1 with the local provider, not {self.resources.nodes}", field="resources.nodes")
        if self.checkpoint is not None and self.checkpoint.strict and self.resources.nodes.is_elastic:
            raise wrong(
                f"refuses to go on on another number of machines, which resources.nodes: {self.resources.nodes} may bring; "
                "leave one of them out",
                field="checkpoint.strict",
            )
        if self.provider == "ec2":
            refuse_on_ec2(self)
        if self.checkpoint is None:
            self._bound_without_checkpoint()
        return self

    def _bound_without_checkpoint(self) -> None:
        limits = self.limits
        if limits.max_run <= MAX_RUN_WITHOUT_CHECKPOINT:
            return
        bound = write_duration(MAX_RUN_WITHOUT_CHECKPOINT)
        if "max_run" in limits.model_fields_set:
            raise wrong(
                f"is missing, and limits.max_run is {write_duration(limits.max_run)}; a spot job that saves nothing "
                "starts over at each interruption and may never end: add checkpoint.uri, or set limits.max_run to at "
                f"most {bound}",
                field="checkpoint",
            )
        given = {name: getattr(limits, name) for name in limits.model_fields_set}
        object.__setattr__(self, "limits", Limits(**given, max_run=MAX_RUN_WITHOUT_CHECKPOINT))

    def to_json(self) -> dict[str, Any]:
        """The spec as JSON types, with defaults filled in; `JobSpec.model_validate` reads it back."""
        return self.model_dump(mode="json")
