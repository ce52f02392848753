"""A controller that kills itself at one kind of write of its journal. Run as a program by `test_controller_local.py`.

    python controller_mortal.py HOME KIND before|inside|after

KIND is an event's, or `lease`. SIGKILL comes before the transaction, inside of it, or once it is durable.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Connection

from spotrun.controller import Controller, Journal, Timing, real_outside
from spotrun.controller.journal import Tenure
from spotrun.job import Event


class MortalJournal(Journal):
    """Dies at the first write of a kind."""

    def __init__(self, where: Path, kind: str, when: str) -> None:
        self._doom = (kind, when)
        self._writes = ""
        super().__init__(where)

    def append(self, job_id: str, expected_seq: int, event: Event, *, lease_epoch: int | None = None) -> int:
        self._writes = event.kind
        return super().append(job_id, expected_seq, event, lease_epoch=lease_epoch)

    def acquire(self, owner: str, *, now: datetime, expires: datetime) -> Tenure:
        self._writes = "lease"
        return super().acquire(owner, now=now, expires=expires)

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        self._place("before")
        with super()._write() as connection:
            yield connection
            self._place("inside")
        self._place("after")

    def _place(self, when: str) -> None:
        if (self._writes, when) == self._doom:
            os.kill(os.getpid(), signal.SIGKILL)


def main(home: Path, *doom: Any) -> None:
    journal = MortalJournal(home / "journal.db", *doom)
    timing = Timing(lease_wall_s=2, attempt_lease_wall_s=120)
    Controller(journal, real_outside(home), timing=timing).run(until_idle=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
