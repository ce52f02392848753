"""What the user asks for: the job file, validated once at the edge.

Each field's docstring is its description in the JSON Schema, and each has its place in docs/job-file.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from spotrun.errors import SpecError
from spotrun.job.field import (
    Accelerator,
    CommandLine,
    Duration,
    Environment,
    FolderPath,
    Inputs,
    InstanceTypes,
    Interval,
    Name,
    Patterns,
    Place,
    Regions,
    Tagged,
    Tags,
    Text,
    TraceFiles,
    Usd,
    VariableName,
    Whole,
    between,
    path_alone,
    wrong,
)
from spotrun.job.sentence import sentences
from spotrun.units import write_duration

__all__ = [
    "MAX_RUN_WITHOUT_CHECKPOINT",
    "Best",
    "Checkpoint",
    "Folder",
    "GeneratorMarket",
    "JobSpec",
    "Keep",
    "Limits",
    "LocalMarket",
    "OnShortage",
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


if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)  # pydantic gives it no public name


class _InSentences(ModelMetaclass):
    """Makes a spec written in Python fail in the same sentences as a job file. Inside of pydantic, where a section is
    one part of a whole, nothing is called and errors keep their paths."""

    if not TYPE_CHECKING:

        def __call__(cls, *args, **kwargs):  # noqa: N805  a metaclass
            try:
                return super().__call__(*args, **kwargs)
            except ValidationError as err:
                raise SpecError(sentences(err, cls, section=cls.section)) from None


class _Section(BaseModel, metaclass=_InSentences):
    section: ClassVar[str] = ""  # its path in the job file

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True)


class OnShortage(str, Enum):
    """What to do when there is no spot capacity."""

    WAIT = "wait"
    ON_DEMAND = "on_demand"


class Resources(_Section):
    """What a machine must have, and where it may be."""

    section: ClassVar[str] = "resources"

    accelerator: Accelerator | None = None
    """Accelerator and how many of them a machine has, like `A10G:1`; any machine without it."""

    instance_types: InstanceTypes = ()
    """Instance types that will do; the cheapest that has the accelerator if empty."""

    regions: Regions = ()
    """Regions to look for capacity in; more regions, more capacity."""

    nodes: Annotated[Whole, Field(ge=1)] = 1
    """Machines that train together, launched and lost as one."""


class Limits(_Section):
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
        return self


class Best(_Section):
    """Keeps the commits with the best value of a metric."""

    section: ClassVar[str] = "checkpoint.keep.best"

    metric: Text
    """A name that the training gives to `run.log`."""

    mode: Literal["min", "max"] = "min"
    """Whether the smallest value is the best, or the largest."""

    count: Annotated[Whole, Field(ge=1, le=1000)] = 1
    """How many of the best to keep."""


class Keep(_Section):
    """Which commits survive: those that any of these asks for, and the newest always."""

    section: ClassVar[str] = "checkpoint.keep"

    last: Annotated[Whole, Field(ge=1, le=1000)] = 3
    """How many of the newest commits to keep. Two or more leave one to fall back to if the newest is damaged."""

    every_steps: Annotated[Whole, Field(ge=1)] | None = None
    """Of each such span of steps the first commit, for good."""

    every: Annotated[Duration, between(_MOMENT, _MAX_WAIT_MOST)] | None = None
    """Of each such span of time the first commit, for good."""

    best: Best | None = None
    """The commits with the best value of a metric."""

    tagged: Tagged = "all"
    """`all` commits that have a tag, `none` of them for that, or the tags that keep."""


class Signing(_Section):
    """Signs the log, so that nobody without the key can forge or change a checkpoint. Exactly one place of a key."""

    section: ClassVar[str] = "checkpoint.signing"

    key_env: VariableName | None = None
    """The variable that holds the key where the training runs; its value is never stored."""

    key_file: Text | None = None
    """The file that holds the key where the training runs."""

    kms: Text | None = None
    """Id, ARN or alias of an HMAC_256 key in AWS KMS."""

    @model_validator(mode="after")
    def _agree(self) -> Signing:
        given = [name for name in ("key_env", "key_file", "kms") if getattr(self, name) is not None]
        if len(given) != 1:
            raise wrong(f"needs exactly one of key_env, key_file and kms, not {' and '.join(given) or 'none'}")
        return self

    def where(self) -> dict[str, str]:
        """The one that is given, by its name."""
        return {name: value for name, value in self.model_dump().items() if value is not None}


class Folder(_Section):
    """A folder that a script without spotrun writes its checkpoints to, and reads them from when it starts."""

    section: ClassVar[str] = "checkpoint.folder"

    path: FolderPath
    """The folder, relative to the directory of submission and inside of it."""

    done: Text | None = None
    """Pattern of a file that the script writes last: what is in the folder is whole only after one was written."""

    ignore: Patterns = ()
    """Patterns of what is no part of a checkpoint: neither committed nor touched."""

    growing: Patterns = ()
    """Patterns of files that are appended to all the time, beside the usual ones: they are not waited for."""

    quiet: Annotated[Duration, between(timedelta(milliseconds=1), timedelta(hours=1))] = timedelta(seconds=5)
    """How long nothing may have changed before the folder counts as whole."""

    signal: Literal["SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2"] = "SIGTERM"
    """What the script is sent at a notice or a stop, if it has a handler for it, so that it saves."""


class Checkpoint(_Section):
    """Where and how often the training is saved."""

    section: ClassVar[str] = "checkpoint"

    uri: Place
    """Where runs are stored, each below its job's id: a URL like `s3://bucket/runs`, or a path that begins with
    `/`, `~/` or, from the directory of submission, `./`."""

    interval: Interval = "auto"
    """Time between two commits; `auto` weighs the measured cost of a commit against the market's interruptions."""

    keep: Keep = Keep()
    """Which commits survive."""

    signing: Signing | None = None
    """Signs the log with a key that the store does not have."""

    folder: Annotated[Folder | None, path_alone(Folder)] = None
    """For scripts that cannot be changed: the folder that they write and read. Its path alone, or a section."""


class GeneratorMarket(_Section):
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


class TraceMarket(_Section):
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


class LocalMarket(_Section):
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


class JobSpec(_Section):
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

    provider: Literal["local"] = "local"
    """Whose capacity to use."""

    local: LocalMarket = LocalMarket()
    """The local provider: real processes on this machine under a simulated market."""

    @model_validator(mode="after")
    def _agree(self) -> JobSpec:
        if self.provider == "local" and self.resources.nodes != 1:
            raise wrong(f"must be 1 with the local provider, not {self.resources.nodes}", field="resources.nodes")
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
