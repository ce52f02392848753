"""The other machines of an attempt, as their heartbeats and exit records show them."""

from __future__ import annotations

import threading

from spotrun.agent.bell import Bell
from spotrun.agent.config import AgentConfig, at_least
from spotrun.agent.gang import Gang
from spotrun.agent.notice import NoticeBoard
from spotrun.clock import Clock
from spotrun.errors import StoreError, StoreMissing
from spotrun.job.message import Exit, Heartbeat, Place, parse
from spotrun.store.blob import BlobStore

__all__ = ["PeerWatch"]

_BEATS = 6.0  # that a lost machine has missed; a store that is slow costs one or two


class PeerWatch:
    """Looks at the others at every beat, until told to stop; each look rings the bell.

    Attributes:
        exits: last words, by rank.
        noticed: whether one of them had a notice.
    """

    def __init__(
        self, config: AgentConfig, gang: Gang, *, store: BlobStore, clock: Clock, notices: NoticeBoard, bell: Bell
    ) -> None:
        self._leads = gang.leads
        self._store = store
        self._clock = clock
        self._notices = notices
        self._bell = bell
        self._period_s = at_least(clock, config.timing.beat_s, config.timing.beat_wall_s)
        others = [rank for rank in range(len(gang.members)) if rank != gang.rank]
        self._places = {rank: Place(config.attempt, node=rank) for rank in others}
        self._beats: dict[int, int] = {}
        self._changed_s = dict.fromkeys(others, clock.monotonic())
        self._stopped = threading.Event()
        self.exits: dict[int, Exit] = {}
        self.noticed = False

    @property
    def silence_s(self) -> float:
        """How long a machine must be silent to count as lost."""
        return self._period_s * _BEATS

    def run(self) -> None:
        """Watches until `stop`; for a thread of its own."""
        while not self._stopped.is_set():
            for rank, place in self._places.items():
                self._look(rank, place)
            self._bell.ring()
            self._stopped.wait(self._clock.wall(self._period_s))

    def stop(self) -> None:
        """Ends `run` within one look."""
        self._stopped.set()

    def lost(self) -> list[int]:
        """The machines that have been silent for too long without having said their last word."""
        now_s = self._clock.monotonic()
        return [
            rank
            for rank, since_s in self._changed_s.items()
            if now_s - since_s > self.silence_s and rank not in self.exits
        ]

    def _look(self, rank: int, place: Place) -> None:
        try:
            self._hear(rank, parse(Heartbeat, self._store.read(place.heartbeat)))
            last_word = parse(Exit, self._store.read(place.exit))
            if last_word is not None:
                self.exits[rank] = last_word
        except StoreMissing:
            return
        except StoreError:
            self._changed_s[rank] = self._clock.monotonic()  # nothing is known of anybody while the store is away

    def _hear(self, rank: int, beat: Heartbeat | None) -> None:
        if beat is None:
            return
        if beat.beat != self._beats.get(rank):
            self._beats[rank] = beat.beat
            self._changed_s[rank] = self._clock.monotonic()
        if beat.notice_deadline is not None:
            self.noticed = True
            if self._leads:  # the process that hears requests is here
                self._notices.publish(beat.notice_deadline)
