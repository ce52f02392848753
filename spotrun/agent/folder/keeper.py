"""While the command runs: looks at the folder, commits what is whole, and says so. In a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from signal import Signals

from spotrun.agent.bell import Bell
from spotrun.agent.config import AgentConfig, at_least
from spotrun.agent.folder.generation import Patience, Waiting, Watch, Whole, key_of
from spotrun.agent.folder.listing import Listing, scan
from spotrun.agent.folder.news import FolderNews, Newsroom
from spotrun.agent.folder.opening import OpenFolder, open_folder, too_many
from spotrun.agent.folder.step import numbered
from spotrun.agent.folder.upload import Abandoned, Changed
from spotrun.agent.folder.writing import open_for_writing
from spotrun.agent.log import OutputLog
from spotrun.clock import Clock
from spotrun.errors import CheckpointCorrupt, Fenced, SpotrunError, StoreError
from spotrun.job.message import Commit, TrainingPhase
from spotrun.job.spec import Checkpoint, Folder
from spotrun.policy.cadence import Cadence, FixedInterval, YoungDaly
from spotrun.store import BlobStore, CommitEntry, RetryingStore
from spotrun.units import format_bytes, format_duration

__all__ = ["FolderKeeper", "FolderNews"]

_QUIET_WALL_S = 0.5  # on a fast clock too: processes do not write faster
_LOOKS_PER_QUIET = 5
_LOOK_WALL_S = 0.05
_REST = 20  # between two looks, times the length of one: thousands of files must not cost the training a processor
_BLOCKED_QUIETS = 60  # so many quiet times without a whole look are worth a warning
_RETRY_S = 60.0  # job time after a failed commit
_RETRY_WALL_S = 1.0
_HURRIED_RETRY_S = 5.0
_VOIDS_TOLD = 5
_FINAL_TRIES = 5
_FINAL_PAUSE_S = 10.0


class FolderKeeper:
    """Keeps one folder over one attempt. `prepare`, `begin`, then `run` in a thread of its own, until `finish`.

    Attributes:
        fenced: set once another writer holds the run; nothing more is committed then.
        problem: why the last state of a command that succeeded is not committed; None if it is.
    """

    def __init__(
        self, config: AgentConfig, folder: Folder, *, store: BlobStore, clock: Clock, log: OutputLog, bell: Bell
    ) -> None:
        self._config = config
        self._folder = folder
        # The agent's own writes are tried anew at each beat; here it is better to wait for a store that is away.
        self._store = RetryingStore(store.inner) if isinstance(store, RetryingStore) else store
        self._clock = clock
        self._bell = bell
        self._newsroom = Newsroom(log)
        quiet_s = at_least(clock, folder.quiet.total_seconds(), _QUIET_WALL_S)
        self._patience = Patience(
            quiet_s, int(clock.wall(quiet_s) * 1e9), sees_writers=Path("/proc/self/fdinfo").is_dir()
        )
        self._period_s = at_least(clock, quiet_s / _LOOKS_PER_QUIET, _LOOK_WALL_S)
        self._cadence = _cadence(config)
        self._wake = threading.Event()
        self._clean: bool | None = None  # once the command is over: whether it succeeded
        self._deadline: datetime | None = None
        self._processes: Callable[[], Iterable[int]] = tuple
        self._open: OpenFolder | None = None
        self._watch: Watch | None = None
        self._whole: Whole | None = None  # the last look, if it was whole
        self._committed: Listing | None = None
        self._last_s = 0.0  # when the last commit began
        self._failed_s: float | None = None
        self._durable_s = 0.0
        self._scan_s = 0.0  # how long a look at the names takes
        self._complained_of = float("-inf")
        self._voids = 0  # generations in a row that changed while they were read
        self.fenced: SpotrunError | None = None
        self.problem: str | None = None

    @property
    def signal(self) -> Signals:
        """What the command is sent so that it saves."""
        return Signals[self._folder.signal]

    def news(self) -> FolderNews:
        """What is known now. From any thread."""
        return self._newsroom.news

    def prepare(self) -> None:
        """Claims and restores: see `open_folder`. Blocks for as long as that takes."""
        self._open = open_folder(self._config, self._folder, self._store, clock=self._clock, news=self._newsroom)
        self._committed = self._open.listing

    def begin(self, processes: Callable[[], Iterable[int]]) -> None:
        """The command was started; `processes` gives the ids of what it consists of."""
        assert self._open is not None
        self._processes = processes
        self._last_s = self._clock.monotonic()
        self._watch = Watch.begin(self._open.listing, self._open.rules, self._last_s)
        self._newsroom.set(phase=TrainingPhase.TRAINING, training_at=self._clock.now())

    def notice(self, deadline: datetime) -> None:
        """The machine may be gone then: from now on every whole generation is committed at once."""
        self._deadline = deadline
        self._wake.set()

    def finish(self, *, clean: bool) -> None:
        """The command and all it left behind is over; has `run` commit the last state and return.

        Args:
            clean: it succeeded, so that whatever is in the folder is finished.
        """
        self._newsroom.set(over_at=self._clock.now())
        self._clean = clean
        self._wake.set()

    def abandon(self) -> None:
        """Has whatever runs end soon, without another commit."""
        self._clean = False
        if self._open is not None:
            self._open.uploader.abandon()
        self._wake.set()

    def run(self) -> None:
        """Watches and commits until `finish` or `abandon`; then commits what was left."""
        assert self._open is not None
        try:
            while self._clean is None and self.fenced is None:
                self._look(self._open)
                self._wake.wait(self._clock.wall(max(self._period_s, _REST * self._scan_s)))
                self._wake.clear()
            if self._clean and self.fenced is None:
                self._commit_last(self._open)
            elif self._clean is False and self.fenced is None:
                self._commit_what_was_whole(self._open)
        finally:
            self._open.place.release()
            self._bell.ring()

    def _look(self, folder: OpenFolder) -> None:
        listing = self._scan(folder)
        if listing is None:
            return
        assert self._watch is not None
        now_s = self._clock.monotonic()
        seen = (self._watch.changed_s, self._watch.seen)
        after, verdict = self._judge(folder, listing, now_s, frozenset())
        if isinstance(verdict, Whole):  # only now: it costs a look at every descriptor of every process
            after, verdict = self._judge(folder, listing, now_s, open_for_writing(folder.place.path, self._processes()))
        self._watch = after
        if (after.changed_s, after.seen) != seen:
            self._newsroom.moved()
        self._whole = verdict if isinstance(verdict, Whole) else None
        if isinstance(verdict, Waiting):
            self._complain(verdict, now_s)
        elif verdict.key != self._key_committed(folder) and self._is_due():
            self._commit(folder, verdict)

    def _judge(
        self, folder: OpenFolder, listing: Listing, now_s: float, writing: frozenset[str]
    ) -> tuple[Watch, Whole | Waiting]:
        assert self._watch is not None
        return self._watch.look(listing, folder.rules, now_s=now_s, writing=writing, patience=self._patience)

    def _scan(self, folder: OpenFolder) -> Listing | None:
        began_s = self._clock.monotonic()
        try:
            listing = scan(folder.place.path, folder.rules)
            self._scan_s = self._clock.monotonic() - began_s
        except OSError as err:
            self._newsroom.warn(f"the folder {folder.place.path} cannot be read, nothing is committed: {err.strerror}")
            return None
        if listing.excess:
            self._newsroom.warn(too_many(folder.place))
        for path, why in list(listing.left_out.items())[:_LEFT_OUT_TOLD]:
            self._newsroom.warn(f"{path} is not committed: it {why}")
        return listing

    def _complain(self, waiting: Waiting, now_s: float) -> None:
        blocked_s = now_s - waiting.since_s
        if waiting.usual or waiting.since_s == self._complained_of:
            return
        if blocked_s >= _BLOCKED_QUIETS * self._patience.quiet_s:
            self._complained_of = waiting.since_s  # once each time
            self._newsroom.warn(
                f"nothing of the folder could be committed for {format_duration(timedelta(seconds=blocked_s))}: "
                f"{waiting.why}. If that goes on for ever, name such files under checkpoint.folder.growing or ignore; if the "
                "script saves all the time, give checkpoint.folder a shorter quiet time or a done pattern"
            )

    def _key_committed(self, folder: OpenFolder) -> object:
        return None if self._committed is None else key_of(self._committed, folder.rules)

    def _is_due(self) -> bool:
        now_s = self._clock.monotonic()
        retry_s = _HURRIED_RETRY_S if self._is_hurried else at_least(self._clock, _RETRY_S, _RETRY_WALL_S)
        if self._failed_s is not None and now_s - self._failed_s < retry_s:
            return False
        if self._is_hurried:
            return True
        return self._cadence.due(now_s=now_s, last_save_s=self._last_s, stall_s=0.0, durable_s=self._durable_s)

    @property
    def _is_hurried(self) -> bool:
        return self._deadline is not None and self._clock.now() < self._deadline

    def _commit(self, folder: OpenFolder, whole: Whole) -> bool:
        """Tells whether it is committed."""
        began_s, hurried = self._clock.monotonic(), self._is_hurried
        try:
            stored = folder.uploader.store(whole.listing, urgent=hurried or self._clean is not None)
        except Changed as err:
            self._voids += 1
            if self._voids == _VOIDS_TOLD:
                self._newsroom.warn(f"the folder could not be committed {_VOIDS_TOLD} times in a row: {err}")
            return False  # void; the next look sees what changed
        except Abandoned:
            return False
        except (StoreError, CheckpointCorrupt) as err:
            return self._failed(err)
        step = numbered(whole.listing, folder.custody.last_step)
        captured_at = self._clock.now() - timedelta(seconds=max(0.0, self._clock.monotonic() - whole.changed_s))
        captured_at = max(captured_at, self._newsroom.news.training_at or captured_at)
        try:
            entry = folder.custody.commit(
                stored, step=step, captured_at=captured_at, deadline=self._deadline, on_notice=hurried
            )
        except (Fenced, CheckpointCorrupt) as err:
            if isinstance(err, Fenced) or err.key.startswith("log/"):
                self._fence(err)
                return False
            folder.uploader.doubtful(all_of_it=True)
            return self._failed(err)
        except StoreError as err:
            folder.uploader.doubtful()
            return self._failed(err)
        folder.uploader.committed(stored)
        self._voids = 0
        self._last_s, self._failed_s = began_s, None
        self._durable_s = self._clock.monotonic() - began_s
        self._committed = whole.listing
        assert self._watch is not None
        self._watch = self._watch.taken(whole, folder.rules)
        self._tell_commit(entry, captured_at, stored.new_bytes)
        if not hurried:  # then every second counts; the next commit prunes
            self._prune(folder)
        return True

    def _tell_commit(self, entry: CommitEntry, captured_at: datetime, new_bytes: int) -> None:
        deadline = self._deadline if entry.on_notice else None
        margin_s = None if deadline is None else (deadline - self._clock.now()).total_seconds()
        commit = Commit(
            step=entry.step,
            at=entry.at,
            captured_at=captured_at,
            size_bytes=entry.size,
            new_bytes=new_bytes,
            on_notice=entry.on_notice,
            margin_s=margin_s,
        )
        told = self._newsroom.news
        self._newsroom.set(step=entry.step, commits=told.commits + 1, last_commit=commit)
        took = format_duration(timedelta(seconds=self._durable_s))
        margin = "" if margin_s is None else f", {format_duration(timedelta(seconds=margin_s))} before the deadline"
        self._newsroom.say(
            f"committed the folder as step {entry.step}: {format_bytes(entry.size)}, {format_bytes(new_bytes)} of it new, "
            f"in {took}{margin}"
        )
        self._bell.ring()

    def _prune(self, folder: OpenFolder) -> None:
        try:
            folder.custody.prune()
        except SpotrunError as err:
            self._newsroom.warn(f"old checkpoints could not be removed: {err}")

    def _failed(self, err: SpotrunError) -> bool:
        self._failed_s = self._clock.monotonic()
        last = self._newsroom.news.step
        self._newsroom.warn(
            f"the folder could not be committed: {err} (the last commit is of step {last}); it is tried again"
        )
        return False

    def _fence(self, err: SpotrunError) -> None:
        self.fenced = err
        self._newsroom.warn(str(err))
        self._bell.ring()

    def _commit_last(self, folder: OpenFolder) -> None:
        """The command succeeded: what it left is its result, however new it is."""
        for turn in range(_FINAL_TRIES):
            listing = self._scan(folder)
            if listing is not None and not listing.excess:
                if self._committed is not None and _content(listing) == _content(self._committed):
                    self._newsroom.set(phase=TrainingPhase.DONE)
                    return
                whole = Whole(listing, key_of(listing, folder.rules), self._clock.monotonic())
                if self._commit(folder, whole):
                    self._newsroom.set(phase=TrainingPhase.DONE)
                    return
            if self.fenced is not None or folder.uploader.is_abandoned:
                return
            if turn < _FINAL_TRIES - 1:
                self._clock.sleep(at_least(self._clock, _FINAL_PAUSE_S, 0.1))
        self.problem = f"what the command left in {folder.place.path} could not be committed in {_FINAL_TRIES} tries"

    def _commit_what_was_whole(self, folder: OpenFolder) -> None:
        """The command failed, perhaps in the middle of a file: what the last look found whole, if it is still that."""
        listing = self._scan(folder)
        if listing is None or listing.excess or key_of(listing, folder.rules) == self._key_committed(folder):
            return
        if self._whole is not None and self._whole.key == key_of(listing, folder.rules):
            self._commit(folder, replace(self._whole, listing=listing))
        else:
            self._newsroom.say(
                "the command was writing to its folder when it ended; that is not committed, the commit of step "
                f"{self._newsroom.news.step} stands"
            )


_LEFT_OUT_TOLD = 5  # names in the log; the rest is alike


def _content(listing: Listing) -> object:
    files = {path: (file.signature, file.mode) for path, file in listing.files.items()}
    return files, listing.links, set(listing.directories)


def _cadence(config: AgentConfig) -> Cadence:
    checkpoint: Checkpoint | None = config.spec.checkpoint
    if checkpoint is not None and isinstance(checkpoint.interval, timedelta):
        return FixedInterval(checkpoint.interval.total_seconds())
    return YoungDaly()
