"""What a rented machine is told, as small JSON documents: what it is to fetch from the job's place, and how it ends.

    submission -> journal      Bundle: the job's code and spotrun's own wheel, by key and digest
    provider   -> user data    MachineOrder: where the job's place is, how to reach it, what guards the machine
    provider   -> store        LaunchDocument: the agent's environment; the store is private, user data are not

User data can be read by everybody who may describe the instance, so an order holds nothing of the user's but names and
places. Every digest is SHA-256 in hexadecimal, because a machine must check the first file before it has anything else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from spotrun.job.gang_size import GangSize

__all__ = ["BUNDLE_VARIABLE", "Bundle", "GitCode", "LaunchDocument", "MachineOrder", "Package"]

BUNDLE_VARIABLE = "SPOTRUN_BUNDLE"  # of the agent's environment: the bundle as JSON

_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_JobId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
_Requirement = Annotated[str, Field(pattern=r"^spotrun==[0-9A-Za-z.!+]{1,64}$")]
# A file of ours in a folder of ours: nothing that climbs, nothing that pip or a shell could read as an option.
_Key = Annotated[str, Field(pattern=r"^(code|wheel)/[A-Za-z0-9_][A-Za-z0-9_.+-]*$", max_length=200)]


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    def to_bytes(self) -> bytes:
        """The document as JSON."""
        return self.model_dump_json().encode()


class Package(_Document):
    """A file in the job's place, known by its digest."""

    key: _Key
    sha256: _Sha256
    size_bytes: Annotated[int, Field(ge=0)]


class GitCode(_Document):
    """Code that the machine takes from a repository."""

    url: str
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{7,64}$")]


class Bundle(_Document):
    """What the submission left in the job's place for its machines. Of code and repository at most one."""

    code: Package | None = None
    git: GitCode | None = None
    wheel: Package | None = None
    requirement: _Requirement | None = None  # instead of a wheel: a released version, from the package index

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Bundle:
        """The bundle that an agent's environment names; an empty one if it names none.

        Raises:
            ValueError: it is malformed (pydantic's ValidationError is one).
        """
        text = environment.get(BUNDLE_VARIABLE)
        return cls.model_validate_json(text) if text else cls()


class MachineOrder(_Document):
    """One attempt, as user data tell it.

    Attributes:
        place: the job's place in the store, `<checkpoint.uri>/<job>`.
        launch_sha256: digest of the launch document, which names all else: who can only write the store changes nothing.
        store: how it is reached, names as in `checkpoint.options`; never a secret.
        wheel: spotrun itself, from the place; or `requirement`, from the package index.
        deadline: the end of `max_wait`.
        max_wait: its length, which bounds the guard's timer where the machine's clock is wrong.
        guard_delay: how long after the deadline the timer ends the machine: a training saves until then.
        lease_s: the first lease, from the agent's start.
        docker: the image in which the command runs; None for the machine itself.
        nodes: machines of the gang; each finds its rank by itself. Of an elastic gang the fewest.
        nodes_most: the most machines of an elastic gang. How many have come is in the control document.
        rebalance: what a rebalance recommendation leads to.
    """

    job_id: _JobId
    attempt: Annotated[int, Field(ge=1)]
    place: Annotated[str, Field(min_length=1)]
    launch_sha256: _Sha256
    store: Mapping[str, str | int | bool] = Field(default_factory=dict)
    wheel: Package | None = None
    requirement: _Requirement | None = None
    deadline: datetime
    max_wait: timedelta
    guard_delay: timedelta = timedelta(minutes=10)
    lease_s: Annotated[float, Field(gt=0)]
    docker: str | None = None
    nodes: Annotated[int, Field(ge=1)] = 1
    nodes_most: Annotated[int, Field(ge=1)] | None = None
    rebalance: Literal["ignore", "save", "move"] = "save"

    @model_validator(mode="after")
    def _agree(self) -> MachineOrder:
        if (self.wheel is None) == (self.requirement is None):
            raise ValueError("exactly one of wheel and requirement says where spotrun comes from")
        if self.deadline.tzinfo is None:
            raise ValueError("deadline must be an aware instant")
        if self.nodes_most is not None and self.nodes_most <= self.nodes:
            raise ValueError("nodes_most must be more than nodes")
        return self

    @property
    def size(self) -> GangSize:
        """How many machines the attempt may have."""
        return GangSize(least=self.nodes, most=self.nodes_most or self.nodes)

    @property
    def launch_key(self) -> str:
        """Where the launch document lies, below the place."""
        return _launch_key(self.attempt, self.launch_sha256)


class LaunchDocument(_Document):
    """The environment of the agent, as a `LaunchRequest` gives it. Written before the machine is asked for, under a name of
    its own contents: whichever of several tries gave the machine its order, its document is there."""

    attempt: Annotated[int, Field(ge=1)]
    environment: Mapping[str, str] = Field(repr=False)

    @property
    def sha256(self) -> str:
        """The digest of its bytes."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def key(self) -> str:
        """Where it lies, below the job's place."""
        return _launch_key(self.attempt, self.sha256)


def _launch_key(attempt: int, sha256: str) -> str:
    return f"attempts/{attempt:06d}/launch-{sha256[:16]}.json"
