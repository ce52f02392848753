"""Several machines as one attempt: how they find each other, and what their launchers are told.

    attempts/NNNNNN/members/<instance>.json    where each machine is; complete when all are there
    attempts/NNNNNN/nodes/NNN/...              heartbeat, log and exit record of each machine but the first

The first machine speaks for the attempt: the process of rank 0 runs on it. torchrun's rendezvous numbers machines by their
addresses, as text, and so do we. It meets at the first one's address, under a name that holds the attempt's number, so that
machines of two attempts never meet. Everything is in torchrun's own variables (`PET_...`), over which its arguments win.

How many machines an elastic attempt has, only its launch tells. The controller writes it into the control document, and all
wait for so many. torchrun is told them as the most, and the fewest with which the job may train; its last call is as long as
its whole wait, so that it never begins without a machine that is only slow.
Source: PyTorch 2.13, `torch.distributed.run` and `torch.distributed.elastic.rendezvous.dynamic_rendezvous`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spotrun.clock import Clock
from spotrun.errors import SpecError, StoreError, StoreMissing
from spotrun.job.gang_size import GangSize
from spotrun.job.message import Control, Place, parse
from spotrun.store.blob import BlobStore

__all__ = ["Gang", "Member", "free_port", "join"]

PORT = 29400  # torchrun's own choice, so that a security group can name it
_TORCHRUN = ["-m", "torch.distributed.run"]
_LOOK_S = 2.0  # between two looks for the other machines
_MEET_S = 1800  # setup and inputs take longer on one machine than on another; the lease and stall_timeout bound it too


class Member(BaseModel):
    """One machine of the gang."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    instance: str = Field(pattern=r"^[A-Za-z0-9-]{1,64}$")
    address: str = Field(pattern=r"^[0-9A-Fa-f.:]{3,45}$")
    port: int = Field(ge=1, le=65535)


@dataclass(frozen=True, kw_only=True, slots=True)
class Gang:
    """The machines of an attempt, in the order of their ranks, and which of them this is."""

    members: tuple[Member, ...]
    rank: int
    least: int | None = None  # the fewest of an elastic gang

    @property
    def leads(self) -> bool:
        """Whether this machine speaks for the attempt."""
        return self.rank == 0

    def environment(self, *, job_id: str, attempt: int, grace_s: float) -> dict[str, str]:
        """What torchrun is told.

        Args:
            grace_s: how long a launcher that is told to end waits for its processes to save.
        """
        first, me = self.members[0], self.members[self.rank]
        host = f"[{first.address}]" if ":" in first.address else first.address
        conf = f"is_host={int(self.leads)},join_timeout={_MEET_S},last_call_timeout={_MEET_S},timeout={_MEET_S}"
        count = len(self.members)
        return {
            "PET_NNODES": f"{count}" if self.least is None else f"{min(self.least, count)}:{count}",
            "PET_NPROC_PER_NODE": "gpu" if Path("/dev/nvidiactl").exists() else "1",
            "PET_RDZV_BACKEND": "c10d",
            "PET_RDZV_ENDPOINT": f"{host}:{first.port}",
            "PET_RDZV_ID": f"{job_id}-{attempt}",
            "PET_RDZV_CONF": conf,
            "PET_LOCAL_ADDR": me.address,
            "PET_MAX_RESTARTS": "0",  # a lost machine ends the attempt; the next one starts from the last commit
            "PET_SHUTDOWN_TIMEOUT": f"{grace_s:.0f}",  # instead of 30 s, within which no large model is saved
            "SPOTRUN_NODES": f"{count}",
            "SPOTRUN_NODE_RANK": str(self.rank),
        }

    def argv(self, command: list[str]) -> list[str]:
        """The command as each machine starts it: a script of Python by torchrun, anything else as it is.

        Raises:
            SpecError: it would train on each machine alone.
        """
        if "--standalone" in command:
            raise SpecError(
                "command: --standalone would train on each machine alone; leave it out, spotrun says the rest"
            )
        program, *rest = command
        flags: list[str] = []
        while (
            Path(program).name.startswith("python") and rest and rest[0].startswith("-") and rest[0] not in {"-m", "-c"}
        ):
            count = 2 if rest[0] in {"-W", "-X"} else 1
            flags, rest = [*flags, *rest[:count]], rest[count:]
        launches = not rest or rest[0] == "-c" or rest[:2] == _TORCHRUN
        if not Path(program).name.startswith("python") or launches:
            return command
        return [program, *flags, *_TORCHRUN, *rest]


def join(
    store: BlobStore, me: Member, *, attempt: int, size: GangSize, clock: Clock, goes_on: Callable[[int], bool]
) -> Gang | None:
    """Tells the others where this machine is, and waits until all are there.

    Args:
        size: how many there may be; of an elastic gang the control document says how many have come.
        goes_on: asked with the number of machines that are there, before each look; False gives up.

    Returns:
        The gang; None if it was given up.

    Raises:
        StoreError: this machine could not tell where it is.
    """
    prefix = f"attempts/{attempt:06d}/members/"
    store.write(f"{prefix}{me.instance}.json", [me.model_dump_json().encode()])
    members: list[Member] = []
    while goes_on(len(members)):
        try:
            members = [it for key in store.list(prefix) if (it := _member(store, key)) is not None]
            count = size.most if len(members) >= size.most else _came(store, attempt, size)
        except StoreError:
            members, count = [], None  # it may pass; whoever asks us to go on has a bound
        if count is not None and len(members) >= count:
            ordered = sorted(members, key=lambda it: (it.address, it.instance))[:count]
            least = size.least if size.is_elastic else None
            return Gang(members=tuple(ordered), rank=ordered.index(me), least=least) if me in ordered else None
        clock.sleep(_LOOK_S)
    return None


def free_port(address: str) -> int:
    """A port of this machine that nobody uses now: the usual one, if it can be had."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for port in (PORT, 0):
        with socket.socket(family) as probe:
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise SpecError(f"this machine has no free port at {address}")


def _came(store: BlobStore, attempt: int, size: GangSize) -> int | None:
    """How many machines the attempt has; None while that is not known."""
    if not size.is_elastic:
        return size.most
    try:
        control = parse(Control, store.read(Place(attempt).control))
    except StoreMissing:
        return None  # the launch has not been answered yet
    if control is None or control.attempt != attempt or control.nodes is None:
        return None
    return control.nodes if size.least <= control.nodes <= size.most else None


def _member(store: BlobStore, key: str) -> Member | None:
    try:
        return Member.model_validate_json(store.read(key))
    except ValidationError:
        return None
