"""The state folder of a simulated machine: everything that is known about it, in small files.

    machine.json   what was launched, and what the market has in store for it; written before the folder is visible
    lock           held by the host for its whole life: free means that there is no host, whatever any pid says
    host.json      written by the host, under the lock, once it has started; there, no other host ever starts
    beat           the job time at which the host was last alive, or spawned
    terminate      somebody asked for the end
    end.json       how and when the machine ended; written under the lock, once, the last word
    host.log, agent.log, scratch/

A machine's folder appears whole (written aside, then renamed), and its name follows from the launch token: whoever
launches the same token again, in whatever process, finds the same folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from spotrun.errors import ProviderError
from spotrun.market.offer import MarketKind
from spotrun.providers.provider import EndCause

__all__ = ["EndRecord", "HostRecord", "Machine", "StateFolder", "check_job_id", "folders", "instance_id"]

_ID = re.compile(r"i-[0-9a-f]{17}")
_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Machine(_Record):
    """What was launched. Instants are in job time; holds no secrets."""

    id: str
    job_id: str
    attempt: int
    token: str
    zone: str
    instance_type: str
    market: MarketKind
    launched_at: datetime  # it bills from here
    ready_at: datetime  # the agent starts
    notice_at: datetime | None  # the loss is announced
    loss_at: datetime | None  # the market takes it back
    clock: str  # Clock.to_text()
    agent_argv: tuple[str, ...]
    environment: dict[str, str]
    tags: dict[str, str]

    @property
    def pool(self) -> str:
        """Where its capacity was drawn from; the same as the offer's."""
        return f"{self.zone}/{self.instance_type}/{self.market.value}"


class HostRecord(_Record):
    """What the host tells of itself."""

    metadata_url: str
    agent_started_at: datetime | None = None
    notice_deadline: datetime | None = None


class EndRecord(_Record):
    """How and when a machine ended."""

    cause: EndCause
    ended_at: datetime
    detail: str = ""


_R = TypeVar("_R", bound=_Record)


def instance_id(home: Path, token: str) -> str:
    """The id that a launch with this token gets under this home, in EC2's form."""
    return "i-" + sha256(f"{home.resolve()}\0{token}".encode()).hexdigest()[:17]


def check_job_id(job_id: str) -> None:
    """Refuses what cannot be the name of a folder.

    Raises:
        ProviderError: it is not made of letters, digits, dots, dashes and underlines, or is too long.
    """
    if not _JOB_ID.fullmatch(job_id):
        raise ProviderError(f"{job_id!r} cannot be a job's id: letters, digits, '.', '_' and '-' only, 128 at most")


def folders(home: Path, *, job_id: str = "*", id: str = "*") -> list[StateFolder]:  # noqa: A002 - its name on AWS too
    """The state folders under a home, of one job or one id if given; none for what is no id at all."""
    if (job_id != "*" and not _JOB_ID.fullmatch(job_id)) or (id != "*" and not _ID.fullmatch(id)):
        return []
    found = (home / "instances").glob(f"{job_id}/{id}")
    return [StateFolder(path) for path in sorted(found) if _ID.fullmatch(path.name)]


class StateFolder:
    """One machine's state folder; any number of processes may look at it. Every write replaces a whole file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, home: Path, *, job_id: str, id: str) -> StateFolder:  # noqa: A002
        """The folder, there or not, of this id.

        Raises:
            ProviderError: the job's id cannot be the name of a folder.
        """
        check_job_id(job_id)
        return cls(home / "instances" / job_id / id)

    def create(self, machine: Machine) -> bool:
        """Makes the folder, whole or not at all; False when somebody else has made it already."""
        parent = self.path.parent
        parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
        try:
            (aside / "scratch").mkdir()
            (aside / "lock").touch()
            _replace(aside / "machine.json", machine.model_dump_json().encode())
            aside.rename(self.path)  # fails on a folder that is not empty, and none of ours ever is
        except OSError:
            shutil.rmtree(aside, ignore_errors=True)
            if self.exists():
                return False
            raise
        _sync_directory(parent)
        return True

    def exists(self) -> bool:
        """Whether the machine was ever launched."""
        return (self.path / "machine.json").exists()

    def machine(self) -> Machine:
        """What was launched.

        Raises:
            ProviderError: the record is gone or damaged.
        """
        machine = self._read("machine.json", Machine)
        if machine is None:
            raise ProviderError(f"{self.path / 'machine.json'} is missing or damaged: this machine cannot be told of")
        return machine

    def host(self) -> HostRecord | None:
        """The host's record; None before it has started."""
        return self._read("host.json", HostRecord)

    def write_host(self, record: HostRecord) -> None:
        """For the host only."""
        _replace(self.path / "host.json", record.model_dump_json().encode())

    def end(self) -> EndRecord | None:
        """The last word; None while the machine lives."""
        return self._read("end.json", EndRecord)

    def write_end(self, record: EndRecord) -> None:
        """Writes the last word and throws the machine's disk away. Only under the lock."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        _replace(self.path / "end.json", record.model_dump_json().encode())

    @property
    def scratch(self) -> Path:
        """The machine's disk; gone with it."""
        return self.path / "scratch"

    def beat(self, now: datetime) -> None:
        """The host is alive, or has just been spawned."""
        with suppress(OSError):  # a full disk must not end the machine: a beat is a help, not a record
            (self.path / "beat").write_text(json.dumps(now.isoformat()), encoding="utf-8")

    def last_beat(self) -> datetime | None:
        """When the host was last alive or spawned, within a second of wall time; None when unknown."""
        try:
            return datetime.fromisoformat(json.loads((self.path / "beat").read_bytes()))
        except (OSError, ValueError, TypeError):  # torn
            return None

    def ask_termination(self) -> None:
        """Leaves the request to end; harmless when repeated or late."""
        (self.path / "terminate").touch()

    def termination_asked(self) -> bool:
        """Whether somebody left that request."""
        return (self.path / "terminate").exists()

    @contextmanager
    def lock(self) -> Iterator[bool]:
        """Tries to take the host's lock without waiting; the value says whether it is ours until the block ends.

        Not inherited by the processes that the holder starts, and freed by the kernel when the holder dies.
        """
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)

    def _read(self, name: str, kind: type[_R]) -> _R | None:
        try:
            return kind.model_validate_json((self.path / name).read_bytes())
        except (FileNotFoundError, NotADirectoryError, ValidationError):
            return None


def _replace(path: Path, data: bytes) -> None:
    """The file is the old or the new one, whole, whenever the power fails."""
    aside = path.with_name(f".{path.name}-{os.getpid()}")
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
