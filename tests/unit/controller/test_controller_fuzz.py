"""Whatever lies in the store or in the journal's file, a controller goes on, or says what is damaged."""

from __future__ import annotations

import contextlib
import copy
import sqlite3
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from controller_story import AT, at, gone, job_of, machine, started
from fuzzing import as_json, bent, damaged, fuzz
from hypothesis import given
from hypothesis import strategies as st

from spotrun.clock import SystemClock
from spotrun.controller import Journal
from spotrun.controller.mailbox import Mailbox
from spotrun.controller.sighting import Lookout
from spotrun.controller.timing import Timing
from spotrun.cost import build_ledger
from spotrun.errors import JournalCorrupt, JournalError
from spotrun.job import Event, JobSpec, Ticked, check_invariants, decode, encode, fold, is_news, step
from spotrun.job.message import Place
from spotrun.market import PriceStep
from spotrun.providers.provider import EndCause
from spotrun.store import MemoryStore

PROGRESS = {
    "phase": "training", "at": "2026-03-01T12:05:00Z", "step": 5, "total_steps": 10, "steps_here": 5, "loss": 0.5, "steps_per_s": 0.1,
    "attached_at": "2026-03-01T12:01:30Z", "training_at": "2026-03-01T12:02:00Z", "last_step_at": "2026-03-01T12:05:00Z",
    "checkpoint_stall_s": 0.25, "commits": 1, "setup_at": "2026-03-01T12:01:10Z", "setup_until": "2026-03-01T12:01:20Z",
    "last_commit": {"step": 4, "at": "2026-03-01T12:04:00Z", "captured_at": "2026-03-01T12:03:59Z", "stall_s": 0.1, "size_bytes": 9},
}  # fmt: skip
BEAT = {
    "attempt": 1, "beat": 4, "at": "2026-03-01T12:05:00Z", "uploading": False, "notice_deadline": "2026-03-01T12:30:00Z",
    "recommended_at": "2026-03-01T12:04:00Z", "progress": PROGRESS,
}  # fmt: skip
WORD = {
    "attempt": 1,
    "outcome": "failed",
    "at": "2026-03-01T12:10:00Z",
    "exit_code": 3,
    "tail": ["x"],
    "progress": PROGRESS,
}
PRICES = (PriceStep(at=AT, usd_per_hour=Decimal("0.4")),)


def life(events: list[Event], beat: bytes, word: bytes) -> None:
    """All that a controller does with an agent's words: look, journal, judge, add up."""
    store = MemoryStore()
    store.write(Place(1).heartbeat, [beat])
    store.write(Place(1).exit, [word])
    lookout = Lookout(Mailbox(store), clock=SystemClock(), timing=Timing())
    job = job_of(events)
    for minutes, instance in ((6.0, machine()), (12.0, gone(EndCause.EXITED, 11)), (13.0, None)):
        if job.attempt is None:
            break
        news = lookout.look(job.attempt, [instance] if instance else [], at(minutes)).events
        for event in (*news, Ticked(at=at(minutes), spent_usd=Decimal("0.1"))):
            if is_news(job, event):
                events.append(decode(encode(event)))
                job, _ = step(job, events[-1])
                check_invariants(job)
    assert fold(events) == job
    build_ledger(events, lambda _: PRICES, lambda _: PRICES, until=at(60))


@fuzz
@given(data=st.data())
def test_whatever_an_agent_says_the_controller_goes_on(data: st.DataObject) -> None:
    """One job's broken or hostile instance must not take down the controller of all jobs."""
    beat = data.draw(damaged(as_json(BEAT)) | bent(BEAT).map(as_json))
    word = data.draw(damaged(as_json(WORD)) | bent(WORD).map(as_json))
    life(started(), beat, word)


HOSTILE = ("2026-03-01T12:05:00", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+23:59", float("inf"), -1e300, 10**18, -1)


@pytest.mark.parametrize("value", HOSTILE)
def test_no_value_that_nobody_can_reckon_with_stops_the_controller(value: Any) -> None:
    """Each of them in each place: an instant without a zone or at the end of time, endless and negative numbers."""
    for whole in (BEAT, WORD):
        for place in [
            *whole,
            *(f"progress.{name}" for name in PROGRESS),
            "progress.last_commit.at",
            "progress.last_commit.captured_at",
        ]:
            document = copy.deepcopy(whole)
            node = document
            *way, last = place.split(".")
            for name in way:
                node = node[name]  # type: ignore[assignment]
            node[last] = value
            life(started(), as_json(document if whole is BEAT else BEAT), as_json(document if whole is WORD else {}))


class Kept:
    """The file of a journal with one job, the job's id, and its events."""

    def __init__(self, content: bytes, job_id: str, events: list[Event]) -> None:
        self.content, self.job_id, self.events = content, job_id, events

    def __repr__(self) -> str:
        return "a journal"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    path = tmp_path_factory.mktemp("journal") / "journal.db"
    journal = Journal(path)
    events = started(JobSpec.model_validate({"name": "gpt", "command": "a", "limits": {"max_run": "1h"}}))
    events += [Ticked(at=AT + timedelta(minutes=n), spent_usd=Decimal("0.1")) for n in range(2, 6)]
    for seq, event in enumerate(events):
        journal.append("gpt-abcde", seq, event)
    journal.close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode=DELETE")
    return Kept(path.read_bytes(), "gpt-abcde", events)


def read_back(path: Path, job_id: str, events: list[Event]) -> None:
    """What is read is what was written, or an error of ours."""
    journal = None
    try:
        journal = Journal(path)
        found = [it.event for it in journal.events(job_id)]
        assert found in ([], events)
        journal.heads()
        journal.tenure()
    except (JournalCorrupt, JournalError):
        return
    finally:
        if journal is not None:
            journal.close()


COLUMNS = st.sampled_from(
    [("events", "body"), ("events", "digest"), ("events", "seq"), ("events", "kind"), ("events", "job_id"), ("jobs", "head"),
     ("jobs", "job_id"), ("lease", "owner"), ("lease", "epoch"), ("lease", "expires"), ("schema", "version")]
)  # fmt: skip


@fuzz
@given(
    where=COLUMNS,
    row=st.integers(1, 7),
    value=st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=30) | st.binary(max_size=30),
)
def test_a_row_of_the_journal_with_another_value_is_found(
    tmp_path: Path, whole: Kept, where: tuple[str, str], row: int, value: Any
) -> None:
    """Whoever has edited it, on purpose or not."""
    table, column = where
    path = tmp_path / "journal.db"
    path.write_bytes(whole.content)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        with contextlib.suppress(sqlite3.DatabaseError, UnicodeEncodeError):  # the table itself refuses some
            connection.execute(
                f"UPDATE {table} SET {column} = ? WHERE rowid = (SELECT min(rowid) + ? FROM {table})", (value, row - 1)
            )
            connection.commit()
    read_back(path, whole.job_id, whole.events)
    for beside in tmp_path.glob("journal.db-*"):
        beside.unlink()


@fuzz
@given(data=st.data())
def test_a_damaged_file_is_told_and_never_read_as_something_else(
    tmp_path: Path, whole: Kept, data: st.DataObject
) -> None:
    """Bits, lengths, other content altogether."""
    content = whole.content
    path = tmp_path / "journal.db"
    place = data.draw(st.integers(0, len(content) - 1))
    match data.draw(st.sampled_from(["flip", "cut", "zero", "other"])):
        case "flip":
            bits = 1 << data.draw(st.integers(0, 7))
            path.write_bytes(content[:place] + bytes([content[place] ^ bits]) + content[place + 1 :])
        case "cut":
            path.write_bytes(content[:place])
        case "zero":
            path.write_bytes(content[:place] + bytes(min(512, len(content) - place)) + content[place + 512 :])
        case _:
            path.write_bytes(data.draw(st.binary(max_size=200)))
    read_back(path, whole.job_id, whole.events)
    for beside in tmp_path.glob("journal.db-*"):
        beside.unlink()
