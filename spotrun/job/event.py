"""The events of a job: a closed set of small values. A job is the fold of its events; nothing else changes it.

Every event has `at`, an instant in job time. `decode` and `encode` are the journal's form, JSON.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, cast

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass
from typing_extensions import dataclass_transform

from spotrun.job.message import Exit, Progress

__all__ = [
    "Alternative",
    "AttemptEnded",
    "AttemptExited",
    "EndReason",
    "Event",
    "LaunchRefused",
    "Launched",
    "MoveDecided",
    "Noticed",
    "Placed",
    "PoolRefusal",
    "Progressed",
    "RefusalKind",
    "StopRequested",
    "Submitted",
    "Ticked",
    "Waited",
    "decode",
    "encode",
]

_T = TypeVar("_T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def _frozen(cls: type[_T]) -> type[_T]:
    made = dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid"))(cls)
    return cast("type[_T]", made)


class RefusalKind(str, Enum):
    """Why a launch was refused."""

    CAPACITY = "capacity"
    QUOTA = "quota"  # only the user can raise it; other pools may still work
    THROTTLED = "throttled"
    DENIED = "denied"  # fatal: the job ends


class EndReason(str, Enum):
    """Why an attempt is over, as confirmed by the provider."""

    INTERRUPTED = "interrupted"  # the provider took the machine, or the machine died
    TERMINATED = "terminated"  # we asked for it
    EXITED = "exited"  # it shut itself down
    UNSTARTED = "unstarted"  # it never ran: the provider ended it as it started, and another one may start
    DENIED = "denied"  # it never ran, and no other one would: the job ends

    @property
    def is_false_start(self) -> bool:
        """Whether there was never a machine to train on."""
        return self in (EndReason.UNSTARTED, EndReason.DENIED)


@_frozen
class Alternative:
    """Another pool of an attempt's region and market that will do as well as the one it was placed on."""

    zone: str
    instance_type: str
    price_usd_per_hour: Decimal
    on_demand_usd_per_hour: Decimal

    def pool(self, market: str) -> str:
        """Where its capacity comes from; equals `Offer.pool`."""
        return f"{self.zone}/{self.instance_type}/{market}"


@_frozen
class PoolRefusal:
    """What was said of one pool, where several were asked for at once."""

    pool: str
    refusal: RefusalKind
    answer: str


@_frozen
class Submitted:
    """The user handed in a job from the directory `workdir`. `spec` is the validated spec in its JSON form, `bundle` what
    was left in the job's place for machines that are not this computer, as `spotrun.job.machine.Bundle` in JSON form."""

    at: datetime
    job_id: str
    spec: dict[str, Any]
    submitted_by: str = ""
    workdir: str = ""
    bundle: dict[str, Any] | None = None
    kind: Literal["submitted"] = "submitted"


@_frozen
class Placed:
    """The policy chose an offer: attempt `attempt` is to be launched there, or in one of the `alternatives`, with this token."""

    at: datetime
    attempt: int
    token: str
    provider: str
    region: str
    zone: str
    instance_type: str
    market: Literal["spot", "on_demand"]
    price_usd_per_hour: Decimal
    on_demand_usd_per_hour: Decimal
    reason: str
    alternatives: tuple[Alternative, ...] = ()
    kind: Literal["placed"] = "placed"

    def landed(self, pool: str) -> Placed:
        """As if it had been placed on the pool that its machine came from; as it is, if that is none of the alternatives."""
        came = next((it for it in self.alternatives if it.pool(self.market) == pool), None)
        if came is None:
            return self
        return replace(
            self,
            zone=came.zone,
            instance_type=came.instance_type,
            price_usd_per_hour=came.price_usd_per_hour,
            on_demand_usd_per_hour=came.on_demand_usd_per_hour,
        )


@_frozen
class Waited:
    """The policy chose to wait until `until`, for the reason given in one sentence."""

    at: datetime
    until: datetime
    reason: str
    kind: Literal["waited"] = "waited"


@_frozen
class MoveDecided:
    """The policy wants the attempt's work to go on in another place, `pool`, of this market: the attempt is asked to save
    and end, and the next one is placed. `at_risk`: the provider recommended to leave its present place, where it is about to
    take machines back."""

    at: datetime
    attempt: int
    pool: str
    market: Literal["spot", "on_demand"]
    reason: str
    at_risk: bool = False
    kind: Literal["move_decided"] = "move_decided"


@_frozen
class Launched:
    """The provider started an instance for the attempt at `launched_at`; it bills from then on. Of a gang, `members` are
    its machines. Of several pools that were asked for, `pool` is the one that it came from, and `refused` those that had none."""

    at: datetime
    attempt: int
    instance_id: str
    launched_at: datetime
    members: tuple[str, ...] = ()
    pool: str = ""
    refused: tuple[PoolRefusal, ...] = ()
    kind: Literal["launched"] = "launched"


@_frozen
class LaunchRefused:
    """The provider refused to launch the attempt; it never existed and costs nothing. `refused` is what it said of each pool,
    if several were asked for; what it said of the whole stands for those that it did not name."""

    at: datetime
    attempt: int
    refusal: RefusalKind
    answer: str
    refused: tuple[PoolRefusal, ...] = ()
    kind: Literal["launch_refused"] = "launch_refused"


@_frozen
class Progressed:
    """News from the training of the attempt. Journaled when `is_news` says so: at changes of phase, at new commits, at
    its end, and now and then as steps go on, which keeps the stall clock running."""

    at: datetime
    attempt: int
    progress: Progress
    uploading: bool = False
    kind: Literal["progressed"] = "progressed"


@_frozen
class Noticed:
    """The provider warned that the attempt's machine may be gone at `deadline`."""

    at: datetime
    attempt: int
    deadline: datetime
    kind: Literal["noticed"] = "noticed"


@_frozen
class AttemptExited:
    """The agent's last word: the command of the attempt has ended. The machine may still be there."""

    at: datetime
    attempt: int
    exit: Exit
    kind: Literal["attempt_exited"] = "attempt_exited"


@_frozen
class AttemptEnded:
    """The provider confirmed that the attempt's machine is gone since `ended_at`. What it cost is the ledger's affair.
    The shell reads the exit record first, so AttemptExited, where there is one, comes before this. Of an interrupted gang
    `taken` is how many machines the provider took: only those can be free."""

    at: datetime
    attempt: int
    ended_at: datetime
    reason: EndReason
    detail: str = ""
    taken: int | None = None
    kind: Literal["attempt_ended"] = "attempt_ended"


@_frozen
class StopRequested:
    """Somebody asked to stop the job: save, then end."""

    at: datetime
    by: str
    kind: Literal["stop_requested"] = "stop_requested"


@_frozen
class Ticked:
    """Time has passed. `spent_usd` is what the job has cost so far. Journaled only when `is_news` says that it changes
    something. After a pause of the controller, news of the training come first: a tick judges by what is known. `blind`:
    provider or store could not be asked, so that a lack of news says nothing of the training."""

    at: datetime
    spent_usd: Decimal
    blind: bool = False
    kind: Literal["ticked"] = "ticked"


Event: TypeAlias = (
    Submitted
    | Placed
    | Waited
    | MoveDecided
    | Launched
    | LaunchRefused
    | Progressed
    | Noticed
    | AttemptExited
    | AttemptEnded
    | StopRequested
    | Ticked
)

_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


def encode(event: Event) -> str:
    """The event as one line of JSON."""
    return _EVENT.dump_json(event).decode()


def decode(text: str) -> Event:
    """The event in a line of JSON.

    Raises:
        ValueError: it is not an event (pydantic's ValidationError is one).
    """
    return _EVENT.validate_json(text)
