"""Before the command starts: the folder is taken, the run is claimed, and the folder is made what was committed last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from spotrun.agent.config import AgentConfig, at_least
from spotrun.agent.folder.custody import Commitment, Custody
from spotrun.agent.folder.listing import FILES_MAX, Listing, scan
from spotrun.agent.folder.news import Newsroom
from spotrun.agent.folder.place import FolderPlace, find_place
from spotrun.agent.folder.restore import Restoration
from spotrun.agent.folder.rule import Rules
from spotrun.agent.folder.step import numbered
from spotrun.agent.folder.upload import Uploader
from spotrun.clock import Clock
from spotrun.errors import SpecError, StoreUnavailable
from spotrun.job.message import TrainingPhase
from spotrun.job.spec import Folder
from spotrun.store import BlobRef, BlobStore
from spotrun.units import format_bytes

__all__ = ["OpenFolder", "open_folder", "too_many"]

_T = TypeVar("_T")

_TRIES_S = 600.0  # an outage of a store is over in minutes; until then the machine waits, and says so
_TRIES_WALL_S = 30.0
_PAUSE_S = 10.0
_TOLD_FROM_BYTES = 1 << 30  # of a restore; less takes seconds
_LISTED_MAX = 5  # names in a sentence


@dataclass(frozen=True, slots=True)
class OpenFolder:
    """A folder that is what the newest commit says, and ours to commit.

    Attributes:
        listing: what is in it.
        committed: whether that is what the newest commit holds.
    """

    place: FolderPlace
    rules: Rules
    custody: Custody
    uploader: Uploader
    listing: Listing
    committed: bool


def open_folder(config: AgentConfig, folder: Folder, store: BlobStore, *, clock: Clock, news: Newsroom) -> OpenFolder:
    """Takes the folder, claims the run and restores its newest whole commit. Without one, what is there becomes the
    first commit, so that whatever an attempt starts from is a commit.

    Raises:
        SpecError: the folder is where it may not be, or cannot be written.
        Fenced: a newer attempt holds the run.
        CheckpointError: there are commits, but none can be restored.
        StoreError: the store failed for long.
    """
    news.set(phase=TrainingPhase.RESTORING, attached_at=clock.now())
    rules = Rules.of(folder)
    place = find_place(config.work_directory, folder.path, config.place_uri, clock=clock)
    custody = Custody(config, store, clock=clock, say=news.warn)
    persistent = _Persistence(config, clock, news)
    try:
        persistent.try_to(custody.claim)
        restored = persistent.try_to(lambda: _restore(config, store, place, rules, custody=custody, news=news))
    except BaseException:
        place.release()
        raise
    listing = _look(place, rules)
    uploader = Uploader(store, place.path, rules, attempt=int(config.attempt), known=restored)
    if restored is None:
        persistent.try_to(lambda: _commit_first(custody, uploader, listing, clock=clock, news=news))
    return OpenFolder(place, rules, custody, uploader, listing, True)


def too_many(place: FolderPlace) -> str:
    """What is wrong with a folder with very many files, and what to do."""
    return (
        f"the folder {place.path} holds more than {FILES_MAX} files, which is no checkpoint: nothing of it is committed. Put "
        "data sets and caches elsewhere, or name them under checkpoint.folder.ignore"
    )


def _look(place: FolderPlace, rules: Rules) -> Listing:
    try:
        listing = scan(place.path, rules)
    except OSError as err:
        raise SpecError(f"checkpoint.folder: {place.path} cannot be read: {err.strerror}") from err
    if listing.excess:
        raise SpecError(f"checkpoint.folder: {too_many(place)}")
    return listing


def _restore(
    config: AgentConfig, store: BlobStore, place: FolderPlace, rules: Rules, *, custody: Custody, news: Newsroom
) -> dict[str, BlobRef] | None:
    """The blobs that need not be stored again; None if there is no commit."""
    told = _Told(news)
    aside = config.work_directory / ".spotrun" / "aside" / config.job_id / f"attempt-{int(config.attempt):06d}"
    restoration = Restoration(store, place.path, rules, aside=aside, progress=told.more)

    def fetch(found: Commitment) -> None:
        told.begin(found)
        restoration.fetch(found.manifest, found.record)

    found = custody.newest(fetch)
    if found is None:
        return None
    restoration.place(found.record)
    step, files = found.entry.step, len(found.record.files)
    kept = f", {restoration.kept} of which were there already" if restoration.kept else ""
    news.set(step=step, resumed_from=step)
    news.say(
        f"restored {place.path} as of step {step}, committed by attempt {found.entry.attempt}: "
        f"{format_bytes(found.record.size)}, files: {files}{kept}"
    )
    if restoration.moved:
        news.say(f"what is not in that commit was moved to {aside}: {_listed(restoration.moved)}")
    # What was there already was not read from the store: whether it is still right there, nobody knows.
    return restoration.found_right if custody.follows(found) else {}


def _commit_first(custody: Custody, uploader: Uploader, listing: Listing, *, clock: Clock, news: Newsroom) -> None:
    stored = uploader.store(listing, urgent=True)
    step = numbered(listing, None)
    entry = custody.commit(stored, step=step, captured_at=clock.now(), on_notice=False)
    uploader.committed(stored)
    news.set(step=entry.step)
    if listing.files:
        news.say(
            f"the folder is not empty; what is in it is committed as step {entry.step}: {_listed([*listing.files])}"
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED_MAX} more" if len(names) > _LISTED_MAX else ""
    return ", ".join(names[:_LISTED_MAX]) + more


class _Told:
    """Tells how far a restore is, now and then."""

    def __init__(self, news: Newsroom) -> None:
        self._news = news
        self._size = 0
        self._done = 0
        self._next = 0

    def begin(self, found: Commitment) -> None:
        self._size, self._done = found.record.size, 0
        self._next = self._size // 10
        self._news.say(f"restoring step {found.entry.step}: {format_bytes(self._size)}")

    def more(self, count: int) -> None:
        self._done += count
        self._news.moved()
        if self._done >= self._next and self._size > _TOLD_FROM_BYTES:
            self._next = self._done + self._size // 10
            self._news.say(f"restored {format_bytes(self._done)} of {format_bytes(self._size)}")


class _Persistence:
    """Repeats what a store that is away for a while would not do."""

    def __init__(self, config: AgentConfig, clock: Clock, news: Newsroom) -> None:
        self._clock = clock
        self._news = news
        self._until_s = clock.monotonic() + at_least(clock, _TRIES_S, _TRIES_WALL_S)
        self._attempt = config.attempt

    def try_to(self, action: Callable[[], _T]) -> _T:
        while True:
            try:
                return action()
            except StoreUnavailable as err:
                if self._clock.monotonic() >= self._until_s:
                    raise
                self._news.warn(f"the store is away, the command waits for its folder: {err}")
                self._clock.sleep(at_least(self._clock, _PAUSE_S, 0.2))
