"""What the checkers are given: the journal, the store and the provider's books, read without the code under test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from spotrun.chaos.simulation.bucket import Bucket
from spotrun.chaos.simulation.cloud import Call, Cloud, Lot
from spotrun.chaos.simulation.training import Diary, Training
from spotrun.job.event import Event

__all__ = ["ENDS", "Evidence", "LogLine", "Terms"]

ENDS = frozenset({"Completed", "Failed", "Stopped", "MaxRuntimeExceeded", "MaxWaitTimeExceeded", "BudgetExceeded"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What was agreed: the job's limits and training, and what the world may do to whoever keeps them.

    Attributes:
        slack: the longest time for which no controller may be able to act.
        skew: the largest difference between two clocks.
    """

    training: Training
    submitted_at: datetime
    max_run: timedelta
    max_wait: timedelta
    stall_timeout: timedelta
    on_demand_allowed: bool
    budget_usd: Decimal | None
    max_restarts: int
    slack: timedelta
    skew: timedelta


@dataclass(frozen=True, slots=True)
class LogLine:
    """An entry of the lineage's log, by plain JSON."""

    seq: int
    kind: str
    attempt: int
    writer: str
    token: str
    step: int
    manifest: str
    digest: str


@dataclass
class Evidence:
    """All that there is to judge by. Its own parts only read, and each object is parsed once.

    Attributes:
        told: the phase of the job after each event, as anybody who reads the journal is told it, with the instant.
        asked: for each launch that reached the provider, how many events the journal had.
        leases: for each attempt, the latest instant until which a control document let it live.
        words: when each attempt's exit record was written.
        calm: nothing goes wrong in this world.
    """

    terms: Terms
    job_id: str
    events: Sequence[Event]
    bucket: Bucket
    cloud: Cloud
    diary: Diary
    calm: bool = False
    told: list[tuple[datetime, str]] = field(default_factory=list)
    asked: list[tuple[Call, int]] = field(default_factory=list)
    log: list[LogLine] = field(default_factory=list)
    leases: dict[int, datetime] = field(default_factory=dict)
    words: dict[int, datetime] = field(default_factory=dict)
    wrongs: list[str] = field(default_factory=list)  # found while reading: what must never be done to an object
    _read: int = 0

    @property
    def lots(self) -> Sequence[Lot]:
        """The provider's books."""
        return self.cloud.lots

    def read(self) -> bool:
        """Takes in what is new in the bucket; tells whether any of it concerns the lineage."""
        concerns = False
        for mutation in self.bucket.mutations[self._read :]:
            self._read += 1
            _, _, key = mutation.key.partition("/")
            kind = key.partition("/")[0]
            if kind in ("log", "manifests", "blobs"):
                concerns = True
                if mutation.replaced is not None and mutation.data is not None and mutation.data != mutation.replaced:
                    self.wrongs.append(f"{mutation.by} rewrote {key}")
                if kind == "log" and mutation.data is None:
                    self.wrongs.append(f"{mutation.by} deleted {key}")
                elif kind == "log" and mutation.data is not None:
                    self._enter(key, json.loads(mutation.data))
            elif kind == "attempts" and mutation.data is not None:
                self._hear(key, mutation.data, mutation.at)
        return concerns

    def _enter(self, key: str, body: dict[str, Any]) -> None:
        seq = int(key[4:12])
        if seq != len(self.log) + 1 or body["seq"] != seq:
            self.wrongs.append(f"{key} was written as entry {body['seq']}, behind {len(self.log)} entries")
        line = LogLine(
            seq=seq,
            kind=body["kind"],
            attempt=body["attempt"],
            writer=body["writer"],
            token=body["token"],
            step=body.get("step", -1),
            manifest=body.get("manifest", ""),
            digest=body.get("digest", ""),
        )
        self.log.append(line)

    def _hear(self, key: str, data: bytes, at: datetime) -> None:
        attempt, name = int(key[9:15]), key[16:]
        if name == "control.json":
            until = datetime.fromisoformat(json.loads(data)["lease_until"].replace("Z", "+00:00"))
            self.leases[attempt] = max(until, self.leases.get(attempt, until))
        elif name == "exit.json":
            self.words.setdefault(attempt, at)
