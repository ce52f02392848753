"""A power cut at every operation on the disk: what the journal acknowledged is there afterwards, and it opens cleanly.

The statements that the journal issues are recorded and replayed on SQLite with a file layer that writes down every
operation. For each prefix of them the disk is made as a power cut would leave it: what was not synced is gone, or there
in part and in any order. The journal itself then opens that disk.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import apsw
import pytest
from sqlalchemy import event as sqlalchemy_event

from spotrun.controller import Journal
from spotrun.controller.database import APPLICATION_ID
from spotrun.errors import JournalCorrupt
from spotrun.job import JobSpec, StopRequested, Submitted, Ticked

AT = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
SPEC = JobSpec.model_validate({"name": "gpt", "command": "python train.py", "limits": {"max_run": "1h"}})


@dataclass
class Disk:
    """Every operation, in order: ('write', file, offset, data), ('truncate', file, size), ('sync', file), ('delete', file)."""

    operations: list[tuple[Any, ...]] = field(default_factory=list)

    def after_cut(self, count: int, dice: random.Random | None) -> dict[str, bytes]:
        """The files after `count` operations and a power cut.

        Args:
            count: operations that were asked for before the cut.
            dice: None: nothing unsynced survives. Otherwise each unsynced operation survives by chance.
        """
        durable: dict[str, bytearray] = {}
        pending: dict[str, list[tuple[Any, ...]]] = {}
        for operation in self.operations[:count]:
            kind, name = operation[:2]
            if kind == "sync":
                content = durable.setdefault(name, bytearray())
                for waiting in pending.pop(name, []):
                    _apply(content, waiting)
            elif kind == "delete":
                durable.pop(name, None)
                pending.pop(name, None)
            else:
                pending.setdefault(name, []).append(operation)
        if dice is not None:
            for name, waiting_ones in pending.items():
                content = durable.setdefault(name, bytearray())
                for waiting in waiting_ones:
                    if dice.random() < 0.5:
                        _apply(content, waiting)
        return {name: bytes(content) for name, content in durable.items()}


def _apply(content: bytearray, operation: tuple[Any, ...]) -> None:
    if operation[0] == "truncate":
        del content[operation[2] :]
        return
    _, _, offset, data = operation
    content.extend(bytes(max(0, offset + len(data) - len(content))))
    content[offset : offset + len(data)] = data


class RecordingFiles(apsw.VFS):
    """SQLite's file layer, with a witness."""

    def __init__(self, name: str, disk: Disk) -> None:
        self.disk = disk
        super().__init__(name, "")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return RecordingFile(name, flags, self.disk)

    def xDelete(self, name: str, syncdir: bool) -> None:
        super().xDelete(name, syncdir)
        self.disk.operations.append(("delete", Path(name).name))


class RecordingFile(apsw.VFSFile):
    """One file of it."""

    def __init__(self, name: Any, flags: list[int], disk: Disk) -> None:
        self.name = Path(name.filename() if isinstance(name, apsw.URIFilename) else name or "temporary").name
        self.disk = disk
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        super().xWrite(data, offset)
        self.disk.operations.append(("write", self.name, offset, bytes(data)))

    def xTruncate(self, size: int) -> None:
        super().xTruncate(size)
        self.disk.operations.append(("truncate", self.name, size))

    def xSync(self, flags: int) -> None:
        super().xSync(flags)
        self.disk.operations.append(("sync", self.name))


@dataclass
class Recording:
    """What the journal asked of its database, transaction by transaction, and its settings as its connection tells them."""

    transactions: list[list[tuple[str, tuple[Any, ...]]]] = field(default_factory=list)
    pragmas: dict[str, Any] = field(default_factory=dict)


def record(journal: Journal) -> Recording:
    """Listens to the journal's own connections."""
    recording = Recording()
    engine = journal._engine

    @sqlalchemy_event.listens_for(engine, "before_cursor_execute")
    def statement(connection: Any, cursor: Any, text: str, parameters: Any, *_: Any) -> None:
        if text == "BEGIN IMMEDIATE":
            recording.transactions.append([])
            for name in ("journal_mode", "synchronous"):
                recording.pragmas[name] = connection.connection.cursor().execute(f"PRAGMA {name}").fetchone()[0]
        elif recording.transactions and text != "BEGIN":
            recording.transactions[-1].append((text, tuple(parameters)))

    return recording


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[tuple[Recording, list[str], str]]:
    """A small life of a journal: a lease, a job, events by a controller and by others, and the lease given back."""
    path = tmp_path / "recorded" / "journal.db"
    journal = Journal(path)
    schema = [row[0] for row in apsw.Connection(str(path)).execute("SELECT sql FROM sqlite_master WHERE sql NOT NULL")]
    told = record(journal)
    tenure = journal.acquire("controller", now=AT, expires=AT + timedelta(seconds=15))
    job_id = journal.submit(SPEC, at=AT, chance=random.Random(1), workdir="/w")
    for seq in range(1, 9):
        event = Ticked(at=AT + timedelta(minutes=seq), spent_usd="0.1")  # type: ignore[arg-type]
        journal.append(job_id, seq, event, lease_epoch=tenure.epoch)
    journal.append(job_id, 9, StopRequested(at=AT + timedelta(hours=1), by="ada"))
    journal.release(tenure.epoch)
    yield told, schema, job_id
    journal.close()


def test_nothing_acknowledged_is_lost_at_any_cut(tmp_path: Path, recording: tuple[Recording, list[str], str]) -> None:
    """Each event is there from the operation on after which it was acknowledged; no cut leaves anything that is not a
    prefix of what was written, or a file that does not open."""
    told, schema, job_id = recording
    assert told.pragmas == {"journal_mode": "wal", "synchronous": 2}
    losses, cuts = lost(tmp_path, told, schema, job_id)
    assert cuts > 100
    assert losses == []


def test_a_weaker_setting_is_caught(tmp_path: Path, recording: tuple[Recording, list[str], str]) -> None:
    """With synchronous=NORMAL the same cuts lose what was acknowledged: the test above can fail."""
    told, schema, job_id = recording
    told.pragmas["synchronous"] = 1
    losses, cuts = lost(tmp_path, told, schema, job_id)
    assert len(losses) > cuts / 4


def lost(tmp_path: Path, told: Recording, schema: list[str], job_id: str) -> tuple[list[str], int]:
    """Cuts at every operation; says which cuts lost or invented events, and how many cuts there were."""
    disk = Disk()
    acknowledged = replay(tmp_path / "replayed", told, schema, disk)
    made = acknowledged[0][0]  # from here on there is a database
    losses, cuts = [], 0
    for count in range(made, len(disk.operations) + 1):
        least = max(events for at, events in acknowledged if at <= count)
        for survivors in (None, random.Random(count), random.Random(-count)):
            cuts += 1
            found = recovered(tmp_path / "after", disk.after_cut(count, survivors), job_id)
            if not least <= found <= least + 1:
                losses.append(f"cut after operation {count}: {found} events of {least}")
    return losses, cuts


def replay(directory: Path, told: Recording, schema: list[str], disk: Disk) -> list[tuple[int, int]]:
    """Runs the recorded statements on the recording disk. Returns for each transaction the number of operations done when
    it was acknowledged, and how many events the job had then."""
    directory.mkdir()
    files = RecordingFiles("recording", disk)
    connection = apsw.Connection(str(directory / "journal.db"), vfs="recording")
    connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    connection.execute("PRAGMA locking_mode=EXCLUSIVE")  # no shared memory needed; the same writes and syncs
    for name, value in told.pragmas.items():
        connection.execute(f"PRAGMA {name}={value}")
    connection.execute("PRAGMA wal_autocheckpoint=8")  # so that checkpoints, too, are cut
    connection.execute("BEGIN IMMEDIATE")
    for statement in schema:
        connection.execute(statement)
    connection.execute("INSERT INTO schema VALUES (1)")
    connection.execute("INSERT INTO lease VALUES (1, '', 0, '')")
    connection.execute("COMMIT")
    acknowledged = [(len(disk.operations), 0)]
    for statements in told.transactions:
        connection.execute("BEGIN IMMEDIATE")
        for text, parameters in statements:
            connection.execute(text, parameters).fetchall()
        connection.execute("COMMIT")
        added = sum(text.startswith("INSERT INTO events") for text, _ in statements)
        acknowledged.append((len(disk.operations), acknowledged[-1][1] + added))
    connection.close()
    files.unregister()
    return acknowledged


def recovered(directory: Path, files: dict[str, bytes], job_id: str) -> int:
    """How many events the journal finds on what the cut has left; -1 if it cannot be read."""
    directory.mkdir(exist_ok=True)
    for leftover in directory.iterdir():
        leftover.unlink()
    for name, content in files.items():
        (directory / name).write_bytes(content)
    journal = None
    try:
        journal = Journal(directory / "journal.db")
        events = [it.event for it in journal.events(job_id)]
        assert all(isinstance(event, Submitted) for event in events[:1])
        return len(events)
    except JournalCorrupt:
        return -1
    finally:
        if journal is not None:
            journal.close()
