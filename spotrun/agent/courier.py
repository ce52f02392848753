"""Everything that goes between the agent and the store, in one thread: beats, then the last word.

A beat writes the heartbeat, reads the control document, and ships what is new of log and metrics. Each of these is
tried on its own; what fails is tried again at the next beat. A chunk is frozen before its first try, so a try whose
reply was lost is repeated with the same bytes: a reader that has seen chunk n has seen all of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from spotrun.agent.config import AgentConfig, at_least
from spotrun.agent.lease import Lease
from spotrun.agent.log import OutputLog
from spotrun.agent.mailbox import Mailbox
from spotrun.agent.metric import MetricTail
from spotrun.agent.notice import NoticeBoard
from spotrun.agent.observation import Observation
from spotrun.clock import Clock
from spotrun.errors import StoreError, StoreMissing
from spotrun.job.message import Control, Exit, Heartbeat, Place, parse
from spotrun.store.blob import BlobStore
from spotrun.units import format_duration

__all__ = ["Courier", "Stream"]

_CHUNKS_PER_BEAT_MAX = 32  # a flood of output must not hold up the next heartbeat


class Source(Protocol):
    """Something whose bytes are shipped in chunks."""

    def take(self) -> bytes:
        """The next chunk, which is then forgotten here; empty when there is no news."""


class Stream:
    """Ships a source as numbered chunks, from 0 without gaps."""

    def __init__(
        self, source: Source, key: Callable[[int], str], *, confirm: Callable[[], None] = lambda: None
    ) -> None:
        self._source = source
        self._key = key
        self._confirm = confirm  # called once what was taken is in the store
        self._number = 0
        self._unsent = b""

    def ship(self, store: BlobStore) -> bool:
        """Writes what is new; tells whether nothing is left. Raises StoreError and keeps what was not written."""
        for _ in range(_CHUNKS_PER_BEAT_MAX):
            self._unsent = self._unsent or self._source.take()
            if not self._unsent:
                return True
            store.write(self._key(self._number), [self._unsent])
            self._number += 1
            self._unsent = b""
            self._confirm()
        return False


class Courier:
    """Runs until `finish` is called and done. `uploading` is what the heartbeat says of the outputs, `observation` what
    it says of the command, `recommended_at` when the provider recommended to leave the machine."""

    def __init__(
        self,
        config: AgentConfig,
        *,
        store: BlobStore,
        clock: Clock,
        log: OutputLog,
        lease: Lease,
        notices: NoticeBoard,
    ) -> None:
        self._config = config
        self._store = store
        self._clock = clock
        self._log = log
        self._lease = lease
        self._notices = notices
        self._place = Place(config.attempt, node=config.node)
        self.observation = Observation(config, clock=clock, log=log)
        metrics = MetricTail(Mailbox(config.scratch).metrics)
        self._streams = (
            Stream(log, self._place.log),
            Stream(metrics, self._place.metrics, confirm=metrics.confirm),
        )
        self._period_s = at_least(clock, config.timing.beat_s, config.timing.beat_wall_s)
        self._changed = threading.Condition()
        self._urgent = False
        self._exit: Exit | None = None
        self._beat = 0
        self._failing_since: datetime | None = None
        self.uploading = False
        self.recommended_at: datetime | None = None

    def run(self) -> bool:
        """Beats, then finishes; for a thread of its own. Tells whether the exit record was written."""
        while self._exit is None:
            due_s = self._clock.monotonic() + self._period_s
            self._do_beat()
            self._wait_until(due_s)
        return self._do_finish(self._exit)

    def beat_now(self) -> None:
        """Has the next beat come at once: there is urgent news."""
        with self._changed:
            self._urgent = True
            self._changed.notify()

    def finish(self, last_word: Exit) -> None:
        """Has `run` ship what is left and then write the exit record."""
        with self._changed:
            self._exit = last_word
            self._changed.notify()

    def _wait_until(self, due_s: float) -> None:
        with self._changed:
            while not self._urgent and self._exit is None:
                left_s = due_s - self._clock.monotonic()
                if left_s <= 0:
                    break
                self._changed.wait(self._clock.wall(left_s))
            self._urgent = False

    def _do_beat(self) -> bool:
        """Tells whether everything was written."""
        written = True
        failure: StoreError | None = None
        for step in (self._write_heartbeat, self._read_control, *(self._shipping(stream) for stream in self._streams)):
            try:
                written = step() and written
            except StoreError as err:
                failure = failure or err
        said = self._tell_outage(failure)
        return written and failure is None and not said  # what was said is news for the log

    def _do_finish(self, last_word: Exit) -> bool:
        timing = self._config.timing
        finish_s = at_least(self._clock, timing.finish_s, timing.finish_wall_s)
        started_s = self._clock.monotonic()
        while True:
            due_s = self._clock.monotonic() + self._period_s
            shipped = self._do_beat()
            spent_s = self._clock.monotonic() - started_s
            # The outcome matters more than the last lines of the log: half of the time is kept for it alone.
            if (shipped or spent_s > finish_s / 2) and self._write_exit(last_word):
                return True
            if spent_s > finish_s:
                return False
            self._clock.sleep(due_s - self._clock.monotonic())

    def _write_exit(self, last_word: Exit) -> bool:
        try:
            self._store.write(self._place.exit, [last_word.to_bytes()])
        except StoreError as err:
            self._tell_outage(err)
            return False
        return True

    def _write_heartbeat(self) -> bool:
        self._beat += 1
        heartbeat = Heartbeat(
            attempt=self._config.attempt,
            beat=self._beat,
            at=self._clock.now(),
            uploading=self.uploading,
            notice_deadline=self._notices.deadline,
            recommended_at=self.recommended_at,
            progress=self.observation.progress(),
        )
        self._store.write(self._place.heartbeat, [heartbeat.to_bytes()])
        return True

    def _read_control(self) -> bool:
        try:
            data = self._store.read(self._place.control)
        except StoreMissing:
            return True  # the controller has not spoken yet
        control = parse(Control, data)
        if control is not None:  # a torn one is as good as none: the last good one holds
            self._lease.renew(control)
        return True

    def _shipping(self, stream: Stream) -> Callable[[], bool]:
        return lambda: stream.ship(self._store)

    def _tell_outage(self, failure: StoreError | None) -> bool:
        """Says when an outage begins and ends; tells whether it said something."""
        if failure is not None and self._failing_since is None:
            self._failing_since = self._clock.now()
            self._log.say(f"the store does not take our writes, the training goes on: {failure}")
            return True
        if failure is None and self._failing_since is not None:
            away = self._clock.now() - self._failing_since
            self._failing_since = None
            self._log.say(f"the store is back after {format_duration(away)}; what was held back follows")
            return True
        return False
