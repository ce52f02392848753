"""What goes to the store: beats, chunks in order through outages, and the exit record last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from agent_fakes import START, FailingStore, SteppingClock, make_config

from spotrun.agent.bell import Bell
from spotrun.agent.courier import Courier, Stream
from spotrun.agent.lease import Lease
from spotrun.agent.log import OutputLog
from spotrun.agent.notice import NoticeBoard
from spotrun.errors import StoreUnavailable
from spotrun.job.message import Control, Exit, Heartbeat, Outcome, Place, Progress, TrainingPhase, parse

PLACE = Place(3)
LAST_WORD = Exit(attempt=3, outcome=Outcome.COMPLETED, at=START, exit_code=0)


class Desk:
    """A courier with everything around it."""

    def __init__(self, scratch: Path, store: FailingStore, bell: Bell) -> None:
        self.store = store
        self.clock = SteppingClock(step_s=1.0)
        self.log = OutputLog()
        self.lease = Lease(attempt=3, first_until=START + timedelta(seconds=60), bell=bell)
        self.notices = NoticeBoard(bell=bell, notice_s=120)
        self.courier = Courier(
            make_config(scratch),
            store=store,
            clock=self.clock,
            log=self.log,
            lease=self.lease,
            notices=self.notices,
        )

    def shipped(self) -> str:
        keys = self.store.list(f"{PLACE.prefix}/log/")
        assert keys == [PLACE.log(number) for number in range(len(keys))]
        return b"".join(self.store.read(key) for key in keys).decode()

    def heartbeat(self) -> Heartbeat:
        told = parse(Heartbeat, self.store.read(PLACE.heartbeat))
        assert told is not None
        return told


@pytest.fixture
def bell() -> Iterator[Bell]:
    bell = Bell()
    yield bell
    bell.close()


class ScriptedStore(FailingStore):
    """Calls `at_beat[n]` when heartbeat n is written, before it may fail."""

    def __init__(self, at_beat: dict[int, object], **failing: object) -> None:
        super().__init__(**failing)  # type: ignore[arg-type]
        self.at_beat = at_beat
        self.beats = 0

    def write(self, key: str, parts: Sequence[bytes | memoryview]) -> None:
        if key == PLACE.heartbeat:
            self.beats += 1
            self.at_beat.get(self.beats, lambda: None)()  # type: ignore[operator]
        super().write(key, parts)


def test_a_beat_tells_progress_and_ships_what_is_new(tmp_path: Path, bell: Bell) -> None:
    """Heartbeat, log and metrics arrive; the exit record is written after everything else."""
    desk = Desk(tmp_path, FailingStore(), bell)
    progress = Progress(phase=TrainingPhase.TRAINING, at=START, step=7)
    (tmp_path / "progress.json").write_bytes(progress.to_bytes())
    (tmp_path / "metrics.jsonl").write_text('{"step": 7, "loss": 0.25}\n')
    desk.log.feed(b"hello\n")
    desk.courier.finish(LAST_WORD)
    assert desk.courier.run()
    assert desk.heartbeat().progress == progress
    assert desk.shipped() == "hello\n"
    assert desk.store.read(PLACE.metrics(0)) == b'{"step": 7, "loss": 0.25}\n'
    assert parse(Exit, desk.store.read(PLACE.exit)) == LAST_WORD
    assert desk.store.written[-1] == PLACE.exit


def test_an_outage_delays_the_log_and_loses_none_of_it(tmp_path: Path, bell: Bell) -> None:
    """Chunks that could not be written are written later, in order, and the log tells of the outage."""
    store = ScriptedStore({}, failures=3, where="/log/")
    desk = Desk(tmp_path, store, bell)
    store.at_beat = {
        1: lambda: desk.log.feed(b"one\n"),
        2: lambda: desk.log.feed(b"two\n"),
        6: lambda: desk.courier.finish(LAST_WORD),
    }
    assert desk.courier.run()
    lines = desk.shipped().splitlines()
    assert [line for line in lines if not line.startswith("[spotrun]")] == ["one", "two"]
    assert sum("does not take our writes" in line for line in lines) == 1
    assert sum("is back" in line for line in lines) == 1


def test_a_chunk_whose_reply_was_lost_is_repeated_with_the_same_bytes(bell: Bell) -> None:
    """A reader that has seen chunk 0 must have seen all of it."""

    class LossyStore(FailingStore):
        def write(self, key: str, parts: Sequence[bytes | memoryview]) -> None:
            super().write(key, parts)
            if len(self.written) == 1:
                raise StoreUnavailable("written, but the reply was lost")

    log, store = OutputLog(), LossyStore()
    stream = Stream(log, PLACE.log)
    log.feed(b"one\n")
    with pytest.raises(StoreUnavailable):
        stream.ship(store)
    log.feed(b"two\n")
    assert stream.ship(store)
    assert [store.read(PLACE.log(number)) for number in (0, 1)] == [b"one\n", b"two\n"]


def test_the_lease_is_renewed_even_while_writes_fail(tmp_path: Path, bell: Bell) -> None:
    """Each part of a beat is tried on its own; a torn document leaves the last good one."""
    until = START + timedelta(hours=1)
    store = ScriptedStore({}, failures=4, where=PLACE.heartbeat)
    desk = Desk(tmp_path, store, bell)
    good = Control(attempt=3, lease_until=until).to_bytes()
    store.at_beat = {
        1: lambda: store.create(PLACE.control, good),
        2: lambda: store.write(PLACE.control, [b'{"attempt": 3, "lease']),
    }
    store.at_beat[3] = lambda: desk.courier.finish(LAST_WORD)
    assert desk.courier.run()
    assert desk.lease.until == until


def test_the_outcome_is_told_even_if_the_log_cannot_be(tmp_path: Path, bell: Bell) -> None:
    """Half of the time for finishing is kept for the exit record: without it the work would count as lost."""
    store = FailingStore(failures=10**9, where="/log/")
    desk = Desk(tmp_path, store, bell)
    desk.log.feed(b"lost\n")
    desk.courier.finish(LAST_WORD)
    assert desk.courier.run()
    assert desk.clock.elapsed_s >= 150
    assert store.written[-1] == PLACE.exit


def test_a_store_that_is_gone_for_good_does_not_keep_the_agent(tmp_path: Path, bell: Bell) -> None:
    """Finishing has a bound, and says that the exit record was not written."""
    desk = Desk(tmp_path, FailingStore(failures=10**9), bell)
    desk.courier.finish(LAST_WORD)
    assert not desk.courier.run()
    assert 300 <= desk.clock.elapsed_s < 400


def test_a_notice_is_in_the_next_heartbeat(tmp_path: Path, bell: Bell) -> None:
    """With the deadline that was taken."""
    desk = Desk(tmp_path, FailingStore(), bell)
    desk.notices.publish(START + timedelta(seconds=90))
    desk.notices.take(START)
    desk.courier.finish(LAST_WORD)
    desk.courier.run()
    assert desk.heartbeat().notice_deadline == START + timedelta(seconds=90)


def test_a_torn_progress_file_leaves_the_last_good_one(tmp_path: Path, bell: Bell) -> None:
    """The training may be killed in the middle of anything."""
    progress = Progress(phase=TrainingPhase.TRAINING, at=START, step=7)
    (tmp_path / "progress.json").write_bytes(progress.to_bytes())
    store = ScriptedStore({})
    desk = Desk(tmp_path, store, bell)
    store.at_beat = {
        2: lambda: (tmp_path / "progress.json").write_bytes(b'{"phase": "tr'),
        4: lambda: desk.courier.finish(LAST_WORD),
    }
    assert desk.courier.run()
    assert desk.heartbeat().progress == progress
